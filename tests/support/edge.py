"""A connector against a provider that is played at the edge of the network, and fixtures as requests."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.integrations.base import BaseIntegration
from app.integrations.errors import (
    AuthenticationFailed,
    NotSent,
    ProviderError,
    RateLimited,
    Rejected,
    Unavailable,
)
from app.integrations.http import ConnectorHttp
from app.integrations.models import Action, Event
from app.integrations.requests import Headers, WebhookRequest

CONTENT_TYPES = {
    "json": "application/json",
    "form": "application/x-www-form-urlencoded",
    "txt": "text/plain",
}

Act = Callable[[], Any]


@dataclass
class Edge:
    """Answers the requests of a connector, in turn; the last answer to all that follow."""

    answers: list[httpx2.Response | Exception] = field(default_factory=list)
    requests: list[httpx2.Request] = field(default_factory=list)

    def http(self) -> ConnectorHttp:
        return ConnectorHttp(transport=httpx2.MockTransport(self._answer))

    def say(self, *answers: Any, status: int = 200, **headers: str) -> None:
        """Sets what is answered: JSON values, Responses or errors."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers = [
            a
            if isinstance(a, httpx2.Response | Exception)
            else httpx2.Response(status, json=a, headers=named)
            for a in answers
        ]

    def sent(self, index: int = -1) -> tuple[str, str, Any]:
        """Method, path with query and JSON content of a request."""
        request = self.requests[index]
        content = json.loads(request.content) if request.content else None
        return request.method, request.url.raw_path.decode(), content

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx2.Response(answer.status_code, headers=answer.headers, content=answer.content)


async def run(connector: BaseIntegration, type_: str, **payload: Any) -> Any:
    """Carries an action out, and holds its result against the declared model."""
    result = await connector.execute(Action(type=type_, payload=payload))
    json.dumps(result)
    spec = connector.action_spec(type_)
    assert spec.result is not None
    spec.result.model_validate(result)
    return result


async def failure(edge: Edge, act: Act, *answers: Any, status: int = 200, **headers: str) -> ProviderError:
    """The error that an action ends with when the provider answers so."""
    edge.say(*answers, status=status, **headers)
    with pytest.raises(ProviderError) as caught:
        await act()
    return caught.value


async def assert_faults(edge: Edge, act: Act, planted: str) -> None:
    """What every client owes: the right error for each fault, and none that shows the secret."""
    faults: list[tuple[Any, type[ProviderError]]] = [
        (httpx2.Response(401), AuthenticationFailed),
        (httpx2.Response(403), AuthenticationFailed),
        (httpx2.Response(429, headers={"retry-after": "7"}), RateLimited),
        (httpx2.Response(500, text=f"<html>{planted}</html>"), Unavailable),
        (httpx2.Response(503), Unavailable),
        (httpx2.Response(422), Rejected),
        (httpx2.Response(307, headers={"location": "https://elsewhere.example"}), Rejected),
        (httpx2.ReadTimeout(planted), Unavailable),
        (httpx2.ReadError(planted), Unavailable),
        (httpx2.ConnectError(planted), NotSent),
        (httpx2.Response(200, text="<html>"), Unavailable),
    ]
    for answer, kind in faults:
        error = await failure(edge, act, answer)
        assert type(error) is kind, (answer, error)
        assert planted not in str(error)
        if kind is RateLimited:
            assert error.retry_after == 7


def fixture_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.removeprefix(".") in CONTENT_TYPES and not path.name.endswith(".headers.json")
    )


def fixture_request(connector: type[BaseIntegration], path: Path) -> WebhookRequest:
    """A fixture as the platform gives it to a connector."""
    beside = path.with_name(f"{path.stem}.headers.json")
    headers = json.loads(beside.read_text()) if beside.exists() else {}
    headers = {"content-type": CONTENT_TYPES[path.suffix.removeprefix(".")]} | headers
    body = path.read_bytes().rstrip(b"\n") if path.suffix == ".form" else path.read_bytes()
    url = f"https://hooks.example/webhooks/{connector.key}/{{token}}"
    return WebhookRequest("POST", url, Headers(headers.items()), body, connector.body)


async def events_of(connector: BaseIntegration, request: WebhookRequest) -> list[Event]:
    made = await connector.receive(request)
    if made is None:
        return []
    assert isinstance(made, Event | list)
    return made if isinstance(made, list) else [made]


def assert_sound(connector: BaseIntegration, event: Event) -> None:
    """The event is declared, and its payload is what its model says, every field described."""
    spec = connector.event_spec(event.type)
    assert spec is not None
    assert spec.model is not None
    spec.model.model_validate(event.payload)
    assert all(field.description for field in spec.model.model_fields.values())
    json.dumps(event.payload)


def assert_described(connector: type[BaseIntegration]) -> None:
    """Every field of every action and result, and every setting, says what it is."""
    models = [model for spec in connector.actions for model in (spec.model, spec.result) if model]
    if connector.settings_model:
        models.append(connector.settings_model)
    for model in models:
        schema = model.model_json_schema()
        for part in [schema, *schema.get("$defs", {}).values()]:
            for name, facts in part.get("properties", {}).items():
                assert facts.get("description"), f"{model.__name__}: {part.get('title')}.{name}"
