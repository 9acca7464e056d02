"""Form bodies: urlencoded and multipart."""

import base64
import re
from typing import Any
from urllib.parse import parse_qsl

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import FormParser, parse_options_header

from app.integrations.errors import InvalidBody
from app.integrations.requests import Headers

from .json import decode_json

MAX_FIELDS = 10_000
MAX_NESTING = 20

_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")


class Form:
    """An urlencoded form as one item: names with their values, a repeated name with a list of them.

    nested      names like `leads[add][0][id]` become objects and arrays (Kommo)
    json_field  the item is the JSON object in this field (Slack, GitHub: `payload`); a form without the
                field is taken as it is
    """

    def __init__(self, *, nested: bool = False, json_field: str | None = None) -> None:
        self._nested = nested
        self._json_field = json_field

    def parse(self, headers: Headers, body: bytes) -> list[Any]:
        try:
            pairs = parse_qsl(
                body.decode("utf-8"),
                keep_blank_values=True,
                encoding="utf-8",
                errors="strict",
                max_num_fields=MAX_FIELDS,
            )
        except UnicodeDecodeError:
            raise InvalidBody("not_utf8", "The form is not UTF-8.") from None
        except ValueError:
            raise InvalidBody("too_many_fields", f"The form has more than {MAX_FIELDS} fields.") from None
        return _items(pairs, self._nested, self._json_field)

    def __repr__(self) -> str:
        return f"Form(nested={self._nested}, json_field={self._json_field!r})"


class Multipart:
    """A multipart form as one item: fields as text, files as {filename, content_type, content_base64}."""

    def parse(self, headers: Headers, body: bytes) -> list[Any]:
        kind, options = parse_options_header(headers.get("content-type", ""))
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidBody("unexpected_content_type", "The content type is not multipart/form-data.")
        pairs: list[tuple[str, Any]] = []

        def on_field(field: Any) -> None:
            pairs.append((_text(field.field_name), _text(field.value or b"")))

        def on_file(file: Any) -> None:
            file.file_object.seek(0)
            pairs.append(
                (
                    _text(file.field_name),
                    {
                        "filename": _text(file.file_name or b""),
                        "content_type": file.content_type,
                        "content_base64": base64.b64encode(file.file_object.read()).decode(),
                    },
                )
            )

        ended: list[bool] = []
        parser = FormParser(
            "multipart/form-data",
            on_field,
            on_file,
            on_end=lambda: ended.append(True),
            boundary=boundary,
            config={"MAX_MEMORY_FILE_SIZE": len(body) + 1},
        )
        try:
            parser.write(body)
            parser.finalize()
        except FormParserError:
            raise InvalidBody("not_multipart", "The body is not a multipart form.") from None
        finally:
            parser.close()
        if not ended:
            raise InvalidBody("not_multipart", "The multipart form ends before its last boundary.")
        return _items(pairs, nested=False, json_field=None)

    def __repr__(self) -> str:
        return "Multipart()"


def _items(pairs: list[tuple[str, Any]], nested: bool, json_field: str | None) -> list[Any]:
    if json_field is not None:
        found = [value for name, value in pairs if name == json_field]
        if len(found) > 1:
            raise InvalidBody("duplicate_key", f"The form has the field '{json_field}' more than once.")
        if found:
            value = decode_json(found[0].encode())
            if not isinstance(value, dict):
                raise InvalidBody("not_an_object", f"The field '{json_field}' is not a JSON object.")
            return [value]
    if nested:
        return [_nest(pairs)]
    flat: dict[str, Any] = {}
    for name, value in pairs:
        if name not in flat:
            flat[name] = value
        elif isinstance(flat[name], list):
            flat[name].append(value)
        else:
            flat[name] = [flat[name], value]
    return [flat]


def _nest(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for name, value in pairs:
        match = _NAME.fullmatch(name)
        if match is None:
            raise InvalidBody("brackets_unreadable", "A field's name has brackets that do not match.")
        path = [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])]
        if len(path) > MAX_NESTING:
            raise InvalidBody("too_deep", f"A field's name nests deeper than {MAX_NESTING} levels.")
        node = root
        for step in path[:-1]:
            node = node.setdefault(step or str(len(node)), {})  # `[]` appends
            if not isinstance(node, dict):
                raise InvalidBody("duplicate_key", "A field is both a value and a group of fields.")
        last = path[-1] or str(len(node))
        if last in node:
            raise InvalidBody("duplicate_key", "The form has the same field twice.")
        node[last] = value
    return {name: _lists(value) for name, value in root.items()}


def _lists(node: Any) -> Any:
    """Objects whose keys count from 0 are arrays."""
    if not isinstance(node, dict):
        return node
    children = {name: _lists(value) for name, value in node.items()}
    if list(children) == [str(index) for index in range(len(children))]:
        return list(children.values())
    return children


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidBody("not_utf8", "A field of the form is not UTF-8.") from None
