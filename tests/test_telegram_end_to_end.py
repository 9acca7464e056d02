"""Telegram from end to end: a person writes to the bot at the twin, the platform hears of it and answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.integrations.connectors.telegram.connector import TelegramConnector
from app.integrations.connectors.telegram.twin import Bot, TelegramTwin, TelegramTwinSettings
from app.integrations.twin import running
from tests.support.platform import Running, eventually, running_platform
from tests.support.process import connect, platform_process, walk

pytestmark = pytest.mark.usefixtures("every_storage")

BOT = 700111222
TOKEN = f"{BOT}:AAthisIsTheBotTokenOfTheTests"
USER = 1001
SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"


class Telegram:
    """The twin as seen by its users, and from behind the scenes."""

    def __init__(self, twin: TelegramTwin, url: str, client: httpx2.AsyncClient) -> None:
        self.twin = twin
        self.url = url
        self._client = client

    async def do(self, control: str, **order: Any) -> Any:
        """Gives an order by the public door."""
        answer = await self._client.post(f"/_twin/{control}", json=order)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def call(self, method: str, **params: Any) -> Any:
        """Calls the Bot API as another program with the same token would."""
        answer = await self._client.post(f"/bot{TOKEN}/{method}", json=params)
        return answer.json()["result"]

    async def texts(self, *, by_bot: bool) -> list[str]:
        shown = await self.do("chat", chat_id=USER)
        return [m["message"]["text"] for m in shown["messages"] if m["by_bot"] is by_bot]

    @property
    def bot(self) -> Bot:
        return self.twin.bots[BOT]

    @property
    def webhook_url(self) -> str | None:
        return self.bot.webhook.url if self.bot.webhook else None

    async def told(self, url: str | None) -> None:
        """Waits until it sends webhooks to `url`."""
        await eventually(lambda: asyncio.sleep(0, self.webhook_url), lambda known: known == url)


@pytest.fixture
async def telegram() -> AsyncIterator[Telegram]:
    twin = TelegramTwin(TelegramTwinSettings(tokens=[TOKEN], retry_delays=[0.05]))
    async with running(twin) as url, httpx2.AsyncClient(base_url=url, trust_env=False) as client:
        yield Telegram(twin, url, client)


@contextlib.asynccontextmanager
async def stage(
    folder: Path, telegram: Telegram, *, webhook: bool, **settings: Any
) -> AsyncIterator[tuple[Running, dict[str, Any]]]:
    """A platform with a connected bot, ready to hear of messages."""
    public = {"public_url": True} if webhook else {}
    async with running_platform(folder, TelegramConnector, **public) as it:
        made = await it.connect(
            "telegram",
            secrets={"bot_token": TOKEN},
            settings={"base_url": telegram.url, "poll_timeout": 5, **settings},
        )
        if webhook:
            await telegram.told(made["webhook_url"])
        yield it, made


both_ways = pytest.mark.parametrize("webhook", [True, False], ids=["webhook", "polling"])


def texts(events: list[dict[str, Any]]) -> list[str]:
    return [event["payload"]["text"] for event in events]


async def registered(it: Running, connection: str) -> None:
    async def state() -> str:
        return (await it.get(f"/api/v1/connections/{connection}"))["registration"]["state"]

    await eventually(state, lambda s: s == "done")


@both_ways
async def test_hello_is_heard_and_answered(tmp_path: Path, telegram: Telegram, webhook: bool) -> None:
    async with stage(tmp_path, telegram, webhook=webhook) as (it, made):
        await telegram.do("say", text="hello", user_id=USER)
        [event] = await it.feed_of(1)
        assert event["type"] == "telegram.message.received"
        assert (event["payload"]["text"], event["payload"]["chat_id"]) == ("hello", str(USER))
        reply = {"chat_id": event["payload"]["chat_id"], "text": "hello yourself"}
        action = await it.act(made["id"], "send_message", reply)
        assert action["state"] == "succeeded"
        assert await telegram.texts(by_bot=True) == ["hello yourself"]
        [stored] = await it.webhooks()
        assert stored["source"] == ("webhook" if webhook else "poll")


@both_ways
async def test_what_comes_twice_is_one_event(tmp_path: Path, telegram: Telegram, webhook: bool) -> None:
    async with stage(tmp_path, telegram, webhook=webhook) as (it, _):
        on = "webhook" if webhook else "getUpdates"
        await telegram.do("fault", kind="duplicate", on=on, count=5)
        for text in ("one", "two", "three"):
            await telegram.do("say", text=text, user_id=USER)
        await it.feed_of(3)
        await eventually(it.webhooks, lambda stored: len(stored) > 3)
        await it.settled()
        assert texts(await it.feed()) == ["one", "two", "three"]


async def test_a_forged_webhook_is_refused_and_listed(tmp_path: Path, telegram: Telegram) -> None:
    async with stage(tmp_path, telegram, webhook=True) as (it, made):
        assert telegram.bot.webhook
        genuine = telegram.bot.webhook.secret_token
        assert len(genuine) >= 32
        message = {"message_id": 1, "date": 1, "chat": {"id": USER, "type": "private"}, "text": "forged"}
        update = {"update_id": 1, "message": message}
        for headers, code in (
            ({}, "header_missing"),
            ({SECRET_HEADER: "x" + genuine[1:] if genuine[0] != "x" else "y" + genuine[1:]}, "token_differs"),
        ):
            answer = await it.client.post(made["webhook_url"], json=update, headers=headers)
            assert answer.status_code == 401
            refusals = await it.get(f"/api/v1/connections/{made['id']}/refusals")
            assert refusals["items"][0]["code"] == code
        assert await it.webhooks() == []
        answer = await it.client.post(made["webhook_url"], json=update, headers={SECRET_HEADER: genuine})
        assert answer.status_code == 200
        assert texts(await it.feed_of(1)) == ["forged"]


async def test_a_new_url_and_a_new_secret_are_told_to_telegram(tmp_path: Path, telegram: Telegram) -> None:
    async with stage(tmp_path, telegram, webhook=True) as (it, made):
        path = f"/api/v1/connections/{made['id']}"
        rotated = (await it.client.post(f"{path}/rotate-url", json={"keep_previous_for": 0})).json()
        assert rotated["webhook_url"] != made["webhook_url"]
        await telegram.told(rotated["webhook_url"])
        await telegram.do("say", text="to the new url", user_id=USER)
        assert texts(await it.feed_of(1)) == ["to the new url"]

        change = {"secrets": {"webhook_secret": "a_new-secret"}, "keep_previous_for": 60}
        assert (await it.client.put(f"{path}/secrets", json=change)).status_code == 200

        async def secret() -> str:
            return telegram.bot.webhook.secret_token if telegram.bot.webhook else ""

        await eventually(secret, lambda known: known == "a_new-secret")
        await telegram.do("say", text="with the new secret", user_id=USER)
        assert texts(await it.feed_of(2)) == ["to the new url", "with the new secret"]
        refusals = await it.get(f"{path}/refusals")
        assert refusals["items"] == []


async def test_a_deleted_connection_is_taken_back_at_telegram(tmp_path: Path, telegram: Telegram) -> None:
    async with stage(tmp_path, telegram, webhook=True) as (it, made):
        assert (await it.client.delete(f"/api/v1/connections/{made['id']}")).status_code == 204
        await telegram.told(None)
        answer = await it.client.post(made["webhook_url"], json={})
        assert answer.status_code == 404


async def test_another_public_url_is_told_at_the_restart(tmp_path: Path, telegram: Telegram) -> None:
    async with stage(tmp_path, telegram, webhook=True) as (it, made):
        await registered(it, made["id"])
    await telegram.do("say", text="while it was away", user_id=USER)
    async with running_platform(tmp_path, TelegramConnector, public_url=True) as it:
        now = (await it.get(f"/api/v1/connections/{made['id']}"))["webhook_url"]
        assert now.startswith(it.url)
        assert now != made["webhook_url"]
        assert now.rsplit("/", 1)[1] == made["webhook_url"].rsplit("/", 1)[1]
        await telegram.told(now)
        assert texts(await it.feed_of(1)) == ["while it was away"]


async def test_without_a_public_url_at_the_restart_it_polls(tmp_path: Path, telegram: Telegram) -> None:
    async with stage(tmp_path, telegram, webhook=True) as (it, made):
        await registered(it, made["id"])
        await telegram.do("say", text="by webhook", user_id=USER)
        await it.feed_of(1)
    await telegram.do("say", text="by polling", user_id=USER)
    async with running_platform(tmp_path, TelegramConnector) as it:
        assert texts(await it.feed_of(2)) == ["by webhook", "by polling"]
        assert telegram.webhook_url is None


async def test_a_lost_answer_is_unknown_and_nothing_is_sent_twice(tmp_path: Path, telegram: Telegram) -> None:
    async with stage(tmp_path, telegram, webhook=False) as (it, made):
        await telegram.do("say", text="hello", user_id=USER)
        await it.feed_of(1)
        await telegram.do("fault", kind="drop_answer", on="sendMessage")
        reply = {"chat_id": str(USER), "text": "only once"}
        action = await it.act(made["id"], "send_message", reply, key="k")
        assert action["state"] == "unknown"
        assert await telegram.texts(by_bot=True) == ["only once"]
        again = await it.act(made["id"], "send_message", reply, key="k")
        assert (again["id"], again["state"]) == (action["id"], "unknown")
    async with running_platform(tmp_path, TelegramConnector) as it:
        # One that is new runs through; the old one is left alone.
        assert (await it.act(made["id"], "send_message", {**reply, "text": "next"}))["state"] == "succeeded"
        assert await telegram.texts(by_bot=True) == ["only once", "next"]
        shown = await it.get(f"/api/v1/actions/{action['id']}")
        assert (shown["state"], len(shown["attempts"])) == ("unknown", 1)


async def test_a_rate_limit_sends_nothing_and_says_so(tmp_path: Path, telegram: Telegram) -> None:
    async with stage(tmp_path, telegram, webhook=False) as (it, made):
        await telegram.do("say", text="hello", user_id=USER)
        await it.feed_of(1)
        await telegram.do("fault", kind="status", status=429, retry_after=1, on="sendMessage")
        action = await it.act(made["id"], "send_message", {"chat_id": str(USER), "text": "x"})
        first = action["attempts"][0]
        assert (first["state"], first["status"]) == ("failed", 429)
        assert first["error"]["code"] == "rate_limited"
        # Whether it is tried again by itself or on demand: in the end it is sent at most once.
        if action["state"] == "failed":
            assert await telegram.texts(by_bot=True) == []
            answer = await it.client.post(f"/api/v1/actions/{action['id']}/retry")
            assert answer.status_code == 202

        async def state() -> str:
            return (await it.get(f"/api/v1/actions/{action['id']}"))["state"]

        assert await eventually(state, lambda s: s not in ("queued", "running")) == "succeeded"
        assert await telegram.texts(by_bot=True) == ["x"]


async def test_a_wrong_token_is_told_as_such(tmp_path: Path, telegram: Telegram) -> None:
    async with stage(tmp_path, telegram, webhook=False, poll_timeout=0) as (it, made):
        path = f"/api/v1/connections/{made['id']}"
        assert (await it.client.post(f"{path}/check")).json()["ok"] is True
        wrong = {"secrets": {"bot_token": f"{BOT}:AAnotTheToken"}}
        assert (await it.client.put(f"{path}/secrets", json=wrong)).status_code == 200
        check = (await it.client.post(f"{path}/check")).json()
        assert (check["ok"], check["code"]) == (False, "authentication_failed")
        assert "AAnotTheToken" not in str(check)
        action = await it.act(made["id"], "send_message", {"chat_id": str(USER), "text": "x"})
        assert (action["state"], action["error"]["code"]) == ("failed", "authentication_failed")

        async def polls() -> Any:
            return (await it.get(f"{path}/polls"))["items"][0]["error_code"]

        assert await eventually(polls, lambda code: code is not None) == "authentication_failed"
        right = {"secrets": {"bot_token": TOKEN}}
        assert (await it.client.put(f"{path}/secrets", json=right)).status_code == 200
        await telegram.do("say", text="corrected", user_id=USER)
        assert texts(await it.feed_of(1)) == ["corrected"]


async def test_an_outage_is_not_a_wrong_token(tmp_path: Path, telegram: Telegram) -> None:
    async with stage(tmp_path, telegram, webhook=False) as (it, made):
        await telegram.do("fault", kind="status", status=502, on="getMe")
        check = (await it.client.post(f"/api/v1/connections/{made['id']}/check")).json()
        assert (check["ok"], check["code"]) == (False, "provider_unavailable")


async def test_polling_outlives_outages_and_a_webhook_set_elsewhere(
    tmp_path: Path, telegram: Telegram
) -> None:
    async with stage(tmp_path, telegram, webhook=False, poll_timeout=0) as (it, _):
        await telegram.do("say", text="before", user_id=USER)
        await it.feed_of(1)
        await telegram.do("fault", kind="status", status=500, on="getUpdates", count=2)
        await telegram.do("say", text="after an outage", user_id=USER)
        assert texts(await it.feed_of(2)) == ["before", "after an outage"]
        await telegram.do("fault", kind="drop_answer", on="getUpdates")
        await telegram.do("say", text="after a broken answer", user_id=USER)
        await it.feed_of(3)
        assert await telegram.call("setWebhook", url="https://elsewhere.invalid/hook") is True
        await telegram.do("say", text="after a webhook", user_id=USER)
        assert texts(await it.feed_of(4))[2:] == ["after a broken answer", "after a webhook"]
        assert telegram.webhook_url is None
        assert len(await it.feed()) == 4


@both_ways
async def test_nothing_is_lost_or_doubled_when_the_process_is_killed(
    tmp_path: Path, telegram: Telegram, webhook: bool
) -> None:
    said: list[str] = []

    async def talk() -> None:
        while True:
            said.append(f"message {len(said)}")
            await telegram.do("say", text=said[-1], user_id=USER)
            await asyncio.sleep(0.02)

    public = {"public_url": True} if webhook else {}
    async with platform_process(tmp_path / "data", **public) as platform, platform.client() as client:
        await connect(
            client,
            "telegram",
            secrets={"bot_token": TOKEN},
            settings={"base_url": telegram.url, "poll_timeout": 1},
        )
        talking = asyncio.create_task(talk())
        for pause in (0.7, 0.4):
            await asyncio.sleep(pause)
            platform.kill()
            await platform.start()
        await asyncio.sleep(0.3)
        talking.cancel()
        await asyncio.gather(talking, return_exceptions=True)

        async def heard() -> list[str]:
            return texts(await walk(client, "/api/v1/events"))

        there = await telegram.texts(by_bot=False)
        assert len(there) > 50
        assert await eventually(heard, lambda found: len(found) >= len(there), 30) == there, platform.tail()
