"""The platform: `trunkline serve` with one HMAC-verified connection."""

import http.client
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson

from benchmarks.load import LoadResult
from benchmarks.message import SECRET, message_id

from .base import HOST, BenchmarkError, Server

_CONNECTORS = Path(__file__).resolve().parents[1] / "connectors"
_PAGE = 1000
_PAUSE_SECONDS = 0.05
"""Between two looks at a feed that had no full page to give."""
_STALLED_SECONDS = 60.0
"""How long the feed may bring nothing new while acknowledged events are missing."""


class Trunkline(Server):
    """Verifies, stores, parses, deduplicates, and offers the events in its feed."""

    name = "trunkline"
    compared = True

    def command(self) -> list[str]:
        return [sys.executable, "-m", "app", "serve", "--port", str(self.port)]

    def environment(self) -> dict[str, str]:
        return {"TRUNKLINE_DATA_DIR": str(self._data), "TRUNKLINE_CONNECTORS_PATH": str(_CONNECTORS)}

    def is_ready(self) -> bool:
        with closing(http.client.HTTPConnection(HOST, self.port, timeout=5)) as connection:
            try:
                connection.request("GET", "/readyz")
                return connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                return False

    def webhook_path(self) -> str:
        body = {"integration": "bench_hmac", "name": "bench", "secrets": {"signing_secret": SECRET}}
        connection = self._api.call("POST", "/api/v1/connections", expected=201, body=body)
        return str(urlsplit(connection["webhook_url"]).path)

    def wait_readable(self, run: str, load: LoadResult) -> float:
        return self._feed.wait_readable(run, load)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @cached_property
    def _api(self) -> "Api":
        return Api(self.port, (self._data / "admin.key").read_text().strip())

    @cached_property
    def _feed(self) -> "Feed":
        return Feed(self._api)


class Api:
    """The platform's REST interface, a connection per call: an idle one would not outlive a burst."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, *, expected: int = 200, body: object = None) -> Any:
        content = None if body is None else orjson.dumps(body)
        with closing(http.client.HTTPConnection(HOST, self._port, timeout=60)) as connection:
            connection.request(method, path, content, self._headers)
            response = connection.getresponse()
            answer = response.read()
        if response.status != expected:
            raise BenchmarkError(
                f"{method} {path} answered {response.status} instead of {expected}: {answer[:500]!r}"
            )
        return orjson.loads(answer)


@dataclass
class Feed:
    """Reads the events from the beginning on, as a consumer would.

    An answer without `next` is the end for now. It does not move the cursor, so its events come again with
    the next answer.

        behind  ids up to the cursor
        ahead   ids after the cursor, as of the last answer
        at_end  whether the last answer said that there was no more
    """

    api: Api
    cursor: str | None = None
    behind: Counter[str] = field(default_factory=Counter)
    ahead: list[str] = field(default_factory=list)
    at_end: bool = False

    def wait_readable(self, run: str, load: LoadResult) -> float:
        unacknowledged = set(load.unacknowledged)
        missing = {message_id(run, n) for n in range(load.sent) if n not in unacknowledged}
        found_last = time.monotonic()
        while missing:
            ids = self._read()
            if not missing.isdisjoint(ids):
                missing.difference_update(ids)
                found_last = time.monotonic()
            elif time.monotonic() - found_last > _STALLED_SECONDS:
                raise BenchmarkError(
                    f"{len(missing)} of {load.acknowledged} acknowledged events are not in the feed, "
                    f"{_STALLED_SECONDS:g} s after the last new one; for example {min(missing)}."
                )
            if missing and self.at_end:
                time.sleep(_PAUSE_SECONDS)
        self._check_once()
        return found_last

    def _check_once(self) -> None:
        """Reads on to the present end; raises BenchmarkError if the feed has an id twice."""
        self._read()
        while not self.at_end:
            self._read()
        counts = self.behind + Counter(self.ahead)
        if twice := [id_ for id_, times in counts.items() if times > 1]:
            raise BenchmarkError(f"{len(twice)} events are in the feed twice; for example {min(twice)}.")

    def _read(self) -> list[str]:
        """The external ids of one page from the cursor on."""
        query = {"limit": str(_PAGE)} | ({"after": self.cursor} if self.cursor else {})
        page = self.api.call("GET", f"/api/v1/events?{urlencode(query)}")
        ids = [event["external_id"] for event in page["items"]]
        self.at_end = page["next"] is None or len(ids) < _PAGE
        if page["next"] is None:
            self.ahead = ids
        else:
            self.ahead = []
            self.behind.update(ids)
            self.cursor = page["next"]
        return ids
