"""Messages as bytes (RFC 5322, MIME: RFC 2045 to 2049, RFC 2231, RFC 6532): writing ours, reading anybody's.

What is read comes from strangers and from decades of broken software. So it is taken apart by functions of
our own, which have an answer for everything and take time in proportion to its length; the library reads
single headers. Whatever cannot be read is named in the event's notes and left out.
"""

import base64
import binascii
import contextlib
import email.policy
import hashlib
import mimetypes
import quopri
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.errors import MessageError
from email.header import Header
from email.message import EmailMessage, Message
from email.parser import BytesHeaderParser
from email.utils import format_datetime, getaddresses, parsedate_to_datetime, quote
from functools import partial
from typing import TypeVar

from app.integrations.errors import Rejected

from .schemas import (
    Correspondent,
    EmailSettings,
    FetchedMessage,
    MessageReceived,
    ReceivedAttachment,
    ReplyToEmail,
    SendEmail,
    split_mailbox,
)

T = TypeVar("T")

MOST_PARTS = 500
"""Attachments and texts of one message that are looked at."""

LONGEST_HEADER = 60_000
"""Characters of one header that are read, so that a hostile one costs no more than a moment."""

MOST_ADDRESSES = 2000
MOST_REFERENCES = 200
MOST_REPEATED = 50

LONGEST_HEAD = 262_144
"""Bytes of all headers of a message or part that are read."""

DEEPEST = 30
"""Parts inside parts; what is deeper is text as it stands."""

# Writing.


@dataclass(frozen=True)
class Composed:
    """A message ready to be sent; `utf8` says that an address needs SMTPUTF8 (RFC 6531)."""

    content: bytes = field(repr=False)
    sender: str
    recipients: tuple[str, ...]
    utf8: bool


def compose(
    data: SendEmail | ReplyToEmail,
    from_address: str,
    subject: str,
    message_id: str,
    now: datetime,
    threading: dict[str, str],
) -> Composed:
    """Raises Rejected if no message can be made of it."""
    sender = split_mailbox(from_address)
    lists = {"To": data.to, "Cc": data.cc, "Bcc": data.bcc, "Reply-To": data.reply_to}
    mailboxes = {name: [split_mailbox(text) for text in texts] for name, texts in lists.items()}
    everybody = [*mailboxes["To"], *mailboxes["Cc"], *mailboxes["Bcc"]]
    headers = [("From", _mailbox_list([sender]))]
    headers += [
        (name, _mailbox_list(mailboxes[name])) for name in ("Reply-To", "To", "Cc") if mailboxes[name]
    ]
    headers += [
        ("Subject", _text(subject)),
        ("Date", format_datetime(now)),
        ("Message-ID", message_id),
        *threading.items(),
        *((name, _text(value)) for name, value in data.headers.items()),
    ]
    try:
        content = _bytes(headers, _body(data))
    except (ValueError, LookupError, MessageError) as error:
        # Only the kind of error: what it says may quote the message.
        raise Rejected(
            f"No message can be made of this payload ({type(error).__name__}); nothing was sent."
        ) from None
    shown = [address for _, address in (sender, *everybody, *mailboxes["Reply-To"])]
    return Composed(
        content=content,
        sender=sender[1],
        recipients=tuple(dict.fromkeys(address for _, address in everybody)),
        utf8=not all(map(str.isascii, shown)),
    )


def threading(data: ReplyToEmail) -> dict[str, str]:
    """In-Reply-To and References of an answer, as RFC 5322, 3.6.4 has it."""
    before = data.references or ([data.in_reply_to] if data.in_reply_to else [])
    references = [*dict.fromkeys(one for one in before if one != data.message_id), data.message_id]
    # The first began the conversation, the last ones say where in it this belongs.
    references = references if len(references) <= 50 else [references[0], *references[-49:]]
    # Folded by hand: the library would encode a long id, and no reader would recognise it.
    return {"In-Reply-To": data.message_id, "References": "\r\n ".join(references)}


def _bytes(headers: Sequence[tuple[str, str]], body: EmailMessage) -> bytes:
    head = "".join(f"{name}: {value}\r\n" for name, value in headers).encode("utf-8")
    whole = head + body.as_bytes()
    # RFC 5321, 2.3.8: CR and LF stand together or not at all, or a message might end early on its way.
    return re.sub(rb"\r\n|\r|\n", b"\r\n", whole)


def _body(data: SendEmail | ReplyToEmail) -> EmailMessage:
    # 7 bits, so that it passes through every server.
    body = EmailMessage(policy=email.policy.SMTP.clone(cte_type="7bit"))
    if data.text is not None:
        body.set_content(data.text)
    if data.html is not None:
        if data.text is None:
            body.set_content(data.html, subtype="html")
        else:
            body.add_alternative(data.html, subtype="html")
    for file in data.attachments:
        declared = file.content_type or mimetypes.guess_type(file.filename)[0] or ""
        maintype, _, subtype = declared.partition("/")
        if not subtype or maintype.lower() in ("multipart", "message"):
            # Those may not be in base64 (RFC 2045, 6.4; RFC 2046, 5.2.1), and a file has to stay as it is.
            maintype, subtype = "application", "octet-stream"
        body.add_attachment(
            file.content,
            maintype=maintype,
            subtype=subtype,
            filename=re.sub(r"[\x7f\x85\u2028\u2029]", "_", file.filename),
        )
    return body


def _text(value: str) -> str:
    """A header's text, encoded (RFC 2047) and folded."""
    plain = value.isascii() and "=?" not in value and max(map(len, value.split(" ")), default=0) <= 70
    return Header(value, "us-ascii" if plain else "utf-8", maxlinelen=70).encode(linesep="\r\n")


def _mailbox_list(mailboxes: Iterable[tuple[str, str]]) -> str:
    return ",\r\n ".join(_mailbox(name, address) for name, address in mailboxes)


def _mailbox(name: str, address: str) -> str:
    if not name:
        return address
    if name.isascii() and "=?" not in name:
        return f'"{quote(name)}"\r\n <{address}>' if len(name) > 60 else f'"{quote(name)}" <{address}>'
    return f"{Header(name, 'utf-8', maxlinelen=60).encode(linesep=chr(13) + chr(10))}\r\n <{address}>"


# Reading.


@dataclass
class _Notes:
    """What could not be read."""

    notes: list[str] = field(default_factory=list)

    def add(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def attempt(self, what: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except Exception:  # noqa: BLE001 - the library's parser was not made for whatever strangers send
            self.add(f"{what} could not be read.")
            return otherwise


def identity(item: FetchedMessage, raw: bytes) -> str:
    """What a message in a folder is recognised by: its content.

    Not by UIDVALIDITY and UID: a server that numbers a folder anew would have everything in it happen again.
    Not by Message-ID: senders choose it, so a stranger could have a message taken for one that came before.
    The content has the trace of its way (RFC 5321, 4.4), which no two deliveries share. Of a message that is
    not fetched whole, it is its headers and its size.
    """
    digest = hashlib.sha256(item.folder.encode("utf-8", "replace") + b"\0")
    if item.left_out is not None:
        digest.update(f"{item.left_out} {item.size}\0".encode())
    if item.left_out == "not_fetched":
        digest.update(f"{item.uidvalidity} {item.uid}\0".encode())
    digest.update(raw)
    return digest.hexdigest()


def read_message(item: FetchedMessage, settings: EmailSettings) -> tuple[MessageReceived, str]:
    """The event's payload and id. Never raises: what cannot be read is in its notes."""
    notes = _Notes()
    raw = _decoded_base64(item.content_base64)
    if item.left_out == "too_large":
        notes.add(
            f"The message is larger than max_message_bytes ({settings.max_message_bytes}): only its headers "
            "were fetched."
        )
    elif item.left_out == "not_fetched":
        notes.add("The server failed every time it was asked for this message, so it was left out.")
    message = notes.attempt(
        "The headers", lambda: _part(raw, 0, len(raw)), _Part(Message(), raw, 0, len(raw))
    )
    headers = _headers(message.head)
    body = _Body(settings.max_attachment_bytes, notes)
    if item.left_out is None:
        notes.attempt("A part of the message", lambda: body.read(message), None)
    first = notes.attempt("The sender", lambda: _addresses(headers.get("from", [])), list[Correspondent]())
    received = MessageReceived(
        folder=_clean(item.folder),
        uid=item.uid,
        uidvalidity=item.uidvalidity,
        message_id=notes.attempt("Message-ID", lambda: _one_id(headers.get("message-id", [])), None),
        subject=notes.attempt("The subject", lambda: _first_text(headers.get("subject", [])), None),
        from_=first[0] if first else None,
        to=notes.attempt("To", lambda: _addresses(headers.get("to", [])), list[Correspondent]()),
        cc=notes.attempt("Cc", lambda: _addresses(headers.get("cc", [])), list[Correspondent]()),
        reply_to=notes.attempt(
            "Reply-To", lambda: _addresses(headers.get("reply-to", [])), list[Correspondent]()
        ),
        date=notes.attempt("The date", lambda: _date(headers.get("date", [])), None),
        received_at=None if item.received_at is None else _clean(item.received_at),
        in_reply_to=notes.attempt("In-Reply-To", lambda: _one_id(headers.get("in-reply-to", [])), None),
        references=notes.attempt("References", lambda: _ids(headers.get("references", [])), list[str]()),
        text=body.text,
        html=body.html,
        headers=_kept(headers, settings.keep_headers, notes),
        attachments=body.attachments,
        size=item.size,
        notes=notes.notes,
    )
    return received, identity(item, raw)


@dataclass(frozen=True)
class _Part:
    """A message, or a part of one: its headers, and where in the message its content stands."""

    head: Message
    raw: bytes = field(repr=False)
    start: int
    end: int

    @property
    def kind(self) -> str:
        return self.head.get_content_type()

    @property
    def body(self) -> bytes:
        return self.raw[self.start : self.end]


_BLANK_LINE = re.compile(rb"(?:\A|(?<=\n))\r?\n")


def _part(raw: bytes, start: int, end: int, default_kind: str = "text/plain") -> _Part:
    blank = _BLANK_LINE.search(raw, start, end)
    head_end, body = (blank.start(), blank.end()) if blank else (end, end)
    if raw[start : start + 2] in (b"\r\n", b"\n\n") or raw[start : start + 1] == b"\n":
        head_end, body = start, start + (2 if raw[start : start + 1] == b"\r" else 1)
    head = BytesHeaderParser(policy=email.policy.compat32).parsebytes(
        raw[start : min(head_end, start + LONGEST_HEAD)]
    )
    head.set_default_type(default_kind)
    rest = head.get_payload()
    if isinstance(rest, str) and rest:
        # A line that is no header ends the headers, although there is no empty one.
        body = max(start, head_end - len(rest.encode("utf-8", "surrogateescape")))
    return _Part(head, raw, body, max(body, end))


def _leaves(part: _Part, depth: int = 0) -> Iterator[_Part]:
    """The parts that hold something themselves. A message inside of another is one: its parts are its own."""
    kind = part.kind
    boundary = part.head.get_boundary("") if kind.startswith("multipart/") else ""
    inside = _pieces(part, boundary) if boundary and depth < DEEPEST else []
    if not inside:
        yield part
        return
    default_kind = "message/rfc822" if kind == "multipart/digest" else "text/plain"
    for start, end in inside:
        yield from _leaves(_part(part.raw, start, end, default_kind), depth + 1)


def _pieces(part: _Part, boundary: str) -> list[tuple[int, int]]:
    """Where the parts between the boundaries stand (RFC 2046, 5.1.1). The last one may have no end."""
    line = b"--" + boundary.encode("utf-8", "surrogateescape")
    pieces: list[tuple[int, int]] = []
    begun, at = -1, part.start
    while len(pieces) <= MOST_PARTS and (found := part.raw.find(line, at, part.end)) >= 0:
        line_end = part.raw.find(b"\n", found, part.end)
        line_end = part.end if line_end < 0 else line_end + 1
        after = part.raw[found + len(line) : line_end].strip()
        at = line_end
        if (found != part.start and part.raw[found - 1 : found] != b"\n") or after not in (b"", b"--"):
            continue
        if begun >= 0:
            # The line end before a boundary belongs to it.
            last = found - 1 if part.raw[found - 2 : found - 1] != b"\r" else found - 2
            pieces.append((begun, max(begun, last)))
        begun = line_end
        if after:
            return pieces
    if begun >= 0:
        pieces.append((begun, part.end))
    return pieces


def _decoded_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text)
    except (binascii.Error, ValueError):
        return b""


Headers = dict[str, list[str]]
"""By lower-case name, as they stand in the message: neither unfolded nor decoded."""


def _headers(message: Message) -> Headers:
    headers: Headers = {}
    for name, value in message.raw_items():
        values = headers.setdefault(str(name).lower().strip(), [])
        if len(values) < MOST_REPEATED:
            values.append(str(value)[:LONGEST_HEADER])
    return headers


def _unfolded(value: str) -> str:
    """Bytes beyond ASCII decoded, line ends gone."""
    raw = value.encode("utf-8", "surrogateescape")
    return re.sub(r"[\r\n]+[ \t]*", " ", _best_text(raw)).replace("\t", " ").strip()


_ENCODED_WORD = re.compile(r"=\?([^?*\s]{1,60})(?:\*[^?\s]{0,40})?\?([bBqQ])\?([^?]{0,60000})\?=")
_BETWEEN_WORDS = re.compile(r"(\?=)\s+(?==\?[^?\s]{1,100}\?[bBqQ]\?)")


def _decoded(value: str) -> str:
    """A header's text without RFC 2047's encoding.

    Words that follow one another are joined as bytes before they are decoded: much software cuts them in the
    middle of a character.
    """
    text = _BETWEEN_WORDS.sub(r"\1", _unfolded(value))
    pieces: list[str] = []
    charset, pending, at = "", b"", 0
    for word in _ENCODED_WORD.finditer(text):
        if (word.start() > at or word[1].lower() != charset) and pending:
            pieces.append(_best_text(pending, charset))
            pending = b""
        pieces.append(text[at : word.start()])
        charset = word[1].lower()
        pending += _word_bytes(word[2], word[3])
        at = word.end()
    if pending:
        pieces.append(_best_text(pending, charset))
    return _clean("".join(pieces) + text[at:])


def _word_bytes(encoding: str, text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    if encoding in "qQ":
        return quopri.decodestring(raw.replace(b"_", b"=20"), header=True)
    raw = re.sub(rb"[\s=]", b"", raw)
    if re.search(rb"[^A-Za-z0-9+/]", raw):
        return f"=?utf-8?b?{text}?=".encode()  # no base64, so it is shown as it stands
    return binascii.a2b_base64(raw[: len(raw) - (len(raw) % 4 == 1)] + b"===")


_CHARSETS = {
    "": "us-ascii",
    "ascii": "us-ascii",
    "gb2312": "gb18030",  # what is called GB 2312 has often more
    "gbk": "gb18030",
    "iso-8859-1": "cp1252",  # the same, as far as anybody writes it
    "latin1": "cp1252",
    "us-ascii": "us-ascii",
    "ks_c_5601-1987": "cp949",
    "iso-8859-8-i": "iso-8859-8",
    "iso-8859-8-e": "iso-8859-8",
    "windows-874": "cp874",
    "x-sjis": "shift_jis",
    "unicode-1-1-utf-7": "utf-7",
}
_NO_CHARSETS = re.compile(
    r"idna|punycode|undefined|unicode_?escape|raw_?unicode_?escape|mbcs|oem|.*_codec", re.I
)
"""Codecs that are no charsets, and some of them slow."""


def _best_text(raw: bytes, charset: str = "us-ascii") -> str:
    """The text of bytes that claim to be of a charset, or of what they most probably are."""
    name = charset.strip().strip("'\"").lower()
    name = _CHARSETS.get(name, name)
    if _NO_CHARSETS.fullmatch(name):
        name = "us-ascii"
    try:
        return raw.decode(name)
    except (UnicodeError, LookupError, ValueError):
        lenient = raw.decode("utf-8", "replace")
    wrong = lenient.count("\ufffd")
    if wrong and name not in ("us-ascii", "utf-8"):
        with contextlib.suppress(UnicodeError, LookupError, ValueError):
            return raw.decode(name, "replace")
    if wrong * 2 > sum(map(ord("\x7f").__lt__, map(ord, lenient))):
        return raw.decode("cp1252", "replace")  # more wrong than right, so it was not meant to be UTF-8
    return lenient


def _clean(text: str) -> str:
    """Text that JSON and databases have: no halves of characters, no NUL."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def _first_text(values: Sequence[str]) -> str | None:
    return _decoded(values[0]) if values else None


def _all_texts(values: Sequence[str]) -> list[str]:
    return [_decoded(value) for value in values]


def _addresses(values: Sequence[str]) -> list[Correspondent]:
    # Taken apart before it is decoded: a name may hold a comma.
    pairs = getaddresses([_unfolded(value) for value in values])
    found = [
        Correspondent(name=_decoded(name), address=_clean(address)) for name, address in pairs if address
    ]
    return found[:MOST_ADDRESSES]


_ID = re.compile(r"<[^<>\s]{1,998}>")


def _ids(values: Sequence[str]) -> list[str]:
    return [_clean(one) for value in values for one in _ID.findall(_unfolded(value))][-MOST_REFERENCES:]


def _one_id(values: Sequence[str]) -> str | None:
    found = _ids(values)
    if found:
        return found[0]
    return _clean(_unfolded(values[0]))[:998] or None if values else None


def _date(values: Sequence[str]) -> str | None:
    if not values:
        return None
    moment = parsedate_to_datetime(_unfolded(values[0])[:200])
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def _kept(headers: Headers, names: Iterable[str], notes: _Notes) -> Headers:
    wanted = dict.fromkeys(name.lower() for name in names)
    return {
        name: notes.attempt(f"The header {name}", partial(_all_texts, headers[name]), list[str]())
        for name in wanted
        if name in headers
    }


@dataclass
class _Body:
    """Texts and files of a message, as far as there is room for content."""

    room: int
    notes: _Notes
    texts: list[str] = field(default_factory=list)
    htmls: list[str] = field(default_factory=list)
    attachments: list[ReceivedAttachment] = field(default_factory=list)

    @property
    def text(self) -> str | None:
        return "\n".join(self.texts) if self.texts else None

    @property
    def html(self) -> str | None:
        return "\n".join(self.htmls) if self.htmls else None

    def read(self, message: _Part) -> None:
        for count, part in enumerate(_leaves(message)):
            if count >= MOST_PARTS:
                self.notes.add(f"The message has more than {MOST_PARTS} parts; the others were left out.")
                return
            self.notes.attempt("A part of the message", partial(self._part, part), None)

    def _part(self, part: _Part) -> None:
        kind = part.kind
        disposition = part.head.get_content_disposition() or ""
        filename = self.notes.attempt("A file's name", lambda: _filename(part.head), "")
        content = self.notes.attempt("A part's content", lambda: _content(part), b"")
        # What says that it has parts, and has none, is some text.
        is_text = kind in ("text/plain", "text/html") or kind.startswith("multipart/")
        if is_text and disposition != "attachment" and not filename:
            charset = self.notes.attempt("A charset", lambda: str(part.head.get_content_charset() or ""), "")
            text = _clean(_best_text(content, charset)).replace("\r\n", "\n")
            (self.htmls if kind == "text/html" else self.texts).append(text)
            return
        self._file(part.head, kind, disposition, filename, content)

    def _file(self, head: Message, kind: str, disposition: str, filename: str, content: bytes) -> None:
        number = len(self.attachments) + 1
        if not re.fullmatch(r"[\w.+-]+/[\w.+-]+", kind):
            kind = "application/octet-stream"
        if not filename:
            extension = ".eml" if kind == "message/rfc822" else mimetypes.guess_extension(kind) or ".bin"
            filename = f"attachment-{number}{extension}"
        fits = len(content) <= self.room
        if fits:
            self.room -= len(content)
        else:
            self.notes.add(
                "Attachments whose content exceeds max_attachment_bytes together come without it; the stored "
                "webhook has the whole message."
            )
        content_id = _clean(_unfolded(str(head.get("Content-ID") or ""))).strip("<> ")[:998]
        self.attachments.append(
            ReceivedAttachment(
                filename=filename,
                content_type=_clean(kind)[:255],
                size=len(content),
                content_base64=base64.b64encode(content).decode("ascii") if fits else None,
                content_id=content_id or None,
                inline=disposition == "inline",
            )
        )


def _content(part: _Part) -> bytes:
    """Its content without the transfer encoding, which is allowed to be broken."""
    encoding = str(part.head.get("Content-Transfer-Encoding") or "").strip().lower()
    if encoding == "quoted-printable":
        return quopri.decodestring(part.body)
    if encoding not in ("base64", "x-uuencode", "uuencode", "uue", "x-uue"):
        return part.body
    whole = Message()
    whole["Content-Transfer-Encoding"] = encoding
    whole.set_payload(part.body.decode("ascii", "surrogateescape"))
    decoded = whole.get_payload(decode=True)
    return decoded if isinstance(decoded, bytes) else part.body


def _filename(head: Message) -> str:
    """Its name as `FileUpload` takes it: what came in can go out again."""
    name = _decoded(str(head.get_filename() or ""))
    name = re.sub(r"[\x00-\x1f\x7f/\\]", "_", name).strip()
    return name[-255:]
