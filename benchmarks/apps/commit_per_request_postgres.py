"""The application as teams usually write it, on PostgreSQL: the same, with an asynchronous session."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from .messages import Base, Stored, Webhook, message_of

url = os.environ["BENCHMARK_DATABASE"].partition("?")[0].replace("postgresql:", "postgresql+asyncpg:", 1)
engine = create_async_engine(url, connect_args={"ssl": False})
new_session = async_sessionmaker(engine, expire_on_commit=False)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield


app = FastAPI(lifespan=lifespan)


async def session() -> AsyncIterator[AsyncSession]:
    async with new_session() as opened:
        yield opened


@app.post("/webhooks")
async def receive(webhook: Webhook, session: Annotated[AsyncSession, Depends(session)]) -> Stored:
    message = message_of(webhook)
    session.add(message)
    await session.commit()
    return Stored(id=message.id)
