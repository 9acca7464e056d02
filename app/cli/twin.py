"""`trunkline twin`: local stand-ins for providers. Everything about them comes from their own classes."""

import asyncio
import contextlib
import inspect
import signal
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from app.errors import Problem

from . import inputs
from .client import TWIN_URL_VARIABLE, check_address
from .commands import JsonFlag, example_text, with_parameters
from .exits import CommandFailed, ExitCode
from .output import Output
from .own_connectors import own_connectors
from .serve import StopWithStdin, loop_factory
from .supervision import stop_at_end_of_stdin

if TYPE_CHECKING:
    import httpx2
    from pydantic import BaseModel

    from app.integrations.twin import Control, Twin

PORT = 8081
TIMEOUT = 30.0

_Url = Annotated[str, typer.Option(envvar=TWIN_URL_VARIABLE, help="Address of the running twin.")]
_DEFAULT_URL = f"http://127.0.0.1:{PORT}"


class Twins(TyperGroup):
    """One command for each twin that there is."""

    def list_commands(self, ctx: Any) -> list[str]:
        _find_own_connectors()
        from app.integrations.twin import twin_names

        return twin_names()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        from app.integrations.twin import UnknownTwin, load_twin

        _find_own_connectors()
        try:
            command = typer.main.get_command(_commands_of(load_twin(cmd_name)))
        except UnknownTwin as error:
            if ctx.resilient_parsing:
                return None
            raise CommandFailed(str(error), exit_code=ExitCode.NOT_FOUND) from None
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=Twins,
    help="Run a local, stateful stand-in for a provider, and do what a person would do there.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    epilog=example_text("trunkline twin telegram --port 8081", "trunkline twin telegram do say --text hello"),
)


@app.callback()
def _twins() -> None:
    pass


def _find_own_connectors() -> None:
    """Lets twins be found in the folder of one's own connectors, as the platform finds the connectors."""
    from app.integrations import connectors

    folder = own_connectors()
    if folder and (path := str(folder.resolve())) not in connectors.__path__:
        connectors.__path__.append(path)


def _commands_of(twin: "type[Twin]") -> typer.Typer:
    """`NAME` serves, `NAME do CONTROL` gives an order, `NAME state` shows what it holds."""
    commands = typer.Typer(add_completion=False, rich_markup_mode=None)
    name = twin.name

    def serve(
        ctx: typer.Context,
        host: str,
        port: int,
        as_json: bool,
        stop_with_stdin: bool,
        **settings: Any,
    ) -> None:
        if ctx.invoked_subcommand is None:
            if stop_with_stdin:
                stop_at_end_of_stdin()
            given = inputs.fields(settings, twin.settings_model.model_json_schema())
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(_serve(_made(twin, given), host, port, Output(as_json)))

    parameters = [
        _parameter("ctx", typer.Context),
        _parameter("host", Annotated[str, typer.Option(help="Address to listen on.")], "127.0.0.1"),
        _parameter(
            "port", Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")], PORT
        ),
        *_options(twin.settings_model),
        _parameter("as_json", JsonFlag, False),
        _parameter("stop_with_stdin", StopWithStdin, False),
    ]
    commands.callback(
        invoke_without_command=True,
        help=f"{twin.description}. Without a command: serve until Ctrl-C.",
        epilog=example_text(f"trunkline twin {name} --port {PORT}", f"trunkline twin {name} do --help"),
    )(with_parameters(serve, serve, parameters))

    orders = typer.Typer(
        help="Give a running twin an order.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        epilog=example_text(f"trunkline twin {name} do {twin.controls[0].name} --help")
        if twin.controls
        else None,
    )

    @orders.callback()
    def _orders() -> None:
        pass

    for control in twin.controls:
        _add_order(orders, name, control)
    commands.add_typer(orders, name="do")

    @commands.command("state", epilog=example_text(f"trunkline twin {name} state --json"))
    def state(url: _Url = _DEFAULT_URL, as_json: JsonFlag = False) -> None:
        """Show what a running twin holds."""
        Output(as_json).record(request(url, "GET", "state"))

    return commands


def _add_order(orders: typer.Typer, name: str, control: "Control") -> None:
    schema = control.model.model_json_schema()
    if taken := {"url", "as_json"} & set(schema.get("properties", {})):
        raise CommandFailed(
            f"The twin '{name}' cannot be ordered about: its control '{control.name}' has a field "
            f"'{min(taken)}', and every order has an option of that name.",
            "Rename the field in twin.py.",
        )

    def order(url: str, as_json: bool, **given: Any) -> None:
        out = Output(as_json)
        answer = request(url, "POST", control.name, inputs.fields(given, schema))
        if answer or as_json:
            out.record(answer)
        else:
            out.text("Done.")

    parameters = [
        *_options(control.model),
        _parameter("url", _Url, _DEFAULT_URL),
        _parameter("as_json", JsonFlag, False),
    ]
    required = " ".join(f"--{_flag(field)} …" for field in schema.get("required", []))
    example = " ".join(filter(None, (f"trunkline twin {name} do {control.name}", required)))
    orders.command(control.name, help=f"{control.description}.", epilog=example_text(example))(
        with_parameters(order, order, parameters)
    )


def _options(model: "type[BaseModel]") -> list[inspect.Parameter]:
    """An option for each field, text whatever its type: the twin converts and judges it."""
    schema = model.model_json_schema()
    found = []
    for name, field in schema.get("properties", {}).items():
        many = inputs.is_list(field)
        required = name in schema.get("required", [])
        default = field.get("default")
        note = "" if default in (None, "", []) else f" (default {default})"
        option = typer.Option(
            f"--{_flag(name)}",
            help=f"{field.get('description', name)}{note}.",
            metavar=inputs.metavar(field),
            show_default=False,
        )
        kind: Any = list[str] if many else str
        if required:
            found.append(_parameter(name, Annotated[kind, option]))
        else:
            found.append(_parameter(name, Annotated[kind | None, option], None))
    return found


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _flag(field: str) -> str:
    return field.replace("_", "-")


def _made(twin: "type[Twin]", given: dict[str, Any]) -> "Twin":
    from pydantic import ValidationError

    try:
        return twin(twin.settings_model.model_validate(given))
    except ValidationError as error:
        problems = [
            Problem(".".join(map(str, e["loc"])), e["type"], e["msg"])
            for e in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise CommandFailed(
            "The twin cannot be set up like this.", exit_code=ExitCode.INVALID, problems=problems
        ) from None


async def _serve(twin: "Twin", host: str, port: int, out: Output) -> None:
    from app.integrations.twin import running

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with contextlib.AsyncExitStack() as stack:
        try:
            url = await stack.enter_async_context(running(twin, host, port))
        except OSError as error:
            raise CommandFailed(
                f"Cannot listen on {host}:{port} ({error.strerror}).",
                "Stop what uses it, or choose another --port.",
            ) from None
        if out.as_json:
            out.line({"twin": twin.name, "url": url})
        out.text(f"The {twin.name} twin listens on {url}\n{twin.greeting(url)}")
        await stopped.wait()


@cache
def http() -> "httpx2.Client":
    """Talks to servers on this machine, past any proxy."""
    import httpx2

    return httpx2.Client(timeout=TIMEOUT, trust_env=False)


def request(url: str, method: str, what: str, body: Any = None) -> Any:
    """Asks a running twin. Raises CommandFailed."""
    import httpx2

    check_address(url, f"Give --url such as {_DEFAULT_URL}.")
    try:
        response = http().request(method, f"{url.rstrip('/')}/_twin/{what}", json=body)
        answer = response.json()
    except (httpx2.TransportError, httpx2.InvalidURL) as error:
        raise CommandFailed(
            f"No twin answers at {url} ({str(error) or type(error).__name__}).",
            "Start it with `trunkline twin NAME`, or name its address with --url.",
            exit_code=ExitCode.UNREACHABLE,
        ) from None
    except ValueError:
        answer = None
    if response.is_success and isinstance(answer, dict):
        return answer
    if not isinstance(answer, dict) or "error" not in answer:
        raise CommandFailed(
            f"What answers at {url} is not a twin (HTTP {response.status_code}).",
            "Check --url.",
            exit_code=ExitCode.UNREACHABLE,
        )
    problems = [Problem(p["field"], "invalid", p["message"]) for p in answer.get("problems", [])]
    code = ExitCode.INVALID if response.status_code == 422 else ExitCode.FAILED
    raise CommandFailed(answer["error"], exit_code=code, problems=problems)
