import asyncio
from typing import Any

import httpx2
import pytest

from app.integrations.connectors.telegram.connector import TelegramConnector
from app.integrations.connectors.telegram.schemas import UPDATE_KINDS, TelegramSettings
from app.integrations.errors import AuthenticationFailed, RateLimited, Refused, Rejected, Unavailable
from app.integrations.http import ConnectorHttp
from app.integrations.requests import Headers, WebhookRequest

BOT = 700111222
POLL = TelegramConnector.polls[0]


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [item["message"]["text"] for item in items]


# Which way.


@pytest.mark.parametrize(
    ("delivery", "public_url", "polls"),
    [
        ("auto", None, True),
        ("auto", "https://p.example", False),
        ("polling", "https://p.example", True),
        ("polling", None, True),
        ("webhook", "https://p.example", False),
        ("webhook", None, False),
    ],
)
def test_delivery_decides_whether_to_poll(delivery, public_url, polls):
    connector = TelegramConnector("1:a", TelegramSettings(delivery=delivery), ConnectorHttp())
    assert connector.poll_enabled(POLL, public_url) is polls


def test_the_poll_deadline_covers_the_longest_poll():
    longest = TelegramSettings.model_fields["poll_timeout"].metadata
    assert max(getattr(limit, "le", 0) for limit in longest) + 10 < POLL.deadline


@pytest.mark.parametrize("base_url", ["ftp://a", "a.example", "https://a.example/?q", "https://a b"])
def test_a_base_url_that_is_none_is_refused(base_url):
    with pytest.raises(ValueError, match="base_url"):
        TelegramSettings(base_url=base_url)


# Polling.


async def test_a_poll_hands_over_updates_and_where_to_go_on(stage, connect):
    connector = connect()
    await connector.check()
    assert await connector.poll_updates(None) == ([], None)
    first = await stage.do("say", text="one")
    await stage.do("say", text="two")
    items, cursor = await connector.poll_updates(None)
    assert texts(items) == ["one", "two"]
    assert cursor == str(first["update_id"] + 2)
    assert await connector.poll_updates(cursor) == ([], cursor)


async def test_a_crash_before_the_cursor_is_stored_repeats_the_same_updates(stage, connect):
    connector = connect()
    await connector.check()
    await stage.do("say", text="one")
    before, _ = await connector.poll_updates(None)
    again, cursor = await connect().poll_updates(None)
    assert again == before
    assert [(await connector.handle_webhook(item)).external_id for item in again] == [
        (await connector.handle_webhook(item)).external_id for item in before
    ]
    await connector.poll_updates(cursor)
    assert await connector.poll_updates(None) == ([], None), "only the next call lets Telegram forget them"


async def test_a_long_poll_ends_when_something_happens(stage, connect):
    connector = connect(poll_timeout=20)
    await connector.check()
    waiting = asyncio.create_task(connector.poll_updates(None))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await stage.do("say", text="now")
    items, _ = await asyncio.wait_for(waiting, 5)
    assert texts(items) == ["now"]


async def test_every_kind_is_asked_for_unless_settings_say_otherwise(stage, connect):
    connector = connect()
    await connector.poll_updates(None)
    assert stage.twin.bots[BOT].allowed == frozenset(UPDATE_KINDS)
    await connect(allowed_updates=["message"]).poll_updates(None)
    assert stage.twin.bots[BOT].allowed == {"message"}
    assert (await stage.do("post", text="in a channel"))["update_id"] is None


async def test_polling_takes_away_a_webhook_that_is_in_the_way_and_keeps_what_waits(stage, connect):
    hooked = connect(delivery="webhook")
    await hooked.check()
    await hooked.register_webhook("http://127.0.0.1:9/nobody", {"webhook_secret": "s"})
    await stage.do("say", text="kept")
    items, _ = await connect(delivery="polling").poll_updates(None)
    assert texts(items) == ["kept"]
    assert stage.twin.bots[BOT].webhook is None


async def test_a_webhook_that_comes_back_at_once_is_reported():
    calls = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        calls.append(request.url.path.rpartition("/")[2])
        if calls[-1] == "deleteWebhook":
            return httpx2.Response(200, json={"ok": True, "result": True})
        conflict = "Conflict: can't use getUpdates method while webhook is active"
        return httpx2.Response(409, json={"ok": False, "error_code": 409, "description": conflict})

    http = ConnectorHttp(transport=httpx2.MockTransport(respond))
    with pytest.raises(Rejected, match="webhook is active"):
        await TelegramConnector("1:a", TelegramSettings(), http).poll_updates(None)
    assert calls == ["getUpdates", "deleteWebhook", "getUpdates"]


async def test_another_poller_is_named_as_the_reason(stage, connect):
    ours = connect(poll_timeout=20)
    await ours.check()
    waiting = asyncio.create_task(ours.poll_updates(None))
    await asyncio.sleep(0.05)
    await connect().poll_updates(None)
    with pytest.raises(Rejected, match="Another process polls with this bot token"):
        await asyncio.wait_for(waiting, 5)


async def test_an_update_without_an_id_does_not_stop_the_poll(connect):
    updates = [{"message": {}}, {"update_id": 7, "poll": {}}]
    answer = httpx2.Response(200, json={"ok": True, "result": updates})
    http = ConnectorHttp(transport=httpx2.MockTransport(lambda _: answer))
    connector = TelegramConnector("1:a", TelegramSettings(), http)
    assert await connector.poll_updates("3") == (updates, "8")


async def test_a_poll_fails_as_the_provider_does(stage, connect):
    connector = connect()
    await connector.check()
    await stage.do("fault", kind="status", status=429, retry_after=9, on="getUpdates")
    with pytest.raises(RateLimited) as caught:
        await connector.poll_updates(None)
    assert caught.value.retry_after == 9
    await stage.do("fault", kind="drop_answer", on="getUpdates")
    with pytest.raises(Unavailable):
        await connector.poll_updates(None)
    stage.twin.settings.tokens.append("1:known")
    with pytest.raises(AuthenticationFailed):
        await connector.poll_updates(None)


async def test_a_duplicated_poll_gives_the_same_ids(stage, connect):
    connector = connect()
    await connector.check()
    await stage.do("say", text="twice")
    await stage.do("fault", kind="duplicate", on="getUpdates")
    items, _ = await connector.poll_updates(None)
    assert texts(items) == ["twice", "twice"]
    assert items[0] == items[1]


# Webhooks.


async def test_registering_sets_url_secret_and_kinds(stage, connect):
    connector = connect()
    await connector.check()
    await stage.do("say", text="waiting")
    await connector.register_webhook("https://p.invalid/webhooks/telegram/t", {"webhook_secret": "aZ_-9"})
    bot = stage.twin.bots[BOT]
    assert bot.webhook is not None
    assert bot.webhook.url == "https://p.invalid/webhooks/telegram/t"
    assert bot.webhook.secret_token == "aZ_-9"
    assert bot.allowed == frozenset(UPDATE_KINDS)
    assert len(bot.updates) == 1, "what waits is not dropped"
    await connector.unregister_webhook()
    assert bot.webhook is None
    assert len(bot.updates) == 1


async def test_registering_does_nothing_when_polling_is_chosen(stage, connect):
    connector = connect(delivery="polling")
    await connector.check()
    await connector.register_webhook("https://p.invalid/t", {"webhook_secret": "s"})
    assert stage.twin.bots[BOT].webhook is None


async def test_a_secret_that_telegram_does_not_take_is_refused_without_naming_it(connect):
    with pytest.raises(Rejected) as caught:
        await connect().register_webhook("https://p.invalid/t", {"webhook_secret": "plänted"})
    assert "plänted" not in str(caught.value)


def webhook(headers: dict[str, str]) -> WebhookRequest:
    url = "https://p.example/webhooks/telegram/{token}"
    return WebhookRequest("POST", url, Headers(headers.items()), b"{}", TelegramConnector.body)


@pytest.mark.parametrize("given", ["new", "old"])
def test_a_webhook_with_a_live_secret_is_genuine(given):
    request = webhook({"x-telegram-bot-api-secret-token": given})
    TelegramConnector.verification.verify(request, {"webhook_secret": ["new", "old"]}, 0.0)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "header_missing"),
        ({"X-Telegram-Bot-Api-Secret-Token": ""}, "header_missing"),
        ({"X-Telegram-Bot-Api-Secret-Token": "other"}, "token_differs"),
        ({"X-Telegram-Bot-Api-Secret-Token": "Ünicode"}, "token_differs"),
    ],
)
def test_a_webhook_without_it_is_refused(headers, code):
    with pytest.raises(Refused) as caught:
        TelegramConnector.verification.verify(webhook(headers), {"webhook_secret": ["s"]}, 0.0)
    assert caught.value.code == code
