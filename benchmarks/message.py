"""What the load sends: signed webhooks of about 1.5 KB of JSON with a unique id, and requests for actions."""

import hmac
import json
from collections.abc import Callable, Iterator
from itertools import count

SECRET = "benchmark-signing-secret-0123456789abcdef"
SIGNATURE_HEADER = "X-Signature-256"
_PLACEHOLDER = "{message id}"


def message_id(run: str, number: int) -> str:
    """Of fixed width within a run, so that every request of it has the same length."""
    return f"{run}-{number:09d}"


def webhook_builder(host: str, port: int, path: str, run: str) -> Callable[[int], bytes]:
    """A function that makes the signed webhook with a given number, head and body."""
    key = SECRET.encode()
    before, after = (part.encode() for part in json.dumps(_message()).split(_PLACEHOLDER))
    length = len(before) + len(message_id(run, 0)) + len(after)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n{SIGNATURE_HEADER}: sha256="
    ).encode()

    def build(number: int) -> bytes:
        body = before + message_id(run, number).encode() + after
        signature = hmac.digest(key, body, "sha256").hex().encode()
        return b"".join((head, signature, b"\r\n\r\n", body))

    return build


def action_builder(host: str, port: int, path: str, run: str, api_key: str) -> Callable[[int], bytes]:
    """A function that makes the request for the action with a given number."""

    def build(number: int) -> bytes:
        body = json.dumps({"type": "deliver", "payload": {"ref": message_id(run, number)}}).encode()
        return (
            f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {api_key}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    return build


def bodies(run: str, text_length: int) -> Iterator[bytes]:
    """Bodies with a text of that length, without an end."""
    message = _message() | {"text": "x" * text_length}
    before, after = (part.encode() for part in json.dumps(message).split(_PLACEHOLDER))
    for number in count():
        yield before + message_id(run, number).encode() + after


def _message() -> dict[str, object]:
    return {
        "id": _PLACEHOLDER,
        "type": "message.received",
        "sent_at": "2025-06-01T12:00:00Z",
        "sender": {"id": 48151623, "name": "Ada Lovelace", "locale": "en-GB", "is_bot": False},
        "channel": {"id": "C024BE91L", "kind": "group", "title": "Analytical engines", "members": 42},
        "text": "The engine weaves algebraic patterns just as the loom weaves flowers and leaves. " * 11,
        "tags": ["engine", "notes", "bernoulli"],
        "attachments": [
            {"id": number, "kind": "image", "name": f"diagram-{number}.png", "bytes": 18231 + number}
            for number in range(3)
        ],
        "metrics": {"score": 0.875, "attempt": 1, "delay_ms": 12.5},
    }
