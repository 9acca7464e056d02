"""Email: declarations, polling, the event of a message, action handlers."""

import hashlib
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.integrations.base import BaseIntegration, call
from app.integrations.errors import Refused, Rejected
from app.integrations.http import ConnectorHttp, current_attempt
from app.integrations.inbound import validated
from app.integrations.models import Event
from app.integrations.requests import WebhookRequest
from app.integrations.specs import ActionSpec, EventSpec, PollSpec, SecretSpec

from . import mime, schemas
from .schemas import EmailSettings


@dataclass(frozen=True)
class NobodySends:
    """Refuses every webhook: messages are fetched, and what comes to the URL is a forgery."""

    secret_names: frozenset[str] = frozenset()
    credential_headers: frozenset[str] = frozenset()

    def verify(self, request: WebhookRequest, secrets: Mapping[str, Any], now: float) -> None:
        raise Refused("no_webhooks", "Email takes no webhooks: messages are fetched from imap_host.")


class EmailConnector(BaseIntegration):
    """A mailbox: messages are sent by SMTP and fetched by IMAP. Either half may be left out."""

    name = "Email"
    key = "email"
    secrets = [
        SecretSpec(
            "password",
            "Password at both servers, often an app password; unless one of its own is set",
            required=False,
        ),
        SecretSpec("smtp_password", "Password at smtp_host, if it is another", required=False),
        SecretSpec("imap_password", "Password at imap_host, if it is another", required=False),
    ]
    settings_model = EmailSettings
    verification = NobodySends()
    # The pause is short because a poll waits by itself, for the server's word or for poll_every.
    polls = [PollSpec(name="messages", every=0.5, handler="poll_messages", deadline=240.0)]
    events = [
        # The id is made of the content, see mime.identity: nothing else has to be looked at.
        EventSpec(
            "email.message.received",
            "A message appeared in a watched folder",
            schemas.MessageReceived,
            unique_id=True,
        ),
    ]
    # SMTP has nothing that makes a repetition harmless, and nobody to ask what became of a message.
    actions = [
        ActionSpec("send_email", "Send a message", schemas.SendEmail, "send_email", result=schemas.SentEmail),
        ActionSpec(
            "reply_to_email",
            "Answer a message, in its conversation",
            schemas.ReplyToEmail,
            "reply_to_email",
            result=schemas.SentEmail,
        ),
    ]

    def __init__(
        self,
        settings: EmailSettings,
        http: ConnectorHttp,
        password: str | None = None,
        smtp_password: str | None = None,
        imap_password: str | None = None,
    ) -> None:
        # Imported when there is a connection: the libraries for IMAP and SMTP are not for every start.
        from .imap import MailReader
        from .smtp import MailSender

        self.settings = settings
        self.sender = MailSender(settings, smtp_password or password or "", http)
        self.reader = MailReader(settings, imap_password or password or "", http)

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        """Makes the event of a fetched message, whatever it looks like. Raises InvalidBody if it is none."""
        item = validated(schemas.FetchedMessage, payload, "fetched_message")
        # In a thread: a large message takes a moment.
        received, external_id = await call(mime.read_message, item, self.settings)
        return Event(
            type="email.message.received",
            external_id=external_id,
            payload=received.model_dump(by_alias=True),
        )

    # How messages arrive.

    def poll_enabled(self, poll: PollSpec, public_url: str | None) -> bool:
        return self.settings.imap_host is not None

    async def poll_messages(self, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
        return await self.reader.poll(cursor)

    async def check(self) -> None:
        if self.settings.smtp_host is not None:
            await self.sender.check()
        if self.settings.imap_host is not None:
            await self.reader.check()

    async def aclose(self) -> None:
        self.reader.close()

    # Actions.

    async def send_email(self, data: schemas.SendEmail) -> schemas.SentEmail:
        return await self._send(data, data.subject, {})

    async def reply_to_email(self, data: schemas.ReplyToEmail) -> schemas.SentEmail:
        subject = data.subject if re.match(r"re\s*:", data.subject, re.IGNORECASE) else f"Re: {data.subject}"
        return await self._send(data, subject.strip(), mime.threading(data))

    async def _send(
        self, data: schemas.SendEmail | schemas.ReplyToEmail, subject: str, threading: dict[str, str]
    ) -> schemas.SentEmail:
        if self.settings.from_address is None or self.settings.smtp_host is None:
            raise Rejected("This connection only receives: set smtp_host and from_address to send.")
        message_id = _message_id(self.settings.from_address)
        content = await call(
            mime.compose, data, self.settings.from_address, subject, message_id, datetime.now(UTC), threading
        )
        return await self.sender.send(content, message_id)


def _message_id(from_address: str) -> str:
    """The same in every attempt of one action, so that whoever gets a message twice can tell."""
    attempt = current_attempt.get()
    key = attempt.key if attempt is not None and attempt.key else uuid.uuid4().hex
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", key):
        key = hashlib.sha256(key.encode()).hexdigest()
    return f"<{key}@{schemas.split_mailbox(from_address)[1].rpartition('@')[2]}>"
