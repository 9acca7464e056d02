"""Payloads made up from a model's JSON Schema.

The smallest first: only what is required; then with one more field, then two. Texts of a declared pattern
are made after it, others are tried from a list until the model takes them. What cannot be guessed has an
example: `examples` of the field, or a file.
"""

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, islice
from typing import Any

from pydantic import BaseModel, ValidationError

Schema = Mapping[str, Any]
Path = tuple[str | int, ...]

MOST_SHAPES = 300
_DEEPEST = 8

TEXTS = (
    "made up",
    "made_up_1",
    "1",
    "https://example.com/made-up",
    "ann@example.com",
    "2030-01-02T03:04:05Z",
    "2030-01-02",
    "+15005550006",
    "YQ==",
    "00000000-0000-4000-8000-000000000001",
    "usd",
    "USD",
    "C0123456789",
    "text/plain",
    "1234567890",
    "example.com",
    "owner/name",
    "a",
)
"""What texts of a certain form often are. The first that the model takes is used."""

_BY_FORMAT = {
    "uri": "https://example.com/made-up",
    "email": "ann@example.com",
    "date-time": "2030-01-02T03:04:05Z",
    "date": "2030-01-02",
    "time": "03:04:05Z",
    "uuid": "00000000-0000-4000-8000-000000000001",
    "duration": "PT1M",
    "ipv4": "192.0.2.1",
    "binary": "YQ==",
    "base64": "YQ==",
}


def payloads_for(model: type[BaseModel], given: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Payloads that a model takes, the smallest first; `given` fields are as they are."""
    try:
        schema = model.model_json_schema()
    except Exception:  # noqa: BLE001 - a model may hold what JSON Schema has no word for
        schema = {}
    given = dict(given or {})
    optional: list[Path] = []
    smallest = _fitting(model, schema, given, frozenset(), optional)
    if smallest is not None:
        yield smallest
    more = (chosen for count in (1, 2) for chosen in combinations(optional, count))
    for chosen in islice(more, MOST_SHAPES):
        made = _fitting(model, schema, given, frozenset(chosen))
        if made is not None:
            yield made


def _fitting(
    model: type[BaseModel],
    schema: Schema,
    given: Mapping[str, Any],
    chosen: frozenset[Path],
    optional: list[Path] | None = None,
) -> dict[str, Any] | None:
    """A payload with the required fields and the chosen ones; the fields left out are noted in `optional`."""
    texts: dict[Path, int] = {}
    for _ in TEXTS:
        maker = _Maker(schema.get("$defs", {}), chosen, texts)
        made = maker.value(schema, ()) if "properties" in schema else {}
        payload = {**made, **given}
        if optional is not None:
            optional[:] = [path for path in maker.left_out if path[0] not in given]
        try:
            model.model_validate(payload)
        except ValidationError as error:
            wrong = {path for problem in error.errors() for path in _texts_at(problem["loc"], texts)}
        except Exception:  # noqa: BLE001 - a validator of the connector's own
            return None
        else:
            return payload
        for path in wrong:
            texts[path] += 1
        if not wrong or any(texts[path] >= len(TEXTS) for path in wrong):
            return None
    return None


def _texts_at(location: Path, texts: Mapping[Path, int]) -> list[Path]:
    """The texts that an error may be about: its place names the members of unions too."""
    found = [path for path in texts if _is_inside(path, location)]
    longest = max(map(len, found), default=0)
    return [path for path in found if len(path) == longest]


def _is_inside(path: Path, location: Path) -> bool:
    steps = iter(location)
    return all(any(step == part for step in steps) for part in path)


class _Maker:
    """Makes values for schemas.

    texts     which text of the list stands where
    left_out  the fields that might be there too
    """

    def __init__(
        self, definitions: Mapping[str, Schema], chosen: frozenset[Path], texts: dict[Path, int]
    ) -> None:
        self._definitions = definitions
        self._chosen = chosen
        self._texts = texts
        self.left_out: list[Path] = []

    def value(self, schema: Schema, path: Path) -> Any:
        if "$ref" in schema:
            referred = self._definitions[schema["$ref"].rpartition("/")[2]]
            schema = {**referred, **{word: part for word, part in schema.items() if word != "$ref"}}
        if schema.get("examples"):
            return schema["examples"][0]
        for word in ("const", "default"):
            if schema.get(word):
                return schema[word]
        if "enum" in schema:
            return schema["enum"][0]
        for word in ("anyOf", "oneOf", "allOf"):
            if word in schema:
                options = [option for option in schema[word] if option.get("type") != "null"]
                return self.value(options[0], path) if options and len(path) < _DEEPEST else None
        kind = schema.get("type")
        return self._of_kind(kind[0] if isinstance(kind, list) else kind, schema, path)

    def _of_kind(self, kind: str | None, schema: Schema, path: Path) -> Any:
        match kind:
            case "string":
                return self._text(schema, path)
            case "integer" | "number":
                return _number(schema, kind)
            case "boolean":
                return True
            case "array" if len(path) >= _DEEPEST:
                return []
            case "array":
                count = max(1, schema.get("minItems", 1))
                items = schema.get("items", {"type": "string"})
                return [self.value(items, (*path, index)) for index in range(count)]
            case "object" if "properties" in schema:
                return self._object(schema, path)
            case "object":
                more = schema.get("additionalProperties")
                return {"made_up": self.value(more, (*path, "made_up"))} if isinstance(more, dict) else {}
            case "null":
                return None
            case _:
                return "made up"

    def _object(self, schema: Schema, path: Path) -> dict[str, Any]:
        made = {}
        for name, field in schema["properties"].items():
            place = (*path, name)
            if name in schema.get("required", []) or place in self._chosen:
                made[name] = self.value(field, place)
            else:
                self.left_out.append(place)
        return made

    def _text(self, schema: Schema, path: Path) -> str:
        chosen = self._texts.setdefault(path, 0)
        text = TEXTS[chosen]
        if chosen == 0:
            text = _BY_FORMAT.get(schema.get("format", ""), text)
            if "pattern" in schema:
                text = of_pattern(schema["pattern"]) or text
        if (least := schema.get("minLength", 0)) > len(text):
            text = text.ljust(least, "x")
        return text[: schema["maxLength"]] if "maxLength" in schema else text


def of_pattern(pattern: str) -> str | None:
    """A text that a regular expression matches; None where it is too much to make one."""
    try:
        text = _spelled(importlib.import_module("re._parser").parse(pattern))
        return text if re.search(pattern, text) else None
    except (re.error, LookupError, ValueError, AttributeError, ImportError):
        return None


def _spelled(parsed: Sequence[tuple[Any, Any]]) -> str:
    text = ""
    for operator, argument in parsed:
        match str(operator):
            case "LITERAL":
                text += chr(argument)
            case "IN":
                text += _one_of(argument)
            case "ANY" | "NOT_LITERAL":
                text += "x" if argument != ord("x") else "y"
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                least, most, repeated = argument
                text += _spelled(repeated) * max(least, min(1, most))
            case "SUBPATTERN":
                text += _spelled(argument[-1])
            case "BRANCH":
                text += _spelled(argument[1][0])
            case "AT":
                pass
            case _:
                raise ValueError("nothing that can be spelled")
    return text


def _one_of(members: Sequence[tuple[Any, Any]]) -> str:
    """A character of a class, a plain one if it has one."""
    return next(char for char in "1aA_-. /:@+#=,%!" if _is_member(char, members))


def _is_member(char: str, members: Sequence[tuple[Any, Any]]) -> bool:
    found = False
    for operator, argument in members:
        match str(operator):
            case "LITERAL":
                found |= ord(char) == argument
            case "RANGE":
                found |= argument[0] <= ord(char) <= argument[1]
            case "CATEGORY":
                letter = str(argument).rpartition("_")[2]
                kind = {"DIGIT": r"\d", "WORD": r"\w", "SPACE": r"\s"}[letter]
                found |= bool(re.match(kind.upper() if "_NOT_" in str(argument) else kind, char))
    negated = bool(members) and str(members[0][0]) == "NEGATE"
    return found != negated


def _number(schema: Schema, kind: str) -> int | float:
    step = 1 if kind == "integer" else 0.5
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is None and "exclusiveMinimum" in schema:
        least = schema["exclusiveMinimum"] + step
    if most is None and "exclusiveMaximum" in schema:
        most = schema["exclusiveMaximum"] - step
    number: int | float = 1
    if least is not None and least > number:
        number = least
    if most is not None and most < number:
        number = most
    multiple = schema.get("multipleOf")
    return number if not multiple else -(-number // multiple) * multiple
