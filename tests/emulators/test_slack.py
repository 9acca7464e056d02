import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

import httpx2
import pytest
from slack_sdk import WebClient
from slack_sdk.signature import SignatureVerifier

from .emulate import HERE, emulated, free_port, url_of
from .platform import Connection, eventually

EMULATOR = "Slack (emulate, slack_sdk)"
SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
BOT, HUMAN, POOR = "xoxb-emulated-bot", "xoxp-emulated-human", "xoxb-emulated-poor"
CHANNEL = "C000000001"
FORM = "application/x-www-form-urlencoded"
SCOPES = ["chat:write", "reactions:write", "reactions:read", "files:write", "files:read"]
SCOPES += ["channels:history", "channels:read", "channels:join"]
MORE = [*SCOPES, "channels:manage", "pins:write"]

Connect = Callable[..., Connection]
Remark = Callable[[str], None]


@dataclass
class Slack:
    """The emulator as each side sees it."""

    url: str
    connection: Connection
    bot: WebClient
    human: WebClient


@pytest.fixture(scope="module")
def slack(connect: Connect, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slack]:
    port = free_port()
    connection = connect(
        "slack",
        secrets={"bot_token": BOT, "signing_secret": SECRET},
        settings={"base_url": url_of(port), "hooks_url": url_of(port)},
    )
    seed = {
        "slack": {
            "signing_secret": SECRET,
            "event_url": connection.webhook_url,
            "strict_scopes": True,
            "users": [{"name": "trunkline"}, {"name": "ann"}],
            "tokens": [
                {"token": BOT, "user": "trunkline", "type": "bot", "scopes": SCOPES},
                {"token": HUMAN, "user": "ann", "type": "user", "scopes": MORE},
                {"token": POOR, "user": "ann", "type": "bot", "scopes": ["channels:read"]},
            ],
        }
    }
    folder = tmp_path_factory.mktemp("slack")
    with emulated("slack", port, folder, seed, HERE / "slack_events.mjs") as url:
        bot, human = (WebClient(token, base_url=f"{url}/api/") for token in (BOT, HUMAN))
        for client in (bot, human):
            client.conversations_join(channel=CHANNEL)
        yield Slack(url, connection, bot, human)


def history(slack: Slack, ts: str) -> list[dict]:
    found = slack.bot.conversations_history(channel=CHANNEL, oldest=ts, latest=ts, inclusive=True)
    return [message for message in found["messages"] if message["ts"] == ts]


# Actions, and what Slack's own library then finds.


def test_post_message_is_in_the_channel(slack: Slack) -> None:
    blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": "*Grüße* & <ok>"}}]
    posted = slack.connection.act("post_message", channel=CHANNEL, text="Grüße", blocks=blocks)
    [message] = history(slack, posted["ts"])
    assert message["text"] == "Grüße"
    assert message["blocks"] == blocks


def test_post_message_answers_in_a_thread(slack: Slack) -> None:
    asked = slack.human.chat_postMessage(channel=CHANNEL, text="a question")
    answered = slack.connection.act("post_message", channel=CHANNEL, thread_ts=asked["ts"], text="an answer")
    replies = slack.bot.conversations_replies(channel=CHANNEL, ts=asked["ts"])["messages"]
    assert [reply["ts"] for reply in replies] == [asked["ts"], answered["ts"]]


def test_update_message_replaces_the_text(slack: Slack) -> None:
    ts = slack.connection.act("post_message", channel=CHANNEL, text="tpyo")["ts"]
    assert slack.connection.act("update_message", channel=CHANNEL, ts=ts, text="typo")["ts"] == ts
    assert [message["text"] for message in history(slack, ts)] == ["typo"]


def test_delete_message_deletes_it_and_says_so_if_it_was_gone(slack: Slack) -> None:
    ts = slack.connection.act("post_message", channel=CHANNEL, text="nobody saw this")["ts"]
    assert slack.connection.act("delete_message", channel=CHANNEL, ts=ts) == {"deleted": True}
    assert history(slack, ts) == []
    assert slack.connection.act("delete_message", channel=CHANNEL, ts=ts) == {"deleted": False}


def test_add_reaction_adds_it_and_says_so_if_it_was_there(slack: Slack) -> None:
    ts = slack.human.chat_postMessage(channel=CHANNEL, text="like me")["ts"]
    reaction = {"channel": CHANNEL, "timestamp": ts, "name": "thumbsup"}
    assert slack.connection.act("add_reaction", **reaction) == {"added": True}
    assert slack.connection.act("add_reaction", **reaction) == {"added": False}
    message = slack.bot.reactions_get(channel=CHANNEL, timestamp=ts)["message"]
    assert [(r["name"], r["count"]) for r in message["reactions"]] == [("thumbsup", 1)]


def test_upload_file_stores_the_bytes(slack: Slack) -> None:
    file = {"filename": "report.csv", "content_base64": "bmFtZSzigqwKYSwxCg=="}
    result = slack.connection.act(
        "upload_file", file=file, channel_id=CHANNEL, title="Report", initial_comment="Here it is"
    )
    known = slack.bot.files_info(file=result["file_id"])["file"]
    assert (known["name"], known["title"], known["channels"]) == ("report.csv", "Report", [CHANNEL])
    stored = httpx2.get(
        known["url_private_download"], headers={"Authorization": f"Bearer {BOT}"}, trust_env=False
    )
    assert stored.content == "name,€\na,1\n".encode()


def test_open_view_opens_a_modal(slack: Slack) -> None:
    trigger = slack.bot.api_call("views.generateTriggerId", json={})["trigger_id"]
    title = {"type": "plain_text", "text": "Order"}
    view = {"type": "modal", "callback_id": "order", "title": title, "blocks": []}
    opened = slack.connection.act("open_view", trigger_id=trigger, view=view)
    changed = slack.bot.views_update(view_id=opened["view_id"], view=view | {"callback_id": "paid"})
    assert (opened["view"]["callback_id"], changed["view"]["callback_id"]) == ("order", "paid")


def test_respond_posts_to_the_response_url(slack: Slack, remark: Remark) -> None:
    hook = f"{slack.url}/services/T000000001/B000000001/X000000001"
    assert slack.connection.act("respond", response_url=hook, text="Done") == {"ok": True}
    texts = [m["text"] for m in slack.bot.conversations_history(channel=CHANNEL)["messages"]]
    assert "Done" in texts
    remark("its incoming webhook stands for a response_url, which it has none of")


def test_the_check_accepts_the_token(slack: Slack) -> None:
    assert slack.connection.check()["ok"] is True


def test_the_emulator_takes_any_token(slack: Slack, remark: Remark) -> None:
    assert WebClient("xoxb-nobody", base_url=f"{slack.url}/api/").auth_test()["ok"]
    remark("so a bad token cannot be tried here")


def test_a_missing_scope_is_named(slack: Slack, connect: Connect) -> None:
    connection = connect(
        "slack", secrets={"bot_token": POOR, "signing_secret": SECRET}, settings={"base_url": slack.url}
    )
    job = connection.job("post_message", channel=CHANNEL, text="may I?")
    assert job["state"] == "failed"
    assert "missing_scope" in job["error"]["message"]
    assert "chat:write" in job["error"]["message"]


def test_an_unknown_channel_is_refused_for_good(slack: Slack) -> None:
    job = slack.connection.job("post_message", channel="C0NOBODY", text="hello?")
    assert (job["state"], job["error"]["code"]) == ("failed", "rejected")
    assert "channel_not_found" in job["error"]["message"]


# Events that the emulator sends and signs.


def seen(slack: Slack, kind: str, ts: str) -> dict:
    def found() -> list[dict]:
        return [e["payload"] for e in slack.connection.events(kind, 0) if e["payload"].get("ts") == ts]

    [payload] = eventually(found, lambda payloads: len(payloads) == 1)
    return payload


def test_what_somebody_writes_edits_and_deletes_becomes_events(slack: Slack) -> None:
    ts = slack.human.chat_postMessage(channel=CHANNEL, text="hello")["ts"]
    slack.human.chat_update(channel=CHANNEL, ts=ts, text="hello there")
    slack.human.chat_delete(channel=CHANNEL, ts=ts)
    ann = slack.human.auth_test()["user_id"]
    received = seen(slack, "slack.message.received", ts)
    assert (received["text"], received["user"], received["channel"]) == ("hello", ann, CHANNEL)
    edited = seen(slack, "slack.message.edited", ts)
    assert (edited["text"], edited["previous_text"]) == ("hello there", "hello")
    assert seen(slack, "slack.message.deleted", ts)["previous_text"] == "hello there"


def test_reactions_become_events(slack: Slack) -> None:
    ts = slack.human.chat_postMessage(channel=CHANNEL, text="react")["ts"]
    slack.human.reactions_add(channel=CHANNEL, timestamp=ts, name="eyes")
    slack.human.reactions_remove(channel=CHANNEL, timestamp=ts, name="eyes")
    assert seen(slack, "slack.reaction.added", ts)["reaction"] == "eyes"
    assert seen(slack, "slack.reaction.removed", ts)["reaction"] == "eyes"


def test_whatever_else_happens_in_the_workspace_becomes_events(slack: Slack, remark: Remark) -> None:
    human, bot = slack.human, slack.bot
    channel = human.conversations_create(name="project")["channel"]["id"]
    bot.conversations_join(channel=channel)
    human.conversations_setTopic(channel=channel, topic="Plans")
    ts = human.chat_postMessage(channel=channel, text="pin me")["ts"]
    human.pins_add(channel=channel, timestamp=ts)
    bot.views_publish(user_id=human.auth_test()["user_id"], view={"type": "home", "blocks": []})
    human.files_upload_v2(filename="a.txt", content="text", channel=channel)
    human.conversations_rename(channel=channel, name="plans")
    human.conversations_archive(channel=channel)
    assert channel in [e["payload"]["channel"] for e in slack.connection.events("slack.member.joined")]
    stored = [w for w in slack.connection.webhooks() if channel in w["body"] or "event_callback" in w["body"]]
    assert [w["reason_code"] for w in stored if w["state"] != "processed"] == []
    kinds = {json.loads(w["body"])["event"]["type"] for w in stored}
    others = {e["payload"]["kind"] for e in slack.connection.events("slack.event.received")}
    assert {"channel_rename", "file_shared", "pin_added"} <= others <= kinds
    remark(f"no event of their own: {', '.join(sorted(others))}")


def test_slacks_verifier_accepts_each_request_that_the_emulator_sent(slack: Slack) -> None:
    slack.human.chat_postMessage(channel=CHANNEL, text="signed")
    sent = [w for w in slack.connection.webhooks() if "event_callback" in (w["body"] or "")]
    assert len(sent) > 3
    verifier = SignatureVerifier(SECRET)
    assert all(verifier.is_valid_request(w["body"], dict(w["headers"])) for w in sent)
    assert {w["state"] for w in sent} == {"processed"}


def test_what_the_emulator_signs_with_another_secret_is_refused(slack: Slack) -> None:
    slack.connection.rotate(signing_secret="another")
    try:
        slack.human.chat_postMessage(channel=CHANNEL, text="never seen")
        assert slack.connection.refusals()[0] == "signature_differs"
    finally:
        slack.connection.rotate(signing_secret=SECRET)


# Slack's own signing and verifying, against ours.

COMMAND = urlencode(
    {"command": "/weather", "text": "94070 & more", "trigger_id": "13345224609.738474920.8088930838d88f008e0"}
    | {"team_id": "T0001", "channel_id": "C2147483705", "user_id": "U2147483697", "user_name": "Steve"}
    | {"response_url": "https://hooks.slack.com/commands/1234/5678", "api_app_id": "A123456"}
    | {"team_domain": "example", "channel_name": "test"}
).encode()
ACTION = urlencode(
    {
        "payload": json.dumps(
            {"type": "block_actions", "user": {"id": "U1"}, "team": {"id": "T1"}, "trigger_id": "12.34.abc"}
            | {"actions": [{"action_id": "approve", "block_id": "b", "type": "button", "value": "yes"}]}
        )
    }
).encode()


def signed(body: bytes, at: float = 0.0, secret: str = SECRET) -> dict[str, str]:
    timestamp = str(int(time.time() + at))
    signature = SignatureVerifier(secret).generate_signature(timestamp=timestamp, body=body)
    assert signature
    return {"X-Slack-Request-Timestamp": timestamp, "X-Slack-Signature": signature, "Content-Type": FORM}


def test_a_command_and_an_interaction_that_slacks_library_signed_become_events(
    slack: Slack, remark: Remark
) -> None:
    assert slack.connection.deliver(COMMAND, signed(COMMAND)) == 200
    assert slack.connection.deliver(ACTION, signed(ACTION)) == 200
    assert slack.connection.events("slack.command.invoked")[0]["payload"]["text"] == "94070 & more"
    assert slack.connection.events("slack.block_action.received")[0]["payload"]["value"] == "yes"
    remark("the emulator sends neither: slack_sdk signed them")


def test_the_handshake_is_answered(slack: Slack, remark: Remark) -> None:
    body = json.dumps({"type": "url_verification", "token": "old", "challenge": "3eZbrw1aB"}).encode()
    answer = slack.connection.answer(body, signed(body) | {"Content-Type": "application/json"})
    assert (answer.status_code, answer.text) == (200, "3eZbrw1aB")
    remark("the emulator sends none: slack_sdk signed it")


REQUESTS: dict[str, Callable[[], tuple[bytes, dict[str, str]]]] = {
    "genuine": lambda: (COMMAND, signed(COMMAND)),
    "late": lambda: (COMMAND, signed(COMMAND, -290)),
    "old": lambda: (COMMAND, signed(COMMAND, -400)),
    "from the future": lambda: (COMMAND, signed(COMMAND, 400)),
    "other body": lambda: (COMMAND + b"&text=more", signed(COMMAND)),
    "other secret": lambda: (COMMAND, signed(COMMAND, secret="another")),
    "other time": lambda: (
        COMMAND,
        signed(COMMAND) | {"X-Slack-Request-Timestamp": str(int(time.time()) - 7)},
    ),
    "other version": lambda: (
        COMMAND,
        signed(COMMAND) | {"X-Slack-Signature": signed(COMMAND)["X-Slack-Signature"].replace("v0=", "v1=")},
    ),
    "empty signature": lambda: (COMMAND, signed(COMMAND) | {"X-Slack-Signature": ""}),
}


@pytest.mark.parametrize("request_of", REQUESTS)
def test_slacks_verifier_and_ours_agree(slack: Slack, request_of: str) -> None:
    body, headers = REQUESTS[request_of]()
    theirs = SignatureVerifier(SECRET).is_valid_request(body, headers)
    assert slack.connection.deliver(body, headers) == (200 if theirs else 401)
    assert theirs == (request_of in ("genuine", "late"))


def test_slacks_verifier_and_ours_refuse_what_lacks_a_header(slack: Slack) -> None:
    for missing in ("X-Slack-Signature", "X-Slack-Request-Timestamp"):
        headers = {name: value for name, value in signed(COMMAND).items() if name != missing}
        assert not SignatureVerifier(SECRET).is_valid_request(COMMAND, headers)
        assert slack.connection.deliver(COMMAND, headers) == 401
