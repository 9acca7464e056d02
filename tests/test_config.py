"""Settings: where they come from, and what a wrong one says."""

from pathlib import Path
from typing import Any

import pytest

from app.config import Settings, load_settings, source_of
from app.errors import StartupError


def test_defaults_are_for_one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    assert settings.host == "127.0.0.1"
    assert settings.data_dir == Path("~/.trunkline").expanduser()
    assert settings.database_path == settings.data_dir / "trunkline.db"
    assert (settings.public_url, settings.connectors_path, settings.master_key) == (None, None, None)


def test_a_flag_wins_over_a_variable_and_that_over_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_PORT", "9000")
    assert load_settings().port == 9000
    assert load_settings(port=None).port == 9000
    assert load_settings(port="9001").port == 9001


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_an_empty_variable_is_no_setting(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Compose files write `NAME=${NAME:-}`; the empty path would be the working directory."""
    default = getattr(load_settings(), name)
    monkeypatch.setenv(f"TRUNKLINE_{name.upper()}", "")
    settings = load_settings()
    assert getattr(settings, name) == default
    assert source_of(settings, name, {}, {f"TRUNKLINE_{name.upper()}": ""}) == "default"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data_dir", "~nobody-of-this-name/data"),
        ("port", "many"),
        ("port", "65536"),
        ("port", "-1"),
        ("public_url", "hooks.example.com"),
        ("public_url", "ftp://hooks.example.com"),
        ("public_url", "https://hooks.example.com/?x=1"),
        ("public_url", "https://hooks.example.com/#x"),
        ("public_url", "https://"),
        ("public_url", "https://[::1"),
        ("secret_store", "elsewhere"),
        ("max_body_bytes", "10"),
        ("handler_timeout", "0"),
        ("handler_timeout", "nan"),
        ("dedupe_days", "6"),
        ("retention_days", "0"),
        ("log_level", "loud"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"TRUNKLINE_{name.upper()}", value)
    with pytest.raises(StartupError) as raised:
        load_settings()
    said = f"{raised.value.message} {raised.value.remedy}"
    assert f"The setting {name} is wrong" in said
    assert f"TRUNKLINE_{name.upper()}" in said
    assert f"--{name.replace('_', '-')}" in said
    assert "\n" not in said
    with pytest.raises(StartupError):
        load_settings(**{name: value})


def test_the_master_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNKLINE_MASTER_KEY", "planted")
    settings = load_settings()
    for text in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert "planted" not in text


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ("https://hooks.example.com/", "https://hooks.example.com"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("https://example.com/trunkline/", "https://example.com/trunkline"),
    ],
)
def test_a_public_url_ends_without_a_slash(value: str, plain: str) -> None:
    assert load_settings(public_url=value).public_url == plain


def test_paths_are_absolute_and_know_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(data_dir="data", connectors_path="~/connectors")
    assert settings.data_dir == tmp_path / "data"
    assert settings.connectors_path == Path.home() / "connectors"


def test_every_setting_says_where_it_comes_from() -> None:
    flags: dict[str, Any] = {"port": "1", "host": None}
    environment = {"trunkline_host": "x", "TRUNKLINE_PORT": "2"}
    settings = load_settings(port=1)
    assert source_of(settings, "port", flags, environment) == "flag"
    assert source_of(settings, "host", flags, environment) == "TRUNKLINE_HOST"
    assert source_of(settings, "data_dir", flags, environment) == "default"
    assert all(field.description for field in Settings.model_fields.values())
