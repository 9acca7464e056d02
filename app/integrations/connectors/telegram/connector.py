"""Telegram: declarations, inbound updates, action handlers."""

import base64
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from app.integrations.base import BaseIntegration
from app.integrations.errors import InvalidBody, Rejected
from app.integrations.files import FileUpload
from app.integrations.http import ConnectorHttp
from app.integrations.models import Event
from app.integrations.specs import ActionSpec, EventSpec, Limits, PollSpec, SecretSpec
from app.integrations.verification import StaticToken

from . import schemas
from .client import TelegramClient
from .schemas import SendMessage, TelegramSettings

M = TypeVar("M", bound=BaseModel)

MAX_DOWNLOAD = 700_000
"""Bytes that get_file returns inside its result: in base64 still below the megabyte that is stored."""


class TelegramConnector(BaseIntegration):
    """A bot. Updates come by webhook or by polling, which Telegram allows only one at a time."""

    name = "Telegram"
    key = "telegram"
    secrets = [
        SecretSpec(name="bot_token", description="The bot's token from @BotFather"),
        SecretSpec(
            name="webhook_secret",
            description="What Telegram puts into each webhook: 1-256 of A-Z a-z 0-9 _ -",
            generate=True,
        ),
    ]
    settings_model = TelegramSettings
    verification = StaticToken(header="X-Telegram-Bot-Api-Secret-Token", secret="webhook_secret")  # noqa: S106 - a name
    # The pause is short because a long poll waits by itself; the deadline covers the longest one.
    polls = [PollSpec(name="updates", every=0.5, handler="poll_updates", deadline=75.0)]
    events = [
        EventSpec(
            name="telegram.message.received",
            description="A message to the bot or in a chat that it reads",
            model=schemas.MessagePayload,
            unique_id=True,
        ),
        EventSpec(
            name="telegram.message.edited",
            description="A message was edited",
            model=schemas.MessagePayload,
            unique_id=True,
        ),
        EventSpec(
            name="telegram.channel_post.received",
            description="A post in a channel where the bot is an administrator",
            model=schemas.MessagePayload,
            unique_id=True,
        ),
        EventSpec(
            name="telegram.callback_query.received",
            description="An inline button was pressed; answer with answer_callback_query",
            model=schemas.CallbackQueryPayload,
            unique_id=True,
        ),
        EventSpec(
            name="telegram.my_chat_member.updated",
            description="The bot was added, promoted, removed or blocked",
            model=schemas.MyChatMemberPayload,
            unique_id=True,
        ),
        EventSpec(
            name="telegram.update.received",
            description="An update of any other kind, as Telegram sent it",
            model=schemas.UpdatePayload,
            unique_id=True,
        ),
    ]
    # Telegram has no idempotency keys, so whatever adds a message is `once`. The others set a state that
    # a repetition finds already set: see the handlers for what Telegram says then.
    # core.telegram.org/bots/faq, "How do I avoid hitting limits": about 30 messages a second.
    limits = Limits(rate=30)
    actions = [
        ActionSpec(
            name="send_message",
            description="Send a text message",
            model=SendMessage,
            handler="send_message",
            result=schemas.SentMessage,
        ),
        ActionSpec(
            name="send_photo",
            description="Send a photo by file_id, URL or upload",
            model=schemas.SendPhoto,
            handler="send_photo",
            result=schemas.SentMessage,
        ),
        ActionSpec(
            name="send_document",
            description="Send a file by file_id, URL or upload",
            model=schemas.SendDocument,
            handler="send_document",
            result=schemas.SentMessage,
        ),
        ActionSpec(
            name="edit_message_text",
            description="Replace the text and inline keyboard of the bot's message",
            model=schemas.EditMessageText,
            handler="edit_message_text",
            effect="idempotent",
            result=schemas.EditedMessage,
        ),
        ActionSpec(
            name="delete_message",
            description="Delete a message",
            model=schemas.DeleteMessage,
            handler="delete_message",
            effect="idempotent",
            result=schemas.DeletedMessage,
            destructive=True,
        ),
        ActionSpec(
            name="answer_callback_query",
            description="Answer the press on an inline button",
            model=schemas.AnswerCallbackQuery,
            handler="answer_callback_query",
            effect="idempotent",
            result=schemas.Done,
        ),
        ActionSpec(
            name="send_chat_action",
            description='Show a status such as "typing" for up to 5 seconds',
            model=schemas.SendChatAction,
            handler="send_chat_action",
            effect="idempotent",
            result=schemas.Done,
        ),
        ActionSpec(
            name="get_file",
            description="Ask about a file that came with a message, and fetch it if wanted",
            model=schemas.GetFile,
            handler="get_file",
            effect="idempotent",
            result=schemas.FileInfo,
            reads=True,
        ),
    ]

    def __init__(self, bot_token: str, settings: TelegramSettings, http: ConnectorHttp) -> None:
        self.settings = settings
        self.client = TelegramClient(http, bot_token, settings.base_url)

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        """Makes the event of one Update. Raises InvalidBody (not_an_update, invalid_<kind>)."""
        update_id = _validated(schemas.Update, payload, "not_an_update", "update").update_id
        kind = _kind(payload)
        original = payload[kind]
        content: BaseModel
        match kind:
            case "message" | "edited_message" | "channel_post":
                content = _message_payload(update_id, _content(schemas.Message, original, kind), original)
            case "callback_query":
                content = _callback_payload(
                    update_id, _content(schemas.CallbackQuery, original, kind), original
                )
            case "my_chat_member":
                content = _member_payload(
                    update_id, _content(schemas.ChatMemberUpdated, original, kind), original
                )
            case _:
                content = schemas.UpdatePayload(update_id=update_id, kind=kind, update=payload)
        return Event(
            type=_EVENT_TYPES.get(kind, "telegram.update.received"),
            external_id=str(update_id),
            payload=content.model_dump(),
        )

    # How updates arrive.

    def poll_enabled(self, poll: PollSpec, public_url: str | None) -> bool:
        if self.settings.delivery == "auto":
            return public_url is None
        return self.settings.delivery == "polling"

    async def poll_updates(self, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
        """Asks for the updates from the cursor, the next update_id that is expected, on.

        Telegram forgets an update when a later call names a higher offset, and the platform stores items
        and cursor before it calls again: a crash in between repeats updates, and update_id dedupes them.
        """
        try:
            updates = await self._get_updates(cursor)
        except Rejected as error:
            if error.status != 409 or "webhook" not in str(error):
                raise
            # A webhook set earlier, or by another program, is in the way: polling was asked for.
            await self.client.delete_webhook()
            updates = await self._get_updates(cursor)
        # What has no id is handed on all the same: it becomes a failed webhook instead of a stuck poll.
        ids = [update["update_id"] for update in updates if isinstance(update.get("update_id"), int)]
        return updates, str(max(ids) + 1) if ids else cursor

    async def _get_updates(self, cursor: str | None) -> list[dict[str, Any]]:
        try:
            return await self.client.get_updates(
                offset=int(cursor) if cursor else None,
                timeout=self.settings.poll_timeout,
                allowed_updates=self.settings.wanted_updates,
            )
        except Rejected as error:
            if error.status != 409 or "webhook" in str(error):
                raise
            raise Rejected(
                "Another process polls with this bot token, and Telegram serves only one. Stop the other "
                f"one, or give this connection a bot of its own. ({error})",
                status=409,
            ) from None

    async def register_webhook(self, url: str, secrets: dict[str, str]) -> None:
        if self.settings.delivery == "polling":
            return
        await self.client.set_webhook(
            url, secret_token=secrets["webhook_secret"], allowed_updates=self.settings.wanted_updates
        )

    async def unregister_webhook(self) -> None:
        await self.client.delete_webhook()

    async def check(self) -> None:
        await self.client.get_me()

    # Actions.

    async def send_message(self, data: SendMessage) -> dict[str, Any]:
        return await self._send("sendMessage", data)

    async def send_photo(self, data: schemas.SendPhoto) -> dict[str, Any]:
        return await self._send("sendPhoto", data, "photo", data.photo)

    async def send_document(self, data: schemas.SendDocument) -> dict[str, Any]:
        return await self._send("sendDocument", data, "document", data.document)

    async def _send(
        self, method: str, data: BaseModel, field: str = "", file: str | FileUpload = ""
    ) -> dict[str, Any]:
        if isinstance(file, str):
            return _json(await self.client.send(method, _json(data)))
        params = _json(data)
        del params[field]
        return _json(await self.client.send(method, params, upload=(field, file)))

    async def edit_message_text(self, data: schemas.EditMessageText) -> dict[str, Any]:
        # Idempotent: the edit sets text and keyboard, and a repetition is refused as "not modified",
        # which says that the message reads as ordered.
        try:
            result = await self.client.edit_message_text(_json(data))
        except Rejected as error:
            if "message is not modified" not in str(error):
                raise
            return _json(schemas.EditedMessage(modified=False))
        message = None if isinstance(result, bool) else _json(result)
        return _json(schemas.EditedMessage(modified=True, message=message))

    async def delete_message(self, data: schemas.DeleteMessage) -> dict[str, Any]:
        # Idempotent: a repetition is refused as "not found", which says that the message is not there.
        try:
            deleted = await self.client.do("deleteMessage", _json(data))
        except Rejected as error:
            if "message to delete not found" not in str(error):
                raise
            deleted = False
        return _json(schemas.DeletedMessage(deleted=deleted))

    async def answer_callback_query(self, data: schemas.AnswerCallbackQuery) -> dict[str, Any]:
        # Idempotent: the client that pressed waits for one answer, and a second one reaches nobody. If a
        # repetition comes too late, Telegram refuses it as "query is too old", and so do we: whether the
        # first try arrived cannot be told from that.
        return _json(schemas.Done(ok=await self.client.do("answerCallbackQuery", _json(data))))

    async def send_chat_action(self, data: schemas.SendChatAction) -> dict[str, Any]:
        # Idempotent: the status ends by itself, a repetition shows it for some seconds more.
        return _json(schemas.Done(ok=await self.client.do("sendChatAction", _json(data))))

    async def get_file(self, data: schemas.GetFile) -> dict[str, Any]:
        file = await self.client.get_file(data.file_id)
        if data.download:
            file.content_base64 = base64.b64encode(await self._content_of(file)).decode("ascii")
        return _json(file)

    async def _content_of(self, file: schemas.FileInfo) -> bytes:
        if file.file_path is None:
            raise Rejected("Telegram offers no way to fetch this file.")
        if (file.file_size or 0) > MAX_DOWNLOAD:
            raise Rejected(
                f"The file is larger than {MAX_DOWNLOAD} bytes, too large to be stored in a result."
            )
        return await self.client.download(file.file_path)


_EVENT_TYPES = {
    "message": "telegram.message.received",
    "edited_message": "telegram.message.edited",
    "channel_post": "telegram.channel_post.received",
    "callback_query": "telegram.callback_query.received",
    "my_chat_member": "telegram.my_chat_member.updated",
}


def _kind(update: dict[str, Any]) -> str:
    # "At most one of the optional fields can be present in any given update." A kind that is newer than
    # this connector is still an update; of several unknown fields none can be told to be the kind.
    fields = [name for name in update if name != "update_id"]
    kinds = [name for name in fields if name in schemas.UPDATE_KINDS] or fields
    if len(kinds) != 1:
        raise InvalidBody("not_an_update", "The update does not have exactly one kind of content.")
    return kinds[0]


def _content(model: type[M], original: Any, kind: str) -> M:
    return _validated(model, original, f"invalid_{kind}", kind)


def _validated(model: type[M], value: Any, code: str, what: str) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        fields = ", ".join(".".join(map(str, problem["loc"])) or what for problem in problems)
        raise InvalidBody(code, f"This is not a Telegram {what}: {fields} missing or invalid.") from None


def _message_payload(
    update_id: int, message: schemas.Message, original: dict[str, Any]
) -> schemas.MessagePayload:
    sender, replied = message.sender, message.reply_to_message
    return schemas.MessagePayload(
        update_id=update_id,
        chat_id=str(message.chat.id),
        chat_type=message.chat.type,
        chat_title=message.chat.title,
        message_id=message.message_id,
        message_thread_id=message.message_thread_id,
        date=message.date,
        edit_date=message.edit_date,
        from_id=str(sender.id) if sender else None,
        from_name=sender.full_name if sender else None,
        from_username=sender.username if sender else None,
        text=message.text if message.text is not None else message.caption,
        file_id=message.file_id,
        reply_to_message_id=replied.message_id if replied else None,
        raw=original,
    )


def _callback_payload(
    update_id: int, query: schemas.CallbackQuery, original: dict[str, Any]
) -> schemas.CallbackQueryPayload:
    return schemas.CallbackQueryPayload(
        update_id=update_id,
        callback_query_id=query.id,
        from_id=str(query.sender.id),
        from_name=query.sender.full_name,
        from_username=query.sender.username,
        data=query.data,
        chat_id=str(query.message.chat.id) if query.message else None,
        message_id=query.message.message_id if query.message else None,
        inline_message_id=query.inline_message_id,
        raw=original,
    )


def _member_payload(
    update_id: int, change: schemas.ChatMemberUpdated, original: dict[str, Any]
) -> schemas.MyChatMemberPayload:
    return schemas.MyChatMemberPayload(
        update_id=update_id,
        from_id=str(change.sender.id),
        from_name=change.sender.full_name,
        from_username=change.sender.username,
        chat_id=str(change.chat.id),
        chat_type=change.chat.type,
        chat_title=change.chat.title,
        date=change.date,
        old_status=change.old_chat_member.status,
        new_status=change.new_chat_member.status,
        raw=original,
    )


def _json(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_none=True)
