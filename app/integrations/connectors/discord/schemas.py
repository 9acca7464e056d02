"""What comes in from Discord, and what each action takes.

Names are those of the API, version 10 (https://docs.discord.com/developers/). Ids are snowflakes: up to 20
digits, which Discord writes as strings, and so do events.
"""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.integrations.files import FileUpload
from app.integrations.inbound import ProviderId
from app.integrations.urls import BaseUrl

PING, COMMAND, COMPONENT, AUTOCOMPLETE, MODAL = 1, 2, 3, 4, 5
"""Kinds of interactions."""


class DiscordSettings(BaseModel):
    """Configuration of a connection that is not secret."""

    model_config = ConfigDict(extra="forbid")

    base_url: BaseUrl = Field(
        default="https://discord.com/api/v10", description="Address of the API with its version"
    )
    ephemeral: bool = Field(
        default=False,
        description="Answers to commands are seen by nobody but the user; fixed when a command comes in",
    )
    manage_endpoint: bool = Field(
        default=False,
        description=(
            "Set the app's Interactions Endpoint URL to this connection's. Discord then stops sending "
            "interactions over the gateway, to any other program of this app"
        ),
    )


# What comes in: only what the events are made of; everything else stays in the original.


class User(BaseModel):
    """Who did something."""

    id: str
    username: str | None = None
    global_name: str | None = None


class Member(BaseModel):
    """A user in a server."""

    user: User


class Referred(BaseModel):
    """A message that something happened to."""

    id: str


class Option(BaseModel):
    """A command's parameter, or a subcommand with parameters of its own."""

    name: str
    type: int = 0
    value: str | int | float | bool | None = None
    options: list["Option"] = []

    @property
    def is_subcommand(self) -> bool:
        return self.type in (1, 2)  # SUB_COMMAND, SUB_COMMAND_GROUP


class Component(BaseModel):
    """An input in a modal, or what inputs stand in: a row, a label."""

    custom_id: str | None = None
    value: str | int | float | bool | None = None
    values: list[str] | None = None
    components: list["Component"] = []
    component: "Component | None" = None

    def inputs(self) -> Iterator["Component"]:
        """This one and those inside it, as far as they are inputs."""
        if self.custom_id is not None:
            yield self
        for inner in (*self.components, *filter(None, [self.component])):
            yield from inner.inputs()


class CommandData(BaseModel):
    """Which command was used, and with what."""

    id: str | None = None
    name: str
    type: int | None = None
    target_id: str | None = None
    options: list[Option] = []


class ComponentData(BaseModel):
    """Which component was used, and what was chosen."""

    custom_id: str
    component_type: int | None = None
    values: list[str] = []


class ModalData(BaseModel):
    """Which modal was submitted, and what was put in."""

    custom_id: str
    components: list[Component] = []


class Interaction(BaseModel):
    """The envelope of an interaction."""

    id: ProviderId
    application_id: str
    type: int
    token: str
    data: dict[str, Any] = {}
    guild_id: str | None = None
    channel_id: str | None = None
    member: Member | None = None
    user: User | None = None
    message: Referred | None = None
    locale: str | None = None

    @property
    def who(self) -> User | None:
        """In a server the member, in direct messages the user."""
        return self.member.user if self.member else self.user


class WebhookEvent(BaseModel):
    """What a webhook event tells."""

    type: ProviderId
    timestamp: Annotated[str, Field(max_length=50, pattern=r"^[^\x00]*$")]


class WebhookEvents(BaseModel):
    """The envelope of webhook events, which are another product than interactions: 0 is a PING."""

    application_id: str
    type: int
    event: WebhookEvent | None = None


# What events carry.


class InteractionPayload(BaseModel):
    """What every interaction has."""

    interaction_id: str = Field(description="Discord's id of the interaction")
    application_id: str = Field(description="The app; what edit_original_response takes")
    interaction_token: str = Field(description="What edit_original_response takes for 15 minutes", repr=False)
    guild_id: str | None = Field(description="Server; absent in direct messages")
    channel_id: str | None = Field(description="Channel; what send_message takes")
    user_id: str | None = Field(description="Who did it")
    user_name: str | None = Field(description="Their display name, or else their username")
    locale: str | None = Field(description="Their language")
    message_id: str | None = Field(description="The message with the component that was used")
    raw: dict[str, Any] = Field(description="The interaction as Discord sent it")


class CommandPayload(InteractionPayload):
    """A slash, user or message command."""

    command_id: str | None = Field(description="Id of the command")
    command: str = Field(description="Its name with group and subcommand, such as 'issue create'")
    command_type: int | None = Field(description="1 slash, 2 user, 3 message command, 4 entry point")
    options: dict[str, str | int | float | bool | None] = Field(description="Parameters by name")
    target_id: str | None = Field(description="The user or message that the command was used on")


class ComponentPayload(InteractionPayload):
    """A button or menu in a message."""

    custom_id: str = Field(description="The app's own name of the component")
    component_type: int | None = Field(description="2 button, 3 menu of texts, 5-8 of users, roles, channels")
    values: list[str] = Field(description="What was chosen in a menu")


class ModalPayload(InteractionPayload):
    """A modal that was submitted."""

    custom_id: str = Field(description="The app's own name of the modal")
    fields: dict[str, str | int | float | bool | list[str] | None] = Field(
        description="What was put in, by custom_id"
    )


class EventPayload(BaseModel):
    """Anything else."""

    kind: str = Field(description="The webhook event's type, or interaction_<number> for a newer kind")
    application_id: str = Field(description="The app")
    timestamp: str | None = Field(description="When it happened, in ISO 8601; absent for interactions")
    raw: dict[str, Any] = Field(description="The whole payload as Discord sent it")


# What actions take.

Snowflake = Annotated[str, Field(pattern=r"^\d{1,20}$")]
ChannelId = Annotated[Snowflake, Field(description="Id of the channel or thread")]
MessageId = Annotated[Snowflake, Field(description="Id of the message")]


class _Input(BaseModel):
    """Unknown fields are refused: a mistyped option must not be lost silently."""

    model_config = ConfigDict(extra="forbid")


class Content(_Input):
    """What a message says, when it is made and when it is edited."""

    content: str | None = Field(default=None, description="The text, up to 2000 characters")
    embeds: list[dict[str, Any]] | None = Field(default=None, description="Up to 10 embeds")
    components: list[dict[str, Any]] | None = Field(default=None, description="Buttons, menus, layout")
    allowed_mentions: dict[str, Any] | None = Field(
        default=None, description='Whom mentions notify; {"parse": []} nobody. Use it with text of users'
    )
    flags: int | None = Field(default=None, description="Message flags, such as 4 for no previews of links")
    poll: dict[str, Any] | None = Field(default=None, description="A poll, only in new messages")
    files: list[FileUpload] = Field(
        default=[], max_length=10, description="Files to upload; in an edit they replace the earlier ones"
    )


class _New(Content):
    tts: bool | None = Field(default=None, description="Read it aloud")

    @model_validator(mode="after")
    def _says_something(self) -> "_New":
        if not any(getattr(self, name) for name in self._says):
            raise ValueError(f"give one of {', '.join(self._says)}")
        return self

    @property
    def _says(self) -> tuple[str, ...]:
        return ("content", "embeds", "components", "poll", "files")


class SendMessage(_New):
    """A message to a channel that the bot can write in."""

    channel_id: ChannelId
    message_reference: dict[str, Any] | None = Field(
        default=None, description='The message to answer: {"message_id": "..."}'
    )
    sticker_ids: list[Snowflake] | None = Field(default=None, description="Up to 3 stickers of the server")

    @property
    def _says(self) -> tuple[str, ...]:
        return (*super()._says, "sticker_ids")


class EditMessage(Content):
    """New content for one of the bot's messages: what is given changes, null takes it away."""

    channel_id: ChannelId
    message_id: MessageId


class DeleteMessage(_Input):
    """A message of the bot, or of others where it may manage messages."""

    channel_id: ChannelId
    message_id: MessageId


class CreateReaction(_Input):
    """The bot's reaction to a message."""

    channel_id: ChannelId
    message_id: MessageId
    emoji: str = Field(
        min_length=1, max_length=100, description="The emoji itself, or name:id of a custom one"
    )


class _Answer(_Input):
    application_id: Snowflake = Field(description="From the event")
    interaction_token: str = Field(
        min_length=1, repr=False, description="From the event, valid for 15 minutes"
    )


class EditOriginalResponse(Content, _Answer):
    """The answer to a command, in place of "thinking ..."; for a component, the message that it is in."""


class CreateFollowup(_New, _Answer):
    """One more message after the answer. Flag 64 shows it to nobody but the user."""


class DeleteOriginalResponse(_Answer):
    """Takes the answer back, "thinking ..." too."""


# What actions return.


class SentMessage(BaseModel):
    """The message object as Discord returned it."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(description="Id of the message")
    channel_id: str = Field(description="Where it is")


class DeletedMessage(BaseModel):
    """What became of a deletion."""

    deleted: bool = Field(
        description="False if there was no such message: deleted before, perhaps by an earlier try, or never"
    )


class Done(BaseModel):
    """Discord said yes."""

    ok: bool = Field(description="Always true; a refusal is an error")
