"""What comes in from WhatsApp, and what each action takes.

Names are those of the Cloud API (https://developers.facebook.com/documentation/business-messaging/whatsapp/).
A `wamid` is WhatsApp's name of a message. People have a phone number, or, if they hide it behind a username,
only a business-scoped user id such as `US.13491208655302741918`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.integrations.files import FileUpload
from app.integrations.inbound import ProviderId
from app.integrations.urls import BaseUrl

Number = Annotated[str, Field(pattern=r"^\d{1,30}$")]


class WhatsAppSettings(BaseModel):
    """Configuration of a connection that is not secret."""

    model_config = ConfigDict(extra="forbid")

    phone_number_id: Number = Field(description="Id of the business phone number that sends (not the number)")
    waba_id: Number | None = Field(
        default=None,
        description=(
            "WhatsApp Business Account. If set, its webhooks are directed to this connection, away from the "
            "callback URL of the app"
        ),
    )
    base_url: BaseUrl = Field(default="https://graph.facebook.com", description="Address of the Graph API")
    api_version: str = Field(
        default="v26.0", pattern=r"^v\d+\.\d+$", description="Version of the Graph API; Meta retires old ones"
    )


# What comes in: only what the events are made of; everything else stays in the original.


class Change(BaseModel):
    """One change: `field` says what `value` is."""

    field: str
    value: Any = None


class Entry(BaseModel):
    """The changes of one WhatsApp Business Account."""

    id: str
    changes: list[Change]


class Notification(BaseModel):
    """The envelope, which may hold many changes of many accounts."""

    object: str
    entry: list[Entry]


class Profile(BaseModel):
    """What people tell about themselves."""

    name: str | None = None
    username: str | None = None


class Contact(BaseModel):
    """Who wrote, or was written to."""

    wa_id: str | None = None
    user_id: str | None = None
    profile: Profile = Profile()


class Metadata(BaseModel):
    """The business phone number."""

    phone_number_id: str | None = None
    display_phone_number: str | None = None


class Body(BaseModel):
    """Any of the contents of a message: most have a text, an id or a file."""

    id: str | None = None
    body: str | None = None
    text: str | None = None
    title: str | None = None
    caption: str | None = None
    emoji: str | None = None
    name: str | None = None
    payload: str | None = None
    message_id: str | None = None
    mime_type: str | None = None
    filename: str | None = None
    response_json: str | None = None
    button_reply: "Body | None" = None
    list_reply: "Body | None" = None
    nfm_reply: "Body | None" = None

    @property
    def reply(self) -> "Body | None":
        """What was chosen or filled in, in answer to a message with buttons, rows or a flow."""
        return self.button_reply or self.list_reply or self.nfm_reply

    @property
    def words(self) -> str | None:
        """Whichever of its texts it has."""
        return self.body or self.text or self.title or self.caption or self.emoji or self.name


class Context(BaseModel):
    """The message that was answered."""

    id: str | None = None


class Message(BaseModel):
    """A message of any type; its content stands in the field that the type names."""

    id: ProviderId
    type: str
    content: Body
    timestamp: int | None = None
    sender: str | None = Field(default=None, alias="from")
    from_user_id: str | None = None
    group_id: str | None = None
    context: Context = Context()

    @model_validator(mode="before")
    @classmethod
    def _with_content(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        kind = value.get("type")
        content = value.get(kind) if isinstance(kind, str) else None
        return {**value, "content": content if isinstance(content, dict) else {}}


class Problem(BaseModel):
    """Why a message failed."""

    code: int
    title: str | None = None


class Status(BaseModel):
    """What became of a message that was sent."""

    id: ProviderId
    status: Annotated[str, Field(max_length=50, pattern=r"^[^\x00]*$")]
    timestamp: int | None = None
    recipient_id: str | None = None
    recipient_user_id: str | None = None
    recipient_participant_id: Annotated[str, Field(max_length=100, pattern=r"^[^\x00]*$")] | None = None
    biz_opaque_callback_data: str | None = None
    errors: list[Problem] = []


class MessagesValue(BaseModel):
    """The value of the field `messages`."""

    metadata: Metadata = Metadata()
    contacts: list[Contact] = []
    messages: list[Message] = []
    statuses: list[Status] = []

    def contact_of(self, message: Message) -> Contact:
        """Who wrote a message."""
        for contact in self.contacts:
            if message.sender and contact.wa_id == message.sender:
                return contact
            if message.from_user_id and contact.user_id == message.from_user_id:
                return contact
        return Contact()


# What events carry.


class _EventPayload(BaseModel):
    waba_id: str = Field(description="WhatsApp Business Account")
    phone_number_id: str | None = Field(description="The business phone number; what the actions take")
    display_phone_number: str | None = Field(description="The business phone number as people see it")


class MessagePayload(_EventPayload):
    """A message from a person."""

    message_id: str = Field(description="The wamid; what mark_as_read and context take")
    type: str = Field(description="text, image, interactive, button, reaction, location, unsupported, ...")
    timestamp: int | None = Field(description="When it was sent, in Unix seconds")
    from_number: str | None = Field(description="Phone number, as `to` takes it; absent if it is hidden")
    from_user_id: str | None = Field(description="Business-scoped user id, as `recipient` takes it")
    from_name: str | None = Field(description="Name in the person's profile")
    from_username: str | None = Field(description="Username, if they have one")
    group_id: str | None = Field(description="Group, if it was written there")
    text: str | None = Field(description="The text, caption, label of the button or row, or emoji")
    reply_id: str | None = Field(description="Id of the button or row that was chosen, or a button's payload")
    response_json: str | None = Field(description="What was put into a flow, as JSON")
    media_id: str | None = Field(description="The attached file, for get_media")
    mime_type: str | None = Field(description="MIME type of the attached file")
    filename: str | None = Field(description="Name of the attached document")
    context_message_id: str | None = Field(description="The message that this one answers or reacts to")
    raw: dict[str, Any] = Field(description="The message object as WhatsApp sent it")


class StatusPayload(_EventPayload):
    """What became of a message that was sent."""

    message_id: str = Field(description="The wamid, as the sending action returned it")
    status: str = Field(description="sent, delivered, read, played or failed; may come in any order")
    timestamp: int | None = Field(description="When it happened, in Unix seconds")
    recipient_id: str | None = Field(description="Phone number or group that it was sent to")
    recipient_user_id: str | None = Field(description="Business-scoped user id of the recipient")
    error_code: int | None = Field(description="Why it failed: Meta's error code")
    error_title: str | None = Field(description="The error in words")
    biz_opaque_callback_data: str | None = Field(description="What the sending action gave along")
    raw: dict[str, Any] = Field(description="The status object as WhatsApp sent it")


class ChangePayload(BaseModel):
    """A change of any other kind."""

    waba_id: str = Field(description="WhatsApp Business Account")
    field: str = Field(description="The subscribed field, such as account_update or smb_message_echoes")
    value: Any = Field(description="The value as WhatsApp sent it")


# What actions take.


class _Input(BaseModel):
    """Unknown fields are refused: a mistyped option must not be lost silently."""

    model_config = ConfigDict(extra="forbid")


class FromNumber(_Input):
    """Which business phone number acts."""

    phone_number_id: Number | None = Field(
        default=None, description="Another business phone number of the account, instead of the setting's"
    )


class ReplyContext(_Input):
    """The message to answer."""

    message_id: str = Field(min_length=1, description="The wamid of the message to answer")


class Outgoing(FromNumber):
    """What every message says beside its content."""

    to: str | None = Field(
        default=None, min_length=1, description="Phone number with country code, or the id of a group"
    )
    recipient: str | None = Field(
        default=None, min_length=1, description="Business-scoped user id, if the number is not known"
    )
    recipient_type: Literal["individual", "group"] = Field(
        default="individual", description="group if `to` is a group"
    )
    context: ReplyContext | None = Field(default=None, description="The message to answer")
    biz_opaque_callback_data: str | None = Field(
        default=None, max_length=512, description="Comes back with the statuses of this message"
    )

    @model_validator(mode="after")
    def _goes_to_somebody(self) -> "Outgoing":
        if not (self.to or self.recipient):
            raise ValueError("give to or recipient")
        return self


class TextObject(_Input):
    """A text."""

    body: str = Field(min_length=1, max_length=4096, description="The text")
    preview_url: bool | None = Field(default=None, description="Preview the first link")


class SendText(Outgoing):
    """A text, within 24 hours of the person's last message; before and after, send a template."""

    text: TextObject = Field(description="The text")


class Language(_Input):
    """A template's language."""

    code: str = Field(min_length=1, description="Language and locale, such as en_US")


class Template(_Input):
    """An approved template, filled in."""

    name: str = Field(min_length=1, description="Name of the template")
    language: Language = Field(description="Its language")
    components: list[dict[str, Any]] | None = Field(
        default=None, description="Parameters of header, body and buttons"
    )


class SendTemplate(Outgoing):
    """A template, which may begin a conversation."""

    template: Template = Field(description="The template")


class MediaObject(_Input):
    """A file: exactly one of id and link."""

    id: str | None = Field(default=None, min_length=1, description="From upload_media or an event")
    link: str | None = Field(default=None, pattern=r"^https?://\S+$", description="Where WhatsApp fetches it")
    caption: str | None = Field(default=None, max_length=1024, description="Not for audio and stickers")
    filename: str | None = Field(default=None, description="Name of a document")

    @model_validator(mode="after")
    def _is_one_file(self) -> "MediaObject":
        if (self.id is None) == (self.link is None):
            raise ValueError("give exactly one of id and link")
        return self


class SendMedia(Outgoing):
    """A file."""

    type: Literal["image", "video", "audio", "document", "sticker"] = Field(description="What it is")
    media: MediaObject = Field(description="The file")


class SendReaction(Outgoing):
    """An emoji on a message that is not older than 30 days."""

    message_id: str = Field(min_length=1, description="The wamid of the message to react to")
    emoji: str = Field(max_length=50, description="The emoji; an empty text takes it away")


class UploadMedia(FromNumber):
    """A file for send_media, kept for 30 days."""

    file: FileUpload = Field(description="Name and content")
    type: str = Field(pattern=r"^[\w.+-]+/[\w.+-]+$", description="MIME type, such as image/jpeg")


class GetMedia(FromNumber):
    """A file that came with a message, for 7 days."""

    media_id: str = Field(pattern=r"^[\w-]{1,100}$", description="From an event")
    download: bool = Field(default=False, description="Fetch the content too, up to 700 kB")


class MarkAsRead(FromNumber):
    """A message of a person, and with it all before."""

    message_id: str = Field(min_length=1, description="The wamid of the message")
    typing: bool = Field(
        default=False, description="Show for 25 seconds that an answer is being written (typing_indicator)"
    )


# What actions return.


class SentMessage(BaseModel):
    """The message was accepted; what becomes of it comes as whatsapp.message_status.updated."""

    message_id: str = Field(description="The wamid")
    message_status: str | None = Field(default=None, description="accepted, or held for a check of quality")
    wa_id: str | None = Field(default=None, description="The recipient's phone number as WhatsApp knows it")
    user_id: str | None = Field(default=None, description="The recipient's business-scoped user id")


class UploadedMedia(BaseModel):
    """The file as WhatsApp knows it."""

    id: str = Field(description="What send_media takes")


class Media(BaseModel):
    """A file, with the content if it was asked for."""

    id: str = Field(description="What was asked for")
    mime_type: str | None = Field(default=None, description="MIME type")
    sha256: str | None = Field(default=None, description="Hash of the content, in hex")
    file_size: int | None = Field(default=None, description="Bytes")
    content_base64: str | None = Field(
        default=None, repr=False, description="The content, if download was asked for"
    )


class Done(BaseModel):
    """WhatsApp said yes."""

    success: Literal[True] = Field(description="Always true; a refusal is an error")
