"""Reading by IMAP (RFC 3501, RFC 9051).

A message is known by its folder's UIDVALIDITY and its UID, which only grow; the cursor holds the last ones
seen. Folders are opened read-only and bodies fetched with PEEK, so that nothing looks read because of us.
imap-tools is synchronous: it runs in a thread, over a socket that `cut` ends from outside.
"""

import asyncio
import base64
import contextlib
import imaplib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypeVar, cast

from imap_tools import BaseMailBox, ImapToolsError, MailboxFolderSelectError, MailboxLoginError
from pydantic import BaseModel

from app.integrations.base import call
from app.integrations.errors import AuthenticationFailed, ProviderError, Rejected, Unavailable
from app.integrations.http import ConnectorHttp

from .schemas import PORTS, EmailSettings, FetchedMessage, spellings, trust

T = TypeVar("T")

REPLY_SECONDS = 30.0
"""For connecting, and for each piece of an answer."""

LONGEST_WAIT = 55.0
"""Seconds that one poll waits for news; a changed setting counts after it. RFC 2177 allows 29 minutes."""

LOOK_SECONDS = 60.0
"""A look that has brought something fetches no more after this time."""

MOST_MESSAGES = 20
MOST_BYTES = 8_000_000
"""What one poll brings at most, so that a backlog is never in memory; one large message may be alone."""

MOST_HEADER_BYTES = 65536
LONGEST_LINE = 4_000_000

LARGEST_NUMBER = 2**63 - 1
"""RFC 9051, 9 has no larger one, and what is stored has none."""

UID_WINDOW = 10_000
"""A longer way to the newest message is searched in pieces."""

DEDUPE_WINDOW = timedelta(days=6)
"""The platform recognises repeated events for seven days at least (TRUNKLINE_DEDUPE_DAYS)."""

CLOCK_MARGIN = timedelta(hours=1)
"""How far the server's clock may be from ours."""

TRIES = 3
"""So many failures to fetch one message make an event without content of it: it holds up the others."""


class Renumbered(BaseModel):
    """What is read again of a folder that was numbered anew: up to a UID, since a time if there is one."""

    upto: int
    since: datetime | None = None


class FolderCursor(BaseModel):
    """How far a folder has been read.

    began    when watching began, if what was there before is not wanted
    current  when the folder had last been read to its end
    """

    uidvalidity: int
    uid: int
    began: datetime | None = None
    current: datetime | None = None
    again: Renumbered | None = None


class Cursor(BaseModel):
    """What the platform keeps between two polls."""

    folders: dict[str, FolderCursor] = {}


@dataclass(frozen=True)
class Found:
    """What a look brought; `unfinished` if a fault came after it, which the next look will meet again."""

    items: list[dict[str, Any]]
    cursor: Cursor
    unfinished: bool


class MailReader:
    """Reads new messages of the watched folders, over a connection that is kept between polls."""

    def __init__(self, settings: EmailSettings, password: str, http: ConnectorHttp) -> None:
        self._settings = settings
        self._password = password
        self._http = http.bind(redact=spellings(settings.imap_login, password))
        self._session: Session | None = None
        self._closed = False
        self._due = 0.0  # on the monotonic clock: when to look again
        self._turn = 0  # the folder that comes first
        self._failed: dict[tuple[str, int, int], int] = {}

    async def poll(self, text: str | None) -> tuple[list[dict[str, Any]], str | None]:
        """New messages, after waiting for them a while. The first poll returns at once: its cursor is where
        everything begins, and has to be on disk before anything is waited for."""
        cursor = Cursor() if text is None else Cursor.model_validate_json(text)
        kept = self._session is not None
        if text is not None and kept and self._due > time.monotonic():
            try:
                news = await self._wait(cursor)
            except Unavailable:
                # Servers end connections that are idle; a new one tells whether anything is wrong.
                news = True
            if not news and self._due > time.monotonic():
                return [], text
        try:
            found = await self._in_session(lambda session: self._look(session, cursor))
        except Unavailable:
            if not kept:
                raise
            found = await self._in_session(lambda session: self._look(session, cursor))
        self._due = 0.0 if found.items or found.unfinished else time.monotonic() + self._pause()
        return found.items, found.cursor.model_dump_json(exclude_none=True)

    def _pause(self) -> float:
        """Seconds to the next look, if there is no word from the server before."""
        told = self._session is not None and self._session.tells and len(self._settings.folders) == 1
        return LONGEST_WAIT if told else self._settings.poll_every

    async def check(self) -> None:
        """Raises AuthenticationFailed if the server refuses the login, another ProviderError otherwise."""
        session = Session(self._settings, self._password, self._http)

        def look() -> None:
            for folder in self._settings.folders:
                session.examine(folder)

        try:
            await self._run(session, look)
        finally:
            session.cut()

    def close(self) -> None:
        """Ends the connection, also while a thread is waiting on it. Never waits itself."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            session.cut()

    async def _wait(self, cursor: Cursor) -> bool:
        """Waits until the server tells of something new, or it is time to look; whether there are news."""
        left = min(self._due - time.monotonic(), LONGEST_WAIT)
        session, folder = self._session, self._settings.folders[0]
        if session is None or not session.tells:
            await asyncio.sleep(left)
            return False
        seen = cursor.folders.get(folder)
        return await self._run(session, lambda: session.wait_for_news(folder, seen, left))

    async def _in_session(self, work: Callable[["Session"], T]) -> T:
        session = self._session
        if self._closed:
            raise Unavailable("The connection was given up.")
        if session is None:
            session = self._session = Session(self._settings, self._password, self._http)
        return await self._run(session, lambda: work(session))

    async def _run(self, session: "Session", work: Callable[[], T]) -> T:
        """Runs work in a thread. Whoever gives it up does not wait for the server: the connection is cut."""
        try:
            return cast(T, await call(session.run, work))
        except BaseException:
            session.cut()
            if self._session is session:
                self._session = None
            raise

    # In a thread.

    def _look(self, session: "Session", cursor: Cursor) -> Found:
        """Reads the folders in turn. What was read is kept, also if a fault comes after it."""
        folders = self._settings.folders
        first = self._turn % len(folders)
        known = {name: state for name, state in cursor.folders.items() if name in folders}
        batch = _Batch(self._settings)
        fault: ProviderError | None = None
        for folder in [*folders[first:], *folders[:first]]:
            if batch.is_full:
                break
            try:
                with session.faults():
                    batch.states[folder] = self._read(session, folder, known.get(folder), batch)
            except Rejected as error:  # of this folder alone
                fault = fault or error
            except ProviderError as error:
                fault = error
                break
        # A folder that is new is to be kept too: it would begin with another now the next time.
        if fault is not None and not batch.items and batch.states.keys() <= known.keys():
            raise fault
        self._turn += 1
        return Found(batch.items, Cursor(folders=known | batch.states), fault is not None)

    def _read(
        self, session: "Session", folder: str, state: FolderCursor | None, batch: "_Batch"
    ) -> FolderCursor:
        opened = session.examine(folder)
        now = datetime.now(UTC)
        if state is None:
            if self._settings.start_at == "now":
                return FolderCursor(
                    uidvalidity=opened.uidvalidity, uid=session.last_uid(opened), began=now, current=now
                )
            state = FolderCursor(uidvalidity=opened.uidvalidity, uid=0)
        if state.uidvalidity != opened.uidvalidity:
            state = _renumbered(state, opened.uidvalidity, session.last_uid(opened))
        while (again := state.again) is not None:
            uids = session.search(state.uid + 1, again.upto, again.since)
            state = self._fetch(session, folder, state, uids, batch, again.since)
            if batch.is_full:
                return state
            state = state.model_copy(update={"uid": max(state.uid, again.upto), "again": None})
            batch.states[folder] = state
        complete = False
        while not complete:
            uids, complete = session.new_uids(state.uid, opened)
            state = self._fetch(session, folder, state, uids, batch, None)
            if batch.is_full:
                return state
        # Every number below UIDNEXT that was not found is gone for good (RFC 9051, 2.3.1.1).
        last = max(state.uid, (opened.uidnext or 1) - 1)
        return state.model_copy(update={"uid": last, "current": now})

    def _fetch(
        self,
        session: "Session",
        folder: str,
        state: FolderCursor,
        uids: Sequence[int],
        batch: "_Batch",
        since: datetime | None,
    ) -> FolderCursor:
        """Fetches messages one after another until the batch is full, and says how far it came."""
        for at in range(0, len(uids), MOST_MESSAGES):
            some = uids[at : at + MOST_MESSAGES]
            outlines = session.outlines(some)
            for uid in some:
                outline = outlines.get(uid, Outline(uid, 0, None))
                if since is None or not outline.before(since):
                    if not batch.has_room(outline.size):
                        return state
                    item = self._item(session, folder, state.uidvalidity, outline)
                    if item is not None:
                        batch.add(item)
                state = state.model_copy(update={"uid": uid})
                batch.states[folder] = state
        return state

    def _item(
        self, session: "Session", folder: str, uidvalidity: int, outline: "Outline"
    ) -> FetchedMessage | None:
        """None if the message was removed meanwhile."""
        key = (folder, uidvalidity, outline.uid)
        too_large = outline.size > self._settings.max_message_bytes
        content: bytes | None = b""
        left_out: Literal["too_large", "not_fetched"] | None = "too_large" if too_large else None
        if self._failed.get(key, 0) >= TRIES:
            left_out = "not_fetched"
        else:
            try:
                with session.faults():
                    content = session.content(outline.uid, headers_only=too_large)
            except ProviderError:
                self._failed[key] = self._failed.get(key, 0) + 1
                raise
        self._failed.pop(key, None)
        if content is None:
            return None
        return FetchedMessage(
            folder=folder,
            uidvalidity=uidvalidity,
            uid=outline.uid,
            size=outline.size or len(content),
            received_at=outline.received_at.isoformat() if outline.received_at else None,
            content_base64=base64.b64encode(content).decode("ascii"),
            left_out=left_out,
        )


def _renumbered(state: FolderCursor, uidvalidity: int, last_uid: int) -> FolderCursor:
    """All numbers changed: what may have arrived unseen is read again, and what was seen is recognised.

    Everything that was there at the last complete look has been seen. Six days before it are read again, for
    what was moved in with an older date; more would be too old for the platform to recognise repetitions.
    """
    since = None if state.current is None else state.current - DEDUPE_WINDOW
    if state.began is not None:
        began = state.began - CLOCK_MARGIN
        since = began if since is None else max(since, began)
    again = Renumbered(upto=last_uid, since=since)
    return state.model_copy(update={"uidvalidity": uidvalidity, "uid": 0, "again": again})


class _Batch:
    """What one poll brings. `states` say how far each folder has come with it."""

    def __init__(self, settings: EmailSettings) -> None:
        self.items: list[dict[str, Any]] = []
        self.states: dict[str, FolderCursor] = {}
        self.is_full = False
        self._largest = settings.max_message_bytes
        self._bytes = 0
        self._until = time.monotonic() + LOOK_SECONDS

    def has_room(self, size: int) -> bool:
        """Whether one more message of this size may come; if not, the batch is full."""
        size = min(size, self._largest)
        over = len(self.items) >= MOST_MESSAGES or self._bytes + size > MOST_BYTES
        self.is_full = bool(self.items) and (over or time.monotonic() > self._until)
        return not self.is_full

    def add(self, item: FetchedMessage) -> None:
        self.items.append(item.model_dump())
        self._bytes += len(item.content_base64)


@dataclass(frozen=True)
class Opened:
    """What the server says of a folder when it is opened."""

    uidvalidity: int
    uidnext: int | None
    exists: int


@dataclass(frozen=True)
class Outline:
    """A message's number, size, and when the server got it."""

    uid: int
    size: int
    received_at: datetime | None

    def before(self, since: datetime) -> bool:
        return self.received_at is not None and self.received_at < since


class Session:
    """One connection to the server, used by one thread at a time; `cut` may be called from any."""

    def __init__(self, settings: EmailSettings, password: str, http: ConnectorHttp) -> None:
        self.tells = False  # whether the server has IDLE (RFC 2177)
        self._settings = settings
        self._password = password
        self._http = http
        self._port = settings.imap_port or PORTS["imap"][settings.imap_security]
        self._mailbox: BaseMailBox | None = None
        self._sock: socket.socket | None = None
        self._cut = False
        self._using = threading.Lock()
        self._folder = ""
        self._exists = 0

    def run(self, work: Callable[[], T]) -> T:
        """Connects if that has not been done, and works. Raises ProviderError."""
        with self._using:
            try:
                with self.faults():
                    if self._mailbox is None:
                        self._open()
                    return work()
            finally:
                if self._cut:
                    self._close()

    def cut(self) -> None:
        """Ends the connection at once: a thread that waits for the server gets an error."""
        self._cut = True
        if self._sock is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket's own, which would change what the other thread is using.
                socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
        if self._using.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._using.release()

    def _close(self) -> None:
        sock, self._sock, self._mailbox = self._sock, None, None
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()

    @property
    def server(self) -> str:
        return f"The mail server {self._settings.imap_host}:{self._port}"

    @contextlib.contextmanager
    def faults(self) -> Iterator[None]:
        """Whatever goes wrong in here becomes a ProviderError."""
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise Unavailable(
                f"{self.server} has a certificate that is not trusted ({error.verify_message}); "
                "ca_certificates takes authorities of your own."
            ) from None
        except OSError as error:
            raise Unavailable(
                f"{self.server} was not reached, or broke off: {self._words(error) or type(error).__name__}."
            ) from None
        except (imaplib.IMAP4.error, ImapToolsError) as error:
            raise Unavailable(f"{self.server} did not do what was asked: {self._words(error)}.") from None
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            # Both libraries take an answer apart as if it were what they expect.
            raise Unavailable(
                f"{self.server} gave an answer that is not IMAP ({type(error).__name__})."
            ) from None

    # Opening.

    def _open(self) -> None:
        settings, host = self._settings, str(self._settings.imap_host)
        if not self._password:
            raise AuthenticationFailed("There is no password: set the secret password or imap_password.")
        context = trust(settings.ca_certificates)
        largest = 2 * settings.max_message_bytes + 1_000_000

        def connect() -> ImapClient:
            client = ImapClient(
                host,
                self._port,
                context if settings.imap_security == "tls" else None,
                largest,
                self._connected,
            )
            if settings.imap_security == "starttls":
                client.starttls(context)
                self._connected(client.sock)
            return client

        self._mailbox = _MailBox(connect)
        client = self._client
        self._login()
        # What it offers may be more after the login.
        offered = b" ".join(part for part in client.capability()[1] if part).upper().split()
        self.tells = b"IDLE" in offered

    def _connected(self, sock: socket.socket) -> None:
        self._sock = sock
        if self._cut:
            raise ConnectionAbortedError("the connection was given up")

    @property
    def _client(self) -> "ImapClient":
        if self._mailbox is None or self._cut:
            raise ConnectionAbortedError("the connection was given up")
        client = self._mailbox.client
        assert isinstance(client, ImapClient)
        return client

    def _login(self) -> None:
        client, mailbox, username = self._client, self._mailbox, self._settings.imap_login
        assert mailbox is not None
        try:
            if client.state == "AUTH":
                return  # the server knows already who this is (PREAUTH)
            if "AUTH=PLAIN" in client.capabilities:
                mailbox.login_utf8(username, self._password, None)
            elif "LOGINDISABLED" in client.capabilities:
                raise Rejected(f"{self.server} takes no password here: set imap_security to tls or starttls.")
            elif not (username + self._password).isascii():
                raise Rejected(f"{self.server} takes only ASCII in user names and passwords.")
            else:
                mailbox.login(username, self._password, None)
        except imaplib.IMAP4.abort:
            raise
        except (imaplib.IMAP4.error, MailboxLoginError) as error:
            raise _login_error(self.server, self._words(error)) from None

    # Asking.

    def examine(self, folder: str) -> Opened:
        """Opens a folder read-only. Raises Rejected if it cannot be opened."""
        client = self._client
        assert self._mailbox is not None
        try:
            exists = self._mailbox.folder.set(folder, readonly=True)[1]
        except MailboxFolderSelectError as error:
            words = self._words(error)
            if _TEMPORARY.search(words):
                raise
            raise Rejected(
                f"{self.server} does not open the folder '{self._http.redacted(folder)}' ({words}). Correct "
                "the setting folders."
            ) from None
        self._folder = folder
        self._exists = int(exists[-1] or 0)
        numbers = {name: client.response(name)[1][-1] for name in ("UIDVALIDITY", "UIDNEXT")}
        uidnext = numbers["UIDNEXT"]
        return Opened(
            _number(numbers["UIDVALIDITY"] or 0), _number(uidnext) if uidnext else None, self._exists
        )

    def last_uid(self, opened: Opened) -> int:
        """The highest number given away so far."""
        if opened.uidnext is not None:
            return opened.uidnext - 1
        return max(self._search("UID *"), default=0)

    def new_uids(self, after: int, opened: Opened) -> tuple[list[int], bool]:
        """Numbers beyond `after`, and whether these are all."""
        if opened.uidnext is not None and opened.uidnext - after > UID_WINDOW:
            # So that the answer for a huge folder is short; where there is a gap, all is asked for.
            near = self.search(after + 1, after + UID_WINDOW, None)
            if near:
                return near, False
        return self.search(after + 1, None, None), True

    def search(self, first: int, last: int | None, since: datetime | None) -> list[int]:
        """Numbers from `first` on, in order."""
        if last is not None and last < first:
            return []
        criteria = f"UID {first}:{'*' if last is None else last}"
        if since is not None:
            # It compares dates without their time zone; the time itself is looked at later.
            day = since - timedelta(days=1)
            criteria += f" SINCE {day.day}-{_MONTHS[day.month - 1]}-{day.year}"
        # "n:*" always includes the last message, also where n is beyond it (RFC 9051, 6.4.8).
        return [uid for uid in self._search(criteria) if uid >= first and (last is None or uid <= last)]

    def _search(self, criteria: str) -> list[int]:
        status, data = self._client.uid("SEARCH", criteria)
        self._well(status, data)
        return sorted({_number(number) for line in data if line for number in line.split()})

    def outlines(self, uids: Sequence[int]) -> dict[int, Outline]:
        status, data = self._client.uid("FETCH", ",".join(map(str, uids)), "(UID RFC822.SIZE INTERNALDATE)")
        self._well(status, data)
        found: dict[int, Outline] = {}
        for line in data:
            text = b" ".join(line) if isinstance(line, tuple) else line or b""
            uid, size = _UID.search(text), _SIZE.search(text)
            if uid is not None and size is not None:
                date = _INTERNALDATE.search(text)
                number, moment = _number(uid[1]), _moment(date[1]) if date else None
                found[number] = Outline(number, _number(size[1]), moment)
        return found

    def content(self, uid: int, *, headers_only: bool) -> bytes | None:
        """A message, or its headers as far as they are of a bearable length; None if it is gone."""
        what = f"BODY.PEEK[HEADER]<0.{MOST_HEADER_BYTES}>" if headers_only else "BODY.PEEK[]"
        status, data = self._client.uid("FETCH", str(uid), f"(UID {what})")
        self._well(status, data)
        for at, line in enumerate(data):
            # The server may speak of other messages in between; attributes come in any order.
            if isinstance(line, tuple):
                after = data[at + 1] if at + 1 < len(data) and isinstance(data[at + 1], bytes) else b""
                number = _UID.search(line[0]) or _UID.search(after)
                if b"BODY[" in line[0].upper() and (number is None or int(number[1]) == uid):
                    return bytes(line[1])
            elif line and (short := _SHORT_BODY.search(line)):
                return re.sub(rb"\\(.)", rb"\1", short[1] or b"")
        return None

    def _well(self, status: str, data: Sequence[Any]) -> None:
        if status != "OK":
            said = b" ".join(part for part in data if isinstance(part, bytes)).decode("utf-8", "replace")
            raise imaplib.IMAP4.error(said)

    # Waiting.

    def wait_for_news(self, folder: str, seen: FolderCursor | None, seconds: float) -> bool:
        """Waits until the server tells of a new message in the folder (IDLE, RFC 2177); whether it did."""
        client = self._client
        if self._folder != folder:
            opened = self.examine(folder)
            if seen is None or opened.uidvalidity != seen.uidvalidity or (opened.uidnext or 0) - 1 > seen.uid:
                return True
        client.noop()  # it tells what happened since the last look
        if self._news():
            return True
        until = time.monotonic() + seconds
        tag = client._command("IDLE")
        while client._get_response() is not None:
            if client.tagged_commands[tag] is not None:
                del client.tagged_commands[tag]
                self.tells = False  # it was offered and is refused
                return False
        news = self._news()
        try:
            while not news and (left := until - time.monotonic()) > 0:
                client.sock.settimeout(left)
                client._get_response()
                client._check_bye()
                news = self._news()
        except TimeoutError:
            pass
        finally:
            client.sock.settimeout(REPLY_SECONDS)
        client.send(b"DONE\r\n")
        while client.tagged_commands[tag] is None:
            client._get_response()
        del client.tagged_commands[tag]
        return news

    def _news(self) -> bool:
        """Whether there are more messages than were known, by what the server has said meanwhile."""
        client = self._client
        gone = len([one for one in client.response("EXPUNGE")[1] if one])
        exists = [int(number) for number in client.response("EXISTS")[1] if number]
        before, self._exists = self._exists - gone, exists[-1] if exists else self._exists - gone
        return self._exists > before

    def _words(self, error: Exception) -> str:
        """A server's words, which may be inside of a library's, in one line that can be shown."""
        result = getattr(error, "command_result", None)
        parts = result[1] if isinstance(result, tuple) and len(result) > 1 else [str(error)]
        said = " ".join(p.decode("utf-8", "replace") if isinstance(p, bytes) else str(p) for p in parts)
        # imaplib quotes the line, which is a piece of a message if its length was told wrong.
        said = re.sub(r"(unexpected[\w ]* response): .*", r"\1", said, flags=re.DOTALL)
        return self._http.redacted(" ".join(re.sub(r"[\x00-\x1f\x7f]", " ", said).split()))[:300].rstrip(".")


# RFC 5530's codes, and what servers say that have none: a reason to come again, not to change a password.
_TEMPORARY = re.compile(
    r"UNAVAILABLE|SERVERBUG|CONTACTADMIN|INUSE|LIMIT\b|OVERQUOTA|temporar|try again|later|internal|too many|"
    r"time[d ]*out|busy|down for",
    re.IGNORECASE,
)


def _login_error(server: str, said: str) -> ProviderError:
    """RFC 9051, 6.2.3: NO means that user name or password was rejected, unless its code says otherwise."""
    if "command error: BAD" in said or (
        "AUTHENTICATIONFAILED" not in said.upper() and _TEMPORARY.search(said)
    ):
        return Unavailable(f"{server} cannot check logins now ({said}).")
    if re.search(r"PRIVACYREQUIRED", said, re.IGNORECASE):
        return Rejected(f"{server} takes no password here ({said}): set imap_security to tls or starttls.")
    return AuthenticationFailed(
        f"{server} refused the login ({said}). Check the username and the password; many providers want an "
        "app password."
    )


_UID = re.compile(rb"\bUID (\d+)", re.IGNORECASE)
_SIZE = re.compile(rb"\bRFC822\.SIZE (\d+)", re.IGNORECASE)
_INTERNALDATE = re.compile(rb'\bINTERNALDATE "([^"]{1,40})"', re.IGNORECASE)
_SHORT_BODY = re.compile(rb'\bBODY\[(?:HEADER)?\](?:<\d+>)? (?:NIL|"((?:[^"\\]|\\.)*)")', re.IGNORECASE)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _number(text: bytes | int) -> int:
    """Raises ValueError if there is no such number in IMAP: in the cursor, nothing would come after it."""
    number = int(text)
    if not 0 <= number <= LARGEST_NUMBER:
        raise ValueError("a number that IMAP does not have")
    return number


def _moment(text: bytes) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text.decode("ascii").strip())
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class _MailBox(BaseMailBox):
    """imap-tools' mailbox over a client of our own."""

    def __init__(self, connect: Callable[[], "ImapClient"]) -> None:
        self._connect = connect
        super().__init__()

    def _get_mailbox_client(self) -> "ImapClient":
        return self._connect()


class ImapClient(imaplib.IMAP4):
    """imaplib's client with input of its own.

    Its own reads a file made of the socket, which is of no use any more after a timeout; but waiting for news
    is made of timeouts. And it would take a literal of any size.
    """

    def __init__(
        self,
        host: str,
        port: int,
        context: ssl.SSLContext | None,
        largest: int,
        connected: Callable[[socket.socket], None],
    ) -> None:
        self._context = context
        self._largest = largest
        self._connected = connected
        self._incoming = bytearray()
        self._received = 0  # bytes since we have last said something
        super().__init__(host, port, REPLY_SECONDS)

    def open(self, host: str = "", port: int = 143, timeout: float | None = None) -> None:
        self.host, self.port = host, port
        self.sock = socket.create_connection((host, port), timeout)
        if self._context is not None:
            self._encrypt(self._context)
        try:
            self._connected(self.sock)
        except OSError:
            self.sock.close()
            raise

    def starttls(self, ssl_context: Any | None = None) -> Any:
        """RFC 9051, 6.2.1. What the server said before is forgotten: anybody could have said it."""
        if "STARTTLS" not in self.capabilities:
            raise self.abort("it offers no STARTTLS")
        status, data = self.xatom("STARTTLS")
        if status != "OK":
            raise self.abort("it refused STARTTLS")
        self._incoming.clear()
        self.untagged_responses.clear()
        self._encrypt(ssl_context)
        self._get_capabilities()
        return status, data

    def _encrypt(self, context: Any) -> None:
        plain = self.sock
        try:
            self.sock = context.wrap_socket(plain, server_hostname=self.host)
        except BaseException:
            plain.close()
            raise

    def read(self, size: int) -> bytes:
        if size > self._largest:
            raise self.abort(f"it wants to send {size} bytes at once")
        while len(self._incoming) < size:
            self._receive()
        return self._taken(size)

    def readline(self) -> bytes:
        searched = 0
        while (end := self._incoming.find(b"\n", searched)) < 0:
            searched = len(self._incoming)
            if searched > LONGEST_LINE:
                raise self.abort(f"it sent a line of more than {LONGEST_LINE} bytes")
            self._receive()
        return self._taken(end + 1)

    def send(self, data: Any) -> None:
        self._received = 0
        self.sock.sendall(data)

    def shutdown(self) -> None:
        self.sock.close()

    def _receive(self) -> None:
        data = self.sock.recv(256 * 1024)
        if not data:
            raise self.abort("it closed the connection")
        self._received += len(data)
        if self._received > self._largest + LONGEST_LINE:
            # Each piece may be of a bearable size, and all of them are kept until the answer ends.
            raise self.abort(f"it sent more than {self._largest + LONGEST_LINE} bytes as one answer")
        self._incoming += data

    def _taken(self, size: int) -> bytes:
        taken = bytes(self._incoming[:size])
        del self._incoming[:size]
        return taken
