"""Messages come from a real IMAP server, and some from servers that behave as no server should."""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import PASSWORD, USER, Certificate, ImapServer, free_port, imap_server, talking

from app.integrations.connectors.email import EmailConnector
from app.integrations.connectors.email import imap as imap_module
from app.integrations.connectors.email.schemas import EmailSettings
from app.integrations.errors import AuthenticationFailed, ProviderError, Refused, Rejected, Unavailable
from app.integrations.http import ConnectorHttp
from app.integrations.requests import Headers, WebhookRequest


def reader(server: ImapServer | int, password: str = PASSWORD, **more: Any) -> EmailConnector:
    given = {
        "imap_host": "127.0.0.1",
        "imap_port": server if isinstance(server, int) else server.port,
        "imap_security": "none",
        "allow_cleartext_login": True,
        "username": USER,
    }
    return EmailConnector(
        settings=EmailSettings(**{**given, **more}), http=ConnectorHttp(redact=[password]), password=password
    )


def mail(number: int | str, text: str = "Hello.") -> bytes:
    return (
        f"From: Bob <bob@example.net>\r\nTo: ann@example.com\r\nSubject: {number}\r\n"
        f"Message-ID: <{number}@example.net>\r\n\r\n{text}\r\n"
    ).encode()


class Following:
    """Polls as the platform does: each from where the one before ended."""

    def __init__(self, connector: EmailConnector, cursor: str | None = None) -> None:
        self.connector = connector
        self.cursor = cursor

    async def poll(self) -> list[str]:
        """The subjects of what is there, without waiting for news."""
        self.connector.reader._due = 0.0
        return await self.wait()

    async def wait(self) -> list[str]:
        """The subjects of what comes."""
        items, self.cursor = await self.connector.poll_messages(self.cursor)
        events = [await self.connector.handle_webhook(item) for item in items]
        return [event.payload["subject"] for event in events]

    async def all(self) -> list[str]:
        """Until nothing is left."""
        found: list[str] = []
        while more := await self.poll():
            found += more
        return found

    def folder(self, name: str = "INBOX") -> dict[str, Any]:
        return json.loads(self.cursor or "{}")["folders"][name]


async def following(server: ImapServer, **more: Any) -> Following:
    """One that has begun: what comes from now on is new."""
    made = Following(reader(server, **more))
    assert await made.poll() == []
    return made


async def test_it_begins_now(imap: ImapServer) -> None:
    await imap.append(mail("old"))
    inbox = await following(imap)
    await imap.append(mail(1), mail(2))
    assert await inbox.poll() == ["1", "2"]
    assert await inbox.poll() == []


async def test_or_with_what_is_there(imap: ImapServer) -> None:
    await imap.append(mail("old"), mail("older"))
    inbox = Following(reader(imap, start_at="beginning"))
    assert await inbox.all() == ["old", "older"]


async def test_an_empty_folder_begins_too(imap: ImapServer) -> None:
    inbox = await following(imap)
    assert await inbox.poll() == []
    await imap.append(mail(1))
    assert await inbox.poll() == ["1"]


async def test_nothing_is_marked_as_read(imap: ImapServer) -> None:
    inbox = await following(imap)
    await imap.append(mail(1))
    assert await inbox.poll() == ["1"]
    assert not any(b"Seen" in flags for flags in await imap.flags())
    assert not any(re.match(rb"\w+ (SELECT|UID STORE|UID FETCH .* BODY\[)", line) for line in imap.commands)


async def test_an_old_cursor_brings_again_what_was_not_stored(imap: ImapServer) -> None:
    inbox = await following(imap)
    before = inbox.cursor
    await imap.append(mail(1), mail(2))
    assert await inbox.poll() == ["1", "2"]
    assert await Following(reader(imap), before).poll() == ["1", "2"]  # as after a crash
    items, _ = await reader(imap).poll_messages(before)
    again, _ = await reader(imap).poll_messages(before)
    assert items == again


async def test_the_last_message_is_not_brought_again_and_again(imap: ImapServer) -> None:
    # UID n:* includes the last message also where n is beyond it.
    inbox = await following(imap)
    await imap.append(mail(1))
    assert await inbox.all() == ["1"]
    assert await Following(reader(imap), inbox.cursor).all() == []


async def test_a_backlog_comes_in_pieces(imap: ImapServer) -> None:
    inbox = await following(imap)
    await imap.append(*[mail(number) for number in range(45)])
    pieces = [await inbox.poll() for _ in range(4)]
    assert [len(piece) for piece in pieces] == [20, 20, 5, 0]
    assert [subject for piece in pieces for subject in piece] == [str(number) for number in range(45)]


async def test_large_messages_come_in_smaller_pieces(
    imap: ImapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imap_module, "MOST_BYTES", 5000)
    inbox = await following(imap)
    await imap.append(*[mail(number, "x" * 3000) for number in range(3)])
    assert [len(await inbox.poll()) for _ in range(4)] == [1, 1, 1, 0]


async def test_a_slow_server_is_not_waited_for_beyond_what_it_gave(
    imap: ImapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imap_module, "LOOK_SECONDS", 0.0)
    inbox = await following(imap)
    await imap.append(mail(1), mail(2))
    assert [await inbox.poll(), await inbox.poll()] == [["1"], ["2"]]


async def test_of_an_oversize_message_only_headers_are_fetched(imap: ImapServer) -> None:
    inbox = await following(imap, max_message_bytes=2000)
    huge = b"X-Long: " + b"x" * 200_000 + b"\r\n"
    await imap.append(mail("large", "x" * 5000), huge + mail("headers"), mail("small"))
    items, _ = await inbox.connector.poll_messages(inbox.cursor)
    assert [item["left_out"] for item in items] == ["too_large", "too_large", None]
    large = (await inbox.connector.handle_webhook(items[0])).payload
    assert (large["subject"], large["text"], large["message_id"]) == ("large", None, "<large@example.net>")
    assert large["size"] > 5000
    assert len(items[1]["content_base64"]) < 100_000


async def test_a_search_is_not_as_long_as_the_way_to_the_newest(
    imap: ImapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imap_module, "UID_WINDOW", 10)
    await imap.append(*[mail(number) for number in range(35)])
    assert len(await Following(reader(imap, start_at="beginning")).all()) == 35


async def test_gaps_in_the_numbers_are_no_end(imap: ImapServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imap_module, "UID_WINDOW", 3)
    inbox = await following(imap)
    await imap.append(*[mail(number) for number in range(12)])
    await imap.do(
        lambda client: (client.select(), client.store("1:11", "+FLAGS", r"(\Deleted)"), client.expunge())
    )
    assert await inbox.all() == ["11"]


# Folders numbered anew.


async def renumber(server: ImapServer, *messages: bytes) -> None:
    """Makes INBOX anew: another UIDVALIDITY, the old messages with their dates, and some new ones."""

    def work(client: Any) -> None:
        old = f"Old{time.monotonic_ns()}"
        assert client.rename("INBOX", old)[0] == "OK"
        client.select(old)
        if client.search(None, "ALL")[1] != [b""]:
            assert client.copy("1:*", "INBOX")[0] == "OK"

    await server.do(work)
    await server.append(*messages)


async def test_a_folder_numbered_anew_is_read_again_and_nothing_in_it_is_skipped(imap: ImapServer) -> None:
    inbox = await following(imap)
    await imap.append(mail(1), mail(2))
    items, inbox.cursor = await inbox.connector.poll_messages(inbox.cursor)
    ids = {(await inbox.connector.handle_webhook(item)).external_id for item in items}
    before = inbox.folder()["uidvalidity"]
    await renumber(imap, mail(3))
    items, inbox.cursor = await inbox.connector.poll_messages(inbox.cursor)
    again = [(await inbox.connector.handle_webhook(item)) for item in items]
    assert [event.payload["subject"] for event in again] == ["1", "2", "3"]
    assert {event.external_id for event in again[:2]} == ids  # so the platform stores them once
    assert inbox.folder()["uidvalidity"] != before
    await imap.append(mail(4))
    assert await inbox.all() == ["4"]


async def test_what_was_there_before_it_began_stays_out_when_a_folder_is_numbered_anew(
    imap: ImapServer,
) -> None:
    now = datetime.now(UTC)
    await imap.append(mail("last week"), at=now - timedelta(days=7))
    await imap.append(mail("two hours ago"), at=now - timedelta(hours=2))
    inbox = await following(imap)
    await renumber(imap, mail("new"))
    assert await inbox.all() == ["new"]


async def test_what_is_older_than_what_the_platform_recognises_is_not_read_again(imap: ImapServer) -> None:
    now = datetime.now(UTC)
    await imap.append(mail("long ago"), at=now - timedelta(days=40))
    await imap.append(mail("lately"), at=now - timedelta(days=2))
    inbox = Following(reader(imap, start_at="beginning"))
    assert await inbox.all() == ["long ago", "lately"]
    await renumber(imap, mail("new"))
    assert await inbox.all() == ["lately", "new"]


async def test_a_backlog_that_was_not_finished_is_begun_again(
    imap: ImapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imap_module, "MOST_MESSAGES", 2)
    await imap.append(*[mail(n) for n in range(5)], at=datetime.now(UTC) - timedelta(days=40))
    inbox = Following(reader(imap, start_at="beginning"))
    assert await inbox.poll() == ["0", "1"]
    await renumber(imap, mail("new"))
    assert await inbox.all() == ["0", "1", "2", "3", "4", "new"]


async def test_reading_again_goes_on_over_a_restart_and_another_numbering(
    imap: ImapServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imap_module, "MOST_MESSAGES", 2)
    inbox = await following(imap)
    await imap.append(*[mail(number) for number in range(5)])
    assert len(await inbox.all()) == 5
    await renumber(imap)
    assert await inbox.poll() == ["0", "1"]
    inbox = Following(reader(imap), inbox.cursor)
    assert await inbox.poll() == ["2", "3"]
    await renumber(imap, mail("new"))
    assert await inbox.all() == ["0", "1", "2", "3", "4", "new"]


# Several folders.


async def test_folders_are_read_in_turn(imap: ImapServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imap_module, "MOST_MESSAGES", 3)
    await imap.create("Auftr&AOQ-ge/2026")  # RFC 3501, 5.1.3: modified UTF-7
    both = await following(imap, folders=["INBOX", "Aufträge/2026"])
    await imap.append(*[mail(f"a{number}") for number in range(9)])
    await imap.append(mail("b"), folder="Auftr&AOQ-ge/2026")
    first, second = await both.poll(), await both.poll()
    assert "b" in first + second
    assert sorted([*first, *second, *await both.all()]) == [*(f"a{number}" for number in range(9)), "b"]


async def test_a_folder_that_is_missing_holds_up_no_other_and_is_said(imap: ImapServer) -> None:
    both = Following(reader(imap, folders=["Missing", "INBOX"]))
    assert await both.poll() == []  # where INBOX begins is kept
    with pytest.raises(Rejected, match=r"'Missing'.*setting folders"):
        await both.poll()
    await imap.append(mail(1))
    assert await both.poll() == ["1"]
    with pytest.raises(Rejected, match="Missing"):
        await both.connector.check()


async def test_a_folder_that_is_added_begins_when_it_is(imap: ImapServer) -> None:
    inbox = await following(imap)
    await imap.create("Orders")
    await imap.append(mail("old"), folder="Orders")
    await imap.append(mail(1))
    both = Following(reader(imap, folders=["INBOX", "Orders"]), inbox.cursor)
    assert await both.poll() == ["1"]
    await imap.append(mail("new"), folder="Orders")
    assert await both.all() == ["new"]


# Waiting for news.


async def test_news_come_at_once_where_the_server_tells(imap: ImapServer) -> None:
    inbox = await following(imap, poll_every=60)
    waiting = asyncio.create_task(inbox.wait())
    await until(lambda: any(line.endswith(b" IDLE") for line in imap.commands))
    assert not waiting.done()
    began = time.monotonic()
    await imap.append(mail(1))
    assert await waiting == ["1"]
    assert time.monotonic() - began < 1


async def test_what_came_between_two_polls_is_not_waited_for(imap: ImapServer) -> None:
    inbox = await following(imap, poll_every=60)
    assert await asyncio.wait_for(idle_once(inbox, imap), 5) == []
    await imap.append(mail(1))
    began = time.monotonic()
    inbox.connector.reader._due = time.monotonic() + 60
    assert await inbox.wait() == ["1"]
    assert time.monotonic() - began < 1


async def idle_once(inbox: Following, imap: ImapServer) -> list[str]:
    """Waits in vain for a moment."""
    inbox.connector.reader._due = time.monotonic() + 0.2
    found = await inbox.wait()
    assert any(line.endswith(b" IDLE") for line in imap.commands)
    return found


async def test_where_the_server_does_not_tell_it_is_asked_in_between() -> None:
    async with imap_server(idle=False) as server:
        inbox = await following(server, poll_every=1)
        await server.append(mail(1))
        began = time.monotonic()
        assert await inbox.wait() == ["1"]
        assert 0.5 < time.monotonic() - began < 3
        assert not any(line.endswith(b" IDLE") for line in server.commands)


async def test_of_several_folders_the_others_are_asked_in_between(imap: ImapServer) -> None:
    await imap.create("Orders")
    both = await following(imap, folders=["INBOX", "Orders"], poll_every=1)
    await imap.append(mail("b"), folder="Orders")
    assert await both.wait() == ["b"]
    both.connector.reader._due = time.monotonic() + 60
    waiting = asyncio.create_task(both.wait())
    await until(lambda: any(line.endswith(b" IDLE") for line in imap.commands[-1:]))
    await imap.append(mail("a"))
    assert await asyncio.wait_for(waiting, 2) == ["a"]


async def test_giving_up_while_waiting_does_not_wait_for_the_server(imap: ImapServer) -> None:
    inbox = await following(imap)
    for end in ("cancel", "close"):
        imap.commands.clear()
        if end == "close":
            await inbox.poll()
        waiting = asyncio.create_task(inbox.wait())
        await until(lambda: any(line.endswith(b" IDLE") for line in imap.commands))
        began = time.monotonic()
        if end == "cancel":
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        else:
            await inbox.connector.aclose()
            await asyncio.wait([waiting], timeout=5)
            assert waiting.done()
        assert time.monotonic() - began < 1
    await until(lambda: not imap._connections)
    await inbox.connector.aclose()


async def test_after_giving_up_it_goes_on_where_it_was(imap: ImapServer) -> None:
    inbox = await following(imap)
    waiting = asyncio.create_task(inbox.wait())
    await until(lambda: any(line.endswith(b" IDLE") for line in imap.commands))
    waiting.cancel()
    await asyncio.wait([waiting])
    await imap.append(mail(1))
    assert await inbox.poll() == ["1"]


# Outages and refusals.


async def test_a_server_that_restarts_is_connected_to_again(imap: ImapServer) -> None:
    inbox = await following(imap)
    await imap.stop()
    with pytest.raises(Unavailable):
        await inbox.wait()
    await imap.start()
    await imap.append(mail(1))
    assert await inbox.poll() == ["1"]
    for number, poll in ((2, inbox.poll), (3, inbox.wait)):  # a connection that ended meanwhile is no failure
        await imap.stop()
        await imap.start()
        await imap.append(mail(number))
        assert await asyncio.wait_for(poll(), 5) == [str(number)]


async def test_tls_and_starttls(certificate: Certificate) -> None:
    async with imap_server(tls=certificate.context, implicit_tls=True) as server:
        trusted = reader(
            server, imap_security="tls", ca_certificates=certificate.pem, allow_cleartext_login=False
        )
        await trusted.check()
        with pytest.raises(Unavailable, match="ca_certificates"):
            await reader(server, imap_security="tls").check()
        inbox = Following(trusted)
        await inbox.poll()
        waiting = asyncio.create_task(inbox.wait())
        await until(lambda: any(line.endswith(b" IDLE") for line in server.commands))
        await server.append(mail("over TLS", "x" * 100_000))
        assert await asyncio.wait_for(waiting, 3) == ["over TLS"]
        await trusted.aclose()
    async with imap_server(tls=certificate.context) as server:
        await reader(server, imap_security="starttls", ca_certificates=certificate.pem).check()
        with pytest.raises(Unavailable, match="ca_certificates"):
            await reader(server, imap_security="starttls").check()


async def test_starttls_that_is_not_offered_is_not_done_without(imap: ImapServer) -> None:
    with pytest.raises(Unavailable, match="STARTTLS"):
        await reader(imap, imap_security="starttls").check()
    assert not any(b"LOGIN" in line or b"AUTHENTICATE" in line for line in imap.commands)


async def test_a_wrong_password_is_reported_as_one(imap: ImapServer) -> None:
    await reader(imap).check()
    for what in (reader(imap, "wrong-password").check(), reader(imap, "wrong-password").poll_messages(None)):
        with pytest.raises(AuthenticationFailed) as caught:
            await what
        assert "wrong-password" not in str(caught.value)
    with pytest.raises(AuthenticationFailed, match="imap_password"):
        await reader(imap, "").check()


async def test_no_password_is_sent_where_the_server_wants_none_in_the_clear() -> None:
    answers = {"CAPABILITY": ["* CAPABILITY IMAP4REV1 LOGINDISABLED", "OK done"], "LOGIN": "OK in"}
    async with talking(scripted(answers)) as port:
        with pytest.raises(Rejected, match="imap_security"):
            await reader(port).check()


async def test_passwords_beyond_ascii() -> None:
    async with imap_server(password="pässwörd") as server:
        await reader(server, "pässwörd").check()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("NO [AUTHENTICATIONFAILED] Invalid credentials (Failure)", AuthenticationFailed),
        ("NO LOGIN failed.", AuthenticationFailed),
        ("NO [UNAVAILABLE] User lookup failed", Unavailable),
        ("NO [LIMIT] Too many connections", Unavailable),
        ("NO Temporary authentication failure", Unavailable),
        ("NO [INUSE] mailbox is locked", Unavailable),
        ("NO [PRIVACYREQUIRED] TLS first", Rejected),
        ("BAD what", Unavailable),
        (f"NO you said {PASSWORD}", AuthenticationFailed),
    ],
)
async def test_only_a_refused_password_is_reported_as_one(answer: str, kind: type[ProviderError]) -> None:
    async with talking(scripted({"LOGIN": answer})) as port:
        with pytest.raises(ProviderError) as caught:
            await reader(port).check()
    assert type(caught.value) is kind
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    "greeting",
    [b"", b"* BYE busy\r\n", b"220 mail.test SMTP\r\n", b"\x00\xff\r\n", b"* OK {99999999999}\r\n",
     b"x" * 300,
     b"* OK\n",
     b"* PREAUTH hello\r\n"],
)  # fmt: skip
async def test_what_is_no_imap_server_is_an_outage(greeting: bytes) -> None:
    async def serve(source: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)

    async with talking(serve) as port:
        for what in (reader(port).check(), reader(port).poll_messages(None)):
            with pytest.raises(Unavailable):
                await what
    with pytest.raises(Unavailable):
        await reader(free_port()).check()


async def test_a_server_that_says_nothing_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imap_module, "REPLY_SECONDS", 0.2)

    async def serve(source: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await source.read()

    async with talking(serve) as port:
        with pytest.raises(Unavailable):
            await asyncio.wait_for(reader(port).poll_messages(None), 3)


FOLDER = ("* 1 EXISTS", "* OK [UIDVALIDITY 7] v", "* OK [UIDNEXT 6] n")
HAVING_ONE = {
    "EXAMINE": [*FOLDER, "OK [READ-ONLY] done"],
    "UID SEARCH": ["* SEARCH 5", "OK done"],
    "UID FETCH 5 (UID RFC822": [
        '* 1 FETCH (RFC822.SIZE 20 INTERNALDATE " 1-Nov-2026 00:00:00 +0000" UID 5)',
        "OK done",
    ],
}


@pytest.mark.parametrize(
    ("fetched", "subjects"),
    [
        (["* 1 FETCH (UID 5 BODY[] {14}\r\nSubject: a\r\n\r\n)", "OK done"], ["a"]),
        (["* 1 FETCH (BODY[] {14}\r\nSubject: a\r\n\r\n UID 5)", "OK done"], ["a"]),
        (
            [
                "* 2 FETCH (FLAGS (\\Seen) UID 6)",
                "* 1 FETCH (UID 5 BODY[] {14}\r\nSubject: a\r\n\r\n)",
                "OK done",
            ],
            ["a"],
        ),
        (
            [
                "* 2 FETCH (UID 6 BODY[] {1}\r\nx)",
                "* 1 FETCH (UID 5 BODY[] {14}\r\nSubject: a\r\n\r\n)",
                "OK done",
            ],
            ["a"],
        ),
        (['* 1 FETCH (UID 5 BODY[] "Subject: \\"a\\"")', "OK done"], ['"a"']),
        (['* 1 FETCH (UID 5 BODY[] "")', "OK done"], [None]),
        (["* 1 FETCH (UID 5 BODY[] NIL)", "OK done"], [None]),
        (["OK removed meanwhile"], []),
    ],
)
async def test_however_a_server_writes_a_message_it_is_read(
    fetched: list[str], subjects: list[str | None]
) -> None:
    async with talking(scripted({**HAVING_ONE, "UID FETCH 5 (UID BODY": fetched})) as port:
        inbox = Following(reader(port, start_at="beginning"))
        assert await inbox.poll() == subjects
        assert inbox.folder()["uid"] == 5


async def test_a_message_that_cannot_be_fetched_holds_up_the_others_three_times() -> None:
    answers = {
        "EXAMINE": ["* 2 EXISTS", "* OK [UIDVALIDITY 7] v", "* OK [UIDNEXT 8] n", "OK [READ-ONLY] done"],
        "UID SEARCH UID 1:": ["* SEARCH 5 6 7", "OK done"],
        "UID SEARCH UID 6:": ["* SEARCH 6 7", "OK done"],
        "UID SEARCH UID 8:": ["* SEARCH 7", "OK done"],
        "UID FETCH 5,6,7": [*(f"* {n} FETCH (UID {n + 4} RFC822.SIZE 20)" for n in (1, 2, 3)), "OK done"],
        "UID FETCH 6,7": [*(f"* {n} FETCH (UID {n + 4} RFC822.SIZE 20)" for n in (2, 3)), "OK done"],
        "UID FETCH 5 ": ["* 1 FETCH (UID 5 BODY[] {14}\r\nSubject: 5\r\n\r\n)", "OK done"],
        "UID FETCH 6 ": ["NO [SERVERBUG] it crashed"],
        "UID FETCH 7 ": ["* 3 FETCH (UID 7 BODY[] {14}\r\nSubject: 7\r\n\r\n)", "OK done"],
    }
    async with talking(scripted(answers)) as port:
        inbox = Following(reader(port, start_at="beginning"))
        assert await inbox.poll() == ["5"]  # what came before it is not lost
        with pytest.raises(Unavailable, match="SERVERBUG"):
            await inbox.poll()
        found: list[str] = []
        while not found:
            with contextlib.suppress(Unavailable):
                found = await inbox.poll()
        assert found == [None, "7"]
        assert await inbox.poll() == []


@pytest.mark.parametrize(
    "answers",
    [
        {"EXAMINE": ["* x EXISTS", "* OK [UIDVALIDITY many] v", "OK done"]},
        {"EXAMINE": ["* 1 EXISTS", "* OK [UIDVALIDITY 7] v", f"* OK [UIDNEXT {10**20}] n", "OK done"]},
        {**HAVING_ONE, "UID SEARCH": [f"* SEARCH {10**20}", "OK done"]},
        {**HAVING_ONE, "UID FETCH 5 (UID RFC822": [f"* 1 FETCH (UID 5 RFC822.SIZE {10**20})", "OK done"]},
        {**HAVING_ONE, "UID SEARCH": ["* SEARCH five", "OK done"]},
        {**HAVING_ONE, "UID SEARCH": ["BAD no"]},
        {**HAVING_ONE, "UID FETCH 5 (UID BODY": ["* 1 FETCH (UID 5 BODY[] {99999999999}", "OK"]},
        {**HAVING_ONE, "UID FETCH 5 (UID BODY": ["* 1 FETCH (UID 5 BODY[] {50}\r\nshort"]},
        {**HAVING_ONE, "UID FETCH 5 (UID BODY": ["nonsense"]},
        {"EXAMINE": ["* BYE going down"]},
        {"EXAMINE": ["NO [UNAVAILABLE] later"]},
    ],
)
async def test_answers_that_make_no_sense_are_an_outage(
    answers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imap_module, "REPLY_SECONDS", 0.5)
    async with talking(scripted(answers)) as port:
        with pytest.raises(Unavailable):
            await reader(port, start_at="beginning").poll_messages(None)


async def test_a_line_without_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imap_module, "LONGEST_LINE", 100_000)

    async def serve(source: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(100):
            writer.write(b"x" * 10_000)
            await writer.drain()

    async with talking(serve) as port:
        with pytest.raises(Unavailable):
            await reader(port).check()


async def test_pieces_without_end_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imap_module, "LONGEST_LINE", 100_000)
    piece = "* 1 FETCH (UID 5 BODY[] {90000}\r\n" + "x" * 90_000 + ")"
    answers = {**HAVING_ONE, "UID FETCH 5 (UID BODY": [piece] * 20 + ["OK done"]}
    async with talking(scripted(answers)) as port:
        with pytest.raises(Unavailable, match="as one answer"):
            await reader(port, start_at="beginning", max_message_bytes=1000).poll_messages(None)


async def test_a_message_whose_length_is_told_wrong_is_not_quoted() -> None:
    answers = {
        **HAVING_ONE,
        "UID FETCH 5 (UID BODY": ["* 1 FETCH (UID 5 BODY[] {5}\r\nHello\r\nthe pin is 4711\r\n)", "OK done"],
    }
    async with talking(scripted(answers)) as port:
        with pytest.raises(Unavailable, match="unexpected response") as raised:
            await reader(port, start_at="beginning").poll_messages(None)
    assert "pin" not in str(raised.value)


@pytest.mark.parametrize("date", ["17-Jul-2024 02:44:25 +99999999999999", "17-Jul-99999999 02:44:25 +0000"])
async def test_a_date_that_is_none_holds_up_no_message(date: str) -> None:
    outline = f'* 1 FETCH (UID 5 RFC822.SIZE 20 INTERNALDATE "{date}")'
    answers = {
        **HAVING_ONE,
        "UID FETCH 5 (UID RFC822": [outline, "OK done"],
        "UID FETCH 5 (UID BODY": ["* 1 FETCH (UID 5 BODY[] {14}\r\nSubject: 5\r\n\r\n)", "OK done"],
    }
    async with talking(scripted(answers)) as port:
        assert await Following(reader(port, start_at="beginning")).poll() == ["5"]


async def test_an_idle_that_is_offered_and_refused_is_done_without() -> None:
    answers = {
        **HAVING_ONE,
        "CAPABILITY": ["* CAPABILITY IMAP4REV1 IDLE", "OK done"],
        "IDLE": ["NO not today"],
    }
    async with talking(scripted(answers)) as port:
        inbox = Following(reader(port))
        await inbox.poll()
        assert await inbox.wait() == []
        assert inbox.connector.reader._session is not None
        assert inbox.connector.reader._session.tells is False


async def test_news_beside_the_answer_to_idle_are_heard() -> None:
    heard = asyncio.Event()
    answers = {
        "CAPABILITY": ["* CAPABILITY IMAP4REV1 IDLE", "OK done"],
        "EXAMINE": ["* 0 EXISTS", "* OK [UIDVALIDITY 7] v", "* OK [UIDNEXT 5] n", "OK [READ-ONLY] done"],
        "UID SEARCH": ["* SEARCH", "OK done"],
        "IDLE": ["* 1 EXISTS", "+ idling"],
        "DONE": heard.set,
    }
    async with talking(scripted(answers)) as port:
        inbox = Following(reader(port))
        await inbox.poll()
        waiting = asyncio.create_task(inbox.wait())
        await asyncio.wait_for(heard.wait(), 3)
        waiting.cancel()
        await asyncio.wait([waiting])


# What is not there.


def test_a_connection_that_only_sends_polls_nothing() -> None:
    settings = EmailSettings(smtp_host="mail.example.com", from_address="ann@example.com")
    connector = EmailConnector(settings=settings, http=ConnectorHttp())
    assert connector.poll_enabled(connector.polls[0], None) is False
    assert reader(993).poll_enabled(connector.polls[0], "https://hooks.example.com") is True


@pytest.mark.parametrize("headers", [[], [("authorization", "Bearer x")]])
def test_nobody_can_send_a_message_to_the_webhook_url(headers: list[tuple[str, str]]) -> None:
    connector = reader(993)
    request = WebhookRequest("POST", "https://hooks.example.com", Headers(headers), b"{}", connector.body)
    assert connector.verification is not None
    with pytest.raises(Refused, match="fetched"):
        connector.verification.verify(request, {}, 0.0)


def scripted(answers: dict[str, Any]) -> Any:
    """An IMAP server of canned answers, by how commands begin; the longest beginning counts."""
    known = {
        "CAPABILITY": ["* CAPABILITY IMAP4REV1", "OK done"],
        "LOGIN": "OK in",
        "NOOP": "OK done",
        "LOGOUT": ["* BYE", "OK done"],
        **answers,
    }

    async def serve(source: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"* OK ready\r\n")
        tag = b""
        while line := (await source.readline()).strip():
            tag, command = (tag, line) if line == b"DONE" else line.split(b" ", 1)
            beginnings = [name for name in known if command.upper().startswith(name.encode())]
            answer = known[max(beginnings, key=len)] if beginnings else "BAD unknown"
            if callable(answer):
                answer()
                answer = "OK done"
            for said in [answer] if isinstance(answer, str) else answer:
                tagged = said.split(" ")[0] in ("OK", "NO", "BAD")
                writer.write((tag + b" " if tagged else b"") + said.encode() + b"\r\n")

    return serve


async def until(there: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline, "it never was"
        await asyncio.sleep(0.01)
