"""The catalogue, and a connection's life: settings, instances, checks, what the provider is told."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr
from sqlalchemy import func, select

from app.integrations.base import BaseIntegration
from app.integrations.errors import AuthenticationFailed, NotSent, RateLimited, Rejected, Unavailable
from app.integrations.specs import ActionSpec, EventSpec, SecretSpec
from app.modules.integrations import registration
from app.modules.integrations.models import Connection, ConnectionUrl
from app.modules.secrets.models import Secret
from tests.support.connectors import ChatConnector, Note, OpenConnector
from tests.support.platform import Running, eventually, running_platform
from tests.support.storage import waiting_work

PUBLIC = "https://hooks.example.com"


@dataclass
class Provider:
    """What a connector did, and how its provider behaves."""

    registered: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    unregistered: int = 0
    built: list[Any] = field(default_factory=list)
    closed: list[Any] = field(default_factory=list)
    fault: BaseException | None = None
    hold: asyncio.Event | None = None
    """Set: whoever calls waits for it."""

    async def behave(self) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.fault is not None:
            raise self.fault

    @property
    def urls(self) -> list[str]:
        return [url for url, _ in self.registered]


class HookedSettings(BaseModel):
    greeting: str = "hello"


def hooked(provider: Provider) -> type[BaseIntegration]:
    """A connector that tells its provider where to send webhooks."""

    class Hooked(OpenConnector):
        name = "Hooked"
        key = "hooked"
        secrets = [SecretSpec("token", "A token"), SecretSpec("extra", "Optional", required=False)]
        settings_model = HookedSettings
        events = [EventSpec("open.thing.happened", "It happened")]
        actions = [ActionSpec("send_note", "Sends", Note, "send_note")]

        def __init__(self, token: str, settings: HookedSettings, extra: str | None = None) -> None:
            self.given = (token, settings.greeting, extra)
            provider.built.append(self)

        async def check(self) -> None:
            await provider.behave()

        async def register_webhook(self, url: str, secrets: dict[str, str]) -> None:
            await provider.behave()
            provider.registered.append((url, secrets))

        async def unregister_webhook(self) -> None:
            await provider.behave()
            provider.unregistered += 1

        async def send_note(self, note: Note) -> list[Any]:
            if provider.hold is not None:
                await provider.hold.wait()
            return list(self.given)

        async def aclose(self) -> None:
            provider.closed.append(self)

    return Hooked


async def connect(running: Running, **more: Any) -> dict[str, Any]:
    return await running.connect("hooked", **{"secrets": {"token": "t-1234567"}} | more)


async def shown(running: Running, connection: dict[str, Any]) -> dict[str, Any]:
    return await running.get(f"/api/v1/connections/{connection['id']}")


async def registration_is(running: Running, connection: dict[str, Any], state: str) -> dict[str, Any]:
    """The connection once its registration has that state."""
    return await eventually(
        lambda: shown(running, connection), lambda c: c["registration"]["state"] == state, 10
    )


async def quiet(running: Running) -> None:
    """Until no work waits: what was going to happen has happened."""
    await eventually(lambda: running.platform.database.read(waiting_work), lambda count: count == 0, 10)


async def change(running: Running, connection: dict[str, Any], **body: Any) -> dict[str, Any]:
    answer = await running.client.patch(f"/api/v1/connections/{connection['id']}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def set_secrets(running: Running, connection: dict[str, Any], **values: str) -> dict[str, Any]:
    path = f"/api/v1/connections/{connection['id']}/secrets"
    answer = await running.client.put(path, json={"secrets": values})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def rotate(running: Running, connection: dict[str, Any], **body: Any) -> dict[str, Any]:
    answer = await running.client.post(
        f"/api/v1/connections/{connection['id']}/rotate-url", json=body or None
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


# Making, showing, listing.


async def test_a_connection_is_made_shown_and_listed(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector, OpenConnector) as running:
        made = await running.connect("open", name="First")
        assert made["id"].startswith("con_")
        assert (made["name"], made["tenant"], made["integration"]) == ("First", "default", "open")
        assert (made["enabled"], made["state"], made["settings"]) == (True, "ready", {})
        assert made["registration"] == {"state": "none", "error": None}
        assert made["webhook_url"].startswith(f"{running.url}/webhooks/open/")
        assert len(made["webhook_url"].rsplit("/", 1)[1]) >= 43
        assert await shown(running, made) == made
        assert (await running.connect("open"))["name"] == "open"
        ids = [made["id"]] + [(await running.connect("open"))["id"] for _ in range(4)]
        listed: list[str] = []
        after = None
        while True:
            query = {"limit": 2} | ({"after": after} if after else {})
            page = await running.get("/api/v1/connections", params=query)
            listed += [c["id"] for c in page["items"]]
            after = page["next"]
            if after is None:
                break
        assert [i for i in listed if i in ids] == ids
        assert len(listed) == len(set(listed)) == 6


async def test_two_connections_never_share_a_url(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        urls = [(await running.connect("open"))["webhook_url"] for _ in range(5)]
        assert len(set(urls)) == 5


# Settings.


class Region(BaseModel):
    name: str
    weight: float = 1.0


class Everything(BaseModel):
    base_url: str
    limit: int = Field(default=10, ge=1, le=100)
    regions: list[Region] = []
    account: str = Field(default="", alias="accountId")
    client: str = Field(default_factory=lambda: str(object()))
    number: int = 0
    password: SecretStr | None = None


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")

    known: int = 0


def with_settings(model: type[BaseModel]) -> tuple[type[BaseIntegration], list[Any]]:
    built: list[Any] = []

    class Configured(OpenConnector):
        key = "configured"
        settings_model = model

        def __init__(self, settings: Any) -> None:
            built.append(settings)

    return Configured, built


async def test_settings_that_do_not_fit_are_refused_by_their_paths(tmp_path: Path) -> None:
    connector, _ = with_settings(Everything)
    async with running_platform(tmp_path, connector, OpenConnector) as running:
        good = {"base_url": "https://x", "limit": 5}
        connection = await running.connect("configured", settings=good)
        for settings, paths in (
            ({}, ["settings.base_url"]),
            ({"base_url": 7, "limit": 0}, ["settings.base_url", "settings.limit"]),
            ({"base_url": "x", "limit": "planted"}, ["settings.limit"]),
            ({"base_url": "x", "bsae_url": "planted"}, ["settings.bsae_url"]),
            (
                {"base_url": "x", "regions": [{"name": "a"}, {"nmae": "b"}]},
                ["settings.regions.1.name", "settings.regions.1.nmae"],
            ),
            ({"base_url": "x", "account": "by its other name"}, ["settings.account"]),
            ({"base_url": "x", "regions": [{"name": "a", "weight": float("nan")}]}, ["settings"]),
            ({"base_url": "x", "number": 2**70}, ["settings"]),
            ({"base_url": "\ud800"}, ["settings"]),
            ({"base_url": "x", "password": "planted"}, ["settings"]),
        ):
            body = {"integration": "configured", "settings": settings}
            headers = {"Content-Type": "application/json"}
            for answer in (
                await running.client.post("/api/v1/connections", content=json.dumps(body), headers=headers),
                await running.client.patch(
                    f"/api/v1/connections/{connection['id']}",
                    content=json.dumps({"settings": settings}),
                    headers=headers,
                ),
            ):
                assert answer.status_code == 422, (settings, answer.text)
                assert answer.json()["code"] == "invalid_settings"
                assert [p["path"] for p in answer.json()["problems"]] == paths
                assert "planted" not in answer.text
        assert (await shown(running, connection))["settings"] == good
        answer = await running.client.post(
            "/api/v1/connections", json={"integration": "open", "settings": {"base_url": "x"}}
        )
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_settings")
        assert "no settings" in answer.json()["title"]


async def test_settings_reach_the_connector_as_they_were_given(tmp_path: Path) -> None:
    connector, built = with_settings(Everything)
    async with running_platform(tmp_path, connector) as running:
        given = {"base_url": "https://é", "accountId": "a-1", "regions": [{"name": "eu", "weight": 0.1}]}
        connection = await running.connect("configured", settings=given)
        assert connection["settings"] == given, "defaults are not stored: a new version may bring others"
        assert (await running.client.post(f"/api/v1/connections/{connection['id']}/check")).json()[
            "ok"
        ] is not False
        assert built[-1].account == "a-1"
        assert built[-1].regions == [Region(name="eu", weight=0.1)]
        assert built[-1].limit == 10
        changed = await change(running, connection, settings={"base_url": "https://y"})
        assert changed["settings"] == {"base_url": "https://y"}, "they are replaced as a whole"
        assert (await running.client.post(f"/api/v1/connections/{connection['id']}/check")).json()[
            "ok"
        ] is not False
        assert (built[-1].base_url, built[-1].account) == ("https://y", "")


async def test_a_model_that_takes_everything_may(tmp_path: Path) -> None:
    connector, built = with_settings(Loose)
    async with running_platform(tmp_path, connector) as running:
        connection = await running.connect("configured", settings={"known": 1, "more": {"a": [1]}})
        assert connection["settings"] == {"known": 1, "more": {"a": [1]}}
        await running.client.post(f"/api/v1/connections/{connection['id']}/check")
        assert built[-1].more == {"a": [1]}


# Changing and removing.


async def test_a_connection_is_changed_only_where_it_is_asked(tmp_path: Path) -> None:
    async with running_platform(tmp_path, hooked(Provider())) as running:
        before = await connect(running, name="Before", settings={"greeting": "hi"})
        after = await change(running, before, name="After")
        assert after == before | {"name": "After", "updated_at": after["updated_at"]}
        assert after["updated_at"] >= before["updated_at"]
        assert (await change(running, before))["name"] == "After"
        assert (await change(running, before, name=None, enabled=None))["name"] == "After"
        path = f"/api/v1/connections/{before['id']}"
        for body in (
            {"name": ""},
            {"name": "x" * 201},
            {"id": "con_1"},
            {"enabled": "perhaps"},
            {"tenant": "x"},
        ):
            assert (await running.client.patch(path, json=body)).status_code == 422, body
        assert (await shown(running, before))["name"] == "After"


async def test_a_disabled_connection_does_nothing_until_it_is_enabled(tmp_path: Path) -> None:
    async with running_platform(tmp_path, hooked(Provider())) as running:
        connection = await connect(running)
        assert (await running.client.post(connection["webhook_url"], content=b"{}")).status_code == 200
        assert (await change(running, connection, enabled=False))["state"] == "disabled"
        assert (await running.client.post(connection["webhook_url"], content=b"{}")).status_code == 404
        answer = await running.client.post(
            f"/api/v1/connections/{connection['id']}/actions",
            json={"type": "send_note", "payload": {"text": "x"}},
        )
        assert (answer.status_code, answer.json()["code"]) == (409, "connection_disabled")
        assert (await change(running, connection, enabled=True))["state"] == "ready"
        assert (await running.client.post(connection["webhook_url"], content=b"{}")).status_code == 200
        assert (await running.act(connection["id"], "send_note", {"text": "x"}))["state"] == "succeeded"


async def test_a_removed_connection_is_gone_and_its_events_stay(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        connection, other = await running.connect("open"), await running.connect("open")
        await running.client.post(connection["webhook_url"], content=b'{"id": "1"}')
        await running.feed_of(1)
        path = f"/api/v1/connections/{connection['id']}"
        gone = await running.client.delete(path)
        assert (gone.status_code, gone.content) == (204, b"")
        assert (await running.client.post(connection["webhook_url"], content=b"{}")).status_code == 404
        for method, end in (
            ("GET", ""),
            ("DELETE", ""),
            ("PATCH", ""),
            ("POST", "/check"),
            ("GET", "/secrets"),
        ):
            answer = await running.client.request(method, path + end, json={} if method == "PATCH" else None)
            assert answer.status_code == 404, (method, end)
        assert [c["id"] for c in (await running.get("/api/v1/connections"))["items"]] == [other["id"]]
        assert len(await running.feed(connection=connection["id"])) == 1


async def test_an_old_url_ends_when_a_later_rotation_says_so(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        first = await running.connect("open")

        async def status(connection: dict[str, Any]) -> int:
            return (await running.client.post(connection["webhook_url"], content=b"{}")).status_code

        second = await rotate(running, first)
        third = await rotate(running, first, keep_previous_for=3600)
        assert [await status(c) for c in (first, second, third)] == [200, 200, 200]
        fourth = await rotate(running, first, keep_previous_for=0)
        assert [await status(c) for c in (first, second, third, fourth)] == [404, 404, 404, 200]
        for bad in (-1, 30 * 24 * 3600 + 1):
            answer = await running.client.post(
                f"/api/v1/connections/{first['id']}/rotate-url", json={"keep_previous_for": bad}
            )
            assert answer.status_code == 422


# Checking credentials.


async def test_a_check_tells_a_bad_credential_from_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = Provider()
    monkeypatch.setattr("app.modules.integrations.router.CHECK_SECONDS", 0.1)
    async with running_platform(tmp_path, hooked(provider)) as running:
        connection = await connect(running)

        async def check(fault: BaseException | None = None) -> dict[str, Any]:
            provider.fault = fault
            answer = await running.client.post(f"/api/v1/connections/{connection['id']}/check")
            assert answer.status_code == 200, answer.text
            return answer.json()

        assert (await check())["ok"] is True
        for fault, code in (
            (AuthenticationFailed("The token t-1234567 is bad.", status=401), "authentication_failed"),
            (Unavailable("It answers 503.", status=503), "provider_unavailable"),
            (NotSent("It is not there."), "not_sent"),
            (RateLimited("Later."), "rate_limited"),
            (Rejected("No."), "rejected"),
            (RuntimeError("with t-1234567"), "connector_error"),
            (SystemExit(3), "connector_error"),
            (StopAsyncIteration(), "connector_error"),
        ):
            found = await check(fault)
            assert (found["ok"], found["code"]) == (False, code)
            assert found["message"]
            assert "t-1234567" not in found["message"]
        provider.fault, provider.hold = None, asyncio.Event()
        found = await check()
        assert (found["ok"], found["code"]) == (False, "provider_unavailable")
        provider.hold = None
        assert (await check())["ok"] is True


async def test_a_check_may_be_a_plain_function(tmp_path: Path) -> None:
    class Plain(OpenConnector):
        def check(self) -> None:
            raise AuthenticationFailed("no")

    async with running_platform(tmp_path, Plain) as running:
        connection = await running.connect("open")
        found = (await running.client.post(f"/api/v1/connections/{connection['id']}/check")).json()
        assert found["code"] == "authentication_failed"


# Instances.


async def test_an_instance_is_kept_until_its_configuration_changes(tmp_path: Path) -> None:
    provider = Provider()
    async with running_platform(tmp_path, hooked(provider)) as running:
        connection, other = await connect(running), await connect(running)

        async def given() -> Any:
            action = await running.act(connection["id"], "send_note", {"text": "x"})
            assert action["state"] == "succeeded", action
            return action["result"]

        assert await given() == ["t-1234567", "hello", None]
        assert await given() == ["t-1234567", "hello", None]
        assert len(provider.built) == 1
        await change(running, other, name="Another")
        assert await given() == ["t-1234567", "hello", None]
        assert (len(provider.built), provider.closed) == (1, [])

        await set_secrets(running, connection, token="t-second")
        assert await given() == ["t-second", "hello", None]
        await set_secrets(running, connection, extra="e-1")
        assert await given() == ["t-second", "hello", "e-1"]
        await change(running, connection, settings={"greeting": "hi"})
        assert await given() == ["t-second", "hi", "e-1"]
        assert len(provider.built) == 4
        assert provider.closed == provider.built[:3]
        await change(running, connection, enabled=False)
        await change(running, connection, enabled=True)
        assert await given() == ["t-second", "hi", "e-1"]
        assert len(provider.built) == 4
    assert provider.closed == provider.built


async def test_an_instance_in_use_is_closed_when_its_last_user_is_done(tmp_path: Path) -> None:
    provider = Provider(hold=asyncio.Event())
    async with running_platform(tmp_path, hooked(provider)) as running:
        connection = await connect(running)
        acting = [
            asyncio.create_task(running.act(connection["id"], "send_note", {"text": "x"})) for _ in range(3)
        ]

        async def leases() -> int:
            current = running.platform.instances._current.get(connection["id"])
            return current._users if current else 0

        await eventually(leases, lambda users: users == 3)
        await set_secrets(running, connection, token="t-second")
        async with running.platform.instances.lease(connection["id"]) as lease:
            assert lease.secrets["token"] == "t-second"
        assert (len(provider.built), provider.closed) == (2, []), "three calls still run on the first"
        assert provider.hold is not None
        provider.hold.set()
        for action in await asyncio.gather(*acting):
            assert action["result"] == ["t-1234567", "hello", None]
        assert provider.closed == provider.built[:1]
    assert provider.closed == provider.built


async def test_callers_at_the_same_time_share_one_instance(tmp_path: Path) -> None:
    provider = Provider()
    async with running_platform(tmp_path, hooked(provider)) as running:
        connection = await connect(running)
        instances = running.platform.instances

        async def use() -> Any:
            async with instances.lease(connection["id"]) as lease:
                await asyncio.sleep(0)
                return lease.instance

        assert len({id(i) for i in await asyncio.gather(*(use() for _ in range(20)))}) == 1
        assert len(provider.built) == 1


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
async def test_a_constructor_that_fails_is_said_without_its_words(
    tmp_path: Path, kind: type[BaseException]
) -> None:
    class Failing(ChatConnector):
        def __init__(self, token: str, settings: Any, http: Any) -> None:
            raise kind(f"bad token {token}")

    async with running_platform(tmp_path, Failing) as running:
        connection = await running.connect("chat", secrets={"token": "t-planted"})
        found = await running.client.post(f"/api/v1/connections/{connection['id']}/check")
        assert found.json()["code"] == "connector_failed"
        assert kind.__name__ in found.text
        assert "t-planted" not in found.text
        action = await running.act(connection["id"], "send_note", {"text": "x"})
        assert (action["state"], action["error"]["code"]) == ("failed", "connector_failed")


async def test_a_farewell_that_hangs_or_fails_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.modules.integrations.instances.CLOSE_SECONDS", 0.05)

    class Hanging(ChatConnector):
        async def aclose(self) -> None:
            await asyncio.Event().wait()

    class Plain(ChatConnector):
        key = "plain"

        def aclose(self) -> None:  # type: ignore[override]
            raise RuntimeError

    async with running_platform(tmp_path, Hanging, Plain) as running:
        for key in ("chat", "plain"):
            connection = await running.connect(key, secrets={"token": "t-1234567"})
            for token in ("t-second", "t-third"):
                path = f"/api/v1/connections/{connection['id']}"
                assert (await running.client.post(f"{path}/check")).json()["ok"] is not False
                await set_secrets(running, connection, token=token)
            assert (await running.client.post(f"{path}/check")).json()["ok"] is not False


# What the provider is told.


async def test_the_provider_is_told_of_every_change_and_of_nothing_else(tmp_path: Path) -> None:
    provider = Provider()
    connector = hooked(provider)
    async with running_platform(tmp_path, connector, public_url=PUBLIC) as running:
        connection = await connect(running)
        assert connection["webhook_url"].startswith(f"{PUBLIC}/webhooks/hooked/")
        await registration_is(running, connection, "done")
        assert provider.registered == [(connection["webhook_url"], {"token": "t-1234567"})]

        rotated = await rotate(running, connection)
        await quiet(running)
        assert provider.registered[1:] == [(rotated["webhook_url"], {"token": "t-1234567"})]
        assert rotated["webhook_url"] != connection["webhook_url"]

        await set_secrets(running, connection, token="t-second")
        await quiet(running)
        assert provider.registered[2:] == [(rotated["webhook_url"], {"token": "t-second"})]

        await change(running, connection, settings={"greeting": "hi"})
        await quiet(running)
        assert len(provider.registered) == 4
        await change(running, connection, name="Renamed")
        await change(running, connection, enabled=False)
        await change(running, connection, enabled=True)
        await quiet(running)
        assert len(provider.registered) == 4
        assert (await shown(running, connection))["registration"] == {"state": "done", "error": None}

    async with running_platform(tmp_path, connector, public_url=PUBLIC) as running:
        await quiet(running)
        assert len(provider.registered) == 4, "nothing has changed"

    async with running_platform(tmp_path, connector, public_url="https://elsewhere.example") as running:
        await quiet(running)
        assert provider.urls[4:] == [rotated["webhook_url"].replace(PUBLIC, "https://elsewhere.example")]
        await registration_is(running, connection, "done")


async def test_without_a_public_address_there_is_nothing_to_tell(tmp_path: Path) -> None:
    provider = Provider()
    connector = hooked(provider)
    async with running_platform(tmp_path, connector) as running:
        connection = await connect(running)
        await quiet(running)
        assert (await shown(running, connection))["registration"]["state"] == "none"
        assert provider.registered == []
    async with running_platform(tmp_path, connector, public_url=PUBLIC) as running:
        await registration_is(running, connection, "done")
        assert len(provider.registered) == 1


async def test_a_disabled_connection_is_registered_when_it_is_enabled(tmp_path: Path) -> None:
    provider = Provider()
    async with running_platform(tmp_path, hooked(provider), public_url=PUBLIC) as running:
        connection = await connect(running, enabled=False)
        await quiet(running)
        assert provider.registered == []
        await change(running, connection, enabled=True)
        await registration_is(running, connection, "done")
        assert len(provider.registered) == 1


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Unavailable("The provider answered 503.", retry_after=0.05), "The provider answered 503."),
        (RateLimited("Later.", retry_after=0.05), "Later."),
        (Unavailable("It does not know t-1234567."), "It does not know ***."),
        (RuntimeError("with t-1234567"), "The connector failed with RuntimeError."),
        (SystemExit("with t-1234567"), "The connector failed with TriedToEnd."),
    ],
)
async def test_an_outage_at_the_provider_is_shown_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, said: str
) -> None:
    monkeypatch.setattr(registration, "RETRY_MS", 50)
    provider = Provider(fault=fault)
    async with running_platform(tmp_path, hooked(provider), public_url=PUBLIC) as running:
        connection = await connect(running)
        failed = await registration_is(running, connection, "failed")
        assert failed["registration"]["error"] == said
        assert failed["state"] == "ready", "it can still act"
        provider.fault = None
        done = await registration_is(running, connection, "done")
        assert done["registration"]["error"] is None
        await quiet(running)
        assert provider.urls == [connection["webhook_url"]]


async def test_a_provider_that_does_not_answer_is_given_up_on_for_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "RETRY_MS", 50)
    monkeypatch.setattr(registration, "CALL_SECONDS", 0.05)
    provider = Provider(hold=asyncio.Event())
    async with running_platform(tmp_path, hooked(provider), public_url=PUBLIC) as running:
        connection = await connect(running)
        failed = await registration_is(running, connection, "failed")
        assert "longer than" in failed["registration"]["error"]
        provider.hold = None
        await registration_is(running, connection, "done")


@pytest.mark.parametrize("fault", [AuthenticationFailed("Bad token."), Rejected("No such bot.")])
async def test_a_refusal_of_the_provider_waits_for_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr(registration, "RETRY_MS", 10)
    provider = Provider(fault=fault)
    async with running_platform(tmp_path, hooked(provider), public_url=PUBLIC) as running:
        connection = await connect(running)
        failed = await registration_is(running, connection, "failed")
        assert failed["registration"]["error"] == str(fault)
        provider.fault = None
        await quiet(running)
        assert provider.registered == []
        await set_secrets(running, connection, token="t-better")
        await registration_is(running, connection, "done")
        assert provider.registered == [(connection["webhook_url"], {"token": "t-better"})]


async def test_a_missing_secret_is_said_by_the_registration_too(tmp_path: Path) -> None:
    provider = Provider()
    async with running_platform(tmp_path, hooked(provider), public_url=PUBLIC) as running:
        connection = await connect(running, secrets={})
        failed = await registration_is(running, connection, "failed")
        assert "token" in failed["registration"]["error"]
        await set_secrets(running, connection, token="t-1234567")
        await registration_is(running, connection, "done")


async def test_the_provider_has_the_last_url_whatever_overlaps(tmp_path: Path) -> None:
    provider = Provider(hold=asyncio.Event())
    async with running_platform(tmp_path, hooked(provider), public_url=PUBLIC) as running:
        connection = await connect(running)
        await registration_is(running, connection, "pending")
        last = connection
        for _ in range(3):
            last = await rotate(running, connection)
        assert provider.hold is not None
        provider.hold.set()
        await quiet(running)
        assert (await shown(running, connection))["registration"]["state"] == "done"
        assert provider.urls[-1] == last["webhook_url"]
        assert len(provider.urls) == 2, "those in between were never current"


# Taking leave.


async def left_of(running: Running, connection: dict[str, Any]) -> tuple[int, int]:
    """Secrets and URLs that are still stored."""
    return await running.platform.database.read(
        lambda s: (
            s.scalar(select(func.count()).where(Secret.connection_id == connection["id"])) or 0,
            s.scalar(select(func.count()).where(ConnectionUrl.connection_id == connection["id"])) or 0,
        )
    )


async def remove(running: Running, connection: dict[str, Any]) -> None:
    assert (await running.client.delete(f"/api/v1/connections/{connection['id']}")).status_code == 204


async def test_a_removed_connection_takes_leave_of_its_provider_and_its_secrets(tmp_path: Path) -> None:
    provider = Provider()
    async with running_platform(tmp_path, hooked(provider), public_url=PUBLIC) as running:
        connection = await connect(running)
        await registration_is(running, connection, "done")
        assert await left_of(running, connection) == (1, 1)
        await remove(running, connection)
        await quiet(running)
        assert provider.unregistered == 1
        assert await left_of(running, connection) == (0, 0)
        assert provider.closed == provider.built, "the instance held the secrets too"
        assert running.platform.instances._current == {}
        row = await running.platform.database.read(lambda s: s.get(Connection, connection["id"]))
        assert row is not None, "what refers to it can still say what it was"


@pytest.mark.parametrize(
    "fault", [AuthenticationFailed("The token was revoked."), Rejected("There is none.")]
)
async def test_a_provider_that_refuses_the_farewell_is_not_asked_again(
    tmp_path: Path, fault: Exception
) -> None:
    provider = Provider()
    async with running_platform(tmp_path, hooked(provider), public_url=PUBLIC) as running:
        connection = await connect(running)
        await registration_is(running, connection, "done")
        provider.fault = fault
        await remove(running, connection)
        await quiet(running)
        assert await left_of(running, connection) == (0, 0)


@pytest.mark.parametrize("fault", [Unavailable("It answers 503."), RuntimeError("a bug")])
async def test_a_provider_that_is_down_is_told_later_and_given_up_on_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr(registration, "RETRY_MS", 30)
    provider = Provider()
    async with running_platform(tmp_path, hooked(provider), public_url=PUBLIC) as running:
        first, second = await connect(running), await connect(running)
        for connection in (first, second):
            await registration_is(running, connection, "done")
        provider.fault = fault
        await remove(running, first)
        await asyncio.sleep(0.1)
        assert await left_of(running, first) == (1, 1), "it will be needed to take leave"
        provider.fault = None
        await quiet(running)
        assert provider.unregistered == 1
        assert await left_of(running, first) == (0, 0)

        provider.fault = fault
        monkeypatch.setattr(registration, "GIVE_UP_MS", 200)
        await remove(running, second)
        await quiet(running)
        assert provider.unregistered == 1
        assert await left_of(running, second) == (0, 0)


async def test_a_connection_removed_while_it_is_being_registered_is_unregistered_after_it(
    tmp_path: Path,
) -> None:
    provider = Provider(hold=asyncio.Event())
    async with running_platform(tmp_path, hooked(provider), public_url=PUBLIC) as running:
        connection = await connect(running)
        await registration_is(running, connection, "pending")
        await remove(running, connection)
        assert provider.hold is not None
        provider.hold.set()
        await quiet(running)
        assert (len(provider.registered), provider.unregistered) == (1, 1)
        assert await left_of(running, connection) == (0, 0)


async def test_the_secrets_of_a_connection_without_its_connector_are_forgotten_too(tmp_path: Path) -> None:
    async with running_platform(tmp_path, hooked(Provider()), public_url=PUBLIC) as running:
        connection = await connect(running)
        await registration_is(running, connection, "done")
    async with running_platform(tmp_path, OpenConnector, public_url=PUBLIC) as running:
        assert (await shown(running, connection))["state"] == "unavailable"
        for path, method, body in (
            ("", "PATCH", {"settings": {}}),
            ("/secrets", "PUT", {"secrets": {"token": "x"}}),
        ):
            answer = await running.client.request(
                method, f"/api/v1/connections/{connection['id']}{path}", json=body
            )
            assert (answer.status_code, answer.json()["code"]) == (409, "integration_unavailable")
        assert (await change(running, connection, name="Still mine"))["name"] == "Still mine"
        await remove(running, connection)
        await quiet(running)
        assert await left_of(running, connection) == (0, 0)


# The catalogue.


async def test_the_catalogue_shows_what_is_declared(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector, OpenConnector) as running:
        listed = await running.get("/api/v1/integrations")
        assert [i["key"] for i in listed["items"]] == ["chat", "open"]
        assert listed["broken"] == []
        chat = await running.get("/api/v1/integrations/chat")
        assert chat == listed["items"][0]
        assert chat["description"] == "A signed webhook with one event, and one action over HTTP."
        assert chat["receives"] == ["webhook"]
        assert chat["verified"] is True
        assert [(s["name"], s["required"], s["generated"]) for s in chat["secrets"]] == [
            ("token", True, False),
            ("signing_secret", True, True),
        ]
        assert chat["actions"][0]["payload_schema"]["required"] == ["text"]
        assert chat["settings_schema"]["properties"]["base_url"]["type"] == "string"
        answer = await running.client.get("/api/v1/integrations/nothing")
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_one_model_without_a_schema_does_not_hide_the_catalogue(tmp_path: Path) -> None:
    class Odd(BaseModel):
        what: Callable[[], None] | None = None

    class OddConnector(OpenConnector):
        key = "odd"
        events = [EventSpec("open.thing.happened", "x", model=Odd)]

    async with running_platform(tmp_path, OddConnector, ChatConnector) as running:
        listed = await running.get("/api/v1/integrations")
        assert [i["key"] for i in listed["items"]] == ["chat", "odd"]
        assert "no JSON Schema" in listed["items"][1]["events"][0]["payload_schema"]["description"]


async def test_the_catalogue_remembers_what_has_gone(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector, OpenConnector):
        pass
    async with running_platform(tmp_path, OpenConnector) as running:
        gone = await running.get("/api/v1/integrations/chat")
        assert (gone["name"], gone["available"], gone["actions"]) == ("Chat", False, [])
        assert [i["available"] for i in (await running.get("/api/v1/integrations"))["items"]] == [False, True]
        answer = await running.client.post("/api/v1/connections", json={"integration": "chat"})
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown_integration")
    async with running_platform(tmp_path, ChatConnector, OpenConnector) as running:
        assert (await running.get("/api/v1/integrations/chat"))["available"] is True


async def test_broken_connectors_are_listed_and_the_platform_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a folder of the user's own, without the connectors that the platform brings."""
    import sys

    from app.integrations import connectors

    folder = tmp_path / "connectors"
    for name, source in (("exits", "import sys; sys.exit(1)"), ("empty", "")):
        (folder / name).mkdir(parents=True)
        (folder / name / "connector.py").write_text(source)
    path = list(connectors.__path__)
    connectors.__path__[:] = []
    try:
        async with running_platform(tmp_path / "data", connectors_path=folder) as running:
            broken = {b["source"]: b for b in (await running.get("/api/v1/integrations"))["broken"]}
    finally:
        connectors.__path__[:] = path
        for name in [n for n in sys.modules if n.startswith(f"{connectors.__name__}.empty")]:
            del sys.modules[name]
        with contextlib.suppress(AttributeError):
            del connectors.empty  # type: ignore[attr-defined]
    assert "SystemExit" in broken["app.integrations.connectors.exits"]["reason"]
    assert "no class" in broken["app.integrations.connectors.empty"]["reason"]
    assert all(b["remedy"] for b in broken.values())
