"""What comes in from Slack, and what each action takes.

Names are those of the Events API, the interaction payloads and the Web API (https://docs.slack.dev/).
`ts` is Slack's name of a message in its channel: a time with a serial number, kept as the string it is.
"""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.integrations.files import FileUpload
from app.integrations.inbound import ProviderId
from app.integrations.urls import BaseUrl


class SlackSettings(BaseModel):
    """Configuration of a connection that is not secret."""

    model_config = ConfigDict(extra="forbid")

    base_url: BaseUrl = Field(default="https://slack.com", description="Where the Web API is, without /api")
    hooks_url: BaseUrl = Field(
        default="https://hooks.slack.com",
        description="Where every response_url has to lead; nothing is sent anywhere else",
    )

    def leads_to_hooks(self, url: str) -> bool:
        """Whether a response_url is one of Slack's own."""
        hooks = urlsplit(self.hooks_url)
        try:
            given = urlsplit(url)
        except ValueError:
            return False
        return (given.scheme, given.netloc) == (hooks.scheme, hooks.netloc)


# What comes in: only what the events are made of; everything else stays in the original.


class Named(BaseModel):
    """A user, channel or team as interactions name it."""

    id: str | None = None
    name: str | None = None
    username: str | None = None


class Located(BaseModel):
    """A message that something else points at."""

    ts: str | None = None
    thread_ts: str | None = None
    user: str | None = None
    bot_id: str | None = None
    text: str | None = None


class Message(BaseModel):
    """A message event of any subtype, or an app_mention."""

    channel: str
    ts: str
    channel_type: str | None = None
    subtype: str | None = None
    user: str | None = None
    bot_id: str | None = None
    text: str | None = None
    thread_ts: str | None = None
    deleted_ts: str | None = None
    message: Located = Located()
    previous_message: Located = Located()


class ReactedItem(BaseModel):
    """What a reaction was put on: a message, or a file without channel and ts."""

    channel: str | None = None
    ts: str | None = None


class Reaction(BaseModel):
    """reaction_added and reaction_removed."""

    user: str
    reaction: str
    item: ReactedItem = ReactedItem()
    item_user: str | None = None


class Member(BaseModel):
    """member_joined_channel."""

    user: str
    channel: str
    channel_type: str | None = None
    inviter: str | None = None


class AppHome(BaseModel):
    """app_home_opened."""

    user: str
    channel: str | None = None
    tab: str | None = None


class InnerEvent(BaseModel):
    """What every event has."""

    type: str
    subtype: str | None = None


class EventCallback(BaseModel):
    """The envelope of the Events API."""

    event_id: ProviderId
    event: InnerEvent
    team_id: str | None = None
    event_time: int | None = None


class Command(BaseModel):
    """A slash command, which comes as a form."""

    command: str
    text: str = ""
    user_id: str
    user_name: str | None = None
    channel_id: str | None = None
    channel_name: str | None = None
    team_id: str | None = None
    trigger_id: ProviderId
    response_url: str | None = None


class Option(BaseModel):
    """A choice in a menu."""

    value: str | None = None


class BlockAction(BaseModel):
    """One element that was used."""

    action_id: str | None = None
    block_id: str | None = None
    value: str | None = None
    selected_option: Option | None = None


class State(BaseModel):
    """What was put into a view."""

    values: dict[str, Any] = {}


class View(BaseModel):
    """A modal or Home tab."""

    id: str | None = None
    callback_id: str | None = None
    private_metadata: str | None = None
    state: State | None = None


class Other(BaseModel):
    """What every payload has that is not of the Events API and no command."""

    type: str
    team_id: str | None = None


class Interaction(BaseModel):
    """The envelope of everything interactive."""

    type: str
    trigger_id: ProviderId | None = None
    callback_id: str | None = None
    user: Named | None = None
    team: Named | None = None
    channel: Named | None = None
    message: Located | None = None
    actions: list[BlockAction] = []
    view: View | None = None
    response_url: str | None = None


# What events carry.


class _EventPayload(BaseModel):
    event_id: str = Field(description="Slack's id of the event, the same in every delivery of it")
    team_id: str | None = Field(description="Workspace")
    event_time: int | None = Field(description="When it was sent off, in Unix seconds")
    raw: dict[str, Any] = Field(description="The inner event as Slack sent it")


class MessagePayload(_EventPayload):
    """A message that was posted, edited or deleted, or that mentions the app."""

    channel: str = Field(description="Where it is; what post_message takes")
    channel_type: str | None = Field(description="channel, group, mpim, im or app_home")
    user: str | None = Field(description="Who wrote it; absent for some messages of bots")
    bot_id: str | None = Field(description="The bot that wrote it: skip your own, or it talks to itself")
    subtype: str | None = Field(description="Absent for plain messages; file_share, bot_message, ...")
    text: str | None = Field(description="The text as it is now, in mrkdwn; absent once deleted")
    previous_text: str | None = Field(description="The text before the edit or deletion")
    ts: str = Field(description="The message: what update_message and add_reaction take")
    thread_ts: str | None = Field(description="The message that begins the thread; answer with it")


class ReactionPayload(_EventPayload):
    """A reaction was added or removed."""

    user: str = Field(description="Who did it")
    reaction: str = Field(description="Name of the emoji without colons")
    channel: str | None = Field(description="Channel of the message")
    ts: str | None = Field(description="The message")
    item_user: str | None = Field(description="Who wrote the message")


class MemberPayload(_EventPayload):
    """A user or bot joined a channel."""

    user: str = Field(description="Who joined")
    channel: str = Field(description="Which channel")
    channel_type: str | None = Field(description="C for public, G for private channels")
    inviter: str | None = Field(description="Who invited them")


class AppHomePayload(_EventPayload):
    """A user opened the app's Home or Messages tab."""

    user: str = Field(description="Who opened it")
    channel: str | None = Field(description="Their direct messages with the app")
    tab: str | None = Field(description="home or messages")


class EventPayload(_EventPayload):
    """An event that has no event of its own here."""

    kind: str = Field(description="Slack's type of the event, such as channel_created")
    raw: dict[str, Any] = Field(
        description="The whole callback as Slack sent it, without its old verification token"
    )


class CommandPayload(BaseModel):
    """A slash command."""

    command: str = Field(description="The command with its slash")
    text: str = Field(description="What was written after it")
    user_id: str = Field(description="Who wrote it")
    user_name: str | None = Field(description="Their name; Slack advises to rely on user_id")
    channel_id: str | None = Field(description="Where it was written")
    channel_name: str | None = Field(description="Name of the channel")
    team_id: str | None = Field(description="Workspace")
    trigger_id: str = Field(description="What open_view takes, for 3 seconds")
    response_url: str | None = Field(description="What respond takes, 5 times within 30 minutes", repr=False)
    raw: dict[str, Any] = Field(description="The form as Slack sent it, without its old verification token")


class InteractionPayload(BaseModel):
    """Something in a message, modal or menu was used."""

    kind: str = Field(description="Slack's type, such as block_actions or message_action")
    team_id: str | None = Field(description="Workspace")
    user_id: str | None = Field(description="Who did it")
    user_name: str | None = Field(description="Their name")
    channel_id: str | None = Field(description="Where it happened; absent in modals")
    message_ts: str | None = Field(description="The message it happened in")
    callback_id: str | None = Field(description="The app's own name of the shortcut or view")
    action_id: str | None = Field(description="The app's own name of the (first) element that was used")
    block_id: str | None = Field(description="The block that the element is in")
    value: str | None = Field(description="The button's value, or that of the chosen option")
    view_id: str | None = Field(description="The modal or Home tab")
    private_metadata: str | None = Field(description="What the app left in the view")
    values: dict[str, Any] | None = Field(description="What was put into the view, by block and action")
    trigger_id: str | None = Field(description="What open_view takes, for 3 seconds")
    response_url: str | None = Field(description="What respond takes, 5 times within 30 minutes", repr=False)
    raw: dict[str, Any] = Field(
        description="The payload as Slack sent it, without its old verification token"
    )


class OtherPayload(BaseModel):
    """A payload that has no event of its own, such as app_rate_limited."""

    kind: str = Field(description="Slack's type of the payload")
    team_id: str | None = Field(description="Workspace")
    raw: dict[str, Any] = Field(
        description="The payload as Slack sent it, without its old verification token"
    )


# What actions take.

Channel = Annotated[str, Field(min_length=1, description="Id of the channel, or of a user to write to")]
Ts = Annotated[
    str,
    Field(
        pattern=r"^\d+\.\d+$",
        description="The message's ts, from an event or result",
        examples=["1503435956.000247"],
    ),
]
Blocks = Annotated[
    list[dict[str, Any]] | None, Field(description="Block Kit blocks; text is then the notification")
]


class _Input(BaseModel):
    """Unknown fields are refused: a mistyped option must not be lost silently."""

    model_config = ConfigDict(extra="forbid")


class _Message(_Input):
    text: str | None = Field(default=None, description="The text in mrkdwn, best below 4000 characters")
    blocks: Blocks = None
    attachments: list[dict[str, Any]] | None = Field(default=None, description="Legacy attachments")
    metadata: dict[str, Any] | None = Field(
        default=None, description="event_type and event_payload; every app in the workspace can read it"
    )
    markdown_text: str | None = Field(
        default=None, description="Markdown up to 12,000 characters, instead of text and blocks"
    )

    @model_validator(mode="after")
    def _says_something(self) -> "_Message":
        if not (self.text or self.blocks or self.attachments or self.markdown_text):
            raise ValueError("give text, blocks, attachments or markdown_text")
        return self


class PostMessage(_Message):
    """A message to a channel, thread or person."""

    channel: Channel
    thread_ts: str | None = Field(default=None, description="The message that begins the thread to answer in")
    reply_broadcast: bool | None = Field(default=None, description="Show the answer in the channel too")
    unfurl_links: bool | None = Field(default=None, description="Preview links to text")
    unfurl_media: bool | None = Field(default=None, description="Preview links to media")
    link_names: bool | None = Field(default=None, description="Find and link user groups")
    parse: Literal["full", "none"] | None = Field(default=None, description="How names and links are found")
    mrkdwn: bool | None = Field(default=None, description="False leaves markup unformatted")
    username: str | None = Field(default=None, description="Another name; needs chat:write.customize")
    icon_emoji: str | None = Field(default=None, description="Another picture, as :emoji:; the same scope")
    icon_url: str | None = Field(default=None, description="Another picture, by URL; the same scope")


class UpdateMessage(_Message):
    """New content for one of the app's own messages; what is not given is kept or taken away as
    chat.update documents."""

    channel: Channel
    ts: Ts
    reply_broadcast: bool | None = Field(default=None, description="Show the answer in the channel too")


class DeleteMessage(_Input):
    """One of the app's own messages."""

    channel: Channel
    ts: Ts


class AddReaction(_Input):
    """An emoji on a message."""

    channel: Channel
    timestamp: Ts
    name: str = Field(min_length=1, description="Name of the emoji without colons, such as thumbsup")


class UploadFile(_Input):
    """A file, shared in a channel or kept private."""

    file: FileUpload = Field(description="Name and content")
    channel_id: str | None = Field(default=None, description="Where to share it; private if not set")
    thread_ts: str | None = Field(default=None, description="The message that begins the thread to share in")
    initial_comment: str | None = Field(default=None, description="The message that introduces it")
    title: str | None = Field(default=None, description="Shown instead of the name")
    alt_txt: str | None = Field(default=None, description="What a picture shows, for screen readers")
    snippet_type: str | None = Field(default=None, description="Syntax of a snippet, such as python")


class Respond(_Input):
    """An answer to a command or interaction, without a token and without being in the channel."""

    response_url: str = Field(
        min_length=1,
        repr=False,
        description="From the event, valid for 30 minutes",
        examples=["https://hooks.slack.com/commands/T0123/456/abc"],
    )
    text: str | None = Field(default=None, description="The text in mrkdwn")
    blocks: Blocks = None
    attachments: list[dict[str, Any]] | None = Field(default=None, description="Legacy attachments")
    response_type: Literal["ephemeral", "in_channel"] | None = Field(
        default=None, description="Only the user sees it (Slack's default), or everybody"
    )
    replace_original: bool | None = Field(default=None, description="Replace the message it answers")
    delete_original: bool | None = Field(default=None, description="Delete the message it answers")
    thread_ts: str | None = Field(default=None, description="The message that begins the thread to answer in")

    @model_validator(mode="after")
    def _does_something(self) -> "Respond":
        if not (self.text or self.blocks or self.attachments or self.delete_original):
            raise ValueError("give text, blocks, attachments or delete_original")
        return self


class OpenView(_Input):
    """A modal for the user who did something."""

    trigger_id: str = Field(min_length=1, description="From an event that is not older than 3 seconds")
    view: dict[str, Any] = Field(description="The view: type modal, title, blocks, callback_id, ...")


# What actions return.


class PostedMessage(BaseModel):
    """The message as it stands."""

    channel: str = Field(description="Where it is; for a person, their direct messages")
    ts: str = Field(description="The message in that channel")
    message: dict[str, Any] | None = Field(default=None, description="The message as Slack keeps it")


class DeletedMessage(BaseModel):
    """What became of a deletion."""

    deleted: bool = Field(
        description="False if there was no such message: deleted before, perhaps by an earlier try, or never"
    )


class AddedReaction(BaseModel):
    """What became of a reaction."""

    added: bool = Field(description="False if it was there already, perhaps by an earlier try")


class UploadedFile(BaseModel):
    """The file as Slack knows it."""

    file_id: str = Field(description="Id of the file")
    files: list[dict[str, Any]] = Field(description="The files that were shared, as Slack returned them")


class Done(BaseModel):
    """Slack said yes."""

    ok: bool = Field(description="Always true; a refusal is an error")


class OpenedView(BaseModel):
    """The modal that was opened."""

    view_id: str = Field(description="Id of the view")
    view: dict[str, Any] = Field(description="The view as Slack returned it")
