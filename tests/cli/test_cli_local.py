"""Commands that work on this machine's data folder, and twins."""

import json
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cli.exits import ExitCode
from tests.support.postgres import PASSWORD

from .conftest import Process, Serve, Trunkline


def test_config_shows_values_and_where_they_come_from(local: Trunkline) -> None:
    environment = {"TRUNKLINE_HOST": "0.0.0.0", "TRUNKLINE_MASTER_KEY": "planted"}
    shown = local("config", "--port", "9000", "--json", **environment)
    by_name = {row["setting"]: row for row in shown.json}
    assert (by_name["port"]["value"], by_name["port"]["source"]) == (9000, "flag")
    assert (by_name["host"]["value"], by_name["host"]["source"]) == ("0.0.0.0", "TRUNKLINE_HOST")
    assert (by_name["dedupe_days"]["value"], by_name["dedupe_days"]["source"]) == (30, "default")
    assert by_name["master_key"]["value"] == "set"
    assert "planted" not in shown.stdout + local("config", **environment).stdout
    assert local("config", "--port", "x").exit_code == ExitCode.FAILED


def test_config_warns_about_variables_that_are_no_settings(local: Trunkline) -> None:
    known = {
        "TRUNKLINE_URL": "x",
        "TRUNKLINE_TWIN_URL": "x",
        "TRUNKLINE_SECRET__A__B__C": "x",
        "TRUNKLINE_PORT": "1",
    }
    assert local("config", **known).stderr == ""
    warned = local("config", TRUNKLINE_PROT="planted").stderr
    assert warned == (
        "warning: TRUNKLINE_PROT is no setting and does nothing. Did you mean TRUNKLINE_PORT?\n"
    )


def test_limits_refuse_seconds_without_a_rate(local: Trunkline) -> None:
    wrong = local("connections", "limits", "con_1", "--per", "60", TRUNKLINE_API_KEY="x")
    assert wrong.exit_code == ExitCode.USAGE
    assert wrong.stderr == "error: --per says what --rate is for. Give both, or neither for no rate.\n"


def test_migrate_says_what_was_applied(local: Trunkline, tmp_path: Path) -> None:
    migrate = ("migrate", "--data-dir", str(tmp_path / "d"))
    assert "0001" in local(*migrate, "--json").json["applied"]
    assert local(*migrate, "--json").json["applied"] == []
    assert local(*migrate).stdout == "The database is up to date.\n"


def test_on_postgresql_the_same_commands_work_on_the_server(
    local: Trunkline, empty_postgres: str, tmp_path: Path
) -> None:
    environment = {"TRUNKLINE_DATABASE_URL": empty_postgres}
    shown = local("config", "--json", **environment)
    by_name = {row["setting"]: row for row in shown.json}
    assert by_name["database_url"]["value"] == empty_postgres.replace(PASSWORD, "***")
    migrated = local("migrate", "--json", **environment)
    assert "0001" in migrated.json["applied"]
    assert local("migrate", **environment).stdout == "The database is up to date.\n"
    recovered = local("keys", "recover", "--data-dir", str(tmp_path / "d"), "--json", **environment)
    assert (tmp_path / "d" / "admin.key").read_text().strip() == recovered.json["key"]
    # What is logged meanwhile is no part of the answer.
    powerful = empty_postgres.replace("//trunkline:", "//postgres:")
    warned = local("migrate", "--json", TRUNKLINE_DATABASE_URL=powerful, TRUNKLINE_ALLOW_SUPERUSER="true")
    assert warned.json["applied"] == []
    assert "database_role_is_superuser" in warned.stderr
    backup = local("backup", str(tmp_path / "copy"), **environment)
    assert backup.exit_code == ExitCode.FAILED
    assert "pg_dump" in backup.stderr
    wrong = local("migrate", TRUNKLINE_DATABASE_URL=f"mysql://trunkline:{PASSWORD}@127.0.0.1/x")
    absent = local("migrate", TRUNKLINE_DATABASE_URL=f"postgresql://trunkline:{PASSWORD}@127.0.0.1:1/x")
    assert "postgresql://trunkline:PASSWORD@host/trunkline" in wrong.stderr
    assert "TRUNKLINE_DATABASE_URL" in absent.stderr
    for ran in (shown, migrated, backup, wrong, absent):
        assert PASSWORD not in ran.stdout + ran.stderr


def test_a_file_that_is_no_database_is_refused(local: Trunkline, tmp_path: Path) -> None:
    (tmp_path / "trunkline.db").write_bytes(b"not a database, by far" * 100)
    for command in (["migrate"], ["keys", "recover"], ["backup", str(tmp_path / "copy")]):
        ran = local(*command, "--data-dir", str(tmp_path))
        assert ran.exit_code == ExitCode.FAILED
        assert "error: " in ran.stderr


def test_a_backup_is_made_while_the_platform_runs(serve: Serve, local: Trunkline, tmp_path: Path) -> None:
    served = serve()
    target = tmp_path / "copy.db"
    backup = ("backup", str(target), "--data-dir", str(served.data_dir))
    assert local(*backup, "--json").json["backup"] == str(target)
    with sqlite3.connect(target) as copy:
        assert copy.execute("SELECT count(*) FROM api_keys").fetchone() == (1,)
    copy.close()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    again = local(*backup)
    assert again.exit_code == ExitCode.FAILED
    assert f"{target} exists" in again.stderr
    nowhere = local("backup", str(target / "x"), "--data-dir", str(served.data_dir))
    assert (nowhere.exit_code, nowhere.stderr.split(".")[0]) == (
        1,
        f"error: There is no folder {tmp_path}/copy",
    )
    assert "no database" in local("backup", str(tmp_path / "x"), "--data-dir", str(tmp_path)).stderr


def test_a_lost_admin_key_is_replaced(serve: Serve, local: Trunkline) -> None:
    served = serve()
    served.process.stop()
    (served.data_dir / "admin.key").unlink()
    recovered = local("keys", "recover", "--data-dir", str(served.data_dir), "--json").json
    assert (served.data_dir / "admin.key").read_text() == recovered["key"] + "\n"
    url = serve().url
    listed = Trunkline({"TRUNKLINE_DATA_DIR": str(served.data_dir)})("keys", "list", "--url", url, "--json")
    assert recovered["id"] in {key["id"] for key in listed.json}


def test_a_key_is_not_recovered_where_there_is_no_database(local: Trunkline, tmp_path: Path) -> None:
    ran = local("keys", "recover", "--data-dir", str(tmp_path / "none"))
    assert ran.exit_code == ExitCode.FAILED
    assert not (tmp_path / "none").exists()


# Twins.


@pytest.fixture
def twin(tmp_path: Path) -> Iterator[str]:
    process = Process(tmp_path, "twin", "telegram", "--port", "0", "--json", "--tokens", "7:abc")
    yield json.loads(process.line())["url"]
    assert process.stop() == 0


def test_a_twin_takes_orders_and_shows_what_it_holds(twin: str, local: Trunkline) -> None:
    do = ("twin", "telegram", "do")
    said = local(*do, "say", "--text", "12", "--chat-id", "-5", "--url", twin, "--json").json
    assert said["chat_id"] == -5
    assert "12" in local(*do, "chat", "--chat-id", "-5", TRUNKLINE_TWIN_URL=twin).stdout
    local(*do, "raw", "--update", '{"poll": {}}', "--url", twin)
    assert local(*do, "fault", "--kind", "status", "--url", twin).exit_code == 0
    state = local("twin", "telegram", "state", "--url", twin, "--json").json
    assert (state["bots"][0]["id"], state["bots"][0]["pending_updates"]) == (7, 2)
    assert local(*do, "reset", "--url", twin).stdout == "Done.\n"


def test_an_order_that_cannot_be_carried_out_says_why(twin: str, local: Trunkline) -> None:
    do = ("twin", "telegram", "do")
    refused = local(*do, "chat", "--chat-id", "99", "--url", twin)
    assert refused.exit_code == ExitCode.FAILED
    invalid = local(*do, "say", "--text", "x", "--user-id", "zero", "--url", twin)
    assert invalid.exit_code == ExitCode.INVALID
    assert "  user_id: " in invalid.stderr
    assert local(*do, "edit", "--url", twin).exit_code == ExitCode.USAGE
    assert local(*do, "say", "--text", "x", "--url", "http://127.0.0.1:9").exit_code == ExitCode.UNREACHABLE


def test_a_twin_is_not_the_platform(local: Trunkline, serve: Serve, twin: str) -> None:
    assert local("twin", "telegram", "state", "--url", serve().url).exit_code == ExitCode.UNREACHABLE
    listed = local("events", "list", "--url", twin, TRUNKLINE_API_KEY="tl_x")
    assert listed.exit_code == ExitCode.UNREACHABLE


def test_a_twin_that_does_not_exist_is_exit_code_3(local: Trunkline) -> None:
    ran = local("twin", "nobody")
    assert ran.exit_code == ExitCode.NOT_FOUND
    assert "telegram" in ran.stderr


def test_a_twins_port_may_be_taken_and_its_settings_wrong(twin: str, local: Trunkline) -> None:
    port = twin.rpartition(":")[2]
    taken = local("twin", "telegram", "--port", port)
    assert taken.exit_code == ExitCode.FAILED
    assert f"Cannot listen on 127.0.0.1:{port}" in taken.stderr
    wrong = local("twin", "telegram", "--retry-delays", "soon", "--port", "0")
    assert wrong.exit_code == ExitCode.INVALID
    assert "retry_delays.0" in wrong.stderr
