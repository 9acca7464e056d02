"""Acme: declarations, what comes in, action handlers."""

from typing import Any

from app.integrations.base import BaseIntegration
from app.integrations.bodies import JsonArray
from app.integrations.http import ConnectorHttp
from app.integrations.inbound import validated
from app.integrations.models import Event
from app.integrations.specs import ActionSpec, EventSpec, SecretSpec
from app.integrations.verification import Hmac

from . import schemas
from .client import AcmeClient


class AcmeConnector(BaseIntegration):
    """Acme: say in a line what it is. The catalogue shows it."""

    name = "Acme"
    key = "acme"
    secrets = [
        SecretSpec("api_key", "Key of the API: say where it is found"),
        SecretSpec("signing_secret", "Signs webhooks: say where it is found"),
    ]
    settings_model = schemas.AcmeSettings
    # If a time is signed too, declare it with `timestamp`: then old requests are refused.
    verification = Hmac(
        header="X-Acme-Signature",
        secret="signing_secret",  # noqa: S106 - a name
        prefix="sha256=",
    )
    # <inbound events>
    body = JsonArray()  # one request brings many changes, and each is an event
    events = [
        EventSpec(
            "acme.contact.created",
            "A contact was created",
            schemas.ContactPayload,
        ),
        EventSpec(
            "acme.contact.updated",
            "Fields of a contact have new values",
            schemas.ContactPayload,
        ),
    ]
    # </inbound>
    # What adds a contact is `once`; what sets values comes to the same if it is repeated.
    actions = [
        ActionSpec(
            "create_contact",
            "Create a contact; refused if the address is taken",
            schemas.CreateContact,
            "create_contact",
            result=schemas.Contact,
        ),
        ActionSpec(
            "update_contact",
            "Set fields of a contact",
            schemas.UpdateContact,
            "update_contact",
            effect="idempotent",
            result=schemas.Contact,
        ),
        ActionSpec(
            "upsert_contact",
            "Create a contact, or update the one with this address",
            schemas.UpsertContact,
            "upsert_contact",
            effect="idempotent",
            result=schemas.Contact,
        ),
        ActionSpec(
            "find_contact",
            "Find a contact by its address",
            schemas.FindContact,
            "find_contact",
            effect="idempotent",
            result=schemas.FoundContacts,
            reads=True,
        ),
    ]

    def __init__(
        self,
        api_key: str,
        settings: schemas.AcmeSettings,
        http: ConnectorHttp,
    ) -> None:
        self.client = AcmeClient(http, api_key, settings.base_url)

    # <inbound handler>
    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        """Makes the event of one change. Raises InvalidBody (invalid_change)."""
        change = validated(schemas.Change, payload, "change")
        content = schemas.ContactPayload(
            contact=change.contact,
            changed=change.changed,
            occurred_at=change.occurred_at,
        )
        return Event(
            type=f"acme.{change.kind}",
            external_id=change.id,
            payload=content.model_dump(),
        )

    # </inbound>
    async def check(self) -> None:
        await self.client.account()

    # Actions.

    async def create_contact(self, data: schemas.CreateContact) -> schemas.Contact:
        return await self.client.create(data.model_dump(exclude_none=True))

    async def update_contact(self, data: schemas.UpdateContact) -> schemas.Contact:
        fields = data.model_dump(exclude={"contact_id"}, exclude_none=True)
        return await self.client.update(data.contact_id, fields)

    async def upsert_contact(self, data: schemas.UpsertContact) -> schemas.Contact:
        return await self.client.upsert(data.email, data.model_dump(exclude={"email"}, exclude_none=True))

    async def find_contact(self, data: schemas.FindContact) -> schemas.FoundContacts:
        return await self.client.find(data.email)
