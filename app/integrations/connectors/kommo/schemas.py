"""What comes in from Kommo, and what each action takes.

Names are those of the API v4 (https://developers.kommo.com/reference). Webhooks are forms, so that all their
values are texts, numbers and times too.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from app.integrations.urls import BaseUrl

Id = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00]*$")]

Time = Annotated[
    int | None,
    BeforeValidator(lambda text: int(text) if isinstance(text, str) and text.isdecimal() else None),
]
"""Unix seconds, as they stand in a form."""

WEBHOOK_SETTINGS: tuple[str, ...] = (
    *(
        f"{action}_{kind}"
        for kind in ("lead", "contact", "company")
        for action in ("add", "update", "delete")
    ),
    *(f"{action}_{kind}" for kind in ("lead", "contact", "company") for action in ("restore", "responsible")),
    *(f"note_{kind}" for kind in ("lead", "contact", "company")),
    *(f"{action}_task" for action in ("add", "update", "delete", "responsible")),
    "status_lead",
    "add_message",
)
"""What the connector subscribes to unless settings say otherwise."""


class KommoSettings(BaseModel):
    """Configuration of a connection that is not secret."""

    model_config = ConfigDict(extra="forbid")

    subdomain: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$",
        description="The account's name in its address: acme in acme.kommo.com",
        examples=["acme"],
    )
    domain: Literal["kommo.com", "amocrm.ru", "amocrm.com"] = Field(
        default="kommo.com", description="Where the account is"
    )
    base_url: BaseUrl | None = Field(
        default=None, description="Another address instead of the two above, for a proxy or stand-in"
    )
    webhook_events: list[str] = Field(
        default=list(WEBHOOK_SETTINGS),
        min_length=1,
        description="What to have webhooks for, in Kommo's words",
    )

    @property
    def api_url(self) -> str:
        return self.base_url or f"https://{self.subdomain}.{self.domain}"

    @model_validator(mode="after")
    def _somewhere(self) -> "KommoSettings":
        if self.subdomain is None and self.base_url is None:
            raise ValueError("give subdomain")
        return self


# What comes in.


class Account(BaseModel):
    """Whose webhook it is."""

    id: Id | None = None
    subdomain: str | None = None


class Change(BaseModel):
    """One changed entity, of any kind: what events are made of; everything else stays in the original."""

    id: Id | None = None
    name: str | None = None
    text: str | None = None
    type: str | None = None
    price: str | None = None
    status_id: str | None = None
    old_status_id: str | None = None
    pipeline_id: str | None = None
    old_pipeline_id: str | None = None
    responsible_user_id: str | None = None
    old_responsible_user_id: str | None = None
    modified_user_id: str | None = None
    element_id: str | None = None
    element_type: str | None = None
    entity_id: str | None = None
    chat_id: str | None = None
    talk_id: str | None = None
    contact_id: str | None = None
    origin: str | None = None
    updated_at: Time = None
    last_modified: Time = None
    created_at: Time = None
    date_create: Time = None

    @property
    def time(self) -> int | None:
        """When it happened, by whichever name this kind of entity has for it."""
        times = (self.updated_at, self.last_modified, self.created_at, self.date_create)
        return next((time for time in times if time is not None), None)


class ChangePayload(BaseModel):
    """What every event has."""

    entity: str = Field(description="Kind of what changed, in Kommo's words, such as leads")
    action: str = Field(description="What happened, in Kommo's words, such as status")
    entity_id: str | None = Field(description="What changed")
    account_id: str | None = Field(description="The account")
    account_subdomain: str | None = Field(description="Its subdomain")
    responsible_user_id: str | None = Field(description="Who is responsible")
    modified_user_id: str | None = Field(description="Who did it; 0 or nothing if no user")
    time: int | None = Field(description="When it happened, Unix seconds; deletions do not say")
    raw: Any = Field(description="The entity as Kommo sent it; all values are texts")


class EntityPayload(ChangePayload):
    """A contact or company."""

    name: str | None = Field(description="Its name")


class LeadPayload(EntityPayload):
    """A lead."""

    price: str | None = Field(description="What it is worth")
    status_id: str | None = Field(description="Its stage; 142 is won, 143 lost")
    old_status_id: str | None = Field(description="Its stage before, if that changed")
    pipeline_id: str | None = Field(description="Its pipeline")
    old_pipeline_id: str | None = Field(description="Its pipeline before, if that changed")


class NotePayload(ChangePayload):
    """A note on a lead, contact or company, which is entity_id."""

    note_id: str | None = Field(description="The note")
    text: str | None = Field(description="Its text; of some kinds of notes, JSON")


class TaskPayload(ChangePayload):
    """A task."""

    text: str | None = Field(description="What is to be done")
    element_id: str | None = Field(description="The lead, contact or company that it is about")
    element_type: str | None = Field(description="1 contact, 2 lead, 3 company, 12 customer")


class MessagePayload(ChangePayload):
    """A message in a chat; its id is entity_id."""

    text: str | None = Field(description="The text")
    chat_id: str | None = Field(description="The chat")
    talk_id: str | None = Field(description="The conversation")
    contact_id: str | None = Field(description="The contact who wrote")
    origin: str | None = Field(description="The channel, such as telegram")
    element_id: str | None = Field(description="The lead or contact that the chat belongs to")


# Actions.


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid")


CustomFields = list[dict[str, Any]] | None
_CUSTOM = 'Custom fields: {"field_id" or "field_code": ..., "values": [{"value": ..., "enum_code": ...}]}'


class CreateLead(_Input):
    """A new lead."""

    name: str | None = Field(default=None, description="The name; Kommo makes one if not set")
    price: int | None = Field(default=None, description="What it is worth, in the account's currency")
    status_id: int | None = Field(default=None, description="The stage; the pipeline's first if not set")
    pipeline_id: int | None = Field(default=None, description="The pipeline; the main one if not set")
    responsible_user_id: int | None = Field(default=None, description="Who is responsible")
    contact_ids: list[int] = Field(default=[], description="Its contacts, the main one first")
    company_id: int | None = Field(default=None, description="Its company")
    tags: list[str] = Field(default=[], description="Names of tags")
    custom_fields_values: CustomFields = Field(default=None, description=_CUSTOM)


class UpdateLead(_Input):
    """Changes of a lead; what is left out stays."""

    id: int = Field(description="The lead")
    name: str | None = Field(default=None, description="The name")
    price: int | None = Field(default=None, description="What it is worth, in the account's currency")
    status_id: int | None = Field(default=None, description="The stage")
    pipeline_id: int | None = Field(default=None, description="The pipeline, if the stage is in another one")
    responsible_user_id: int | None = Field(default=None, description="Who is responsible")
    loss_reason_id: int | None = Field(default=None, description="Why it was lost")
    custom_fields_values: CustomFields = Field(default=None, description=_CUSTOM)

    @model_validator(mode="after")
    def _something(self) -> "UpdateLead":
        if self.model_fields_set <= {"id"}:
            raise ValueError("name at least one field to change")
        return self


class CreateContact(_Input):
    """A new contact."""

    name: str | None = Field(default=None, description="The whole name")
    first_name: str | None = Field(default=None, description="The first name")
    last_name: str | None = Field(default=None, description="The last name")
    email: str | None = Field(default=None, description="An address, as the custom field EMAIL")
    phone: str | None = Field(default=None, description="A number, as the custom field PHONE")
    responsible_user_id: int | None = Field(default=None, description="Who is responsible")
    tags: list[str] = Field(default=[], description="Names of tags")
    custom_fields_values: CustomFields = Field(default=None, description=_CUSTOM)

    @model_validator(mode="after")
    def _named(self) -> "CreateContact":
        if not (self.name or self.first_name or self.last_name):
            raise ValueError("give name, first_name or last_name")
        return self


class AddNote(_Input):
    """A note on a lead, contact or company."""

    entity_type: Literal["leads", "contacts", "companies"] = Field(
        default="leads", description="What kind of thing it is on"
    )
    entity_id: int = Field(description="What it is on")
    text: str = Field(min_length=1, description="The text")


class FindContact(_Input):
    """Which contacts to look for."""

    query: str = Field(min_length=1, description="Text in any filled-in field, such as an address or number")
    limit: int = Field(default=10, ge=1, le=250, description="How many at most; Kommo gives 250 at a time")
    with_leads: bool = Field(default=False, description="With the ids of their leads")


# Results.


class Created(BaseModel):
    """What was created."""

    model_config = ConfigDict(extra="allow")

    id: int = Field(description="Its id")


class Found(BaseModel):
    """What was found."""

    contacts: list[dict[str, Any]] = Field(default=[], description="Contacts as Kommo returns them")
