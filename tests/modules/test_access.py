"""Tenants and keys: who may do what, and that nobody learns what others have."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
import structlog

from tests.support.connectors import ChatConnector, OpenConnector
from tests.support.platform import Running, running_platform


async def make_key(running: Running, tenant: str | None = None, **body: Any) -> dict[str, Any]:
    headers = {"Trunkline-Tenant": tenant} if tenant else {}
    answer = await running.client.post("/api/v1/keys", json={"name": "k", **body}, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


def client_with(running: Running, key: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url=running.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False, timeout=30
    )


def problem(answer: httpx2.Response) -> dict[str, Any]:
    """A problem document of the right shape."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert set(document) == {"type", "title", "status", "code", "remedy", "problems"}
    assert document["status"] == answer.status_code
    assert document["type"] == f"urn:trunkline:problem:{document['code']}"
    assert document["title"]
    assert document["remedy"]
    assert all(set(p) == {"path", "code", "message"} for p in document["problems"])
    return document


# Nobody learns what another tenant has.

BODIES: dict[tuple[str, str], Any] = {
    ("patch", "/api/v1/connections/{connection_id}"): {"name": "stolen"},
    ("put", "/api/v1/connections/{connection_id}/secrets"): {"secrets": {"token": "stolen"}},
    ("post", "/api/v1/connections/{connection_id}/actions"): {"type": "send_note", "payload": {"text": "x"}},
    ("post", "/api/v1/connections/{connection_id}/rotate-url"): {},
    ("put", "/api/v1/connections/{connection_id}/limits"): {"concurrency": 1},
    ("post", "/api/v1/actions/{action_id}/resolve"): {"state": "failed", "note": "x"},
}
"""Bodies that the owner could send."""

WITHOUT_TENANT = {"/api/v1/integrations/{key}"}
"""Paths whose ids belong to nobody."""


async def everything_of(running: Running, tenant: str) -> dict[str, str]:
    """One of each thing that a tenant can have, by the name of the parameter that takes its id."""
    connection = await running.connect("chat", tenant=tenant, secrets={"token": "t-1234567"})
    open_one = await running.connect("open", tenant=tenant)
    sent = await running.client.post(open_one["webhook_url"], content=b'{"id": "1"}')
    headers = {"Trunkline-Tenant": tenant}
    action = await running.client.post(
        f"/api/v1/connections/{connection['id']}/actions",
        json={"type": "send_note", "payload": {"text": "x"}},
        headers={"Prefer": "wait=10", **headers},
    )
    assert action.status_code == 200, action.text
    while not (events := await running.get("/api/v1/events", headers=headers))["items"]:
        await asyncio.sleep(0.01)
    return {
        "connection_id": connection["id"],
        "webhook_id": sent.headers["trunkline-webhook-id"],
        "event_id": events["items"][0]["id"],
        "action_id": action.json()["id"],
        "key_id": (await make_key(running, tenant))["id"],
    }


def unknown_like(identifier: str) -> str:
    """An id of the same form that nothing has."""
    prefix, _, rest = identifier.partition("_")
    return f"{prefix}_{rest[::-1]}"


async def test_what_belongs_to_another_tenant_answers_like_what_does_not_exist(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector, OpenConnector, action_attempts=1) as running:
        theirs = await everything_of(running, "theirs")
        key = (await make_key(running, "mine"))["key"]
        paths = (await running.get("/openapi.json"))["paths"]
        operations = [
            (method, path)
            for path, methods in paths.items()
            for method in methods
            if path.startswith("/api/v1/") and "{" in path and path not in WITHOUT_TENANT
        ]
        assert len(operations) >= 18
        async with client_with(running, key) as mine:
            for method, path in operations:
                [parameter] = re.findall(r"\{(\w+)\}", path)
                known, unknown = theirs[parameter], unknown_like(theirs[parameter])
                for client, headers in ((mine, {}), (running.client, {"Trunkline-Tenant": "mine"})):
                    answers = []
                    for identifier in (known, unknown):
                        answer = await client.request(
                            method,
                            path.replace(f"{{{parameter}}}", identifier),
                            json=BODIES.get((method, path)),
                            headers=headers,
                        )
                        assert answer.status_code == 404, (method, path, answer.text)
                        problem(answer)
                        lines = {n: v for n, v in answer.headers.items() if n != "date"}
                        answers.append((lines, answer.content.replace(identifier.encode(), b"<id>")))
                    assert answers[0] == answers[1], (method, path)

        # They are there for their owner, so that the above says something.
        owner = {"Trunkline-Tenant": "theirs"}
        operations.sort(key=lambda operation: (operation[0] == "delete", -len(operation[1])))
        for method, path in operations:
            [parameter] = re.findall(r"\{(\w+)\}", path)
            answer = await running.client.request(
                method,
                path.replace(f"{{{parameter}}}", theirs[parameter]),
                json=BODIES.get((method, path)),
                headers=owner,
            )
            assert answer.status_code != 404, (method, path, answer.text)
            if "name" in (shown := answer.json() if answer.content else {}) and method == "get":
                assert shown["name"] != "stolen"


async def test_lists_show_nothing_of_another_tenant(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector, OpenConnector, action_attempts=1) as running:
        theirs = await everything_of(running, "theirs")
        async with client_with(running, (await make_key(running, "mine"))["key"]) as mine:
            for path in ("connections", "webhooks", "events", "actions"):
                for query in ({}, {"connection": theirs["connection_id"]}):
                    answer = await mine.get(f"/api/v1/{path}", params=query)
                    assert answer.json()["items"] == [], path
                    headers = {"Trunkline-Tenant": "theirs"}
                    assert (await running.get(f"/api/v1/{path}", headers=headers))["items"]
            assert [k["tenant"] for k in (await mine.get("/api/v1/keys")).json()["items"]] == ["mine"]
        for listed in (await running.get("/api/v1/keys"))["items"]:
            assert listed["tenant"] is None, (
                "an admin sees the admin keys and those of the tenant it acts for"
            )


async def test_an_idempotency_key_belongs_to_its_tenant(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector, action_attempts=1) as running:
        made = []
        for tenant in ("one", "two"):
            connection = await running.connect("chat", tenant=tenant, secrets={"token": "t-1234567"})
            answer = await running.client.post(
                f"/api/v1/connections/{connection['id']}/actions",
                json={"type": "send_note", "payload": {"text": "x"}},
                headers={"Idempotency-Key": "the same", "Trunkline-Tenant": tenant},
            )
            assert answer.status_code in (200, 202), answer.text
            made.append(answer.json()["id"])
        assert made[0] != made[1]


# Keys.


async def test_a_key_is_shown_once_and_kept_as_its_hash(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        made = await make_key(running)
        assert made["key"].startswith("tl_")
        assert len(made["key"]) > 40
        assert made["tenant"] == "default"
        listed = await running.client.get("/api/v1/keys")
        assert made["id"] in [k["id"] for k in listed.json()["items"]]
        assert made["key"] not in listed.text
        assert running.key not in listed.text
        admin_file = tmp_path / "admin.key"
        assert admin_file.read_text().strip() == running.key
        assert admin_file.stat().st_mode & 0o777 == 0o600
        for file in tmp_path.rglob("*"):
            if file.is_file() and file != admin_file:
                content = file.read_bytes()
                assert made["key"].encode() not in content, file
                assert running.key.encode() not in content, file


async def test_a_revoked_key_is_refused_at_once(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        made = await make_key(running, "acme")
        async with client_with(running, made["key"]) as client:
            assert (await client.get("/api/v1/connections")).status_code == 200
            headers = {"Trunkline-Tenant": "acme"}
            gone = await running.client.delete(f"/api/v1/keys/{made['id']}", headers=headers)
            assert (gone.status_code, gone.content) == (204, b"")
            answer = await client.get("/api/v1/connections")
            assert (answer.status_code, problem(answer)["code"]) == (401, "unauthenticated")
        again = await running.client.delete(f"/api/v1/keys/{made['id']}", headers=headers)
        assert again.status_code == 404


async def test_a_key_cannot_revoke_itself(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        [own] = (await running.get("/api/v1/keys"))["items"]
        answer = await running.client.delete(f"/api/v1/keys/{own['id']}")
        assert (answer.status_code, problem(answer)["code"]) == (409, "key_in_use")
        other = await make_key(running, scope="admin")
        async with client_with(running, other["key"]) as client:
            assert (await client.delete(f"/api/v1/keys/{own['id']}")).status_code == 204
            assert (await client.get("/api/v1/tenants")).status_code == 200
        assert (await running.client.get("/api/v1/tenants")).status_code == 401


async def test_a_tenants_key_is_good_for_its_tenant_only(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        await running.connect("open", tenant="theirs")
        made = await make_key(running, "mine")
        async with client_with(running, made["key"]) as mine:
            connection = (await mine.post("/api/v1/connections", json={"integration": "open"})).json()
            assert connection["tenant"] == "mine"
            assert (await mine.get("/api/v1/connections", headers={"Trunkline-Tenant": "mine"})).is_success
            for tenant in ("theirs", "default", "never-heard-of", "", "Not Valid"):
                answer = await mine.get("/api/v1/connections", headers={"Trunkline-Tenant": tenant})
                assert (answer.status_code, problem(answer)["code"]) == (403, "forbidden"), tenant
            for method, path, body in (
                ("POST", "/api/v1/keys", {"name": "x", "scope": "admin"}),
                ("GET", "/api/v1/tenants", None),
            ):
                answer = await mine.request(method, path, json=body)
                assert (answer.status_code, problem(answer)["code"]) == (403, "forbidden")
            own = (await mine.post("/api/v1/keys", json={"name": "second"})).json()
            assert own["tenant"] == "mine"
            assert (await mine.delete(f"/api/v1/keys/{own['id']}")).status_code == 204
            [admin] = [k for k in (await running.get("/api/v1/keys"))["items"] if k["tenant"] is None]
            assert (await mine.delete(f"/api/v1/keys/{admin['id']}")).status_code == 404
        assert [t["name"] for t in (await running.get("/api/v1/tenants"))["items"]] == [
            "default",
            "mine",
            "theirs",
        ]


GARBAGE = [
    None,
    b"",
    b"Bearer",
    b"Bearer tl_",
    b"Bearer tl_unknown",
    b"Bearer " + b"x" * 5000,
    b"Basic dGxfOng=",
    b"tl_unknown",
    b"Bearer \xff\xfe",
    "Bearer tl_é".encode(),
    b"Bearer tl_a, Bearer tl_b",
    b"bearer\ttl_x",
]


async def test_a_missing_or_garbage_key_is_refused_the_same_way(tmp_path: Path) -> None:
    async with (
        running_platform(tmp_path, OpenConnector) as running,
        httpx2.AsyncClient(base_url=running.url, trust_env=False) as client,
    ):
        operations = [
            ("GET", "/api/v1/connections"),
            ("POST", "/api/v1/connections"),
            ("GET", "/api/v1/connections/con_1"),
            ("GET", "/api/v1/integrations"),
            ("GET", "/api/v1/events"),
            ("GET", "/api/v1/events/stream"),
            ("GET", "/api/v1/keys"),
        ]
        for header in GARBAGE:
            headers = [] if header is None else [(b"Authorization", header)]
            for method, path in operations:
                body = {"integration": "open"} if method == "POST" else None
                answer = await client.request(method, path, headers=headers, json=body)
                assert answer.status_code == 401, (header, path, answer.text)
                assert problem(answer)["code"] == "unauthenticated"
                assert answer.headers["www-authenticate"] == "Bearer"
                if header and len(header) > 12:
                    assert header[7:].decode("latin-1") not in answer.text


async def test_every_path_of_the_api_asks_for_a_key(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        paths = (await running.get("/openapi.json"))["paths"]
        async with httpx2.AsyncClient(base_url=running.url, trust_env=False) as client:
            for path, methods in paths.items():
                for method in methods:
                    if not path.startswith("/api/"):
                        continue
                    body = BODIES.get((method, path), {"integration": "open", "name": "x"})
                    answer = await client.request(
                        method, re.sub(r"\{\w+\}", "x", path), json=None if method == "get" else body
                    )
                    # What FastAPI finds wrong with a body it says before it asks who sent it.
                    assert answer.status_code in (401, 422), (method, path)
                    assert answer.status_code == 401 or method in ("post", "put", "patch"), (method, path)


# Tenants.


async def test_an_admin_makes_a_tenant_by_naming_it(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:

        async def tenants() -> list[str]:
            return [t["name"] for t in (await running.get("/api/v1/tenants"))["items"]]

        assert await tenants() == ["default"]
        for _ in range(2):
            await running.get("/api/v1/connections", headers={"Trunkline-Tenant": "acme-eu"})
        assert await tenants() == ["acme-eu", "default"]
        answers = await asyncio.gather(
            *(running.client.get("/api/v1/events", headers={"Trunkline-Tenant": "new"}) for _ in range(10))
        )
        assert {a.status_code for a in answers} == {200}
        assert await tenants() == ["acme-eu", "default", "new"]


async def test_a_bad_tenant_name_is_refused_and_makes_nothing(tmp_path: Path) -> None:
    names = [
        "",
        "A",
        "a_b",
        "-a",
        "a-",
        "a--b",
        "a b",
        "a/b",
        "ä".encode().decode("latin-1"),
        "a" * 64,
        "a\xa0",
        ".",
    ]
    async with running_platform(tmp_path, OpenConnector) as running:
        for name in names:
            headers = [(b"Trunkline-Tenant", name.encode("latin-1"))]
            for method, path in (("GET", "/api/v1/connections"), ("POST", "/api/v1/connections")):
                body = {"integration": "open"} if method == "POST" else None
                answer = await running.client.request(method, path, headers=headers, json=body)
                assert answer.status_code == 422, name
                document = problem(answer)
                assert document["code"] == "invalid_tenant", name
                assert [p["path"] for p in document["problems"]] == ["Trunkline-Tenant"]
        assert [t["name"] for t in (await running.get("/api/v1/tenants"))["items"]] == ["default"]


async def test_the_longest_tenant_name_is_fine(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        for name in ("a", "0", "a-b-c", "a" * 63):
            assert (await running.connect("open", tenant=name))["tenant"] == name


# Problem documents.


REFUSED: list[tuple[str, str, bytes | None, int, str]] = [
    ("GET", "/nowhere", None, 404, "not_found"),
    ("GET", "/api/v1/nowhere", None, 404, "not_found"),
    ("GET", "/api/v1/connections/con_x", None, 404, "not_found"),
    ("GET", "/api/v1/connections/%00%ff", None, 404, "not_found"),
    ("GET", "/api/v1/connections/" + "x" * 3000, None, 404, "not_found"),
    ("DELETE", "/api/v1/connections", None, 405, "method_not_allowed"),
    ("GET", "/api/v1/connections?limit=0", None, 422, "invalid_request"),
    ("GET", "/api/v1/connections?limit=1001", None, 422, "invalid_request"),
    ("GET", "/api/v1/connections?limit=many", None, 422, "invalid_request"),
    ("GET", "/api/v1/events?after=x", None, 422, "invalid_cursor"),
    ("GET", "/api/v1/events?after=-1", None, 422, "invalid_cursor"),
    ("GET", "/api/v1/events?after=%D9%A1", None, 422, "invalid_cursor"),
    ("GET", "/api/v1/webhooks?after=" + "9" * 30, None, 422, "invalid_cursor"),
    ("GET", "/api/v1/webhooks?state=lost", None, 422, "invalid_request"),
    ("POST", "/api/v1/connections", b"", 422, "invalid_request"),
    ("POST", "/api/v1/connections", b"{", 422, "invalid_request"),
    ("POST", "/api/v1/connections", b"[]", 422, "invalid_request"),
    ("POST", "/api/v1/connections", b"null", 422, "invalid_request"),
    ("POST", "/api/v1/connections", b"{}", 422, "invalid_request"),
    ("POST", "/api/v1/connections", b'{"integration": "open", "x": 1}', 422, "invalid_request"),
    ("POST", "/api/v1/connections", b'{"integration": 7}', 422, "invalid_request"),
    ("POST", "/api/v1/connections", b'{"integration": "gone"}', 422, "unknown_integration"),
    ("POST", "/api/v1/connections", b'{"integration": "\\ud800"}', 422, "unknown_integration"),
    (
        "POST",
        "/api/v1/connections",
        b'{"integration": "open", "name": "\\ud800"}',
        422,
        "invalid_request",
    ),
    ("POST", "/api/v1/keys", b'{"name": "\\ud800"}', 422, "invalid_request"),
    ("POST", "/api/v1/connections", b'{"integration": "open", "\\ud800": 1}', 422, "invalid_request"),
    (
        "POST",
        "/api/v1/connections",
        b'{"integration": "open", "secrets": {"\\ud800": "x"}}',
        422,
        "unknown_secret",
    ),
    (
        "POST",
        "/api/v1/connections",
        b'{"integration": "open", "settings": {"\\ud800": "x"}}',
        422,
        "invalid_settings",
    ),
    ("POST", "/api/v1/connections", b'{"integration": "\xff"}', 422, "invalid_request"),
    ("POST", "/api/v1/connections", b"[" * 100_000, 422, "invalid_request"),
    ("POST", "/api/v1/keys", b'{"name": ""}', 422, "invalid_request"),
    ("POST", "/api/v1/keys", b'{"name": "x", "scope": "root"}', 422, "invalid_request"),
]


async def test_every_refusal_is_a_problem_document(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        for method, path, content, status, code in REFUSED:
            answer = await running.client.request(
                method, path, content=content, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == status, (method, path, content, answer.text)
            assert problem(answer)["code"] == code, (method, path, content)


async def test_a_problem_names_the_field_and_not_the_value(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector, action_attempts=1) as running:
        answer = await running.client.post(
            "/api/v1/connections",
            json={"integration": ["planted"], "secrets": {"token": ["planted"]}, "enabled": "planted"},
        )
        document = problem(answer)
        assert [p["path"] for p in document["problems"]] == ["integration", "secrets.token", "enabled"]
        assert "planted" not in answer.text


async def test_a_fault_of_ours_says_nothing_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        await running.connect("open")

        def breaks(*_: Any) -> Any:
            raise ZeroDivisionError("planted")

        monkeypatch.setattr("app.modules.integrations.router._shown", breaks)
        with structlog.testing.capture_logs() as logs:
            answer = await running.client.get("/api/v1/connections")
        assert (answer.status_code, problem(answer)["code"]) == (500, "internal_error")
        assert "planted" not in answer.text
        [line] = [line for line in logs if line["event"] == "request_failed"]
        assert line["route"] == "/api/v1/connections"


def test_a_new_key_does_not_show_itself_in_logs() -> None:
    from app.modules.access.models import ApiKey
    from app.modules.access.service import NewKey

    made = NewKey(ApiKey(id="key_1"), "tl_planted")
    assert "planted" not in f"{made!r} {made} {json.dumps([repr(made)])}"
