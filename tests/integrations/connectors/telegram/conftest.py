import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer

from app.integrations.connectors.telegram.connector import TelegramConnector
from app.integrations.connectors.telegram.schemas import TelegramSettings
from app.integrations.connectors.telegram.twin import TelegramTwin, TelegramTwinSettings
from app.integrations.http import ConnectorHttp
from app.integrations.twin import running

HERE = Path(__file__).parent
TOKEN = "700111222:AAplantedBotTokenValue_x-y"
USER = 1001


@dataclass
class Stage:
    """A running twin and what talks to it."""

    twin: TelegramTwin
    url: str

    async def do(self, control: str, **order: Any) -> dict[str, Any]:
        return await self.twin.control(control, order)

    async def chat(self, chat_id: int = USER) -> list[dict[str, Any]]:
        return (await self.do("chat", chat_id=chat_id))["messages"]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    twin = TelegramTwin(TelegramTwinSettings(retry_delays=[0.02]))
    async with running(twin) as url:
        yield Stage(twin, url)


@pytest.fixture
async def bot(stage: Stage) -> AsyncIterator[Bot]:
    """A bot of aiogram, which knows nothing of us, in a chat with a user."""
    session = AiohttpSession(api=TelegramAPIServer.from_base(stage.url))
    bot = Bot(TOKEN, session=session)
    await bot.get_me()
    await stage.do("say", text="hello")
    await bot.get_updates(offset=-1)
    yield bot
    await session.close()


Connect = Callable[..., TelegramConnector]


@pytest.fixture
async def connect(stage: Stage) -> AsyncIterator[Connect]:
    """Makes connectors that talk to the twin."""
    http = ConnectorHttp()

    def make(token: str = TOKEN, **settings: Any) -> TelegramConnector:
        settings = {"base_url": stage.url, "poll_timeout": 0, **settings}
        return TelegramConnector(token, TelegramSettings(**settings), http)

    yield make
    await http.aclose()


@pytest.fixture(scope="session")
def api() -> dict[str, Any]:
    """Methods and types of the Bot API 10.1 by name, each with its fields."""
    return json.loads((HERE / "bot_api_10_1.json").read_text())


def fixture_names() -> list[str]:
    return sorted(path.stem for path in (HERE / "fixtures").glob("*.json"))


@pytest.fixture(params=fixture_names())
def fixture(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event type that a fixture is named after, and its update."""
    update = json.loads((HERE / "fixtures" / f"{request.param}.json").read_text())
    return request.param.split("__")[0], update
