"""What comes in from Acme, and what each action takes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.integrations.inbound import ProviderId
from app.integrations.urls import BaseUrl


class AcmeSettings(BaseModel):
    """Configuration of a connection that is not secret."""

    model_config = ConfigDict(extra="forbid")

    base_url: BaseUrl = Field(
        default="https://api.acme.example",
        description="Address of the API, or of a stand-in",
    )


# What comes in.


# <inbound models>
class ChangedContact(BaseModel):
    """A contact, as webhooks have it."""

    id: ProviderId = Field(description="The contact")
    email: str | None = Field(default=None, description="The address")
    name: str | None = Field(default=None, description="The full name")
    phone: str | None = Field(default=None, description="The phone number")


class Change(BaseModel):
    """One item of a webhook: the fields that events are made of."""

    id: ProviderId = Field(description="The change; the same if it is sent again")
    kind: Literal["contact.created", "contact.updated"] = Field(description="What happened")
    occurred_at: str = Field(description="When it happened, RFC 3339")
    changed: list[str] = Field(default=[], description="The fields that have new values")
    contact: ChangedContact = Field(description="The contact, as it is now")


class ContactPayload(BaseModel):
    """What happened to a contact."""

    contact: ChangedContact = Field(description="The contact, as it is now")
    changed: list[str] = Field(description="The fields that have new values")
    occurred_at: str = Field(description="When it happened, RFC 3339: changes may come in any order")


# </inbound>
# Actions.


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, description="The full name")
    phone: str | None = Field(default=None, description="The phone number")


class CreateContact(_Fields):
    """A new contact."""

    email: str = Field(min_length=3, description="The address")


class UpdateContact(_Fields):
    """New values of fields; those that are left out stay."""

    contact_id: str = Field(min_length=1, pattern=r"^[\w-]+$", description="The contact")
    email: str | None = Field(default=None, min_length=3, description="The address")


class UpsertContact(_Fields):
    """A contact that is to be there with these values, whether or not it is there already."""

    email: str = Field(min_length=3, description="The address, by which the contact is recognised")


class FindContact(BaseModel):
    """Which contact is looked for."""

    model_config = ConfigDict(extra="forbid")

    email: str = Field(min_length=3, description="The address")


class Contact(BaseModel):
    """A contact, as the API has it."""

    id: str = Field(description="The contact")
    email: str | None = Field(default=None, description="The address")
    name: str | None = Field(default=None, description="The full name")
    phone: str | None = Field(default=None, description="The phone number")


class FoundContacts(BaseModel):
    """What was found, perhaps nothing."""

    contacts: list[Contact] = Field(description="The contacts with this address")
