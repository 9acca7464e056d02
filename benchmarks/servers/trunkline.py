"""The platform: `trunkline serve` and `trunkline worker`, and how a client sees them."""

import http.client
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

import orjson

from benchmarks.databases import Place
from benchmarks.load import HOST, LoadResult
from benchmarks.message import SECRET, message_id

from .base import BenchmarkError, Server

_CONNECTORS = Path(__file__).resolve().parents[1] / "connectors"
_PAGE = 1000
_PAUSE_SECONDS = 0.05
"""Between two looks at what has no news."""
_STALLED_SECONDS = 60.0
"""How long nothing may happen while something is missing."""

Role = Literal["all", "api", "worker"]


class Trunkline(Server):
    """Verifies, stores, parses, deduplicates, offers the events in its feed, and carries actions out.

    `process` is its number among several on one database: the first one makes the admin key.
    """

    name = "trunkline"

    def __init__(self, place: Place, role: Role = "all", process: int = 0) -> None:
        super().__init__(place)
        self._role = role
        self._process = process

    def command(self) -> list[str]:
        if self._role == "worker":
            return [sys.executable, "-m", "app", "worker"]
        return [sys.executable, "-m", "app", "serve", "--role", self._role, "--port", str(self.port)]

    def environment(self) -> dict[str, str]:
        return {"TRUNKLINE_CONNECTORS_PATH": str(_CONNECTORS), **self.place.for_platform(self._process)}

    def is_ready(self) -> bool:
        if self._role == "worker":
            return "Trunkline works" in self.log.read_text(errors="replace")
        with closing(http.client.HTTPConnection(HOST, self.port, timeout=5)) as connection:
            try:
                connection.request("GET", "/readyz")
                return connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                return False

    def webhook_path(self) -> str:
        return self.new_webhook_path("bench")

    def new_webhook_path(self, name: str) -> str:
        """Makes a connection; returns where its webhooks go."""
        body = {"integration": "bench_hmac", "name": name, "secrets": {"signing_secret": SECRET}}
        connection = self.api.call("POST", "/api/v1/connections", expected=201, body=body)
        return str(urlsplit(connection["webhook_url"]).path)

    def wait_readable(self, run: str, load: LoadResult) -> float:
        return self.feed.wait_readable(run, load)

    @cached_property
    def api(self) -> "Api":
        return Api(self.port, (self.place.data / "admin.key").read_text().strip())

    @cached_property
    def feed(self) -> "Feed":
        return Feed(self.api)


class Api:
    """The platform's REST interface, a connection per call: an idle one would not outlive a burst."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self.key = key
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

    def wait_finished(self, connection: str) -> float:
        """Waits until all actions of the connection have ended; returns the time.monotonic()."""
        last, changed = None, time.monotonic()
        while True:
            gate = self.call("GET", f"/api/v1/connections/{connection}/limits")
            left = gate["running"] + gate["queued"]
            now = time.monotonic()
            if left == 0:
                return now
            if left != last:
                last, changed = left, now
            elif now - changed > _STALLED_SECONDS:
                raise BenchmarkError(
                    f"{left} actions have not ended, and none has for {_STALLED_SECONDS:g} s."
                )
            time.sleep(_PAUSE_SECONDS)


@dataclass
class Feed:
    """Reads the events from the cursor on, as a consumer would.

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
        return self.wait_for(missing)

    def wait_for(self, missing: set[str]) -> float:
        """Waits until all of these have been read; returns the time.monotonic() of the last."""
        wanted = len(missing)
        found_last = time.monotonic()
        while missing:
            ids = self._read()
            if not missing.isdisjoint(ids):
                missing.difference_update(ids)
                found_last = time.monotonic()
            elif time.monotonic() - found_last > _STALLED_SECONDS:
                raise BenchmarkError(
                    f"{len(missing)} of {wanted} acknowledged events are not in the feed, "
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
