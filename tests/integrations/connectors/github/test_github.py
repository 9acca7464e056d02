import hashlib
import hmac
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError

from app.integrations.connectors.github.connector import GithubConnector
from app.integrations.connectors.github.schemas import WEBHOOK_EVENTS, GithubSettings
from app.integrations.errors import (
    AuthenticationFailed,
    InboundError,
    InvalidActionPayload,
    RateLimited,
    Refused,
    Rejected,
)
from app.integrations.models import Event
from app.integrations.registry import check_declarations
from app.integrations.requests import Headers, WebhookRequest
from tests.support.edge import (
    Edge,
    assert_described,
    assert_faults,
    assert_sound,
    events_of,
    failure,
    fixture_files,
    fixture_request,
    run,
)
from tests.support.platform import eventually, running_platform
from tests.support.wire import Exchange, wire_server

HERE = Path(__file__).parent
FIXTURES = [path for path in fixture_files(HERE / "fixtures") if not path.name.startswith("_")]
VECTORS = {
    v["name"]: v
    for v in json.loads((HERE.parents[2] / "fixtures" / "signatures.json").read_text())["vectors"]
}
TOKEN = "github_pat_plantedTokenValue"
SECRETS = {"webhook_secret": "plantedWebhookSecret"}
URL = "https://hooks.example/webhooks/github/plantedUrlToken"
ISSUE = {"number": 42, "title": "It wobbles", "state": "open", "html_url": "https://github.com/a/b/issues/42"}


@pytest.fixture
def edge() -> Edge:
    return Edge()


@pytest.fixture
def connector(edge: Edge) -> GithubConnector:
    return GithubConnector(TOKEN, GithubSettings(repository="acme/chairs"), edge.http())


def request_of(name: str) -> WebhookRequest:
    return fixture_request(GithubConnector, HERE / "fixtures" / f"{name}.json")


async def event_of(connector: GithubConnector, name: str) -> Event:
    (event,) = await events_of(connector, request_of(name))
    return event


# Declarations, settings and events.


def test_the_declarations_are_sound():
    check_declarations(GithubConnector)
    assert_described(GithubConnector)
    assert {path.stem.split("__")[0] for path in FIXTURES} == {spec.name for spec in GithubConnector.events}
    assert all(spec.unique_id for spec in GithubConnector.events)


@pytest.mark.parametrize("name", ["a", "a/b/c", "../b", "a/..", "a/b?c", "a /b", "/b", "a/", "a/b#"])
def test_a_repository_is_owner_and_name(name):
    with pytest.raises(ValidationError):
        GithubSettings(repository=name)
    assert GithubSettings(repository="acme/.github").repository == "acme/.github"


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name)
async def test_each_fixture_becomes_the_event_it_is_named_after(connector, path):
    request = fixture_request(GithubConnector, path)
    (event,) = await events_of(connector, request)
    assert event.type == path.stem.split("__")[0]
    assert event.external_id == request.headers["X-GitHub-Delivery"]
    assert_sound(connector, event)


async def test_a_ping_makes_no_event(connector):
    request = replace(request_of("_ping"), headers=Headers([("x-github-event", "ping")]))
    assert await events_of(connector, request) == []


async def test_an_issue_is_laid_out_flat_beside_the_original(connector):
    event = await event_of(connector, "github.issue.closed")
    assert event.payload.pop("raw")["issue"]["state_reason"] == "completed"
    assert event.payload == {
        "event": "issues",
        "action": "closed",
        "repository": "acme/chairs",
        "organization": "acme",
        "sender": "ann",
        "number": 42,
        "title": "The chair wobbles",
        "state": "closed",
        "url": "https://github.com/acme/chairs/issues/42",
        "author": "bob",
        "labels": ["bug"],
    }


async def test_a_form_says_the_same(connector):
    (event,) = await events_of(
        connector, fixture_request(GithubConnector, HERE / "fixtures" / "github.issue.opened__form.form")
    )
    assert event.payload == (await event_of(connector, "github.issue.opened")).payload


async def test_merges_pushes_and_runs_say_what_one_wants_to_know(connector):
    merged = (await event_of(connector, "github.pull_request.merged")).payload
    assert (merged["merged"], merged["head_ref"], merged["base_ref"]) == (True, "leg", "main")
    pushed = (await event_of(connector, "github.ref.pushed")).payload
    assert (pushed["ref"], pushed["pusher"]) == ("refs/heads/main", "bob")
    assert [commit["message"] for commit in pushed["commits"]] == ["A longer leg"]
    failed = (await event_of(connector, "github.workflow_run.completed")).payload
    assert (failed["name"], failed["conclusion"], failed["branch"]) == ("Build", "failure", "main")
    comment = (await event_of(connector, "github.issue_comment.created__on_pull_request")).payload
    assert (comment["on_pull_request"], comment["comment_author"]) == (True, "ann")
    assert (await event_of(connector, "github.issue.updated__ghost")).payload["author"] is None


async def test_a_kind_of_tomorrow_is_an_event_too(connector):
    request = request_of("github.issue.opened")
    headers = Headers([("x-github-event", "sub_issues"), ("x-github-delivery", "d"), *request.headers.pairs])
    (event,) = await events_of(connector, replace(request, headers=headers))
    assert (event.type, event.payload["event"]) == ("github.event.received", "sub_issues")


@pytest.mark.parametrize(
    ("event", "body", "code"),
    [
        (None, b"{}", "event_missing"),
        ("issues", b"{}", "invalid_issues"),
        ("issues", b'{"action": 5}', "invalid_webhook"),
        ("issues", b'{"issue": {"number": "planted"}}', "invalid_issues"),
        ("push", b'{"ref": ["planted"]}', "invalid_push"),
        ("star", b"[]", "not_an_object"),
        ("star", b"planted", "not_json"),
    ],
)
async def test_what_is_no_webhook_is_a_named_error(connector, event, body, code):
    headers = Headers([("content-type", "application/json"), *([("x-github-event", event)] if event else [])])
    request = WebhookRequest("POST", URL, headers, body, GithubConnector.body)
    with pytest.raises(InboundError) as caught:
        await events_of(connector, request)
    assert caught.value.code == code
    assert "planted" not in str(caught.value)


def test_githubs_own_vector_is_genuine():
    vector = VECTORS["github"]
    headers = Headers([(vector["header"], vector["value"])])
    request = WebhookRequest("POST", URL, headers, vector["body"].encode(), GithubConnector.body)
    GithubConnector.verification.verify(request, {"webhook_secret": [vector["secret"]]}, 0.0)
    forged = replace(request, body=b"Hello, World?")
    with pytest.raises(Refused):
        GithubConnector.verification.verify(forged, {"webhook_secret": [vector["secret"]]}, 0.0)


# Actions.


async def test_issues_are_opened_changed_labelled_and_commented(edge, connector):
    edge.say(ISSUE)
    assert (await run(connector, "create_issue", title="It wobbles", labels=["bug"]))["number"] == 42
    expected = {"title": "It wobbles", "labels": ["bug"]}
    assert edge.sent() == ("POST", "/repos/acme/chairs/issues", expected)
    sent = edge.requests[-1].headers
    assert sent["authorization"] == f"Bearer {TOKEN}"
    assert sent["x-github-api-version"] == "2022-11-28"
    await run(
        connector, "update_issue", repository="acme/desks", issue_number=7, state="closed", milestone=None
    )
    expected = {"state": "closed", "milestone": None}
    assert edge.sent() == ("PATCH", "/repos/acme/desks/issues/7", expected)
    edge.say([{"name": "bug"}, {"name": "left"}])
    assert await run(connector, "add_labels", issue_number=7, labels=["left"]) == {"labels": ["bug", "left"]}
    edge.say({"id": 1, "html_url": "https://x"})
    await run(connector, "comment_issue", issue_number=7, body="Hi")
    assert edge.sent() == ("POST", "/repos/acme/chairs/issues/7/comments", {"body": "Hi"})


async def test_releases_and_workflows(edge, connector):
    edge.say({"id": 1, "tag_name": "v1", "html_url": "https://x", "draft": True})
    await run(connector, "create_release", tag_name="v1", draft=True)
    method, path, content = edge.sent()
    assert (method, path, content["draft"]) == ("POST", "/repos/acme/chairs/releases", True)
    edge.say(httpx2.Response(204))
    assert await run(connector, "dispatch_workflow", workflow_id="deploy.yml", ref="main") == {
        "workflow_run_id": None,
        "html_url": None,
    }
    path = "/repos/acme/chairs/actions/workflows/deploy.yml/dispatches"
    assert edge.sent() == ("POST", path, {"ref": "main"})
    edge.say({"workflow_run_id": 5, "html_url": "https://x"})
    result = await run(connector, "dispatch_workflow", workflow_id=9, ref="main", return_run_details=True)
    assert result["workflow_run_id"] == 5


async def test_an_action_without_a_repository_is_not_begun(edge):
    connector = GithubConnector(TOKEN, GithubSettings(), edge.http())
    with pytest.raises(InvalidActionPayload, match="repository"):
        await run(connector, "create_issue", title="x")
    with pytest.raises(InvalidActionPayload, match="at least one field"):
        await run(connector, "update_issue", issue_number=1, repository="a/b")
    assert edge.requests == []


# Registration.


def hook(number: int, token: str) -> dict[str, Any]:
    return {"id": number, "config": {"url": f"https://earlier.example/webhooks/github/{token}"}}


async def test_the_connections_webhook_is_changed_and_no_other(edge, connector):
    listed = [hook(1, "another"), hook(2, "former"), hook(3, "plantedUrlToken"), {"id": 4, "config": {}}]
    edge.say(listed, {"id": 2}, httpx2.Response(204))
    await connector.register_webhook(URL, SECRETS, former=["https://hooks.example/webhooks/github/former"])
    assert edge.sent(0)[:2] == ("GET", "/repos/acme/chairs/hooks?per_page=100")
    method, path, content = edge.sent(1)
    assert (method, path) == ("PATCH", "/repos/acme/chairs/hooks/2")
    config = {"url": URL, "content_type": "json", "secret": "plantedWebhookSecret", "insecure_ssl": "0"}
    assert content == {"config": config, "events": WEBHOOK_EVENTS, "active": True}
    assert edge.sent(2)[:2] == ("DELETE", "/repos/acme/chairs/hooks/3")


async def test_a_webhook_is_made_if_there_is_none(edge, connector):
    edge.say([hook(1, "another")], {"id": 5})
    await connector.register_webhook(URL, SECRETS)
    method, path, content = edge.sent()
    assert (method, path, content["name"]) == ("POST", "/repos/acme/chairs/hooks", "web")


async def test_without_a_repository_nothing_is_registered(edge):
    connector = GithubConnector(TOKEN, GithubSettings(), edge.http())
    await connector.register_webhook(URL, SECRETS)
    await connector.unregister_webhook(urls=[URL])
    assert edge.requests == []


async def test_unregistering_takes_only_the_connections_webhook_away(edge, connector):
    edge.say([hook(1, "another"), hook(3, "plantedUrlToken")], httpx2.Response(404, json={"message": "No"}))
    await connector.unregister_webhook(urls=[URL])
    assert edge.sent()[:2] == ("DELETE", "/repos/acme/chairs/hooks/3")
    assert len(edge.requests) == 2


async def test_a_refused_registration_shows_neither_url_nor_secret(edge, connector):
    said = {"message": "Validation Failed", "errors": [{"message": f"{URL} plantedWebhookSecret"}]}
    edge.say([], httpx2.Response(422, json=said))
    with pytest.raises(Rejected) as caught:
        await connector.register_webhook(URL, SECRETS)
    assert "planted" not in str(caught.value)


# The client.


async def test_every_fault_becomes_the_right_error(edge, connector):
    await assert_faults(edge, lambda: run(connector, "create_issue", title="x"), TOKEN)


async def test_a_used_up_limit_is_not_a_bad_token(edge, connector):
    reset = str(int(time.time()) + 90)
    said = {"message": "API rate limit exceeded for user ID 1."}
    for status in (403, 429):
        error = await failure(
            edge, connector.check, said, status=status, x_ratelimit_remaining="0", x_ratelimit_reset=reset
        )
        assert type(error) is RateLimited
        assert error.retry_after == pytest.approx(90, abs=3)
    secondary = {"message": "You have exceeded a secondary rate limit."}
    error = await failure(edge, connector.check, secondary, status=403)
    assert (type(error), error.retry_after) == (RateLimited, 60)
    error = await failure(edge, connector.check, secondary, status=403, retry_after="17")
    assert (type(error), error.retry_after) == (RateLimited, 17)


async def test_a_refusal_is_told_from_a_bad_token(edge, connector):
    denied = {"message": "Resource not accessible by personal access token"}
    assert type(await failure(edge, connector.check, denied, status=403)) is AuthenticationFailed
    archived = {"message": "Repository was archived so is read-only."}
    assert type(await failure(edge, connector.check, archived, status=403)) is Rejected
    invalid = {
        "message": "Validation Failed",
        "errors": [{"resource": "Issue", "field": "title", "code": "missing"}],
    }
    error = await failure(edge, connector.check, invalid, status=422)
    assert "Issue title missing" in str(error)
    error = await failure(edge, connector.check, {"message": "Not Found"}, status=404)
    assert "may not see the repository" in str(error)


async def test_the_check_asks_for_the_limit_and_the_repository(edge, connector):
    edge.say({})
    await connector.check()
    assert [edge.sent(i)[1] for i in range(2)] == ["/rate_limit", "/repos/acme/chairs"]


# End to end.


async def test_github_is_told_sends_twice_and_an_action_reaches_it(tmp_path):
    hooks: list[dict[str, Any]] = []

    async def behaviour(exchange: Exchange) -> None:
        while head := await exchange.request():
            method, path = head.split(b" ")[:2]
            content = head.partition(b"\r\n\r\n")[2]
            answer: Any = hooks
            if not path.startswith(b"/repos/acme/chairs/hooks"):
                answer = ISSUE
            elif method == b"POST":
                hooks.append(json.loads(content) | {"id": len(hooks)})
            elif method == b"PATCH":
                hooks[int(path.rpartition(b"/")[2])].update(json.loads(content))
            elif method == b"DELETE":
                hooks.pop(int(path.rpartition(b"/")[2]))
            await exchange.answer(200, json.dumps(answer).encode())

    async with (
        wire_server(behaviour) as github,
        running_platform(tmp_path, GithubConnector, public_url=True) as platform,
    ):
        connection = await platform.connect(
            "github",
            secrets={"access_token": TOKEN},
            settings={"base_url": github.url, "repository": "acme/chairs"},
        )
        path = f"/api/v1/connections/{connection['id']}"
        await eventually(lambda: platform.get(path), lambda c: c["registration"]["state"] == "done")
        config = hooks[0]["config"]

        async def send(name: str, secret: str) -> int:
            request = request_of(name)
            digest = hmac.digest(secret.encode(), request.body, hashlib.sha256).hex()
            headers = dict(request.headers) | {"X-Hub-Signature-256": f"sha256={digest}"}
            answer = await platform.client.post(config["url"], content=request.body, headers=headers)
            return answer.status_code

        assert [await send("github.issue.opened", config["secret"]) for _ in range(2)] == [200, 200]
        assert await send("github.issue.closed", "other") == 401
        await platform.settled()
        (event,) = await platform.feed_of(1)
        assert (event["type"], event["payload"]["number"]) == ("github.issue.opened", 42)
        action = await platform.act(connection["id"], "create_issue", {"title": "It wobbles"})
        assert (action["state"], action["result"]["number"]) == ("succeeded", 42)

        rotated = await platform.client.post(f"{path}/rotate-url", json={})
        assert rotated.status_code == 200
        await eventually(lambda: _urls(hooks), lambda urls: urls == [rotated.json()["webhook_url"]])
        await platform.client.delete(path)
        await eventually(lambda: _urls(hooks), lambda urls: urls == [])


async def _urls(hooks: list[dict[str, Any]]) -> list[str]:
    return [hook["config"]["url"] for hook in hooks]
