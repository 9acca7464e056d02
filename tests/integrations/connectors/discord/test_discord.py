import asyncio
import json
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.integrations.connectors.discord.connector import DiscordConnector
from app.integrations.connectors.discord.schemas import DiscordSettings
from app.integrations.errors import (
    AuthenticationFailed,
    InvalidActionPayload,
    InvalidBody,
    ProviderError,
    RateLimited,
    Refused,
    Rejected,
    Unavailable,
)
from app.integrations.http import AttemptTrace, ConnectorHttp, current_attempt
from app.integrations.models import Action, Event
from app.integrations.requests import Headers, Reply, WebhookRequest
from tests.support.platform import running_platform
from tests.support.wire import Exchange, wire_server

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.json"))
TOKEN = "planted.bot.token"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC_KEY = KEY.public_key().public_bytes_raw().hex()
MESSAGE = {"id": "11", "channel_id": "22", "content": "hi"}


def connector(respond: Any = None, **settings: Any) -> DiscordConnector:
    transport = httpx2.MockTransport(respond) if respond else None
    return DiscordConnector(TOKEN, DiscordSettings(**settings), ConnectorHttp(transport=transport))


def fixture(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / f"{name}.json").read_text())


def request(item: Any, **headers: str) -> WebhookRequest:
    body = item if isinstance(item, bytes) else json.dumps(item).encode()
    return WebhookRequest(
        "POST", "https://p.example/webhooks/discord/t", Headers(headers.items()), body, DiscordConnector.body
    )


async def answered(item: Any, **settings: Any) -> tuple[dict[str, Any], list[Event]]:
    """The JSON that Discord is answered with, and the events."""
    reply = await connector(**settings).receive(request(item))
    assert isinstance(reply, Reply)
    assert (reply.status, reply.content_type) == (200, "application/json")
    return json.loads(reply.body), list(reply.events)


async def payload_of(name: str) -> dict[str, Any]:
    _, [event] = await answered(fixture(name))
    return event.payload


# Verification.


def signed(body: bytes, at: str = "1781170000") -> dict[str, str]:
    return {
        "X-Signature-Ed25519": KEY.sign(at.encode() + body).hex(),
        "X-Signature-Timestamp": at,
    }


PING = b'{"id":"1","application_id":"2","type":1,"token":"t","version":1}'


def test_a_signature_over_time_and_body_is_genuine():
    DiscordConnector.verification.verify(request(PING, **signed(PING)), {"public_key": [PUBLIC_KEY]}, 0.0)


@pytest.mark.parametrize(
    "changed",
    [
        {"X-Signature-Timestamp": "1781170001"},
        {"X-Signature-Ed25519": "00" * 64},
        {"X-Signature-Ed25519": "00"},
        {"X-Signature-Ed25519": "not hex"},
        {"X-Signature-Ed25519": ""},
    ],
)
def test_the_bad_signatures_that_discord_sends_on_purpose_are_refused(changed):
    with pytest.raises(Refused):
        DiscordConnector.verification.verify(
            request(PING, **signed(PING) | changed), {"public_key": [PUBLIC_KEY]}, 0.0
        )


# What Discord is answered while it waits.


async def test_a_ping_is_answered_with_pong_and_is_no_event():
    assert await answered(PING) == ({"type": 1}, [])


async def test_a_command_is_deferred_as_a_message_and_a_component_as_an_update():
    assert (await answered(fixture("discord.command.invoked")))[0] == {"type": 5}
    hidden = await answered(fixture("discord.command.invoked"), ephemeral=True)
    assert hidden[0] == {"type": 5, "data": {"flags": 64}}
    assert (await answered(fixture("discord.component.used"), ephemeral=True))[0] == {"type": 6}
    assert (await answered(fixture("discord.modal.submitted")))[0] == {"type": 5}
    from_a_component = fixture("discord.modal.submitted__labels_from_a_component")
    assert (await answered(from_a_component))[0] == {"type": 6}


async def test_autocomplete_gets_no_choices_and_is_no_event():
    item = fixture("discord.command.invoked") | {"type": 4}
    assert await answered(item) == ({"type": 8, "data": {"choices": []}}, [])


async def test_webhook_events_are_acknowledged_with_nothing():
    for item in ({"version": 1, "application_id": "2", "type": 0}, fixture("discord.event.received")):
        reply = await connector().receive(request(item))
        assert isinstance(reply, Reply)
        assert (reply.status, reply.body) == (204, b"")
        assert len(reply.events) == item["type"]


# Events.


@pytest.mark.parametrize("name", NAMES)
async def test_each_fixture_becomes_the_event_it_is_named_after(name):
    made = await connector().receive(request(fixture(name)))
    [event] = made.events if isinstance(made, Reply) else [made]
    assert event.type == name.partition("__")[0]
    DiscordConnector.event_spec(event.type).model.model_validate(event.payload)
    assert event.payload["raw"] == fixture(name)


async def test_a_command_is_laid_out_flat_beside_the_original():
    payload = await payload_of("discord.command.invoked")
    del payload["raw"]
    assert payload == {
        "interaction_id": "786008729715212338",
        "application_id": "845027738276462632",
        "interaction_token": "A_UNIQUE_TOKEN_786008729715212338",
        "guild_id": "772904309264089089",
        "channel_id": "772908445358620702",
        "user_id": "53908232506183680",
        "user_name": "Mason",
        "locale": "en-US",
        "message_id": None,
        "command_id": "771825006014889984",
        "command": "cardsearch",
        "command_type": 1,
        "options": {"cardname": "The Gitrog Monster"},
        "target_id": None,
    }


async def test_subcommands_are_part_of_the_name():
    payload = await payload_of("discord.command.invoked__subcommand_in_dm")
    assert payload["command"] == "permissions user edit"
    assert payload["options"] == {"user": "53908232506183680", "loud": True, "level": 3}
    assert payload["user_id"] == "53908232506183680"
    assert payload["guild_id"] is None
    bare = await payload_of("discord.command.invoked__subcommand_without_parameters")
    assert (bare["command"], bare["options"]) == ("issue list", {})


async def test_what_was_chosen_and_put_in():
    menu = await payload_of("discord.component.used__menu")
    assert (menu["custom_id"], menu["values"]) == ("class_select_1", ["mage", "rogue"])
    assert menu["message_id"] == "844397162624450620"
    assert (await payload_of("discord.modal.submitted"))["fields"] == {"explanation": "It “jumps” 🐎"}
    labels = await payload_of("discord.modal.submitted__labels_from_a_component")
    assert labels["fields"] == {"bug_type": ["ant", "fly"], "how": "by air"}


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ({}, "invalid_webhook_event"),
        ({"token": "planted"}, "invalid_interaction"),
        ({"token": "t", "id": "1", "application_id": "2", "type": 2}, "invalid_command"),
        (
            {"token": "t", "id": "1", "application_id": "2", "type": 3, "data": "planted"},
            "invalid_interaction",
        ),
        ({"token": "t", "id": "1", "application_id": "2", "type": 5, "data": {}}, "invalid_modal"),
    ],
)
async def test_a_malformed_payload_is_a_named_error_without_its_values(item, code):
    with pytest.raises(InvalidBody) as caught:
        await connector().receive(request(item))
    assert caught.value.code == code
    assert "planted" not in str(caught.value)


# Actions.


class Discord:
    """Answers every request the same and keeps what it was asked."""

    def __init__(self, status: int = 200, content: Any = MESSAGE, **headers: str) -> None:
        self.status, self.content, self.headers = status, content, headers
        self.requests: list[httpx2.Request] = []

    def __call__(self, asked: httpx2.Request) -> httpx2.Response:
        self.requests.append(asked)
        if self.content is None:
            return httpx2.Response(self.status, headers=self.headers)
        return httpx2.Response(self.status, json=self.content, headers=self.headers)


async def run(discord: Discord, kind: str, payload: dict[str, Any]) -> Any:
    made = await connector(discord).execute(Action(type=kind, payload=payload))
    return made.model_dump(mode="json", exclude_none=True)


async def test_a_message_is_sent_with_a_nonce_that_every_attempt_repeats():
    discord = Discord()
    token = current_attempt.set(AttemptTrace(key="act_0123"))
    try:
        for _ in range(2):
            assert await run(discord, "send_message", {"channel_id": "22", "content": "hi"}) == MESSAGE
    finally:
        current_attempt.reset(token)
    first, second = (json.loads(asked.content) for asked in discord.requests)
    assert first == second
    assert first["enforce_nonce"] is True
    assert len(first["nonce"]) == 25
    [asked, _] = discord.requests
    assert str(asked.url) == "https://discord.com/api/v10/channels/22/messages"
    assert asked.headers["authorization"] == f"Bot {TOKEN}"
    assert asked.headers["user-agent"].startswith("DiscordBot (")


async def test_files_go_beside_the_message():
    discord = Discord()
    files = [
        {"filename": "a.txt", "content_base64": "aGVsbG8=", "content_type": "text/plain"},
        {"filename": "b.bin", "content_base64": "AAE="},
    ]
    await run(discord, "send_message", {"channel_id": "22", "content": "look", "files": files})
    content = discord.requests[0].content
    assert b'name="files[0]"; filename="a.txt"' in content
    assert b"hello" in content
    assert b'name="files[1]"; filename="b.bin"' in content
    told = content.split(b'name="payload_json"\r\n\r\n')[1].split(b"\r\n")[0]
    assert json.loads(told) == {
        "content": "look",
        "attachments": [{"id": 0, "filename": "a.txt"}, {"id": 1, "filename": "b.bin"}],
    }


async def test_an_edit_takes_away_what_is_null_and_keeps_what_is_not_given():
    discord = Discord()
    await run(
        discord, "edit_message", {"channel_id": "22", "message_id": "11", "content": None, "embeds": []}
    )
    [asked] = discord.requests
    assert (asked.method, asked.url.path) == ("PATCH", "/api/v10/channels/22/messages/11")
    assert json.loads(asked.content) == {"content": None, "embeds": []}


async def test_deletions_and_reactions():
    message = {"channel_id": "22", "message_id": "11"}
    assert await run(Discord(204, None), "delete_message", message) == {"deleted": True}
    gone = Discord(404, {"message": "Unknown Message", "code": 10008})
    assert await run(gone, "delete_message", message) == {"deleted": False}
    with pytest.raises(Rejected, match="Unknown Channel"):
        await run(Discord(404, {"message": "Unknown Channel", "code": 10003}), "delete_message", message)
    discord = Discord(204, None)
    assert await run(discord, "create_reaction", {**message, "emoji": "🔥"}) == {"ok": True}
    await run(discord, "create_reaction", {**message, "emoji": "party:41771983429993937"})
    assert [asked.url.raw_path.decode().rpartition("reactions/")[2] for asked in discord.requests] == [
        "%F0%9F%94%A5/@me",
        "party%3A41771983429993937/@me",
    ]


INTERACTION = {"application_id": "845", "interaction_token": "aW50ZXJhY3Rpb24:planted/token"}


async def test_answers_go_by_the_interactions_token_alone():
    discord = Discord()
    await run(discord, "edit_original_response", {**INTERACTION, "content": "done"})
    await run(discord, "create_followup", {**INTERACTION, "content": "more", "flags": 64})
    discord.status, discord.content = 204, None
    assert await run(discord, "delete_original_response", INTERACTION) == {"deleted": True}
    assert [(asked.method, asked.url.raw_path.decode()) for asked in discord.requests] == [
        ("PATCH", "/api/v10/webhooks/845/aW50ZXJhY3Rpb24%3Aplanted%2Ftoken/messages/@original"),
        ("POST", "/api/v10/webhooks/845/aW50ZXJhY3Rpb24%3Aplanted%2Ftoken"),
        ("DELETE", "/api/v10/webhooks/845/aW50ZXJhY3Rpb24%3Aplanted%2Ftoken/messages/@original"),
    ]
    assert all("authorization" not in asked.headers for asked in discord.requests)
    assert json.loads(discord.requests[1].content) == {"content": "more", "flags": 64}


async def test_a_token_that_is_too_old_says_nothing_of_the_bots():
    late = Discord(401, {"message": "Invalid Webhook Token", "code": 50027})
    with pytest.raises(Rejected, match="older than 15 minutes") as caught:
        await run(late, "edit_original_response", {**INTERACTION, "content": "done"})
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("send_message", {"channel_id": "22"}),
        ("send_message", {"channel_id": "../users/@me", "content": "x"}),
        ("send_message", {"channel_id": "22", "content": "x", "contnet": "y"}),
        ("create_followup", INTERACTION),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused(kind, payload):
    with pytest.raises(InvalidActionPayload):
        await run(Discord(), kind, payload)


@pytest.mark.parametrize(
    ("status", "content", "error"),
    [
        (401, {"message": "401: Unauthorized", "code": 0}, AuthenticationFailed),
        (403, {"message": "Missing Permissions", "code": 50013}, Rejected),
        (403, None, Rejected),
        (400, {"message": "Cannot send an empty message", "code": 50006}, Rejected),
        (500, {"message": "500: Internal Server Error", "code": 0}, Unavailable),
        (502, None, Unavailable),
    ],
)
async def test_discords_errors_are_typed(status, content, error):
    with pytest.raises(ProviderError) as caught:
        await run(Discord(status, content), "send_message", {"channel_id": "22", "content": "x"})
    assert type(caught.value) is error


async def test_a_rate_limit_says_how_long_to_the_millisecond():
    limited = {"message": "You are being rate limited.", "retry_after": 64.57, "global": True}
    with pytest.raises(RateLimited) as caught:
        await connector(Discord(429, limited, **{"Retry-After": "65"})).check()
    assert caught.value.retry_after == 64.57
    with pytest.raises(RateLimited) as caught:  # Cloudflare's, without Discord's words
        await connector(Discord(429, None, **{"Retry-After": "65"})).check()
    assert caught.value.retry_after == 65


async def test_an_error_names_fields_and_no_values():
    sentence = 'Value "planted value" is not snowflake.'
    content = {
        "code": 50035,
        "message": "Invalid Form Body",
        "errors": {
            "content": {"_errors": [{"code": "BASE_TYPE_MAX_LENGTH", "message": "Must be 2000 or fewer."}]},
            "embeds": {"0": {"url": {"_errors": [{"code": "URL_TYPE_INVALID_URL", "message": sentence}]}}},
        },
    }
    with pytest.raises(Rejected) as caught:
        await run(Discord(400, content), "send_message", {"channel_id": "22", "content": "x"})
    assert "content BASE_TYPE_MAX_LENGTH, embeds.0.url URL_TYPE_INVALID_URL" in str(caught.value)
    assert "planted value" not in str(caught.value)


async def test_the_endpoint_is_set_only_where_that_was_asked_for():
    discord = Discord(content={"id": "845"})
    await connector(discord).register_webhook("https://p.example/webhooks/discord/t", {})
    await connector(discord).unregister_webhook()
    assert discord.requests == []
    asked_for = connector(discord, manage_endpoint=True)
    await asked_for.register_webhook("https://p.example/webhooks/discord/t", {})
    await asked_for.unregister_webhook()
    assert [(a.method, a.url.path, json.loads(a.content)) for a in discord.requests] == [
        ("PATCH", "/api/v10/applications/@me", {"interactions_endpoint_url": url})
        for url in ("https://p.example/webhooks/discord/t", None)
    ]


# Through the platform.


async def test_a_command_is_deferred_told_and_answered(tmp_path):
    async def discord(exchange: Exchange) -> None:
        while True:
            await exchange.request()
            await exchange.answer(200, json.dumps(MESSAGE).encode())

    async with wire_server(discord) as api, running_platform(tmp_path, DiscordConnector) as running:
        connection = await running.connect(
            "discord",
            secrets={"bot_token": TOKEN, "public_key": PUBLIC_KEY},
            settings={"base_url": api.url},
        )

        async def send(body: bytes, headers: dict[str, str]) -> httpx2.Response:
            return await running.client.post(connection["webhook_url"], content=body, headers=headers)

        assert (await send(PING, signed(PING, "1") | {"X-Signature-Timestamp": "2"})).status_code == 401
        answer = await send(PING, signed(PING))
        assert (answer.status_code, answer.json()) == (200, {"type": 1})
        assert answer.headers["content-type"] == "application/json"

        body = (FIXTURES / "discord.command.invoked.json").read_bytes()
        began = time.monotonic()
        answers = await asyncio.gather(*(send(body, signed(body)) for _ in range(2)))
        assert [answer.json() for answer in answers] == [{"type": 5}] * 2
        assert time.monotonic() - began < 3
        await running.settled()
        [event] = await running.feed_of(1)
        assert event["external_id"] == "786008729715212338"

        told = event["payload"]
        order = {name: told[name] for name in ("application_id", "interaction_token")}
        action = await running.act(
            connection["id"], "edit_original_response", {**order, "content": "Here it is"}
        )
        assert action["state"] == "succeeded"
        assert action["result"]["id"] == "11"
        path = b"/webhooks/845027738276462632/A_UNIQUE_TOKEN_786008729715212338/messages/@original"
        assert api.requests[-1].startswith(b"PATCH " + path)

        event_body = (FIXTURES / "discord.event.received.json").read_bytes()
        answer = await send(event_body, signed(event_body))
        assert (answer.status_code, answer.content) == (204, b"")
        assert (await running.feed_of(2))[1]["payload"]["kind"] == "APPLICATION_AUTHORIZED"
