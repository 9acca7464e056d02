"""A local Bot API server (https://core.telegram.org/bots/api, version 10.1) that bots take for Telegram.

It keeps chats, messages, files, updates and webhooks in memory, per bot: a bot's id is the number before
the colon of its token. Error texts are those of Telegram's own server (github.com/tdlib/telegram-bot-api).
Not imitated: formatting is passed on but not parsed (parse_mode), URLs of files are not fetched, rights in
groups are not checked, rate limits strike only when a fault orders them.
"""

import asyncio
import ipaddress
import json
import mimetypes
import re
import struct
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated, Any, NoReturn
from urllib.parse import parse_qsl, urlsplit

import httpx2
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from app.integrations.twin import BrokenAnswer, Control, ControlError, Fault, Faults, NoInput, Twin

from .schemas import UPDATE_KINDS

Json = dict[str, Any]

DEFAULT_UPDATES = frozenset(UPDATE_KINDS) - {"chat_member", "message_reaction", "message_reaction_count"}
CHAT_ACTIONS = frozenset(
    f"{deed}_{what}"
    for deed, whats in {
        "upload": ("photo", "video", "voice", "document", "video_note"),
        "record": ("video", "voice", "video_note"),
        "choose": ("sticker",),
        "find": ("location",),
    }.items()
    for what in whats
) | {"typing"}
MAX_TEXT = 4096
MAX_CAPTION = 1024
MAX_CALLBACK_DATA = 64
MAX_FILE_TO_GET = 20 * 1024 * 1024

_TOKEN = re.compile(r"^([1-9][0-9]{0,15}):[A-Za-z0-9_-]{1,64}$", re.ASCII)
_SECRET_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,256}")
_COMMAND = re.compile(r"(?<!\S)/[A-Za-z0-9_]{1,64}(@\w+)?")
_IMAGES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM")


class TelegramTwinSettings(BaseModel):
    """How the twin is set up."""

    model_config = ConfigDict(extra="forbid")

    tokens: list[Annotated[str, Field(pattern=_TOKEN)]] = Field(
        default=[], description="Bot tokens that are known; any token of the right form if none is given"
    )
    retry_delays: list[float] = Field(
        default=[0.5, 1.0, 2.0, 5.0, 10.0],
        min_length=1,
        description="Seconds before a webhook is tried again, after each failure; the last one stays",
    )
    webhook_timeout: float = Field(default=10.0, gt=0, description="Seconds that a webhook may take")
    callback_lifetime: float = Field(
        default=900.0, ge=0, description="Seconds within which a callback query may be answered"
    )


# Controls.


class _OfBot(BaseModel):
    model_config = ConfigDict(extra="forbid")

    bot: int | None = Field(
        default=None,
        description="Bot id, the number before the colon of its token; needed if there are several",
    )


class _ByUser(_OfBot):
    user_id: int = Field(default=1001, gt=0, description="Id of the user")
    user_name: str = Field(default="Ann", min_length=1, description="First name of the user")
    username: str | None = Field(default=None, description="Username without @")
    chat_id: int | None = Field(
        default=None, description="Chat, negative for a group; the user's private chat if not set"
    )


class Say(_ByUser):
    """A user writes a message."""

    text: str = Field(default="", description="The text; the caption if a file is sent")
    chat_title: str = Field(default="Twin group", description="Title, if the chat is a new group")
    reply_to: int | None = Field(default=None, description="message_id that is answered")
    file_name: str | None = Field(default=None, description="Sends a document of this name")
    file_text: str = Field(default="", description="What the document holds")


class Edit(_OfBot):
    """A user, or a channel, edits a message."""

    chat_id: int = Field(description="The chat")
    message_id: int = Field(description="The message; not one of the bot's")
    text: str = Field(min_length=1, description="The new text")


class Click(_ByUser):
    """A user presses an inline button of a message of the bot."""

    message_id: int | None = Field(
        default=None, description="The message; the latest with inline buttons if not set"
    )
    button: str = Field(description="callback_data or label of the button")


class Post(_OfBot):
    """A channel posts."""

    chat_id: int = Field(default=-1001000000001, lt=0, description="The channel")
    title: str = Field(default="Twin channel", description="Title of a new channel")
    username: str | None = Field(default=None, description="Username of a new channel, without @")
    text: str = Field(min_length=1, description="The text")


class Raw(_OfBot):
    """Any update, as it stands; it gets an update_id if it has none."""

    update: Json = Field(description="The Update object")


class ShowChat(_OfBot):
    """What a chat shows."""

    chat_id: int = Field(default=1001, description="The chat")


# What the twin holds.


class ApiError(Exception):
    """An error answer of the Bot API."""

    def __init__(self, code: int, description: str, **parameters: int) -> None:
        super().__init__(description)
        self.body: Json = {"ok": False, "error_code": code, "description": description}
        if parameters:
            self.body["parameters"] = parameters


def _bad(what: str) -> NoReturn:
    raise ApiError(400, f"Bad Request: {what}")


@dataclass(frozen=True)
class Upload:
    """A file as it was sent."""

    name: str
    content: bytes
    mime_type: str | None = None


class Params:
    """A call's parameters, however they were sent: in forms everything is a string."""

    def __init__(self, values: Mapping[str, Any], files: Mapping[str, Upload] | None = None) -> None:
        self.values = {name: value for name, value in values.items() if value is not None}
        self.files = files or {}

    def text(self, name: str) -> str:
        value = self.values.get(name, "")
        return value if isinstance(value, str) else json.dumps(value)

    def integer(self, name: str, default: int = 0) -> int:
        try:
            return int(self.text(name))
        except ValueError:
            return default

    def flag(self, name: str) -> bool:
        return self.text(name).lower() in ("true", "yes", "1")

    def json(self, name: str) -> Any:
        """An object or array, or None; a form carries it as JSON text."""
        value = self.values.get(name)
        if not isinstance(value, str) or not value:
            return value or None
        try:
            return json.loads(value)
        except ValueError:
            _bad(f"can't parse {name} JSON object")

    def object(self, name: str) -> Json:
        """An object, empty if it is not given."""
        value = self.json(name) or {}
        if not isinstance(value, dict):
            _bad(f"object expected as {name}")
        return value


@dataclass
class StoredFile:
    """A file on the server."""

    file_id: str
    path: str
    upload: Upload

    @property
    def facts(self) -> Json:
        return {
            "file_id": self.file_id,
            "file_unique_id": f"u{self.file_id[1:]}",
            "file_size": len(self.upload.content),
        }


@dataclass
class Entry:
    """A message with its past."""

    message: Json
    by_bot: bool
    deleted: bool = False
    earlier_texts: list[str] = field(default_factory=list)


@dataclass
class Chat:
    """A chat as one bot knows it."""

    info: Json
    entries: dict[int, Entry] = field(default_factory=dict)
    actions: list[str] = field(default_factory=list)

    def living(self, message_id: int) -> Entry | None:
        entry = self.entries.get(message_id)
        return entry if entry and not entry.deleted else None

    def add(self, content: Json, *, by_bot: bool) -> Json:
        message = {"message_id": len(self.entries) + 1, **content}
        message |= {"date": int(time.time()), "chat": self.info}
        self.entries[message["message_id"]] = Entry(message, by_bot)
        return message


@dataclass
class CallbackQuery:
    """A press, and what was answered to it."""

    pressed_at: float
    answers: list[Json] = field(default_factory=list)


@dataclass
class Webhook:
    """Where updates go."""

    url: str
    secret_token: str
    max_connections: int
    last_error_date: int | None = None
    last_error_message: str | None = None
    delivery: asyncio.Task[None] | None = None

    def failed(self, message: str) -> None:
        self.last_error_date, self.last_error_message = int(time.time()), message


class Bot:
    """A bot, with all that Telegram keeps for it."""

    def __init__(self, bot_id: int) -> None:
        self.user: Json = {
            "id": bot_id,
            "is_bot": True,
            "first_name": f"Twin {bot_id}",
            "username": f"twin_{bot_id}_bot",
        }
        self.chats: dict[int, Chat] = {}
        self.files: dict[str, StoredFile] = {}
        self.queries: dict[str, CallbackQuery] = {}
        self.updates: list[Json] = []
        self.next_update_id = 100_000_001
        self.allowed: frozenset[str] = DEFAULT_UPDATES
        self.webhook: Webhook | None = None
        self.polls = 0  # how many have begun: only the latest may go on
        self.changed = asyncio.Event()

    def tell(self, kind: str, content: Json) -> int | None:
        """Queues an update; None if the bot does not want this kind."""
        if kind not in self.allowed:
            return None
        return self.queue({kind: content})

    def queue(self, update: Json) -> int:
        update_id: int = update.get("update_id", self.next_update_id)
        # A copy: a message that is edited later must not change an update that is on its way.
        self.updates.append(json.loads(json.dumps({"update_id": update_id} | update)))
        self.next_update_id = max(self.next_update_id, update_id + 1)
        self.changed.set()
        return update_id

    def confirm(self, offset: int) -> None:
        """Forgets updates as getUpdates does: those below the offset, or all but the last -offset.

        An offset far beyond the end is ignored, as by Telegram: ids may begin anew after a quiet week.
        """
        if offset < 0:
            self.updates = self.updates[offset:]
        elif offset <= self.next_update_id + 10:
            self.updates = [update for update in self.updates if update["update_id"] >= offset]

    def want(self, params: Params) -> None:
        """Takes allowed_updates over if given; unknown kinds are ignored, none means the default."""
        given = params.json("allowed_updates")
        if isinstance(given, list):
            self.allowed = frozenset(kind for kind in UPDATE_KINDS if kind in given) or DEFAULT_UPDATES

    def open_chat(self, chat_id: int, **facts: str | None) -> Chat:
        if chat_id not in self.chats:
            known = {name: value for name, value in facts.items() if value is not None}
            self.chats[chat_id] = Chat({"id": chat_id, **known})
        return self.chats[chat_id]

    def find_chat(self, params: Params) -> Chat:
        wanted = params.text("chat_id")
        if not wanted:
            _bad("chat_id is empty")
        for chat_id, chat in self.chats.items():
            if wanted in (str(chat_id), f"@{chat.info.get('username', '')}"):
                return chat
        _bad("chat not found")

    def store(self, folder: str, upload: Upload) -> StoredFile:
        number = len(self.files) + 1
        _, dot, extension = upload.name.rpartition(".")
        path = f"{folder}/file_{number}{dot}{extension if dot else ''}"
        file = StoredFile(f"f{self.user['id']}-{number}", path, upload)
        self.files[file.file_id] = file
        return file


class TelegramTwin(Twin):
    """Telegram's Bot API, for bots that run on this machine."""

    name = "telegram"
    description = "A local Telegram: bots connect to it, and you are the users"
    settings_model = TelegramTwinSettings
    controls = (
        Control("say", "Write to the bot as a user", Say, "say"),
        Control("click", "Press an inline button of a message of the bot", Click, "click"),
        Control("edit", "Edit a message of a user or channel", Edit, "edit"),
        Control("post", "Post in a channel", Post, "post"),
        Control("raw", "Send the bot any update", Raw, "raw"),
        Control("chat", "Show what a chat holds", ShowChat, "show_chat"),
        Control("fault", "Order a fault for coming requests or webhook deliveries", Fault, "order_fault"),
        Control("reset", "Forget everything", NoInput, "reset"),
    )

    settings: TelegramTwinSettings

    def __init__(self, settings: BaseModel | None = None) -> None:
        super().__init__(settings)
        self.bots: dict[int, Bot] = {}
        self.faults = Faults()
        self.methods: dict[str, Callable[[Bot, Params], Awaitable[Any]]] = {
            "getme": self._get_me,
            "getupdates": self._get_updates,
            "setwebhook": self._set_webhook,
            "deletewebhook": self._delete_webhook,
            "getwebhookinfo": self._get_webhook_info,
            "sendmessage": self._send_message,
            "editmessagetext": self._edit_message_text,
            "deletemessage": self._delete_message,
            "sendphoto": self._send_photo,
            "senddocument": self._send_document,
            "answercallbackquery": self._answer_callback_query,
            "sendchataction": self._send_chat_action,
            "getfile": self._get_file,
        }
        self._stopping = False
        self._http: httpx2.AsyncClient | None = None
        self._create_known_bots()

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/bot{token}/{method}", self._serve_method, methods=["GET", "POST"]),
            Route("/file/bot{token}/{path:path}", self._serve_file),
            Route("/{path:path}", self._serve_nothing, methods=["GET", "POST"]),
        ]

    def state(self) -> Json:
        bots = [
            {
                "id": bot_id,
                "username": bot.user["username"],
                "webhook": bot.webhook.url if bot.webhook else None,
                "last_error": bot.webhook.last_error_message if bot.webhook else None,
                "pending_updates": len(bot.updates),
                "chats": [chat.info for chat in bot.chats.values()],
            }
            for bot_id, bot in self.bots.items()
        ]
        return {"bots": bots, "faults": [fault.model_dump() for fault in self.faults.pending]}

    def greeting(self, url: str) -> str:
        token = self.settings.tokens[0] if self.settings.tokens else "any token like 1234:abc"
        return f"Set the bot's API address (base_url) to {url} and its token to {token}."

    async def stop(self) -> None:
        self._stopping = True
        for bot in self.bots.values():
            bot.changed.set()
            self._end_delivery(bot)
        if self._http:
            await self._http.aclose()
            self._http = None

    # Controls.

    async def say(self, order: Say) -> Json:
        bot = self._chosen_bot(order.bot)
        if not order.text and order.file_name is None:
            raise ControlError("There is nothing to say: give a text or a file_name.")
        user = _user(order)
        chat = self._chat_of(bot, order, title=order.chat_title)
        content: Json = {"from": user}
        if order.reply_to is not None:
            content["reply_to_message"] = _without_reply(_entry(chat, order.reply_to).message)
        if order.file_name is None:
            content |= {"text": order.text, **_command_entities(order.text)}
        else:
            upload = Upload(order.file_name, order.file_text.encode())
            content["document"] = _document(bot.store("documents", upload))
            content |= {"caption": order.text} if order.text else {}
        message = chat.add(content, by_bot=False)
        return _told(bot.tell("message", message), message)

    async def edit(self, order: Edit) -> Json:
        bot = self._chosen_bot(order.bot)
        chat = _known_chat(bot, order.chat_id)
        entry = _entry(chat, order.message_id)
        if entry.by_bot:
            raise ControlError("This message is the bot's own: only the bot can edit it.")
        _rewrite(entry, {"text": order.text, **_command_entities(order.text)})
        kind = "edited_channel_post" if chat.info["type"] == "channel" else "edited_message"
        return _told(bot.tell(kind, entry.message), entry.message)

    async def click(self, order: Click) -> Json:
        bot = self._chosen_bot(order.bot)
        chat = _known_chat(bot, order.user_id if order.chat_id is None else order.chat_id)
        if order.message_id is not None:
            message = _entry(chat, order.message_id).message
        else:
            with_buttons = [e.message for e in chat.entries.values() if not e.deleted and _buttons(e.message)]
            if not with_buttons:
                raise ControlError("No message in this chat has inline buttons.")
            message = with_buttons[-1]
        pressed = [
            button
            for button in _buttons(message)
            if order.button in (button.get("callback_data"), button["text"]) and "callback_data" in button
        ]
        if not pressed:
            offered = ", ".join(button["text"] for button in _buttons(message)) or "none"
            raise ControlError(f"The message has no such callback button. Its buttons: {offered}.")
        query_id = str(4_000_000_000_000_000_000 + len(bot.queries) + 1)
        bot.queries[query_id] = CallbackQuery(time.monotonic())
        query = {
            "id": query_id,
            "from": _user(order),
            "message": message,
            "chat_instance": str(chat.info["id"]),
            "data": pressed[0]["callback_data"],
        }
        return _told(bot.tell("callback_query", query), message) | {"callback_query_id": query_id}

    async def post(self, order: Post) -> Json:
        bot = self._chosen_bot(order.bot)
        chat = bot.open_chat(order.chat_id, type="channel", title=order.title, username=order.username)
        if chat.info["type"] != "channel":
            raise ControlError("This chat is not a channel.")
        message = chat.add(
            {"sender_chat": chat.info, "text": order.text, **_command_entities(order.text)}, by_bot=False
        )
        return _told(bot.tell("channel_post", message), message)

    async def raw(self, order: Raw) -> Json:
        if not isinstance(order.update.get("update_id", 0), int):
            raise ControlError("The update's update_id is not an integer.")
        return {"update_id": self._chosen_bot(order.bot).queue(order.update)}

    async def show_chat(self, order: ShowChat) -> Json:
        bot = self._chosen_bot(order.bot)
        chat = _known_chat(bot, order.chat_id)
        messages = [
            {
                "message": entry.message,
                "by_bot": entry.by_bot,
                "deleted": entry.deleted,
                "earlier_texts": entry.earlier_texts,
            }
            for entry in chat.entries.values()
        ]
        answers = {query_id: query.answers for query_id, query in bot.queries.items() if query.answers}
        return {"chat": chat.info, "messages": messages, "actions": chat.actions, "callback_answers": answers}

    async def order_fault(self, order: Fault) -> Json:
        on = order.on.lower()
        if on == "webhook" and order.kind not in ("delay", "duplicate"):
            raise ControlError("A webhook delivery can be struck by delay and duplicate only.")
        if on not in ("*", "webhook", *self.methods):
            raise ControlError(f"There is no method of that name: {', '.join(self.methods)}, webhook or *.")
        self.faults.order(order)
        return {"pending": [fault.model_dump() for fault in self.faults.pending]}

    async def reset(self, _: NoInput) -> Json:
        for bot in self.bots.values():
            self._end_delivery(bot)
            bot.polls += 1
            bot.changed.set()
        self.bots.clear()
        self.faults.pending.clear()
        self._create_known_bots()
        return {}

    def _create_known_bots(self) -> None:
        for token in self.settings.tokens:
            bot_id = int(token.partition(":")[0])
            self.bots[bot_id] = Bot(bot_id)

    def _chosen_bot(self, bot_id: int | None) -> Bot:
        if bot_id is not None:
            if self.settings.tokens and bot_id not in self.bots:
                raise ControlError("No token is known for this bot.")
            return self.bots.setdefault(bot_id, Bot(bot_id))
        if len(self.bots) == 1:
            return next(iter(self.bots.values()))
        if not self.bots:
            raise ControlError("No bot has called yet: start yours first, or name it with 'bot'.")
        raise ControlError(f"There are several bots; name one with 'bot': {', '.join(map(str, self.bots))}.")

    @staticmethod
    def _chat_of(bot: Bot, order: _ByUser, title: str) -> Chat:
        chat_id = order.user_id if order.chat_id is None else order.chat_id
        if chat_id > 0:
            return bot.open_chat(chat_id, type="private", first_name=order.user_name, username=order.username)
        # Ids of supergroups begin with -100.
        kind = "supergroup" if chat_id < -1_000_000_000_000 else "group"
        return bot.open_chat(chat_id, type=kind, title=title)

    # Requests.

    async def _serve_method(self, request: Request) -> Response:
        method = request.path_params["method"].lower()
        try:
            bot = self._authorized_bot(request.path_params["token"])
            params = await _parse(
                request.headers.get("content-type", ""), await request.body(), request.query_params.items()
            )
            return await self._answer(bot, method, params)
        except ApiError as error:
            return _error_answer(error)

    async def _answer(self, bot: Bot, method: str, params: Params) -> Response:
        fault = self.faults.take(method)
        if fault and fault.kind == "status":
            raise _ordered_error(fault)
        if fault and fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
        try:
            result = await self._perform(bot, method, params)
            if fault and fault.kind == "duplicate" and result != []:
                again = await self._perform(bot, method, params)
                result = result + again if isinstance(result, list) else result
            answer = JSONResponse({"ok": True, "result": result})
        except ApiError as error:
            answer = _error_answer(error)
        return BrokenAnswer() if fault and fault.kind == "drop_answer" else answer

    async def _perform(self, bot: Bot, method: str, params: Params) -> Any:
        if method not in self.methods:
            raise ApiError(404, "Not Found: method not found")
        return await self.methods[method](bot, params)

    async def _serve_file(self, request: Request) -> Response:
        try:
            bot = self._authorized_bot(request.path_params["token"])
        except ApiError as error:
            return _error_answer(error)
        for file in bot.files.values():
            if file.path == request.path_params["path"]:
                return Response(file.upload.content, media_type="application/octet-stream")
        return _error_answer(ApiError(404, "Not Found"))

    async def _serve_nothing(self, _: Request) -> Response:
        return _error_answer(ApiError(404, "Not Found"))

    def _authorized_bot(self, token: str) -> Bot:
        form = _TOKEN.fullmatch(token)
        if not form:
            raise ApiError(404, "Not Found")
        if self.settings.tokens and token not in self.settings.tokens:
            raise ApiError(401, "Unauthorized")
        bot_id = int(form[1])
        return self.bots.setdefault(bot_id, Bot(bot_id))

    # Methods: how updates arrive.

    async def _get_me(self, bot: Bot, _: Params) -> Json:
        return bot.user | {
            "can_join_groups": True,
            "can_read_all_group_messages": True,
            "supports_guest_queries": False,
            "supports_inline_queries": False,
            "can_connect_to_business": False,
            "has_main_web_app": False,
            "has_topics_enabled": False,
            "allows_users_to_create_topics": False,
            "can_manage_bots": False,
            "supports_join_request_queries": False,
        }

    async def _get_updates(self, bot: Bot, params: Params) -> list[Json]:
        if bot.webhook:
            raise ApiError(
                409,
                "Conflict: can't use getUpdates method while webhook is active; "
                "use deleteWebhook to delete the webhook first",
            )
        bot.want(params)
        bot.confirm(params.integer("offset"))
        bot.polls += 1
        mine = bot.polls
        bot.changed.set()  # ends the poll before this one
        with suppress(TimeoutError):
            async with asyncio.timeout(min(max(params.integer("timeout"), 0), 50)):
                while not bot.updates and not self._stopping and bot.polls == mine:
                    bot.changed.clear()
                    await bot.changed.wait()
        if bot.polls != mine:
            ended_by = "setWebhook request" if bot.webhook else "other getUpdates request"
            hint = "" if bot.webhook else "; make sure that only one bot instance is running"
            raise ApiError(409, f"Conflict: terminated by {ended_by}{hint}")
        limit = params.integer("limit", 100)
        return bot.updates[: limit if 1 <= limit <= 100 else 100]

    async def _set_webhook(self, bot: Bot, params: Params) -> bool:
        url = params.text("url")
        if not url:
            return await self._delete_webhook(bot, params)
        if not _acceptable_webhook(url):
            _bad("bad webhook: An HTTPS URL must be provided for webhook")
        secret_token = params.text("secret_token")
        if secret_token and not _SECRET_TOKEN.fullmatch(secret_token):
            _bad("secret token contains unallowed characters")
        bot.want(params)
        if params.flag("drop_pending_updates"):
            bot.updates.clear()
        self._end_delivery(bot)
        max_connections = min(max(params.integer("max_connections", 40), 1), 100)
        bot.webhook = Webhook(url, secret_token, max_connections)
        bot.polls += 1
        bot.changed.set()
        bot.webhook.delivery = asyncio.create_task(self._deliver(bot, bot.webhook))
        return True

    async def _delete_webhook(self, bot: Bot, params: Params) -> bool:
        if params.flag("drop_pending_updates"):
            bot.updates.clear()
        self._end_delivery(bot)
        bot.webhook = None
        return True

    async def _get_webhook_info(self, bot: Bot, _: Params) -> Json:
        hook = bot.webhook
        info: Json = {
            "url": hook.url if hook else "",
            "has_custom_certificate": False,
            "pending_update_count": len(bot.updates),
        }
        if hook:
            info |= {"max_connections": hook.max_connections, "ip_address": "127.0.0.1"}
            if hook.last_error_date is not None:
                info["last_error_date"] = hook.last_error_date
                info["last_error_message"] = hook.last_error_message
        if bot.allowed != DEFAULT_UPDATES:
            info["allowed_updates"] = [kind for kind in UPDATE_KINDS if kind in bot.allowed]
        return info

    # Webhook deliveries.

    @staticmethod
    def _end_delivery(bot: Bot) -> None:
        delivery = bot.webhook.delivery if bot.webhook else None
        # A webhook's answer may itself order deleteWebhook: then the delivery ends by its own condition.
        if delivery and delivery is not asyncio.current_task():
            delivery.cancel()

    async def _deliver(self, bot: Bot, hook: Webhook) -> None:
        """Sends updates one at a time, in order; one that fails is tried again before any other."""
        failures = 0
        while bot.webhook is hook:
            if not bot.updates:
                bot.changed.clear()
                await bot.changed.wait()
                continue
            update = bot.updates[0]
            fault = self.faults.take("webhook")
            if fault and fault.kind == "delay":
                await asyncio.sleep(fault.seconds)
            delivered = await self._post(bot, hook, update)
            if fault and fault.kind == "duplicate":
                await self._post(bot, hook, update)
            if delivered:
                failures = 0
                bot.updates = [other for other in bot.updates if other is not update]
            else:
                delays = self.settings.retry_delays
                await asyncio.sleep(delays[min(failures, len(delays) - 1)])
                failures += 1

    async def _post(self, bot: Bot, hook: Webhook, update: Json) -> bool:
        """Delivers once; true if the answer is 2xx. A method in the answer is carried out."""
        headers = {"X-Telegram-Bot-Api-Secret-Token": hook.secret_token} if hook.secret_token else {}
        self._http = self._http or httpx2.AsyncClient(trust_env=False)
        try:
            answer = await self._http.post(
                hook.url, json=update, headers=headers, timeout=self.settings.webhook_timeout
            )
        except httpx2.TimeoutException:
            hook.failed("Read timeout expired")
            return False
        except (httpx2.HTTPError, httpx2.InvalidURL):
            hook.failed("Connection failed")
            return False
        if not answer.is_success:
            hook.failed(f"Wrong response from the webhook: {answer.status_code} {answer.reason_phrase}")
            return False
        # Nobody hears of an error in such a call: "it's not possible to know that such a request was
        # successful" (Making requests when getting updates).
        with suppress(ApiError):
            params = await _parse(answer.headers.get("content-type", ""), answer.content)
            if method := params.text("method").lower():
                await self._perform(bot, method, params)
        return True

    # Methods: messages.

    async def _send_message(self, bot: Bot, params: Params) -> Json:
        chat = bot.find_chat(params)
        return self._add(bot, chat, params, _text(params))

    async def _send_photo(self, bot: Bot, params: Params) -> Json:
        chat = bot.find_chat(params)
        file = _sent_file(bot, params, "photo", "photos")
        if file.upload.content and not file.upload.content.startswith(_IMAGES):
            _bad("IMAGE_PROCESS_FAILED")
        width, height = _dimensions(file.upload.content)
        photo = [file.facts | {"width": width, "height": height}]
        return self._add(bot, chat, params, {"photo": photo, **_caption(params)})

    async def _send_document(self, bot: Bot, params: Params) -> Json:
        chat = bot.find_chat(params)
        document = _document(_sent_file(bot, params, "document", "documents"))
        return self._add(bot, chat, params, {"document": document, **_caption(params)})

    @staticmethod
    def _add(bot: Bot, chat: Chat, params: Params, content: Json) -> Json:
        in_channel = chat.info["type"] == "channel"
        message: Json = {"sender_chat": chat.info} if in_channel else {"from": bot.user}
        if reply := params.object("reply_parameters"):
            if replied := chat.living(Params(reply).integer("message_id")):
                message["reply_to_message"] = _without_reply(replied.message)
            elif not reply.get("allow_sending_without_reply"):
                _bad("message to be replied not found")
        message |= content | _keyboard(params)
        if thread := params.integer("message_thread_id"):
            message["message_thread_id"] = thread
        if params.flag("protect_content"):
            message["has_protected_content"] = True
        if effect := params.text("message_effect_id"):
            message["effect_id"] = effect
        return chat.add(message, by_bot=True)

    async def _edit_message_text(self, bot: Bot, params: Params) -> Json:
        chat = bot.find_chat(params)
        entry = chat.living(params.integer("message_id"))
        if entry is None:
            _bad("message to edit not found")
        if not entry.by_bot:
            _bad("message can't be edited")
        if "text" not in entry.message:
            _bad("there is no text in the message to edit")
        new = _text(params) | _keyboard(params)
        changing = ("text", "entities", "link_preview_options", "reply_markup")
        if new == {name: entry.message[name] for name in changing if name in entry.message}:
            _bad(
                "message is not modified: specified new message content and reply markup are exactly "
                "the same as a current content and reply markup of the message"
            )
        for name in changing[1:]:
            entry.message.pop(name, None)
        _rewrite(entry, new)
        return entry.message

    async def _delete_message(self, bot: Bot, params: Params) -> bool:
        entry = bot.find_chat(params).living(params.integer("message_id"))
        if entry is None:
            _bad("message to delete not found")
        entry.deleted = True
        return True

    async def _answer_callback_query(self, bot: Bot, params: Params) -> bool:
        query = bot.queries.get(params.text("callback_query_id"))
        if query is None or time.monotonic() - query.pressed_at > self.settings.callback_lifetime:
            _bad("query is too old and response timeout expired or query ID is invalid")
        query.answers.append({"text": params.text("text"), "show_alert": params.flag("show_alert")})
        return True

    async def _send_chat_action(self, bot: Bot, params: Params) -> bool:
        chat = bot.find_chat(params)
        action = params.text("action").lower()
        if action not in CHAT_ACTIONS:
            _bad("wrong parameter action in request")
        chat.actions.append(action)
        return True

    async def _get_file(self, bot: Bot, params: Params) -> Json:
        file = bot.files.get(params.text("file_id"))
        if file is None:
            _bad("invalid file_id")
        if len(file.upload.content) > MAX_FILE_TO_GET:
            _bad("file is too big")
        return file.facts | {"file_path": file.path}


async def _parse(content_type: str, body: bytes, query: Iterable[tuple[str, str]] = ()) -> Params:
    values: Json = dict(query)
    files: dict[str, Upload] = {}
    kind = content_type.partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            given = json.loads(body or b"{}")
            if not isinstance(given, dict):
                _bad("request body must be a JSON object")
            values |= given
        elif kind == "multipart/form-data":
            form = await MultiPartParser(Headers({"content-type": content_type}), _once(body)).parse()
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    files[name] = Upload(value.filename or name, await value.read(), value.content_type)
                else:
                    values[name] = value
            await form.close()
        elif kind == "application/x-www-form-urlencoded":
            values |= parse_qsl(body.decode(), keep_blank_values=True)
    except (ValueError, MultiPartException):
        _bad("can't parse the request body")
    return Params(values, files)


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _error_answer(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, status_code=error.body["error_code"])


def _ordered_error(fault: Fault) -> ApiError:
    if fault.status == 429:
        seconds = fault.retry_after or 1
        return ApiError(429, f"Too Many Requests: retry after {seconds}", retry_after=seconds)
    return ApiError(fault.status, HTTPStatus(fault.status).phrase)


def _acceptable_webhook(url: str) -> bool:
    # Telegram wants HTTPS. Beside a twin, the bot is on the same machine or in the same network.
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return True
    if parts.scheme != "http" or not parts.hostname:
        return False
    if parts.hostname == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(parts.hostname).is_private
    return False


def _user(order: _ByUser) -> Json:
    user: Json = {
        "id": order.user_id,
        "is_bot": False,
        "first_name": order.user_name,
        "language_code": "en",
    }
    return user | ({"username": order.username} if order.username else {})


def _known_chat(bot: Bot, chat_id: int) -> Chat:
    if chat_id not in bot.chats:
        known = ", ".join(map(str, bot.chats)) or "none"
        raise ControlError(f"The bot knows no such chat. It knows: {known}.")
    return bot.chats[chat_id]


def _entry(chat: Chat, message_id: int) -> Entry:
    entry = chat.living(message_id)
    if entry is None:
        raise ControlError("The chat holds no such message.")
    return entry


def _told(update_id: int | None, message: Json) -> Json:
    """What a control reports; update_id is None if the bot does not want this kind of update."""
    return {"update_id": update_id, "chat_id": message["chat"]["id"], "message_id": message["message_id"]}


def _rewrite(entry: Entry, content: Json) -> None:
    entry.earlier_texts.append(entry.message.get("text", ""))
    entry.message |= content | {"edit_date": int(time.time())}


def _without_reply(message: Json) -> Json:
    return {name: value for name, value in message.items() if name != "reply_to_message"}


def _utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def _command_entities(text: str) -> Json:
    entities = [
        {
            "type": "bot_command",
            "offset": _utf16_length(text[: match.start()]),
            "length": _utf16_length(match[0]),
        }
        for match in _COMMAND.finditer(text)
    ]
    return {"entities": entities} if entities else {}


def _text(params: Params) -> Json:
    text = params.text("text").strip()
    if not text:
        _bad("message text is empty")
    if _utf16_length(text) > MAX_TEXT:
        _bad("message is too long")
    content: Json = {"text": text}
    for name in ("entities", "link_preview_options"):
        if value := params.json(name):
            content[name] = value
    return content


def _caption(params: Params) -> Json:
    caption = params.text("caption").strip()
    if _utf16_length(caption) > MAX_CAPTION:
        _bad("message caption is too long")
    entities = params.json("caption_entities")
    return ({"caption": caption} if caption else {}) | ({"caption_entities": entities} if entities else {})


def _keyboard(params: Params) -> Json:
    """The inline keyboard; other keyboards are no part of the message."""
    markup = params.object("reply_markup")
    rows = markup.get("inline_keyboard", [])
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        _bad("can't parse inline keyboard: Array of Arrays of InlineKeyboardButton expected")
    for button in _buttons({"reply_markup": markup}):
        if not isinstance(button, dict) or not isinstance(button.get("text"), str):
            _bad('can\'t parse inline keyboard button: Field "text" must be of type String')
        if not button.keys() - {"text", "style", "icon_custom_emoji_id"}:
            _bad("can't parse inline keyboard button: Text buttons are unallowed in the inline keyboard")
        if not 1 <= len(str(button.get("callback_data", "-")).encode()) <= MAX_CALLBACK_DATA:
            _bad("BUTTON_DATA_INVALID")
    return {"reply_markup": markup} if rows else {}


def _buttons(message: Json) -> list[Json]:
    rows = message.get("reply_markup", {}).get("inline_keyboard", [])
    return [button for row in rows for button in row]


def _sent_file(bot: Bot, params: Params, name: str, folder: str) -> StoredFile:
    value = params.text(name)
    upload = params.files.get(value.removeprefix("attach://") if value.startswith("attach://") else name)
    if upload:
        if not upload.content:
            _bad("file must be non-empty")
        return bot.store(folder, upload)
    if not value:
        _bad(f"there is no {name} in the request")
    if value.startswith(("http://", "https://")):
        return bot.store(folder, Upload(urlsplit(value).path.rpartition("/")[2] or "file", b""))
    if value not in bot.files:
        _bad("wrong file identifier/HTTP URL specified")
    return bot.files[value]


def _document(file: StoredFile) -> Json:
    mime_type = file.upload.mime_type or mimetypes.guess_type(file.upload.name)[0]
    return file.facts | {
        "file_name": file.upload.name,
        "mime_type": mime_type or "application/octet-stream",
    }


def _dimensions(image: bytes) -> tuple[int, int]:
    # A PNG says its size in its first chunk; the others are not worth a decoder here.
    if image.startswith(_IMAGES[0]) and len(image) >= 24:
        width, height = struct.unpack(">II", image[16:24])
        return int(width), int(height)
    return 800, 600
