"""What comes in from Telegram, and what each action takes.

Names, units and limits are those of the Bot API 10.1 (https://core.telegram.org/bots/api). Times are
Unix seconds. Chat and user ids have up to 52 significant bits; events carry them as strings, actions take
both forms.
"""

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StrictInt, field_validator, model_validator

from app.integrations.files import FileUpload

UpdateKind = Literal[
    "message",
    "edited_message",
    "channel_post",
    "edited_channel_post",
    "business_connection",
    "business_message",
    "edited_business_message",
    "deleted_business_messages",
    "guest_message",
    "message_reaction",
    "message_reaction_count",
    "inline_query",
    "chosen_inline_result",
    "callback_query",
    "shipping_query",
    "pre_checkout_query",
    "purchased_paid_media",
    "poll",
    "poll_answer",
    "my_chat_member",
    "chat_member",
    "chat_join_request",
    "chat_boost",
    "removed_chat_boost",
    "managed_bot",
]
UPDATE_KINDS: tuple[str, ...] = get_args(UpdateKind)
"""Every field of Update beside update_id."""


class TelegramSettings(BaseModel):
    """Configuration of a connection that is not secret."""

    model_config = ConfigDict(extra="forbid")

    base_url: str = Field(
        default="https://api.telegram.org",
        pattern=r"^https?://[^\s?#]+$",
        description="Address of the Bot API server: Telegram's, a self-hosted one or the twin",
    )
    delivery: Literal["auto", "webhook", "polling"] = Field(
        default="auto",
        description="How updates arrive; auto is webhook if the platform has a public URL, else polling",
    )
    allowed_updates: list[UpdateKind] | None = Field(
        default=None,
        description=(
            "Kinds of updates to receive; every kind if not set. An empty list is Telegram's own default, "
            "which leaves out chat_member, message_reaction and message_reaction_count"
        ),
    )
    poll_timeout: int = Field(
        default=25, ge=0, le=50, description="Seconds that Telegram holds a poll open when nothing is new"
    )

    @field_validator("base_url")
    @classmethod
    def _without_slash(cls, value: str) -> str:
        return value.rstrip("/")

    @property
    def wanted_updates(self) -> list[str]:
        return list(UPDATE_KINDS if self.allowed_updates is None else self.allowed_updates)


# What comes in: only what the events are made of; everything else stays in the original.


class User(BaseModel):
    """A sender. Names are left empty by deleted accounts."""

    id: StrictInt
    first_name: str = ""
    last_name: str | None = None
    username: str | None = None

    @property
    def full_name(self) -> str:
        return f"{self.first_name} {self.last_name or ''}".strip()


class Chat(BaseModel):
    """Where something happened."""

    id: StrictInt
    type: str
    title: str | None = None


class File(BaseModel):
    """Any of the media objects: they share file_id."""

    file_id: str


class MessageReference(BaseModel):
    """A message that another object points at."""

    message_id: StrictInt
    chat: Chat


class Message(MessageReference):
    """A message or channel post."""

    date: StrictInt
    edit_date: StrictInt | None = None
    message_thread_id: StrictInt | None = None
    sender: User | None = Field(default=None, alias="from")
    text: str | None = None
    caption: str | None = None
    reply_to_message: MessageReference | None = None
    photo: list[File] = []
    animation: File | None = None
    audio: File | None = None
    document: File | None = None
    sticker: File | None = None
    video: File | None = None
    video_note: File | None = None
    voice: File | None = None

    @property
    def file_id(self) -> str | None:
        if self.photo:
            return self.photo[-1].file_id  # sizes come smallest first
        media = (self.animation, self.audio, self.document, self.sticker)
        files = (*media, self.video, self.video_note, self.voice)
        return next((file.file_id for file in files if file), None)


class CallbackQuery(BaseModel):
    """A press on an inline button."""

    id: str
    sender: User = Field(alias="from")
    message: MessageReference | None = None
    inline_message_id: str | None = None
    data: str | None = None


class ChatMember(BaseModel):
    """A member's standing in a chat."""

    status: str


class ChatMemberUpdated(BaseModel):
    """A change of a member's standing in a chat."""

    chat: Chat
    sender: User = Field(alias="from")
    date: StrictInt
    old_chat_member: ChatMember
    new_chat_member: ChatMember


class Update(BaseModel):
    """The envelope. Content is validated by its kind, which is the one field beside update_id."""

    model_config = ConfigDict(extra="allow")

    update_id: StrictInt


# What events carry.


class _EventPayload(BaseModel):
    update_id: int = Field(description="Telegram's number of the update")


class _FromUser(_EventPayload):
    from_id: str = Field(description="Id of the user")
    from_name: str = Field(description="First and last name of the user")
    from_username: str | None = Field(description="Username without @, if there is one")


class MessagePayload(_EventPayload):
    """A message, edited message or channel post."""

    chat_id: str = Field(description="Id of the chat; what send_message takes")
    chat_type: str = Field(description="private, group, supergroup or channel")
    chat_title: str | None = Field(description="Title of the group or channel")
    message_id: int = Field(description="Number of the message, unique only inside its chat")
    message_thread_id: int | None = Field(description="Topic of a forum that the message belongs to")
    date: int = Field(description="When it was sent, in Unix seconds")
    edit_date: int | None = Field(description="When it was last edited, in Unix seconds")
    from_id: str | None = Field(description="Id of the sender; absent in channels")
    from_name: str | None = Field(description="First and last name of the sender")
    from_username: str | None = Field(description="Username of the sender without @")
    text: str | None = Field(description="The text, or the caption of media")
    file_id: str | None = Field(description="The attached file (a photo's largest size), for get_file")
    reply_to_message_id: int | None = Field(description="The message that this one answers")
    raw: dict[str, Any] = Field(description="The Message object as Telegram sent it")


class CallbackQueryPayload(_FromUser):
    """A press on an inline button."""

    callback_query_id: str = Field(description="What answer_callback_query takes")
    data: str | None = Field(description="The button's callback_data")
    chat_id: str | None = Field(description="Chat of the button's message; absent for inline messages")
    message_id: int | None = Field(description="The button's message")
    inline_message_id: str | None = Field(description="The button's message if it was sent inline")
    raw: dict[str, Any] = Field(description="The CallbackQuery object as Telegram sent it")


class MyChatMemberPayload(_FromUser):
    """The bot was added, promoted, restricted, removed, blocked or unblocked."""

    chat_id: str = Field(description="Id of the chat")
    chat_type: str = Field(description="private, group, supergroup or channel")
    chat_title: str | None = Field(description="Title of the group or channel")
    date: int = Field(description="When it happened, in Unix seconds")
    old_status: str = Field(description="The bot's standing before, such as member, kicked, administrator")
    new_status: str = Field(description="The bot's standing now")
    raw: dict[str, Any] = Field(description="The ChatMemberUpdated object as Telegram sent it")


class UpdatePayload(_EventPayload):
    """An update of any other kind."""

    kind: str = Field(description="The field of Update that is set, such as poll_answer or inline_query")
    update: dict[str, Any] = Field(description="The Update object as Telegram sent it")


# What actions take.

ChatId = Annotated[
    int | str, Field(description="Id of the chat, or @username of a channel, supergroup or bot")
]
Upload = Annotated[
    "str | FileUpload",
    Field(description="A file_id, an http(s) URL that Telegram fetches, or a new file with its content"),
]


class _Input(BaseModel):
    """Fields that the Bot API does not have are refused: a mistyped option must not be lost silently."""

    model_config = ConfigDict(extra="forbid")


class _Provided(BaseModel):
    """An object of the Bot API of which the common fields are named; others pass as they are."""

    model_config = ConfigDict(extra="allow")


class MessageEntity(_Provided):
    """A formatted part of a text."""

    type: str = Field(description="bold, italic, code, pre, text_link, text_mention, custom_emoji, ...")
    offset: int = Field(description="Start in UTF-16 code units")
    length: int = Field(description="Length in UTF-16 code units")


class LinkPreviewOptions(_Provided):
    """How a link is previewed."""

    is_disabled: bool | None = Field(default=None, description="No preview")
    url: str | None = Field(default=None, description="The link to preview, the first of the text if not set")
    show_above_text: bool | None = Field(default=None, description="Preview above the text")


class ReplyParameters(_Provided):
    """The message to answer."""

    message_id: int = Field(description="The message to answer")
    chat_id: ChatId | None = Field(default=None, description="Its chat, if it is another one")
    allow_sending_without_reply: bool | None = Field(
        default=None, description="Send also if the message to answer is gone"
    )
    quote: str | None = Field(default=None, description="The exact part of the message to quote")


class InlineKeyboardButton(_Provided):
    """A button under a message. Exactly one field beside text and looks says what it does."""

    text: str = Field(description="Label")
    callback_data: str | None = Field(
        default=None, description="Comes back as telegram.callback_query.received, 1-64 bytes"
    )
    url: str | None = Field(default=None, description="Address to open")


class InlineKeyboardMarkup(_Input):
    """Buttons under a message."""

    inline_keyboard: list[list[InlineKeyboardButton]] = Field(description="Rows of buttons")


class KeyboardButton(_Provided):
    """A key that sends its text, or what it asks for."""

    text: str = Field(description="Label, and what is sent")
    request_contact: bool | None = Field(default=None, description="Ask for the user's phone number")
    request_location: bool | None = Field(default=None, description="Ask for the user's location")


class ReplyKeyboardMarkup(_Provided):
    """A keyboard in place of the user's own."""

    keyboard: list[list[KeyboardButton | str]] = Field(description="Rows of keys")
    resize_keyboard: bool | None = Field(default=None, description="Make it only as high as needed")
    one_time_keyboard: bool | None = Field(default=None, description="Hide it after one use")
    is_persistent: bool | None = Field(default=None, description="Show it always")


class ReplyKeyboardRemove(_Provided):
    """Takes the keyboard away."""

    remove_keyboard: Literal[True] = Field(description="Always true")
    selective: bool | None = Field(default=None, description="Only for those who are addressed")


class ForceReply(_Provided):
    """Opens the reply box, as if the user had tapped Reply."""

    force_reply: Literal[True] = Field(description="Always true")
    input_field_placeholder: str | None = Field(default=None, description="Placeholder, 1-64 characters")
    selective: bool | None = Field(default=None, description="Only for those who are addressed")


ReplyMarkup = InlineKeyboardMarkup | ReplyKeyboardMarkup | ReplyKeyboardRemove | ForceReply


class _Send(_Input):
    chat_id: ChatId
    message_thread_id: int | None = Field(default=None, description="Topic of a forum")
    business_connection_id: str | None = Field(
        default=None, description="Business connection on whose behalf to send"
    )
    direct_messages_topic_id: int | None = Field(
        default=None, description="Topic of a channel's direct messages; required there"
    )
    disable_notification: bool | None = Field(default=None, description="Send without sound")
    protect_content: bool | None = Field(default=None, description="Forbid forwarding and saving")
    allow_paid_broadcast: bool | None = Field(
        default=None, description="Up to 1000 messages a second for 0.1 Stars each"
    )
    message_effect_id: str | None = Field(default=None, description="Effect, in private chats only")
    reply_parameters: ReplyParameters | None = Field(default=None, description="The message to answer")
    reply_markup: ReplyMarkup | None = Field(default=None, description="Buttons or keyboard")


class SendMessage(_Send):
    """A text message."""

    text: str = Field(min_length=1, description="The text, up to 4096 characters once formatting is parsed")
    parse_mode: str | None = Field(default=None, description="MarkdownV2, HTML or Markdown")
    entities: list[MessageEntity] | None = Field(
        default=None, description="Formatting, instead of parse_mode"
    )
    link_preview_options: LinkPreviewOptions | None = Field(default=None, description="Link preview")


class _SendMedia(_Send):
    caption: str | None = Field(default=None, description="Up to 1024 characters once formatting is parsed")
    parse_mode: str | None = Field(default=None, description="MarkdownV2, HTML or Markdown, of the caption")
    caption_entities: list[MessageEntity] | None = Field(
        default=None, description="Formatting of the caption, instead of parse_mode"
    )


class SendPhoto(_SendMedia):
    """A photo: up to 10 MB uploaded."""

    photo: Upload
    has_spoiler: bool | None = Field(default=None, description="Cover it until it is tapped")
    show_caption_above_media: bool | None = Field(default=None, description="Caption above the photo")


class SendDocument(_SendMedia):
    """A file: up to 50 MB uploaded."""

    document: Upload
    disable_content_type_detection: bool | None = Field(
        default=None, description="Take an uploaded file as a plain file whatever it holds"
    )


class EditMessageText(_Input):
    """New text for a message of the bot. Without reply_markup its inline keyboard goes away."""

    chat_id: ChatId | None = Field(default=None, description="Chat of the message")
    message_id: int | None = Field(default=None, description="The message")
    inline_message_id: str | None = Field(
        default=None, description="The message if it was sent inline; instead of chat_id and message_id"
    )
    business_connection_id: str | None = Field(
        default=None, description="Business connection on whose behalf the message was sent"
    )
    text: str = Field(min_length=1, description="The text, up to 4096 characters once formatting is parsed")
    parse_mode: str | None = Field(default=None, description="MarkdownV2, HTML or Markdown")
    entities: list[MessageEntity] | None = Field(
        default=None, description="Formatting, instead of parse_mode"
    )
    link_preview_options: LinkPreviewOptions | None = Field(default=None, description="Link preview")
    reply_markup: InlineKeyboardMarkup | None = Field(default=None, description="Buttons")

    @model_validator(mode="after")
    def _names_one_message(self) -> "EditMessageText":
        in_chat = self.chat_id is not None and self.message_id is not None
        if in_chat == (self.inline_message_id is not None):
            raise ValueError("name the message by chat_id and message_id, or by inline_message_id")
        return self


class DeleteMessage(_Input):
    """A message to delete: younger than 48 hours, and the bot's own unless it may delete others'."""

    chat_id: ChatId
    message_id: int = Field(description="The message")


class AnswerCallbackQuery(_Input):
    """The answer to a press: the client shows a progress bar until it comes."""

    callback_query_id: str = Field(description="From telegram.callback_query.received")
    text: str | None = Field(
        default=None, description="What to show, up to 200 characters; nothing if not set"
    )
    show_alert: bool | None = Field(default=None, description="As a dialog instead of a notification")
    url: str | None = Field(default=None, description="Address to open, such as t.me/your_bot?start=x")
    cache_time: int | None = Field(default=None, description="Seconds that the client may reuse the answer")


class SendChatAction(_Input):
    """A status such as "typing", shown for 5 seconds or until a message comes."""

    chat_id: ChatId
    action: str = Field(
        description=(
            "typing, upload_photo, record_video, upload_video, record_voice, upload_voice, upload_document, "
            "choose_sticker, find_location, record_video_note or upload_video_note"
        )
    )
    message_thread_id: int | None = Field(default=None, description="Topic of a forum")
    business_connection_id: str | None = Field(
        default=None, description="Business connection on whose behalf to show it"
    )


class GetFile(_Input):
    """A file that came with a message."""

    file_id: str = Field(description="From an event")
    download: bool = Field(
        default=False, description="Fetch the content too, up to 700 kB; its address holds the bot token"
    )


# What actions return.


class SentMessage(_Provided):
    """The Message object as Telegram returned it."""

    message_id: int = Field(description="Number of the message in its chat")
    date: int = Field(description="When it was sent, in Unix seconds")
    chat: dict[str, Any] = Field(description="The Chat object")


class EditedMessage(BaseModel):
    """What became of an edit."""

    modified: bool = Field(description="False if the message already read so, perhaps by an earlier try")
    message: dict[str, Any] | None = Field(
        default=None, description="The Message object; absent if not modified or sent inline"
    )


class DeletedMessage(BaseModel):
    """What became of a deletion."""

    deleted: bool = Field(
        description="False if there was no such message: deleted before, perhaps by an earlier try, or never"
    )


class Done(BaseModel):
    """Telegram said yes."""

    ok: bool = Field(description="Always true; a refusal is an error")


class FileInfo(_Provided):
    """The File object, with the content if it was asked for."""

    file_id: str = Field(description="What was asked for")
    file_unique_id: str = Field(description="The same over time and for different bots")
    file_size: int | None = Field(default=None, description="Bytes")
    file_path: str | None = Field(default=None, description="Path below /file/bot<token>/, for an hour")
    content_base64: str | None = Field(
        default=None, repr=False, description="The content, if download was asked for"
    )
