"""Secrets go in and never come out, and open nowhere but at their own place."""

import base64
import hashlib
import hmac
import itertools
import json
import logging
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.config import Settings
from app.errors import StartupError
from app.infra import crypto
from app.integrations.errors import AuthenticationFailed
from app.integrations.specs import SecretSpec
from app.main import open_platform
from app.modules.integrations.models import Connection
from app.modules.integrations.schemas import ConnectionRequest, SecretsRequest
from app.modules.integrations.service import Connections, owner_of
from app.modules.secrets.models import Secret
from app.modules.secrets.service import EnvironmentSecrets, LiveValue, Owner, TenantKeys
from tests.support.connectors import ChatConnector, OpenConnector
from tests.support.platform import Running, eventually, registry_of, running_platform
from tests.support.storage import ON_SQLITE_ONLY
from tests.support.wire import Exchange, wire_server

TOKEN = "planted-token-1234567"
SIGNING = "planted-signing-7654321"
JSON = {"Content-Type": "application/json"}
PLANTED = ("planted-token", "planted-signing")


def connections_of(running: Running) -> Connections:
    return running.platform.instances._connections


async def live(running: Running, connection_id: str, *names: str) -> dict[str, list[str]]:
    """The values that the platform's own code is given."""

    def unit(session: Session) -> dict[str, list[str]]:
        row = session.get(Connection, connection_id)
        assert row is not None
        found = connections_of(running).secrets.live(session, owner_of(row), names)
        return {name: [v.value for v in values] for name, values in found.items()}

    return await running.platform.database.read(unit)


def signed(body: bytes, secret: str) -> dict[str, str]:
    return {"X-Signature": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


class Careless(ChatConnector):
    """Puts its token wherever a connector can put one."""

    key = "careless"

    def __init__(self, token: str, settings: Any, http: Any) -> None:
        super().__init__(token, settings, http)
        self.token = token

    async def check(self) -> None:
        raise AuthenticationFailed(f"The provider does not know the token {self.token}.")

    async def handle_webhook(self, payload: dict[str, Any]) -> Any:
        raise RuntimeError(f"with {self.token}")

    async def register_webhook(self, url: str, secrets: dict[str, str]) -> None:
        raise RuntimeError(f"{secrets}")

    async def unregister_webhook(self) -> None:
        raise RuntimeError(self.token)

    async def aclose(self) -> None:
        raise RuntimeError(self.token)


async def everything_said(running: Running, connection_id: str) -> str:
    """All that the API shows of a connection and of what happened with it."""
    one = f"/api/v1/connections/{connection_id}"
    paths = ["/api/v1/connections", one, f"{one}/secrets", f"{one}/refusals", f"{one}/polls"]
    paths += ["/api/v1/integrations", "/api/v1/integrations/chat", "/openapi.json"]
    for listed in ("webhooks", "events", "actions"):
        path = f"/api/v1/{listed}"
        paths += [path, *(f"{path}/{item['id']}" for item in (await running.get(path))["items"])]
    answers = [await running.client.get(path) for path in paths]
    assert {a.status_code for a in answers} <= {200, 404}
    return "\n".join(f"{a.headers}\n{a.text}" for a in answers)


@pytest.mark.parametrize("connector", [ChatConnector, Careless])
async def test_a_secret_never_comes_out_again(
    tmp_path: Path,
    connector: type[ChatConnector],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)

    async def repeats_all(exchange: Exchange) -> None:
        while True:
            asked = await exchange.request()
            await exchange.answer(400, asked, content_type="text/plain")

    said = []
    async with (
        wire_server(repeats_all) as provider,
        running_platform(tmp_path, connector, public_url=True) as running,
    ):
        answer = await running.client.post(
            "/api/v1/connections",
            json={
                "integration": connector.key,
                "secrets": {"token": TOKEN, "signing_secret": SIGNING},
                "settings": {"base_url": provider.url},
            },
        )
        said.append(answer.text)
        connection = answer.json()
        one = f"/api/v1/connections/{connection['id']}"
        said.append((await running.client.post(f"{one}/check")).text)
        action = await running.act(connection["id"], "send_note", {"text": "x"})
        assert action["state"] == "failed"
        assert f"authorization: bearer {TOKEN}".encode() in provider.requests[0].lower()
        body = b'{"text": "x"}'
        for headers in (signed(body, SIGNING), signed(body, "wrong"), {}):
            answer = await running.client.post(connection["webhook_url"], content=body, headers=headers)
            said.append(f"{answer.status_code} {answer.headers} {answer.text}")
        await running.settled()
        change = {
            "secrets": {"token": TOKEN + "-2", "signing_secret": SIGNING + "-2"},
            "keep_previous_for": 60,
        }
        said.append((await running.client.put(f"{one}/secrets", json=change)).text)
        said.append((await running.client.put(f"{one}/secrets", json={"secrets": {TOKEN: [SIGNING]}})).text)
        said.append((await running.client.put(f"{one}/secrets", json={"secrets": {"token": [TOKEN]}})).text)
        async with running.platform.instances.lease(connection["id"]) as lease:
            said += [
                repr(lease),
                str(lease),
                repr(lease.instance),
                repr(lease.integration),
                repr(vars(lease.instance).get("_http")),
            ]
        said.append(await everything_said(running, connection["id"]))
        await running.client.delete(one)
        said.append((await running.client.get(one)).text)
        for file in tmp_path.rglob("*"):
            if file.is_file():
                content = file.read_bytes()
                assert not any(planted.encode() in content for planted in PLANTED), file
    captured = capfd.readouterr()
    said += [captured.out, captured.err, caplog.text]
    for text in said:
        # The name of an unknown secret is the caller's own word, told back to it.
        others = text.replace(f"secrets.{TOKEN}", "")
        assert not any(planted in others for planted in PLANTED), text


def test_what_holds_a_secret_does_not_show_it() -> None:
    held = [
        LiveValue(TOKEN),
        ConnectionRequest(integration="chat", secrets={"token": TOKEN}),
        SecretsRequest(secrets={"token": TOKEN}),
        TenantKeys(TOKEN.encode()),
    ]
    for value in held:
        assert "planted" not in f"{value!r} {value}"


async def test_a_secret_of_the_platforms_own_making_is_random_and_unseen(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        made = []
        for _ in range(3):
            connection = await running.connect("chat", secrets={"token": TOKEN})
            assert connection["missing_secrets"] == []
            [value] = (await live(running, connection["id"], "signing_secret"))["signing_secret"]
            assert len(value) >= 40
            made.append(value)
            assert value not in await everything_said(running, connection["id"])
            body = b'{"text": "x"}'
            answer = await running.client.post(
                connection["webhook_url"], content=body, headers=signed(body, value)
            )
            assert answer.status_code == 200
        assert len(set(made)) == 3
        listed = (await running.get(f"/api/v1/connections/{connection['id']}/secrets"))["items"]
        assert [(s["name"], s["version"]) for s in listed] == [("signing_secret", 1), ("token", 1)]
        assert all(set(s) == {"name", "version", "set_at"} for s in listed)


# Sealed to their place.


async def test_a_row_moved_to_another_place_does_not_open(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        for tenant in ("one", "two"):
            for name in ("a", "b"):
                given = {"token": f"token-{tenant}-{name}", "signing_secret": f"signing-{tenant}-{name}"}
                await running.connect("chat", tenant=tenant, name=name, secrets=given)

        def rows(session: Session) -> list[tuple[Any, ...]]:
            return [
                tuple(row)
                for row in session.execute(
                    select(Secret.connection_id, Secret.name, Secret.tenant, Secret.sealed).order_by(
                        Secret.connection_id, Secret.name
                    )
                )
            ]

        sealed = await running.platform.database.read(rows)
        assert len({row[3] for row in sealed}) == 8

        def put_at(connection_id: str, name: str, content: bytes) -> Any:
            def unit(session: Session) -> None:
                session.execute(
                    update(Secret)
                    .where(Secret.connection_id == connection_id, Secret.name == name)
                    .values(sealed=content)
                )

            return unit

        for here, there in itertools.permutations(sealed, 2):
            await running.platform.database.write(put_at(here[0], here[1], there[3]))
            with pytest.raises(crypto.CannotOpen):
                await live(running, here[0], here[1])
            await running.platform.database.write(put_at(here[0], here[1], here[3]))
            assert len((await live(running, here[0], here[1]))[here[1]]) == 1


@pytest.mark.parametrize("column", ["version", "tenant", "connection_id", "name"])
async def test_a_row_that_says_it_is_elsewhere_gives_no_other_value(tmp_path: Path, column: str) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        mine = await running.connect(
            "chat", tenant="one", secrets={"token": TOKEN, "signing_secret": SIGNING}
        )
        other = await running.connect("chat", tenant="two", secrets={"token": "o-12345"})
        values = {
            "version": 7,
            "tenant": "two",
            "connection_id": other["id"],
            "name": "signing_secret",
        }

        def unit(session: Session) -> None:
            if column == "name":
                session.execute(delete(Secret).where(Secret.name == "signing_secret"))
            if column == "connection_id":
                session.execute(delete(Secret).where(Secret.connection_id == other["id"]))
            session.execute(
                update(Secret)
                .where(Secret.connection_id == mine["id"], Secret.name == "token")
                .values({column: values[column]})
            )

        await running.platform.database.write(unit)
        asked = other["id"] if column == "connection_id" else mine["id"]
        if column == "tenant":  # who it belongs to is the connection's word, not the row's
            assert await live(running, asked, "token") == {"token": [TOKEN]}
            return
        with pytest.raises(crypto.CannotOpen):
            await live(running, asked, "token", "signing_secret")


async def test_a_secret_that_does_not_open_is_said_and_can_be_set_anew(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        connection = await running.connect("chat", secrets={"token": TOKEN})
        one = f"/api/v1/connections/{connection['id']}"
        await running.platform.database.write(
            lambda session: session.execute(update(Secret).values(sealed=b"\0"))
        )
        checked = (await running.client.post(f"{one}/check")).json()
        assert (checked["ok"], checked["code"]) == (False, "secret_unreadable")
        assert f"PUT {one}/secrets" in checked["message"]
        action = await running.act(connection["id"], "send_note", {"text": "x"})
        assert (action["state"], action["error"]["code"]) == ("failed", "secret_unreadable")
        fresh = {"token": TOKEN, "signing_secret": SIGNING}
        assert (await running.client.put(f"{one}/secrets", json={"secrets": fresh})).status_code == 200
        assert (await running.client.post(f"{one}/check")).json()["ok"] is not False


# The master key.


async def refusal(folder: Path, **settings: Any) -> str:
    """Why the platform does not start, with what to do."""
    try:
        await open_platform(
            Settings(data_dir=folder, **settings), lambda: "http://127.0.0.1:9", registry_of(ChatConnector)
        )
    except StartupError as error:
        return f"{error.message} {error.remedy}"
    pytest.fail("it started")


@ON_SQLITE_ONLY
async def test_another_master_key_refuses_to_start_and_the_right_one_still_does(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        connection = await running.connect("chat", secrets={"token": TOKEN})
    key_file = tmp_path / "master.key"
    assert key_file.stat().st_mode & 0o777 == 0o600
    right = key_file.read_text()
    other = base64.b64encode(crypto.new_key()).decode()
    said = await refusal(tmp_path, master_key=other)
    assert "not the one that this database was written with" in said
    assert "TRUNKLINE_MASTER_KEY" in said
    assert other not in said
    key_file.write_text(other)
    assert "not the one" in await refusal(tmp_path)
    key_file.unlink()
    assert "is gone" in await refusal(tmp_path)
    assert not key_file.exists(), "a new key would only hide that the right one is missing"
    assert "TRUNKLINE_MASTER_KEY is not 32 bytes" in await refusal(tmp_path, master_key="short")
    async with running_platform(tmp_path, ChatConnector, master_key=right.strip()) as running:
        assert (await live(running, connection["id"], "token"))["token"] == [TOKEN]


async def test_a_master_key_from_outside_is_written_nowhere(tmp_path: Path) -> None:
    key = base64.b64encode(crypto.new_key()).decode()
    async with running_platform(tmp_path, ChatConnector, master_key=key) as running:
        await running.connect("chat", secrets={"token": TOKEN})
        for file in tmp_path.rglob("*"):
            if file.is_file():
                assert key.encode() not in file.read_bytes()
                assert base64.b64decode(key) not in file.read_bytes()
    assert not (tmp_path / "master.key").exists()


# Setting them.


async def test_secrets_that_cannot_be_are_refused_by_name(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector, OpenConnector) as running:
        connection = await running.connect("chat", secrets={"token": TOKEN})
        path = f"/api/v1/connections/{connection['id']}/secrets"
        for given, code, problem_paths in (
            ({"other": "x"}, "unknown_secret", ["secrets.other"]),
            ({"token": "x", "b": "x", "a": "x"}, "unknown_secret", ["secrets.a", "secrets.b"]),
            ({"n" * 500: "x"}, "unknown_secret", ["secrets." + "n" * 100]),
            ({"token": ""}, "empty_secret", ["secrets.token"]),
            (
                {"signing_secret": "", "token": ""},
                "empty_secret",
                ["secrets.signing_secret", "secrets.token"],
            ),
            ({"token": 7}, "invalid_request", ["secrets.token"]),
            ({"token": None}, "invalid_request", ["secrets.token"]),
            ({"token": "\ud800"}, "invalid_request", []),
        ):
            made, changed = {"integration": "chat", "secrets": given}, {"secrets": given}
            for answer in (
                await running.client.post("/api/v1/connections", content=json.dumps(made), headers=JSON),
                await running.client.put(path, content=json.dumps(changed), headers=JSON),
            ):
                assert answer.status_code == 422, (given, answer.text)
                assert answer.json()["code"] == code, (given, answer.text)
                assert [p["path"] for p in answer.json()["problems"]] == problem_paths
        for body in ({}, {"secrets": {}}, {"secrets": {"token": "x"}, "keep_previous_for": -1}):
            assert (await running.client.put(path, json=body)).status_code == 422
        too_long = {"secrets": {"token": "x"}, "keep_previous_for": 30 * 24 * 3600 + 1}
        assert (await running.client.put(path, json=too_long)).status_code == 422
        assert len((await running.get("/api/v1/connections"))["items"]) == 1, "nothing was half made"
        assert (await live(running, connection["id"], "token"))["token"] == [TOKEN]
        body = {"integration": "open", "secrets": {"token": "x"}}
        answer = await running.client.post("/api/v1/connections", json=body)
        assert answer.json()["code"] == "unknown_secret"
        assert "takes: none" in answer.json()["remedy"]


async def test_a_new_value_replaces_and_its_version_grows(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        connection = await running.connect("chat", secrets={"token": "first", "signing_secret": SIGNING})
        path = f"/api/v1/connections/{connection['id']}/secrets"
        for version, value in enumerate(("second", "third"), start=2):
            assert (await running.client.put(path, json={"secrets": {"token": value}})).status_code == 200
            shown = {s["name"]: s["version"] for s in (await running.get(path))["items"]}
            assert shown == {"token": version, "signing_secret": 1}
            assert (await live(running, connection["id"], "token", "signing_secret")) == {
                "token": [value],
                "signing_secret": [SIGNING],
            }


async def test_the_time_of_previous_values_ends_together(tmp_path: Path) -> None:
    """Cutting a leaked secret off cuts off what an earlier rotation kept alive too."""
    async with running_platform(tmp_path, ChatConnector) as running:
        connection = await running.connect("chat", secrets={"token": "t-1234567", "signing_secret": "one"})
        path = f"/api/v1/connections/{connection['id']}/secrets"

        async def rotate(value: str, keep: int) -> list[str]:
            body = {"secrets": {"signing_secret": value}, "keep_previous_for": keep}
            assert (await running.client.put(path, json=body)).status_code == 200
            return (await live(running, connection["id"], "signing_secret"))["signing_secret"]

        assert await rotate("two", 3600) == ["two", "one"]
        assert await rotate("three", 3600) == ["three", "two", "one"]
        assert await rotate("four", 0) == ["four"]
        assert await rotate("five", 2) == ["five", "four"]

        async def now() -> list[str]:
            return (await live(running, connection["id"], "signing_secret"))["signing_secret"]

        assert await eventually(now, lambda values: len(values) == 1) == ["five"]


async def test_a_missing_secret_is_named_wherever_it_is_missed(tmp_path: Path) -> None:
    class TwoSecrets(ChatConnector):
        secrets = [
            SecretSpec("token", "x"),
            SecretSpec("signing_secret", "x"),
            SecretSpec("extra", "x", required=False),
        ]

        def __init__(self, token: str, settings: Any, http: Any, extra: str = "unset") -> None:
            super().__init__(token, settings, http)

    async with running_platform(tmp_path, TwoSecrets) as running:
        connection = await running.connect("chat")
        assert (connection["state"], connection["missing_secrets"]) == (
            "incomplete",
            ["token", "signing_secret"],
        )
        one = f"/api/v1/connections/{connection['id']}"
        checked = (await running.client.post(f"{one}/check")).json()
        assert (checked["ok"], checked["code"]) == (False, "secret_missing")
        assert "token, signing_secret" in checked["message"]
        action = await running.act(connection["id"], "send_note", {"text": "x"})
        assert (action["state"], action["error"]["code"]) == ("failed", "secret_missing")
        answer = await running.client.post(
            connection["webhook_url"], content=b"{}", headers={"X-Signature": "sha256=" + "0" * 64}
        )
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        [refusal] = (await running.get(f"{one}/refusals"))["items"]
        assert refusal["code"] == "secret_missing"
        assert "signing_secret" in refusal["message"]
        given = {"secrets": {"token": TOKEN, "signing_secret": SIGNING}}
        ready = (await running.client.put(f"{one}/secrets", json=given)).json()
        assert (ready["state"], ready["missing_secrets"]) == ("ready", [])
        body = b'{"text": "x"}'
        answer = await running.client.post(
            connection["webhook_url"], content=body, headers=signed(body, SIGNING)
        )
        assert answer.status_code == 200


# In the environment.


async def test_secrets_may_live_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_platform(tmp_path, ChatConnector, secret_store="environment") as running:
        answer = await running.client.post(
            "/api/v1/connections",
            json={"integration": "chat", "name": "Support (EU)", "secrets": {"token": TOKEN}},
        )
        assert (answer.status_code, answer.json()["code"]) == (409, "secrets_read_only")
        assert "TRUNKLINE_SECRET__DEFAULT__SUPPORT_EU__TOKEN" in answer.json()["remedy"]
        assert TOKEN not in answer.text
        connection = await running.connect("chat", name="Support (EU)")
        assert connection["missing_secrets"] == ["token", "signing_secret"]
        one = f"/api/v1/connections/{connection['id']}"
        checked = (await running.client.post(f"{one}/check")).json()
        assert "Set the variable TRUNKLINE_SECRET__DEFAULT__SUPPORT_EU__TOKEN" in checked["message"]
        answer = await running.client.put(f"{one}/secrets", json={"secrets": {"token": TOKEN}})
        assert (answer.status_code, answer.json()["code"]) == (409, "secrets_read_only")
    monkeypatch.setenv("TRUNKLINE_SECRET__DEFAULT__SUPPORT_EU__TOKEN", TOKEN)
    monkeypatch.setenv("TRUNKLINE_SECRET__DEFAULT__SUPPORT_EU__SIGNING_SECRET", SIGNING)
    async with running_platform(tmp_path, ChatConnector, secret_store="environment") as running:
        shown = await running.get(one)
        assert (shown["state"], shown["missing_secrets"]) == ("ready", [])
        assert (await running.client.post(f"{one}/check")).json()["ok"] is not False
        body = b'{"text": "x"}'
        answer = await running.client.post(shown["webhook_url"], content=body, headers=signed(body, SIGNING))
        assert answer.status_code == 200
        elsewhere = await running.connect("chat", name="Support (EU)", tenant="acme")
        assert elsewhere["state"] == "incomplete", "another tenant's variable is another"
        renamed = (await running.client.patch(one, json={"name": "Sales"})).json()
        assert renamed["missing_secrets"] == ["token", "signing_secret"]
        listed = (await running.client.get(f"{one}/secrets")).text
        assert TOKEN not in listed


def test_variables_of_different_owners_differ() -> None:
    owners = [
        Owner(tenant, "con_1", name)
        for tenant in ("a", "a-b", "b", "ab")
        for name in ("b", "a b", "b a", "a", "b-c")
    ]
    variables = {EnvironmentSecrets.variable(owner, secret) for owner in owners for secret in ("c", "b_c")}
    assert len(variables) == len(owners) * 2
    assert all(re.fullmatch(r"TRUNKLINE_SECRET__[A-Z0-9_]+", variable) for variable in variables)


@ON_SQLITE_ONLY
async def test_the_database_holds_only_sealed_values(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        connection = await running.connect("chat", secrets={"token": TOKEN})
        webhook_token = connection["webhook_url"].rsplit("/", 1)[1]
        for file in tmp_path.rglob("*"):
            if file.is_file():
                assert TOKEN.encode() not in file.read_bytes(), file
                assert webhook_token.encode() not in file.read_bytes(), file
    with sqlite3.connect(tmp_path / "trunkline.db") as database:
        sizes = dict(database.execute("SELECT name, length(sealed) FROM secrets"))
        assert sizes["token"] == len(TOKEN) + 12 + 16
        assert database.execute("SELECT count(*) FROM tenant_keys").fetchone() == (1,)
