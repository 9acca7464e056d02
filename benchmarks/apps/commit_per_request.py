"""The application as teams usually write it: FastAPI, a model, a session per request, one commit each.

It does not verify signatures and does not deduplicate, which is in its favour.
"""

import os
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy import JSON, Engine, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker


class Sender(BaseModel):
    id: int
    name: str
    locale: str
    is_bot: bool


class Channel(BaseModel):
    id: str
    kind: str
    title: str
    members: int


class Attachment(BaseModel):
    id: int
    kind: str
    name: str
    bytes: int


class Webhook(BaseModel):
    id: str
    type: str
    sent_at: str
    sender: Sender
    channel: Channel
    text: str
    tags: list[str]
    attachments: list[Attachment]
    metrics: dict[str, float]


class Stored(BaseModel):
    id: int


class Base(DeclarativeBase):
    pass


class Message(Base):
    __tablename__ = "messages"

    id: Mapped[int] = mapped_column(primary_key=True)
    external_id: Mapped[str] = mapped_column(index=True)
    type: Mapped[str]
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)


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
    message = Message(external_id=webhook.id, type=webhook.type, payload=webhook.model_dump())
    session.add(message)
    session.commit()
    return Stored(id=message.id)
