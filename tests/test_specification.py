"""The specification to the letter: its example connector, dropped in, works after a restart."""

import dataclasses
import inspect
import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from pydantic import BaseModel

from tests.support.platform import eventually
from tests.support.process import PlatformProcess, connect, platform_process, walk
from tests.support.specification import ROOT, drop_example
from tests.support.wire import Exchange, WireServer, wire_server

pytestmark = pytest.mark.usefixtures("every_storage")

MESSAGE: dict[str, Any] = {"message": {"id": 7, "chat": {"id": 42}, "text": "hello", "more": [1, 2]}}
API_KEY = "k-0123456789"


async def my_service(exchange: Exchange) -> None:
    """The external service: accepts messages."""
    while True:
        asked = await exchange.request()
        text = json.loads(asked.partition(b"\r\n\r\n")[2])["text"]
        body = json.dumps({"message_id": 99, "text": text}).encode()
        await exchange.answer(200, body, content_type="application/json")


async def events(client: httpx2.AsyncClient, count: int) -> list[dict[str, Any]]:
    return await eventually(lambda: walk(client, "/api/v1/events"), lambda seen: len(seen) >= count)


async def send_reply(client: httpx2.AsyncClient, connection: str, **payload: Any) -> httpx2.Response:
    return await client.post(
        f"/api/v1/connections/{connection}/actions",
        json={"type": "send_reply", "payload": payload},
        headers={"Prefer": "wait=10"},
    )


async def shown(client: httpx2.AsyncClient, path: str) -> dict[str, Any]:
    answer = await client.get(f"/api/v1/{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_the_example_dropped_into_a_folder_works_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "connectors"
    folder.mkdir()
    async with wire_server(my_service) as service:
        monkeypatch.setenv("MY_SERVICE_URL", service.url)
        async with (
            platform_process(tmp_path / "data", connectors=folder) as platform,
            platform.client() as client,
        ):
            await before_it_is_there(client)
            dropped = drop_example(folder)
            assert (await client.get("/api/v1/integrations/my_service")).status_code == 404
            await restart(platform)
            connection = await while_it_is_there(client, service)
            shutil.rmtree(dropped)
            await restart(platform)
            await once_it_is_gone(client, connection)
            drop_example(folder)
            await restart(platform)
            await when_it_is_back(client, connection)


async def restart(platform: PlatformProcess) -> None:
    assert await platform.stop() == 0
    await platform.start()


async def before_it_is_there(client: httpx2.AsyncClient) -> None:
    assert (await client.get("/api/v1/integrations/my_service")).status_code == 404
    answer = await client.post("/api/v1/connections", json={"integration": "my_service"})
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_integration")


async def while_it_is_there(client: httpx2.AsyncClient, service: WireServer) -> dict[str, Any]:
    known = await shown(client, "integrations/my_service")
    assert (known["name"], known["version"], known["available"]) == ("MyService", "1.0.0", True)
    assert [s["name"] for s in known["secrets"]] == ["api_key"]
    assert known["actions"][0]["payload_schema"]["properties"]["chat_id"]["type"] == "string"
    connection = await connect(client, "my_service", secrets={"api_key": API_KEY})
    assert (connection["state"], connection["missing_secrets"]) == ("ready", [])
    assert urlsplit(connection["webhook_url"]).path.startswith("/webhooks/my_service/")
    assert (await client.post(connection["webhook_url"], json=MESSAGE)).status_code == 200
    [event] = await events(client, 1)
    assert event["type"] == "my_service.message.received"
    assert event["external_id"] == "7"
    assert event["payload"] == {"chat_id": "42", "text": "hello"}

    answer = await send_reply(client, connection["id"], chat_id="42", text="hi")
    assert answer.status_code == 200, answer.text
    assert answer.json()["state"] == "succeeded"
    assert answer.json()["result"] == {"message_id": 99, "text": "hi"}
    [asked] = service.requests
    assert asked.startswith(b"POST /messages ")
    assert f"x-api-key: {API_KEY}".encode() in asked.lower()
    assert json.loads(asked.partition(b"\r\n\r\n")[2]) == {"chat_id": "42", "text": "hi"}

    answer = await send_reply(client, connection["id"], chat_id=42)
    assert answer.status_code == 422
    assert [p["path"] for p in answer.json()["problems"]] == ["payload.chat_id", "payload.text"]
    return connection


async def once_it_is_gone(client: httpx2.AsyncClient, connection: dict[str, Any]) -> None:
    kept = await shown(client, f"connections/{connection['id']}")
    assert (kept["state"], kept["enabled"]) == ("unavailable", True)
    assert kept["webhook_url"] == connection["webhook_url"]
    known = await shown(client, "integrations/my_service")
    assert (known["name"], known["available"]) == ("MyService", False)
    answer = await client.post(connection["webhook_url"], json=MESSAGE)
    assert (answer.status_code, answer.content) == (503, b"")
    assert int(answer.headers["retry-after"]) > 0
    answer = await send_reply(client, connection["id"], chat_id="42", text="hi")
    assert (answer.status_code, answer.json()["code"]) == (409, "integration_unavailable")
    assert len(await events(client, 1)) == 1


async def when_it_is_back(client: httpx2.AsyncClient, connection: dict[str, Any]) -> None:
    assert (await shown(client, f"connections/{connection['id']}"))["state"] == "ready"
    again = {"message": MESSAGE["message"] | {"id": 8}}
    assert (await client.post(connection["webhook_url"], json=again)).status_code == 200
    assert [e["external_id"] for e in await events(client, 2)] == ["7", "8"]


async def test_the_example_dropped_into_the_package_itself_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the specification says: `app/integrations/connectors/my_service/`."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "app", source / "app", ignore=shutil.ignore_patterns("__pycache__"))
    drop_example(source / "app" / "integrations" / "connectors")
    async with wire_server(my_service) as service:
        monkeypatch.setenv("MY_SERVICE_URL", service.url)
        async with (
            platform_process(tmp_path / "data", source=source) as platform,
            platform.client() as client,
        ):
            await while_it_is_there(client, service)


# Every name, path and signature.


class Payload(BaseModel):
    text: str


def test_the_names_are_where_the_specification_says() -> None:
    from app.integrations import connectors, registry
    from app.integrations.base import BaseIntegration
    from app.integrations.models import Action, Event
    from app.integrations.specs import ActionSpec, EventSpec, SecretSpec
    from app.modules import integrations, secrets

    assert registry.__name__ == "app.integrations.registry"
    assert connectors.__path__
    assert BaseIntegration.version == "1.0.0"
    assert set(Event.model_fields) == {"type", "external_id", "payload"}
    assert set(Action.model_fields) == {"type", "payload"}
    assert not Event.model_fields["external_id"].is_required()
    assert integrations.__doc__
    assert secrets.__doc__
    for spec, names in (
        (SecretSpec, ["name", "description"]),
        (ActionSpec, ["name", "description", "model", "handler"]),
        (EventSpec, ["name", "description"]),
    ):
        required = [f.name for f in dataclasses.fields(spec) if f.default is dataclasses.MISSING]
        assert required == names


def test_declarations_may_be_given_by_position_and_by_name() -> None:
    from app.integrations.specs import ActionSpec, EventSpec, SecretSpec

    assert SecretSpec("a", "b") == SecretSpec(name="a", description="b")
    assert EventSpec("a", "b") == EventSpec(name="a", description="b")
    by_name = ActionSpec(name="a", description="b", model=Payload, handler="c")
    assert ActionSpec("a", "b", Payload, "c") == by_name


async def test_execute_finds_validates_and_calls() -> None:
    from app.integrations.base import BaseIntegration
    from app.integrations.models import Action, Event
    from app.integrations.specs import ActionSpec

    class Minimal(BaseIntegration):
        name = "Minimal"
        key = "minimal"
        actions = [ActionSpec("say", "Says", Payload, "say")]

        async def handle_webhook(self, payload: dict) -> Event:
            return Event(type="minimal.thing.happened", payload=payload)

        async def say(self, data: Payload) -> str:
            assert isinstance(data, Payload)
            return data.text

    assert inspect.iscoroutinefunction(BaseIntegration.handle_webhook)
    assert list(inspect.signature(BaseIntegration.handle_webhook).parameters) == ["self", "payload"]
    assert list(inspect.signature(BaseIntegration.execute).parameters) == ["self", "action"]
    assert await Minimal().execute(Action(type="say", payload={"text": "hi"})) == "hi"
    assert (await Minimal().handle_webhook({"a": 1})).payload == {"a": 1}
    with pytest.raises(Exception, match="minimal"):
        await Minimal().execute(Action(type="unknown", payload={}))


def test_the_reference_implementation_is_where_the_specification_says() -> None:
    folder = ROOT / "app" / "integrations" / "connectors" / "telegram"
    from app.integrations.connectors.telegram.client import TelegramClient
    from app.integrations.connectors.telegram.connector import TelegramConnector
    from app.integrations.connectors.telegram.schemas import SendMessage

    assert (folder / "connector.py").exists()
    assert TelegramClient.__module__.endswith(".client")
    [send] = [a for a in TelegramConnector.actions if a.handler == "send_message"]
    assert send.model is SendMessage
    assert callable(TelegramConnector.send_message)
    assert callable(TelegramConnector.handle_webhook)
