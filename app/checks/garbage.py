"""Bodies that no provider sends: what strangers, proxies, bugs and later versions of an API make.

The same for every run: what was found once is found again.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, urlencode

from app.integrations.base import BaseIntegration
from app.integrations.requests import WebhookRequest

from .fixtures import made_up_request, with_headers

MOST_PER_FIXTURE = 250

_WRONG: tuple[Any, ...] = (
    None, True, 0, -1, 2**63, 1.5, "", "\x00", "made up", "x" * 600, [], [None], ["made up"], {}, {"": {}},
    [[]], {"id": None}, {"made": {"up": []}},
)  # fmt: skip

_ODD: tuple[bytes, ...] = (
    b"", b" ", b"\n", b"null", b"true", b"0", b'""', b'"made up"', b"[]", b"[[]]", b"[null]", b"[0]", b"[{}]",
    b"{}", b'{"":null}', b'{"type":null}', b'{"type":[]}', b'{"id":{}}', b'{"event":0}', b'{"data":[]}',
    b'{"a":1,"a":2}', b"{", b'{"a"', b"NaN", b"1e999", b'{"a":' + b"9" * 400 + b"}", b"[" * 300 + b"]" * 300,
    b"\xff\xfe\x00", b"\xef\xbb\xbf{}", b'{"a":"\\ud800"}', b"a=1", b"a=1&a=2", b"&&==%", b"a[b][=1",
    b"%ff%fe=1", b"payload=", b"payload={}", b"payload=[]", b"payload=%7B", b"<", b"<a/>", b"<a><b></a>",
    b"<!DOCTYPE a><a/>", b"--x\r\n\r\n--x--", bytes(range(256)),
)  # fmt: skip

_FORMS = ("application/json", "application/x-www-form-urlencoded", "text/xml", "multipart/form-data")


def requests_of_garbage(
    connector: type[BaseIntegration], genuine: Sequence[WebhookRequest]
) -> Iterator[WebhookRequest]:
    """Requests with unfit bodies, and fit ones with unfit headers."""
    # Of each set of headers one request carries the odd bodies: they choose the way through a connector.
    frames = {tuple(sorted(request.headers)): request for request in genuine}
    for frame in (*frames.values(), made_up_request(connector, b"")):
        for body in (*_ODD, *_noise()):
            yield _with_body(frame, body)
    for content_type in _FORMS:
        for body in _ODD:
            yield made_up_request(connector, body, headers={"content-type": content_type})
    for request in genuine:
        for body in islice(_damaged(request.body), MOST_PER_FIXTURE):
            yield _with_body(request, body)
        for name in request.headers:
            for value in (None, "", "made up", "\xff\xfe", "x" * 5000):
                yield with_headers(request, {name: value})


def _noise() -> Iterator[bytes]:
    chance = random.Random(0)  # noqa: S311 - garbage, not keys
    for length in (1, 3, 17, 120, 1000):
        yield chance.randbytes(length)
        yield bytes(chance.choices(b'{}[]":,0a\\u&=%<>/ \n', k=length))


def _damaged(body: bytes) -> Iterator[bytes]:
    """What a body becomes when parts of it are missing, of another kind, or broken."""
    chance = random.Random(len(body))  # noqa: S311
    for length in (1, len(body) // 2, len(body) - 1):
        yield body[:length]
    for _ in range(20 if body else 0):
        at = chance.randrange(len(body))
        yield body[:at] + chance.randbytes(1) + body[at + 1 :]
    # Large bodies have tens of thousands of changed forms: those that nobody takes are never written.
    changed = [*_changed_json(body), *_changed_form(body)]
    for make in chance.sample(changed, len(changed)):
        yield make()


def _changed_json(body: bytes) -> Iterator[Callable[[], bytes]]:
    try:
        value = json.loads(body)
    except ValueError:
        return
    for changed in _changed(value):
        yield partial(_json, changed)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _changed(value: Any) -> Iterator[Any]:
    """The value with one part of it replaced or taken away, at any depth, also in JSON inside texts."""
    yield from _WRONG
    if isinstance(value, dict):
        for name, part in value.items():
            yield {other: kept for other, kept in value.items() if other != name}
            for changed in _changed(part):
                yield value | {name: changed}
    elif isinstance(value, list):
        for index, part in enumerate(value[:3]):
            for changed in _changed(part):
                yield [*value[:index], changed, *value[index + 1 :]]
    elif isinstance(value, str) and value[:1] in ("{", "["):
        try:
            inner = json.loads(value)
        except ValueError:
            return
        for changed in _changed(inner):
            yield json.dumps(changed)


def _changed_form(body: bytes) -> Iterator[Callable[[], bytes]]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True)
    except ValueError:
        return
    for index, (name, value) in enumerate(pairs):
        others = pairs[:index] + pairs[index + 1 :]
        yield partial(_form, others)
        yield partial(_form, [*pairs, (name, value)])
        yield partial(_form, [*others, (f"{name}[0]", value)])
        for changed in _changed(value):
            text = changed if isinstance(changed, str) else json.dumps(changed)
            yield partial(_form, [*others, (name, text)])


def _form(pairs: Sequence[tuple[str, str]]) -> bytes:
    return urlencode(pairs).encode()


def _with_body(request: WebhookRequest, body: bytes) -> WebhookRequest:
    return WebhookRequest(request.method, request.url, request.headers, body, request.body_spec)
