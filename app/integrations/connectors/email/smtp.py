"""Sending by SMTP (RFC 5321).

What an error says depends on one moment, when the line with the dot that ends the message begins to be
written: before it the server may not act on the message (RFC 5321, 4.1.1.4), after it only its reply tells.
So the message is written here, and not by aiosmtplib's own `data`, which does not tell the two apart.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import cast

import aiosmtplib
from aiosmtplib import SMTPResponse
from aiosmtplib.protocol import SMTPProtocol

from app.integrations.errors import (
    AuthenticationFailed,
    NotSent,
    ProviderError,
    RateLimited,
    Rejected,
    Unavailable,
)
from app.integrations.http import ConnectorHttp, current_attempt

from .mime import Composed
from .schemas import PORTS, EmailSettings, RefusedRecipient, SentEmail, spellings, trust

REPLY_SECONDS = 20.0
"""For connecting, and for each reply before the message."""

BEFORE_SECONDS = 75.0
"""For everything before the dot: below the platform's deadline, so that "not sent" can still be told."""

AFTER_SECONDS = 600.0
"""For the reply to the dot (RFC 5321, 4.5.3.2.6). The platform's own deadline is usually shorter."""

LATER_SECONDS = 60.0
"""What a 4xx reply asks to wait. It names no time; greylisting lets nobody in before a minute (RFC 6647)."""

_CHUNK = 64 * 1024
_GO_AHEAD = 354
_CLOSING = 421


class MailSender:
    """Sends messages, each over a connection of its own."""

    def __init__(self, settings: EmailSettings, password: str, http: ConnectorHttp) -> None:
        self._settings = settings
        self._password = password
        self._http = http.bind(redact=spellings(settings.smtp_login, password))
        self._port = settings.smtp_port or PORTS["smtp"][settings.smtp_security]

    async def check(self) -> None:
        """Raises AuthenticationFailed if the server refuses the login, another ProviderError otherwise."""
        with self._nothing_sent():
            async with asyncio.timeout(BEFORE_SECONDS), self._session():
                pass

    async def send(self, message: Composed, message_id: str) -> SentEmail:
        """Raises NotSent, AuthenticationFailed, RateLimited, Rejected or Unavailable."""
        with self._nothing_sent():
            async with asyncio.timeout(BEFORE_SECONDS) as deadline, self._session() as client:
                refused = await self._envelope(client, message)
                await self._write(client, message.content)
                deadline.reschedule(None)
                reply = await self._end(client)
        refused_addresses = {one.address for one in refused}
        return SentEmail(
            message_id=message_id,
            accepted=[address for address in message.recipients if address not in refused_addresses],
            refused=refused,
            response=self._words(reply.message),
        )

    @contextmanager
    def _nothing_sent(self) -> Iterator[None]:
        """Faults in here are of the way to the server: `_end` has typed errors for what comes after."""
        try:
            yield
        except (OSError, aiosmtplib.SMTPException, ValueError) as error:
            raise NotSent(
                f"{self._server} was not reached, or broke off before the message: {self._fault(error)}."
            ) from None

    # The way to the message.

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[aiosmtplib.SMTP]:
        """A connection that is encrypted, greeted and logged in."""
        settings = self._settings
        client = aiosmtplib.SMTP(
            hostname=settings.smtp_host,
            port=self._port,
            use_tls=settings.smtp_security == "tls",
            start_tls=settings.smtp_security == "starttls",
            tls_context=trust(settings.ca_certificates),
            local_hostname=settings.helo_name or _own_name(),
            timeout=REPLY_SECONDS,
        )
        try:
            await client.connect()
            await self._greet(client)
            await self._login(client)
            yield client
            with suppress(aiosmtplib.SMTPServerDisconnected):
                # Its answer is of no interest, and waiting for it could lose what is known by now.
                _connected(client).write(b"QUIT\r\n")
        finally:
            client.close()

    async def _greet(self, client: aiosmtplib.SMTP) -> None:
        try:
            await client.ehlo()
        except aiosmtplib.SMTPHeloError:
            await client.helo()

    async def _login(self, client: aiosmtplib.SMTP) -> None:
        username = self._settings.smtp_login
        if not username:
            return
        if not self._password:
            raise AuthenticationFailed("There is no password: set the secret password or smtp_password.")
        offered = client.server_auth_methods
        # In the clear the one that does not show the password comes first.
        preferred = ["plain", "login", "cram-md5"]
        if self._settings.smtp_security == "none":
            preferred = ["cram-md5", "plain", "login"]
        method = next((method for method in preferred if method in offered), None)
        try:
            # One try: a server that counts wrong passwords should not count three.
            if method == "plain":
                await client.auth_plain(username, self._password)
            elif method == "login":
                await client.auth_login(username, self._password)
            elif method == "cram-md5":
                await client.auth_crammd5(username, self._password)
            else:
                raise Rejected(
                    f"{self._server} offers no login with a password here. Try another smtp_security, or set "
                    "smtp_username to an empty text if it wants none."
                )
        except aiosmtplib.SMTPAuthenticationError as error:
            raise self._login_refused(error) from None

    def _login_refused(self, error: aiosmtplib.SMTPAuthenticationError) -> ProviderError:
        said = self._said(error.code, error.message)
        if error.code == 535:  # RFC 4954, 6: credentials invalid
            return AuthenticationFailed(
                f"{self._server} refused the login ({said}). Check the username and the password; many "
                "providers want an app password."
            )
        if error.code < 500:
            return NotSent(f"{self._server} cannot check logins now ({said}).")
        return Rejected(f"{self._server} does not take this kind of login ({said}).")

    async def _envelope(self, client: aiosmtplib.SMTP, message: Composed) -> list[RefusedRecipient]:
        """Sender and recipients; returns those that are refused while others are not."""
        options = []
        if client.supports_extension("size"):
            options.append(f"SIZE={len(message.content)}")
        if message.utf8:
            if not client.supports_extension("smtputf8"):
                raise Rejected(
                    f"{self._server} has no SMTPUTF8, which an address with more than ASCII before its @ "
                    "needs; nothing was sent."
                )
            options.append("SMTPUTF8")
        encoding = "utf-8" if message.utf8 else "ascii"
        try:
            await client.mail(message.sender, options=options, encoding=encoding)
        except aiosmtplib.SMTPSenderRefused as error:
            remedy = " It wants a login: set username and password." if error.code == 530 else ""
            raise self._refused("the sender", error.code, error.message, remedy) from None
        refused: list[aiosmtplib.SMTPRecipientRefused] = []
        for recipient in message.recipients:
            try:
                await client.rcpt(recipient, encoding=encoding)
            except aiosmtplib.SMTPRecipientRefused as error:
                refused.append(error)
                if error.code == _CLOSING:
                    raise self._refused("a recipient", error.code, error.message) from None
        if len(refused) == len(message.recipients):
            # If one of them may be taken later, so may the message.
            first = min(refused, key=lambda error: error.code)
            raise self._refused("every recipient", first.code, first.message)
        return [
            RefusedRecipient(address=error.recipient, code=error.code, message=self._words(error.message))
            for error in refused
        ]

    async def _write(self, client: aiosmtplib.SMTP, content: bytes) -> None:
        """The message without the dot that ends it. It ends with a line end, as messages do."""
        reply = await client.execute_command(b"DATA")
        if reply.code != _GO_AHEAD:
            raise self._refused("the message", reply.code, reply.message)
        protocol = _connected(client)
        # So that nothing waits in a buffer of ours when the dot follows.
        cast(asyncio.WriteTransport, client.transport).set_write_buffer_limits(high=0)
        stuffed = re.sub(rb"^\.", b"..", content, flags=re.MULTILINE)  # RFC 5321, 4.5.2
        for at in range(0, len(stuffed), _CHUNK):
            protocol.write(stuffed[at : at + _CHUNK])
            # What asyncio's own streams call; the protocol has no other name for it.
            await protocol._drain_helper()

    async def _end(self, client: aiosmtplib.SMTP) -> SMTPResponse:
        """Writes the dot: from here on the server may have taken the message."""
        protocol = _connected(client)
        attempt = current_attempt.get()
        if attempt is not None:
            attempt.begin()
        try:
            protocol.write(b".\r\n")
            reply = await protocol.read_response(timeout=AFTER_SECONDS)
        except (OSError, aiosmtplib.SMTPException, ValueError) as error:
            raise Unavailable(
                f"{self._server} was given the whole message, and its answer was lost "
                f"({self._fault(error)}). It may have been sent: look for its Message-ID."
            ) from None
        if 200 <= reply.code < 300:
            return reply
        said = self._said(reply.code, reply.message)
        if attempt is not None and 400 <= reply.code < 600:
            attempt.refused()
        if 400 <= reply.code < 500:
            raise RateLimited(
                f"{self._server} did not take the message now ({said}).", retry_after=LATER_SECONDS
            )
        if 500 <= reply.code < 600:
            raise Rejected(f"{self._server} refused the message ({said}).")
        raise Unavailable(f"{self._server} answered the message with something unknown ({said}).")

    # What went wrong.

    @property
    def _server(self) -> str:
        return f"The mail server {self._settings.smtp_host}:{self._port}"

    def _refused(self, what: str, code: int, message: str, remedy: str = "") -> ProviderError:
        said = f"{self._server} refused {what} ({self._said(code, message)}).{remedy}"
        if code == _CLOSING:
            return NotSent(said)
        if 400 <= code < 500:
            return RateLimited(said, retry_after=LATER_SECONDS)
        return Rejected(said)

    def _fault(self, error: Exception) -> str:
        cause = error.__cause__ if isinstance(error, aiosmtplib.SMTPConnectError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted ({cause.verify_message}); ca_certificates takes authorities "
                "of your own"
            )
        if isinstance(error, aiosmtplib.SMTPResponseException):
            return f"it answered {self._said(error.code, error.message)}"
        return self._words(str(error)) or type(error).__name__

    def _said(self, code: int, message: str) -> str:
        return f"{code} {self._words(message)}" if code > 0 else self._words(message)

    def _words(self, message: str) -> str:
        """A server's words in one line that can be shown."""
        text = message.encode("utf-8", "replace").decode("utf-8")
        return self._http.redacted(" ".join(re.sub(r"[\x00-\x1f\x7f]", " ", text).split()))[:300]


def _connected(client: aiosmtplib.SMTP) -> SMTPProtocol:
    if client.protocol is None or not client.protocol.is_connected:
        raise aiosmtplib.SMTPServerDisconnected("Connection lost")
    return client.protocol


def _own_name() -> str:
    """What to say in EHLO. The resolver is not asked: it may take seconds, and knows no better."""
    name = socket.gethostname()
    return name if "." in name and re.fullmatch(r"[A-Za-z0-9.-]{1,255}", name) else "[127.0.0.1]"
