"""C05, C11 and C13: what is written about a connector, and the level that it claims."""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from app.integrations.base import BaseIntegration
from app.integrations.specs import ActionSpec

from .exemptions import read_exemptions
from .model import Finding
from .subject import ConnectorUnderTest

LEVELS = ("experimental", "stable")


def declarations_are_documented(subject: ConnectorUnderTest) -> Iterator[Finding]:
    """C05."""
    connector = subject.connector
    for secret in connector.secrets:
        yield from _described(f"secret {secret.name}", secret.description, secret.name)
    if connector.settings_model is not None:
        yield from _fields("settings", connector.settings_model, "validation", "settings")
    for action in connector.actions:
        yield from _described(f"action {action.name}", action.description, action.name)
        yield from _action(action)
    for event in connector.events:
        yield from _described(f"event {event.name}", event.description, event.name)
        if not re.fullmatch(rf"{re.escape(connector.key)}(\.[a-z0-9_]+){{2,}}", event.name):
            yield Finding(
                f"event {event.name} is not named <key>.<noun>.<past tense>.",
                f"Name it like {connector.key}.order.paid.",
                about=event.name,
            )
        if event.model is not None:
            yield from _fields(f"event {event.name}", event.model, "serialization", event.name)


def page_is_whole(subject: ConnectorUnderTest) -> Iterator[Finding]:
    """C11."""
    page = subject.page
    if page is None or not page.exists():
        yield Finding("it has no page.", f"Write {subject.shown(page, *([] if page else ['README.md']))}.")
        return
    text = page.read_text("utf-8", "replace")
    headings = [heading.lower() for heading in re.findall(r"^#{1,4}\s+(.+)$", text, re.MULTILINE)]
    for section, pattern in _sections(subject).items():
        if not any(re.search(pattern, heading) for heading in headings):
            yield Finding(f"{subject.shown(page)} has no section '{section}'.", "Write it.", about=section)
    for kind, name in _names(subject.connector):
        if not re.search(rf"(?<![\w.]){re.escape(name)}(?![\w])", text):
            yield Finding(
                f"{subject.shown(page)} does not name the {kind} {name}.",
                "Say what it is for and when it matters.",
                about=name,
            )


def level_is_earned(subject: ConnectorUnderTest) -> Iterator[Finding]:
    """C13."""
    connector = subject.connector
    if connector.level not in LEVELS:
        yield Finding(
            f"its level is {connector.level!r}.", 'Write level = "experimental" or level = "stable".'
        )
    if connector.level != "stable":
        return
    for lack in _lacks(subject):
        yield Finding(f"it says that it is stable, but {lack}.", 'Add it, or write level = "experimental".')


def _lacks(subject: ConnectorUnderTest) -> Iterator[str]:
    """What a stable connector has, and this one has not."""
    connector = subject.connector
    if "version" not in vars(connector):
        yield "it does not say which version it is"
    for event in connector.events:
        if event.model is None:
            yield f"event {event.name} has no model"
    for action in connector.actions:
        if action.result is None:
            yield f"action {action.name} has no result model"
    if connector.actions and connector.check is BaseIntegration.check:
        yield "nothing tells whether its credentials are good: it has no check()"
    if subject.tests is not None:
        if connector.events and not (subject.tests / "fixtures" / "README.md").exists():
            yield "nothing says where its fixtures came from (fixtures/README.md)"
        if not list(subject.tests.glob("test_*.py")):
            yield "it has no tests of its own"
    if read_exemptions(subject).reasons:
        yield "it has exemptions"


def _described(what: str, description: str, about: str) -> Iterator[Finding]:
    if not (isinstance(description, str) and description.strip()):
        yield Finding(f"{what} has no description.", "Say what it is.", about=about)


def _action(action: ActionSpec) -> Iterator[Finding]:
    yield from _fields(f"action {action.name}", action.model, "validation", action.name)
    if action.result is None:
        yield Finding(
            f"action {action.name} has no result model.",
            "Set result=..., or make an exemption that says why there is nothing to say.",
            about=action.name,
        )
    else:
        yield from _fields(f"the result of action {action.name}", action.result, "serialization", action.name)
    if action.reads and (action.effect == "once" or action.destructive):
        yield Finding(
            f"action {action.name} reads, and yet may not be repeated or destroys something.",
            "Declare effect='idempotent' and no destructive, or take reads=True away.",
            about=action.name,
        )


def _fields(what: str, model: type[BaseModel], mode: Any, about: str) -> Iterator[Finding]:
    """A finding for the fields without a description, in the model and those inside it."""
    try:
        schema = model.model_json_schema(mode=mode)
    except Exception as error:  # noqa: BLE001 - a model may hold what JSON Schema has no word for
        yield Finding(
            f"{what}: {model.__name__} has no JSON Schema ({type(error).__name__}).",
            "Use types that JSON has, or give the field a schema.",
            about=about,
        )
        return
    bare = [
        f"{part.get('title', model.__name__)}.{name}"
        for part in (schema, *schema.get("$defs", {}).values())
        for name, field in part.get("properties", {}).items()
        if not field.get("description")
    ]
    if bare:
        listed = ", ".join(dict.fromkeys(bare))
        yield Finding(f"{what}: no description of {listed}.", "Write Field(description=...).", about=about)


def _sections(subject: ConnectorUnderTest) -> dict[str, str]:
    """The sections that the page has, each with the words that its heading may use."""
    sections = {"Setting up": r"set(ting)? ?up|install|connect"}
    if subject.has_webhooks:
        sections["How webhooks arrive"] = r"arriv|deliver|verif|webhook|signature|genuine"
    if subject.connector.events:
        sections["Events"] = r"\bevents?\b"
    if subject.connector.actions:
        sections["Actions"] = r"\bactions?\b"
    return sections | {"Limits": r"limit|not known|unknown|not verified|does not|open question"}


def _names(connector: type[BaseIntegration]) -> Iterator[tuple[str, str]]:
    """What a page has to name. Secrets that the platform makes are nobody's business."""
    yield from (("secret", spec.name) for spec in connector.secrets if not spec.generate)
    if connector.settings_model is not None:
        yield from (("setting", name) for name in connector.settings_model.model_fields)
    yield from (("event", spec.name) for spec in connector.events)
    yield from (("action", spec.name) for spec in connector.actions)
