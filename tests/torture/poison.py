"""Bytes that nobody should send, at the webhook endpoint of a live platform."""

import asyncio
import json
import re
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.platform import eventually
from tests.support.process import PlatformProcess, connect, each
from tests.support.senders import SECRET, signed

from .bench import Bench, Scale, Verdict

CASES: dict[Scale, int] = {"tiny": 2_000, "short": 5_000, "long": 50_000}
GENUINE_EVERY = 100
PATIENCE = 20.0
MOMENT = 0.02
"""Seconds for an answer to what may not be a request at all."""

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})")


@dataclass
class Case:
    """What is sent: `raw` as it is, with everything of HTTP in it."""

    kind: str
    raw: bytes
    allowed: frozenset[int] | None
    """Statuses of which one is the answer; None: any but 5xx, or none at all."""


# Bodies.

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
_genuine = {"id": "x", "sender": "s", "n": 1, "nested": {"list": [1, 2.5, None, "é"]}}
NASTY = [
    b"",
    b"\0",
    b'{"id": "a\0b"}',
    b'{"id": "a\\u0000b"}',
    b'{"id": "\\ud800"}',
    b'{"id": 1e999}',
    b'{"id": NaN}',
    b'{"id": "a", "id": "b"}',
    b'{"id": 123456789012345678901234567890}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"[]",
    b"null",
    b'"x"',
    b"\xef\xbb\xbf{}",
    '{"id": "ä"}'.encode("utf-16"),
    b'{"id": "' + b"x" * 5000 + b'"}',
    b'{"id": ' + b"9" * 5000 + b"}",
    b"\xff\xfe\xfd",
]
"""Bodies that are always among the cases."""


@st.composite
def _mutilated(draw: Callable[[Any], Any]) -> bytes:
    """A genuine body with some bytes changed, cut out or put in."""
    body = bytearray(json.dumps(_genuine).encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body) - 1))
        body[at : at + draw(st.integers(0, 5))] = draw(st.binary(max_size=5))
        if not body:
            break
    return bytes(body)


_bodies = (
    st.binary(max_size=300)
    | st.sampled_from(NASTY)
    | _mutilated()
    | _json.map(lambda value: json.dumps(value).encode())
)

# Headers and framing.

_value = st.binary(max_size=60).map(lambda v: v.translate(None, b"\r\n\0"))
_valid_value = _value.map(lambda v: v.translate(None, bytes([*range(9), *range(10, 32), 127])))
_name = st.text("abcdefghijklmnopqrstuvwxyz-_0123456789!#$%&'*+.^`|~", min_size=1, max_size=20).map(
    str.encode
)
_known = st.sampled_from(
    [
        b"content-type: application/json; charset=nonsense",
        b"content-encoding: gzip",
        b"expect: 100-continue",
        b"connection: upgrade\r\nupgrade: websocket",
        b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQ",
        b"cookie: " + b"a" * 3000,
        b"x-signature: sha256=",
        b"x-signature: \xe4\xf6\xfc",
        b"x-forwarded-for: ' or 1=1",
        b"content-length: 5",
        b"content-length: -1",
        b"content-length: 99999999999999999999999",
        b"content-length: 0x10",
        b"transfer-encoding: chunked",
        b"transfer-encoding: gzip, chunked",
        b"transfer-encoding: \x0bchunked",
        b"host: \xff",
        b" folded: x",
        b"no colon at all",
        b": no name",
        b"x" * 70_000 + b": long",
    ]
)
_header = _known | st.tuples(_name, _value).map(b": ".join)
_signed_header = st.tuples(_name.map(lambda n: b"x-" + n), _valid_value).map(b": ".join)


_versions = st.sampled_from([b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"X", b""])
_chunks = st.sampled_from(
    [b"5\r\nabc", b"-1\r\n", b"ffffffffffffffff\r\n", b"0\r\n\r\n", b"zz\r\n", b"3\r\nabcd\r\n"]
)


def _signed(path: bytes, body: bytes, more: Sequence[bytes] = ()) -> Case:
    """Genuine as far as anybody can tell: it is stored, whatever it is."""
    signature = b"x-signature: " + signed(body)["X-Signature"].encode()
    lines = [b"POST " + path + b" HTTP/1.1", b"host: h", signature, b"content-length: %d" % len(body), *more]
    return Case("signed", b"\r\n".join(lines) + b"\r\n\r\n" + body, frozenset({200}))


@st.composite
def _cases(draw: Callable[[Any], Any], path: bytes) -> Case:
    kind = draw(st.sampled_from(["signed", "signed", "signed", "headers", "framing", "address"]))
    body = draw(_bodies)
    length = b"content-length: %d" % len(body)
    if kind == "signed":
        more = draw(st.lists(_signed_header.filter(lambda h: not h.startswith(b"x-signature:")), max_size=3))
        return _signed(path, body, more)
    if kind == "headers":
        lines = [b"POST " + path + b" HTTP/1.1", b"host: h", *draw(st.lists(_header, max_size=6)), length]
        return Case(kind, b"\r\n".join(lines) + b"\r\n\r\n" + body, None)
    if kind == "address":
        methods = [
            "GET",
            "PUT",
            "HEAD",
            "OPTIONS",
            "DELETE",
            "PATCH",
            "TRACE",
            "CONNECT",
            "PROPFIND",
            "post",
            "Ü",
            "",
        ]
        method = draw(st.sampled_from(methods)).encode()
        target = draw(
            st.sampled_from(
                [path, path + b"/", path + b"?a=%ff&b", path.upper(), path + b"%2f", path + b"\0", b"*",
                 b"http://other" + path, b"/webhooks/", b"/webhooks//", b"/webhooks", b"/webhooks/signed/%00",
                 b"/webhooks/\xff/x", b"/" + b"a" * 70_000]
            )
            | st.binary(max_size=40).map(lambda b: path[:10] + b)
        )  # fmt: skip
        return Case(
            kind, method + b" " + target + b" HTTP/1.1\r\nhost: h\r\n" + length + b"\r\n\r\n" + body, None
        )
    whole = (
        b"POST " + path + b" HTTP/1.1\r\nhost: h\r\n" + draw(_header) + b"\r\n" + length + b"\r\n\r\n" + body
    )
    framed = draw(
        st.sampled_from(
            [
                whole[: draw(st.integers(0, len(whole)))],
                whole.replace(b"\r\n", b"\n"),
                whole.replace(b"HTTP/1.1", draw(_versions)),
                whole + draw(st.binary(max_size=200)),
                whole * 3,
                b"POST " + path + b" HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
                + draw(_chunks),
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + body,
                draw(st.binary(max_size=300)),
            ]
        )
    )  # fmt: skip
    return Case(kind, framed, None)


class Line:
    """One connection to the platform, opened anew when it has been closed."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._socket: socket.socket | None = None

    def exchange(self, raw: bytes, *, whole: bool) -> list[int]:
        """Sends and returns the statuses of the answers. What is not a whole request gets a moment to be
        answered, and then the connection's end. A connection that was kept may have been closed while it
        lay idle, as any client knows: then the request is sent once more on a new one."""
        kept = self._socket is not None
        received = self._send(raw, whole=whole)
        if whole and kept and not received:
            received = self._send(raw, whole=whole)
        return [int(status) for status in _STATUS.findall(received)]

    def _send(self, raw: bytes, *, whole: bool) -> bytes:
        if self._socket is None:
            self._socket = socket.create_connection(self._address)
        self._socket.settimeout(PATIENCE if whole else MOMENT)
        received = b""
        try:
            self._socket.sendall(raw)
            while data := self._socket.recv(65536):
                received += data
                if b"\r\n\r\n" in received:
                    break
            else:
                self.close()
        except TimeoutError:
            assert not whole, f"no answer within {PATIENCE} s"
        except ConnectionError:
            self.close()
        if not whole:
            self.close()
        return received

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@dataclass
class Tally:
    """What has been sent and answered."""

    cases: int = 0
    genuine: int = 0
    statuses: Counter[int] = field(default_factory=Counter)


def throw(url: str, cases: int, seed: int, *, shrink: bool) -> tuple[Tally, list[str]]:
    """Sends the cases one by one; what was sent, and the first fault."""
    parts = urlsplit(url)
    path = parts.path.encode()
    kept, tally = Line(str(parts.hostname), int(parts.port or 80)), Tally()

    def genuine() -> None:
        body = json.dumps({"id": f"genuine-{tally.genuine}", "sender": "g"}).encode()
        line = Line(str(parts.hostname), int(parts.port or 80))
        statuses = line.exchange(_signed(path, body).raw, whole=True)
        line.close()
        assert statuses == [200], f"a genuine request was answered {statuses}"
        tally.genuine += 1

    @hypothesis.seed(seed)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        print_blob=False,
        report_multiple_bugs=False,
    )
    @given(_cases(path))
    def one(case: Case) -> None:
        send(case)

    def send(case: Case) -> None:
        tally.cases += 1
        line = kept if case.kind == "signed" else Line(str(parts.hostname), int(parts.port or 80))
        statuses = line.exchange(case.raw, whole=case.kind == "signed")
        tally.statuses.update(statuses)
        seen = f"{case.kind} was answered {statuses}: {case.raw[:300]!r}"
        assert all(status < 500 for status in statuses), seen
        if case.allowed is not None:
            assert statuses, seen
            assert set(statuses) <= case.allowed, seen
        if tally.cases % GENUINE_EVERY == 0:
            genuine()

    try:
        for body in NASTY:
            send(_signed(path, body))
        one()
        genuine()
    except AssertionError as error:
        return tally, [str(error).splitlines()[0]]
    except OSError as error:
        return tally, [f"the platform did not answer ({error})"]
    finally:
        kept.close()
    return tally, []


async def send_poison(bench: Bench) -> list[Verdict]:
    """Hypothesis makes the bytes; every so often a genuine request has to get through."""
    cases = bench.size(CASES)
    async with bench.platform() as platform, platform.client() as client:
        url = (await connect(client, "signed", secrets={"signing_secret": SECRET}))["webhook_url"]
        shrink = bench.scale != "tiny"
        tally, faults = await asyncio.to_thread(throw, url, cases, bench.seed, shrink=shrink)
        alive = platform.running and platform.starts == 1
        stuck, kept, failed = [], 0, 0
        if alive:
            stuck, failed = await _settled(client, bench.scale)
            kept = len({e["external_id"] async for e in each(client, "/api/v1/events") if _is_genuine(e)})
        lost = [f"{tally.genuine - kept} genuine requests became no event"] * (
            alive and kept != tally.genuine
        )
        return [
            Verdict(
                "No bytes at the webhook endpoint make it answer 5xx, or die",
                f"{tally.cases:,} cases by hypothesis: bodies, headers, framing, addresses",
                faults + ["the platform died"] * (not alive) + _errors(platform),
                {
                    "answers": tally.statuses.total(),
                    "5xx": sum(n for s, n in tally.statuses.items() if s >= 500),
                },
            ),
            Verdict(
                "Poison stops nothing behind it",
                f"a genuine request after every {GENUINE_EVERY} cases",
                stuck + lost,
                {"genuine": tally.genuine, "kept as failed webhooks": failed},
            ),
        ]


async def _settled(client: Any, scale: Scale) -> tuple[list[str], int]:
    """Faults if webhooks stay waiting, and how many failed."""

    async def waiting() -> int:
        answer = await client.get("/api/v1/webhooks", params={"state": "received", "limit": 100})
        return len(answer.json()["items"])

    stuck = []
    try:
        await eventually(waiting, lambda n: n == 0, 5 if scale == "tiny" else 60)
    except AssertionError:
        stuck = ["webhooks wait and are not processed"]
    failed = [w async for w in each(client, "/api/v1/webhooks", state="failed")]
    return stuck, len(failed)


def _is_genuine(event: dict[str, Any]) -> bool:
    return str(event["external_id"]).startswith("genuine-")


def _errors(platform: PlatformProcess) -> list[str]:
    """Exceptions that nobody caught, from the log."""
    lines = [
        line for line in platform.log_text().splitlines() if '"level": "error"' in line or "Traceback" in line
    ]
    return [f"{len(lines)} unhandled exceptions: {lines[0][:300]}"] if lines else []
