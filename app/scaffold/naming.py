"""A connector's name, and how it reads in code, in headers and for people."""

import keyword
import re
import sys
from dataclasses import dataclass

from .errors import CannotScaffold

LONGEST = 40
_KEY = re.compile(r"[a-z][a-z0-9_]*")
_EVENT = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+")
_RESERVED = frozenset(
    ["app", "client", "conftest", "connector", "connectors", "docs", "fixtures", "schemas", "test", "tests"]
)
_TEMPLATE = re.compile(r"X-Acme-|acme\.example|Acme(?=[A-Z])|\bAcme\b|acme")


@dataclass(frozen=True)
class Naming:
    """The key, and what is made of it. Templates are written for `acme`."""

    key: str

    @property
    def _words(self) -> list[str]:
        return [word.capitalize() for word in self.key.split("_") if word]

    @property
    def class_prefix(self) -> str:
        return "".join(self._words)

    @property
    def title(self) -> str:
        return " ".join(self._words)

    @property
    def header(self) -> str:
        return f"X-{'-'.join(self._words)}-Signature"

    @property
    def host(self) -> str:
        return f"{self.key.strip('_').replace('_', '-')}.example"

    def render(self, text: str) -> str:
        """A template's text, about this connector."""
        spellings = {"X-Acme-": self.header.removesuffix("Signature"), "acme.example": self.host}

        def spelled(found: re.Match[str]) -> str:
            if found[0] == "Acme":
                follows = text[found.end() : found.end() + 1]
                return self.class_prefix if follows.isupper() else self.title
            return spellings.get(found[0], self.key)

        return _TEMPLATE.sub(spelled, text)


def named(name: str, *, in_repository: bool) -> Naming:
    """Raises CannotScaffold if a connector cannot be called that."""
    if not _KEY.fullmatch(name):
        raise CannotScaffold(
            f"A connector cannot be called '{name[:LONGEST]}': its name is part of imports, URLs and events.",
            f"Use lower-case letters, digits and underscores, such as {_alike(name)}.",
        )
    if len(name) > LONGEST:
        raise CannotScaffold(
            f"The name is {len(name)} characters long.", f"Take one of at most {LONGEST}; it is typed often."
        )
    if keyword.iskeyword(name):
        raise CannotScaffold(
            f"'{name}' is a word of Python's.", f"Take another name, such as {name}_service."
        )
    if name in _RESERVED or name.endswith("_") or "__" in name:
        raise CannotScaffold(
            f"The name '{name}' is reserved.", f"Take another, such as {name.strip('_')}_service."
        )
    # pytest imports a connector's folder by its bare name, and would get Python's own module.
    if not in_repository and name in sys.stdlib_module_names:
        raise CannotScaffold(
            f"'{name}' is a module of Python's own, and the connector's tests would import that instead.",
            f"Take another name, such as {name}_service.",
        )
    return Naming(name)


def event_name(given: str, key: str) -> str:
    """What follows the key in an event's name. Raises CannotScaffold."""
    event = given.removeprefix(f"{key}.")
    if not _EVENT.fullmatch(event) or len(event) > LONGEST:
        raise CannotScaffold(
            f"An event cannot be called '{given[:60]}'.",
            "Name what happened to what, such as order.paid: lower-case letters, digits and underscores.",
        )
    return event


def _alike(name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    key = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")[:LONGEST].rstrip("_")
    if key and not key[0].isalpha():
        key = f"service_{key}"[:LONGEST]
    return key if key and not keyword.iskeyword(key) else "my_service"
