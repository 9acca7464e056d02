"""Fixtures: what a provider sends, kept in files.

`fixtures/<event>[__variant].<form>` is the body, byte for byte except that the line end at the end of a
`.form` file does not count. `<same name>.headers.json` beside it holds the headers that matter. Names that
begin with `_` are other material of the tests.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.integrations.base import BaseIntegration
from app.integrations.requests import Headers, WebhookRequest

HEADERS = ".headers.json"
BASE_URL = "https://hooks.example.com/webhooks"
TOKEN = "plantedT0kenOfTheUrl"  # noqa: S105 - made up
PATH = ":path"
"""In a headers file: the query of the URL, for providers that put something there."""

_CONTENT_TYPES = {
    "json": "application/json",
    "form": "application/x-www-form-urlencoded",
    "xml": "text/xml; charset=utf-8",
    "txt": "text/plain; charset=utf-8",
}


class UnreadableFixture(Exception):
    """A fixture's headers are not a JSON object of texts; the message says which file."""


@dataclass(frozen=True)
class Fixture:
    """One fixture: the event that it is named after, and its files."""

    event: str
    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def form(self) -> str:
        return self.path.suffix.removeprefix(".")

    @property
    def body(self) -> bytes:
        body = self.path.read_bytes()
        return body.rstrip(b"\r\n") if self.form == "form" else body

    @property
    def headers(self) -> dict[str, str]:
        """Raises UnreadableFixture."""
        path = self.path.with_name(self.path.stem + HEADERS)
        if not path.exists():
            return {}
        try:
            headers: Any = json.loads(path.read_text("utf-8"))
        except ValueError:
            headers = None
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            raise UnreadableFixture(f"{path.name} is not a JSON object of header names and values")
        return headers

    @property
    def is_readable(self) -> bool:
        try:
            return self.headers is not None
        except UnreadableFixture:
            return False


def read_fixtures(folder: Path) -> list[Fixture]:
    """The fixtures in a folder, by name."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        Fixture(path.stem.partition("__")[0], path)
        for path in files
        if path.is_file()
        and not path.name.startswith(("_", "."))
        and not path.name.endswith(HEADERS)
        and path.suffix != ".md"
    ]


def stray_headers(folder: Path) -> list[Path]:
    """Headers files without a body."""
    bodies = {fixture.path.stem for fixture in read_fixtures(folder)}
    return [
        path for path in sorted(folder.glob(f"*{HEADERS}")) if path.name.removesuffix(HEADERS) not in bodies
    ]


def request_of(connector: type[BaseIntegration], fixture: Fixture) -> WebhookRequest:
    """The fixture as its provider would send it, without a signature yet. Raises UnreadableFixture."""
    return made_up_request(connector, fixture.body, form=fixture.form, headers=fixture.headers)


def made_up_request(
    connector: type[BaseIntegration],
    body: bytes,
    *,
    form: str = "json",
    headers: dict[str, str] | None = None,
) -> WebhookRequest:
    given = dict(headers or {})
    query = urlsplit(given.pop(PATH, "")).query
    url = f"{BASE_URL}/{connector.key}/{TOKEN}{'?' + query if query else ''}"
    named = {name.lower() for name in given}
    pairs = list(given.items())
    if "content-type" not in named:
        pairs.append(("content-type", _CONTENT_TYPES.get(form, "application/octet-stream")))
    return WebhookRequest("POST", url, Headers(pairs), body, connector.body)


def with_headers(request: WebhookRequest, changed: Mapping[str, str | None]) -> WebhookRequest:
    """The request with some headers changed; None takes one away."""
    lower = {name.lower(): value for name, value in changed.items()}
    pairs = [pair for pair in request.headers.pairs if pair[0] not in lower]
    pairs += [(name, value) for name, value in lower.items() if value is not None]
    return replace(request, headers=Headers(pairs))
