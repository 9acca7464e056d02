"""What is sealed opens with its key at its place, and nowhere else."""

import base64
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import StartupError
from app.infra import crypto
from app.infra.crypto import CannotOpen, decode_master_key, master_key_from_file, new_key, seal, unseal

KEY = bytes(range(32))
PLACE = ("tenant", "secret", "con_1", "token", "1")
places = st.lists(st.text(max_size=5), max_size=4).map(tuple)


@given(st.binary(max_size=200), places)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_what_is_sealed_opens_again(plain: bytes, place: tuple[str, ...]) -> None:
    sealed = seal(KEY, plain, place)
    assert unseal(KEY, sealed, place) == plain
    assert len(sealed) == len(plain) + 12 + 16


@given(places, places)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_it_opens_at_no_other_place(place: tuple[str, ...], other: tuple[str, ...]) -> None:
    sealed = seal(KEY, b"plain", place)
    if other == place:
        assert unseal(KEY, sealed, other) == b"plain"
    else:
        with pytest.raises(CannotOpen):
            unseal(KEY, sealed, other)


@pytest.mark.parametrize(
    ("place", "other"),
    [
        (("a", "bc"), ("ab", "c")),
        (("a", "b"), ("ab",)),
        (("a", ""), ("a",)),
        (("a", "b"), ("b", "a")),
        (("é",), ("e\u0301",)),
        ((), ("",)),
    ],
)
def test_places_that_look_alike_differ(place: tuple[str, ...], other: tuple[str, ...]) -> None:
    with pytest.raises(CannotOpen):
        unseal(KEY, seal(KEY, b"plain", place), other)


def test_another_key_does_not_open_it() -> None:
    sealed = seal(KEY, b"plain", PLACE)
    for key in (new_key(), KEY[::-1], KEY[:-1], b"", KEY + b"x", KEY[:16]):
        with pytest.raises(CannotOpen):
            unseal(key, sealed, PLACE)


def test_any_changed_or_missing_byte_does_not_open() -> None:
    sealed = seal(KEY, b"plain", PLACE)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(CannotOpen):
            unseal(KEY, bytes(changed), PLACE)
        with pytest.raises(CannotOpen):
            unseal(KEY, sealed[:position], PLACE)
    with pytest.raises(CannotOpen):
        unseal(KEY, sealed + b"\0", PLACE)


def test_the_same_is_never_sealed_the_same_way_twice() -> None:
    sealed = {seal(KEY, b"plain", PLACE) for _ in range(100)}
    assert len(sealed) == 100
    assert len({s[:12] for s in sealed}) == 100
    assert len({new_key() for _ in range(100)}) == 100


def test_the_error_says_nothing() -> None:
    with pytest.raises(CannotOpen) as raised:
        unseal(KEY, seal(KEY, b"planted", PLACE)[:-1], PLACE)
    assert str(raised.value) == ""
    assert raised.value.__suppress_context__


# The master key.


def test_a_master_key_is_read_in_both_alphabets() -> None:
    key = bytes([0xFB, 0xFF] * 16)
    for text in (base64.b64encode(key).decode(), base64.urlsafe_b64encode(key).decode()):
        assert decode_master_key(f"  {text}\n", "here") == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "short",
        base64.b64encode(bytes(31)).decode(),
        base64.b64encode(bytes(33)).decode(),
        "00" * 32,
        "ключ" * 11,
        "!" * 44,
    ],
)
def test_a_master_key_of_another_form_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(StartupError) as raised:
        decode_master_key(text, "TRUNKLINE_MASTER_KEY")
    said = f"{raised.value} {raised.value.remedy}"
    assert "TRUNKLINE_MASTER_KEY" in said
    assert not text or text not in said


def test_the_key_file_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    key = master_key_from_file(path)
    assert len(key) == 32
    assert path.stat().st_mode & 0o777 == 0o600
    assert master_key_from_file(path) == key
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"not a key\n", b"\xff\xfe\x00" * 20, bytes(32)])
def test_a_key_file_that_holds_no_key_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "master.key"
    path.write_bytes(content)
    with pytest.raises(StartupError, match=r"master\.key"):
        master_key_from_file(path)
    assert path.read_bytes() == content


def test_a_key_file_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "master.key").mkdir()
    for path in (tmp_path / "master.key", tmp_path / "nowhere" / "master.key"):
        with pytest.raises(StartupError, match="cannot be used") as raised:
            master_key_from_file(path)
        assert "TRUNKLINE_MASTER_KEY" in raised.value.remedy


def test_a_private_file_replaces_what_was_there_in_one_step(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    path.write_text("old")
    path.chmod(0o644)
    (tmp_path / "admin.key.new").write_text("left by a crash")
    crypto.write_private(path, "new\n")
    assert path.read_text() == "new\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_key_file_is_not_replaced_when_it_may_not_be(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="is gone"):
        master_key_from_file(tmp_path / "master.key", create=False)
    assert not (tmp_path / "master.key").exists()
