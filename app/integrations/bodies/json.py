"""JSON bodies.

JSON is decoded defensively, because what is accepted here is stored and shown for years: strict UTF-8,
no duplicate keys (two readers would see two values), no NaN or infinities, integers that every later
reader can hold, bounded depth, no lone surrogates.
"""

import json
import math
import re
from typing import Any, Protocol

from app.integrations.errors import InvalidBody
from app.integrations.requests import Headers

MAX_DEPTH = 100
"""Nesting of arrays and objects. Real webhooks stay below 20."""

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**64 - 1
"""What the canonical writer can hold without turning an integer into a float."""

_DIGITS = bytes(ord("0") if byte in b"0123456789" else ord(" ") for byte in range(256))
_LONG_INTEGER = b"0" * 19
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class Body(Protocol):
    """Turns a request's bytes into items. Pure; raises `InvalidBody`."""

    def parse(self, headers: Headers, body: bytes) -> list[Any]: ...


class JsonObject:
    """One JSON object, whatever the content type says: the default."""

    def parse(self, headers: Headers, body: bytes) -> list[Any]:
        value = decode_json(body)
        if not isinstance(value, dict):
            raise InvalidBody("not_an_object", f"The body is a JSON {_kind(value)}; an object is expected.")
        return [value]

    def __repr__(self) -> str:
        return "JsonObject()"


class JsonArray:
    """A JSON array; each element is an item. A single object counts as an array of one."""

    def parse(self, headers: Headers, body: bytes) -> list[Any]:
        value = decode_json(body)
        if isinstance(value, dict):
            return [value]
        if not isinstance(value, list):
            raise InvalidBody("not_an_array", f"The body is a JSON {_kind(value)}; an array is expected.")
        return value

    def __repr__(self) -> str:
        return "JsonArray()"


def decode_json(body: bytes) -> Any:
    """Decodes one JSON value strictly.

    Raises InvalidBody with code not_utf8, not_json, duplicate_key, number_out_of_range, too_deep or
    lone_surrogate. The checks that cost are made only where a cheap look says that they may fail.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidBody("not_utf8", f"The body is not UTF-8 (byte {error.start}).") from None
    try:
        value = (_careful_decoder if _LONG_INTEGER in body.translate(_DIGITS) else _decoder).decode(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidBody("not_json", f"The body is not JSON ({error.msg} at {where}).") from None
    except RecursionError:
        raise _too_deep() from None
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise _too_deep()
    if b"\\u" in body and _SURROGATE_ESCAPE.search(body):
        _refuse_lone_surrogates(value)
    return value


def _unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise InvalidBody("duplicate_key", "An object in the body has the same key twice.")
    return result


def _finite_float(literal: str) -> float:
    value = float(literal)
    if not math.isfinite(value):
        raise InvalidBody("number_out_of_range", "A number in the body is too large for a double.")
    return value


def _bounded_int(literal: str) -> int:
    # Twenty digits and a sign hold every integer in range; int() itself limits absurd lengths.
    if len(literal) > 21 or not MIN_INTEGER <= (value := int(literal)) <= MAX_INTEGER:
        raise InvalidBody("number_out_of_range", "An integer in the body does not fit 64 bits.")
    return value


def _refuse_constant(literal: str) -> Any:
    raise InvalidBody("not_json", f"The body contains {literal}, which JSON does not have.")


_decoder = json.JSONDecoder(
    object_pairs_hook=_unique_object, parse_float=_finite_float, parse_constant=_refuse_constant
)
_careful_decoder = json.JSONDecoder(
    object_pairs_hook=_unique_object,
    parse_float=_finite_float,
    parse_int=_bounded_int,
    parse_constant=_refuse_constant,
)


def _too_deep() -> InvalidBody:
    return InvalidBody("too_deep", f"The body nests arrays and objects deeper than {MAX_DEPTH} levels.")


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _refuse_lone_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidBody(
            "lone_surrogate", "A string in the body holds half of a surrogate pair, which is not a character."
        ) from None


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")
