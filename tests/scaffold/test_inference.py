"""Models of a captured payload: whatever it holds, they are code that takes it, and nothing but models."""

import ast
import json
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from app.integrations.models import Event
from app.scaffold.naming import Naming
from app.scaffold.rendering import SHAPES, Rendered, render
from app.scaffold.sample import sample_of

HOSTILE = [
    *(
        "class",
        "__init__",
        "__class__",
        "model_config",
        "model_fields",
        "model_dump_x",
        "json",
        "copy",
        "schema",
    ),
    *(
        "list",
        "str",
        "dict",
        "int",
        "bool",
        "float",
        "Any",
        "Field",
        "BaseModel",
        "ProviderId",
        "None",
        "self",
    ),
    *(
        "Id",
        "id",
        "ID",
        "i d",
        "i-d",
        "i_d",
        "_id",
        "id_",
        "1st",
        "",
        " ",
        "\x00",
        "\n",
        "é",
        "данные",
        "数据",
        "😀",
    ),
    *(
        '"',
        "'",
        "\\",
        '"""',
        "'''",
        "{}",
        "{x}",
        "%s",
        "#",
        '")\nimport os\n("',
        '"""\nimport os\n"""',
        "a" * 200,
    ),
    *(
        "\u202e",
        "\u2028",
        "\u0085",
        "\x0c",
        "ann@corp.io",
        "sk_live_abcdefgh",
        "mro",
        "register",
        "<inbound>",
    ),
]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
) | (st.sampled_from(HOSTILE) | st.text(max_size=8))
KEYS = st.sampled_from(HOSTILE) | st.text(max_size=6)
OBJECTS = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
        max_leaves=20,
    ),
    max_size=6,
)


def rendered(value: Any, event: str | None = None) -> Rendered:
    body = json.dumps(value).encode()
    return render(Naming("acme"), SHAPES["generic"], sample_of(body), event, own_folder=True)


def module(source: str) -> ModuleType:
    made = ModuleType("made_schemas")
    exec(compile(source, "schemas.py", "exec"), vars(made))
    return made


def root_of(made: Rendered) -> type[BaseModel]:
    """The model of a whole item: the one that the event has."""
    tree = ast.parse(made.code["connector.py"])
    [name] = [
        node.args[2].attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "EventSpec"
    ]
    return getattr(module(made.code["schemas.py"]), name)


def items_of(made: Rendered) -> list[Any]:
    sent = json.loads(made.tests[made.fixture])
    return sent if isinstance(sent, list) else [sent]


def models_of(value: Any) -> str:
    return rendered(value).code["schemas.py"].split("# What comes in.\n")[1].split("# Actions.")[0].strip()


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(value=OBJECTS | st.lists(OBJECTS, min_size=1, max_size=4))
def test_whatever_the_sample_holds_the_models_take_it(value: Any) -> None:
    made = rendered(value)
    for source in (*made.code.values(), made.tests["test_acme.py"]):
        compile(source, "made", "exec")
    root = root_of(made)
    for item in items_of(made):
        payload = root.model_validate(item).model_dump(mode="json", by_alias=True, exclude_unset=True)
        root.model_validate(payload)
        Event(type="acme.event.received", payload=payload)
        assert payload.keys() == item.keys()
    assert only_models(made.code["schemas.py"])


def only_models(source: str) -> bool:
    """Whether a module imports from where it may, and else has classes of described fields."""
    for node in ast.parse(source).body:
        match node:
            case ast.ImportFrom(module=module):
                assert module in ("typing", "pydantic", "app.integrations.inbound", "app.integrations.urls")
            case ast.ClassDef(body=[ast.Expr(value=ast.Constant()), *fields]):
                for one in fields:
                    assert isinstance(one, ast.Assign | ast.AnnAssign)
                    assert isinstance(one.value, ast.Call)
                    assert one.value.func.id in ("Field", "ConfigDict")
                    assert all(isinstance(word.value, ast.Constant) for word in one.value.keywords)
            case ast.Expr(value=ast.Constant()):
                pass
            case _:
                raise AssertionError(ast.unparse(node))
    return True


def test_fields_are_named_like_attributes_and_read_by_their_own_names() -> None:
    said = 'description="As the sample has it: fill in what it means"'
    assert models_of({"createdAt": "x", "line-items": [], "class": 1, "1st": True, "HTTPStatus": 2}) == (
        "class EventPayload(BaseModel):\n"
        '    """One item, as the sample has it."""\n'
        "\n"
        f'    created_at: str = Field(alias="createdAt", {said})\n'
        f'    line_items: list[Any] = Field(\n        alias="line-items", {said}\n    )\n'
        f'    class_: int = Field(alias="class", {said})\n'
        f'    field_1st: bool = Field(alias="1st", {said})\n'
        f'    http_status: int = Field(alias="HTTPStatus", {said})'
    )


@pytest.mark.parametrize(
    ("samples", "kind"),
    [
        ([{"a": 1}, {"a": 2}], "a: int"),
        ([{"a": 1}, {"a": 2.5}], "a: float"),
        ([{"a": 1}, {"a": "x"}], "a: str | int"),
        ([{"a": 1}, {"a": True}], "a: int | bool"),
        ([{"a": 1}, {}], "a: int | None"),
        ([{"a": 1}, {"a": None}], "a: int | None"),
        ([{"a": None}], "a: Any"),
        ([{"a": []}], "a: list[Any]"),
        ([{"a": [1, None]}], "a: list[int | None]"),
        ([{"a": [[1], ["x"]]}], "a: list[list[str | int]]"),
        ([{"a": {}}], "a: dict[str, Any]"),
        ([{"a": {"b": 1}}, {"a": {}}], "a: A"),
        ([{"a": {"b": 1}}, {"a": "x"}], "a: A | str"),
        ([{"a": {"b": 1}}, {"a": [1]}], "a: Any"),
        ([{"a": "2030-01-02T03:04:05Z"}], "a: str"),
        ([{"stories": [{"x": 1}, {"y": 2}]}], "stories: list[Story]"),
        ([{"addresses": [{"x": 1}]}], "addresses: list[Address]"),
        ([{"purchases": [{"x": 1}]}], "purchases: list[Purchase]"),
        ([{"a": {"ann@corp.io": 1}}], "a: dict[str, Any]"),
        ([{"a": {str(number): 1 for number in range(101)}}], "a: dict[str, Any]"),
    ],
)
def test_a_type_is_what_all_samples_have(samples: list[Any], kind: str) -> None:
    assert f"    {kind} = Field(" in models_of(samples)


def test_a_field_that_some_objects_of_an_array_lack_is_optional() -> None:
    models = models_of({"rows": [{"x": 1, "y": 1}, {"x": 2}]})
    assert '    x: int = Field(description="' in models
    assert (
        "    y: int | None = Field(\n        default=None" in models
        or "    y: int | None = Field(default" in models
    )


def test_what_is_nested_too_deep_stays_a_dict() -> None:
    value: Any = {"leaf": 1}
    for _ in range(40):
        value = {"down": value}
    made = rendered(value)
    assert made.code["schemas.py"].count("class Down") == 5
    root_of(made).model_validate(items_of(made)[0])


@pytest.mark.parametrize(
    ("sample", "path"),
    [
        ({"id": "e1", "account_id": "a"}, "id"),
        ({"id": "o1", "event_id": "e1"}, "event_id"),
        ({"account_id": "a", "data": {"id": "x"}}, "data.id"),
        ({"data": {"object": {"id": 5}}}, "data.object.id"),
        ({"account_id": "a", "ticket_id": "t"}, "ticket_id"),
        ({"user": {"id": 1}, "text": "x"}, None),
        ({"id": None}, None),
        ({"id": ""}, None),
        ({"id": "x" * 300}, None),
        ({"id": True}, None),
        ({"text": "x"}, None),
        ([{"id": "same", "uuid": "a"}, {"id": "same", "uuid": "b"}], "uuid"),
        ([{"id": "a"}, {}], None),
    ],
)
def test_external_id_is_what_tells_one_item_from_another(sample: Any, path: str | None) -> None:
    identity = rendered(sample).identity
    assert (identity.path if identity else None) == path


def test_the_event_is_named_after_what_the_sample_calls_itself() -> None:
    assert rendered({"type": "order/Paid", "id": "1"}).event == "acme.order.paid"
    assert rendered({"id": "1"}).event == "acme.event.received"
    assert rendered({"type": "order.paid"}, "invoice.sent").event == "acme.invoice.sent"
    several = rendered([{"event": "deal.won"}, {"event": "deal.lost"}])
    assert (several.event, several.others) == ("acme.event.received", ["deal.won", "deal.lost"])
