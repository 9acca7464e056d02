import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from github import Auth, Github
from github.Hook import Hook
from github.Repository import Repository

from .emulate import emulated, free_port
from .platform import Connection, eventually

EMULATOR = "GitHub (emulate, PyGithub)"
SECRET = "It's a Secret to Everybody"
TOKEN, OTHERS = "github_pat_octocat", "github_pat_hubot"
REPOSITORY = "octocat/hello-world"

Connect = Callable[..., Connection]
Remark = Callable[[str], None]


@dataclass
class Emulated:
    """The emulator as each side sees it."""

    url: str
    connection: Connection
    repository: Repository

    def hook(self) -> Hook:
        """The webhook that leads to the connection."""
        [found] = [h for h in self.repository.get_hooks() if h.config["url"] == self.connection.webhook_url]
        return found


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    seed = {
        "tokens": {
            TOKEN: {"login": "octocat", "scopes": ["repo", "workflow", "admin:repo_hook"]},
            OTHERS: {"login": "hubot", "scopes": ["repo"]},
        },
        "github": {
            "users": [{"login": "octocat", "email": "octocat@github.example"}, {"login": "hubot"}],
            "repos": [
                {"owner": "octocat", "name": "hello-world", "auto_init": True},
                {"owner": "octocat", "name": "secret", "private": True},
            ],
        },
    }
    with emulated("github", free_port(), tmp_path_factory.mktemp("github"), seed) as url:
        yield url


@pytest.fixture(scope="module")
def hub(emulator: str) -> Github:
    # It waits a second between writes unless told not to.
    return Github(
        base_url=emulator, auth=Auth.Token(TOKEN), seconds_between_requests=None, seconds_between_writes=None
    )


@pytest.fixture(scope="module")
def github(emulator: str, hub: Github, connect: Connect) -> Emulated:
    connection = connect(
        "github",
        secrets={"access_token": TOKEN, "webhook_secret": SECRET},
        settings={"base_url": emulator, "repository": REPOSITORY, "webhook_events": ["*"]},
    )
    connection.wait_until_registered()
    return Emulated(emulator, connection, hub.get_repo(REPOSITORY))


# Actions, and what PyGithub then finds.


def test_create_issue_opens_it_with_labels_and_assignees(github: Emulated) -> None:
    github.repository.create_label("bug", "d73a4a")
    made = github.connection.act(
        "create_issue", title="Ünusual", body="It *breaks*", labels=["bug"], assignees=["octocat"]
    )
    issue = github.repository.get_issue(made["number"])
    assert (issue.title, issue.body, issue.html_url) == ("Ünusual", "It *breaks*", made["html_url"])
    assert [label.name for label in issue.labels] == ["bug"]
    assert [user.login for user in issue.assignees] == ["octocat"]


def test_update_issue_closes_it(github: Emulated) -> None:
    issue = github.repository.create_issue("to close", "because")
    changed = github.connection.act(
        "update_issue", issue_number=issue.number, state="closed", state_reason="not_planned", body=None
    )
    assert changed["state"] == "closed"
    issue.update()
    assert (issue.state, issue.state_reason, issue.title) == ("closed", "not_planned", "to close")
    assert not issue.body


def test_comment_issue_comments(github: Emulated) -> None:
    issue = github.repository.create_issue("to discuss")
    made = github.connection.act("comment_issue", issue_number=issue.number, body="Me too")
    assert issue.get_comment(made["id"]).body == "Me too"


def test_add_labels_keeps_those_that_are_there(github: Emulated) -> None:
    for name in ("old", "new"):
        github.repository.create_label(name, "ffffff")
    issue = github.repository.create_issue("to label", labels=["old"])
    for _ in range(2):
        added = github.connection.act("add_labels", issue_number=issue.number, labels=["new"])
        assert sorted(added["labels"]) == ["new", "old"]
    assert sorted(label.name for label in issue.get_labels()) == ["new", "old"]


def test_create_release_publishes_or_drafts_it(github: Emulated) -> None:
    made = github.connection.act("create_release", tag_name="v1.0", name="One", body="All new")
    release = github.repository.get_release(made["id"])
    assert (release.tag_name, release.name, release.draft) == ("v1.0", "One", False)
    draft = github.connection.act("create_release", tag_name="v2.0", draft=True)
    assert github.repository.get_release(draft["id"]).draft is True


def test_dispatch_workflow_of_an_unknown_workflow_is_refused_for_good(
    github: Emulated, remark: Remark
) -> None:
    assert github.repository.get_workflows().totalCount == 0
    job = github.connection.job("dispatch_workflow", workflow_id="deploy.yml", ref="main")
    assert (job["state"], job["error"]["code"]) == ("failed", "rejected")
    remark("the emulator cannot be given a workflow, so none was run")


def test_the_check_and_a_job_tell_a_token_that_may_not_see_the_repository(
    github: Emulated, connect: Connect, remark: Remark
) -> None:
    assert github.connection.check()["ok"] is True
    private = {"base_url": github.url, "repository": "octocat/secret"}
    assert connect("github", secrets={"access_token": TOKEN}, settings=private).check()["ok"] is True
    stranger = connect("github", secrets={"access_token": OTHERS}, settings=private)
    assert stranger.check()["ok"] is not True
    job = stranger.job("create_issue", title="let me in")
    assert (job["state"], job["error"]["code"]) == ("failed", "authentication_failed")
    remark("the emulator says 403 to a write, where GitHub says 404")


def test_the_emulator_takes_any_token(github: Emulated, remark: Remark) -> None:
    anybody = Github(base_url=github.url, auth=Auth.Token("github_pat_nobody"))
    assert anybody.get_user().login == "octocat"
    remark("so a bad token cannot be tried here")


# The webhook that the connector registers, and what the emulator sends to it.


def test_the_webhook_is_registered_once_and_gone_with_the_connection(
    github: Emulated, connect: Connect, hub: Github
) -> None:
    hook = github.hook()
    assert (hook.active, hook.events, hook.config["content_type"]) == (True, ["*"], "json")
    made = hub.get_user().create_repo("passing")
    passing = connect(
        "github",
        secrets={"access_token": TOKEN},
        settings={"base_url": github.url, "repository": made.full_name},
    )
    passing.wait_until_registered()
    [hook] = made.get_hooks()
    assert hook.config["url"] == passing.webhook_url
    passing.delete()
    eventually(lambda: list(made.get_hooks()), lambda hooks: hooks == [])


def test_what_somebody_does_with_issues_becomes_events(github: Emulated) -> None:
    issue = github.repository.create_issue("Found a bug", "Here")
    comment = issue.create_comment("Same here")
    comment.edit("Same here!")
    issue.edit(state="closed")
    comment.delete()

    def kinds(*names: str) -> list[dict]:
        events = [e["payload"] for name in names for e in github.connection.events(name, 0)]
        return [payload for payload in events if payload["number"] == issue.number]

    names = ["issue.opened", "issue_comment.created", "issue_comment.updated", "issue.closed"]
    found = eventually(
        lambda: kinds(*(f"github.{name}" for name in [*names, "issue_comment.deleted"])),
        lambda payloads: len(payloads) >= 5,
    )
    assert [payload["sender"] for payload in found] == ["octocat"] * 5
    assert (found[0]["title"], found[0]["repository"]) == ("Found a bug", REPOSITORY)
    assert (found[1]["body"], found[2]["body"]) == ("Same here", "Same here!")
    assert found[3]["state"] == "closed"


def test_pushes_pull_requests_and_releases_become_events(github: Emulated) -> None:
    repository = github.repository
    main = repository.get_branch(repository.default_branch)
    repository.create_git_ref("refs/heads/topic", main.commit.sha)
    repository.create_file("new.txt", "Add a file", "content", branch="topic")
    pull = repository.create_pull(base=repository.default_branch, head="topic", title="Add", body="")
    pull.merge()
    repository.create_git_release("v3.0", name="Three", message="")
    assert "refs/heads/topic" in [e["payload"]["ref"] for e in github.connection.events("github.ref.pushed")]
    [opened] = github.connection.events("github.pull_request.opened")
    [merged] = github.connection.events("github.pull_request.merged")
    assert opened["payload"]["number"] == merged["payload"]["number"] == pull.number
    assert merged["payload"]["merged"] is True
    published = github.connection.events("github.release.published")
    assert "v3.0" in [event["payload"]["tag"] for event in published]


def test_everything_that_the_emulator_sent_was_understood(github: Emulated, remark: Remark) -> None:
    repository = github.repository
    issue = repository.create_issue("one more")
    issue.lock("resolved")
    issue.add_to_labels(repository.create_label("more", "000000"))
    issue.edit(milestone=repository.create_milestone("soon"))
    head = repository.get_branch(repository.default_branch).commit
    head.create_comment("nice")
    repository.create_git_ref("refs/heads/short", head.sha)
    repository.create_file("short.txt", "Add", "content", branch="short")
    pull = repository.create_pull(base=repository.default_branch, head="short", title="Short", body="")
    pull.create_review(body="Hm", event="COMMENT")
    pull.edit(state="closed")
    repository.create_check_run("lint", head.sha, status="completed", conclusion="success")
    github.hook().ping()
    sent = github.connection.webhooks()
    assert [(w["reason_code"], dict(w["headers"])["x-github-event"]) for w in sent if w["reason_code"]] == []
    kinds = {dict(w["headers"])["x-github-event"] for w in sent}
    assert {"ping", "issues", "issue_comment", "push", "pull_request", "release"} <= kinds
    remark(f"events sent: {', '.join(sorted(kinds))}")


def test_deliveries_are_numbered_and_no_guids(github: Emulated, remark: Remark) -> None:
    [first, *_] = github.connection.webhooks()
    assert dict(first["headers"])["x-github-delivery"].isdecimal()
    remark("so an emulator that starts again repeats ids")


def test_what_the_emulator_signs_with_another_secret_is_refused(github: Emulated) -> None:
    hook = github.hook()
    config = {"url": github.connection.webhook_url, "content_type": "json"}
    hook.edit("web", config={**config, "secret": "another"}, events=["*"])
    try:
        github.repository.create_issue("never seen")
        assert github.connection.refusals()[0] == "signature_differs"
    finally:
        hook.edit("web", config={**config, "secret": SECRET}, events=["*"])


# Signatures: PyGithub has no verifier and no signer, so GitHub's documented example and the emulator judge.


def signature(body: bytes, secret: str = SECRET) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def test_githubs_documented_example_is_genuine_and_a_changed_one_is_not(
    github: Emulated, remark: Remark
) -> None:
    documented = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert signature(b"Hello, World!") == documented
    headers = {"X-GitHub-Event": "ping", "X-GitHub-Delivery": "example", "Content-Type": "application/json"}
    body = json.dumps({"zen": "Keep it logically awesome."}).encode()
    genuine = headers | {"X-Hub-Signature-256": signature(body)}
    assert github.connection.deliver(body, genuine) == 200
    for changed in (
        headers,
        headers | {"X-Hub-Signature-256": ""},
        headers | {"X-Hub-Signature-256": signature(body, "another")},
        headers | {"X-Hub-Signature-256": signature(body).removeprefix("sha256=")},
        headers | {"X-Hub-Signature": "sha1=" + hmac.new(SECRET.encode(), body, hashlib.sha1).hexdigest()},
    ):
        assert github.connection.deliver(body, changed) == 401
    assert github.connection.deliver(body + b" ", genuine) == 401
    remark("PyGithub has no verifier")
