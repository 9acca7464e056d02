"""Commands that are clients of a running platform."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.cli import events, inputs, output
from app.cli.client import ADMIN_KEY_FILE, DEFAULT_DATA_DIR, TENANT_HEADER, Api
from app.cli.exits import ExitCode
from app.cli.output import Output

from .conftest import Served, Trunkline, eventually

Send = Callable[..., None]


def events_of(cli: Trunkline, connection: dict[str, Any], count: int = 1) -> list[dict[str, Any]]:
    def there() -> Any:
        found = cli("events", "list", "--connection", connection["id"], "--json").json
        return found if len(found) >= count else None

    return eventually(there)


def run_action(cli: Trunkline, connection: dict[str, Any], type: str, *options: str) -> Any:
    return cli("actions", "run", connection["id"], type, "-d", "text=Hi", *options)


# Finding the platform and its key.


def test_the_admin_key_is_read_from_the_data_folder(platform: Served) -> None:
    cli = Trunkline({"TRUNKLINE_URL": platform.url, "TRUNKLINE_DATA_DIR": str(platform.data_dir)})
    assert cli("tenants", "list", "--json").json


def test_the_admin_key_is_not_sent_to_other_machines(platform: Served) -> None:
    cli = Trunkline({"TRUNKLINE_DATA_DIR": str(platform.data_dir)})
    ran = cli("tenants", "list", "--url", "http://elsewhere.example")
    assert ran.exit_code == ExitCode.FORBIDDEN
    assert "TRUNKLINE_API_KEY" in ran.stderr


def test_no_key_at_all_says_where_one_would_be(platform: Served, tmp_path: Path) -> None:
    ran = Trunkline({})("events", "list", "--url", platform.url, "--data-dir", str(tmp_path))
    assert ran.exit_code == ExitCode.FORBIDDEN
    assert str(tmp_path / "admin.key") in ran.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://[::1]:9", "http://localhost:9/prefix"])
def test_an_unreachable_platform_is_exit_code_5(cli: Trunkline, url: str) -> None:
    ran = cli("events", "list", "--url", url)
    assert ran.exit_code == ExitCode.UNREACHABLE
    assert ran.stderr.startswith(f"error: No platform answers at {url}")
    assert "trunkline serve" in ran.stderr


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://x", "http://", "http://\x00", "http://[::1", "http://x:99999"]
)
def test_an_impossible_address_is_exit_code_2(cli: Trunkline, url: str) -> None:
    assert cli("events", "list", "--url", url).exit_code == ExitCode.USAGE


def test_something_that_is_not_trunkline_is_exit_code_5(cli: Trunkline, platform: Served) -> None:
    ran = cli("events", "list", "--url", f"{platform.url}/healthz/")
    assert ran.exit_code in (ExitCode.UNREACHABLE, ExitCode.NOT_FOUND)


def test_an_unknown_key_is_exit_code_4_with_title_and_remedy(cli: Trunkline) -> None:
    ran = cli("events", "list", TRUNKLINE_API_KEY="tl_unknown")
    assert ran.exit_code == ExitCode.FORBIDDEN
    assert ran.stderr.startswith("error: The key in TRUNKLINE_API_KEY is not known here; unset it to use ")
    assert "admin.key. Asked was http://127.0.0.1:" in ran.stderr
    assert ran.stderr.endswith(" (from TRUNKLINE_URL).\n")
    assert ran.stdout == ""


def test_a_key_that_cannot_be_a_header_is_exit_code_2(cli: Trunkline) -> None:
    assert cli("events", "list", TRUNKLINE_API_KEY="tl_ä").exit_code == ExitCode.USAGE


def test_what_the_client_assumes_about_the_platform_is_so() -> None:
    from app.config import Settings
    from app.modules.access.service import TENANT_HEADER as HEADER
    from app.worker import ADMIN_KEY_FILE as FILE

    assert Settings.model_fields["data_dir"].default == Path(DEFAULT_DATA_DIR)
    assert (ADMIN_KEY_FILE, TENANT_HEADER) == (FILE, HEADER)


def test_an_address_from_a_variable_is_called_so(cli: Trunkline) -> None:
    ran = cli("events", "list", TRUNKLINE_URL="http://127.0.0.1:9")
    assert ran.exit_code == ExitCode.UNREACHABLE
    assert "at http://127.0.0.1:9 (from TRUNKLINE_URL): " in ran.stderr


def test_a_key_file_of_another_platform_is_named(platform: Served, tmp_path: Path) -> None:
    (tmp_path / ADMIN_KEY_FILE).write_text("tl_other\n")
    ran = Trunkline({})("events", "list", "--url", platform.url, "--data-dir", str(tmp_path))
    assert ran.exit_code == ExitCode.FORBIDDEN
    assert ran.stderr.startswith(
        f"error: The key in {tmp_path / ADMIN_KEY_FILE} is not known at {platform.url}."
    )


# The catalogue.


def test_an_unknown_integration_gets_the_keys_and_a_guess(cli: Trunkline) -> None:
    for command in (["connections", "create"], ["integrations", "show"]):
        ran = cli(*command, "telegramm")
        assert ran.exit_code == ExitCode.NOT_FOUND
        assert "There is no integration 'telegramm'. Did you mean telegram? There are: " in ran.stderr


def test_the_catalogue_lists_integrations_and_broken_connectors(cli: Trunkline) -> None:
    listed = cli("integrations", "list", "--json").json
    assert {"desk", "telegram"} <= {item["key"] for item in listed["items"]}
    assert "a_package_that_nobody_has" in listed["broken"][0]["reason"]
    text = cli("integrations", "list").stdout
    assert "Install 'a_package_that_nobody_has'" in text


def test_an_integration_is_shown_with_what_it_takes(cli: Trunkline) -> None:
    text = cli("integrations", "show", "desk").stdout
    for part in ("api_key", "region", "desk.ticket.opened", "text, …", "idempotent", "Marks"):
        assert part in text
    assert "properties" not in text
    action = cli("integrations", "show", "desk", "--action", "reply")
    assert "Which ticket" in action.stdout
    assert cli("integrations", "show", "desk", "--action", "none").exit_code == ExitCode.NOT_FOUND
    assert cli("integrations", "show", "desk", "--json").json["actions"][0]["payload_schema"]
    assert cli("integrations", "show", "none").exit_code == ExitCode.NOT_FOUND


# Connections and secrets.


def test_a_connection_is_made_with_typed_settings(cli: Trunkline, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("from a file\n")
    made = cli(
        *("connections", "create", "desk", "--name", "help", "--secret", f"api_key=@{tmp_path / 'key'}"),
        *("--setting", "region=7", "--setting", "level=3", "--setting", 'tags=["a", "b"]', "--json"),
    ).json
    assert made["settings"] == {"region": "7", "level": 3, "tags": ["a", "b"]}
    assert made["state"] == "ready"
    shown = cli("connections", "show", made["id"])
    assert made["webhook_url"] in shown.stdout
    assert made["id"] in cli("connections", "list", "--limit", "1000").stdout


def test_an_incomplete_connection_says_what_to_do(cli: Trunkline) -> None:
    ran = cli("connections", "create", "desk")
    assert ran.exit_code == 0
    assert "incomplete" in ran.stdout
    assert "trunkline secrets set con_" in ran.stderr


def test_a_required_secret_is_asked_for_on_a_terminal(
    cli: Trunkline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "somebody_is_there", lambda: True)
    ran = cli("connections", "create", "desk", "--json", stdin="typed in\n")
    assert ran.json["state"] == "ready"
    assert "typed in" not in ran.stdout + ran.stderr
    assert "second_key" not in ran.stderr


def test_a_secret_is_read_from_standard_input(cli: Trunkline) -> None:
    made = cli("connections", "create", "desk", "--secret", "api_key=-", "--json", stdin="wrong\n").json
    checked = cli("connections", "check", made["id"])
    assert checked.exit_code == ExitCode.FAILED
    assert "authentication_failed" in checked.stderr
    assert cli("secrets", "set", made["id"], "api_key=-", stdin="good\n").stdout == "Set api_key.\n"
    assert cli("connections", "check", made["id"]).exit_code == 0


def test_secrets_are_listed_without_values(cli: Trunkline, connection: dict[str, Any]) -> None:
    cli("secrets", "set", connection["id"], "api_key=planted", "second_key=planted")
    listed = cli("secrets", "list", connection["id"])
    assert {item["name"] for item in cli("secrets", "list", connection["id"], "--json").json} == {
        "api_key",
        "second_key",
    }
    assert "planted" not in listed.stdout


def test_field_problems_are_printed_and_are_exit_code_6(cli: Trunkline) -> None:
    ran = cli("connections", "create", "desk", "--setting", "level=0")
    assert ran.exit_code == ExitCode.INVALID
    title, problem = ran.stderr.splitlines()
    assert title == (
        "error: The settings are not valid. Correct the fields named below. Desk has: region, level, tags."
    )
    assert problem.startswith("  settings.level: ")


@pytest.mark.parametrize(
    "options",
    [
        ["--secret", "planted"],
        ["--secret", "=planted"],
        ["--secret", "api_key=@/does/not/exist"],
        ["--secret", "api_key=-", "--secret", "second_key=-"],
        ["--secret", "api_key=a", "--secret", "api_key=b"],
    ],
)
def test_secrets_that_are_given_wrongly_are_exit_code_2_and_not_repeated(
    cli: Trunkline, options: list[str]
) -> None:
    ran = cli("connections", "create", "desk", *options)
    assert ran.exit_code == ExitCode.USAGE
    assert "planted" not in ran.stderr


def test_an_update_keeps_the_settings_that_it_does_not_name(
    cli: Trunkline, connection: dict[str, Any]
) -> None:
    update = ("connections", "update", connection["id"])
    cli(*update, "--setting", "level=5", "--setting", "region=us")
    changed = cli(*update, "--setting", "level=6", "--name", "other", "--disable", "--json").json
    assert changed["settings"] == {"level": 6, "region": "us"}
    assert (changed["name"], changed["state"]) == ("other", "disabled")
    changed = cli(*update, "--unset", "region", "--enable", "--json").json
    assert (changed["settings"], changed["state"]) == ({"level": 6}, "ready")
    assert cli(*update).exit_code == ExitCode.USAGE


def test_a_connection_is_only_deleted_when_that_is_meant(
    cli: Trunkline, connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = ("connections", "delete", connection["id"])
    assert cli(*delete).exit_code == ExitCode.USAGE
    monkeypatch.setattr(inputs, "somebody_is_there", lambda: True)
    assert cli(*delete, stdin="n\n").exit_code == ExitCode.FAILED
    assert cli("connections", "show", connection["id"]).exit_code == 0
    assert cli(*delete, stdin="y\n").exit_code == 0
    assert cli("connections", "show", connection["id"]).exit_code == ExitCode.NOT_FOUND


def test_a_script_deletes_with_yes(cli: Trunkline, connection: dict[str, Any]) -> None:
    deleted = cli("connections", "delete", connection["id"], "--yes", "--json").json
    assert deleted == {"id": connection["id"], "deleted": True}


def test_the_url_is_rotated(cli: Trunkline, connection: dict[str, Any]) -> None:
    rotated = cli("connections", "rotate-url", connection["id"], "--keep-previous-for", "0", "--json").json
    assert rotated["webhook_url"] != connection["webhook_url"]


def test_refusals_and_polls_are_lists(cli: Trunkline, connection: dict[str, Any]) -> None:
    for what in ("refusals", "polls"):
        assert cli("connections", what, connection["id"], "--json").json == []
        assert cli("connections", what, connection["id"]).exit_code == 0


def test_ids_are_not_paths(cli: Trunkline) -> None:
    assert cli("connections", "show", "").exit_code == ExitCode.USAGE
    assert cli("connections", "show", "../integrations").exit_code == ExitCode.NOT_FOUND
    assert cli("events", "show", "a b?c#d").exit_code == ExitCode.NOT_FOUND
    assert cli("events", "show", "\udcff").exit_code == ExitCode.NOT_FOUND


def test_a_connection_is_found_by_its_name(cli: Trunkline) -> None:
    made = cli("connections", "create", "desk", "--name", "by name", "--secret", "api_key=good")
    assert "Next: trunkline connections check con_" in made.stdout
    connection = cli("connections", "show", "by name", "--json").json
    assert cli("connections", "check", "by name").exit_code == 0
    assert cli("secrets", "list", "by name", "--json").json[0]["name"] == "api_key"
    ran = cli("actions", "run", "by name", "reply", "-d", "text=Hi", "-d", "ticket=1")
    assert "Next: trunkline actions show act_" in ran.stdout
    (action,) = cli("actions", "list", "--connection", "by name", "--json").json
    assert action["connection"] == connection["id"]
    unknown = cli("connections", "show", "by nam")
    assert unknown.exit_code == ExitCode.NOT_FOUND
    assert "Did you mean by name?" in unknown.stderr
    second = cli("connections", "create", "desk", "--name", "by name", "--json").json
    ambiguous = cli("connections", "delete", "by name", "--yes")
    assert ambiguous.exit_code == ExitCode.USAGE
    assert connection["id"] in ambiguous.stderr
    assert second["id"] in ambiguous.stderr


class Answers:
    """Stands for the platform where that is not easily brought to an answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: Any) -> None:
        send = Api.send

        def answer(api: Api, method: str, path: str, **options: Any) -> Any:
            found = answers.get(path.rpartition("/")[2])
            return send(api, method, path, **options) if found is None else found

        monkeypatch.setattr(Api, "send", answer)


def test_a_check_that_cannot_ask_is_no_failure(
    cli: Trunkline, connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Answers(monkeypatch, check={"ok": None, "code": "not_checked", "message": "Nothing was asked."})
    ran = cli("connections", "check", connection["id"])
    assert (ran.exit_code, ran.stdout) == (0, "Nothing was asked.\n")


def test_polling_that_fails_is_shown_with_the_connection(
    cli: Trunkline, connection: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "polling" not in cli("connections", "show", connection["id"]).stdout
    poll = {"name": "updates", "polled_at": None, "failures": 2, "error_code": "x", "error": "No way."}
    Answers(monkeypatch, polls={"items": [poll], "next": None})
    assert re.search(
        r"^polling +failing: No way\.$", cli("connections", "show", connection["id"]).stdout, re.M
    )


def test_a_missing_secret_says_how_to_set_it(cli: Trunkline) -> None:
    made = cli("connections", "create", "desk", "--json").json
    checked = cli("connections", "check", made["id"])
    assert checked.exit_code == ExitCode.FAILED
    assert f"trunkline secrets set {made['id']} " in checked.stderr


# Events and webhooks.


def test_events_are_listed_shown_and_paged(cli: Trunkline, connection: dict[str, Any], webhook: Send) -> None:
    for number in range(3):
        webhook(connection, id=str(number), text=f"ticket {number}")
    events = events_of(cli, connection, 3)
    assert [event["payload"]["text"] for event in events] == ["ticket 0", "ticket 1", "ticket 2"]
    listed = ("events", "list", "--connection", connection["id"])
    assert cli(*listed, "--limit", "1", "--json").json == events[:1]
    assert cli(*listed, "--after", events[0]["cursor"], "--json").json == events[1:]
    assert cli(*listed, "--type", "desk.nothing", "--json").json == []
    text = cli(*listed).stdout
    assert all(event["id"] in text for event in events)
    assert text.endswith(f"--after {events[-1]['cursor']}\n")
    assert cli("events", "show", events[0]["id"], "--json").json == events[0]
    assert cli(*listed, "--after", "nonsense").exit_code == ExitCode.INVALID


def test_text_that_is_no_text_is_exit_code_2(cli: Trunkline, connection: dict[str, Any]) -> None:
    assert cli("connections", "update", connection["id"], "--name", "\udcff").exit_code == ExitCode.USAGE


def test_what_strangers_write_does_not_steer_the_terminal(
    cli: Trunkline, connection: dict[str, Any], webhook: Send
) -> None:
    webhook(connection, id="1", text="\x1b[2J\x9b2J [bold]x[/] :smile:")
    (event,) = events_of(cli, connection)
    for command in (["list", "--connection", connection["id"]], ["show", event["id"]]):
        text = cli("events", *command).stdout
        assert "\x1b" not in text
        assert "\x9b" not in text
        assert "[bold]x[/] :smile:" in text
    json_text = cli("events", "show", event["id"], "--json").stdout
    assert "\x9b" not in json_text
    assert json.loads(json_text)["payload"]["text"].startswith("\x1b[2J\x9b2J")


def test_failed_webhooks_are_found_shown_and_replayed(
    cli: Trunkline, connection: dict[str, Any], webhook: Send
) -> None:
    webhook(connection, subject="no text")
    webhook(connection, subject="none here either")
    of_this = ("--connection", connection["id"])

    def failed() -> Any:
        found = cli("webhooks", "list", "--state", "failed", *of_this, "--json").json
        return found if len(found) == 2 else None

    found = eventually(failed)
    shown = cli("webhooks", "show", found[0]["id"]).stdout
    assert "not_a_ticket" in shown
    assert "none here either" in shown
    assert cli("webhooks", "replay", found[0]["id"], "--json").json["id"] == found[0]["id"]
    eventually(failed)
    replayed = cli("webhooks", "replay", "--all-failed", *of_this, "--json").json
    assert {item["id"] for item in replayed} == {item["id"] for item in found}
    text = cli("webhooks", "replay", found[0]["id"]).stdout
    assert text == f"Queued. See: trunkline webhooks show {found[0]['id']}\n"
    assert cli("webhooks", "replay").exit_code == ExitCode.USAGE
    assert cli("webhooks", "replay", "whk_1", "--all-failed").exit_code == ExitCode.USAGE
    assert cli("webhooks", "replay", "whk_1").exit_code == ExitCode.NOT_FOUND


def test_following_prints_each_event_on_a_line(
    cli: Trunkline, connection: dict[str, Any], webhook: Send
) -> None:
    webhook(connection, id="1", text="first")
    webhook(connection, id="2", text="second\nline")
    follow = ("events", "follow", "--after", "0", "--connection", connection["id"], "--limit", "2")
    lines = [json.loads(line) for line in cli(*follow, "--json").stdout.splitlines()]
    assert [line["payload"]["text"] for line in lines] == ["first", "second\nline"]
    text = cli(*follow).stdout.splitlines()
    assert [line["id"] for line in lines] == [line.split()[2] for line in text]


def test_following_an_unreachable_platform_ends(cli: Trunkline) -> None:
    assert cli("events", "follow", "--url", "http://127.0.0.1:9").exit_code == ExitCode.UNREACHABLE
    assert cli("events", "follow", TRUNKLINE_API_KEY="tl_x").exit_code == ExitCode.FORBIDDEN


# Actions.


def test_an_action_is_run_with_typed_fields(cli: Trunkline, connection: dict[str, Any]) -> None:
    ran = cli(
        *("actions", "run", connection["id"], "reply", "-d", "text=12", "-d", "ticket=34", "--wait", "10"),
        "--json",
    ).json
    assert (ran["state"], ran["result"]) == ("succeeded", {"text": "12", "ticket": 34})
    assert ran["id"] in cli("actions", "list", "--connection", connection["id"]).stdout
    assert "succeeded" in cli("actions", "show", ran["id"]).stdout


def test_the_payload_comes_from_json_a_file_or_standard_input(
    cli: Trunkline, connection: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "payload.json").write_text('{"text": "file"}')
    for data, stdin, text in (
        ('{"text": "inline"}', None, "inline"),
        (f"@{tmp_path / 'payload.json'}", None, "file"),
        ("-", '{"text": "stdin"}', "stdin"),
        ("@-", '{"text": "stdin"}', "stdin"),
    ):
        command = ("actions", "run", connection["id"], "reply", "--data", data, "-d", "ticket=5")
        ran = cli(*command, "--wait", "10", "--json", stdin=stdin).json
        assert ran["result"] == {"text": text, "ticket": 5}


@pytest.mark.parametrize("data", ["{", "[1]", "@/none", "{1: 2}", "text"])
def test_data_that_cannot_be_a_payload_is_exit_code_2(
    cli: Trunkline, connection: dict[str, Any], data: str
) -> None:
    assert cli("actions", "run", connection["id"], "reply", "--data", data).exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("type", "state", "reason"),
    [("refuse", "failed", "The ticket is closed."), ("vanish", "unknown", "No answer came.")],
)
def test_an_action_that_does_not_succeed_is_exit_code_1_and_says_why(
    cli: Trunkline, connection: dict[str, Any], type: str, state: str, reason: str
) -> None:
    ran = run_action(cli, connection, type, "--wait", "10", "--json")
    assert ran.exit_code == ExitCode.FAILED
    assert json.loads(ran.stdout)["state"] == state
    assert f"is {state}: " in ran.stderr
    assert reason in ran.stderr


def test_an_action_that_does_not_end_in_time_is_exit_code_1(
    cli: Trunkline, connection: dict[str, Any]
) -> None:
    ran = run_action(cli, connection, "linger", "--wait", "0.2")
    assert ran.exit_code == ExitCode.FAILED
    assert "still running after 0.2 s" in ran.stderr


def test_without_waiting_a_request_is_enough(cli: Trunkline, connection: dict[str, Any]) -> None:
    assert run_action(cli, connection, "refuse", "--json").json["id"].startswith("act_")


def test_an_idempotency_key_makes_repeating_safe(cli: Trunkline, connection: dict[str, Any]) -> None:
    first = run_action(cli, connection, "reply", "--idempotency-key", "k1", "--json").json
    assert run_action(cli, connection, "reply", "--idempotency-key", "k1", "--json").json["id"] == first["id"]
    other = run_action(cli, connection, "vanish", "--idempotency-key", "k1")
    assert other.exit_code == ExitCode.INVALID


def test_a_payload_that_does_not_fit_names_the_field(cli: Trunkline, connection: dict[str, Any]) -> None:
    ran = cli("actions", "run", connection["id"], "reply", "-d", "ticket=1")
    assert ran.exit_code == ExitCode.INVALID
    assert "payload.text: Field required" in ran.stderr
    assert "GET /api" not in cli("actions", "run", connection["id"], "none", "-d", "{}").stderr
    stray = cli("actions", "run", connection["id"], "reply", "text=Hi there")
    assert stray.exit_code == ExitCode.USAGE
    assert "write -d 'text=Hi there'" in stray.stderr


def test_an_unknown_action_is_resolved_and_a_failed_one_retried(
    cli: Trunkline, connection: dict[str, Any]
) -> None:
    lost = json.loads(run_action(cli, connection, "vanish", "--wait", "10", "--json").stdout)
    of_this = ("--connection", connection["id"])
    assert [a["id"] for a in cli("actions", "list", "--state", "unknown", *of_this, "--json").json] == [
        lost["id"]
    ]
    assert (
        f"trunkline actions resolve {lost['id']} succeeded|failed"
        in cli("actions", "show", lost["id"]).stdout
    )
    resolved = cli("actions", "resolve", lost["id"], "succeeded", "--note", "seen", "--json").json
    assert resolved["state"] == "succeeded"
    refused = json.loads(run_action(cli, connection, "refuse", "--wait", "10", "--json").stdout)
    assert cli("actions", "retry", refused["id"], "--json").json["id"] == refused["id"]
    assert cli("actions", "cancel", lost["id"]).exit_code == ExitCode.FAILED
    assert cli("actions", "resolve", lost["id"], "perhaps").exit_code == ExitCode.USAGE


# Keys and tenants.


def test_a_tenants_key_sees_its_tenant_only(cli: Trunkline, connection: dict[str, Any]) -> None:
    made = cli("keys", "create", "ci", "--tenant", "acme", "--json").json
    assert made["tenant"] == "acme"
    theirs = {"TRUNKLINE_API_KEY": made["key"]}
    assert cli("connections", "list", "--json", **theirs).json == []
    assert cli("connections", "show", connection["id"], **theirs).exit_code == ExitCode.NOT_FOUND
    assert cli("tenants", "list", **theirs).exit_code == ExitCode.FORBIDDEN
    assert cli("events", "list", "--tenant", "default", **theirs).exit_code == ExitCode.FORBIDDEN
    assert "acme" in cli("tenants", "list").stdout
    listed = cli("keys", "list", "--tenant", "acme")
    assert made["id"] in listed.stdout
    assert made["key"] not in listed.stdout
    assert cli("keys", "revoke", made["id"], "--tenant", "acme", "--json").json == {
        "id": made["id"],
        "revoked": True,
    }
    assert cli("connections", "list", **theirs).exit_code == ExitCode.FORBIDDEN


def test_an_admin_key_is_made_by_an_admin(cli: Trunkline) -> None:
    made = cli("keys", "create", "ops", "--admin", "--json").json
    assert made["tenant"] is None
    assert cli("tenants", "list", TRUNKLINE_API_KEY=made["key"]).exit_code == 0


def test_an_impossible_tenant_is_exit_code_6(cli: Trunkline) -> None:
    assert cli("events", "list", "--tenant", "Not OK").exit_code == ExitCode.INVALID
    assert cli("events", "list", "--tenant", "ä").exit_code == ExitCode.USAGE


# How it looks.


def test_tables_in_a_pipe_have_no_colours_and_keep_long_ids_whole(
    cli: Trunkline, connection: dict[str, Any], webhook: Send
) -> None:
    webhook(connection, id="i" * 300, text="x")
    events_of(cli, connection)
    text = cli("events", "list", "--connection", connection["id"], COLUMNS="40").stdout
    assert "\x1b" not in text
    assert "i" * 300 in text
    assert not any(line != line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize("width", [70, 80, 100, 200])
def test_tables_fit_a_terminal_and_ids_stay_whole(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(output, "_is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(width))
    event = {
        "cursor": "1042",
        "received_at": "2026-01-01T00:00:00.000Z",
        "id": "evt_" + "0" * 32,
        "type": "telegram.message.received",
        "external_id": "telegram:123456",
        "connection": "con_" + "0" * 32,
        "payload": {"nothing": None, "chat": {"id": 1}, "number": 7, "long": "x " * 100, "text": "hello"},
    }
    Output(as_json=False).items([event] * 2, events._COLUMNS, empty="")
    told = capsys.readouterr()
    heading, *rows = told.out.splitlines()
    assert len(rows) == 2
    for row in rows:
        assert event["id"] in row
        assert ('{"text": "he' in row) == (width > 70)
        assert row.rstrip().endswith("…") == (width > 70)
        assert len(row) <= width
    assert ("received" in heading) == (width >= 100)
    assert ("external id" in heading) == (width == 200)
    assert ("external id" in told.err) == (width < 200)
