"""The last requests that were turned away, per connection, in memory: a wrong secret is the commonest
failure of the first hour, and nothing else would show it."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice

PER_CONNECTION = 20
CONNECTIONS = 10_000
MOST_HEADERS = 50
MOST_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why and when, and the request's outline: no values, no body."""

    at: int
    code: str
    message: str
    headers: tuple[str, ...]
    length: int


def outline(names: Iterable[str]) -> tuple[str, ...]:
    """The names of a request's headers, within bounds: strangers choose them."""
    return tuple(name[:MOST_CHARACTERS] for name in islice(names, MOST_HEADERS))


class Refusals:
    """Bounded in both directions; the connections refused longest ago go first."""

    def __init__(self) -> None:
        self._by_connection: OrderedDict[str, deque[Refusal]] = OrderedDict()
        self.watcher: Callable[[str, Refusal], None] | None = None
        """Told of each, with the connection's id."""

    def add(self, connection_id: str, refusal: Refusal) -> None:
        kept = self._by_connection.setdefault(connection_id, deque(maxlen=PER_CONNECTION))
        kept.append(refusal)
        self._by_connection.move_to_end(connection_id)
        if len(self._by_connection) > CONNECTIONS:
            self._by_connection.popitem(last=False)
        if self.watcher:
            self.watcher(connection_id, refusal)

    def of(self, connection_id: str) -> list[Refusal]:
        """The newest first."""
        return list(reversed(self._by_connection.get(connection_id, ())))
