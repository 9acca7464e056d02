"""The platform as a synchronous caller sees it: the providers' own libraries are synchronous, too."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx2

T = TypeVar("T")


def eventually(look: Callable[[], T], good: Callable[[T], bool], timeout: float = 15.0) -> T:
    """Looks until what is seen is good; fails with what was seen last."""
    deadline = time.monotonic() + timeout
    while True:
        seen = look()
        if good(seen):
            return seen
        assert time.monotonic() < deadline, f"after {timeout} s still: {seen!r:.2000}"
        time.sleep(0.05)


class Connection:
    """One connection of a running platform, and what there is to do with it."""

    def __init__(self, client: httpx2.Client, integration: str, **body: Any) -> None:
        self._client = client
        made = self._said(
            client.post("/api/v1/connections", json={"integration": integration, "name": "emulated", **body})
        )
        self.id: str = made["id"]
        self.webhook_url: str = made["webhook_url"]

    def check(self) -> dict[str, Any]:
        """What the connection's own check says."""
        return self._said(self._client.post(f"/api/v1/connections/{self.id}/check"))

    def job(self, action: str, **payload: Any) -> dict[str, Any]:
        """Runs an action to its end, whatever that is."""
        return self._said(
            self._client.post(
                f"/api/v1/connections/{self.id}/actions",
                json={"type": action, "payload": payload},
                headers={"Prefer": "wait=20"},
            )
        )

    def act(self, action: str, **payload: Any) -> dict[str, Any]:
        """Runs an action that has to succeed, and returns its result."""
        job = self.job(action, **payload)
        assert job["state"] == "succeeded", job
        result: dict[str, Any] = job["result"]
        return result

    def answer(self, body: bytes, headers: dict[str, str], query: str = "") -> httpx2.Response:
        """What the platform answers to a webhook."""
        headers = {"Authorization": "", **headers}
        return self._client.post(self.webhook_url + query, content=body, headers=headers)

    def deliver(self, body: bytes, headers: dict[str, str], query: str = "") -> int:
        """Sends a webhook and returns the status of the answer."""
        return self.answer(body, headers, query).status_code

    def events(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """The events of a kind, once there are `count` of them."""
        return eventually(lambda: self._events(kind), lambda events: len(events) >= count)

    def webhooks(self) -> list[dict[str, Any]]:
        """The stored webhooks with their content, the newest first, once none of them waits."""

        def look() -> list[dict[str, Any]]:
            query = {"connection": self.id, "limit": 1000}
            found: list[dict[str, Any]] = self._said(self._client.get("/api/v1/webhooks", params=query))[
                "items"
            ]
            return found

        stored = eventually(look, lambda found: all(w["state"] in ("processed", "failed") for w in found))
        return [self._said(self._client.get(f"/api/v1/webhooks/{webhook['id']}")) for webhook in stored]

    def refusals(self) -> list[str]:
        """Why requests were turned away, the newest first."""
        refused = self._said(self._client.get(f"/api/v1/connections/{self.id}/refusals"))
        return [refusal["code"] for refusal in refused["items"]]

    def wait_until_registered(self) -> None:
        """Waits until the provider was told where to send; fails with why that cannot be."""

        def look() -> dict[str, Any]:
            found: dict[str, Any] = self._said(self._client.get(f"/api/v1/connections/{self.id}"))
            return dict(found["registration"])

        told = eventually(look, lambda registration: registration["state"] in ("done", "failed"))
        assert told["state"] == "done", told

    def rotate(self, keep_previous_for: int = 0, **secrets: str) -> None:
        """Gives secrets new values."""
        body = {"secrets": secrets, "keep_previous_for": keep_previous_for}
        self._said(self._client.put(f"/api/v1/connections/{self.id}/secrets", json=body))

    def delete(self) -> None:
        assert self._client.delete(f"/api/v1/connections/{self.id}").status_code == 204

    def _events(self, kind: str) -> list[dict[str, Any]]:
        query = {"connection": self.id, "type": kind, "limit": 1000}
        found: list[dict[str, Any]] = self._said(self._client.get("/api/v1/events", params=query))["items"]
        return found

    def _said(self, answer: httpx2.Response) -> dict[str, Any]:
        assert answer.is_success, answer.text
        said: dict[str, Any] = answer.json()
        return said
