"""Pipedrive: declarations, inbound changes, action handlers."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from app.integrations.base import BaseIntegration
from app.integrations.http import ConnectorHttp
from app.integrations.inbound import validated
from app.integrations.models import Event
from app.integrations.specs import ActionSpec, EventSpec, SecretSpec
from app.integrations.urls import webhook_token
from app.integrations.verification import Basic

from . import schemas
from .client import PipedriveClient
from .schemas import Meta, Webhook

_ENTITIES = ("deal", "person", "organization", "activity", "lead", "note")
"""What has events of its own."""

_CHANGES = {"create": "created", "change": "updated", "delete": "deleted"}


class PipedriveConnector(BaseIntegration):
    """A Pipedrive company, as the user whose API token it is sees it."""

    name = "Pipedrive"
    key = "pipedrive"
    secrets = [
        SecretSpec(name="api_token", description="The user's personal API token"),
        SecretSpec(
            name="webhook_user", description="User name that Pipedrive shows with each webhook", generate=True
        ),
        SecretSpec(
            name="webhook_password",
            description="Password that Pipedrive shows with each webhook",
            generate=True,
        ),
    ]
    settings_model = schemas.PipedriveSettings
    verification = Basic(user="webhook_user", password="webhook_password")  # noqa: S106 - names
    # The id is that of the event and lasts through the attempts, whose number stands in the content.
    events = [
        *(
            EventSpec(
                name=f"pipedrive.{entity}.{verb}",
                description=f"{'An' if entity[0] in 'aeiou' else 'A'} {entity} was {verb}",
                model=schemas.ChangePayload,
                unique_id=True,
            )
            for entity in _ENTITIES
            for verb in _CHANGES.values()
        ),
        EventSpec(
            name="pipedrive.change.received",
            description="A change of anything else, as Pipedrive sent it",
            model=schemas.ChangePayload,
            unique_id=True,
        ),
    ]
    # Pipedrive has no idempotency keys: what adds a record is `once`, what sets fields is idempotent.
    actions = [
        ActionSpec(
            name="create_person",
            description="Create a person; Pipedrive does not mind if there is one already",
            model=schemas.CreatePerson,
            handler="create_person",
            result=schemas.Record,
        ),
        ActionSpec(
            name="update_person",
            description="Set fields of a person",
            model=schemas.UpdatePerson,
            handler="update_person",
            effect="idempotent",
            result=schemas.Record,
        ),
        ActionSpec(
            name="find_person",
            description="Find persons by address, number, name or other text",
            model=schemas.FindPerson,
            handler="find_person",
            effect="idempotent",
            result=schemas.Found,
            reads=True,
        ),
        ActionSpec(
            name="create_deal",
            description="Create a deal",
            model=schemas.CreateDeal,
            handler="create_deal",
            result=schemas.Record,
        ),
        ActionSpec(
            name="add_note",
            description="Write a note on a deal, person, organization or lead",
            model=schemas.AddNote,
            handler="add_note",
            result=schemas.Record,
        ),
    ]

    def __init__(self, api_token: str, settings: schemas.PipedriveSettings, http: ConnectorHttp) -> None:
        self.settings = settings
        self.client = PipedriveClient(http, api_token, settings)

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        """Makes the event of one change. Raises InvalidBody (invalid_webhook)."""
        webhook = validated(Webhook, payload, "webhook")
        meta = webhook.meta
        entity = meta.entity or meta.object or "unknown"
        verb = _CHANGES.get(meta.action) if entity in _ENTITIES else None
        content = schemas.ChangePayload.model_validate(
            {
                **meta.model_dump(),
                "entity": entity,
                "name": _name(webhook.data or webhook.previous or {}),
                "changed": sorted(webhook.previous or {}) if meta.action == "change" else [],
                "raw": payload,
            }
        )
        return Event(
            type=f"pipedrive.{entity}.{verb}" if verb else "pipedrive.change.received",
            external_id=_identity(meta, entity),
            payload=content.model_dump(),
        )

    async def register_webhook(
        self, url: str, secrets: dict[str, str], *, former: Sequence[str] = ()
    ) -> None:
        # A webhook cannot be changed, so a new one takes the place of the old: those with another URL go
        # afterwards, so that nothing is missed; one with this URL, which has other credentials, before.
        known = await self.client.webhooks([url, *former])
        for hook, token in known:
            if token == webhook_token(url):
                await self.client.delete_webhook(hook)
        await self.client.add_webhook(
            url,
            user=secrets["webhook_user"],
            password=secrets["webhook_password"],
            action=self.settings.event_action,
            kind=self.settings.event_object,
        )
        for hook, token in known:
            if token != webhook_token(url):
                await self.client.delete_webhook(hook)

    async def unregister_webhook(self, *, urls: Sequence[str] = ()) -> None:
        for hook, _ in await self.client.webhooks(urls):
            await self.client.delete_webhook(hook)

    async def check(self) -> None:
        await self.client.me()

    # Actions.

    async def create_person(self, data: schemas.CreatePerson) -> dict[str, Any]:
        return _json(await self.client.create_person(_given(data)))

    async def update_person(self, data: schemas.UpdatePerson) -> dict[str, Any]:
        fields = data.model_dump(mode="json", exclude_unset=True, exclude={"id"})
        return _json(await self.client.update_person(data.id, fields))

    async def find_person(self, data: schemas.FindPerson) -> dict[str, Any]:
        params = _given(data) | {"exact_match": "true" if data.exact_match else "false"}
        return _json(await self.client.search_persons(params))

    async def create_deal(self, data: schemas.CreateDeal) -> dict[str, Any]:
        return _json(await self.client.create_deal(_given(data)))

    async def add_note(self, data: schemas.AddNote) -> dict[str, Any]:
        return _json(await self.client.add_note(_given(data)))


def _identity(meta: Meta, entity: str) -> str | None:
    """The event's id, with the record beside it: an event of many records would still be many. Webhooks of
    version 1 have none, and whether two of them are the same cannot be told."""
    return f"{meta.id}:{entity}:{meta.entity_id or ''}" if meta.id and meta.entity else None


def _name(record: dict[str, Any]) -> str | None:
    named = (record.get(field) for field in ("name", "title", "subject"))
    return next((name for name in named if isinstance(name, str)), None)


def _given(data: BaseModel) -> dict[str, Any]:
    return data.model_dump(mode="json", exclude_none=True)


def _json(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json")
