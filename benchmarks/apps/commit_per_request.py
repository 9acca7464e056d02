"""The application as teams usually write it: FastAPI, a model, a session per request, one commit each.

It does not verify signatures and does not deduplicate, which is in its favour.
"""

import os
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import Session, sessionmaker

from .messages import Base, Stored, Webhook, message_of


def make_engine(path: str) -> Engine:
    engine = create_engine(f"sqlite:///{path}")

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA busy_timeout = 30000")

    return engine


engine = make_engine(os.environ["BENCHMARK_DATABASE"])
Base.metadata.create_all(engine)
# Without expiry the connection goes back to the pool with the commit, and no second query reads the row.
new_session = sessionmaker(engine, expire_on_commit=False)
app = FastAPI()


def session() -> Iterator[Session]:
    with new_session() as opened:
        yield opened


@app.post("/webhooks")
def receive(webhook: Webhook, session: Annotated[Session, Depends(session)]) -> Stored:
    message = message_of(webhook)
    session.add(message)
    session.commit()
    return Stored(id=message.id)
