"""The contract: what a connector is."""

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ValidationError

from .bodies import Body, JsonObject
from .errors import FieldProblem, InvalidActionPayload, UnhandledWebhook, UnknownAction
from .handshakes import Handshake
from .models import Action, Applied, CannotTell, Event, NotApplied, ProbeAnswer
from .requests import Reply, WebhookRequest
from .specs import ActionSpec, EventSpec, Limits, PollSpec, SecretSpec
from .verification import Verification


class BaseIntegration:
    """One external system, declared.

    A connector sets `name` and `key`, declares what it can do, and implements `handle_webhook` and one
    method for each action. Constructor parameters are given by name: a declared secret (str), `settings`
    (an instance of `settings_model`), `http` (a ConnectorHttp for this connection).

        version         of the connector, shown in the catalogue
        level           experimental, or stable: what that asks for is in docs/adding-a-connector.md
        secrets         what it needs to know: SecretSpec
        actions         what it can do: ActionSpec
        events          what it can tell: EventSpec
        polls           what it asks for instead of being told: PollSpec
        limits          how fast actions may go: Limits; each connection may have its own instead
        settings_model  Pydantic model of configuration that is not secret
        body            how request bytes become items: JsonObject() unless declared
        verification    how a request proves to be genuine; None leaves it to the unguessable URL
        handshake       how to answer a provider that makes sure of the URL
        reply_within    seconds; set if `receive` must run before the sender is answered
    """

    name: ClassVar[str]
    key: ClassVar[str]
    version: ClassVar[str] = "1.0.0"
    level: ClassVar[Literal["experimental", "stable"]] = "experimental"
    secrets: ClassVar[list[SecretSpec]] = []
    actions: ClassVar[list[ActionSpec]] = []
    events: ClassVar[list[EventSpec]] = []
    polls: ClassVar[list[PollSpec]] = []
    limits: ClassVar[Limits] = Limits()
    settings_model: ClassVar[type[BaseModel] | None] = None
    body: ClassVar[Body] = JsonObject()
    verification: ClassVar[Verification | None] = None
    handshake: ClassVar[Handshake | None] = None
    reply_within: ClassVar[float | None] = None

    # What a connector implements.

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        """Makes the event of one item. Anything raised leaves a failed webhook that can be replayed."""
        raise UnhandledWebhook(
            "no_handler", f"Integration '{self.key}' takes no webhooks: it does not define handle_webhook."
        )

    async def receive(self, request: WebhookRequest) -> Event | list[Event] | Reply | None:
        """Makes the events of a whole request, for providers whose type or id is in the headers.

        The default calls `handle_webhook` for each item. An override takes the request as one: all its
        events are stored, or none.
        """
        return [await self.handle_webhook(item) for item in request.items]

    async def check(self) -> None:
        """Asks the provider whether the credentials are good.

        Raises AuthenticationFailed if they are not, another ProviderError if that cannot be told.
        The default has no way to ask and says nothing.
        """

    async def register_webhook(self, url: str, secrets: dict[str, str]) -> None:
        """Tells the provider to send webhooks to `url`. Called again when the URL or a secret changes.

        An override may take `former: Sequence[str] = ()` as well: the connection's earlier URLs, for
        providers that keep many webhooks and would go on sending to them. The public address in them is
        today's, so only their last path segment tells one of them from another connection's.
        """

    async def unregister_webhook(self) -> None:
        """Tells the provider to stop sending webhooks.

        An override may take `urls: Sequence[str] = ()`: all the connection's URLs, as above.
        """

    def poll_enabled(self, poll: PollSpec, public_url: str | None) -> bool:
        """Whether `poll` runs for this connection; `public_url` is None if providers cannot reach us."""
        return True

    async def aclose(self) -> None:
        """Gives up what the instance holds. Called once, when no call is running any more."""

    # What the base class does. Not for overriding.

    async def execute(self, action: Action) -> Any:
        """Validates the action and calls its handler.

        Raises UnknownAction, InvalidActionPayload, or what the handler raises.
        """
        spec = self.action_spec(action.type)
        return await call(getattr(self, spec.handler), self.validated(action))

    async def probe(self, action: Action) -> ProbeAnswer:
        """Validates a checkable action and asks its probe whether it has happened.

        Raises UnknownAction, InvalidActionPayload, or what the probe raises.
        """
        spec = self.action_spec(action.type)
        assert spec.probe is not None, "the registry has made sure"
        answer = await call(getattr(self, spec.probe), self.validated(action))
        if not isinstance(answer, Applied | NotApplied | CannotTell):
            raise TypeError(f"a probe returns Applied, NotApplied or CannotTell, not {type(answer).__name__}")
        return answer

    @classmethod
    def action_spec(cls, action_type: str) -> ActionSpec:
        for spec in cls.actions:
            if spec.name == action_type:
                return spec
        raise UnknownAction(cls.key, action_type, [spec.name for spec in cls.actions])

    @classmethod
    def event_spec(cls, event_type: str) -> EventSpec | None:
        return next((spec for spec in cls.events if spec.name == event_type), None)

    @classmethod
    def validated(cls, action: Action) -> BaseModel:
        """The action's payload as an instance of its model; raises UnknownAction or InvalidActionPayload."""
        spec = cls.action_spec(action.type)
        try:
            return spec.model.model_validate(action.payload)
        except ValidationError as error:
            problems = [
                FieldProblem(".".join(map(str, e["loc"])), e["type"], e["msg"])
                for e in error.errors(include_url=False, include_input=False, include_context=False)
            ]
            # Without "from": the cause would carry the input values into every traceback.
            raise InvalidActionPayload(action.type, problems) from None


async def call(method: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a connector's method, which may be a coroutine function or a plain one (run in a thread)."""
    try:
        if _is_coroutine_function(getattr(method, "__func__", method)):
            return await method(*arguments)
        result = await _in_a_thread(method, arguments)
        return await result if inspect.isawaitable(result) else result
    except Exception:
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("The connector cancelled itself.").with_traceback(error.__traceback__) from None
    except BaseException as error:  # noqa: BLE001 - whatever a connector comes up with
        # It would end the platform, and again at every restart that takes the same work up.
        raise TriedToEnd(error) from None


class TriedToEnd(RuntimeError):
    """A connector raised what would end the process: SystemExit, KeyboardInterrupt or the like."""

    def __init__(self, original: BaseException) -> None:
        super().__init__(f"The connector tried to end the process ({type(original).__name__}).")
        self.original = original
        self.__traceback__ = original.__traceback__


_is_coroutine_function = lru_cache(maxsize=4096)(inspect.iscoroutinefunction)


async def _in_a_thread(method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """In a thread of its own, which ends with the process at the latest: one that hangs past its deadline
    takes no place in a pool from others and does not hold up the platform's stop."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    context = contextvars.copy_context()
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.extend((None, context.run(method, *arguments)))
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is awaited
            outcome.extend((error, None))
        with contextlib.suppress(RuntimeError):  # too late: the loop is closed
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=run, name="trunkline-connector", daemon=True).start()
    await ended.wait()
    error, result = outcome
    if error is not None:
        raise error
    return result
