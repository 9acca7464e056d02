"""Captured payloads: what is refused, and what is not kept."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from app.scaffold.errors import CannotScaffold
from app.scaffold.sample import LARGEST, MOST_IN_FIXTURE, read_sample, sample_of


def scrubbed(value: Any) -> tuple[Any, list[str]]:
    sample = sample_of(json.dumps(value).encode())
    return sample.fixture, sample.scrubbed


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"a": 1, "a": 2}', "not JSON"),
        (b'{"a": NaN}', "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "not JSON"),
        (b'{"a": "\\ud800"}', "not JSON"),
        (b"1", "neither an object"),
        (b'"x"', "neither an object"),
        (b"[]", "neither an object"),
        (b"[{}, 1]", "neither an object"),
        (b'{"a": "' + b"x" * LARGEST + b'"}', "larger than"),
    ],
)
def test_what_is_no_webhook_is_refused_with_what_to_do(body: bytes, words: str) -> None:
    with pytest.raises(CannotScaffold, match=words) as refusal:
        sample_of(body)
    assert refusal.value.remedy


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CannotScaffold, match="No such file"):
        read_sample(tmp_path / "none.json")
    with pytest.raises(CannotScaffold, match="Is a directory"):
        read_sample(tmp_path)


@pytest.mark.parametrize(
    "key",
    [
        "token",
        "accessToken",
        "api_key",
        "apiKey",
        "X-Signature",
        "password",
        "client-secret",
        "Authorization",
    ],
)
def test_values_of_fields_named_like_credentials_are_replaced(key: str) -> None:
    assert scrubbed({key: "hunter2"}) == ({key: "scrubbed"}, [key])
    assert scrubbed({"a": {key: ["x", {"y": 5, "z": None, "w": True}]}})[0] == {
        "a": {key: ["scrubbed", {"y": 0, "z": None, "w": True}]}
    }


@pytest.mark.parametrize(
    "text",
    [
        "sk_live_abcdef123456",
        "xoxb-12345678-abc",
        "ghp_abcdefghijkl",
        "eyJhbGciOi.J9.abc",
        "Bearer abcdefghij",
    ],
)
def test_credentials_are_replaced_wherever_they_stand(text: str) -> None:
    value, where = scrubbed({"note": f"use {text} here"})
    assert value == {"note": "use scrubbed here"}
    assert where == ["note"]


@pytest.mark.parametrize(
    ("url", "left"),
    [
        ("https://x.io/f?token=0123abcd&page=2#top", "https://x.io/f?token=scrubbed&page=2#top"),
        ("https://x.io/f?page=2&X-Amz-Signature=0f", "https://x.io/f?page=2&X-Amz-Signature=scrubbed"),
        ("http://ann:hunter2@localhost:80/?q=a:b@c", "http://scrubbed@localhost:80/?q=a:b@c"),
    ],
)
def test_credentials_in_urls_are_replaced(url: str, left: str) -> None:
    assert scrubbed({"link": f"see {url}"}) == ({"link": f"see {left}"}, ["link"])


def test_addresses_are_replaced_each_by_the_same() -> None:
    value, where = scrubbed(
        {"from": "Ann <ann@corp.io>", "to": ["BEN@corp.io", "ann@corp.io"], "cc": "x@example.com"}
    )
    assert value == {
        "from": "Ann <person1@example.com>",
        "to": ["person2@example.com", "person1@example.com"],
        "cc": "x@example.com",
    }
    assert where == ["from", "to[]"]


@pytest.mark.parametrize("piece", ["b", "a.", "a@", "://a:", "?a="])
def test_a_long_text_costs_a_moment_and_no_more(piece: str) -> None:
    text = piece * (120_000 // len(piece))
    began = time.monotonic()
    scrubbed({"x": text, text: 1})
    assert time.monotonic() - began < 5


def test_keys_are_replaced_too_and_none_is_lost() -> None:
    value, _ = scrubbed({"people": {"ann@corp.io": 1, "person1@example.com": 2}})
    assert sorted(value["people"].values()) == [1, 2]
    assert "corp" not in json.dumps(value)


def test_what_is_no_credential_stays() -> None:
    value = {
        "author": "x",
        "tokenizer": "x",
        "passage": "x",
        "keyboard": "x",
        "id": "x",
        "when": "10:05@noon",
    }
    assert scrubbed(value) == (value, [])


def test_of_a_large_batch_the_first_items_are_kept() -> None:
    sample = sample_of(json.dumps([{"n": number} for number in range(100)]).encode())
    assert (len(sample.items), len(sample.fixture), sample.left_out) == (100, MOST_IN_FIXTURE, 80)
