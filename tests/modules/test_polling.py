"""Sources that are asked instead of telling."""

import asyncio
from pathlib import Path
from typing import Any

from app.integrations.errors import AuthenticationFailed, Unavailable
from app.integrations.specs import PollSpec
from tests.support.connectors import OpenConnector
from tests.support.platform import eventually, running_platform


class Polled(OpenConnector):
    """Asks a list that the test fills."""

    key = "polled"
    polls = [PollSpec("things", every=0.02, handler="ask")]
    items: list[dict[str, Any]] = []
    asked: list[str | None] = []
    fault: Exception | None = None

    async def ask(self, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
        type(self).asked.append(cursor)
        if type(self).fault:
            raise type(self).fault
        start = int(cursor or 0)
        new = type(self).items[start : start + 3]
        return new, str(start + len(new))


def polled(**more: Any) -> type[Polled]:
    return type("Polled", (Polled,), {"items": [], "asked": [], "fault": None, **more})


async def test_polled_items_become_events_in_order_and_once(tmp_path: Path) -> None:
    connector = polled()
    async with running_platform(tmp_path, connector) as running:
        await running.connect("polled")
        connector.items += [{"id": str(n)} for n in range(7)]
        events = await running.feed_of(7)
        assert [e["payload"]["id"] for e in events] == [str(n) for n in range(7)]
        webhooks = await running.webhooks()
        assert {(w["source"], w["state"]) for w in webhooks} == {("poll", "processed")}
    asked = len(connector.asked)
    async with running_platform(tmp_path, connector) as running:
        await eventually(lambda: asyncio.sleep(0, len(connector.asked)), lambda n: n > asked)
        assert connector.asked[asked] == "7", "a restart goes on from the stored cursor"
        assert len(await running.feed()) == 7


async def test_a_bad_item_is_kept_as_failed_and_replayed_whatever_body_webhooks_have(tmp_path: Path) -> None:
    from app.integrations.bodies import JsonArray

    connector = polled(body=JsonArray())
    good = connector.handle_webhook

    async def broken(self: Any, payload: dict[str, Any]) -> Any:
        raise RuntimeError("not yet")

    connector.handle_webhook = broken  # type: ignore[method-assign]
    async with running_platform(tmp_path, connector) as running:
        await running.connect("polled")
        connector.items.append({"id": "1"})
        [webhook] = await eventually(running.webhooks, lambda w: len(w) == 1)
        assert (webhook["state"], webhook["reason_code"]) == ("failed", "connector_error")
        connector.handle_webhook = good  # type: ignore[method-assign]
        await running.client.post(f"/api/v1/webhooks/{webhook['id']}/replay")
        [event] = await running.feed_of(1)
        assert event["payload"] == {"id": "1"}


async def test_a_failing_source_is_shown_and_asked_again_after_a_pause(tmp_path: Path) -> None:
    connector = polled(fault=Unavailable("The provider answered 502.", status=502))
    async with running_platform(tmp_path, connector) as running:
        connection = await running.connect("polled")
        path = f"/api/v1/connections/{connection['id']}/polls"
        [poll] = (await eventually(lambda: running.get(path), lambda p: p["items"]))["items"]
        assert (poll["error_code"], poll["failures"]) == ("provider_unavailable", 1)
        connector.fault = None
        connector.items.append({"id": "1"})
        await running.feed_of(1)
        [poll] = (await running.get(path))["items"]
        assert (poll["error_code"], poll["failures"]) == (None, 0)
        assert poll["polled_at"]


async def test_a_change_of_the_connection_ends_the_pause(tmp_path: Path) -> None:
    connector = polled(fault=AuthenticationFailed("The provider answered 401.", status=401))
    async with running_platform(tmp_path, connector) as running:
        connection = await running.connect("polled")
        path = f"/api/v1/connections/{connection['id']}"
        await eventually(lambda: running.get(f"{path}/polls"), lambda p: p["items"])
        await asyncio.sleep(0.1)
        connector.fault = None
        connector.items.append({"id": "1"})
        asked = len(connector.asked)
        await running.client.patch(path, json={"name": "mended"})
        await eventually(lambda: asyncio.sleep(0, len(connector.asked)), lambda n: n > asked, 0.8)
        await running.feed_of(1)


async def test_disabled_and_deleted_connections_are_not_polled(tmp_path: Path) -> None:
    connector = polled()
    async with running_platform(tmp_path, connector) as running:
        connection = await running.connect("polled")
        path = f"/api/v1/connections/{connection['id']}"

        async def asked() -> int:
            return len(connector.asked)

        async def quiet() -> None:
            await asyncio.sleep(0.1)
            before = len(connector.asked)
            await asyncio.sleep(0.2)
            assert len(connector.asked) == before

        await eventually(asked, lambda n: n > 2)
        await running.client.patch(path, json={"enabled": False})
        await quiet()
        before = len(connector.asked)
        await running.client.patch(path, json={"enabled": True})
        await eventually(asked, lambda n: n > before)
        assert (await running.client.delete(path)).status_code == 204
        await quiet()


async def test_a_connector_decides_whether_a_poll_runs(tmp_path: Path) -> None:
    connector = polled(poll_enabled=lambda self, poll, public_url: public_url is None)
    async with running_platform(tmp_path, connector, public_url=True) as running:
        await running.connect("polled")
        await asyncio.sleep(0.3)
        assert connector.asked == []


async def test_one_poll_at_a_time(tmp_path: Path) -> None:
    running_now = 0
    most = 0

    async def ask(self: Any, cursor: str | None) -> tuple[list[Any], str | None]:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(0.05)
        running_now -= 1
        return [], cursor

    connector = polled(ask=ask)
    async with running_platform(tmp_path, connector) as running:
        connection = await running.connect("polled")
        for n in range(10):
            await running.client.patch(f"/api/v1/connections/{connection['id']}", json={"name": f"name {n}"})
            await asyncio.sleep(0.02)
        assert most == 1
