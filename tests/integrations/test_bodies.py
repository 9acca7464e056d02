"""From a request's bytes to items, strictly."""

import json
import math
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.integrations.bodies import MAX_DEPTH, JsonArray, JsonObject, decode_json
from app.integrations.errors import InvalidBody
from app.integrations.requests import Headers, WebhookRequest

NONE = Headers()


def code_of(body: bytes) -> str:
    with pytest.raises(InvalidBody) as raised:
        decode_json(body)
    return raised.value.code


def test_one_object_is_one_item_whatever_the_content_type() -> None:
    for content_type in ("application/json", "text/plain", "application/x-www-form-urlencoded", ""):
        headers = Headers([("Content-Type", content_type)])
        assert JsonObject().parse(headers, b' {"a": [1, "x"]}\n') == [{"a": [1, "x"]}]


@pytest.mark.parametrize("body", [b"[]", b"[{}]", b'"x"', b"1", b"1.5", b"true", b"null"])
def test_only_an_object_is_an_object(body: bytes) -> None:
    with pytest.raises(InvalidBody) as raised:
        JsonObject().parse(NONE, body)
    assert raised.value.code == "not_an_object"


def test_the_elements_of_an_array_are_items() -> None:
    assert JsonArray().parse(NONE, b'[{"a": 1}, {"a": 2}]') == [{"a": 1}, {"a": 2}]
    assert JsonArray().parse(NONE, b"[]") == []
    assert JsonArray().parse(NONE, b'{"a": 1}') == [{"a": 1}]
    with pytest.raises(InvalidBody) as raised:
        JsonArray().parse(NONE, b'"x"')
    assert raised.value.code == "not_an_array"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (b" ", "not_json"),
        (b"{", "not_json"),
        (b"{}{}", "not_json"),
        (b"{'a': 1}", "not_json"),
        (b'{"a": 1,}', "not_json"),
        (b'{"a": 01}', "not_json"),
        (b'{"a": "\n"}', "not_json"),
        (b'{"a": NaN}', "not_json"),
        (b'{"a": [-Infinity]}', "not_json"),
        (b"\xef\xbb\xbf{}", "not_json"),
        (b'{"a": "\xff"}', "not_utf8"),
        (b'{"a": "\xed\xa0\x80"}', "not_utf8"),
        (b'{"a": "\xc0\x80"}', "not_utf8"),
        ('{"a": 1}'.encode("utf-16-le"), "not_json"),
        (b'{"a": 1, "a": 1}', "duplicate_key"),
        (b'{"a": 1, "\\u0061": 1}', "duplicate_key"),
        (b'[{"x": {"a": 1, "b": 2, "a": 3}}]', "duplicate_key"),
        (b'{"a": 1e999}', "number_out_of_range"),
        (b'{"a": -1e999}', "number_out_of_range"),
        (b'{"a": 1' + b"0" * 400 + b".0}", "number_out_of_range"),
        (b'{"a": 18446744073709551616}', "number_out_of_range"),
        (b'{"a": -9223372036854775809}', "number_out_of_range"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "number_out_of_range"),
        (b'{"a": "\\ud800"}', "lone_surrogate"),
        (b'{"\\uDFFF": 1}', "lone_surrogate"),
        (b'{"a": "\\udc00\\ud800"}', "lone_surrogate"),
        (b"[" * 1_000_000, "too_deep"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "too_deep"),
    ],
)
def test_what_two_readers_could_read_differently_is_refused(body: bytes, code: str) -> None:
    assert code_of(body) == code


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": 18446744073709551615}', {"a": 2**64 - 1}),
        (b'{"a": -9223372036854775808}', {"a": -(2**63)}),
        (b'{"a": 1000000000000000000000.5}', {"a": 1e21}),
        (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        (b'{"a": "\\\\ud800"}', {"a": "\\ud800"}),
        (b'{"a": "\\u0000"}', {"a": "\0"}),
        (b'{"a": -0}', {"a": 0}),
        (b'{"": {}}', {"": {}}),
        ('{"é": "ÿ"}'.encode(), {"é": "ÿ"}),
    ],
)
def test_what_is_unusual_but_clear_is_taken(body: bytes, value: Any) -> None:
    assert decode_json(body) == value


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("inner", [b"1", b""])
def test_depth_is_bounded_exactly(opening: bytes, inner: bytes) -> None:
    closing = b"]" if opening == b"[" else b"}"

    def nested(depth: int) -> bytes:
        if not inner:  # the innermost holds nothing
            return opening * (depth - 1) + opening[:1] + closing * depth
        return opening * depth + inner + closing * depth

    decode_json(nested(MAX_DEPTH))
    assert code_of(nested(MAX_DEPTH + 1)) == "too_deep"
    wide = b"[" + b",".join([b"[]"] * 500) + b"]"
    assert len(decode_json(wide)) == 500


def test_errors_say_where_and_never_what() -> None:
    for body in (
        b'{"planted": planted}',
        b'{"planted": 1, "planted": 2}',
        b'{"x": "planted\xff"}',
        b'"planted"',
    ):
        with pytest.raises(InvalidBody) as raised:
            JsonObject().parse(NONE, body)
        assert "planted" not in str(raised.value)


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(ANY_JSON, st.booleans())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_everything_that_is_taken_can_be_stored_and_read_again(value: Any, ascii_only: bool) -> None:
    decoded = decode_json(json.dumps(value, ensure_ascii=ascii_only).encode())
    assert decoded == value
    assert json.loads(orjson.dumps(decoded)) == value


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\u0d8e+-.1Nna ', max_size=40).map(str.encode))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_any_bytes_are_items_or_the_contracts_error(body: bytes) -> None:
    try:
        [item] = JsonObject().parse(NONE, body)
    except InvalidBody:
        return
    assert isinstance(item, dict)
    orjson.dumps(item)


@given(st.integers(min_value=-(10**40), max_value=10**40))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_an_integer_is_exact_or_refused(number: int) -> None:
    body = b"[%d]" % number
    if -(2**63) <= number < 2**64:
        assert decode_json(body) == [number]
    else:
        assert code_of(body) == "number_out_of_range"


@given(st.floats())
@settings(max_examples=100, deadline=None, derandomize=True)
def test_a_float_is_finite_or_refused(number: float) -> None:
    body = json.dumps([number]).encode()
    if math.isfinite(number):
        assert decode_json(body) == [number]
    else:
        assert code_of(body) == "not_json"


def test_items_are_made_at_the_first_look_only() -> None:
    request = WebhookRequest("POST", "http://p/x", NONE, b"not json", JsonObject())
    with pytest.raises(InvalidBody):
        _ = request.items
    good = WebhookRequest("POST", "http://p/x", NONE, b"{}", JsonObject())
    assert good.items is good.items


def test_headers_are_found_in_any_case_and_shown_without_values() -> None:
    headers = Headers([("X-Token", "planted"), ("x-token", "second"), ("Other", "o")])
    assert headers["X-TOKEN"] == "planted"
    assert headers.get("missing") is None
    assert sorted(headers) == ["other", "x-token"]
    assert len(headers) == 2
    assert "planted" not in repr(headers)
    request = WebhookRequest("POST", "http://p/x", headers, b"planted", JsonObject())
    assert "planted" not in repr(request)
