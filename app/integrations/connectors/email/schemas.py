"""Where the servers are, what a message that came in becomes, and what goes out."""

import base64
import re
import ssl
from functools import lru_cache
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from app.integrations.files import FileUpload

Security = Literal["tls", "starttls", "none"]

_NO_CONTROLS = r"^[^\x00-\x1f\x7f\x85\u2028\u2029]*$"
"""Whatever somebody's software might take for the end of a line is out, so no header can be injected."""

HeaderText = Annotated[str, StringConstraints(pattern=_NO_CONTROLS, max_length=2000)]
HeaderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
MessageId = Annotated[str, StringConstraints(pattern=r"^<[!-;=?-~]{1,900}>$")]
Host = Annotated[str, StringConstraints(pattern=r"^[^\s/@]+$", max_length=253)]
Login = Annotated[str, StringConstraints(pattern=_NO_CONTROLS, max_length=320)]
Folder = Annotated[str, StringConstraints(pattern=_NO_CONTROLS, min_length=1, max_length=500)]

_MAILBOX = re.compile(r"(?:(?P<name>[^<>]*)<(?P<named>[^<>]*)>|(?P<bare>[^<>]*))")
# RFC 5321, 4.1.2: a dot-string at a domain. Quoted local parts exist on paper only.
_ADDRESS = re.compile(r"[^\s\"(),:;<>@\[\]\\]{1,64}@[^\s\"(),:;<>@\[\]\\/]{1,253}")
_STRUCTURAL = re.compile(
    r"from|sender|to|cc|bcc|reply-to|subject|date|message-id|in-reply-to|references|mime-version|content-.*|"
    r"resent-.*|received|return-path|dkim-signature|arc-.*",
    re.IGNORECASE,
)
_DEVIATIONS = frozenset("ßς\u200c\u200d")
"""UTS 46: characters that IDNA 2003 maps to others, which makes another domain of it than IDNA 2008."""

PORTS = {
    "smtp": {"tls": 465, "starttls": 587, "none": 25},
    "imap": {"tls": 993, "starttls": 143, "none": 143},
}


def split_mailbox(text: str) -> tuple[str, str]:
    """The name and the address in `Ann <ann@example.com>` or `ann@example.com`, the domain as DNS has it.

    Raises ValueError.
    """
    found = _MAILBOX.fullmatch(text.strip())
    address = (found["named"] or found["bare"] or "").strip() if found else ""
    if found is None or not _ADDRESS.fullmatch(address):
        raise ValueError("it is not one address, such as ann@example.com or Ann <ann@example.com>")
    local, _, domain = address.rpartition("@")
    name = (found["name"] or "").strip()
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = re.sub(r"\\(.)", r"\1", name[1:-1])
    return name, f"{local}@{_ascii_domain(domain)}"


def _ascii_domain(domain: str) -> str:
    if domain.isascii():
        return domain
    if not _DEVIATIONS.isdisjoint(domain):
        raise ValueError("its domain can be read in two ways; write it in ASCII (xn--...)")
    try:
        return domain.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("its domain is not a domain name") from None


def _mailbox(text: str) -> str:
    split_mailbox(text)
    return text.strip()


Mailbox = Annotated[str, StringConstraints(pattern=_NO_CONTROLS, max_length=600), AfterValidator(_mailbox)]


class EmailSettings(BaseModel):
    """Configuration of a connection that is not secret. Either half, smtp or imap, may be left out."""

    model_config = ConfigDict(extra="forbid")

    username: Login | None = Field(
        default=None,
        description="Login name at both servers, often the address; unless one of its own is set",
    )
    smtp_host: Host | None = Field(
        default=None, description="Server to send through; nothing is sent without"
    )
    smtp_port: int | None = Field(
        default=None, ge=1, le=65535, description="Its port; 465 for tls, 587 for starttls, 25 for none"
    )
    smtp_security: Security = Field(
        default="tls", description="tls from the beginning, starttls (required then, never optional), or none"
    )
    smtp_username: Login | None = Field(
        default=None,
        description="Login name at smtp_host, if it is another; empty for a server without login",
    )
    from_address: Mailbox | None = Field(
        default=None, description="Who sends: ann@example.com or Ann <ann@example.com>"
    )
    helo_name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9.:\[\]-]{1,255}$",
        description="Name that the platform gives itself at smtp_host; this machine's if it has a full one",
    )
    imap_host: Host | None = Field(default=None, description="Server to read from; nothing is read without")
    imap_port: int | None = Field(
        default=None, ge=1, le=65535, description="Its port; 993 for tls, 143 for starttls and none"
    )
    imap_security: Security = Field(
        default="tls", description="tls from the beginning, starttls (required then, never optional), or none"
    )
    imap_username: Login | None = Field(default=None, description="Login name at imap_host, if it is another")
    allow_cleartext_login: bool = Field(
        default=False,
        description="Whether a password may be sent where security is none: everybody can read it",
    )
    ca_certificates: str | None = Field(
        default=None, max_length=200_000, description="PEM of further authorities to trust, such as your own"
    )
    folders: list[Folder] = Field(
        default=["INBOX"],
        min_length=1,
        max_length=50,
        description="Folders to watch, as the server names them",
    )
    start_at: Literal["now", "beginning"] = Field(
        default="now",
        description="Whether what is in a folder at first becomes events: beginning, or not: now",
    )
    poll_every: float = Field(
        default=60.0,
        ge=1,
        le=86400,
        description="Seconds between two looks where the server does not tell by itself",
    )
    max_message_bytes: int = Field(
        default=5_000_000, ge=1000, le=50_000_000, description="Largest message that is fetched whole"
    )
    max_attachment_bytes: int = Field(
        default=2_000_000,
        ge=0,
        le=50_000_000,
        description="Bytes of attachments' content that one event carries",
    )
    keep_headers: list[HeaderName] = Field(
        default=[
            "Authentication-Results", "Auto-Submitted", "Delivered-To", "List-Id", "List-Unsubscribe",
            "Precedence", "Return-Path", "Sender", "X-Priority",
        ],
        max_length=100,
        description="Further headers to keep in events",
    )  # fmt: skip

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.smtp_host is None and self.imap_host is None:
            raise ValueError("give smtp_host to send, imap_host to receive, or both")
        if self.smtp_host is not None and self.from_address is None:
            raise ValueError("smtp_host needs from_address")
        if self.imap_host is not None and not self.imap_login:
            raise ValueError("imap_host needs username or imap_username")
        logins = {"smtp": self.smtp_host and self.smtp_login, "imap": self.imap_host and self.imap_login}
        for half, login in logins.items():
            if login and getattr(self, f"{half}_security") == "none" and not self.allow_cleartext_login:
                raise ValueError(
                    f"{half}_security is none, so everybody on the way could read the password: set tls or "
                    "starttls, or allow_cleartext_login if you mean it"
                )
        if self.ca_certificates is not None:
            try:
                trust(self.ca_certificates)
            except (ssl.SSLError, ValueError):
                raise ValueError(
                    "ca_certificates is not PEM: -----BEGIN CERTIFICATE----- and so on"
                ) from None
        return self

    @property
    def smtp_login(self) -> str:
        return self.username or "" if self.smtp_username is None else self.smtp_username

    @property
    def imap_login(self) -> str:
        return self.username or "" if self.imap_username is None else self.imap_username


def spellings(username: str, password: str) -> list[str]:
    """The password as it goes over the wire: for redaction, if a server quotes what it was told."""
    plain = f"\0{username}\0{password}"
    return [password, *(base64.b64encode(text.encode()).decode() for text in (password, plain))]


@lru_cache(maxsize=32)
def trust(ca_certificates: str | None) -> ssl.SSLContext:
    """TLS that knows the system's authorities and these. Kept, because loading them takes a while."""
    context = ssl.create_default_context()
    if ca_certificates is not None:
        context.load_verify_locations(cadata=ca_certificates)
    return context


# What comes in.


class FetchedMessage(BaseModel):
    """A message as it was fetched. `left_out` says why the content is only its headers, or nothing."""

    folder: str = Field(min_length=1)
    uidvalidity: int = Field(ge=0)
    uid: int = Field(ge=0)
    size: int = Field(ge=0)
    received_at: str | None = None
    content_base64: str
    left_out: Literal["too_large", "not_fetched"] | None = None


class Correspondent(BaseModel):
    """Somebody in a header."""

    name: str = Field(description="The name, empty if there is none")
    address: str = Field(description="The address")


class ReceivedAttachment(BaseModel):
    """A file in a message. filename, content_type and content_base64 are those that send_email takes."""

    filename: str = Field(description="Its name, made safe; made up if it has none")
    content_type: str = Field(description="MIME type, as the sender says")
    size: int = Field(description="Bytes")
    content_base64: str | None = Field(description="The content; null if it was left out, see notes")
    content_id: str | None = Field(default=None, description="What html refers to it by, as in cid:...")
    inline: bool = Field(default=False, description="Whether it is meant to be shown inside the text")


class MessageReceived(BaseModel):
    """A message that appeared in a watched folder."""

    model_config = ConfigDict(populate_by_name=True)

    folder: str = Field(description="The folder")
    uid: int = Field(description="The message's number in the folder")
    uidvalidity: int = Field(description="What the folder's numbers belong to; see RFC 9051, 2.3.1.1")
    message_id: str | None = Field(description="Message-ID with its angle brackets: chosen by the sender")
    subject: str | None = Field(description="The subject, decoded")
    from_: Correspondent | None = Field(alias="from", description="Who says to have written it")
    to: list[Correspondent] = Field(description="To whom")
    cc: list[Correspondent] = Field(description="Who gets a copy")
    reply_to: list[Correspondent] = Field(description="Where answers are wanted; empty: at from")
    date: str | None = Field(description="When it says it was written, ISO 8601")
    received_at: str | None = Field(description="When the server got it, ISO 8601")
    in_reply_to: str | None = Field(description="Message-ID of what it answers")
    references: list[str] = Field(description="Message-IDs of the conversation, the oldest first")
    text: str | None = Field(description="The text; null if there is none")
    html: str | None = Field(
        description="The text as HTML, as the sender wrote it: not safe to show as it is"
    )
    headers: dict[str, list[str]] = Field(description="The headers that settings keep, names in lower case")
    attachments: list[ReceivedAttachment] = Field(description="Files")
    size: int = Field(description="Bytes of the whole message")
    notes: list[str] = Field(description="What was left out or could not be read, and why")


# What goes out.


def _extra_headers(headers: dict[str, str]) -> dict[str, str]:
    if taken := sorted(name for name in headers if _STRUCTURAL.fullmatch(name)):
        raise ValueError(f"these are made of other fields, or not yours to set: {', '.join(taken)}")
    return headers


class _Outgoing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    to: list[Mailbox] = Field(
        min_length=1, description="Addresses, with or without a name", examples=[["Ann <ann@example.com>"]]
    )
    cc: list[Mailbox] = Field(default=[], description="Who gets a copy")
    bcc: list[Mailbox] = Field(default=[], description="Who gets a copy that the others do not see")
    reply_to: list[Mailbox] = Field(default=[], description="Where answers should go, if not to from_address")
    text: str | None = Field(default=None, description="The message as text")
    html: str | None = Field(default=None, description="The message as HTML; with text, readers choose")
    attachments: list[FileUpload] = Field(default=[], description="Files")
    headers: Annotated[dict[HeaderName, HeaderText], AfterValidator(_extra_headers)] = Field(
        default={}, description="Further headers, such as X-Ticket", examples=[{"X-Ticket": "4711"}]
    )

    @model_validator(mode="after")
    def _some_content(self) -> Self:
        if self.text is None and self.html is None and not self.attachments:
            raise ValueError("give text, html or attachments")
        return self


class SendEmail(_Outgoing):
    """A new message."""

    subject: HeaderText = Field(default="", description="The subject")
    text: str | None = Field(default=None, description="The message as text", examples=["Good morning."])


class ReplyToEmail(_Outgoing):
    """An answer. message_id, references, in_reply_to and subject are the answered message's."""

    message_id: MessageId = Field(
        description="Message-ID of the message that is answered", examples=["<1@example.com>"]
    )
    references: list[MessageId] = Field(default=[], max_length=1000, description="Its references")
    in_reply_to: MessageId | None = Field(
        default=None, description="Its in_reply_to; used if it has no references"
    )
    subject: HeaderText = Field(default="", description="Its subject; Re: is put before it once")
    text: str | None = Field(default=None, description="The answer as text", examples=["Thank you."])


class RefusedRecipient(BaseModel):
    """An address that the server did not take, while it took others."""

    address: str = Field(description="The address")
    code: int = Field(description="The server's reply code: 4xx for now, 5xx for good")
    message: str = Field(description="The server's words")


class SentEmail(BaseModel):
    """The server has taken the message. That it arrives is not known yet."""

    message_id: str = Field(description="Message-ID: the same in every attempt of one action")
    accepted: list[str] = Field(description="Addresses that the server took the message for")
    refused: list[RefusedRecipient] = Field(description="Addresses that it did not take it for")
    response: str = Field(description="The server's words, often with its number for the message")
