"""A stand-in for every provider, and a network that leads nowhere."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import httpx2

Answer = Callable[[httpx2.Request], httpx2.Response]
"""What the stand-in answers; it may raise one of httpx2's errors instead."""


class NetworkTried(OSError):
    """Something tried to reach the network past the stand-in."""


@dataclass
class StandIn:
    """Answers every request that is made with httpx2, whoever made the client, while it is `in_place`.

    requests  what it was asked
    tried     addresses that something tried to reach in another way; all but loopback are refused
    """

    answer: Answer
    requests: list[httpx2.Request] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)

    @contextmanager
    def in_place(self) -> Iterator["StandIn"]:
        transport = httpx2.MockTransport(self._answer)

        async def handle_async(_: Any, request: httpx2.Request) -> httpx2.Response:
            return await transport.handle_async_request(request)

        def handle(_: Any, request: httpx2.Request) -> httpx2.Response:
            return transport.handle_request(request)

        with ExitStack() as patches:
            patches.enter_context(
                patch.object(httpx2.AsyncHTTPTransport, "handle_async_request", handle_async)
            )
            patches.enter_context(patch.object(httpx2.HTTPTransport, "handle_request", handle))
            for name in ("connect", "connect_ex", "sendto"):
                patches.enter_context(patch.object(socket.socket, name, self._guarded_method(name)))
            for name in ("getaddrinfo", "gethostbyname"):
                patches.enter_context(patch.object(socket, name, self._guarded_function(name)))
            yield self

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self.answer(request)

    def _guarded_method(self, name: str) -> Any:
        original = getattr(socket.socket, name)

        def guarded(sock: socket.socket, *arguments: Any) -> Any:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                self._refuse_unless_loopback(str(arguments[-1][0]))
            return original(sock, *arguments)

        return guarded

    def _guarded_function(self, name: str) -> Any:
        original = getattr(socket, name)

        def guarded(host: Any, *arguments: Any, **options: Any) -> Any:
            self._refuse_unless_loopback(host.decode() if isinstance(host, bytes) else str(host))
            return original(host, *arguments, **options)

        return guarded

    def _refuse_unless_loopback(self, host: str) -> None:
        if host not in ("127.0.0.1", "::1", "localhost", "None", ""):
            self.tried.append(host)
            raise NetworkTried(f"The checks have no network; something tried to reach {host}.")


def always(status: int, content: bytes | str = b"", **headers: str) -> Answer:
    """The same answer to everything. Underscores in header names stand for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: httpx2.Response(status, content=content, headers=named)


def breaking(kind: type[httpx2.TransportError], words: str = "made up") -> Answer:
    """No answer: every exchange ends with this error."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        raise kind(f"{words}: {request.url}", request=request)

    return answer
