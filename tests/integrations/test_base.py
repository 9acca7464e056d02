"""What the base class does for a connector: finding, validating and calling."""

import asyncio
import contextvars
import threading
import time
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from app.integrations.base import BaseIntegration, call
from app.integrations.errors import InvalidActionPayload, UnhandledWebhook, UnknownAction
from app.integrations.models import Action, Event
from app.integrations.requests import Headers, WebhookRequest
from app.integrations.specs import ActionSpec, EventSpec, SecretSpec

PLANTED = "planted-value-9157"


class Line(BaseModel):
    sku: str = Field(max_length=5)
    count: int = Field(ge=1)


class Order(BaseModel):
    """An order."""

    customer: str
    kind: Literal["small", "large"] = "small"
    lines: list[Line] = Field(min_length=1)


class Shop(BaseIntegration):
    name = "Shop"
    key = "shop"
    actions = [
        ActionSpec("place_order", "Places an order", Order, "place_order"),
        ActionSpec("plain_order", "The same in a plain function", Order, "plain_order"),
        ActionSpec("fail", "Fails", Order, "fail"),
    ]
    events = [EventSpec("shop.order.paid", "An order was paid")]

    async def place_order(self, order: Order) -> dict[str, Any]:
        assert isinstance(order, Order)
        return {"lines": len(order.lines), "thread": threading.get_ident()}

    def plain_order(self, order: Order) -> dict[str, Any]:
        assert isinstance(order, Order)
        return {"lines": len(order.lines), "thread": threading.get_ident()}

    async def fail(self, order: Order) -> None:
        raise LookupError(order.customer)


GOOD = {"customer": "c1", "lines": [{"sku": "a", "count": 2}]}


async def test_an_action_is_validated_and_its_handler_called() -> None:
    result = await Shop().execute(Action(type="place_order", payload=GOOD))
    assert result == {"lines": 1, "thread": threading.get_ident()}


async def test_a_plain_handler_runs_in_another_thread() -> None:
    result = await Shop().execute(Action(type="plain_order", payload=GOOD))
    assert result["lines"] == 1
    assert result["thread"] != threading.get_ident()


async def test_what_a_handler_raises_is_raised() -> None:
    with pytest.raises(LookupError, match="c1"):
        await Shop().execute(Action(type="fail", payload=GOOD))


async def test_an_unknown_action_names_those_that_there_are() -> None:
    with pytest.raises(UnknownAction) as raised:
        await Shop().execute(Action(type="cancel" * 100, payload={}))
    assert "place_order, plain_order, fail" in str(raised.value)
    assert len(str(raised.value)) < 250


@pytest.mark.parametrize(
    ("payload", "paths"),
    [
        ({}, ["customer", "lines"]),
        ({"customer": 7, "lines": []}, ["customer", "lines"]),
        (
            {"customer": "c", "lines": [{"sku": "a", "count": 1}, {"sku": PLANTED, "count": PLANTED}]},
            ["lines.1.sku", "lines.1.count"],
        ),
        ({"customer": "c", "lines": PLANTED}, ["lines"]),
        ({"customer": "c", "kind": PLANTED, "lines": GOOD["lines"]}, ["kind"]),
        ({"customer": {PLANTED: PLANTED}, "lines": GOOD["lines"]}, ["customer"]),
    ],
)
async def test_an_invalid_payload_names_the_fields_and_no_values(
    payload: dict[str, Any], paths: list[str]
) -> None:
    with pytest.raises(InvalidActionPayload) as raised:
        await Shop().execute(Action(type="place_order", payload=payload))
    error = raised.value
    assert [p.path for p in error.problems] == paths
    assert all(p.code and p.message for p in error.problems)
    assert all(path in str(error) for path in paths)
    assert PLANTED not in str(error)
    assert PLANTED not in repr(error.problems)
    assert error.__suppress_context__, "a traceback would show the values"


def test_validated_gives_the_models_instance() -> None:
    order = Shop.validated(Action(type="place_order", payload=GOOD))
    assert isinstance(order, Order)
    assert order.lines == [Line(sku="a", count=2)]


def test_declared_specs_are_found_by_name() -> None:
    assert Shop.action_spec("fail").handler == "fail"
    assert Shop.event_spec("shop.order.paid") is Shop.events[0]
    assert Shop.event_spec("shop.order.lost") is None


async def test_a_connector_without_handle_webhook_says_so() -> None:
    with pytest.raises(UnhandledWebhook, match="shop"):
        await Shop().handle_webhook({})


async def test_receive_calls_handle_webhook_for_each_item() -> None:
    class Taking(Shop):
        async def handle_webhook(self, payload: dict[str, Any]) -> Event:
            return Event(type="shop.order.paid", external_id=payload["id"])

    request = WebhookRequest("POST", "http://p/x", Headers(), b'{"id": "7"}', Taking.body)
    assert await Taking().receive(request) == [Event(type="shop.order.paid", external_id="7")]


# Calling.


async def test_a_plain_functions_errors_are_raised_where_it_is_awaited() -> None:
    def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        await call(fails)


async def test_a_plain_function_may_run_out_of_an_iterator() -> None:
    """A future cannot hold StopIteration: the call would hang until its deadline."""

    def nothing_left() -> Any:
        return next(iter(()))

    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await call(nothing_left)


async def test_a_connector_cannot_end_the_process() -> None:
    async def leaves() -> None:
        raise SystemExit(3)

    def leaves_plainly() -> None:
        raise SystemExit(3)

    for method in (leaves, leaves_plainly):
        with pytest.raises(RuntimeError, match="tried to end the process") as raised:
            await call(method)
        frames = [frame.name for frame in raised.traceback]
        assert method.__name__ in frames, "the place is what helps to mend it"


async def test_a_plain_function_may_return_an_awaitable() -> None:
    async def later(x: int) -> int:
        return x + 1

    assert await call(lambda x, y: later(x + y), 1, 2) == 4


async def test_a_plain_function_sees_the_callers_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("seen")
    assert await call(variable.get) == "seen"


async def test_plain_functions_that_hang_hold_nobody_up() -> None:
    release = threading.Event()

    async def within_deadline() -> None:
        async with asyncio.timeout(0.05):
            await call(release.wait)

    try:
        hanging = await asyncio.gather(*(within_deadline() for _ in range(50)), return_exceptions=True)
        assert {type(error) for error in hanging} == {TimeoutError}
        started = time.monotonic()
        assert await call(lambda: "done") == "done"
        await asyncio.to_thread(lambda: None)
        assert time.monotonic() - started < 10
        await asyncio.get_running_loop().shutdown_default_executor()
        assert time.monotonic() - started < 10
    finally:
        release.set()


async def test_a_cancelled_call_of_a_coroutine_is_cancelled() -> None:
    cancelled = asyncio.Event()

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await call(hangs)
    assert cancelled.is_set()


def test_defaults_are_those_of_the_specification() -> None:
    assert BaseIntegration.version == "1.0.0"
    assert (BaseIntegration.secrets, BaseIntegration.actions, BaseIntegration.events) == ([], [], [])
    assert SecretSpec("a", "b") == SecretSpec(name="a", description="b")
    assert Event(type="t").payload == {}
    assert Event(type="t").external_id is None
    assert Action(type="t").payload == {}
