"""Twins: local, stateful stand-ins for providers, for development, demonstrations and tests.

A twin lives in `app.integrations.connectors.<name>.twin` as the one class that inherits from `Twin`. It
answers the provider's own API, and beside it

    GET  /_twin            what can be asked of it: its controls with their JSON Schemas
    GET  /_twin/state      what it holds
    POST /_twin/{control}  one control, with a JSON object as its input

Controls do what a person or the weather would do at the real provider: write a message, press a button,
break a connection. Twins are servers of their own, never loaded by the platform's request path.
"""

import asyncio
import importlib
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from . import connectors
from .errors import IntegrationError


class UnknownTwin(IntegrationError):
    """No integration has a twin of this name."""


class ControlError(IntegrationError):
    """A control that cannot be carried out as the twin stands; the message says why and what to do."""


class BrokenAnswer(Response):
    """Begins an answer and breaks the connection, whatever was done before.

    The server closes a connection whose answer stays incomplete; ASGI has no message for "no answer".
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"1000")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


@dataclass(frozen=True)
class Control:
    """Something that can be ordered: `handler` names the method `async (model) -> dict`."""

    name: str
    description: str
    model: type[BaseModel]
    handler: str


class NoInput(BaseModel):
    """A control without input."""

    model_config = ConfigDict(extra="forbid")


class Fault(BaseModel):
    """A fault, ordered in advance for the next requests of a kind."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["delay", "duplicate", "status", "drop_answer"] = Field(
        description=(
            "delay: wait before doing it; duplicate: do it twice; status: do nothing and answer `status`; "
            "drop_answer: do it, then break the connection instead of answering"
        )
    )
    on: str = Field(default="*", description="Method it strikes, * for any, webhook for deliveries")
    count: int = Field(default=1, ge=1, description="How many requests it strikes")
    seconds: float = Field(default=1.0, ge=0, description="How long a delay lasts")
    status: int = Field(default=500, ge=400, le=599, description="HTTP status that is answered")
    retry_after: int | None = Field(default=None, ge=1, description="Seconds to wait, with status 429")


@dataclass
class Faults:
    """The faults still to come, struck in the order in which they were ordered."""

    pending: list[Fault] = field(default_factory=list)

    def order(self, fault: Fault) -> None:
        self.pending.append(fault.model_copy())

    def take(self, on: str) -> Fault | None:
        """The fault that strikes a request to `on`, which is then used up; None is the rule.

        Deliveries are only struck by faults that name them: `take("webhook")` ignores `*`.
        """
        for fault in self.pending:
            if fault.on.lower() == on.lower() or (fault.on == "*" and on != "webhook"):
                fault.count -= 1
                if fault.count == 0:
                    self.pending.remove(fault)
                return fault
        return None


class Twin(ABC):
    """A local stand-in for one provider.

        name            the integration's key
        description     one line for people
        controls        what can be ordered of it
        settings_model  how it can be set up; the instance is in `settings`

    An instance is an ASGI application.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    controls: ClassVar[Sequence[Control]] = ()
    settings_model: ClassVar[type[BaseModel]] = NoInput

    def __init__(self, settings: BaseModel | None = None) -> None:
        self.settings = settings if settings is not None else self.settings_model()

    @abstractmethod
    def routes(self) -> list[BaseRoute]:
        """The provider's own API."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What the twin holds, as JSON."""

    @abstractmethod
    def greeting(self, url: str) -> str:
        """What a person has to set in order to use the twin that serves at `url`."""

    @abstractmethod
    async def stop(self) -> None:
        """Called when the server closes, perhaps twice: ends long polls and background tasks."""

    async def control(self, name: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Carries out a control. Raises ControlError or Pydantic's ValidationError."""
        spec = next((spec for spec in self.controls if spec.name == name), None)
        if spec is None:
            known = ", ".join(spec.name for spec in self.controls) or "none"
            raise ControlError(f"The twin '{self.name}' has no control of that name. It has: {known}.")
        result: dict[str, Any] = await getattr(self, spec.handler)(spec.model.model_validate(payload))
        return result

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    @cached_property
    def _app(self) -> Starlette:
        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await self.stop()

        own = [
            Route("/_twin", self._describe),
            Route("/_twin/state", self._show_state),
            Route("/_twin/{control}", self._run_control, methods=["POST"]),
        ]
        return Starlette(routes=[*own, *self.routes()], lifespan=lifespan)

    async def _describe(self, _: Request) -> JSONResponse:
        controls = [
            {"name": spec.name, "description": spec.description, "schema": spec.model.model_json_schema()}
            for spec in self.controls
        ]
        return JSONResponse({"twin": self.name, "description": self.description, "controls": controls})

    async def _show_state(self, _: Request) -> JSONResponse:
        return JSONResponse(self.state())

    async def _run_control(self, request: Request) -> JSONResponse:
        try:
            payload = await request.json() if await request.body() else {}
            return JSONResponse(await self.control(request.path_params["control"], payload))
        except ValueError as error:  # not JSON, or not what the control takes
            if not isinstance(error, ValidationError):
                return JSONResponse({"error": "The body is not JSON."}, status_code=400)
            problems = [
                {"field": ".".join(map(str, problem["loc"])), "message": problem["msg"]}
                for problem in error.errors(include_url=False, include_context=False)
            ]
            return JSONResponse({"error": "The input is not valid.", "problems": problems}, status_code=422)
        except ControlError as error:
            return JSONResponse({"error": str(error)}, status_code=409)


def twin_names() -> list[str]:
    """The integrations that have a twin, sorted."""
    # By file, not by import: a connector that is broken must not hide the others.
    return sorted({path.parent.name for root in connectors.__path__ for path in Path(root).glob("*/twin.py")})


def load_twin(name: str) -> type[Twin]:
    """The twin's class. Raises UnknownTwin, which lists those that exist."""
    if name not in (known := twin_names()):
        listed = ", ".join(known) or "none"
        raise UnknownTwin(f"There is no twin '{name}'. Twins exist for: {listed}.")
    module = importlib.import_module(f"{connectors.__name__}.{name}.twin")
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Twin) and value.__module__ == module.__name__:
            return value
    raise UnknownTwin(f"{module.__name__} defines no class that inherits from Twin.")


async def serve(twin: Twin, host: str = "127.0.0.1", port: int = 0) -> None:
    """Serves a twin until SIGINT or SIGTERM, which is raised again at the end.

    Raises OSError if the port is taken.
    """
    await _Server(twin, takes_signals=True).serve(sockets=[_listen(host, port)])


@asynccontextmanager
async def running(twin: Twin, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
    """Serves a twin inside the running loop; gives its URL. Port 0 takes a free one."""
    listener = _listen(host, port)
    server = _Server(twin, takes_signals=False)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        while not server.started:
            if task.done():
                await task
                raise RuntimeError(f"The twin '{twin.name}' did not start.")
            await asyncio.sleep(0.005)
        name = f"[{host}]" if ":" in host else host
        yield f"http://{name}:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await task


class _Server(uvicorn.Server):
    def __init__(self, twin: Twin, *, takes_signals: bool) -> None:
        super().__init__(
            uvicorn.Config(
                twin,
                access_log=False,
                log_config=None,  # logging belongs to the process, which may serve more than a twin
                lifespan="on",
                timeout_graceful_shutdown=1,
            )
        )
        self._twin = twin
        self._takes_signals = takes_signals

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        with super().capture_signals() if self._takes_signals else nullcontext():
            yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._twin.stop()  # before connections are waited for: long polls would hold them
        await super().shutdown(sockets)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol left open, asyncio would not switch Nagle's algorithm off: 40 ms for each answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
