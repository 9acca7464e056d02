"""Slack: declarations, inbound events, commands and interactions, action handlers."""

from typing import Any

from pydantic import BaseModel

from app.integrations.base import BaseIntegration
from app.integrations.bodies import ByContentType, Form, JsonObject
from app.integrations.errors import Rejected
from app.integrations.handshakes import EchoChallenge
from app.integrations.http import ConnectorHttp
from app.integrations.inbound import validated
from app.integrations.models import Event
from app.integrations.specs import ActionSpec, EventSpec, SecretSpec
from app.integrations.verification import Body, HeaderValue, Hmac, Text, Timestamp

from . import schemas
from .client import Envelope, Opened, Shared, SlackClient, UploadUrl
from .schemas import SlackSettings


class SlackConnector(BaseIntegration):
    """An app with a bot user. Events, slash commands and interactions all come to the same URL."""

    name = "Slack"
    key = "slack"
    secrets = [
        SecretSpec(name="bot_token", description="Bot User OAuth Token, xoxb-...: OAuth & Permissions"),
        SecretSpec(name="signing_secret", description="Signing Secret: Basic Information, App Credentials"),
    ]
    settings_model = SlackSettings
    body = ByContentType(
        {"application/json": JsonObject(), "application/x-www-form-urlencoded": Form(json_field="payload")}
    )
    verification = Hmac(
        header="X-Slack-Signature",
        secret="signing_secret",  # noqa: S106 - a name
        prefix="v0=",
        signed=(Text("v0:"), HeaderValue("X-Slack-Request-Timestamp"), Text(":"), Body()),
        timestamp=Timestamp("X-Slack-Request-Timestamp"),
    )
    handshake = EchoChallenge(when={"type": "url_verification"})
    events = [
        EventSpec("slack.message.received", "A message was posted", schemas.MessagePayload, unique_id=True),
        EventSpec("slack.message.edited", "A message was edited", schemas.MessagePayload, unique_id=True),
        EventSpec("slack.message.deleted", "A message was deleted", schemas.MessagePayload, unique_id=True),
        EventSpec(
            "slack.app_mention.received", "The app was mentioned", schemas.MessagePayload, unique_id=True
        ),
        EventSpec("slack.reaction.added", "A reaction was added", schemas.ReactionPayload, unique_id=True),
        EventSpec(
            "slack.reaction.removed", "A reaction was removed", schemas.ReactionPayload, unique_id=True
        ),
        EventSpec("slack.member.joined", "Somebody joined a channel", schemas.MemberPayload, unique_id=True),
        EventSpec("slack.app_home.opened", "Somebody opened the app", schemas.AppHomePayload, unique_id=True),
        EventSpec("slack.command.invoked", "A slash command; answer with respond", schemas.CommandPayload),
        EventSpec("slack.block_action.received", "A button or menu was used", schemas.InteractionPayload),
        EventSpec(
            "slack.shortcut.invoked", "A global or message shortcut was used", schemas.InteractionPayload
        ),
        EventSpec("slack.view.submitted", "A modal was submitted", schemas.InteractionPayload),
        EventSpec("slack.view.closed", "A modal was closed", schemas.InteractionPayload),
        EventSpec(
            "slack.event.received",
            "An event of any other kind, as Slack sent it",
            schemas.EventPayload,
            unique_id=True,
        ),
        EventSpec(
            "slack.interaction.received",
            "An interaction of any other kind, or a message without an id, as Slack sent it",
            schemas.OtherPayload,
        ),
    ]
    # The Web API documents no idempotency key, so what adds something is `once`. The others set a state
    # that a repetition finds already set: see the handlers for what Slack says then.
    actions = [
        ActionSpec(
            "post_message",
            "Post a message to a channel, thread or person",
            schemas.PostMessage,
            "post_message",
            result=schemas.PostedMessage,
        ),
        ActionSpec(
            "update_message",
            "Replace the content of the app's own message",
            schemas.UpdateMessage,
            "update_message",
            effect="idempotent",
            result=schemas.PostedMessage,
        ),
        ActionSpec(
            "delete_message",
            "Delete the app's own message",
            schemas.DeleteMessage,
            "delete_message",
            effect="idempotent",
            result=schemas.DeletedMessage,
            destructive=True,
        ),
        ActionSpec(
            "add_reaction",
            "Put an emoji on a message",
            schemas.AddReaction,
            "add_reaction",
            effect="idempotent",
            result=schemas.AddedReaction,
        ),
        ActionSpec(
            "upload_file",
            "Upload a file and share it",
            schemas.UploadFile,
            "upload_file",
            result=schemas.UploadedFile,
        ),
        ActionSpec(
            "respond",
            "Answer a command or interaction through its response_url",
            schemas.Respond,
            "respond",
            result=schemas.Done,
        ),
        ActionSpec(
            "open_view",
            "Open a modal, within 3 seconds of the event",
            schemas.OpenView,
            "open_view",
            result=schemas.OpenedView,
        ),
    ]

    def __init__(self, bot_token: str, settings: SlackSettings, http: ConnectorHttp) -> None:
        self.settings = settings
        self.client = SlackClient(http, bot_token, settings.base_url)

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        """Makes the event of an Events API callback, a command or an interaction."""
        # The verification token is a secret that Slack gave up for signatures: it goes no further.
        item = {name: value for name, value in payload.items() if name != "token"}
        if item.get("type") == "event_callback":
            return _event(item)
        if "command" in item and "type" not in item:
            return _command(item)
        return _interaction(item)

    async def check(self) -> None:
        await self.client.call("auth.test", Envelope)

    # Actions.

    async def post_message(self, data: schemas.PostMessage) -> schemas.PostedMessage:
        return await self.client.call("chat.postMessage", schemas.PostedMessage, _json(data))

    async def update_message(self, data: schemas.UpdateMessage) -> schemas.PostedMessage:
        # Idempotent: it sets the whole content, and Slack takes the same content again.
        return await self.client.call("chat.update", schemas.PostedMessage, _json(data))

    async def delete_message(self, data: schemas.DeleteMessage) -> schemas.DeletedMessage:
        try:
            await self.client.call("chat.delete", Envelope, _json(data))
        except Rejected as error:
            if not _says(error, "message_not_found"):
                raise
            return schemas.DeletedMessage(deleted=False)
        return schemas.DeletedMessage(deleted=True)

    async def add_reaction(self, data: schemas.AddReaction) -> schemas.AddedReaction:
        try:
            await self.client.call("reactions.add", Envelope, _json(data))
        except Rejected as error:
            if not _says(error, "already_reacted"):
                raise
            return schemas.AddedReaction(added=False)
        return schemas.AddedReaction(added=True)

    async def upload_file(self, data: schemas.UploadFile) -> schemas.UploadedFile:
        """Asks for an address, sends the bytes there, shares what came of it."""
        content = data.file.content
        asked = {"filename": data.file.filename, "length": len(content)}
        asked |= {n: v for n in ("alt_txt", "snippet_type") if (v := getattr(data, n)) is not None}
        place = await self.client.call(
            "files.getUploadURLExternal", UploadUrl, asked, form=True, effect=False
        )
        await self.client.upload(place.upload_url, content)
        file = {"id": place.file_id, "title": data.title or data.file.filename}
        share = data.model_dump(include={"channel_id", "thread_ts", "initial_comment"}, exclude_none=True)
        shared = await self.client.call("files.completeUploadExternal", Shared, {"files": [file], **share})
        return schemas.UploadedFile(file_id=place.file_id, files=shared.files)

    async def respond(self, data: schemas.Respond) -> schemas.Done:
        if not self.settings.leads_to_hooks(data.response_url):
            raise Rejected(f"response_url does not lead to {self.settings.hooks_url}; nothing was sent.")
        message = _json(data)
        await self.client.respond(message.pop("response_url"), message)
        return schemas.Done(ok=True)

    async def open_view(self, data: schemas.OpenView) -> schemas.OpenedView:
        opened = await self.client.call("views.open", Opened, _json(data))
        return schemas.OpenedView(view_id=opened.view_id, view=opened.view)


_MESSAGES = {
    "message_changed": "slack.message.edited",
    "message_deleted": "slack.message.deleted",
}
_INTERACTIONS = {
    "block_actions": "slack.block_action.received",
    "shortcut": "slack.shortcut.invoked",
    "message_action": "slack.shortcut.invoked",
    "view_submission": "slack.view.submitted",
    "view_closed": "slack.view.closed",
}


def _event(item: dict[str, Any]) -> Event:
    envelope = validated(schemas.EventCallback, item, "event_callback")
    inner, original = envelope.event, item["event"]
    common = {
        "event_id": envelope.event_id,
        "team_id": envelope.team_id,
        "event_time": envelope.event_time,
        "raw": original,
    }
    content: BaseModel
    match inner.type:
        case "message":
            kind = _MESSAGES.get(inner.subtype or "", "slack.message.received")
            content = _message(common, original)
        case "app_mention":
            kind, content = "slack.app_mention.received", _message(common, original)
        case "reaction_added" | "reaction_removed":
            kind = f"slack.reaction.{inner.type.removeprefix('reaction_')}"
            reaction = validated(schemas.Reaction, original, "reaction")
            content = schemas.ReactionPayload(
                **common,
                user=reaction.user,
                reaction=reaction.reaction,
                channel=reaction.item.channel,
                ts=reaction.item.ts,
                item_user=reaction.item_user,
            )
        case "member_joined_channel":
            member = validated(schemas.Member, original, "member")
            kind, content = "slack.member.joined", schemas.MemberPayload(**common, **member.model_dump())
        case "app_home_opened":
            home = validated(schemas.AppHome, original, "app_home")
            kind, content = "slack.app_home.opened", schemas.AppHomePayload(**common, **home.model_dump())
        case _:
            kind = "slack.event.received"
            content = schemas.EventPayload(**{**common, "raw": item}, kind=inner.type)
    return Event(type=kind, external_id=envelope.event_id, payload=content.model_dump())


def _message(common: dict[str, Any], original: dict[str, Any]) -> schemas.MessagePayload:
    """An edit and a deletion hold the message inside, as it is now and as it was."""
    event = validated(schemas.Message, original, "message")
    now, before = event.message, event.previous_message
    return schemas.MessagePayload(
        **common,
        channel=event.channel,
        channel_type=event.channel_type,
        user=event.user or now.user or before.user,
        bot_id=event.bot_id or now.bot_id or before.bot_id,
        subtype=event.subtype,
        text=event.text if event.text is not None else now.text,
        previous_text=before.text,
        ts=now.ts or event.deleted_ts or event.ts,
        thread_ts=event.thread_ts or now.thread_ts or before.thread_ts,
    )


def _command(item: dict[str, Any]) -> Event:
    command = validated(schemas.Command, item, "command")
    content = schemas.CommandPayload(**command.model_dump(), raw=item)
    return Event(type="slack.command.invoked", external_id=command.trigger_id, payload=content.model_dump())


def _interaction(item: dict[str, Any]) -> Event:
    # The form by which Slack looks at our certificate has no type.
    typed = {"type": "ssl_check", **item} if "ssl_check" in item else item
    other = validated(schemas.Other, typed, "payload")
    if other.type not in _INTERACTIONS:
        content: BaseModel = schemas.OtherPayload(kind=other.type, team_id=other.team_id, raw=item)
        return Event(type="slack.interaction.received", payload=content.model_dump())
    given = validated(schemas.Interaction, item, "interaction")
    nobody = schemas.Named()
    user, team, channel = given.user or nobody, given.team or nobody, given.channel or nobody
    used = given.actions[0] if given.actions else schemas.BlockAction()
    view = given.view or schemas.View()
    content = schemas.InteractionPayload(
        kind=given.type,
        team_id=team.id,
        user_id=user.id,
        user_name=user.username or user.name,
        channel_id=channel.id,
        message_ts=given.message.ts if given.message else None,
        callback_id=given.callback_id or view.callback_id,
        action_id=used.action_id,
        block_id=used.block_id,
        value=used.value or (used.selected_option.value if used.selected_option else None),
        view_id=view.id,
        private_metadata=view.private_metadata,
        values=view.state.values if view.state else None,
        trigger_id=given.trigger_id,
        response_url=given.response_url,
        raw=item,
    )
    return Event(type=_INTERACTIONS[given.type], external_id=given.trigger_id, payload=content.model_dump())


def _says(error: Rejected, code: str) -> bool:
    return str(error).startswith(f"Slack: {code}")


def _json(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_none=True)
