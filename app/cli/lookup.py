"""Things by the words that people use: connections by name, integrations by key."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

from .client import Api, Json, path_of
from .exits import CommandFailed, ExitCode, WrongUsage

EVERY = 1_000_000
_ID = "con_"


def connection_id(api: Api, given: str) -> str:
    """The id of a connection, given that or its name. Raises CommandFailed unless it is one connection."""
    if not given or given.startswith(_ID):
        return given
    connections, _ = api.pages("/connections", EVERY)
    found = [item["id"] for item in connections if item["name"] == given]
    if len(found) > 1:
        raise WrongUsage(
            f"{len(found)} connections are named '{given}'.", f"Give the id: {', '.join(found)}."
        )
    if not found:
        raise CommandFailed(
            f"There is no connection with the id or name '{given[:100]}'.",
            did_you_mean(given, [item["name"] for item in connections]) or "See: trunkline connections list",
            exit_code=ExitCode.NOT_FOUND,
        )
    id_: str = found[0]
    return id_


def integration(api: Api, key: str) -> Json:
    """An integration. Raises CommandFailed, with the keys that there are."""
    try:
        return api.get(f"/integrations{path_of(key)}")
    except CommandFailed as error:
        if error.exit_code != ExitCode.NOT_FOUND:
            raise
    catalogue = api.get("/integrations")
    keys = [item["key"] for item in catalogue["items"]]
    remedy = f"There are: {', '.join(keys) or 'none'}."
    if catalogue["broken"]:
        remedy += " Broken ones are listed by: trunkline integrations list"
    raise CommandFailed(
        f"There is no integration '{key[:100]}'.",
        " ".join(filter(None, (did_you_mean(key, keys), remedy))),
        exit_code=ExitCode.NOT_FOUND,
    )


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """The question, or nothing if nothing is alike."""
    close = get_close_matches(given.lower(), list(known), n=1)
    return f"Did you mean {close[0]}?" if close else ""


_IN_WORDS = (
    (re.compile(r"; /docs describes them"), ""),
    (re.compile(r"named in problems"), "named below"),
    (re.compile(r"^Value error, "), ""),
    (re.compile(r"^Extra inputs are not permitted"), "there is no such field"),
    (re.compile(r"\bPUT /api/v1/connections/(\w+)/secrets\b"), r"`trunkline secrets set \1 NAME=…`"),
    (re.compile(r"\bGET /api/v1/([a-z]+)(?![\w/])"), r"`trunkline \1 list`"),
)


def in_words(text: str) -> str:
    """What the API says, for the command line."""
    for pattern, words in _IN_WORDS:
        text = pattern.sub(words, text)
    return text
