"""What comes in from Pipedrive, and what each action takes.

Names are those of webhooks v2 (https://pipedrive.readme.io/docs/guide-for-webhooks-v2) and of the API
(https://developers.pipedrive.com/docs/api/v1). Ids of records are numbers; events carry them as strings.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StringConstraints,
    model_validator,
)

from app.integrations.urls import BaseUrl

Id = Annotated[
    str,
    StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00]*$"),
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
]
"""Webhooks write ids now as numbers, now as strings; leads have a UUID."""


class PipedriveSettings(BaseModel):
    """Configuration of a connection that is not secret."""

    model_config = ConfigDict(extra="forbid")

    base_url: BaseUrl = Field(
        default="https://api.pipedrive.com",
        description="Address of the API, or the company's own such as https://acme.pipedrive.com",
    )
    event_action: Literal["*", "create", "change", "delete"] = Field(
        default="*", description="Which actions to have webhooks for"
    )
    event_object: str = Field(
        default="*", pattern=r"^(\*|[a-z_]+)$", description="Which objects to have webhooks for, such as deal"
    )


# What comes in.


class Meta(BaseModel):
    """What a webhook says about itself. Version 1 writes other names and has no id of the event."""

    action: str = Field(min_length=1)
    entity: Id | None = None
    object: Id | None = None
    id: Id | None = None
    entity_id: Id | None = None
    timestamp: str | StrictInt | None = None
    company_id: Id | None = None
    user_id: Id | None = None
    webhook_id: Id | None = None
    change_source: str | None = None
    attempt: StrictInt | None = None
    is_bulk_edit: bool | None = None
    merged_to_id: Id | None = None
    merged_from_id: Id | None = None


class Webhook(BaseModel):
    """The envelope."""

    meta: Meta
    data: dict[str, Any] | None = None
    previous: dict[str, Any] | None = None


class ChangePayload(BaseModel):
    """A record was created, changed or deleted."""

    entity: str = Field(description="Kind of the record, such as deal")
    entity_id: str | None = Field(description="The record's id")
    action: str = Field(description="create, change or delete")
    name: str | None = Field(description="Its name, title or subject, if it has one")
    changed: list[str] = Field(description="Fields that have a new value")
    timestamp: str | int | None = Field(description="When it happened: ISO 8601, or Unix seconds")
    user_id: str | None = Field(description="Who did it")
    company_id: str | None = Field(description="The Pipedrive company")
    change_source: str | None = Field(description="app or api")
    is_bulk_edit: bool | None = Field(description="Whether it was one of many")
    merged_to_id: str | None = Field(description="Of a record deleted by a merge: what it is part of now")
    merged_from_id: str | None = Field(description="Of a record changed by a merge: what was merged into it")
    attempt: int | None = Field(description="Which attempt to deliver it this is, from 1")
    raw: dict[str, Any] = Field(
        description="The webhook as Pipedrive sent it: meta, data (the record now), previous (earlier values)"
    )


# Actions.


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Contact(_Input):
    """An address or number."""

    value: str = Field(min_length=1, description="The address or number")
    primary: bool | None = Field(default=None, description="Whether it is the main one")
    label: str | None = Field(default=None, description="Such as work or home")


_CUSTOM = "Values of custom fields, by the field's key of 40 characters"
_VISIBLE = "Who sees it: 1 owner, 3 owner's group, 5 its subgroups too, 7 everybody, depending on the plan"


class CreatePerson(_Input):
    """A new person."""

    name: str = Field(min_length=1, description="The name")
    emails: list[Contact] | None = Field(default=None, description="E-mail addresses")
    phones: list[Contact] | None = Field(default=None, description="Phone numbers")
    org_id: int | None = Field(default=None, description="The organization that the person belongs to")
    owner_id: int | None = Field(default=None, description="The user who owns it; the token's if not set")
    label_ids: list[int] | None = Field(default=None, description="Labels")
    visible_to: int | None = Field(default=None, description=_VISIBLE)
    custom_fields: dict[str, Any] | None = Field(default=None, description=_CUSTOM)


class UpdatePerson(_Input):
    """Changes of a person; what is left out stays."""

    id: int = Field(description="The person")
    name: str | None = Field(default=None, min_length=1, description="The name")
    emails: list[Contact] | None = Field(default=None, description="E-mail addresses, replacing those it has")
    phones: list[Contact] | None = Field(default=None, description="Phone numbers, replacing those it has")
    org_id: int | None = Field(default=None, description="The organization that the person belongs to")
    owner_id: int | None = Field(default=None, description="The user who owns it")
    label_ids: list[int] | None = Field(default=None, description="Labels, replacing those it has")
    visible_to: int | None = Field(default=None, description=_VISIBLE)
    custom_fields: dict[str, Any] | None = Field(default=None, description=_CUSTOM)

    @model_validator(mode="after")
    def _something(self) -> "UpdatePerson":
        if self.model_fields_set <= {"id"}:
            raise ValueError("name at least one field to change")
        return self


class FindPerson(_Input):
    """Which persons to look for."""

    term: str = Field(min_length=1, description="What to look for; at least 2 characters unless exact")
    fields: Literal["custom_fields", "email", "notes", "phone", "name"] | None = Field(
        default=None, description="Where to look; everywhere if not set"
    )
    exact_match: bool = Field(default=False, description="Whether the whole value must be the term")
    organization_id: int | None = Field(default=None, description="Only persons of this organization")
    limit: int = Field(default=10, ge=1, description="How many at most")


class CreateDeal(_Input):
    """A new deal."""

    title: str = Field(min_length=1, description="The title")
    value: float | None = Field(default=None, description="What it is worth")
    currency: str | None = Field(default=None, description="In which currency, such as EUR")
    person_id: int | None = Field(default=None, description="The person that it is with")
    org_id: int | None = Field(default=None, description="The organization that it is with")
    owner_id: int | None = Field(default=None, description="The user who owns it; the token's if not set")
    pipeline_id: int | None = Field(default=None, description="The pipeline")
    stage_id: int | None = Field(default=None, description="The stage, which also names the pipeline")
    status: Literal["open", "won", "lost"] | None = Field(default=None, description="open if not set")
    expected_close_date: str | None = Field(
        default=None, pattern=r"^\d{4}-\d\d-\d\d$", description="When it should close: YYYY-MM-DD"
    )
    label_ids: list[int] | None = Field(default=None, description="Labels")
    custom_fields: dict[str, Any] | None = Field(default=None, description=_CUSTOM)


class AddNote(_Input):
    """A note on a record."""

    content: str = Field(min_length=1, description="The text; HTML is cleaned by Pipedrive")
    deal_id: int | None = Field(default=None, description="The deal that it is on")
    person_id: int | None = Field(default=None, description="The person that it is on")
    org_id: int | None = Field(default=None, description="The organization that it is on")
    lead_id: str | None = Field(default=None, description="The lead that it is on")
    user_id: int | None = Field(default=None, description="Its author, if an admin writes for somebody")

    @model_validator(mode="after")
    def _on_something(self) -> "AddNote":
        if {self.deal_id, self.person_id, self.org_id, self.lead_id} == {None}:
            raise ValueError("name a deal, person, organization or lead")
        return self


# Results.


class Record(BaseModel):
    """A record as Pipedrive returns it, with all its fields."""

    model_config = ConfigDict(extra="allow")

    id: int = Field(description="The record's id")


class Hit(BaseModel):
    """One that was found."""

    model_config = ConfigDict(extra="allow")

    result_score: float | None = Field(default=None, description="How well it fits")
    item: dict[str, Any] = Field(description="The person")


class Found(BaseModel):
    """What was found, the best first."""

    items: list[Hit] = Field(default=[], description="Persons")
