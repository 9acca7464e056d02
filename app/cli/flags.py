"""Flags of the same names as the settings."""

import inspect
import os
import types
from collections.abc import Callable
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from app.config import ENV_PREFIX, Settings
from app.infra import failpoints

from .client import KEY_VARIABLE, TWIN_URL_VARIABLE, URL_VARIABLE
from .commands import Function, own_parameters, with_parameters
from .output import complain

SECRET = frozenset({"master_key", "database_url"})
"""Never a flag: every process of the machine can read command lines."""

Flags = dict[str, str | None]


OTHERS = frozenset({URL_VARIABLE, KEY_VARIABLE, TWIN_URL_VARIABLE})
"""Variables that are no settings of the platform."""
_OTHER_PREFIXES = (f"{ENV_PREFIX}SECRET__", f"{ENV_PREFIX}DURABILITY_")


def warn_about_variables() -> None:
    """Says on standard error which variables look like settings and are none. Their values are not shown."""
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | OTHERS
    known |= failpoints.variables(os.environ)
    for name in sorted(os.environ):
        upper = name.upper()
        if upper.startswith(ENV_PREFIX) and upper not in known and not upper.startswith(_OTHER_PREFIXES):
            close = get_close_matches(upper, known, n=1)
            question = f" Did you mean {close[0]}?" if close else ""
            complain(f"warning: {name} is no setting and does nothing.{question}")


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
