"""Flags of the same names as the settings."""

import inspect
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from app.config import ENV_PREFIX, Settings

from .commands import Function, own_parameters, with_parameters

SECRET = frozenset({"master_key"})
"""Never a flag: every process of the machine can read command lines."""

Flags = dict[str, str | None]


def settings_flags(skip: str) -> Callable[[Function], Function]:
    """Gives a command a flag for every setting, collected in its parameter `flags`."""
    names = [name for name in Settings.model_fields if name not in SECRET]

    def decorate(function: Function) -> Function:
        def command(*first: Any, **given: Any) -> None:
            flags = {name: given.pop(name) for name in names}
            function(*first, flags=flags, **given)

        own = [p for p in inspect.signature(function).parameters.values() if p.name == skip]
        own += [p for p in own_parameters(function, skip) if p.name != "flags"]
        generated = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name))
            for name in names
        ]
        return with_parameters(command, function, [*own, *generated])

    return decorate


def _option(name: str) -> Any:
    setting = Settings.model_fields[name]
    default = "" if setting.default is None else f" (default {setting.default})"
    # Text whatever the type: Settings converts and judges flags exactly like variables.
    return Annotated[
        str | None,
        typer.Option(
            f"--{name.replace('_', '-')}",
            help=f"{setting.description}{default}.",
            metavar=_metavar(setting.annotation),
        ),
    ]


def _metavar(annotation: Any) -> str:
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    kinds = {"int": "NUMBER", "float": "SECONDS", "Path": "PATH"}
    return kinds.get(getattr(annotation, "__name__", ""), "TEXT")


VARIABLES_NOTE = f"Each setting is also a variable: {ENV_PREFIX}PORT for --port."
