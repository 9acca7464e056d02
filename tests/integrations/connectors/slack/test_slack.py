import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx2
import pytest

from app.integrations.connectors.slack.connector import SlackConnector
from app.integrations.connectors.slack.schemas import SlackSettings
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
from app.integrations.http import ConnectorHttp
from app.integrations.models import Action, Event
from app.integrations.requests import Headers, WebhookRequest
from tests.support.platform import running_platform
from tests.support.wire import Exchange, wire_server

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(path.name for path in FIXTURES.glob("*.*") if path.suffix in (".json", ".form"))
TOKEN = "xoxb-planted-bot-token"
SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
JSON, FORM = "application/json", "application/x-www-form-urlencoded"


def connector(respond: Any = None, **settings: Any) -> SlackConnector:
    transport = httpx2.MockTransport(respond) if respond else None
    return SlackConnector(TOKEN, SlackSettings(**settings), ConnectorHttp(transport=transport))


def body_of(name: str) -> bytes:
    return (FIXTURES / name).read_bytes().rstrip(b"\n")


def request(name: str, **headers: str) -> WebhookRequest:
    content_type = {"content-type": JSON if name.endswith(".json") else FORM}
    pairs = Headers((content_type | headers).items())
    return WebhookRequest(
        "POST", "https://p.example/webhooks/slack/t", pairs, body_of(name), SlackConnector.body
    )


async def event_of(name: str) -> Event:
    [item] = request(name).items
    return await connector().handle_webhook(item)


def signature(body: bytes, at: int) -> str:
    return "v0=" + hmac.new(SECRET.encode(), b"v0:%d:%s" % (at, body), hashlib.sha256).hexdigest()


# Verification and handshake.

PUBLISHED = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
PUBLISHED_AT = 1531420618


def published(**changed: str) -> WebhookRequest:
    headers = {"X-Slack-Signature": PUBLISHED, "X-Slack-Request-Timestamp": str(PUBLISHED_AT)}
    return request("slack.command.invoked.form", **headers | changed)


def test_slacks_published_example_is_genuine():
    SlackConnector.verification.verify(published(), {"signing_secret": [SECRET]}, PUBLISHED_AT + 299)


@pytest.mark.parametrize(
    ("changed", "now", "code"),
    [
        ({}, PUBLISHED_AT + 301, "timestamp_old"),
        ({"X-Slack-Request-Timestamp": str(PUBLISHED_AT + 1)}, PUBLISHED_AT, "signature_differs"),
        ({"X-Slack-Signature": PUBLISHED.replace("v0=", "v1=")}, PUBLISHED_AT, "signature_malformed"),
    ],
)
def test_what_differs_from_it_is_refused(changed, now, code):
    with pytest.raises(Refused) as caught:
        SlackConnector.verification.verify(published(**changed), {"signing_secret": [SECRET]}, now)
    assert caught.value.code == code


def test_the_url_is_verified_by_its_challenge():
    body = json.dumps({"token": "Jhj5", "challenge": "3eZbrw1aBm2rZgRNFdxV", "type": "url_verification"})
    asked = WebhookRequest("POST", "https://p.example", Headers(), body.encode(), SlackConnector.body)
    assert SlackConnector.handshake.answer(asked, {}).body == b"3eZbrw1aBm2rZgRNFdxV"
    assert SlackConnector.handshake.answer(request("slack.message.received.json"), {}) is None


# Events.


@pytest.mark.parametrize("name", NAMES)
async def test_each_fixture_becomes_the_event_it_is_named_after_without_the_old_token(name):
    event = await event_of(name)
    assert event.type == name.rpartition(".")[0].partition("__")[0]
    SlackConnector.event_spec(event.type).model.model_validate(event.payload)
    assert "token" not in event.payload["raw"]


async def test_a_message_is_laid_out_flat_beside_the_original():
    event = await event_of("slack.message.received.json")
    assert event.external_id == "Ev08MFMKH6"
    raw = event.payload.pop("raw")
    assert raw["client_msg_id"]
    assert event.payload == {
        "event_id": "Ev08MFMKH6",
        "team_id": "T123ABC456",
        "event_time": 1759000000,
        "channel": "C123ABC456",
        "channel_type": "channel",
        "user": "U123ABC456",
        "bot_id": None,
        "subtype": None,
        "text": "Is the <https://status.example.com|status page> down?",
        "previous_text": None,
        "ts": "1759000000.000400",
        "thread_ts": None,
    }


async def test_an_edit_and_a_deletion_name_the_message_and_what_it_said():
    edited = (await event_of("slack.message.edited.json")).payload
    assert edited["ts"] == "1759000000.000400"
    assert edited["text"] == "Is the status page down? Again?"
    assert edited["previous_text"] == "Is the status page down?"
    assert edited["user"] == "U123ABC456"
    deleted = (await event_of("slack.message.deleted.json")).payload
    assert (deleted["ts"], deleted["text"]) == ("1759000000.000400", None)
    assert deleted["previous_text"] == "Is the status page down? Again?"


async def test_a_command_brings_what_an_answer_needs():
    event = await event_of("slack.command.invoked__with_text.form")
    assert event.external_id == "13345224609.738474920.8088930838d88f008e0"
    assert event.payload["command"] == "/weather"
    assert event.payload["text"] == "94070 & Zürich"
    assert event.payload["response_url"] == "https://hooks.slack.com/commands/1234/5678"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "slack.block_action.received.form",
            {"action_id": "WaXA", "value": "click_me_123", "message_ts": "1548261231.000200"},
        ),
        (
            "slack.block_action.received__menu_in_home.form",
            {"action_id": "pick", "value": "open", "channel_id": None, "private_metadata": "page=2"},
        ),
        ("slack.shortcut.invoked.form", {"callback_id": "shortcut_create_task", "user_name": "aman"}),
        (
            "slack.shortcut.invoked__message.form",
            {"kind": "message_action", "channel_id": "D0LFFBKLZ", "message_ts": "1516229207.000133"},
        ),
        (
            "slack.view.submitted.form",
            {
                "callback_id": "new_issue",
                "view_id": "VNHU13V36",
                "values": {"title": {"input": {"type": "plain_text_input", "value": "Printer on fire"}}},
            },
        ),
    ],
)
async def test_an_interaction_is_laid_out_flat(name, expected):
    payload = (await event_of(name)).payload
    assert {field: payload[field] for field in expected} == expected


async def test_other_events_keep_their_callback():
    payload = (await event_of("slack.event.received.json")).payload
    assert payload["kind"] == "channel_created"
    assert payload["raw"]["event"]["channel"]["name"] == "fun"


@pytest.mark.parametrize(
    ("item", "code"),
    [
        ({}, "invalid_payload"),
        ({"type": 7}, "invalid_payload"),
        ({"type": "event_callback"}, "invalid_event_callback"),
        ({"type": "event_callback", "event_id": "Ev1", "event": "planted"}, "invalid_event_callback"),
        ({"type": "event_callback", "event_id": "Ev1", "event": {"type": "message"}}, "invalid_message"),
        ({"command": "/x", "user_id": ["planted"]}, "invalid_command"),
        ({"type": "block_actions", "actions": "planted"}, "invalid_interaction"),
    ],
)
async def test_a_malformed_payload_is_a_named_error_without_its_values(item, code):
    with pytest.raises(InvalidBody) as caught:
        await connector().handle_webhook(item)
    assert caught.value.code == code
    assert "planted" not in str(caught.value)


# Actions.


class Slack:
    """Answers as told, method by method, and keeps what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.requests: list[httpx2.Request] = []

    def __call__(self, asked: httpx2.Request) -> httpx2.Response:
        self.requests.append(asked)
        answer = self.answers.get(asked.url.path.rpartition("/")[2].replace(".", "_"), {"ok": True})
        return answer if isinstance(answer, httpx2.Response) else httpx2.Response(200, json=answer)

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(asked.content) for asked in self.requests]


async def run(slack: Slack, kind: str, payload: dict[str, Any], **settings: Any) -> Any:
    made = await connector(slack, **settings).execute(Action(type=kind, payload=payload))
    return made.model_dump(mode="json", exclude_none=True)


POSTED = {"ok": True, "channel": "C1", "ts": "1.2", "message": {"text": "hi", "ts": "1.2"}}


async def test_a_message_is_posted_with_the_token_in_a_header():
    slack = Slack(chat_postMessage=POSTED)
    sent = await run(slack, "post_message", {"channel": "C1", "text": "hi", "thread_ts": "1.1"})
    assert sent == {"channel": "C1", "ts": "1.2", "message": {"text": "hi", "ts": "1.2"}}
    [asked] = slack.requests
    assert str(asked.url) == "https://slack.com/api/chat.postMessage"
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert slack.bodies == [{"channel": "C1", "text": "hi", "thread_ts": "1.1"}]


async def test_what_sets_a_state_takes_it_well_that_it_is_set_already():
    message = {"channel": "C1", "ts": "1.2"}
    slack = Slack(
        chat_update=POSTED,
        chat_delete={"ok": False, "error": "message_not_found"},
        reactions_add={"ok": False, "error": "already_reacted"},
    )
    assert (await run(slack, "update_message", {**message, "text": "hi"}))["ts"] == "1.2"
    assert await run(slack, "delete_message", message) == {"deleted": False}
    reaction = {"channel": "C1", "timestamp": "1.2", "name": "thumbsup"}
    assert await run(slack, "add_reaction", reaction) == {"added": False}
    assert await run(Slack(), "delete_message", message) == {"deleted": True}
    assert await run(Slack(), "add_reaction", reaction) == {"added": True}


async def test_a_file_goes_to_slacks_address_without_the_token_and_is_then_shared():
    place = {"ok": True, "upload_url": "https://files.slack.com/upload/v1/ABC", "file_id": "F1"}
    slack = Slack(
        files_getUploadURLExternal=place,
        ABC=httpx2.Response(200, text="OK - 5"),
        files_completeUploadExternal={"ok": True, "files": [{"id": "F1", "title": "log"}]},
    )
    file = {"filename": "log.txt", "content_base64": "aGVsbG8="}
    order = {"file": file, "channel_id": "C1", "initial_comment": "look", "alt_txt": "a log"}
    assert await run(slack, "upload_file", order) == {
        "file_id": "F1",
        "files": [{"id": "F1", "title": "log"}],
    }
    asked, uploaded, shared = slack.requests
    assert parse_qs(asked.content.decode()) == {
        "filename": ["log.txt"],
        "length": ["5"],
        "alt_txt": ["a log"],
    }
    assert uploaded.content == b"hello"
    assert "authorization" not in uploaded.headers
    assert json.loads(shared.content) == {
        "files": [{"id": "F1", "title": "log.txt"}],
        "channel_id": "C1",
        "initial_comment": "look",
    }


async def test_a_file_is_not_sent_to_a_stranger():
    place = {"ok": True, "upload_url": "https://slack.com.evil.example/x", "file_id": "F1"}
    slack = Slack(files_getUploadURLExternal=place)
    with pytest.raises(Unavailable, match="not its own"):
        await run(slack, "upload_file", {"file": {"filename": "a", "content_base64": "aGVsbG8="}})
    assert len(slack.requests) == 1


HOOK = "https://hooks.slack.com/commands/T1/2/secretpart"


async def test_an_answer_goes_to_its_url_without_the_token():
    slack = Slack(secretpart=httpx2.Response(200, text="ok"))
    assert await run(slack, "respond", {"response_url": HOOK, "text": "done"}) == {"ok": True}
    [asked] = slack.requests
    assert str(asked.url) == HOOK
    assert "authorization" not in asked.headers
    assert slack.bodies == [{"text": "done"}]


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.slack.com/x",
        "https://hooks.slack.com.evil.example/x",
        "https://hooks.slack.com@evil.example/x",
        "https://evil.example/https://hooks.slack.com/",
        "https://hooks.slack.com:8443/x",
        "http://[",
    ],
)
async def test_an_answer_goes_nowhere_else(url):
    slack = Slack()
    with pytest.raises(Rejected, match="nothing was sent"):
        await run(slack, "respond", {"response_url": url, "text": "done"})
    assert slack.requests == []


@pytest.mark.parametrize(
    "answer", [httpx2.Response(404, text="used_url"), {"ok": False, "error": "used_url"}]
)
async def test_a_url_that_is_used_up_is_no_bad_token(answer):
    if isinstance(answer, dict):
        answer = httpx2.Response(404, json=answer)
    with pytest.raises(Rejected, match="used_url") as caught:
        await run(Slack(secretpart=answer), "respond", {"response_url": HOOK, "text": "done"})
    assert "secretpart" not in str(caught.value)


async def test_a_modal_is_opened():
    slack = Slack(views_open={"ok": True, "view": {"id": "V1", "type": "modal"}})
    opened = await run(slack, "open_view", {"trigger_id": "1.2", "view": {"type": "modal"}})
    assert opened == {"view_id": "V1", "view": {"id": "V1", "type": "modal"}}


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("post_message", {"channel": "C1"}),
        ("post_message", {"channel": "C1", "text": "x", "chanel": "C2"}),
        ("respond", {"response_url": HOOK}),
        ("update_message", {"channel": "C1", "ts": "yesterday", "text": "x"}),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused(kind, payload):
    with pytest.raises(InvalidActionPayload):
        await run(Slack(), kind, payload)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (200, "invalid_auth", AuthenticationFailed),
        (200, "account_inactive", AuthenticationFailed),
        (200, "token_revoked", AuthenticationFailed),
        (200, "not_authed", AuthenticationFailed),
        (200, "token_expired", AuthenticationFailed),
        (200, "channel_not_found", Rejected),
        (200, "not_in_channel", Rejected),
        (200, "ratelimited", RateLimited),
        (429, "ratelimited", RateLimited),
        (200, "internal_error", Unavailable),
        (503, "service_unavailable", Unavailable),
        (503, "invalid_auth", Unavailable),
    ],
)
async def test_slacks_errors_are_typed(status, code, error):
    answer = httpx2.Response(status, json={"ok": False, "error": code}, headers={"Retry-After": "30"})
    with pytest.raises(ProviderError, match=code) as caught:
        await connector(Slack(auth_test=answer)).check()
    assert type(caught.value) is error
    if error is RateLimited:
        assert caught.value.retry_after == 30
    assert TOKEN not in str(caught.value)


async def test_a_missing_scope_is_named():
    answer = {"ok": False, "error": "missing_scope", "needed": "reactions:write", "provided": "chat:write"}
    order = {"channel": "C1", "timestamp": "1.2", "name": "thumbsup"}
    with pytest.raises(Rejected, match="Add the scope reactions:write"):
        await run(Slack(reactions_add=answer), "add_reaction", order)


async def test_words_about_arguments_are_kept_and_secrets_in_them_are_not():
    metadata = {"messages": [f"[ERROR] must be a string [json-pointer:/text] {TOKEN}"]}
    answer = {"ok": False, "error": "invalid_arguments", "response_metadata": metadata}
    with pytest.raises(Rejected, match="json-pointer:/text") as caught:
        await run(Slack(chat_postMessage=answer), "post_message", {"channel": "C1", "text": "x"})
    assert TOKEN not in str(caught.value)


# Through the platform.


async def test_a_command_is_received_and_answered(tmp_path):
    async def slack(exchange: Exchange) -> None:
        while True:
            await exchange.request()
            await exchange.answer(200, b"ok")

    async with wire_server(slack) as hooks, running_platform(tmp_path, SlackConnector) as running:
        connection = await running.connect(
            "slack",
            secrets={"bot_token": TOKEN, "signing_secret": SECRET},
            settings={"base_url": hooks.url, "hooks_url": hooks.url},
        )

        async def send(body: bytes, content_type: str, at: float) -> httpx2.Response:
            signed = {"X-Slack-Signature": signature(body, int(at)), "X-Slack-Request-Timestamp": f"{at:.0f}"}
            return await running.client.post(
                connection["webhook_url"], content=body, headers={"Content-Type": content_type, **signed}
            )

        challenge = b'{"type": "url_verification", "token": "x", "challenge": "abc"}'
        answer = await send(challenge, JSON, int(time.time()))
        assert (answer.status_code, answer.text) == (200, "abc")

        command = body_of("slack.command.invoked.form").replace(
            b"https%3A%2F%2Fhooks.slack.com", hooks.url.replace(":", "%3A").replace("/", "%2F").encode()
        )
        assert (await send(command, FORM, int(time.time()) - 301)).status_code == 401
        for _ in range(2):  # the second is the same command, delivered again
            answer = await send(command, FORM, int(time.time()))
            assert (answer.status_code, answer.content) == (200, b"")
        await running.settled()
        [event] = await running.feed_of(1)
        assert event["type"] == "slack.command.invoked"

        order = {"response_url": event["payload"]["response_url"], "text": "It rains."}
        action = await running.act(connection["id"], "respond", order)
        assert action["state"] == "succeeded"
        assert hooks.requests[-1].startswith(b"POST /commands/T1DC2JH3J/397700885554/")
        assert hooks.requests[-1].endswith(b'{"text":"It rains."}')
