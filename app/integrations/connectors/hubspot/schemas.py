"""What comes in from HubSpot, and what each action takes.

Names are those of the CRM API (https://developers.hubspot.com/docs/api-reference/latest/crm) and of its
webhooks (https://developers.hubspot.com/docs/api-reference/latest/webhooks/guide). Ids are strings.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, model_validator

from app.integrations.inbound import ProviderId
from app.integrations.urls import BaseUrl

Id = Annotated[ProviderId, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
"""HubSpot writes ids as numbers in webhooks and as strings in the API."""

PropertyValue = str | int | float | bool | None


class HubspotSettings(BaseModel):
    """Configuration of a connection that is not secret."""

    model_config = ConfigDict(extra="forbid")

    base_url: BaseUrl = Field(default="https://api.hubapi.com", description="Address of HubSpot's API")
    api_version: str = Field(
        default="2026-09",
        pattern=r"^20\d\d-(03|09)(-beta)?$",
        description="Version in the API's paths, named after the month of its release",
    )


# What comes in.


class Notification(BaseModel):
    """One item of a webhook: the fields that events are made of; everything else stays in the original."""

    event_id: Id = Field(alias="eventId")
    subscription_type: str = Field(alias="subscriptionType", min_length=1)
    occurred_at: StrictInt = Field(alias="occurredAt")
    portal_id: Id | None = Field(default=None, alias="portalId")
    subscription_id: Id | None = Field(default=None, alias="subscriptionId")
    app_id: Id | None = Field(default=None, alias="appId")
    attempt_number: StrictInt | None = Field(default=None, alias="attemptNumber")
    object_id: Id | None = Field(default=None, alias="objectId")
    object_type_id: str | None = Field(default=None, alias="objectTypeId")
    property_name: str | None = Field(default=None, alias="propertyName")
    property_value: PropertyValue = Field(default=None, alias="propertyValue")
    change_source: str | None = Field(default=None, alias="changeSource")
    source_id: str | None = Field(default=None, alias="sourceId")
    primary_object_id: Id | None = Field(default=None, alias="primaryObjectId")
    merged_object_ids: list[Id] = Field(default=[], alias="mergedObjectIds")
    new_object_id: Id | None = Field(default=None, alias="newObjectId")
    association_type: str | None = Field(default=None, alias="associationType")
    from_object_id: Id | None = Field(default=None, alias="fromObjectId")
    to_object_id: Id | None = Field(default=None, alias="toObjectId")
    association_removed: bool | None = Field(default=None, alias="associationRemoved")
    message_id: Id | None = Field(default=None, alias="messageId")
    message_type: str | None = Field(default=None, alias="messageType")

    @model_validator(mode="before")
    @classmethod
    def _older_name(cls, value: Any) -> Any:
        # The guide's table and older examples say eventType where webhooks say subscriptionType.
        if isinstance(value, dict) and "subscriptionType" not in value and "eventType" in value:
            return {**value, "subscriptionType": value["eventType"]}
        return value


class NotificationPayload(BaseModel):
    """Any notification."""

    subscription_type: str = Field(description="As HubSpot names it, such as contact.propertyChange")
    object_type: str | None = Field(description="contact, company, deal, ticket, ... or a type id like 2-7")
    object_id: str | None = Field(description="The record; of a conversation, its thread")
    occurred_at: int = Field(description="When it happened, Unix milliseconds: HubSpot keeps no order")
    portal_id: str | None = Field(description="The HubSpot account")
    app_id: str | None = Field(description="The app whose subscription this is")
    change_source: str | None = Field(description="What changed it, such as CRM_UI or IMPORT")
    source_id: str | None = Field(description="Who or what that was, such as userId:123")
    attempt: int | None = Field(description="Which attempt to deliver it this is, from 0")
    raw: dict[str, Any] = Field(description="The notification as HubSpot sent it")


class ChangePayload(NotificationPayload):
    """A property has a new value."""

    property_name: str | None = Field(description="The property")
    property_value: PropertyValue = Field(description="Its new value; REDACTED if it is sensitive")


class MergePayload(NotificationPayload):
    """Records became one."""

    primary_object_id: str | None = Field(description="The record that won")
    merged_object_ids: list[str] = Field(description="The records that were merged into it")
    new_object_id: str | None = Field(description="The record that exists now, sometimes a new one")


class AssociationPayload(NotificationPayload):
    """Two records were associated, or are not any more."""

    association_type: str | None = Field(description="Such as CONTACT_TO_COMPANY")
    from_object_id: str | None = Field(description="The record on the one side")
    to_object_id: str | None = Field(description="The record on the other side")
    removed: bool | None = Field(description="Whether the association was taken away")


class MessagePayload(NotificationPayload):
    """A new message in a conversation; the thread is object_id."""

    message_id: str | None = Field(description="The message")
    message_type: str | None = Field(description="MESSAGE or COMMENT")


# Actions.


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid")


Properties = Annotated[
    dict[str, PropertyValue],
    Field(min_length=1, description="Values by the property's internal name; an empty text clears one"),
]


class CreateContact(_Input):
    """A new contact."""

    properties: Properties = Field(examples=[{"email": "ann@example.com", "firstname": "Ann"}])


class UpdateContact(_Input):
    """Changes of a contact."""

    contact_id: Id = Field(description="The contact's id, or its value of id_property")
    id_property: str | None = Field(
        default=None,
        min_length=1,
        description="A unique property to find it by, such as email",
    )
    properties: Properties


class UpsertContact(_Input):
    """A contact that is to be as described, whether it exists or not."""

    id: str = Field(min_length=1, description="The contact's value of id_property, such as its address")
    id_property: str = Field(
        default="email", min_length=1, description="The unique property that tells contacts apart"
    )
    properties: dict[str, PropertyValue] = Field(
        description="Values by the property's internal name; all that matter, not only those that change"
    )


class FindContact(_Input):
    """Which contacts to look for."""

    email: str | None = Field(default=None, min_length=1, description="With exactly this address")
    query: str | None = Field(
        default=None, min_length=1, description="With this text in a default text property"
    )
    properties: list[str] = Field(
        default=["email", "firstname", "lastname", "phone", "company", "lifecyclestage"],
        description="Properties to return",
    )
    limit: int = Field(default=10, ge=1, description="How many at most")

    @model_validator(mode="after")
    def _by_something(self) -> "FindContact":
        if self.email is None and self.query is None:
            raise ValueError("give email or query")
        return self


class CreateDeal(_Input):
    """A new deal."""

    properties: Properties = Field(
        examples=[{"dealname": "New deal", "pipeline": "default", "dealstage": "contractsent"}]
    )
    contact_ids: list[Id] = Field(default=[], description="Contacts that it is associated with")
    company_id: Id | None = Field(default=None, description="Its primary company")


class CreateNote(_Input):
    """A note on records."""

    hs_note_body: str = Field(min_length=1, description="The text; HTML is allowed")
    hs_timestamp: str | None = Field(
        default=None, description="Its time, ISO 8601 or Unix milliseconds; now if not set"
    )
    hubspot_owner_id: Id | None = Field(default=None, description="The user who owns it")
    contact_ids: list[Id] = Field(default=[], description="Contacts that it is on")
    company_ids: list[Id] = Field(default=[], description="Companies that it is on")
    deal_ids: list[Id] = Field(default=[], description="Deals that it is on")
    ticket_ids: list[Id] = Field(default=[], description="Tickets that it is on")

    @model_validator(mode="after")
    def _on_something(self) -> "CreateNote":
        if not (self.contact_ids or self.company_ids or self.deal_ids or self.ticket_ids):
            raise ValueError("name at least one record that the note is on")
        return self


# Results.


class Record(BaseModel):
    """A CRM record, with the properties that HubSpot returns."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(description="The record's id")
    properties: dict[str, Any] = Field(default={}, description="Its properties")


class UpsertedRecord(Record):
    """The record, and whether it is new."""

    new: bool | None = Field(default=None, description="Whether it did not exist before")


class Found(BaseModel):
    """What was found."""

    total: int = Field(default=0, description="How many there are")
    results: list[Record] = Field(default=[], description="The first of them")


ObjectType = Literal["contacts", "deals", "notes"]
