"""Names that look like the contract's and are not: Python takes them, and nobody ever asks for them."""

import inspect
from collections.abc import Iterator
from difflib import get_close_matches

from app.integrations.base import BaseIntegration

from .model import Finding

_ALIKE = 0.8


def misspelt(connector: type[BaseIntegration]) -> Iterator[Finding]:
    """A finding for each name that nothing uses, and that is spelled like one of the contract's."""
    attributes = {name for name in BaseIntegration.__annotations__ if not name.startswith("_")}
    methods = {name for name in vars(BaseIntegration) if not name.startswith("_")} - attributes
    used = {name for spec in connector.actions for name in (spec.handler, spec.probe)}
    used |= {spec.handler for spec in connector.polls}
    for name, value in _own(connector).items():
        if name in used or name in attributes | methods:
            continue
        alike = methods if inspect.isroutine(value) else attributes
        if close := get_close_matches(name, alike, n=1, cutoff=_ALIKE):
            yield Finding(
                f"'{name}' of {connector.__name__} is no part of the contract. Did you mean '{close[0]}'?",
                "Correct its name, or take another that cannot be confused.",
                about=name,
                level="quality",
            )


def _own(connector: type[BaseIntegration]) -> dict[str, object]:
    """What the connector and its own bases define for everybody to see."""
    found: dict[str, object] = {}
    for base in connector.__mro__:
        if base not in BaseIntegration.__mro__:
            found |= {name: value for name, value in vars(base).items() if not name.startswith("_")}
    return found
