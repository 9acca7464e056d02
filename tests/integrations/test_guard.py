"""The way out for URLs that callers choose: what it refuses, where it decides, how much it reads."""

import socket
from ipaddress import ip_address
from typing import Any

import httpcore2
import httpx2
import pytest

from app.integrations.errors import NotSent, Rejected
from app.integrations.guard import GuardedTransport, _GuardedBackend, is_public
from app.integrations.http import AttemptTrace, ConnectorHttp, current_attempt
from tests.support.wire import Exchange, wire_server


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
        "100.64.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "fe80::1", "fe80::1%eth0", "fec0::1", "fc00::1",
        "fd00:ec2::254", "ff02::1", "ff0e::1", "2001:db8::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:7f00:1::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address):
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["93.184.216.34", "8.8.8.8", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_addresses_that_are_public(address):
    assert is_public(ip_address(address))


async def ask(url: str, *, allow_private: bool = False, max_bytes: int = 1000) -> httpx2.Response:
    http = ConnectorHttp().guarded(allow_private=allow_private, max_bytes=max_bytes)
    try:
        return await http.post(url, json={})
    finally:
        await http.aclose()


async def answering(exchange: Exchange) -> None:
    await exchange.request()
    await exchange.answer(200, b"x" * 5000, content_encoding="gzip")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"])
async def test_loopback_is_refused_however_it_is_written_and_nothing_is_sent(host):
    trace = AttemptTrace()
    token = current_attempt.set(trace)
    try:
        async with wire_server(answering) as server:
            with pytest.raises(Rejected, match="private network"):
                await ask(server.url.replace("127.0.0.1", host))
            assert server.accepted == 0
    finally:
        current_attempt.reset(token)
    assert not trace.begun


async def test_a_private_network_is_reached_if_that_is_allowed_and_long_answers_are_cut_off():
    async with wire_server(answering) as server:
        answer = await ask(server.url, allow_private=True)
    assert answer.content == b"x" * 1000, "and not unpacked"


class Connected(Exception):
    pass


async def test_the_address_that_was_judged_is_the_one_that_is_connected_to(monkeypatch):
    resolved, tried = [], []

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        resolved.append(host)
        return [(socket.AF_INET, 1, 6, "", (a, port)) for a in ("10.0.0.1", "93.184.216.34", "8.8.8.8")]

    async def connect_tcp(_: Any, host: str, *__: Any) -> Any:
        tried.append(host)
        if host == "93.184.216.34":
            raise httpcore2.ConnectError("no answer")
        raise Connected

    monkeypatch.setattr(
        "asyncio.base_events.BaseEventLoop.getaddrinfo", lambda _, *a, **o: getaddrinfo(*a, **o)
    )
    monkeypatch.setattr(httpcore2.AnyIOBackend, "connect_tcp", connect_tcp)
    with pytest.raises(Connected):
        await _GuardedBackend().connect_tcp("hooks.example", 443, timeout=5)
    assert (resolved, tried) == (["hooks.example"], ["93.184.216.34", "8.8.8.8"])


async def test_a_name_that_does_not_resolve_was_not_sent(monkeypatch):
    async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror("no such name")

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", getaddrinfo)
    with pytest.raises(NotSent):
        await ask("https://nobody.example")


async def test_a_stand_in_for_the_network_stays_in_place():
    http = ConnectorHttp(transport=httpx2.MockTransport(lambda _: httpx2.Response(204)))
    assert (await http.guarded(allow_private=False, max_bytes=1).get("http://127.0.0.1")).status_code == 204
    assert issubclass(GuardedTransport, httpx2.AsyncHTTPTransport)
