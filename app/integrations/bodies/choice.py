"""Providers that send the same webhook in one of several forms."""

from collections.abc import Mapping
from typing import Any

from app.integrations.errors import InvalidBody
from app.integrations.requests import Headers

from .json import Body


class ByContentType:
    """One declaration for each content type (`type/subtype`, lower case), such as JSON or a form."""

    def __init__(self, bodies: Mapping[str, Body]) -> None:
        self._bodies = dict(bodies)

    def parse(self, headers: Headers, body: bytes) -> list[Any]:
        kind = media_type(headers)
        chosen = self._bodies.get(kind)
        if chosen is None:
            known = ", ".join(self._bodies)
            raise InvalidBody("unexpected_content_type", f"The content type is not one of {known}.")
        return chosen.parse(headers, body)

    def __repr__(self) -> str:
        return f"ByContentType({self._bodies!r})"


def media_type(headers: Headers) -> str:
    """The content type without its parameters, lower case; empty if there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()
