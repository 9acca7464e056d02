"""Kommo (amoCRM): declarations, inbound changes, action handlers."""

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from app.integrations.base import BaseIntegration
from app.integrations.bodies import Form
from app.integrations.http import ConnectorHttp
from app.integrations.inbound import validated
from app.integrations.models import Event
from app.integrations.requests import WebhookRequest
from app.integrations.specs import ActionSpec, EventSpec, Limits, SecretSpec

from . import schemas
from .client import KommoClient
from .schemas import Account, Change

_NOUNS = {"leads": "lead", "contacts": "contact", "companies": "company", "task": "task", "tasks": "task"}

_VERBS = {
    "add": ("created", "was created"),
    "update": ("updated", "was changed"),
    "delete": ("deleted", "was deleted"),
    "restore": ("restored", "came back from the recycling bin"),
    "responsible": ("responsible_changed", "has another responsible user"),
    "note": ("note_added", "has a new note"),
    "status": ("status_changed", "is in another stage"),
}
"""Kommo's words for what happened: ours, and the description."""

_HAPPENS = {
    "lead": tuple(_VERBS),
    "contact": ("add", "update", "delete", "restore", "responsible", "note"),
    "company": ("add", "update", "delete", "restore", "responsible", "note"),
    "task": ("add", "update", "delete", "responsible"),
}
"""What has an event of its own."""

_PAYLOADS: dict[str, type[schemas.ChangePayload]] = {
    "lead": schemas.LeadPayload,
    "contact": schemas.EntityPayload,
    "company": schemas.EntityPayload,
    "task": schemas.TaskPayload,
}


def _payload(noun: str, action: str) -> type[schemas.ChangePayload]:
    return schemas.NotePayload if action == "note" else _PAYLOADS[noun]


class KommoConnector(BaseIntegration):
    """A Kommo or amoCRM account. Webhooks are not signed: the URL, which nobody can guess, is the proof."""

    name = "Kommo"
    key = "kommo"
    secrets = [SecretSpec(name="access_token", description="A long-lived token of a private integration")]
    settings_model = schemas.KommoSettings
    body = Form(nested=True)
    events = [
        *(
            EventSpec(
                name=f"kommo.{noun}.{_VERBS[action][0]}",
                description=f"A {noun} {_VERBS[action][1]}",
                model=_payload(noun, action),
            )
            for noun, actions in _HAPPENS.items()
            for action in actions
        ),
        EventSpec(
            name="kommo.message.received",
            description="A message came in through a chat",
            model=schemas.MessagePayload,
        ),
        EventSpec(
            name="kommo.change.received",
            description="A change of anything else, as Kommo sent it",
            model=schemas.ChangePayload,
        ),
    ]
    # Kommo has no idempotency keys: what adds something is `once`, what sets fields is idempotent.
    # developers.kommo.com/docs/limitations: not more than 7 requests a second.
    limits = Limits(rate=7)
    actions = [
        ActionSpec(
            name="create_lead",
            description="Create a lead, with its contacts and company",
            model=schemas.CreateLead,
            handler="create_lead",
            result=schemas.Created,
        ),
        ActionSpec(
            name="update_lead",
            description="Set fields of a lead, such as its stage",
            model=schemas.UpdateLead,
            handler="update_lead",
            effect="idempotent",
            result=schemas.Created,
        ),
        ActionSpec(
            name="create_contact",
            description="Create a contact; Kommo does not mind if there is one already",
            model=schemas.CreateContact,
            handler="create_contact",
            result=schemas.Created,
        ),
        ActionSpec(
            name="add_note",
            description="Write a note on a lead, contact or company",
            model=schemas.AddNote,
            handler="add_note",
            result=schemas.Created,
        ),
        ActionSpec(
            name="find_contact",
            description="Find contacts by text in any field, such as an address or number",
            model=schemas.FindContact,
            handler="find_contact",
            effect="idempotent",
            result=schemas.Found,
            reads=True,
        ),
    ]

    def __init__(self, access_token: str, settings: schemas.KommoSettings, http: ConnectorHttp) -> None:
        self.settings = settings
        self.client = KommoClient(http, access_token, settings)

    async def receive(self, request: WebhookRequest) -> list[Event]:
        """Makes the events of a request, which may hold several changes of several kinds.

        Raises InvalidBody (invalid_account, invalid_change).
        """
        (body,) = request.items
        account = validated(Account, body.get("account") or {}, "account")
        return [_event(account, *change) for change in _changes(body)]

    async def register_webhook(
        self, url: str, secrets: dict[str, str], *, former: Sequence[str] = ()
    ) -> None:
        known = await self.client.webhooks([url, *former])
        await self.client.add_webhook(url, self.settings.webhook_events)
        for destination in known:
            if destination != url:
                await self.client.delete_webhook(destination)

    async def unregister_webhook(self, *, urls: Sequence[str] = ()) -> None:
        for destination in await self.client.webhooks(urls):
            await self.client.delete_webhook(destination)

    async def check(self) -> None:
        await self.client.account()

    # Actions.

    async def create_lead(self, data: schemas.CreateLead) -> dict[str, Any]:
        embedded = _tags(data.tags)
        if data.contact_ids:
            main, *others = data.contact_ids
            embedded["contacts"] = [{"id": main, "is_main": True}, *({"id": one} for one in others)]
        if data.company_id is not None:
            embedded["companies"] = [{"id": data.company_id}]
        lead = _given(data, "contact_ids", "company_id", "tags")
        return _json(await self.client.create_lead(lead | ({"_embedded": embedded} if embedded else {})))

    async def update_lead(self, data: schemas.UpdateLead) -> dict[str, Any]:
        fields = data.model_dump(mode="json", exclude_unset=True, exclude={"id"})
        return _json(await self.client.update_lead(data.id, fields))

    async def create_contact(self, data: schemas.CreateContact) -> dict[str, Any]:
        contact = _given(data, "email", "phone", "tags")
        for code, value in (("EMAIL", data.email), ("PHONE", data.phone)):
            if value is not None:
                field = {"field_code": code, "values": [{"value": value, "enum_code": "WORK"}]}
                contact.setdefault("custom_fields_values", []).append(field)
        if data.tags:
            contact["_embedded"] = _tags(data.tags)
        return _json(await self.client.create_contact(contact))

    async def add_note(self, data: schemas.AddNote) -> dict[str, Any]:
        note = {"note_type": "common", "params": {"text": data.text}}
        return _json(await self.client.add_note(data.entity_type, data.entity_id, note))

    async def find_contact(self, data: schemas.FindContact) -> dict[str, Any]:
        params: dict[str, Any] = {"query": data.query, "limit": data.limit}
        if data.with_leads:
            params["with"] = "leads"
        return _json(await self.client.find_contacts(params))


def _changes(body: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Every change in a webhook: `{entity: {action: [item, ...]}}`."""
    for entity, actions in body.items():
        if entity == "account":
            continue
        if not isinstance(actions, dict):
            yield entity, "", actions
            continue
        for action, found in actions.items():
            yield from ((entity, action, item) for item in _items(found))


def _items(found: Any) -> list[Any]:
    if isinstance(found, dict) and all(index.isdecimal() for index in found):
        return list(found.values())  # not numbered from 0
    return found if isinstance(found, list) else [found]


def _event(account: Account, entity: str, action: str, item: Any) -> Event:
    content = item
    if action == "note" and isinstance(item, dict) and isinstance(item.get("note"), dict):
        content = item["note"]
    elif not isinstance(item, dict):
        content = (
            {"id": item} if action == "delete" and isinstance(item, str) else {}
        )  # deletions may be bare
    change = validated(Change, content, "change")
    noun = _NOUNS.get(entity, entity)
    if noun == "contact" and change.type == "company":
        noun = "company"  # companies come as contacts
    entity_id = change.element_id if action == "note" else change.id
    name, model = _named(noun, action)
    known = {
        **change.model_dump(),
        "entity": entity,
        "action": action,
        "entity_id": entity_id,
        "note_id": change.id,
        "account_id": account.id,
        "account_subdomain": account.subdomain,
        "time": change.time,
        "raw": item,
    }
    payload = model.model_validate({field: known[field] for field in model.model_fields})
    return Event(type=name, external_id=_identity(noun, action, change), payload=payload.model_dump())


def _named(noun: str, action: str) -> tuple[str, type[schemas.ChangePayload]]:
    if (noun, action) == ("message", "add"):
        return "kommo.message.received", schemas.MessagePayload
    if action in _HAPPENS.get(noun, ()):
        return f"kommo.{noun}.{_VERBS[action][0]}", _payload(noun, action)
    return "kommo.change.received", schemas.ChangePayload


def _identity(noun: str, action: str, change: Change) -> str | None:
    """Kommo has no ids of events. What changed, how and when tells two changes apart but for those within
    one second, and these differ in content; without a time, as in deletions, nothing does."""
    if change.id is None or change.time is None:
        return None
    return f"{noun[:50]}:{change.id}:{action[:50]}:{change.time}".replace("\x00", "")


def _tags(names: list[str]) -> dict[str, Any]:
    return {"tags": [{"name": name} for name in names]} if names else {}


def _given(data: BaseModel, *without: str) -> dict[str, Any]:
    return data.model_dump(mode="json", exclude_none=True, exclude=set(without))


def _json(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json")
