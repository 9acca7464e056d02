"""The inbound request as connectors see it, and what they may answer."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bodies import Body


class Headers(Mapping[str, str]):
    """Request headers: case-insensitive, the first value of a repeated name, latin-1 as HTTP has it."""

    __slots__ = ("_first", "pairs")

    pairs: tuple[tuple[str, str], ...]
    _first: dict[str, str]

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self.pairs = tuple([(name.lower(), value) for name, value in pairs])
        self._first = dict(reversed(self.pairs))  # of a repeated name the first wins

    def __getitem__(self, name: str) -> str:
        return self._first[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        return len(self._first)

    def __repr__(self) -> str:
        return f"Headers({sorted(self._first)})"  # names only: values may be secrets


@dataclass(frozen=True)
class WebhookRequest:
    """An inbound request.

    method   as received, upper case
    url      the public URL that the sender used, with its query; once stored, its token reads `{token}`
    headers  as received; once stored, without credentials
    body     the exact bytes
    items    the units inside the body, as the integration's `body` declaration makes them;
             raises `InvalidBody` at the first look if the bytes do not fit
    """

    method: str
    url: str
    headers: Headers
    body: bytes = field(repr=False)
    body_spec: "Body" = field(repr=False)

    @cached_property
    def items(self) -> list[Any]:
        return self.body_spec.parse(self.headers, self.body)


@dataclass(frozen=True)
class Reply:
    """A content answer to the sender, for providers that want one (a challenge, PONG, TwiML).

    `events` are stored like returned ones. Only an integration with `reply_within` may reply: otherwise
    the sender has been answered long before `receive` runs.
    """

    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    events: tuple[Any, ...] = ()
