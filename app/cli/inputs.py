"""What people type for values: NAME=VALUE, @file, - for standard input, JSON."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .exits import WrongUsage

Schema = Mapping[str, Any]

_STDIN = "-"


def pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """NAME=VALUE, each name once."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            # The text itself may be a secret that was given without its name.
            raise WrongUsage(f"{option} is given without NAME=.", f"Write {option} NAME=VALUE.")
        if name in found:
            raise WrongUsage(f"{option} gives {name} more than once.")
        found[name] = value
    return found


def secrets(given: Sequence[str], option: str) -> dict[str, str]:
    """NAME=VALUE, NAME=@file or NAME=-; one line end after the value does not belong to it."""
    found = pairs(given, option)
    if sum(value == _STDIN for value in found.values()) > 1:
        raise WrongUsage(
            "Standard input can hold the value of one secret only.", "Use NAME=@file for others."
        )
    for name, value in found.items():
        if value == _STDIN or value.startswith("@"):
            found[name] = _content(value.removeprefix("@")).removesuffix("\n").removesuffix("\r")
    return found


def values(given: Sequence[str], option: str, schema: Schema | None) -> dict[str, Any]:
    """NAME=VALUE with JSON values; a field that only takes text gets the text as it stands."""
    fields: Schema = (schema or {}).get("properties", {})
    return {name: _value(text, fields.get(name, {})) for name, text in pairs(given, option).items()}


def payload(given: Sequence[str], schema: Schema | None) -> dict[str, Any]:
    """The --data options together: a JSON object, @file with one, and NAME=VALUE on top."""
    result: dict[str, Any] = {}
    named: list[str] = []
    for text in given:
        if text.lstrip().startswith("{"):
            result |= _object(text, "--data")
        elif text == _STDIN or text.startswith("@"):
            source = text.removeprefix("@")
            result |= _object(_content(source), "Standard input" if source == _STDIN else source)
        else:
            named.append(text)
    return result | values(named, "--data", schema)


def fields(given: Mapping[str, str | Sequence[str] | None], schema: Schema) -> dict[str, Any]:
    """Options that stand for the fields of a schema: those that were given, as values."""
    declared: Schema = schema.get("properties", {})
    found: dict[str, Any] = {}
    for name, value in given.items():
        field = declared.get(name, {})
        if isinstance(value, str):
            found[name] = _value(value, field)
        elif value:
            found[name] = [_value(part, field.get("items", {})) for part in value]
    return found


def is_list(field: Schema) -> bool:
    return bool(field.get("type") == "array")


def metavar(field: Schema) -> str:
    """How help shows what a field takes."""
    if "enum" in field:
        return "|".join(map(str, field["enum"]))
    kinds = _kinds(field.get("items", {}) if is_list(field) else field) - {"null"}
    names = {"string": "TEXT", "integer": "NUMBER", "number": "NUMBER", "boolean": "true|false"}
    return names.get(next(iter(kinds)), "JSON") if len(kinds) == 1 else "JSON"


def somebody_is_there() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty()


def needs_schema(given: Sequence[str]) -> bool:
    """Whether some of the --data options are NAME=VALUE."""
    return any(not text.lstrip().startswith(("{", "@")) and text != _STDIN for text in given)


def _content(source: str) -> str:
    try:
        return sys.stdin.read() if source == _STDIN else Path(source).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise WrongUsage(f"{source or '@'} cannot be read ({reason}).", "Name a file after the @.") from None


def _object(text: str, origin: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise WrongUsage(
            f"{origin} is not JSON ({error}).", 'Write an object such as {"text": "Hi"}.'
        ) from None
    if not isinstance(found, dict):
        raise WrongUsage(f"{origin} is not a JSON object.", 'Write one such as {"text": "Hi"}.')
    return found


def _value(text: str, field: Schema) -> Any:
    kinds = _kinds(field)
    if "string" in kinds and kinds <= {"string", "null"}:
        return None if text == "null" and "null" in kinds else text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _kinds(field: Schema) -> set[str]:
    """The JSON types that a field's schema allows; empty if it does not say."""
    if "type" in field:
        declared = field["type"]
        return set(declared) if isinstance(declared, list) else {declared}
    if "enum" in field:
        return {"string"} if all(isinstance(value, str) for value in field["enum"]) else set()
    return {kind for option in field.get("anyOf", []) for kind in (_kinds(option) or {"any"})}
