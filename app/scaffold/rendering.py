"""The files of a new connector: templates, with a name and perhaps with what a sample says."""

import ast
import builtins
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .inference import Identity, Inferred, infer
from .naming import Naming
from .sample import Sample, snake_case
from .source import literal, with_imports

TEMPLATES = Path(__file__).parent / "templates"
SIGNING_SECRET = "not-so-secret"  # noqa: S105 - what the first commands use, on one's own machine

_CODE = ("__init__.py", "connector.py", "schemas.py", "client.py", "twin.py")
_REGION = re.compile(
    r"^[ ]*(?:# |<!-- )<inbound ?(?P<name>\w*)>(?: -->)?\n(?P<content>.*?)"
    r"^[ ]*(?:# |<!-- )</inbound>(?: -->)?\n",
    re.MULTILINE | re.DOTALL,
)
_KIND = ("type", "event", "event_type", "eventtype", "event_name", "topic", "action", "kind")
_KIND_VALUE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(?:[./:][A-Za-z][A-Za-z0-9_-]*)+")
_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class Shape:
    """A kind of service. `event` is what a sample is taken for if nothing else is known."""

    name: str
    description: str
    event: str
    first: str
    """The event whose fixture the first webhook is made of."""


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("generic", "one event, one action", "event.received", "item.created"),
        Shape("messenger", "messages come in, and are answered", "message.received", "message.received"),
        Shape("crm", "contacts change, and are written", "record.changed", "contact.created"),
        Shape("email", "mails go out, and what became of them comes back", "mail.changed", "mail.delivered"),
    )
}


@dataclass(frozen=True)
class Rendered:
    """A connector as texts.

    code      files of the package, by name
    tests     files of its tests, by path below their folder
    page      the page for people
    event     what the first fixture becomes
    fixture   its path below the tests
    identity  the field of the sample that became `external_id`
    """

    code: dict[str, str]
    tests: dict[str, str]
    page: str
    event: str
    fixture: str
    identity: Identity | None = None
    others: list[str] = field(default_factory=list)
    """Values that the sample has beside the one that the event is named after."""

    @property
    def signature(self) -> str:
        """What the provider would send with the first fixture."""
        body = self.tests[self.fixture].encode()
        return f"sha256={hmac.new(SIGNING_SECRET.encode(), body, hashlib.sha256).hexdigest()}"


def render(
    naming: Naming, shape: Shape, sample: Sample | None = None, event: str | None = None, *, own_folder: bool
) -> Rendered:
    """`own_folder` is for a connector that keeps its tests and page beside its code."""
    regions: Mapping[str, str] | None = None
    inferred, kinds = None, list[str]()
    if sample is not None:
        kinds = _kinds(sample)
        event = event or (kinds[0] if len(kinds) == 1 else shape.event)
        inferred = _inferred(shape, sample, event)
        regions = _regions(naming, sample, inferred, event)
    folder = TEMPLATES / shape.name

    def text_of(name: str) -> str:
        return naming.render((folder / name).read_text("utf-8"))

    more = _imports_of(inferred) if inferred else {}
    code = {name: _python(text_of(name), regions, more.get(name)) for name in _CODE}
    test, of_test = text_of("test_acme.py.txt"), more.get("test", {})
    tests = {}
    if not own_folder:
        test = test.replace(_BESIDE, f'Path(connectors.__path__[0], "{naming.key}")')
        of_test = {**of_test, "app.integrations": ["connectors"]}
    else:
        test += (
            "\n\n" + naming.render((TEMPLATES / "checks.py.txt").read_text("utf-8")).partition("\n\n\n")[2]
        )
        of_test = {**of_test, **_CHECKS}
    tests[f"test_{naming.key}.py"] = _python(test, regions, of_test)
    if sample is None:
        for path in sorted((folder / "fixtures").iterdir()):
            tests[f"fixtures/{naming.render(path.name)}"] = path.read_text("utf-8")
        first = shape.first
    else:
        assert event is not None
        tests[f"fixtures/{naming.key}.{event}.json"] = sample.fixture_text()
        first = event
    tests["fixtures/README.md"] = _fixtures_page(naming, sample)
    return Rendered(
        code,
        tests,
        _with_regions(text_of("page.md"), regions),
        f"{naming.key}.{first}",
        f"fixtures/{naming.key}.{first}.json",
        inferred.identity if inferred else None,
        kinds if len(kinds) > 1 else [],
    )


_BESIDE = "Path(__file__).resolve().parents[1]"
"""The folder of a connector that its tests are in."""
_CHECKS = {
    "pytest": [],
    "app.checks.catalogue": ["CHECKS"],
    "app.checks.model": ["Check"],
    "app.checks.run": ["run"],
    "app.checks.subject": ["in_folder"],
}


def _python(text: str, regions: Mapping[str, str] | None, more: Mapping[str, list[str]] | None) -> str:
    source = _with_regions(text, regions)
    source = with_imports(source, more)
    # A region that was left empty leaves blank lines.
    return re.sub(r"\n{4,}", "\n\n\n", source)


def _with_regions(text: str, regions: Mapping[str, str] | None) -> str:
    def replaced(found: re.Match[str]) -> str:
        return found["content"] if regions is None else regions.get(found["name"], "")

    return _REGION.sub(replaced, text)


def _inferred(shape: Shape, sample: Sample, event: str) -> Inferred:
    module = ast.parse(_with_regions((TEMPLATES / shape.name / "schemas.py").read_text("utf-8"), {}))
    taken = {node.id for node in ast.walk(module) if isinstance(node, ast.Name)}
    taken |= {node.name for node in ast.walk(module) if isinstance(node, ast.ClassDef)}
    taken |= {*dir(builtins), "Any", "BaseModel", "ConfigDict", "Field", "ProviderId"}
    noun = event.partition(".")[0]
    return infer(sample.items, f"{noun}_payload", noun, taken)


def _imports_of(inferred: Inferred) -> dict[str, dict[str, list[str]]]:
    return {"schemas.py": inferred.imports, "connector.py": {"app.integrations.bodies": ["JsonArray"]}}


def _regions(naming: Naming, sample: Sample, inferred: Inferred, event: str) -> dict[str, str]:
    """What stands in the templates' regions where a sample says what comes in."""
    name, identity = f"{naming.key}.{event}", inferred.identity
    noun, _, verb = event.rpartition(".")
    happened = f"{noun.replace('.', ' ').replace('_', ' ')} {verb.replace('_', ' ')}".capitalize()
    body = "    body = JsonArray()  # each element is an item\n" if sample.is_array else ""
    external_id = (
        "            # Nothing in the sample tells one from another: repetitions are not recognised.\n"
    )
    if identity is not None:
        value = f"item.{identity.expression}"
        external_id = f"            external_id={value if identity.is_text else f'str({value})'},\n"
    return {
        "events": (
            f"{body}    events = [\n        EventSpec(\n"
            f"            {literal(name)},\n"
            f"            {literal(f'{happened}: say when')},\n"
            f"            schemas.{inferred.root},\n        ),\n    ]\n"
        ),
        "handler": (
            "    async def handle_webhook(self, payload: dict[str, Any]) -> Event:\n"
            '        """Makes the event of one item. Raises InvalidBody (invalid_item)."""\n'
            f'        item = validated(schemas.{inferred.root}, payload, "item")\n'
            "        # Every item becomes this event. If there are several kinds, tell them apart here.\n"
            "        return Event(\n"
            f"            type={literal(name)},\n{external_id}"
            '            payload=item.model_dump(mode="json", by_alias=True, exclude_unset=True),\n'
            "        )\n\n"
        ),
        "models": f"{inferred.source}\n\n\n",
        "test": _test(name, identity),
        "": _page_events(name, identity),
    }


def _test(event: str, identity: Identity | None) -> str:
    lines = [
        "def test_the_sample_becomes_an_event() -> None:",
        f'    event = event_of("{event}.json")',
        f'    assert event.type == "{event}"',
    ]
    if identity is None:
        lines.append("    assert event.external_id is None")
    elif len(identity.example) <= _LONGEST_SHOWN and identity.example.isprintable():
        lines.append(f"    assert event.external_id == {literal(identity.example)}")
    else:
        lines.append("    assert event.external_id")
    return "\n".join(lines) + "\n\n\n"


def _page_events(event: str, identity: Identity | None) -> str:
    known = "Nothing in them was found that identifies one: a repetition makes another event."
    if identity is not None:
        known = f"`{snake_case(identity.path)}` identifies one: a repetition is recognised."
    return f"| event | when |\n|---|---|\n| `{event}` | say when, and what its fields mean |\n\n{known}\n"


def _fixtures_page(naming: Naming, sample: Sample | None) -> str:
    title = f"# {naming.title} fixtures\n\n"
    if sample is None:
        return (
            f"{title}Every file is the body of a webhook. **All of them are invented**, like the service\n"
            "that they come from. Replace them by what was captured, scrubbed, and say where from.\n"
        )
    text = f"{title}The one file is a captured webhook, written anew with indents.\n"
    if sample.left_out:
        text += f"It has the first {len(sample.fixture)} items of {len(sample.items)}.\n"
    if sample.scrubbed:
        text += "Credentials and addresses were replaced at:\n\n"
        text += "".join(f"- `{path.replace('`', '')}`\n" for path in sample.scrubbed[:100])
    text += (
        "\nNames, phone numbers and ids were left as they came: look through it before you show it to\n"
        "anybody. Say here where and when it was captured.\n"
    )
    return text


def _kinds(sample: Sample) -> list[str]:
    """The kinds of event that the items name themselves, as an event's name has them."""
    for key in {key: None for item in sample.items for key in item if snake_case(key) in _KIND}:
        values: list[Any] = [item.get(key) for item in sample.items]
        if all(isinstance(value, str) and _KIND_VALUE.fullmatch(value) for value in values):
            named = dict.fromkeys(
                ".".join(snake_case(part) for part in re.split(r"[./:]", value)) for value in values
            )
            return [event for event in named if len(event) <= 40]
    return []
