"""Discord: declarations, inbound interactions, action handlers."""

import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from app.integrations.base import BaseIntegration
from app.integrations.http import ConnectorHttp
from app.integrations.inbound import validated
from app.integrations.models import Event
from app.integrations.requests import Reply, WebhookRequest
from app.integrations.specs import ActionSpec, EventSpec, Limits, SecretSpec
from app.integrations.verification import Body, Ed25519, HeaderValue

from . import schemas
from .client import DiscordClient
from .schemas import AUTOCOMPLETE, COMMAND, COMPONENT, MODAL, PING, DiscordSettings, Interaction, SentMessage

PONG, DEFERRED_MESSAGE, DEFERRED_UPDATE, AUTOCOMPLETE_RESULT = 1, 5, 6, 8
EPHEMERAL = 1 << 6


class DiscordConnector(BaseIntegration):
    """An app with a bot user that gets its interactions over HTTP.

    Discord wants an answer within 3 seconds, which is too soon for whoever reads the feed. So every
    interaction is deferred at once, and answered by edit_original_response within 15 minutes.
    """

    name = "Discord"
    key = "discord"
    secrets = [
        SecretSpec(name="bot_token", description="Token from the app's Bot page"),
        SecretSpec(name="public_key", description="Public Key from General Information: 64 hex digits"),
    ]
    settings_model = DiscordSettings
    verification = Ed25519(
        header="X-Signature-Ed25519",
        secret="public_key",  # noqa: S106 - a name
        signed=(HeaderValue("X-Signature-Timestamp"), Body()),
    )
    reply_within = 2.0
    events = [
        EventSpec(
            "discord.command.invoked",
            "A command was used; answer with edit_original_response",
            schemas.CommandPayload,
            unique_id=True,
        ),
        EventSpec(
            "discord.component.used",
            "A button or menu in a message was used",
            schemas.ComponentPayload,
            unique_id=True,
        ),
        EventSpec("discord.modal.submitted", "A modal was submitted", schemas.ModalPayload, unique_id=True),
        EventSpec(
            "discord.event.received",
            "A webhook event, or an interaction of a newer kind, as Discord sent it",
            schemas.EventPayload,
        ),
    ]
    # Discord knows a repeated new message only for a few minutes, and a follow-up not at all, so both are
    # `once`. The others set a state that a repetition finds already set.
    # discord.com/developers/docs/topics/rate-limits: 50 requests a second.
    limits = Limits(rate=50)
    actions = [
        ActionSpec(
            "send_message",
            "Send a message to a channel",
            schemas.SendMessage,
            "send_message",
            result=SentMessage,
        ),
        ActionSpec(
            "edit_message",
            "Change the bot's message",
            schemas.EditMessage,
            "edit_message",
            effect="idempotent",
            result=SentMessage,
        ),
        ActionSpec(
            "delete_message",
            "Delete a message",
            schemas.DeleteMessage,
            "delete_message",
            effect="idempotent",
            result=schemas.DeletedMessage,
            destructive=True,
        ),
        ActionSpec(
            "create_reaction",
            "React to a message",
            schemas.CreateReaction,
            "create_reaction",
            effect="idempotent",
            result=schemas.Done,
        ),
        ActionSpec(
            "edit_original_response",
            "Answer a command; change the message of a component",
            schemas.EditOriginalResponse,
            "edit_original_response",
            effect="idempotent",
            result=SentMessage,
        ),
        ActionSpec(
            "create_followup",
            "Send one more message after the answer",
            schemas.CreateFollowup,
            "create_followup",
            result=SentMessage,
        ),
        ActionSpec(
            "delete_original_response",
            "Take the answer back",
            schemas.DeleteOriginalResponse,
            "delete_original_response",
            effect="idempotent",
            result=schemas.DeletedMessage,
            destructive=True,
        ),
    ]

    def __init__(self, bot_token: str, settings: DiscordSettings, http: ConnectorHttp) -> None:
        self.settings = settings
        self.client = DiscordClient(http, bot_token, settings.base_url)

    async def receive(self, request: WebhookRequest) -> Event | list[Event] | Reply | None:
        """Answers while Discord waits, and makes the event. Raises InvalidBody."""
        (item,) = request.items
        if "token" not in item:
            return _webhook_event(item)
        interaction = validated(Interaction, item, "interaction")
        if interaction.type == PING:
            return _reply(PONG)
        if interaction.type == AUTOCOMPLETE:
            # Choices would have to be ready now. No event either: nobody could act on it.
            return _reply(AUTOCOMPLETE_RESULT, {"choices": []})
        event = _event(interaction, item)
        if interaction.type not in (COMMAND, COMPONENT, MODAL):
            return event
        if interaction.message:  # its answer is a change of that message
            return _reply(DEFERRED_UPDATE, events=[event])
        return _reply(
            DEFERRED_MESSAGE, {"flags": EPHEMERAL} if self.settings.ephemeral else None, events=[event]
        )

    async def check(self) -> None:
        await self.client.get_me()

    async def register_webhook(self, url: str, secrets: dict[str, str]) -> None:
        if self.settings.manage_endpoint:
            await self.client.set_interactions_endpoint(url)

    async def unregister_webhook(self) -> None:
        if self.settings.manage_endpoint:
            await self.client.set_interactions_endpoint(None)

    # Actions.

    async def send_message(self, data: schemas.SendMessage) -> SentMessage:
        return await self.client.create_message(data.channel_id, _new(data), data.files)

    async def edit_message(self, data: schemas.EditMessage) -> SentMessage:
        return await self.client.edit_message(data.channel_id, data.message_id, _change(data), data.files)

    async def delete_message(self, data: schemas.DeleteMessage) -> schemas.DeletedMessage:
        deleted = await self.client.delete_message(data.channel_id, data.message_id)
        return schemas.DeletedMessage(deleted=deleted)

    async def create_reaction(self, data: schemas.CreateReaction) -> schemas.Done:
        await self.client.create_reaction(data.channel_id, data.message_id, data.emoji)
        return schemas.Done(ok=True)

    async def edit_original_response(self, data: schemas.EditOriginalResponse) -> SentMessage:
        return await self.client.edit_original(
            data.application_id, data.interaction_token, _change(data), data.files
        )

    async def create_followup(self, data: schemas.CreateFollowup) -> SentMessage:
        return await self.client.create_followup(
            data.application_id, data.interaction_token, _new(data), data.files
        )

    async def delete_original_response(self, data: schemas.DeleteOriginalResponse) -> schemas.DeletedMessage:
        deleted = await self.client.delete_original(data.application_id, data.interaction_token)
        return schemas.DeletedMessage(deleted=deleted)


_NOT_IN_THE_BODY = {"channel_id", "message_id", "application_id", "interaction_token", "files"}


def _new(data: BaseModel) -> dict[str, Any]:
    return data.model_dump(mode="json", exclude=_NOT_IN_THE_BODY, exclude_none=True)


def _change(data: BaseModel) -> dict[str, Any]:
    # A null that was given takes away what is there.
    return data.model_dump(mode="json", exclude=_NOT_IN_THE_BODY, exclude_unset=True)


def _reply(kind: int, data: dict[str, Any] | None = None, events: Iterable[Event] = ()) -> Reply:
    body = {"type": kind} | ({"data": data} if data else {})
    return Reply(json.dumps(body).encode(), "application/json", events=tuple(events))


def _webhook_event(item: dict[str, Any]) -> Reply:
    envelope = validated(schemas.WebhookEvents, item, "webhook_event")
    told = envelope.event
    if told is None:  # a PING
        return Reply(status=204)
    payload = schemas.EventPayload(
        kind=told.type, application_id=envelope.application_id, timestamp=told.timestamp, raw=item
    )
    # They have no id. A repeated delivery has the same type, time and content.
    event = Event(
        type="discord.event.received",
        external_id=f"{told.type}:{told.timestamp}",
        payload=payload.model_dump(),
    )
    return Reply(status=204, events=(event,))


def _event(interaction: Interaction, item: dict[str, Any]) -> Event:
    who = interaction.who
    common = {
        "interaction_id": interaction.id,
        "application_id": interaction.application_id,
        "interaction_token": interaction.token,
        "guild_id": interaction.guild_id,
        "channel_id": interaction.channel_id,
        "user_id": who.id if who else None,
        "user_name": (who.global_name or who.username) if who else None,
        "locale": interaction.locale,
        "message_id": interaction.message.id if interaction.message else None,
        "raw": item,
    }
    content: BaseModel
    match interaction.type:
        case schemas.COMMAND:
            kind = "discord.command.invoked"
            command = validated(schemas.CommandData, interaction.data, "command")
            names, options = _innermost(command)
            content = schemas.CommandPayload(
                **common,
                command_id=command.id,
                command=" ".join(names),
                command_type=command.type,
                options={option.name: option.value for option in options},
                target_id=command.target_id,
            )
        case schemas.COMPONENT:
            kind = "discord.component.used"
            component = validated(schemas.ComponentData, interaction.data, "component")
            content = schemas.ComponentPayload(**common, **component.model_dump())
        case schemas.MODAL:
            kind = "discord.modal.submitted"
            modal = validated(schemas.ModalData, interaction.data, "modal")
            inputs = [one for part in modal.components for one in part.inputs()]
            fields = {one.custom_id or "": one.value if one.values is None else one.values for one in inputs}
            content = schemas.ModalPayload(**common, custom_id=modal.custom_id, fields=fields)
        case _:
            kind = "discord.event.received"
            content = schemas.EventPayload(
                kind=f"interaction_{interaction.type}",
                application_id=interaction.application_id,
                timestamp=None,
                raw=item,
            )
    return Event(type=kind, external_id=interaction.id, payload=content.model_dump())


def _innermost(command: schemas.CommandData) -> tuple[list[str], list[schemas.Option]]:
    """The command's name with those of its group and subcommand, and the innermost parameters."""
    names, options = [command.name], command.options
    while len(options) == 1 and options[0].is_subcommand:
        names.append(options[0].name)
        options = options[0].options
    return names, options
