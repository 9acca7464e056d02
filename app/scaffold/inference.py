"""Pydantic models of what a sample holds."""

import keyword
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from .sample import SCRUBBED, is_data, snake_case
from .source import WIDTH, call, literal, width

DEEPEST = 5
"""Models inside of models. What is deeper is a dict."""
DEEPEST_LIST = 3
MOST_FIELDS = 100
"""An object with more keys holds data, not fields."""
MOST_MODELS = 60
LONGEST_KEY = 80
LONGEST_NAME = 40
MOST_KINDS = 3

UNKNOWN = "As the sample has it: fill in what it means"
ONLY_NULL = "Null in the sample: fill in its type, and what it means"
MIXED = "Of several types in the sample: fill in what they mean"
DEEP = "Nested deeper than models were made: fill in what it means"

_TYPES = ("bool", "dict", "float", "int", "list", "str")
"""A field of such a name would stand in the way of the annotations below it."""

_WHOLE = (
    "event_id",
    "delivery_id",
    "notification_id",
    "webhook_id",
    "message_id",
    "id",
    "uuid",
    "guid",
    "uid",
)
"""Names of what identifies a delivery or its subject, the surest first."""
_OWNERS = re.compile(
    r"(^|_)(account|app|client|company|customer|merchant|org|organization|organisation|owner|parent|portal|shop"
    r"|store|subscription|team|tenant|user|workspace|store|api|seller|site|project)_?(id|uuid|guid)$"
)
_MAX_ID = 256


@dataclass(frozen=True)
class Identity:
    """The field that is proposed as `external_id`: its path in the sample, and as attributes."""

    path: str
    expression: str
    is_text: bool
    example: str


@dataclass(frozen=True)
class Inferred:
    """Models for a module of schemas.

    source   their classes
    root     the class of a whole item
    imports  what they need, by module
    identity what tells one item from another; None if nothing in the sample does
    """

    source: str
    root: str
    imports: dict[str, list[str]]
    identity: Identity | None


@dataclass
class _Field:
    name: str
    key: str
    type: str
    description: str
    required: bool
    model: "_Model | None" = None


@dataclass
class _Model:
    name: str
    path: str
    fields: list[_Field] = field(default_factory=list)


def infer(items: Sequence[dict[str, Any]], root: str, noun: str, taken: Iterable[str]) -> Inferred:
    """Models that take every one of the items; `taken` are names that the module has already."""
    inference = _Inference(set(taken))
    model = inference.model([*items], root, "", depth=0)
    identity = _identity(model, items, noun)
    source = "\n\n\n".join(map(_class_source, inference.models))
    imports = {
        "pydantic": ["BaseModel", "ConfigDict", "Field"],
        "typing": ["Any"],
        "app.integrations.inbound": ["ProviderId"],
    }
    return Inferred(source, model.name, imports, identity)


class _Inference:
    """Looks at all values that stand in one place, and says what they are."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self.models: list[_Model] = []
        """Each after those that it is made of."""
        self._made = 0

    def model(self, values: list[dict[str, Any]], name: str, path: str, depth: int) -> _Model:
        self._made += 1
        model = _Model(self._class_name(name), path)
        keys = dict.fromkeys(key for value in values for key in value)
        names: set[str] = set()
        for key in () if _holds_data(keys) else keys:
            there = [value[key] for value in values if key in value]
            one = self._field(key, there, f"{path}.{key}" if path else key, depth)
            one.name = _field_name(key, names)
            one.required = len(there) == len(values) and None not in there
            names.add(one.name)
            model.fields.append(one)
        self.models.append(model)
        return model

    def _field(self, key: str, values: list[Any], path: str, depth: int) -> _Field:
        kind, description, model = self._type(values, key, path, depth, lists=0)
        return _Field("", key, kind, description, False, model)

    def _type(
        self, values: list[Any], key: str, path: str, depth: int, lists: int
    ) -> tuple[str, str, "_Model | None"]:
        """What the values are, what to say about it, and the model if they are objects."""
        objects = [value for value in values if isinstance(value, dict)]
        arrays = [value for value in values if isinstance(value, list)]
        plain = _plain_types(values)
        several = len(plain) + bool(objects) + bool(arrays)
        if several == 0:
            return "Any", ONLY_NULL, None
        if several > MOST_KINDS or (objects and arrays):
            return "Any", MIXED, None
        description, model = (MIXED if several > 1 else UNKNOWN), None
        members: list[str] = []
        if objects:
            keys = dict.fromkeys(key for value in objects for key in value)
            if not keys or _holds_data(keys):
                members.append("dict[str, Any]")
            elif depth >= DEEPEST or self._made >= MOST_MODELS:
                members, description = ["dict[str, Any]"], DEEP
            else:
                model = self.model(objects, key, path, depth + 1)
                members.append(model.name)
        if arrays:
            parts = [part for array in arrays for part in array]
            if lists >= DEEPEST_LIST:
                inside, description = "Any", DEEP
            elif not parts:
                inside = "Any"
            else:
                inside, description, _ = self._type(parts, _singular(key), f"{path}[]", depth, lists + 1)
                inside += " | None" if None in parts and inside != "Any" else ""
            members.append(f"list[{inside}]")
        return " | ".join([*members, *plain]), description, model if several == 1 else None

    def _class_name(self, hint: str) -> str:
        base = "".join(word[:1].upper() + word[1:] for word in snake_case(hint).split("_"))[:LONGEST_NAME]
        if not base or not base[0].isalpha():
            base = f"Part{base}"
        name, number = base, 1
        while name in self._taken:
            number += 1
            name = f"{base}{number}"
        self._taken.add(name)
        return name


def _plain_types(values: Iterable[Any]) -> list[str]:
    kinds = {type(value).__name__ for value in values if isinstance(value, str | int | float)}
    if "float" in kinds:
        kinds.discard("int")  # a number that happens to be whole
    return [kind for kind in ("str", "int", "float", "bool") if kind in kinds]


def _holds_data(keys: Iterable[str]) -> bool:
    """Whether the keys are values rather than names: addresses, texts, hundreds of them."""
    keys = list(keys)
    return len(keys) > MOST_FIELDS or any(
        is_data(key) or SCRUBBED in key or width(literal(key)) > LONGEST_KEY for key in keys
    )


def _field_name(key: str, taken: set[str]) -> str:
    """An attribute for a key: nothing that Python, Pydantic or the annotations need for themselves."""
    name = snake_case(key)[:LONGEST_NAME].rstrip("_")
    if not name or name[0].isdigit() or name.startswith(("model_validate", "model_dump")):
        name = f"field_{name}".rstrip("_")
    if name in _TYPES or hasattr(BaseModel, name) or keyword.iskeyword(name):
        name += "_"
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name.rstrip('_')}_{number}"
    return unique


def _singular(name: str) -> str:
    if name.lower().endswith("ies") and len(name) > 4:
        return f"{name[:-3]}y"
    if name.lower().endswith(("sses", "xes", "tches", "shes")):
        return name[:-2]
    ends_so = name.lower().endswith("s") and not name.lower().endswith(("ss", "us", "is"))
    return name[:-1] if ends_so and len(name) > 3 else name


# What identifies an item.


def _identity(model: _Model, items: Sequence[dict[str, Any]], noun: str) -> Identity | None:
    found = [
        (rank, order, path)
        for order, path in enumerate(_paths(model))
        if (rank := _rank(path, noun)) is not None and _identifies(path, items)
    ]
    if not found:
        return None
    path = min(found)[2]
    fields = _along(model, path)
    is_text = fields[-1].type == "str"
    if is_text:
        fields[-1].type = "ProviderId"
    attributes = ".".join(one.name for one in fields)
    return Identity(".".join(path), attributes, is_text, str(_at(items[0], path)))


def _along(model: _Model, path: tuple[str, ...]) -> list[_Field]:
    """The fields that a path leads through."""
    first = next(one for one in model.fields if one.key == path[0])
    return [first, *(_along(first.model, path[1:]) if first.model and len(path) > 1 else ())]


def _paths(model: _Model, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The fields that are always there, down to two levels."""
    inside = []
    for one in model.fields:
        if not one.required:
            continue
        if one.type in ("str", "int"):
            yield (*above, one.key)
        elif one.model is not None and len(above) < 2:
            inside.append(one)
    for one in inside:
        assert one.model is not None
        yield from _paths(one.model, (*above, one.key))


def _rank(path: tuple[str, ...], noun: str) -> int | None:
    """How sure it is that this identifies; less is surer, None is not at all."""
    name, depth = snake_case(path[-1]), len(path) - 1
    if depth == 0 and name in _WHOLE:
        return _WHOLE.index(name)
    about = {noun, "data", "object", "event", "payload", "message", "record", "resource"}
    if name in ("id", "uuid", "guid") and snake_case(path[-2] if depth else "") in about:
        return 20 + depth
    if depth == 0 and name in (f"{noun}_id", f"{noun}_uuid", f"{noun}_number"):
        return 30
    if _OWNERS.search("_".join(snake_case(key) for key in path)):
        return None
    if depth == 0 and name.endswith(("_id", "_uuid", "_guid")):
        return 40
    return 50 + depth if name == "id" else None


def _identifies(path: tuple[str, ...], items: Sequence[dict[str, Any]]) -> bool:
    values = [_at(item, path) for item in items]
    good = all(
        (isinstance(value, str) and 0 < len(value) <= _MAX_ID and "\0" not in value and value != SCRUBBED)
        or (isinstance(value, int) and not isinstance(value, bool))
        for value in values
    )
    # The same in all of them is an account, not an occurrence.
    return good and (len(values) < 2 or len(set(map(str, values))) > 1)


def _at(item: Any, path: Iterable[str]) -> Any:
    for key in path:
        item = item[key]
    return item


# Source.


def _class_source(model: _Model) -> str:
    where = ".".join(snake_case(part) or "…" for part in model.path.replace("[]", "").split("."))
    about = f"`{where[:80]}` of the sample." if model.path else "One item, as the sample has it."
    lines = [f"class {model.name}(BaseModel):", f'    """{about}"""', ""]
    if not model.fields:
        lines.append('    model_config = ConfigDict(extra="allow")')
    lines += map(_field_source, model.fields)
    return "\n".join(lines)


def _field_source(one: _Field) -> str:
    kind = one.type if one.required or one.type == "Any" else f"{one.type} | None"
    head = f"{one.name}: {kind} = Field"
    if width(f"    {head}(") > WIDTH:
        head = f"{one.name}: Any = Field"
    arguments = [] if one.required else ["default=None"]
    if one.name != one.key:
        arguments.append(f"alias={literal(one.key)}")
    return call(head, [*arguments, f'description="{one.description}"'])
