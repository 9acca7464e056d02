"""A captured payload: read like the platform reads one, and rid of what is nobody's business."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.integrations.bodies.json import decode_json
from app.integrations.errors import InvalidBody

from .errors import CannotScaffold

LARGEST = 256 * 1024
"""Bytes. The checks try out every value of a fixture, and a webhook of this size is rare."""
LARGEST_FIXTURE = 64 * 1024
MOST_IN_FIXTURE = 20

SCRUBBED = "scrubbed"

_SECRET = re.compile(
    r"(^|_)(tokens?|secrets?|passwords?|passwd|passphrase|pwd|authorization|auth|api_?keys?|access_?keys?"
    r"|private_?keys?|credentials?|cookies?|sessions?|signatures?|hmac|jwt|bearer|otp|cvv|cvc|iban|ssn)($|_)"
)
_EMAIL = re.compile(r"[\w.+'-]+(?P<domain>@[\w-]+(?:\.[\w-]+)+)?")
"""Finds words too, with no `domain`: looking for the @ from each letter anew takes minutes in a long text."""
_TOKEN = re.compile(
    r"\b(?:(?:sk|pk|rk)_(?:live|test)_|whsec_|xox[abeoprs]-|gh[pousr]_|github_pat_|glpat-|shp(?:at|ss)_|AKIA|AIza"
    r"|ya29\.|eyJ)[\w.~+/=-]{6,}|(?i:\b(?:bearer|basic) )[\w.~+/=-]{8,}"
)
_IN_URL = re.compile(
    r"(?<=[?&])(?P<name>[\w.-]{1,60})=[^&#\s\"'<>]+|(?<=://)[^/?#@:\s\"'<>]+:[^/?#@\s\"'<>]+(?=@)"
)
"""A parameter, or the user and password before a host."""
_BETWEEN_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[^A-Za-z0-9]+")


@dataclass(frozen=True)
class Sample:
    """What a provider sent, scrubbed.

    items     the objects in it: several if it is an array
    is_array  whether one request brings many items
    fixture   what is kept of it as a fixture
    scrubbed  where something was replaced
    left_out  how many items the fixture has less
    """

    items: list[dict[str, Any]]
    is_array: bool
    fixture: Any
    scrubbed: list[str] = field(default_factory=list)
    left_out: int = 0

    def fixture_text(self) -> str:
        return json.dumps(self.fixture, indent=2, ensure_ascii=False) + "\n"


def snake_case(text: str) -> str:
    """The words of a name in lower case, with underscores between; nothing but ASCII is left of it."""
    return "_".join(word for word in _BETWEEN_WORDS.split(text) if word).lower()


def is_data(key: str) -> bool:
    """Whether a key is somebody's address or a credential rather than the name of a field."""
    return any(found["domain"] for found in _EMAIL.finditer(key)) or bool(_TOKEN.search(key))


def read_sample(path: Path) -> Sample:
    """Raises CannotScaffold."""
    try:
        with path.open("rb") as file:
            body = file.read(LARGEST + 1)
    except OSError as error:
        raise CannotScaffold(
            f"The sample {path} cannot be read ({error.strerror}).",
            "Name a file that holds one webhook's body.",
        ) from None
    return sample_of(body, str(path))


def sample_of(body: bytes, called: str = "The sample") -> Sample:
    """Raises CannotScaffold."""
    if len(body) > LARGEST:
        raise CannotScaffold(
            f"{called} is larger than {LARGEST // 1024} KiB.", "Take the body of one smaller webhook."
        )
    try:
        value = decode_json(body.removeprefix(b"\xef\xbb\xbf"))
    except InvalidBody as error:
        raise CannotScaffold(
            f"{called} is not JSON that the platform would take: {error}",
            "Save the body of one webhook as it came, without headers.",
        ) from None
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, dict) for item in items):
        raise CannotScaffold(
            f"{called} is neither an object nor an array of objects.",
            "Save the body of one webhook: an object, an array of them, or several bodies in an array.",
        )
    scrubber = _Scrubber()
    clean = [scrubber.clean(item, "") for item in items]
    if not isinstance(value, list):
        return Sample(clean, False, clean[0], list(scrubber.replaced))
    kept = _that_fit(clean)
    return Sample(clean, True, kept, list(scrubber.replaced), len(clean) - len(kept))


def _that_fit(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first items, as many as a fixture should have; at least one."""
    size = 0
    for number, item in enumerate(items[:MOST_IN_FIXTURE]):
        size += len(json.dumps(item))
        if number and size > LARGEST_FIXTURE:
            return items[:number]
    return items[:MOST_IN_FIXTURE]


class _Scrubber:
    """Replaces credentials and addresses, each by the same all over the sample."""

    def __init__(self) -> None:
        self.replaced: dict[str, None] = {}
        self._addresses: dict[str, str] = {}

    def clean(self, value: Any, path: str, *, secret: bool = False) -> Any:
        match value:
            case dict():
                return self._object(value, path, secret=secret)
            case list():
                return [self.clean(part, f"{path}[]", secret=secret) for part in value]
            case bool() | None:
                return value
            case str():
                clean = SCRUBBED if secret and value else self._text(value)
            case _:
                clean = type(value)(0) if secret else value
        if clean != value:
            self.replaced.setdefault(path)
        return clean

    def _object(self, value: Mapping[str, Any], path: str, *, secret: bool) -> dict[str, Any]:
        clean: dict[str, Any] = {}
        for key, part in value.items():
            safe = self._text(key)
            if safe != key:
                self.replaced.setdefault(f"{path} (a key)".strip())
            while safe in clean:
                safe += "_"
            named = f"{path}.{_shown(safe)}" if path else _shown(safe)
            inside = secret or bool(_SECRET.search(snake_case(key)))
            clean[safe] = self.clean(part, named, secret=inside)
        return clean

    def _text(self, text: str) -> str:
        return _EMAIL.sub(self._address, _TOKEN.sub(SCRUBBED, _IN_URL.sub(_without_secret, text)))

    def _address(self, found: re.Match[str]) -> str:
        if not found["domain"]:
            return found[0]
        address = found[0].lower()
        if address.endswith(("@example.com", "@example.org", "@example.net")):
            return found[0]
        return self._addresses.setdefault(address, f"person{len(self._addresses) + 1}@example.com")


def _without_secret(found: re.Match[str]) -> str:
    name = found["name"]
    if name is None:
        return SCRUBBED
    return f"{name}={SCRUBBED}" if _SECRET.search(snake_case(name)) else found[0]


def _shown(key: str) -> str:
    """A key as a path names it: nothing that would break a line, or fill it."""
    return key if key.isprintable() and len(key) <= 40 else ascii(key)[1:40] + "…"
