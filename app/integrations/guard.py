"""A way out for URLs that callers choose, which must not become a way in to our own network.

The guard stands where the connection is made: the name is resolved, each address is judged, and the very
address that was judged is connected to, so a name that resolves differently a moment later gains nothing.
What it refuses is Rejected: nothing was sent, and trying again would not help. No proxy is used, and what
comes back is read up to a limit.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

import httpcore2
import httpx2

from .errors import Rejected

MAX_ADDRESSES = 4
"""Of one name, tried one after the other."""

_NAT64 = IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""The only part of IPv6 that has been given out; what Python knows of the rest differs by version."""

_REFUSED = "The URL leads to an address of a private network, which this connection may not reach."


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address is one of the public internet: not loopback, private, link-local (where clouds
    keep credentials), shared, reserved or multicast, nor an IPv6 address that stands for one of these."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
        if address not in _GLOBAL_UNICAST or address.sixtofour is not None or address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """Connects to public addresses only, unless `allow_private`, and reads at most `max_bytes` of an answer.

    A longer answer is cut off there. Compressed answers are not unpacked, because a small one can be a
    huge one.
    """

    def __init__(self, ssl_context: ssl.SSLContext, *, allow_private: bool, max_bytes: int) -> None:
        super().__init__(verify=ssl_context)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=ssl_context,
            network_backend=None if allow_private else _GuardedBackend(),
        )
        self._max_bytes = max_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        response = await super().handle_async_request(request)
        headers = [(n, v) for n, v in response.headers.raw if n.lower() != b"content-encoding"]
        stream = response.stream
        assert isinstance(stream, httpx2.AsyncByteStream)
        return httpx2.Response(
            response.status_code,
            headers=headers,
            stream=_Limited(stream, self._max_bytes),
            extensions=response.extensions,
        )


class _Limited(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream, limit: int) -> None:
        self._stream = stream
        self._left = limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk[: self._left]
            self._left -= len(chunk)
            if self._left <= 0:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()


class _GuardedBackend(httpcore2.AsyncNetworkBackend):
    def __init__(self) -> None:
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = [a for a in await _resolved(host, port, timeout) if is_public(ip_address(a))]
        if not addresses:
            raise Rejected(_REFUSED)
        failure: Exception | None = None
        for address in addresses[:MAX_ADDRESSES]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


async def _resolved(host: str, port: int, timeout: float | None) -> list[str]:
    """The addresses of a name, in the resolver's order. Raises ConnectError or ConnectTimeout."""
    try:
        async with asyncio.timeout(timeout):
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise httpcore2.ConnectTimeout("The name could not be resolved in time.") from None
    except (OSError, UnicodeError):
        raise httpcore2.ConnectError("The name could not be resolved.") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
