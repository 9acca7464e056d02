"""From a request at the webhook URL to an event in the feed."""

import asyncio
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.connectors import ChatConnector, OpenConnector
from tests.support.platform import Running, eventually, running_platform

SECRET = "a signing secret"


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    return {"X-Signature": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


async def connect_chat(running: Running, **more: Any) -> dict[str, Any]:
    return await running.connect("chat", secrets={"token": "t-1234567", "signing_secret": SECRET}, **more)


async def send(running: Running, url: str, content: Any, **headers: str) -> Any:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return await running.client.post(url, content=body, headers=signed(body) | headers)


async def test_a_signed_webhook_becomes_an_event(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        connection = await connect_chat(running)
        answer = await send(running, connection["webhook_url"], {"id": "m1", "text": "hello"})
        assert (answer.status_code, answer.content) == (200, b"")
        [event] = await running.feed_of(1)
        assert event["type"] == "chat.message.received"
        assert event["external_id"] == "m1"
        assert event["payload"] == {"text": "hello"}
        assert event["integration"] == "chat"
        assert event["connection"] == connection["id"]
        assert event["webhook"] == answer.headers["trunkline-webhook-id"]
        assert event["received_at"].endswith("Z")
        shown = await running.get(f"/api/v1/webhooks/{event['webhook']}")
        assert shown["state"] == "processed"
        assert shown["events"] == [event["id"]]
        assert json.loads(shown["body"]) == {"id": "m1", "text": "hello"}


async def test_refused_requests_store_nothing_but_a_refusal(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        connection = await connect_chat(running)
        url = connection["webhook_url"]
        body = b'{"id": "m1", "text": "hello"}'
        for headers in (
            {},
            {"X-Signature": ""},
            {"X-Signature": "sha256=" + "0" * 64},
            {"X-Signature": "sha256=zz"},
            signed(body, "another secret"),
            signed(b"another body"),
        ):
            answer = await running.client.post(url, content=body, headers=headers)
            assert (answer.status_code, answer.content) == (401, b"")
        assert await running.webhooks() == []
        refusals = await running.get(f"/api/v1/connections/{connection['id']}/refusals")
        assert [r["code"] for r in refusals["items"]] == [
            "signature_differs",
            "signature_differs",
            "signature_malformed",
            "signature_differs",
            "header_missing",
            "header_missing",
        ]
        assert "x-signature" in refusals["items"][0]["headers"]
        assert "sha256=" not in json.dumps(refusals)


async def test_unknown_urls_all_answer_the_same(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector, OpenConnector) as running:
        connection = await connect_chat(running)
        token = connection["webhook_url"].rsplit("/", 1)[1]
        disabled = await running.connect("open", enabled=False)
        answers = [
            await running.client.post(path, content=b"{}")
            for path in (
                "/webhooks/chat/unknown",
                "/webhooks/nothing/unknown",
                f"/webhooks/open/{token}",
                "/webhooks/chat",
                "/webhooks/chat/",
                f"/webhooks/chat/{token}/more",
                disabled["webhook_url"],
            )
        ]
        assert {(a.status_code, a.content) for a in answers} == {(404, b"")}


async def test_other_methods_are_not_allowed(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        connection = await running.connect("open")
        answer = await running.client.get(connection["webhook_url"])
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_a_body_over_the_cap_is_refused(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector, max_body_bytes=2048) as running:
        connection = await running.connect("open")
        fits = json.dumps({"x": "y" * 2000}).encode()
        assert (await running.client.post(connection["webhook_url"], content=fits)).status_code == 200
        declared = await running.client.post(connection["webhook_url"], content=b" " * 2049)
        assert declared.status_code == 413

        async def chunks() -> Any:
            for _ in range(3):
                yield b" " * 1024

        assert (await running.client.post(connection["webhook_url"], content=chunks())).status_code == 413
        assert len(await running.settled()) == 1


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (b"not json", "not_json"),
        (b'{"text": NaN}', "not_json"),
        (b'{"text": Infinity}', "not_json"),
        (b'{"text": 1e999}', "number_out_of_range"),
        (b'{"text": 18446744073709551616}', "number_out_of_range"),
        (b'{"text": ' + b"9" * 5000 + b"}", "number_out_of_range"),
        (b'{"text": 1, "text": 2}', "duplicate_key"),
        (b'{"text": {"a": 1, "a": 2}}', "duplicate_key"),
        (b"[" * 100_000 + b"]" * 100_000, "too_deep"),
        (b'{"a":' * 150 + b"1" + b"}" * 150, "too_deep"),
        (b'{"text": "\xff"}', "not_utf8"),
        ('{"text": "x"}'.encode("utf-16"), "not_utf8"),
        (b'{"text": "\\ud800"}', "lone_surrogate"),
        (b'[{"text": "x"}]', "not_an_object"),
        (b'"text"', "not_an_object"),
        (b"{}", "connector_error"),
        (b'{"text": "x", "id": 7}', "unexpected_content"),
        (b'{"text": "x", "id": "a\\u0000b"}', "unexpected_content"),
        (b'{"text": "x", "kind": "never.declared"}', "undeclared_event"),
    ],
)
async def test_genuine_but_unusable_bodies_are_kept_as_failed(tmp_path: Path, body: bytes, code: str) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        connection = await connect_chat(running)
        assert (await send(running, connection["webhook_url"], body)).status_code == 200
        [webhook] = await running.settled()
        assert (webhook["state"], webhook["reason_code"]) == ("failed", code)
        assert webhook["reason"]
        assert await running.feed() == []


async def test_a_mended_connector_makes_the_event_on_replay_and_only_once(tmp_path: Path) -> None:
    broken = True

    class Mendable(ChatConnector):
        async def handle_webhook(self, payload: dict[str, Any]) -> Any:
            if broken:
                raise RuntimeError("a value of the payload: " + payload["text"])
            return await super().handle_webhook(payload)

    async with running_platform(tmp_path, Mendable) as running:
        connection = await connect_chat(running)
        await send(running, connection["webhook_url"], {"text": "private"})  # no id: nothing to dedupe by
        [webhook] = await running.settled()
        assert webhook["state"] == "failed"
        assert webhook["reason_code"] == "connector_error"
        assert "RuntimeError" in webhook["reason"]
        assert "test_webhooks:" in webhook["reason"]
        assert "private" not in webhook["reason"]
        assert [w["id"] for w in await running.webhooks(state="failed")] == [webhook["id"]]
        broken = False
        for _ in range(2):
            answer = await running.client.post(f"/api/v1/webhooks/{webhook['id']}/replay")
            assert answer.status_code == 202, answer.text
            await running.settled()
            [event] = await running.feed()
            assert event["payload"] == {"text": "private"}


async def test_the_same_content_is_one_event_and_other_content_another(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        url = (await connect_chat(running))["webhook_url"]
        for text in ("A", "B", "A", "A"):
            await send(running, url, {"id": "m1", "text": text})
        await send(running, url, b'{"text":"A",   "id":"m1"}')  # another order of keys is no other content
        await running.settled()
        events = await running.feed()
        assert [(e["payload"]["text"], e["conflicting"]) for e in events] == [("A", False), ("B", True)]


async def test_an_id_that_is_unique_alone_makes_one_event_whatever_the_content(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        url = (await connect_chat(running))["webhook_url"]
        for text in ("A", "B"):
            await send(running, url, {"id": "evt_1", "text": text, "kind": "order.paid"})
        await running.settled()
        assert [e["payload"]["text"] for e in await running.feed()] == ["A"]


async def test_without_an_id_nothing_is_merged(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        url = (await connect_chat(running))["webhook_url"]
        for _ in range(2):
            await send(running, url, {"text": "A"})
        assert len(await running.feed_of(2)) == 2


async def test_two_connections_share_no_identities(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        for _ in range(2):
            url = (await connect_chat(running))["webhook_url"]
            await send(running, url, {"id": "m1", "text": "A"})
        assert len(await running.feed_of(2)) == 2


async def test_a_connection_keeps_its_order(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        url = (await running.connect("open"))["webhook_url"]
        for number in range(300):
            answer = await running.client.post(url, content=json.dumps({"n": number}).encode())
            assert answer.status_code == 200
        events = await running.feed_of(300)
        assert [e["payload"]["n"] for e in events] == list(range(300))


async def test_a_slow_connector_does_not_hold_others_up(tmp_path: Path) -> None:
    release = asyncio.Event()

    class Slow(OpenConnector):
        key = "slow"

        async def handle_webhook(self, payload: dict[str, Any]) -> Any:
            await release.wait()
            return await super().handle_webhook(payload)

    async with running_platform(tmp_path, Slow, OpenConnector) as running:
        slow = await running.connect("slow")
        quick = await running.connect("open")
        await running.client.post(slow["webhook_url"], content=b'{"who": "slow"}')
        await running.client.post(quick["webhook_url"], content=b'{"who": "quick"}')
        [event] = await running.feed_of(1)
        assert event["payload"] == {"who": "quick"}
        release.set()
        assert [e["payload"]["who"] for e in await running.feed_of(2)] == ["quick", "slow"]


async def test_a_connector_that_hangs_fails_its_webhook(tmp_path: Path) -> None:
    class Hangs(OpenConnector):
        async def handle_webhook(self, payload: dict[str, Any]) -> Any:
            await asyncio.sleep(60)

    async with running_platform(tmp_path, Hangs, handler_timeout=0.2) as running:
        url = (await running.connect("open"))["webhook_url"]
        await running.client.post(url, content=b"{}")
        [webhook] = await running.settled()
        assert (webhook["state"], webhook["reason_code"]) == ("failed", "handler_timeout")


async def test_rotation_keeps_the_old_url_for_its_time(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        connection = await running.connect("open")
        path = f"/api/v1/connections/{connection['id']}/rotate-url"
        rotated = (await running.client.post(path, json={"keep_previous_for": 1})).json()
        assert rotated["webhook_url"] != connection["webhook_url"]
        for url in (connection["webhook_url"], rotated["webhook_url"]):
            assert (await running.client.post(url, content=b"{}")).status_code == 200

        async def old() -> int:
            return (await running.client.post(connection["webhook_url"], content=b"{}")).status_code

        assert await eventually(old, lambda status: status == 404, 5) == 404
        assert (await running.client.post(rotated["webhook_url"], content=b"{}")).status_code == 200


async def test_a_rotated_secret_is_accepted_beside_its_successor_for_its_time(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        connection = await connect_chat(running)
        path = f"/api/v1/connections/{connection['id']}/secrets"
        change = {"secrets": {"signing_secret": "the new one"}, "keep_previous_for": 60}
        assert (await running.client.put(path, json=change)).status_code == 200
        body = b'{"text": "x"}'
        for secret, status in ((SECRET, 200), ("the new one", 200), ("neither", 401)):
            answer = await running.client.post(
                connection["webhook_url"], content=body, headers=signed(body, secret)
            )
            assert answer.status_code == status
        await running.client.put(path, json={"secrets": {"signing_secret": "a third"}})
        for secret, status in (("the new one", 401), ("a third", 200)):
            answer = await running.client.post(
                connection["webhook_url"], content=body, headers=signed(body, secret)
            )
            assert answer.status_code == status


async def test_the_token_header_of_a_credential_is_not_stored(tmp_path: Path) -> None:
    from app.integrations.specs import SecretSpec
    from app.integrations.verification import StaticToken

    class Token(OpenConnector):
        secrets = [SecretSpec("shared", "Shared", generate=True)]
        verification = StaticToken(header="X-Token", secret="shared")

    async with running_platform(tmp_path, Token) as running:
        connection = await running.connect("open", secrets={"shared": "very-secret-value"})
        answer = await running.client.post(
            connection["webhook_url"], content=b"{}", headers={"X-Token": "very-secret-value", "X-Other": "y"}
        )
        assert answer.status_code == 200
        shown = await running.get(f"/api/v1/webhooks/{answer.headers['trunkline-webhook-id']}")
        names = [name for name, _ in shown["headers"]]
        assert "x-other" in names
        assert "x-token" not in names
        assert "authorization" not in names
        assert "very-secret-value" not in json.dumps(shown)
        non_ascii = await running.client.post(
            connection["webhook_url"], content=b"{}", headers={"X-Token": "é".encode()}
        )
        assert non_ascii.status_code == 401


@pytest.mark.parametrize(
    "error", [asyncio.CancelledError(), KeyboardInterrupt(), SystemExit(1), GeneratorExit()]
)
async def test_a_connector_cannot_end_or_block_the_platform(tmp_path: Path, error: BaseException) -> None:
    class Poison(OpenConnector):
        async def handle_webhook(self, payload: dict[str, Any]) -> Any:
            if "poison" in payload:
                raise error
            return await super().handle_webhook(payload)

    async with running_platform(tmp_path, Poison) as running:
        url = (await running.connect("open"))["webhook_url"]
        for content in (b'{"poison": 1}', b'{"id": "good"}'):
            assert (await running.client.post(url, content=content)).status_code == 200
        [event] = await running.feed_of(1)
        assert event["external_id"] == "good"
        assert sorted(w["state"] for w in await running.settled()) == ["failed", "processed"]


async def test_an_event_that_is_none_fails_its_webhook_alone(tmp_path: Path) -> None:
    class Careless(OpenConnector):
        async def handle_webhook(self, payload: dict[str, Any]) -> Any:
            event = await super().handle_webhook({"id": "x"})
            if "bad" in payload:
                event.external_id = 42 if payload["bad"] == "id" else "\ud800"
                event.payload = [] if payload["bad"] == "payload" else {}
            return event

    async with running_platform(tmp_path, Careless) as running:
        url = (await running.connect("open"))["webhook_url"]
        for content in (b'{"bad": "id"}', b'{"bad": "payload"}', b'{"bad": "text"}', b'{"id": "good"}'):
            assert (await running.client.post(url, content=content)).status_code == 200
        await running.feed_of(1)
        codes = [w["reason_code"] for w in reversed(await running.settled())]
        assert codes == ["not_an_event", "not_an_event", "not_an_event", None]


async def test_a_connector_that_changes_its_payload_changes_no_identity(tmp_path: Path) -> None:
    class Changing(ChatConnector):
        async def handle_webhook(self, payload: dict[str, Any]) -> Any:
            event = await super().handle_webhook(dict(payload))
            payload.clear()
            return event

    async with running_platform(tmp_path, Changing) as running:
        url = (await connect_chat(running))["webhook_url"]
        for text in ("A", "B", "A"):
            await send(running, url, {"id": "m1", "text": text})
        await running.settled()
        assert [e["payload"]["text"] for e in await running.feed()] == ["A", "B"]


@pytest.mark.parametrize("upgrade", ["h2c", "websocket"])
async def test_an_offer_to_upgrade_loses_no_body(tmp_path: Path, upgrade: str) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        url = (await running.connect("open"))["webhook_url"]
        answer = await running.client.post(
            url, content=b'{"id": "1"}', headers={"Connection": "Upgrade", "Upgrade": upgrade}
        )
        if answer.status_code == 200:  # the server ignored the offer: then the body is there
            assert (await running.feed_of(1))[0]["external_id"] == "1"
        else:
            assert answer.status_code == 400
            assert await running.webhooks() == []
