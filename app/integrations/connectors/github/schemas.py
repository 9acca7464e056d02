"""What comes in from GitHub, and what each action takes.

Names are those of the webhooks (https://docs.github.com/webhooks/webhook-events-and-payloads) and of the
REST API (https://docs.github.com/rest).
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, model_validator

from app.integrations.urls import BaseUrl

WEBHOOK_EVENTS = [
    "check_run",
    "issue_comment",
    "issues",
    "pull_request",
    "push",
    "release",
    "star",
    "workflow_run",
]
"""What has events of its own, and what a registered webhook asks for unless settings say otherwise."""


def _repository(name: str) -> str:
    owner, _, repository = name.partition("/")
    if not all(re.fullmatch(r"[\w.-]{1,100}", part) and part.strip(".") for part in (owner, repository)):
        raise ValueError("write it as owner/name")
    return name


Repository = Annotated[str, AfterValidator(_repository)]


class GithubSettings(BaseModel):
    """Configuration of a connection that is not secret."""

    model_config = ConfigDict(extra="forbid")

    base_url: BaseUrl = Field(
        default="https://api.github.com",
        description="Address of the API; of an own server https://HOST/api/v3",
    )
    repository: Repository | None = Field(
        default=None,
        description="owner/name: where the webhook is registered, and what actions mean that name none",
    )
    webhook_events: list[str] = Field(
        default=WEBHOOK_EVENTS, min_length=1, description='Events that the webhook asks for; ["*"] is all'
    )


# What comes in: only what the events are made of; everything else stays in the original.


class Login(BaseModel):
    """Somebody."""

    login: str


class Named(BaseModel):
    """A repository."""

    full_name: str


class Label(BaseModel):
    """A label."""

    name: str


class Envelope(BaseModel):
    """What most webhooks have in common."""

    action: str | None = None
    repository: Named | None = None
    organization: Login | None = None
    sender: Login | None = None


class Numbered(BaseModel):
    """An issue, or the issue side of a pull request."""

    number: StrictInt
    title: str
    state: str
    html_url: str
    user: Login | None = None
    labels: list[Label] = []
    pull_request: dict[str, Any] | None = None


class Branch(BaseModel):
    """One end of a pull request."""

    ref: str
    sha: str


class PullRequest(Numbered):
    """A pull request."""

    head: Branch
    base: Branch
    draft: bool | None = None
    merged: bool | None = None


class Comment(BaseModel):
    """A comment."""

    id: StrictInt
    html_url: str
    body: str | None = None
    user: Login | None = None


class Release(BaseModel):
    """A release."""

    id: StrictInt
    tag_name: str
    html_url: str
    name: str | None = None
    draft: bool | None = None
    prerelease: bool | None = None


class Run(BaseModel):
    """A check run or workflow run."""

    id: StrictInt
    name: str | None = None
    status: str | None = None
    conclusion: str | None = None
    head_branch: str | None = None
    head_sha: str
    html_url: str | None = None


class Commit(BaseModel):
    """A pushed commit."""

    id: str = Field(description="The commit")
    message: str = Field(description="What it says")


class Pusher(BaseModel):
    """Who pushed."""

    name: str | None = None


class Push(BaseModel):
    """A push."""

    ref: str
    before: str
    after: str
    created: bool = False
    deleted: bool = False
    forced: bool = False
    compare: str | None = None
    commits: list[Commit] = []
    pusher: Pusher | None = None


class IssueEvent(BaseModel):
    """An `issues` webhook."""

    issue: Numbered


class IssueCommentEvent(IssueEvent):
    """An `issue_comment` webhook."""

    comment: Comment


class PullRequestEvent(BaseModel):
    """A `pull_request` webhook."""

    pull_request: PullRequest


class ReleaseEvent(BaseModel):
    """A `release` webhook."""

    release: Release


class CheckRunEvent(BaseModel):
    """A `check_run` webhook."""

    check_run: Run


class WorkflowRunEvent(BaseModel):
    """A `workflow_run` webhook."""

    workflow_run: Run


class StarEvent(BaseModel):
    """A `star` webhook."""

    starred_at: str | None = None


class EventPayload(BaseModel):
    """Any webhook."""

    event: str = Field(description="As GitHub names it, such as issues")
    action: str | None = Field(description="What happened in particular, such as opened")
    repository: str | None = Field(description="owner/name")
    organization: str | None = Field(description="The organization, if the repository is one's")
    sender: str | None = Field(description="Who did it")
    raw: dict[str, Any] = Field(description="The webhook as GitHub sent it")


class IssuePayload(EventPayload):
    """An issue."""

    number: int = Field(description="The issue's number")
    title: str = Field(description="Its title")
    state: str = Field(description="open or closed")
    url: str = Field(description="Its page")
    author: str | None = Field(description="Who opened it")
    labels: list[str] = Field(description="Its labels")


class CommentPayload(IssuePayload):
    """A comment on an issue or pull request."""

    comment_id: int = Field(description="The comment")
    comment_url: str = Field(description="Its place on the page")
    comment_author: str | None = Field(description="Who wrote it")
    body: str | None = Field(description="Its text")
    on_pull_request: bool = Field(description="Whether the number is a pull request's")


class PullRequestPayload(IssuePayload):
    """A pull request."""

    head_ref: str = Field(description="The branch with the changes")
    head_sha: str = Field(description="Its latest commit")
    base_ref: str = Field(description="The branch that they are for")
    draft: bool | None = Field(description="Whether it is a draft")
    merged: bool | None = Field(description="Whether it was merged")


class PushPayload(EventPayload):
    """Commits, branches or tags were pushed."""

    ref: str = Field(description="Such as refs/heads/main")
    before: str = Field(description="The commit before; zeros if the ref is new")
    after: str = Field(description="The commit now; zeros if the ref was deleted")
    created: bool = Field(description="Whether the ref is new")
    deleted: bool = Field(description="Whether the ref was deleted")
    forced: bool = Field(description="Whether history was rewritten")
    compare: str | None = Field(description="The page that shows the changes")
    pusher: str | None = Field(description="Who pushed")
    commits: list[Commit] = Field(description="The commits, the oldest first; GitHub names at most 2048")


class ReleasePayload(EventPayload):
    """A release."""

    release_id: int = Field(description="The release")
    tag: str = Field(description="Its tag")
    name: str | None = Field(description="Its name")
    url: str = Field(description="Its page")
    draft: bool | None = Field(description="Whether it is a draft")
    prerelease: bool | None = Field(description="Whether it is a pre-release")


class RunPayload(EventPayload):
    """A check run or workflow run."""

    run_id: int = Field(description="The run")
    name: str | None = Field(description="Its name")
    status: str | None = Field(description="Such as queued, in_progress, completed")
    conclusion: str | None = Field(description="How it ended, such as success or failure")
    branch: str | None = Field(description="The branch; check runs do not say")
    sha: str = Field(description="The commit")
    url: str | None = Field(description="Its page")


class StarPayload(EventPayload):
    """A star."""

    starred_at: str | None = Field(description="When; nothing if it was taken away")


# Actions.


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid")

    repository: Repository | None = Field(default=None, description="owner/name; the connection's if not set")


class CreateIssue(_Input):
    """A new issue."""

    title: str = Field(min_length=1, description="The title")
    body: str | None = Field(default=None, description="The text, in Markdown")
    labels: list[str] | None = Field(default=None, description="Labels; needs push access")
    assignees: list[str] | None = Field(default=None, description="Who it is for; needs push access")
    milestone: int | None = Field(default=None, description="The milestone's number")
    type: str | None = Field(default=None, description="The issue type, in organizations that have them")


class UpdateIssue(_Input):
    """Changes of an issue or pull request; what is left out stays."""

    issue_number: int = Field(ge=1, description="Its number")
    title: str | None = Field(default=None, min_length=1, description="The title")
    body: str | None = Field(default=None, description="The text, in Markdown")
    state: Literal["open", "closed"] | None = Field(default=None, description="open or closed")
    state_reason: Literal["completed", "not_planned", "duplicate", "reopened"] | None = Field(
        default=None, description="Why the state changes"
    )
    labels: list[str] | None = Field(default=None, description="Labels, replacing those it has")
    assignees: list[str] | None = Field(default=None, description="Who it is for, replacing those it has")
    milestone: int | None = Field(default=None, description="The milestone's number; null takes it out")

    @model_validator(mode="after")
    def _something(self) -> "UpdateIssue":
        if self.model_fields_set <= {"repository", "issue_number"}:
            raise ValueError("name at least one field to change")
        return self


class CommentIssue(_Input):
    """A comment on an issue or pull request."""

    issue_number: int = Field(ge=1, description="Its number")
    body: str = Field(min_length=1, description="The text, in Markdown")


class AddLabels(_Input):
    """Labels for an issue or pull request."""

    issue_number: int = Field(ge=1, description="Its number")
    labels: list[str] = Field(min_length=1, description="Labels to add to those it has")


class CreateRelease(_Input):
    """A new release."""

    tag_name: str = Field(min_length=1, description="The tag; made if it does not exist")
    target_commitish: str | None = Field(
        default=None, description="Branch or commit to tag; the default branch if not set"
    )
    name: str | None = Field(default=None, description="The release's name")
    body: str | None = Field(default=None, description="What is new, in Markdown")
    draft: bool = Field(default=False, description="Whether it is not published yet")
    prerelease: bool = Field(default=False, description="Whether it is a pre-release")
    generate_release_notes: bool = Field(default=False, description="Whether GitHub writes name and text")


class DispatchWorkflow(_Input):
    """A workflow to run, one that has the trigger workflow_dispatch."""

    workflow_id: int | str = Field(description="Its id, or its file's name such as deploy.yml")
    ref: str = Field(min_length=1, description="The branch or tag to run it on")
    inputs: dict[str, Any] | None = Field(default=None, description="Its inputs by name")
    return_run_details: bool = Field(
        default=False, description="Whether to return the run; older servers do not know how"
    )


# Results.


class IssueResult(BaseModel):
    """The issue as it is now."""

    number: int = Field(description="Its number")
    title: str = Field(description="Its title")
    state: str = Field(description="open or closed")
    html_url: str = Field(description="Its page")
    node_id: str | None = Field(default=None, description="Its id in the GraphQL API")


class CommentResult(BaseModel):
    """The comment."""

    id: int = Field(description="The comment")
    html_url: str = Field(description="Its place on the page")


class LabelsResult(BaseModel):
    """The labels that it has now."""

    labels: list[str] = Field(description="All of them")


class ReleaseResult(BaseModel):
    """The release."""

    id: int = Field(description="The release")
    tag_name: str = Field(description="Its tag")
    html_url: str = Field(description="Its page")
    draft: bool = Field(default=False, description="Whether it is not published yet")


class DispatchResult(BaseModel):
    """The run, if GitHub was asked to tell."""

    workflow_run_id: int | None = Field(default=None, description="The run")
    html_url: str | None = Field(default=None, description="Its page")
