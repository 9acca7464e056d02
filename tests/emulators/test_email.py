from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .dovecot import PASSWORD, USER, Dovecot, dovecot, missing
from .platform import Connection, eventually

EMULATOR = "Email (Dovecot, imaplib)"
RECEIVED = "email.message.received"
# Longer than any of these tests: what arrives before was told by the server itself.
NEVER = 86400

Connect = Callable[..., Connection]


@pytest.fixture(scope="module")
def server() -> Iterator[Dovecot]:
    if reason := missing():
        pytest.skip(reason)
    with dovecot() as running:
        yield running


@pytest.fixture
def mailbox(server: Dovecot, connect: Connect) -> Iterator[Callable[..., Connection]]:
    """Makes a connection that is gone after the test."""
    made: list[Connection] = []

    def connection(password: str = PASSWORD, **settings: Any) -> Connection:
        common = {"imap_host": server.host, "imap_port": server.tls_port, "username": USER}
        common |= {"ca_certificates": server.authority, "start_at": "beginning"}
        made.append(connect("email", secrets={"password": password}, settings=common | settings))
        return made[-1]

    yield connection
    for one in made:
        one.delete()


def message(number: int, subject: str = "Hello", body: str = "Hi there") -> bytes:
    head = f"From: Ann <ann@example.com>\r\nTo: desk@example.com\r\nSubject: {subject}\r\n"
    head += f"Message-ID: <{number}@example.com>\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\n"
    return f"{head}Content-Type: text/plain; charset=utf-8\r\n\r\n{body}\r\n".encode()


def ids(connection: Connection, count: int, of: str | None = None, timeout: float = 15.0) -> list[str]:
    """Message-IDs of the events of a folder, or all, once there are `count` of them."""

    def look() -> list[str]:
        payloads = [event["payload"] for event in connection.events(RECEIVED, 0)]
        return [payload["message_id"] for payload in payloads if of in (None, payload["folder"])]

    return eventually(look, lambda found: len(found) >= count, timeout)


def test_what_is_in_the_folder_becomes_events(server: Dovecot, mailbox: Callable[..., Connection]) -> None:
    server.create("Old")
    server.put(message(1, "=?utf-8?b?R3LDvMOfZQ==?=", "Schöne Grüße"), "Old")
    server.put(message(2), "Old")
    connection = mailbox(folders=["Old"], poll_every=1)
    first, second = (event["payload"] for event in connection.events(RECEIVED, 2))
    assert (first["subject"], first["text"].strip(), first["uid"]) == ("Grüße", "Schöne Grüße", 1)
    assert first["from"] == {"name": "Ann", "address": "ann@example.com"}
    assert (second["message_id"], second["uidvalidity"]) == ("<2@example.com>", server.uidvalidity("Old"))
    assert server.looked_at("Old") == []


def test_the_server_tells_of_new_mail_by_itself(server: Dovecot, mailbox: Callable[..., Connection]) -> None:
    server.create("Told")
    server.put(message(1), "Told")
    connection = mailbox(folders=["Told"], poll_every=NEVER)
    assert ids(connection, 1) == ["<1@example.com>"]
    for number in (2, 3):
        server.put(message(number), "Told")
        assert ids(connection, number)[-1] == f"<{number}@example.com>"


@pytest.mark.parametrize("others", [["INBOX"], []], ids=["looked at in turn", "waited for"])
def test_in_a_folder_that_was_made_anew_only_new_messages_become_events(
    server: Dovecot, mailbox: Callable[..., Connection], others: list[str]
) -> None:
    folder = f"Anew {len(others)}"
    server.create(folder)
    server.put(message(1), folder)
    server.put(message(2), folder)
    connection = mailbox(folders=[folder, *others], poll_every=1)
    assert ids(connection, 2, of=folder) == ["<1@example.com>", "<2@example.com>"]
    before = server.uidvalidity(folder)
    server.replace_folder(folder)
    server.put(message(2), folder)
    server.put(message(3), folder)
    # Who waits in a folder is not told that it is gone: then it shows at the next look, within a minute.
    found = ids(connection, 3, of=folder, timeout=90)
    assert found == ["<1@example.com>", "<2@example.com>", "<3@example.com>"]
    numbered = {
        event["payload"]["message_id"]: event["payload"]["uidvalidity"]
        for event in connection.events(RECEIVED)
        if event["payload"]["folder"] == folder
    }
    assert numbered == {
        "<1@example.com>": before,
        "<2@example.com>": before,
        "<3@example.com>": server.uidvalidity(folder),
    }


def test_several_folders_are_watched(server: Dovecot, mailbox: Callable[..., Connection]) -> None:
    connection = mailbox(folders=["INBOX", "Ärger & mehr"], poll_every=1)
    server.create("&AMQ-rger &- mehr")
    server.put(message(11), "INBOX")
    server.put(message(12), "&AMQ-rger &- mehr")
    found = {event["payload"]["message_id"] for event in connection.events(RECEIVED, 2)}
    assert found == {"<11@example.com>", "<12@example.com>"}


def test_an_outage_is_survived_and_nothing_comes_twice(
    server: Dovecot, mailbox: Callable[..., Connection]
) -> None:
    server.create("Outage")
    server.put(message(1), "Outage")
    connection = mailbox(folders=["Outage"], poll_every=NEVER)
    assert ids(connection, 1) == ["<1@example.com>"]
    server.stop()
    assert connection.check()["code"] != "authentication_failed"
    server.start()
    for number in (2, 3):
        server.put(message(number), "Outage")
    assert ids(connection, 3) == ["<1@example.com>", "<2@example.com>", "<3@example.com>"]


def test_the_check_tells_a_good_password_from_a_bad_one(mailbox: Callable[..., Connection]) -> None:
    assert mailbox().check()["ok"] is True
    assert mailbox(password="wrong").check()["code"] == "authentication_failed"


def test_starttls_works_and_so_does_cleartext_where_it_is_allowed(
    server: Dovecot, mailbox: Callable[..., Connection]
) -> None:
    assert mailbox(imap_port=server.port, imap_security="starttls").check()["ok"] is True
    plain = {"imap_port": server.port, "imap_security": "none", "allow_cleartext_login": True}
    assert mailbox(**plain).check()["ok"] is True


def test_a_certificate_that_nobody_vouches_for_is_refused_and_no_bad_password(
    server: Dovecot, mailbox: Callable[..., Connection]
) -> None:
    for settings in ({}, {"imap_port": server.port, "imap_security": "starttls"}):
        checked = mailbox(ca_certificates=None, **settings).check()
        assert checked["ok"] is not True
        assert checked["code"] != "authentication_failed"
