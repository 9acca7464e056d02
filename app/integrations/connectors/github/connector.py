"""GitHub: declarations, inbound events, action handlers."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from app.integrations.base import BaseIntegration
from app.integrations.bodies import ByContentType, Form, JsonObject
from app.integrations.errors import FieldProblem, InvalidActionPayload, UnhandledWebhook
from app.integrations.http import ConnectorHttp
from app.integrations.inbound import validated
from app.integrations.models import Event
from app.integrations.requests import WebhookRequest
from app.integrations.specs import ActionSpec, EventSpec, SecretSpec
from app.integrations.verification import Hmac

from . import schemas
from .client import GithubClient

_EVENTS: dict[str, tuple[type[schemas.EventPayload], str]] = {
    "github.issue.opened": (schemas.IssuePayload, "An issue was opened"),
    "github.issue.closed": (schemas.IssuePayload, "An issue was closed"),
    "github.issue.reopened": (schemas.IssuePayload, "An issue was opened again"),
    "github.issue.updated": (schemas.IssuePayload, "Anything else about an issue: see action"),
    "github.issue_comment.created": (schemas.CommentPayload, "A comment on an issue or pull request"),
    "github.issue_comment.updated": (schemas.CommentPayload, "A comment was edited"),
    "github.issue_comment.deleted": (schemas.CommentPayload, "A comment was deleted"),
    "github.pull_request.opened": (schemas.PullRequestPayload, "A pull request was opened"),
    "github.pull_request.closed": (schemas.PullRequestPayload, "A pull request was closed without a merge"),
    "github.pull_request.merged": (schemas.PullRequestPayload, "A pull request was merged"),
    "github.pull_request.reopened": (schemas.PullRequestPayload, "A pull request was opened again"),
    "github.pull_request.updated": (
        schemas.PullRequestPayload,
        "Anything else about a pull request: see action",
    ),
    "github.ref.pushed": (schemas.PushPayload, "Commits were pushed, or a branch or tag made or deleted"),
    "github.release.published": (schemas.ReleasePayload, "A release was published"),
    "github.release.updated": (schemas.ReleasePayload, "Anything else about a release: see action"),
    "github.check_run.completed": (schemas.RunPayload, "A check run ended"),
    "github.check_run.updated": (schemas.RunPayload, "Anything else about a check run: see action"),
    "github.workflow_run.completed": (schemas.RunPayload, "A workflow run ended"),
    "github.workflow_run.updated": (schemas.RunPayload, "Anything else about a workflow run: see action"),
    "github.star.created": (schemas.StarPayload, "Somebody starred the repository"),
    "github.star.deleted": (schemas.StarPayload, "Somebody took a star away"),
    "github.event.received": (schemas.EventPayload, "An event of any other kind, as GitHub sent it"),
}

_NOUNS = {"issues": "issue"}
_VERBS = {"edited": "updated"}


class GithubConnector(BaseIntegration):
    """Repositories, as a fine-grained token sees them."""

    name = "GitHub"
    key = "github"
    secrets = [
        SecretSpec(name="access_token", description="A fine-grained personal access token: github_pat_..."),
        SecretSpec(
            name="webhook_secret", description="The webhook's secret, which signs its requests", generate=True
        ),
    ]
    settings_model = schemas.GithubSettings
    body = ByContentType(
        {"application/json": JsonObject(), "application/x-www-form-urlencoded": Form(json_field="payload")}
    )
    verification = Hmac(header="X-Hub-Signature-256", secret="webhook_secret", prefix="sha256=")  # noqa: S106 - a name
    # X-GitHub-Delivery is a GUID, the same when GitHub is told to deliver once more.
    events = [
        EventSpec(name=name, description=says, model=model, unique_id=True)
        for name, (model, says) in _EVENTS.items()
    ]
    # GitHub has no idempotency keys: what adds something is `once`, what sets a state is idempotent.
    actions = [
        ActionSpec(
            name="create_issue",
            description="Open an issue",
            model=schemas.CreateIssue,
            handler="create_issue",
            result=schemas.IssueResult,
        ),
        ActionSpec(
            name="update_issue",
            description="Change, close or reopen an issue or pull request",
            model=schemas.UpdateIssue,
            handler="update_issue",
            effect="idempotent",
            result=schemas.IssueResult,
        ),
        ActionSpec(
            name="comment_issue",
            description="Comment on an issue or pull request",
            model=schemas.CommentIssue,
            handler="comment_issue",
            result=schemas.CommentResult,
        ),
        ActionSpec(
            name="add_labels",
            description="Add labels to an issue or pull request; those that it has stay",
            model=schemas.AddLabels,
            handler="add_labels",
            effect="idempotent",
            result=schemas.LabelsResult,
        ),
        ActionSpec(
            name="create_release",
            description="Publish a release, or draft one",
            model=schemas.CreateRelease,
            handler="create_release",
            result=schemas.ReleaseResult,
        ),
        ActionSpec(
            name="dispatch_workflow",
            description="Run a workflow that has the trigger workflow_dispatch",
            model=schemas.DispatchWorkflow,
            handler="dispatch_workflow",
            result=schemas.DispatchResult,
        ),
    ]

    def __init__(self, access_token: str, settings: schemas.GithubSettings, http: ConnectorHttp) -> None:
        self.settings = settings
        self.client = GithubClient(http, access_token, settings)

    async def receive(self, request: WebhookRequest) -> Event | None:
        """Makes the event of a webhook; none of `ping`, by which GitHub tries a new one.

        Raises UnhandledWebhook (event_missing), InvalidBody (invalid_<event>).
        """
        event = request.headers.get("x-github-event")
        if not event:
            raise UnhandledWebhook("event_missing", "The header X-GitHub-Event is missing.")
        if event == "ping":
            return None
        (body,) = request.items
        envelope = validated(schemas.Envelope, body, "webhook")
        name, content = _content(event, envelope.action, body)
        common = {
            "event": event,
            "action": envelope.action,
            "repository": envelope.repository and envelope.repository.full_name,
            "organization": envelope.organization and envelope.organization.login,
            "sender": envelope.sender and envelope.sender.login,
            "raw": body,
        }
        payload = _EVENTS[name][0].model_validate({**content, **common})
        return Event(
            type=name, external_id=request.headers.get("x-github-delivery"), payload=payload.model_dump()
        )

    async def register_webhook(
        self, url: str, secrets: dict[str, str], *, former: Sequence[str] = ()
    ) -> None:
        repository = self.settings.repository
        if repository is None:
            return
        kept, *others = [*await self.client.hooks(repository, [url, *former]), None]
        await self.client.put_hook(
            repository, kept, url, secrets["webhook_secret"], self.settings.webhook_events
        )
        for hook in others:
            if hook is not None:
                await self.client.delete_hook(repository, hook)

    async def unregister_webhook(self, *, urls: Sequence[str] = ()) -> None:
        if self.settings.repository is not None:
            for hook in await self.client.hooks(self.settings.repository, urls):
                await self.client.delete_hook(self.settings.repository, hook)

    async def check(self) -> None:
        await self.client.rate_limit()
        if self.settings.repository is not None:
            await self.client.repository(self.settings.repository)

    # Actions.

    async def create_issue(self, data: schemas.CreateIssue) -> dict[str, Any]:
        return _json(await self.client.create_issue(self._repository(data, "create_issue"), _given(data)))

    async def update_issue(self, data: schemas.UpdateIssue) -> dict[str, Any]:
        repository = self._repository(data, "update_issue")
        fields = data.model_dump(mode="json", exclude_unset=True, exclude={"repository", "issue_number"})
        return _json(await self.client.update_issue(repository, data.issue_number, fields))

    async def comment_issue(self, data: schemas.CommentIssue) -> dict[str, Any]:
        repository = self._repository(data, "comment_issue")
        return _json(await self.client.comment(repository, data.issue_number, data.body))

    async def add_labels(self, data: schemas.AddLabels) -> dict[str, Any]:
        repository = self._repository(data, "add_labels")
        labels = await self.client.add_labels(repository, data.issue_number, data.labels)
        return _json(schemas.LabelsResult(labels=labels))

    async def create_release(self, data: schemas.CreateRelease) -> dict[str, Any]:
        return _json(await self.client.create_release(self._repository(data, "create_release"), _given(data)))

    async def dispatch_workflow(self, data: schemas.DispatchWorkflow) -> dict[str, Any]:
        repository = self._repository(data, "dispatch_workflow")
        fields = _given(data, "workflow_id")
        if not data.return_run_details:
            del fields["return_run_details"]  # unknown to older servers
        return _json(await self.client.dispatch(repository, data.workflow_id, fields))

    def _repository(self, data: BaseModel, action: str) -> str:
        name = getattr(data, "repository", None) or self.settings.repository
        if name is None:
            message = "give it here, or set the connection's"
            raise InvalidActionPayload(action, [FieldProblem("repository", "missing", message)])
        return str(name)


def _content(event: str, action: str | None, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The event's name, and the fields that its kind has beside the common ones."""
    match event:
        case "issues":
            issue = validated(schemas.IssueEvent, body, "issues").issue
            return _name(event, action), _issue(issue)
        case "issue_comment":
            commented = validated(schemas.IssueCommentEvent, body, "issue_comment")
            return _name(event, action), _issue(commented.issue) | {
                "comment_id": commented.comment.id,
                "comment_url": commented.comment.html_url,
                "comment_author": _login(commented.comment.user),
                "body": commented.comment.body,
                "on_pull_request": commented.issue.pull_request is not None,
            }
        case "pull_request":
            pull = validated(schemas.PullRequestEvent, body, "pull_request").pull_request
            verb = "merged" if action == "closed" and pull.merged else action
            return _name(event, verb), _issue(pull) | {
                "head_ref": pull.head.ref,
                "head_sha": pull.head.sha,
                "base_ref": pull.base.ref,
                "draft": pull.draft,
                "merged": pull.merged,
            }
        case "push":
            push = validated(schemas.Push, body, "push")
            return "github.ref.pushed", push.model_dump() | {"pusher": push.pusher and push.pusher.name}
        case "release":
            release = validated(schemas.ReleaseEvent, body, "release").release
            return _name(event, action), {
                "release_id": release.id,
                "tag": release.tag_name,
                "name": release.name,
                "url": release.html_url,
                "draft": release.draft,
                "prerelease": release.prerelease,
            }
        case "check_run":
            return _name(event, action), _run(validated(schemas.CheckRunEvent, body, event).check_run)
        case "workflow_run":
            return _name(event, action), _run(validated(schemas.WorkflowRunEvent, body, event).workflow_run)
        case "star" if action in ("created", "deleted"):
            return _name(event, action), validated(schemas.StarEvent, body, "star").model_dump()
    return "github.event.received", {}


def _name(event: str, action: str | None) -> str:
    """`issues` and `opened` make `github.issue.opened`; what has no event of its own is an update."""
    noun = _NOUNS.get(event, event)
    name = f"github.{noun}.{_VERBS.get(action or '', action)}"
    return name if name in _EVENTS else f"github.{noun}.updated"


def _issue(issue: schemas.Numbered) -> dict[str, Any]:
    return {
        "number": issue.number,
        "title": issue.title,
        "state": issue.state,
        "url": issue.html_url,
        "author": _login(issue.user),
        "labels": [label.name for label in issue.labels],
    }


def _run(run: schemas.Run) -> dict[str, Any]:
    return {
        "run_id": run.id,
        "name": run.name,
        "status": run.status,
        "conclusion": run.conclusion,
        "branch": run.head_branch,
        "sha": run.head_sha,
        "url": run.html_url,
    }


def _login(user: schemas.Login | None) -> str | None:
    return user.login if user else None


def _given(data: BaseModel, *without: str) -> dict[str, Any]:
    return data.model_dump(mode="json", exclude_none=True, exclude={"repository", *without})


def _json(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json")
