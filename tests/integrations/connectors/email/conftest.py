"""Mail servers on loopback: pymap for IMAP, aiosmtpd for SMTP, and certificates for both."""

import asyncio
import contextlib
import imaplib
import socket
import ssl
from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiosmtpd.smtp import SMTP as SmtpProtocol
from aiosmtpd.smtp import AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from proxyprotocol.reader import ProxyProtocolReader
from proxyprotocol.sock import SocketInfo
from pymap.backend.dict import Config, DictBackend
from pymap.config import BackendCapability
from pymap.imap import IMAPServer
from pysasl.hashing import BuiltinHash

from tests.support.streams import serving

USER, PASSWORD = "ann@example.com", "correct-horse-battery"


@dataclass(frozen=True)
class Certificate:
    """A certificate for 127.0.0.1: as PEM for those who are to trust it, and as a server's context."""

    pem: str
    context: ssl.SSLContext


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail.test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("certificate")
    pem = made.public_bytes(serialization.Encoding.PEM)
    (folder / "cert.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return Certificate(pem.decode(), context)


class _WithoutIdle(Config):
    @property
    def backend_capability(self) -> BackendCapability:
        return BackendCapability(idle=False, object_id=True, multi_append=True)


class ImapServer:
    """A real IMAP server with one account, whose mailboxes outlive its restarts."""

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, idle: bool = True, password: str = PASSWORD
    ) -> None:
        self.port = 0
        self._tls = tls
        self._arguments = Namespace(
            host="127.0.0.1", port=0, debug=False, cert=None, key=None, tls=tls is not None, demo_data=False,
            demo_user=USER, demo_password=password, passlib_cfg=None, proxy_protocol=None,
        )  # fmt: skip
        self._idle = idle
        self._backend: DictBackend | None = None
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[Any]] = set()
        self.commands: list[bytes] = []

    async def start(self, *, implicit_tls: bool = False) -> None:
        if self._backend is None:
            self._backend, self._config = await DictBackend.init(
                self._arguments,
                ssl_context=self._tls,
                hash_context=BuiltinHash(rounds=1),
                invalid_user_sleep=0.0,
            )
            if not self._idle:
                self._config.__class__ = _WithoutIdle
        self._config.apply_context()
        answer = IMAPServer(self._backend.login, self._config)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            self._listen(reader)
            try:
                origin = await ProxyProtocolReader(self._config.proxy_protocol).read(reader)
                await answer(reader, writer, SocketInfo.get(writer, origin, unique_id=uuid4().bytes))
            finally:
                self._connections.discard(task)

        self._server = await asyncio.start_server(
            serve, "127.0.0.1", self.port, ssl=self._tls if implicit_tls else None
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def _listen(self, reader: asyncio.StreamReader) -> None:
        """Notes the commands that come in."""
        original = reader.readline

        async def readline() -> bytes:
            line = await original()
            self.commands.append(line.strip())
            return line

        reader.readline = readline  # type: ignore[method-assign]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def do(self, work: Callable[[imaplib.IMAP4], Any]) -> Any:
        """Does something to the mailboxes as a mail program would, over a connection of its own."""

        def run() -> Any:
            client: imaplib.IMAP4
            if self._tls is None:
                client = imaplib.IMAP4("127.0.0.1", self.port, timeout=10)
            else:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                client = imaplib.IMAP4_SSL("127.0.0.1", self.port, ssl_context=context, timeout=10)
            client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.login(USER, PASSWORD)
            try:
                return work(client)
            finally:
                client.logout()

        return await asyncio.to_thread(run)

    async def append(self, *messages: bytes, folder: str = "INBOX", at: datetime | None = None) -> None:
        when = f'"{at:%d-%b-%Y %H:%M:%S +0000}"' if at else None

        def work(client: imaplib.IMAP4) -> None:
            for message in messages:
                status, said = client.append(folder, None, when, message)
                assert status == "OK", said

        await self.do(work)

    async def create(self, folder: str) -> None:
        await self.do(lambda client: client.create(folder))

    async def flags(self, folder: str = "INBOX") -> list[bytes]:
        def work(client: imaplib.IMAP4) -> list[bytes]:
            client.select(folder, readonly=True)
            return client.fetch("1:*", "(FLAGS)")[1]

        return await self.do(work)


@contextlib.asynccontextmanager
async def imap_server(*, implicit_tls: bool = False, **options: Any) -> AsyncIterator[ImapServer]:
    server = ImapServer(**options)
    await server.start(implicit_tls=implicit_tls)
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture
async def imap() -> AsyncIterator[ImapServer]:
    async with imap_server() as server:
        yield server


@dataclass
class Taken:
    """A message that the SMTP server took."""

    sender: str
    recipients: list[str]
    content: bytes
    options: list[str] = field(default_factory=list)


class SmtpServer:
    """A real SMTP server. `replies` say what it answers instead of yes; `cut_after` where it hangs up.

    replies    by "mail", "rcpt", "rcpt <address>", "data", "content"
    cut_after  "dot": takes the message and closes without an answer; "data": closes amid the message
    """

    def __init__(self, **options: Any) -> None:
        self.taken: list[Taken] = []
        self.replies: dict[str, str] = {}
        self.cut_after = ""
        self.logins: list[tuple[str, str, str]] = []
        self.port = 0
        self._options: dict[str, Any] = {"hostname": "mail.test", "enable_SMTPUTF8": True, **options}
        self._implicit = self._options.pop("implicit_tls", None)
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, "127.0.0.1", self.port, ssl=self._implicit)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    def _protocol(self) -> SmtpProtocol:
        server = self

        class Protocol(SmtpProtocol):
            async def smtp_DATA(self, arg: str) -> None:
                if server.cut_after == "data":
                    await self.push("354 go ahead")
                    await self._reader.readline()
                    self.transport.abort()
                    return
                await super().smtp_DATA(arg)

        return Protocol(
            self, authenticator=self._authenticate, loop=asyncio.get_running_loop(), **self._options
        )

    def _authenticate(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any
    ) -> AuthResult:
        user, password = data.login.decode(), data.password.decode()
        self.logins.append((mechanism, user, password))
        if "auth" in self.replies:
            return AuthResult(success=False, handled=False, message=self.replies["auth"])
        return AuthResult(success=(user, password) == (USER, PASSWORD), handled=False)

    async def handle_MAIL(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if "mail" in self.replies:
            return self.replies["mail"]
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        reply = self.replies.get(f"rcpt {address}") or self.replies.get("rcpt")
        if reply:
            return reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if "content" in self.replies:
            return self.replies["content"]
        self.taken.append(
            Taken(
                envelope.mail_from, list(envelope.rcpt_tos), envelope.original_content, envelope.mail_options
            )
        )
        if self.cut_after == "dot":
            server.transport.abort()
        return "250 2.0.0 queued as 4711"


@contextlib.asynccontextmanager
async def smtp_server(**options: Any) -> AsyncIterator[SmtpServer]:
    server = SmtpServer(**options)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture
async def smtp() -> AsyncIterator[SmtpServer]:
    async with smtp_server() as server:
        yield server


@contextlib.asynccontextmanager
async def talking(serve: Any) -> AsyncIterator[int]:
    """Something on a port that is a mail server only as far as `serve` is one."""
    async with serving(serve, limit=1 << 20) as port:
        yield port


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture
def fixtures() -> Path:
    return Path(__file__).with_name("fixtures")
