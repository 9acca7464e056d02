"""HubSpot: declarations, inbound notifications, action handlers."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from app.integrations.base import BaseIntegration
from app.integrations.bodies import JsonArray
from app.integrations.http import ConnectorHttp
from app.integrations.inbound import validated
from app.integrations.models import Event
from app.integrations.specs import ActionSpec, EventSpec, Limits, SecretSpec
from app.integrations.verification import Body, HeaderValue, Hmac, Method, Timestamp, Url

from . import schemas
from .client import Association, HubspotClient
from .schemas import Notification

_OBJECTS = {"0-1": "contact", "0-2": "company", "0-3": "deal", "0-5": "ticket"}
"""What has events of its own, by the type id that `object.*` subscriptions name."""

_CHANGES: dict[str, tuple[str, type[schemas.NotificationPayload], str]] = {
    "creation": ("created", schemas.NotificationPayload, "was created"),
    "propertyChange": ("updated", schemas.ChangePayload, "has a new value of a property"),
    "deletion": ("deleted", schemas.NotificationPayload, "was deleted"),
    "restore": ("restored", schemas.NotificationPayload, "came back from the recycling bin"),
    "merge": ("merged", schemas.MergePayload, "was merged with others"),
}
"""HubSpot's words for what happened: ours, the payload, and the description."""

# Association types that HubSpot defines; the others are in its associations guide.
_DEAL_TO = {"contact": 3, "primary company": 5}
_NOTE_TO = {"contact": 202, "company": 190, "deal": 214, "ticket": 228}


class HubspotConnector(BaseIntegration):
    """A HubSpot account, through an app of its own: contacts, companies, deals and tickets."""

    name = "HubSpot"
    key = "hubspot"
    secrets = [
        SecretSpec(name="access_token", description="The app's access token, or a service key"),
        SecretSpec(
            name="client_secret",
            description="The app's client secret, which signs its webhooks; needed for webhooks only",
            required=False,
        ),
    ]
    settings_model = schemas.HubspotSettings
    body = JsonArray()
    verification = Hmac(
        header="X-HubSpot-Signature-v3",
        secret="client_secret",  # noqa: S106 - a name
        encoding="base64",
        signed=(Method(), Url(decoded=True), Body(), HeaderValue("X-HubSpot-Request-Timestamp")),
        timestamp=Timestamp("X-HubSpot-Request-Timestamp", unit=1000),
    )
    # The id holds everything of a notification but the number of the attempt: see `_identity`.
    events = [
        *(
            EventSpec(
                name=f"hubspot.{noun}.{verb}", description=f"A {noun} {what}", model=model, unique_id=True
            )
            for noun in _OBJECTS.values()
            for verb, model, what in _CHANGES.values()
        ),
        EventSpec(
            name="hubspot.contact.forgotten",
            description="A contact was deleted for good, to comply with privacy laws",
            model=schemas.NotificationPayload,
            unique_id=True,
        ),
        EventSpec(
            name="hubspot.association.changed",
            description="Two records were associated, or are not any more",
            model=schemas.AssociationPayload,
            unique_id=True,
        ),
        EventSpec(
            name="hubspot.message.received",
            description="A new message in a conversation",
            model=schemas.MessagePayload,
            unique_id=True,
        ),
        EventSpec(
            name="hubspot.notification.received",
            description="A notification of any other type, as HubSpot sent it",
            model=schemas.NotificationPayload,
            unique_id=True,
        ),
    ]
    # HubSpot has no idempotency keys: what adds a record is `once`, what sets values is idempotent.
    # developers.hubspot.com/docs/api/usage-details: 100 requests in 10 seconds, for every kind of account.
    limits = Limits(rate=100, per=10.0)
    actions = [
        ActionSpec(
            name="create_contact",
            description="Create a contact; refused if its address is taken",
            model=schemas.CreateContact,
            handler="create_contact",
            result=schemas.Record,
        ),
        ActionSpec(
            name="update_contact",
            description="Set properties of a contact",
            model=schemas.UpdateContact,
            handler="update_contact",
            effect="idempotent",
            result=schemas.Record,
        ),
        ActionSpec(
            name="upsert_contact",
            description="Create a contact, or update the one with this address",
            model=schemas.UpsertContact,
            handler="upsert_contact",
            effect="idempotent",
            result=schemas.UpsertedRecord,
        ),
        ActionSpec(
            name="find_contact",
            description="Find contacts by address or text; new ones may take some seconds to be found",
            model=schemas.FindContact,
            handler="find_contact",
            effect="idempotent",
            result=schemas.Found,
            reads=True,
        ),
        ActionSpec(
            name="create_deal",
            description="Create a deal, with its contacts and company",
            model=schemas.CreateDeal,
            handler="create_deal",
            result=schemas.Record,
        ),
        ActionSpec(
            name="create_note",
            description="Write a note on contacts, companies, deals or tickets",
            model=schemas.CreateNote,
            handler="create_note",
            result=schemas.Record,
        ),
    ]

    def __init__(self, access_token: str, settings: schemas.HubspotSettings, http: ConnectorHttp) -> None:
        self.client = HubspotClient(http, access_token, settings)

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        """Makes the event of one notification. Raises InvalidBody (invalid_notification)."""
        item = validated(Notification, payload, "notification")
        noun, _, what = item.subscription_type.partition(".")
        if noun == "object":
            noun = _OBJECTS.get(item.object_type_id or "", item.object_type_id or "")
        name, model = _event(noun, what)
        known: dict[str, Any] = {
            **item.model_dump(),
            "object_type": noun or None,
            "attempt": item.attempt_number,
            "removed": item.association_removed,
            "raw": payload,
        }
        content = model.model_validate({field: known[field] for field in model.model_fields})
        return Event(type=name, external_id=_identity(item, payload), payload=content.model_dump())

    async def check(self) -> None:
        await self.client.account()

    # Actions.

    async def create_contact(self, data: schemas.CreateContact) -> dict[str, Any]:
        return _json(await self.client.create("contacts", data.properties, []))

    async def update_contact(self, data: schemas.UpdateContact) -> dict[str, Any]:
        return _json(await self.client.update("contacts", data.contact_id, data.properties, data.id_property))

    async def upsert_contact(self, data: schemas.UpsertContact) -> dict[str, Any]:
        return _json(await self.client.upsert("contacts", data.id, data.properties, data.id_property))

    async def find_contact(self, data: schemas.FindContact) -> dict[str, Any]:
        body: dict[str, Any] = {"properties": data.properties, "limit": data.limit}
        if data.query is not None:
            body["query"] = data.query
        if data.email is not None:
            by_address = {"propertyName": "email", "operator": "EQ", "value": data.email}
            body["filterGroups"] = [{"filters": [by_address]}]
        return _json(await self.client.search("contacts", body))

    async def create_deal(self, data: schemas.CreateDeal) -> dict[str, Any]:
        associations = [(_DEAL_TO["contact"], contact) for contact in data.contact_ids]
        if data.company_id is not None:
            associations.append((_DEAL_TO["primary company"], data.company_id))
        return _json(await self.client.create("deals", data.properties, associations))

    async def create_note(self, data: schemas.CreateNote) -> dict[str, Any]:
        properties = {
            "hs_note_body": data.hs_note_body,
            "hs_timestamp": data.hs_timestamp or datetime.now(UTC).isoformat(timespec="milliseconds"),
        }
        if data.hubspot_owner_id is not None:
            properties["hubspot_owner_id"] = data.hubspot_owner_id
        on: dict[str, list[str]] = {
            "contact": data.contact_ids,
            "company": data.company_ids,
            "deal": data.deal_ids,
            "ticket": data.ticket_ids,
        }
        associations: list[Association] = [(_NOTE_TO[kind], one) for kind, ids in on.items() for one in ids]
        return _json(await self.client.create("notes", properties, associations))


def _event(noun: str, what: str) -> tuple[str, type[schemas.NotificationPayload]]:
    if what == "associationChange":
        return "hubspot.association.changed", schemas.AssociationPayload
    if (noun, what) == ("contact", "privacyDeletion"):
        return "hubspot.contact.forgotten", schemas.NotificationPayload
    if (noun, what) == ("conversation", "newMessage"):
        return "hubspot.message.received", schemas.MessagePayload
    if noun in _OBJECTS.values() and what in _CHANGES:
        verb, model, _ = _CHANGES[what]
        return f"hubspot.{noun}.{verb}", model
    return "hubspot.notification.received", schemas.NotificationPayload


def _identity(item: Notification, original: dict[str, Any]) -> str:
    """The same for every attempt to deliver a notification, and for no other notification.

    HubSpot says of eventId that it is not guaranteed to be unique, so the account, the subscription and the
    time stand beside it. One change can still cause two notifications with all four the same (a primary
    association, which HubSpot announces twice), so the content is in it too. attemptNumber is not: it is
    what differs when HubSpot tries again.
    """
    lasting = {name: value for name, value in original.items() if name != "attemptNumber"}
    digest = hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()
    parts = (item.portal_id, item.subscription_id, item.event_id, item.occurred_at, digest[:16])
    return "-".join("" if part is None else str(part)[:100] for part in parts)


def _json(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json")
