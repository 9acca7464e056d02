"""Connectors that take the whole request, and those whose senders want an answer."""

import asyncio
import json
from pathlib import Path
from typing import Any

from app.integrations.base import BaseIntegration
from app.integrations.bodies import JsonArray
from app.integrations.models import Event
from app.integrations.requests import Reply, WebhookRequest
from app.integrations.specs import EventSpec
from tests.support.connectors import OpenConnector
from tests.support.platform import running_platform


class ByHeader(BaseIntegration):
    """The type and the id stand in the headers."""

    name = "By header"
    key = "by_header"
    events = [EventSpec("by_header.issue.opened", "Opened"), EventSpec("by_header.issue.closed", "Closed")]

    async def receive(self, request: WebhookRequest) -> Any:
        kind = request.headers["X-Event"]
        if kind == "ping":
            return None
        [item] = request.items
        return [
            Event(type=f"by_header.issue.{kind}", external_id=request.headers["x-delivery"], payload=part)
            for part in item["parts"]
        ]


class Answering(BaseIntegration):
    """Its sender waits for a content reply."""

    name = "Answering"
    key = "answering"
    reply_within = 1.0
    events = [EventSpec("answering.command.given", "A command")]

    async def receive(self, request: WebhookRequest) -> Any:
        [item] = request.items
        if item["kind"] == "challenge":
            return Reply(item["challenge"].encode())
        if item["kind"] == "slow":
            await asyncio.sleep(5)
        event = Event(type="answering.command.given", external_id=item["id"], payload=item)
        return Reply(b'{"text": "done"}', "application/json", 201, events=(event,))


class Batch(OpenConnector):
    """Several items in one request, some of them bad."""

    key = "batch"
    body = JsonArray()
    events = [EventSpec("open.thing.happened", "Something happened")]

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        if "bad" in payload and not type(self).mended:
            raise ValueError(payload["bad"])
        return await super().handle_webhook(payload)

    mended = False


async def test_type_and_id_may_stand_in_the_headers(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ByHeader) as running:
        url = (await running.connect("by_header"))["webhook_url"]
        body = json.dumps({"parts": [{"n": 1}, {"n": 2}]}).encode()
        headers = {"X-Event": "opened", "X-Delivery": "d1"}
        for _ in range(2):  # the same delivery again makes the same events
            assert (await running.client.post(url, content=body, headers=headers)).status_code == 200
        await running.client.post(url, content=b"zen", headers={"X-Event": "ping"})
        webhooks = await running.settled()
        assert {w["state"] for w in webhooks} == {"processed"}
        events = await running.feed()
        assert [(e["type"], e["payload"]["n"]) for e in events] == [
            ("by_header.issue.opened", 1),
            ("by_header.issue.opened", 2),
        ]


async def test_a_reply_is_given_and_its_events_stored(tmp_path: Path) -> None:
    async with running_platform(tmp_path, Answering) as running:
        url = (await running.connect("answering"))["webhook_url"]
        challenge = await running.client.post(url, content=b'{"kind": "challenge", "challenge": "abc"}')
        assert (challenge.status_code, challenge.text) == (200, "abc")
        assert challenge.headers["content-type"].startswith("text/plain")
        command = await running.client.post(url, content=b'{"kind": "command", "id": "1"}')
        assert (command.status_code, command.json()) == (201, {"text": "done"})
        [event] = await running.feed()  # already there: the answer comes after the commit
        assert event["external_id"] == "1"
        assert {w["state"] for w in await running.webhooks()} == {"processed"}


async def test_a_reply_that_comes_too_late_leaves_a_failed_webhook_and_a_200(tmp_path: Path) -> None:
    async with running_platform(tmp_path, Answering) as running:
        url = (await running.connect("answering"))["webhook_url"]
        answer = await running.client.post(url, content=b'{"kind": "slow", "id": "1"}')
        assert (answer.status_code, answer.content) == (200, b"")
        [webhook] = await running.webhooks()
        assert (webhook["state"], webhook["reason_code"]) == ("failed", "handler_timeout")


async def test_a_reply_without_reply_within_is_a_failed_webhook_that_says_so(tmp_path: Path) -> None:
    class TooLate(Answering):
        reply_within = None

    async with running_platform(tmp_path, TooLate) as running:
        url = (await running.connect("answering"))["webhook_url"]
        await running.client.post(url, content=b'{"kind": "command", "id": "1"}')
        [webhook] = await running.settled()
        assert (webhook["state"], webhook["reason_code"]) == ("failed", "reply_too_late")
        assert "reply_within" in webhook["reason"]
        assert await running.feed() == []


async def test_a_replay_stores_the_events_of_a_reply_that_nobody_waits_for(tmp_path: Path) -> None:
    class Mendable(Answering):
        mended = False

        async def receive(self, request: WebhookRequest) -> Any:
            if not type(self).mended:
                raise ValueError("a bug")
            return await super().receive(request)

    async with running_platform(tmp_path, Mendable) as running:
        url = (await running.connect("answering"))["webhook_url"]
        answer = await running.client.post(url, content=b'{"kind": "command", "id": "1"}')
        assert (answer.status_code, answer.content) == (200, b"")
        [webhook] = await running.settled()
        assert webhook["state"] == "failed"
        Mendable.mended = True
        await running.client.post(f"/api/v1/webhooks/{webhook['id']}/replay")
        [event] = await running.feed_of(1)
        assert event["external_id"] == "1"
        assert {w["state"] for w in await running.settled()} == {"processed"}


async def test_good_items_of_a_batch_count_and_the_bad_ones_can_be_replayed(tmp_path: Path) -> None:
    class Mendable(Batch):
        mended = False

    async with running_platform(tmp_path, Mendable) as running:
        url = (await running.connect("batch"))["webhook_url"]
        await running.client.post(url, content=b'[{"n": 1}, {"n": 2, "bad": "private"}, {"n": 3}]')
        [webhook] = await running.settled()
        assert (webhook["state"], webhook["reason_code"]) == ("failed", "connector_error")
        assert webhook["reason"].startswith("item 1: ")
        assert "private" not in webhook["reason"]
        assert [e["payload"]["n"] for e in await running.feed()] == [1, 3]
        Mendable.mended = True
        await running.client.post(f"/api/v1/webhooks/{webhook['id']}/replay")
        [webhook] = await running.settled()
        assert webhook["state"] == "processed"
        assert [e["payload"]["n"] for e in await running.feed()] == [1, 3, 2]


async def test_answers_that_a_crash_interrupted_are_processed_at_the_next_start(tmp_path: Path) -> None:
    from sqlalchemy import update

    from app.modules.webhooks.models import ANSWERING, Webhook

    async with running_platform(tmp_path, Answering) as running:
        url = (await running.connect("answering"))["webhook_url"]
        await running.client.post(url, content=b'{"kind": "slow", "id": "1"}')
        await running.platform.database.write(
            lambda session: session.execute(update(Webhook).values(state=ANSWERING)) and None
        )

    class Quick(Answering):
        reply_within = None

        async def receive(self, request: WebhookRequest) -> Any:
            return Event(type="answering.command.given", payload=request.items[0])

    async with running_platform(tmp_path, Quick) as running:
        [event] = await running.feed_of(1)
        assert event["payload"]["id"] == "1"
