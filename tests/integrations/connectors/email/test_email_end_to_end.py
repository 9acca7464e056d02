"""Mail through a running platform: out of an action, over real servers, into the feed."""

import asyncio
import base64
import time
from pathlib import Path
from typing import Any

from conftest import PASSWORD, USER, ImapServer, SmtpServer

from app.integrations.connectors.email import EmailConnector
from tests.support.platform import Running, eventually, running_platform
from tests.support.process import connect, platform_process, walk


def mailbox(smtp: SmtpServer | None, imap: ImapServer | None, **more: Any) -> dict[str, Any]:
    """A connection's secrets and settings."""
    given: dict[str, Any] = {"username": USER, "allow_cleartext_login": True}
    if smtp is not None:
        given |= {
            "smtp_host": "127.0.0.1",
            "smtp_port": smtp.port,
            "smtp_security": "none",
            "smtp_username": "",
        }
        given |= {"from_address": "Ann <ann@example.com>"}
    if imap is not None:
        given |= {"imap_host": "127.0.0.1", "imap_port": imap.port, "imap_security": "none"}
    return {"secrets": {"password": PASSWORD}, "settings": {**given, **more}}


def mail(subject: str) -> bytes:
    return f"From: bob@example.net\r\nTo: ann@example.com\r\nSubject: {subject}\r\n\r\nHello.\r\n".encode()


async def polls(running: Running, connection: dict[str, Any]) -> list[dict[str, Any]]:
    return (await running.get(f"/api/v1/connections/{connection['id']}/polls"))["items"]


async def begun(running: Running, connection: dict[str, Any]) -> None:
    await eventually(
        lambda: polls(running, connection), lambda found: bool(found) and not found[0]["failures"]
    )


async def subjects(running: Running) -> list[str]:
    return [event["payload"]["subject"] for event in await running.feed()]


async def test_a_message_with_a_file_goes_out_and_comes_in(
    tmp_path: Path, smtp: SmtpServer, imap: ImapServer
) -> None:
    file = {"filename": "Übersicht.csv", "content_base64": base64.b64encode(bytes(range(256)) * 40).decode()}
    async with running_platform(tmp_path, EmailConnector) as running:
        made = await running.connect("email", **mailbox(smtp, imap))
        await begun(running, made)
        action = await running.act(
            made["id"],
            "send_email",
            {"to": ["Ann Ä <ann@example.com>"], "subject": "Grüße", "text": "Hello.", "attachments": [file]},
        )
        assert action["state"] == "succeeded", action
        assert action["result"]["message_id"] == f"<{action['id']}@example.com>"
        await imap.append(smtp.taken[0].content)
        (event,) = await running.feed_of(1)
        got = event["payload"]
        assert (event["type"], got["message_id"]) == (
            "email.message.received",
            action["result"]["message_id"],
        )
        assert (got["from"], got["subject"], got["text"]) == (
            {"name": "Ann", "address": "ann@example.com"}, "Grüße", "Hello.\n",
        )  # fmt: skip
        assert {name: got["attachments"][0][name] for name in file} == file
        answer = await running.act(
            made["id"],
            "reply_to_email",
            {"to": [got["from"]["address"]], "text": "Thanks.", "attachments": [file]}
            | {name: got[name] for name in ("message_id", "references", "in_reply_to", "subject")},
        )
        assert answer["state"] == "succeeded", answer
        await imap.append(smtp.taken[1].content)
        _, second = await running.feed_of(2)
        assert second["payload"]["subject"] == "Re: Grüße"
        assert second["payload"]["references"] == [got["message_id"]]


async def test_an_answer_that_was_lost_leaves_the_action_unknown_and_nothing_is_sent_twice(
    tmp_path: Path, smtp: SmtpServer
) -> None:
    payload = {"to": ["bob@example.net"], "text": "x"}
    async with running_platform(tmp_path, EmailConnector) as running:
        made = await running.connect("email", **mailbox(smtp, None))
        smtp.cut_after = "dot"
        lost = await running.act(made["id"], "send_email", payload)
        smtp.cut_after = ""
        smtp.replies["rcpt"] = "550 5.1.1 nobody here"
        refused = await running.act(made["id"], "send_email", payload)
        smtp.replies.clear()
        good = await running.act(made["id"], "send_email", payload)
        assert [action["state"] for action in (lost, refused, good)] == ["unknown", "failed", "succeeded"]
        assert refused["error"]["code"] == "rejected"
        assert len(smtp.taken) == 2
        assert await polls(running, made) == []  # it only sends


async def test_a_server_that_is_away_is_said_and_come_back_to(tmp_path: Path, imap: ImapServer) -> None:
    async with running_platform(tmp_path, EmailConnector) as running:
        made = await running.connect("email", **mailbox(None, imap))
        await begun(running, made)
        await imap.append(mail("before"))
        await running.feed_of(1)
        await imap.stop()
        (poll,) = await eventually(lambda: polls(running, made), lambda found: found[0]["failures"] >= 1)
        assert poll["error_code"] == "provider_unavailable"
        assert str(imap.port) in poll["error"]
        await imap.start()
        await imap.append(mail("while it was away"))
        assert [event["payload"]["subject"] for event in await running.feed_of(2)] == [
            "before",
            "while it was away",
        ]
        (poll,) = await polls(running, made)
        assert (poll["failures"], poll["error"]) == (0, None)


async def test_a_corrected_password_works_at_once(tmp_path: Path, imap: ImapServer) -> None:
    async with running_platform(tmp_path, EmailConnector) as running:
        made = await running.connect(
            "email", **mailbox(None, imap) | {"secrets": {"password": "wrong-password"}}
        )
        (poll,) = await eventually(lambda: polls(running, made), bool)
        assert poll["error_code"] == "authentication_failed"
        check = await running.client.post(f"/api/v1/connections/{made['id']}/check")
        assert check.json()["code"] == "authentication_failed"
        answer = await running.client.put(
            f"/api/v1/connections/{made['id']}/secrets", json={"secrets": {"password": PASSWORD}}
        )
        assert answer.status_code == 200, answer.text
        await begun(running, made)
        await imap.append(mail("now"))
        await running.feed_of(1)
        check = await running.client.post(f"/api/v1/connections/{made['id']}/check")
        assert check.json()["ok"] is True


async def test_a_message_is_an_event_within_a_second_where_the_server_tells(
    tmp_path: Path, imap: ImapServer
) -> None:
    async with running_platform(tmp_path, EmailConnector) as running:
        made = await running.connect("email", **mailbox(None, imap, poll_every=60))
        await begun(running, made)
        await eventually(_value(lambda: any(line.endswith(b" IDLE") for line in imap.commands)), bool)
        began = time.monotonic()
        await imap.append(mail("quick"))
        await running.feed_of(1)
        assert time.monotonic() - began < 1
    # The platform has ended although a poll was waiting.
    await eventually(_value(lambda: len(imap._connections)), lambda count: count == 0, 5)


async def test_a_folder_numbered_anew_makes_no_event_twice(tmp_path: Path, imap: ImapServer) -> None:
    async with running_platform(tmp_path, EmailConnector) as running:
        made = await running.connect("email", **mailbox(None, imap, folders=["Orders"], start_at="beginning"))
        await imap.create("Orders")
        await imap.append(mail("1"), mail("2"), folder="Orders")
        await running.feed_of(2, timeout=20)

        def renumber(client: Any) -> None:
            for command in (
                lambda: client.rename("Orders", "Old"),
                lambda: client.create("Orders"),
                lambda: client.select("Old"),
                lambda: client.copy("1:*", "Orders"), lambda: client.append("Orders", None, None, mail("3")),
            ):  # fmt: skip
                assert command()[0] == "OK"

        await imap.do(renumber)
        # Whoever is told of the old folder would not hear of the new one before the next look.
        await running.client.patch(f"/api/v1/connections/{made['id']}", json={"enabled": False})
        await running.client.patch(f"/api/v1/connections/{made['id']}", json={"enabled": True})
        events = await running.feed_of(3)
        assert sorted(await subjects(running)) == ["1", "2", "3"]
        assert events[2]["payload"]["uidvalidity"] != events[0]["payload"]["uidvalidity"]


async def test_killed_amid_a_stream_of_messages_every_one_is_one_event(
    tmp_path: Path, imap: ImapServer
) -> None:
    sent = 0
    async with platform_process(tmp_path / "data", stop_timeout=2) as process:
        async with process.client() as client:
            made = await connect(client, "email", **mailbox(None, imap))

            async def known() -> Any:
                return (await client.get(f"/api/v1/connections/{made['id']}/polls")).json()["items"]

            await eventually(known, lambda found: bool(found) and found[0]["polled_at"] is not None)

        async def stream(killing: asyncio.Task[None]) -> None:
            nonlocal sent
            while not killing.done():
                await imap.append(*[mail(str(number)) for number in range(sent, sent + 3)])
                sent += 3
                await asyncio.sleep(0.03)

        async def kill() -> None:
            for after in (0.45, 0.2):
                await asyncio.sleep(after)
                process.kill()
                await process.start()
            await asyncio.sleep(0.3)

        await stream(asyncio.create_task(kill()))
        async with process.client() as client:

            async def feed() -> list[dict[str, Any]]:
                return await walk_feed(client)

            events = await eventually(feed, lambda found: len(found) >= sent, 30)
            assert sorted(int(event["payload"]["subject"]) for event in events) == list(range(sent))
            webhooks = await walk(client, "/api/v1/webhooks")
            assert {webhook["state"] for webhook in webhooks} == {"processed"}
    assert sent > 30


async def walk_feed(client: Any) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    query: dict[str, Any] = {"limit": 1000}
    while True:
        answer = await client.get("/api/v1/events", params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        if not page["items"]:
            return events
        events += page["items"]
        query["after"] = page["next"]


def _value(look: Any) -> Any:
    async def seen() -> Any:
        return look()

    return seen
