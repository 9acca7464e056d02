import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from app.integrations.errors import NotSent, Unavailable
from app.integrations.http import AttemptTrace, ConnectorHttp, current_attempt
from app.integrations.twin import (
    BrokenAnswer,
    Control,
    ControlError,
    Fault,
    Faults,
    NoInput,
    Twin,
    UnknownTwin,
    load_twin,
    running,
    serve,
    twin_names,
)


class Paint(BaseModel):
    colour: str = Field(min_length=3, description="The new colour")


class Wall(Twin):
    """A provider that has a wall."""

    name = "wall"
    description = "A wall to paint"
    controls = (
        Control("paint", "Paint it", Paint, "paint"),
        Control("tear_down", "Away", NoInput, "tear_down"),
    )

    def __init__(self) -> None:
        super().__init__()
        self.colour = "white"
        self.stopped = asyncio.Event()

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/wall", self.show, methods=["GET", "POST"]),
            Route("/broken", self.break_off, methods=["POST"]),
            Route("/long", self.wait),
        ]

    def state(self) -> dict[str, Any]:
        return {"colour": self.colour}

    def greeting(self, url: str) -> str:
        return f"The wall is at {url}/wall."

    async def stop(self) -> None:
        self.stopped.set()

    async def show(self, _: Request) -> Response:
        return JSONResponse({"colour": self.colour})

    async def break_off(self, _: Request) -> Response:
        self.colour = "broken"
        return BrokenAnswer()

    async def wait(self, _: Request) -> Response:
        await self.stopped.wait()
        return JSONResponse({})

    async def paint(self, order: Paint) -> dict[str, Any]:
        self.colour = order.colour
        return {"painted": True}

    async def tear_down(self, _: NoInput) -> dict[str, Any]:
        raise ControlError("The wall carries the roof: take that away first.")


@pytest.fixture
async def wall() -> AsyncIterator[tuple[Wall, httpx2.AsyncClient]]:
    twin = Wall()
    async with running(twin) as url, httpx2.AsyncClient(base_url=url) as http:
        yield twin, http


async def test_a_twin_serves_its_own_api_and_its_controls(wall):
    _, http = wall
    assert (await http.post("/_twin/paint", json={"colour": "blue"})).json() == {"painted": True}
    assert (await http.get("/wall")).json() == {"colour": "blue"}
    assert (await http.get("/_twin/state")).json() == {"colour": "blue"}


async def test_a_twin_says_what_can_be_ordered(wall):
    _, http = wall
    described = (await http.get("/_twin")).json()
    assert (described["twin"], described["description"]) == ("wall", "A wall to paint")
    paint, tear_down = described["controls"]
    assert (paint["name"], paint["description"]) == ("paint", "Paint it")
    assert paint["schema"]["properties"]["colour"]["description"] == "The new colour"
    assert tear_down["schema"]["properties"] == {}


@pytest.mark.parametrize(
    ("control", "body", "status", "words"),
    [
        ("paint", b"{}", 422, "colour"),
        ("paint", b"", 422, "colour"),
        ("paint", b'{"colour": "x"}', 422, "at least 3"),
        ("paint", b"[]", 422, "valid"),
        ("paint", b"{", 400, "not JSON"),
        ("tear_down", b"", 409, "carries the roof"),
        ("tear_down", b'{"x": 1}', 422, "x"),
        ("sell", b"{}", 409, "It has: paint, tear_down"),
    ],
)
async def test_an_order_that_cannot_be_carried_out_says_why(wall, control, body, status, words):
    twin, http = wall
    answer = await http.post(f"/_twin/{control}", content=body)
    assert answer.status_code == status
    assert words in answer.text
    assert twin.colour == "white"


async def test_a_broken_answer_is_a_broken_connection_after_the_effect(wall):
    twin, http = wall
    connector_http = ConnectorHttp(str(http.base_url).rstrip("/"))
    attempt = AttemptTrace()
    token = current_attempt.set(attempt)
    try:
        with pytest.raises(Unavailable):
            await connector_http.post("/broken")
    finally:
        current_attempt.reset(token)
        await connector_http.aclose()
    assert attempt.begun
    assert twin.colour == "broken"
    assert (await http.get("/wall")).status_code == 200


async def test_what_waits_does_not_hold_up_the_end():
    async with httpx2.AsyncClient() as http:
        async with running(Wall()) as url:
            waiting = asyncio.create_task(http.get(f"{url}/long"))
            await asyncio.sleep(0.1)
            began = time.monotonic()
        assert (await waiting).status_code == 200
    assert time.monotonic() - began < 1


async def test_a_twin_that_ended_is_not_there():
    async with running(Wall()) as url:
        pass
    http = ConnectorHttp(url)
    with pytest.raises(NotSent):
        await http.get("/wall")
    await http.aclose()


async def test_a_port_that_is_taken_is_an_error():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="in use"):
            await serve(Wall(), port=other.getsockname()[1])


# Faults.


def test_faults_are_used_up_in_order():
    faults = Faults()
    faults.order(Fault(kind="delay", on="sendMessage", count=2))
    faults.order(Fault(kind="status"))
    assert faults.take("sendmessage").kind == "delay"
    assert faults.take("other").kind == "status"
    assert faults.take("other") is None
    assert faults.take("SENDMESSAGE").kind == "delay"
    assert faults.take("sendMessage") is None


def test_deliveries_are_struck_only_by_name():
    faults = Faults()
    faults.order(Fault(kind="duplicate"))
    assert faults.take("webhook") is None
    faults.order(Fault(kind="delay", on="webhook"))
    assert faults.take("webhook").kind == "delay"


def test_an_ordered_fault_is_not_changed_by_striking():
    fault = Fault(kind="status")
    faults = Faults()
    faults.order(fault)
    faults.take("x")
    faults.order(fault)
    assert faults.take("x").count == 0
    assert fault.count == 1


# Finding twins.


def test_twins_are_found_by_name():
    assert "telegram" in twin_names()
    twin = load_twin("telegram")
    assert twin.name == "telegram"
    for name in twin_names():
        found = load_twin(name)
        assert found.name == name
        assert found.description
        for control in found.controls:
            assert callable(getattr(found, control.handler))
            assert all(field.description for field in control.model.model_fields.values()), control.name
        assert all(field.description for field in found.settings_model.model_fields.values())


@pytest.mark.parametrize("name", ["nobody", "", "..", "telegram.twin", "os"])
def test_an_unknown_twin_is_answered_with_those_that_exist(name):
    with pytest.raises(UnknownTwin, match="telegram"):
        load_twin(name)


def test_the_platform_does_not_load_a_web_server_for_a_connector():
    code = (
        "import sys; from app.integrations.registry import Registry; r = Registry.discover(); "
        "assert 'telegram' in r.integrations, r.broken; "
        "assert not {'starlette', 'uvicorn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
