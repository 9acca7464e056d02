"""How commands are declared: help with examples, and the options that many share."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from .client import DEFAULT_URL, Api
from .lookup import connection_id
from .output import Output

Function = Callable[..., None]

JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
DataDir = Annotated[
    Path | None,
    typer.Option(
        envvar="TRUNKLINE_DATA_DIR",
        help="Folder of the platform's data (default ~/.trunkline).",
    ),
]
_Url = Annotated[
    str, typer.Option(envvar="TRUNKLINE_URL", help="Address of the platform.", show_default=True)
]
_Tenant = Annotated[str | None, typer.Option(help="Tenant to act for; needs an admin key.")]

Name = Annotated[str | None, typer.Option(help="A name for people.")]
Limit = Annotated[int, typer.Option(min=1, help="Most items to print.")]
After = Annotated[str | None, typer.Option(metavar="CURSOR", help="Go on where a list before ended.")]


class _Command(TyperCommand):
    """Leaves arguments out of its usage that are only taken to say that they are wrong."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece for piece in super().collect_usage_pieces(ctx) if piece != "[]..."]


@dataclass(frozen=True)
class Call:
    """What a client command works with."""

    api: Api
    out: Output


def group(help_text: str) -> typer.Typer:
    """A group of commands."""
    commands = typer.Typer(help=help_text, no_args_is_help=True, add_completion=False, rich_markup_mode=None)
    commands.callback()(_nothing)  # without one, a group of one command would become that command
    return commands


def _nothing() -> None:
    pass


def single() -> typer.Typer:
    """A command that is no group."""
    return typer.Typer(add_completion=False, rich_markup_mode=None)


def remote(commands: typer.Typer, name: str, *examples: str) -> Callable[[Function], Function]:
    """Registers a client of the API: `function(call, ...)` gets the options that all of them share.

    Its parameter `connection` is an id, whatever way of naming the connection was typed.
    """

    def register(function: Function) -> Function:
        def command(url: str, tenant: str | None, data_dir: Path | None, as_json: bool, **own: Any) -> None:
            with Api.open(url, tenant=tenant, data_dir=data_dir) as api:
                if own.get("connection"):
                    own["connection"] = connection_id(api, own["connection"])
                function(Call(api, Output(as_json)), **own)

        shared = {"as_json": (JsonFlag, False), "tenant": (_Tenant, None), "url": (_Url, DEFAULT_URL)}
        shared["data_dir"] = (DataDir, None)
        _register(commands, name, examples, command, function, skip="call", extra=shared)
        return function

    return register


def local(commands: typer.Typer, name: str, *examples: str) -> Callable[[Function], Function]:
    """Registers a command that works on this machine: `function(out, data_dir, ...)`."""

    def register(function: Function) -> Function:
        def command(as_json: bool, **own: Any) -> None:
            function(Output(as_json), **own)

        _register(
            commands, name, examples, command, function, skip="out", extra={"as_json": (JsonFlag, False)}
        )
        return function

    return register


def with_parameters(command: Function, like: Function, parameters: Sequence[inspect.Parameter]) -> Function:
    """Makes `command`, which takes keywords, look as if it were written with these parameters."""
    command.__name__ = like.__name__
    command.__doc__ = like.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def own_parameters(function: Function, skip: str) -> list[inspect.Parameter]:
    return [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(function).parameters.items()
        if name != skip
    ]


def _register(
    commands: typer.Typer,
    name: str,
    examples: Sequence[str],
    command: Function,
    function: Function,
    *,
    skip: str,
    extra: dict[str, tuple[Any, Any]],
) -> None:
    added = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for key, (annotation, default) in extra.items()
    ]
    shown = with_parameters(command, function, [*own_parameters(function, skip), *added])
    commands.command(name, cls=_Command, epilog=example_text(*examples))(shown)


def example_text(*lines: str) -> str:
    """The part of a command's help that shows how it is used."""
    heading = "Example:" if len(lines) == 1 else "Examples:"
    return paragraph(heading, *(f"  {line}" for line in lines))


def paragraph(*lines: str) -> str:
    """Lines of help that stay lines."""
    return "\n".join(["\b", *lines])
