"""Messages go to a real SMTP server, which refuses and breaks at every stage."""

import asyncio
import base64
import email
import email.policy
from email.message import EmailMessage
from typing import Any, Literal

import pytest
from conftest import PASSWORD, USER, Certificate, SmtpServer, free_port, smtp_server, talking
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from app.integrations.connectors.email import EmailConnector
from app.integrations.connectors.email import smtp as smtp_module
from app.integrations.connectors.email.schemas import EmailSettings, SendEmail, split_mailbox
from app.integrations.errors import (
    AuthenticationFailed,
    InvalidActionPayload,
    NotSent,
    ProviderError,
    RateLimited,
    Rejected,
    Unavailable,
)
from app.integrations.http import AttemptTrace, ConnectorHttp, current_attempt
from app.integrations.models import Action

PAYLOAD = {"to": ["Bob <bob@example.net>"], "subject": "Lunch", "text": "At noon?"}


def sender(server: SmtpServer | int, password: str = PASSWORD, **more: Any) -> EmailConnector:
    given = {
        "smtp_host": "127.0.0.1",
        "smtp_port": server if isinstance(server, int) else server.port,
        "smtp_security": "none",
        "from_address": "Ann <ann@example.com>",
    }
    return EmailConnector(
        settings=EmailSettings(**{**given, **more}), http=ConnectorHttp(redact=[password]), password=password
    )


async def act(
    connector: EmailConnector, kind: str = "send_email", **payload: Any
) -> tuple[Any, AttemptTrace]:
    """The result, or the error, of an attempt like the platform's, and what the attempt says of itself."""
    trace = AttemptTrace(key="act_01")
    token = current_attempt.set(trace)
    try:
        return await connector.execute(Action(type=kind, payload={**PAYLOAD, **payload})), trace
    except ProviderError as error:
        return error, trace
    finally:
        current_attempt.reset(token)


def read_as(message: EmailMessage, kind: Literal["plain", "html"]) -> str:
    body = message.get_body((kind,))
    assert body is not None
    return str(body.get_content()).replace("\r\n", "\n")


def parsed(content: bytes) -> EmailMessage:
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


async def test_a_message_arrives_as_it_was_given(smtp: SmtpServer) -> None:
    result, trace = await act(
        sender(smtp),
        to=["Bob <bob@example.net>", "bob@example.net", '"Doe, Jane" <jane@example.net>'],
        cc=["Zoë Ü <zoe@bücher.example>"],
        bcc=["secret@example.org"],
        reply_to=["desk@example.com"],
        subject="Kündigung 你好 " + "sehr lang " * 20,
        text=".\nÄ dot and a long line " + "x" * 2000,
        html="<p>Hello</p>",
        attachments=[
            {"filename": "Übersicht.csv", "content_base64": base64.b64encode(b"a,b\n").decode()},
            {"filename": "old.eml", "content_base64": "eA==", "content_type": "message/rfc822"},
        ],
        headers={"X-Ticket": "4711 ü"},
    )
    (taken,) = smtp.taken
    assert taken.sender == "ann@example.com"
    recipients = ["bob@example.net", "jane@example.net", "zoe@xn--bcher-kva.example", "secret@example.org"]
    assert taken.recipients == result.accepted == recipients
    assert (result.message_id, result.refused) == ("<act_01@example.com>", [])
    assert "queued as 4711" in result.response
    assert trace.begun
    message = parsed(taken.content)
    assert message["subject"] == "Kündigung 你好 " + "sehr lang " * 20
    assert [(one.display_name, one.addr_spec) for one in message["to"].addresses] == [
        ("Bob", "bob@example.net"), ("", "bob@example.net"), ("Doe, Jane", "jane@example.net"),
    ]  # fmt: skip
    assert message["cc"].addresses[0].display_name == "Zoë Ü"
    assert (message["message-id"], message["x-ticket"]) == (result.message_id, "4711 ü")
    assert message["date"].datetime.tzinfo is not None
    assert b"secret@example.org" not in taken.content
    assert read_as(message, "plain") == ".\nÄ dot and a long line " + "x" * 2000 + "\n"
    assert read_as(message, "html") == "<p>Hello</p>\n"
    files = [
        (one.get_filename(), one.get_content_type(), one.get_payload(decode=True))
        for one in message.iter_attachments()
    ]
    assert files == [("Übersicht.csv", "text/csv", b"a,b\n"), ("old.eml", "application/octet-stream", b"x")]
    assert taken.content.isascii()
    assert max(map(len, taken.content.split(b"\r\n"))) <= 998
    assert b"\n" not in taken.content.replace(b"\r\n", b"")


async def test_the_message_id_is_the_same_in_every_attempt_of_an_action(smtp: SmtpServer) -> None:
    first, _ = await act(sender(smtp))
    second, _ = await act(sender(smtp))
    alone = await sender(smtp).send_email(SendEmail(**PAYLOAD))
    assert first.message_id == second.message_id != alone.message_id


async def test_an_answer_is_in_its_conversation(smtp: SmtpServer) -> None:
    long = f"<{'x' * 120}@example.net>"
    await act(
        sender(smtp), "reply_to_email", message_id="<3@example.net>", references=["<1@example.net>", long],
        in_reply_to="<ignored@example.net>",
    )  # fmt: skip
    await act(
        sender(smtp),
        "reply_to_email",
        message_id="<2@example.net>",
        in_reply_to="<1@example.net>",
        subject="RE: Lunch",
    )
    await act(sender(smtp), "reply_to_email", message_id="<1@example.net>", subject="")
    first, second, third = (email.message_from_bytes(taken.content) for taken in smtp.taken)
    assert first["In-Reply-To"] == "<3@example.net>"
    assert (first["References"] or "").split() == ["<1@example.net>", long, "<3@example.net>"]
    assert (second["References"] or "").split() == ["<1@example.net>", "<2@example.net>"]
    assert [message["Subject"] for message in (first, second, third)] == ["Re: Lunch", "RE: Lunch", "Re:"]
    assert third["References"] == "<1@example.net>"


# Nothing of a payload becomes another header, recipient or command.

_EVIL = ["a\r\nBcc: eve@example.org", "a\nb", "a\rb", "a\x00b", "a\x0bb", "a\u2028b", "a\x85b"]


@pytest.mark.parametrize("evil", _EVIL)
@pytest.mark.parametrize(
    "where",
    [
        lambda evil: {"subject": evil},
        lambda evil: {"to": [f"{evil} <bob@example.net>"]},
        lambda evil: {"cc": [f"bob@example.net{evil}"]},
        lambda evil: {"headers": {"X-Ticket": evil}},
        lambda evil: {"headers": {evil: "x"}},
    ],
)
async def test_a_line_end_in_a_header_is_refused(evil: str, where: Any) -> None:
    with pytest.raises(InvalidActionPayload):
        await sender(9).execute(Action(type="send_email", payload={**PAYLOAD, **where(evil)}))


@pytest.mark.parametrize(
    "address",
    ["", "bob", "bob@", "@example.net", "a@b@c", "bob@example.net, eve@example.org",
     "<bob@example.net> SIZE=1",
     "bob @example.net", "bob@exa mple.net", "bob@faß.de", "bob@example.net>",
     "Bob <bob@example.net> x", "a@[127.0.0.1]"],
)  # fmt: skip
def test_what_is_not_one_address_is_refused(address: str) -> None:
    with pytest.raises(ValidationError):
        SendEmail(to=[address], text="x")


@pytest.mark.parametrize(
    "name",
    [
        "From",
        "to",
        "BCC",
        "Subject",
        "Message-ID",
        "Content-Type",
        "MIME-Version",
        "Resent-To",
        "Received",
        "References",
    ],
)
def test_headers_that_are_made_of_other_fields_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="not yours to set"):
        SendEmail(to=["bob@example.net"], text="x", headers={name: "x"})


def test_a_message_needs_some_content() -> None:
    with pytest.raises(ValidationError, match="text, html or attachments"):
        SendEmail(to=["bob@example.net"])


HEADER_TEXT = st.text(max_size=150).filter(lambda text: len(text.splitlines()) < 2)


@given(
    subject=st.text(max_size=150),
    name=st.text(max_size=80),
    text=st.text(max_size=200),
    extra=st.text(max_size=150),
)
@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_any_texts_make_one_message_with_the_headers_that_were_meant(
    subject: str, name: str, text: str, extra: str
) -> None:
    from datetime import UTC, datetime

    from app.integrations.connectors.email import mime

    try:
        data = SendEmail(
            to=[f"{name} <bob@example.net>"], subject=subject, text=text, headers={"X-Extra": extra}
        )
    except ValidationError:
        return
    made = mime.compose(data, "ann@example.com", data.subject, "<1@example.com>", datetime.now(UTC), {})
    head, _, _ = made.content.partition(b"\r\n\r\n")
    names = [line.partition(b":")[0] for line in head.split(b"\r\n") if not line.startswith((b" ", b"\t"))]
    assert names == [
        b"From", b"To", b"Subject", b"Date", b"Message-ID", b"X-Extra",
        b"Content-Type", b"Content-Transfer-Encoding", b"MIME-Version",
    ]  # fmt: skip
    assert made.recipients == ("bob@example.net",)
    got = mime._decoded(email.message_from_bytes(made.content)["Subject"] or "")
    assert " ".join(got.split()) == " ".join(subject.split())


# Addresses beyond ASCII.


def test_a_domain_goes_out_as_dns_has_it() -> None:
    assert split_mailbox("Zoë <zoe@bücher.example>") == ("Zoë", "zoe@xn--bcher-kva.example")


async def test_an_address_that_needs_smtputf8_is_sent_where_the_server_has_it(smtp: SmtpServer) -> None:
    result, _ = await act(sender(smtp), to=["Zoë <zoë@example.net>"])
    assert result.accepted == ["zoë@example.net"]
    assert "SMTPUTF8" in smtp.taken[0].options
    assert "<zoë@example.net>".encode() in smtp.taken[0].content


async def test_and_nothing_is_sent_where_it_has_not() -> None:
    async with smtp_server(enable_SMTPUTF8=False) as server:
        error, trace = await act(sender(server), to=["zoë@example.net"])
    assert isinstance(error, Rejected)
    assert "SMTPUTF8" in str(error)
    assert (server.taken, trace.begun) == ([], False)


# What became of it, at every stage.


@pytest.mark.parametrize(
    ("stage", "reply", "kind", "begun"),
    [
        ("mail", "550 5.7.1 not you", Rejected, False),
        ("mail", "530 5.7.0 authentication required", Rejected, False),
        ("mail", "451 4.3.0 later", RateLimited, False),
        ("mail", "421 4.3.2 closing", NotSent, False),
        ("rcpt", "550 5.1.1 nobody here", Rejected, False),
        ("rcpt", "450 4.7.1 greylisted", RateLimited, False),
        ("content", "554 5.6.0 spam", Rejected, False),
        ("content", "452 4.3.1 full", RateLimited, False),
        ("content", "421 4.3.2 closing", RateLimited, False),
        ("content", "354 what", Unavailable, True),
    ],
)
async def test_a_refusal_says_whether_to_try_again(
    smtp: SmtpServer, stage: str, reply: str, kind: type[ProviderError], begun: bool
) -> None:
    smtp.replies[stage] = reply
    error, trace = await act(sender(smtp))
    assert type(error) is kind
    assert reply.split(" ", 2)[-1] in str(error)
    assert trace.begun is begun
    assert (error.retry_after == 60.0) is (kind is RateLimited)
    assert smtp.taken == []


async def test_some_recipients_refused_is_told_and_the_others_get_it(smtp: SmtpServer) -> None:
    smtp.replies["rcpt gone@example.net"] = "550 5.1.1 no such user"
    result, _ = await act(sender(smtp), to=["gone@example.net"], cc=["bob@example.net"])
    assert result.accepted == smtp.taken[0].recipients == ["bob@example.net"]
    (refused,) = result.refused
    assert (refused.address, refused.code, refused.message) == ("gone@example.net", 550, "5.1.1 no such user")


async def test_where_all_are_refused_one_that_may_be_taken_later_decides(smtp: SmtpServer) -> None:
    smtp.replies |= {"rcpt a@example.net": "550 no", "rcpt b@example.net": "450 later"}
    error, _ = await act(sender(smtp), to=["a@example.net", "b@example.net"])
    assert isinstance(error, RateLimited)


async def test_a_connection_cut_amid_the_message_was_not_sent(smtp: SmtpServer) -> None:
    smtp.cut_after = "data"
    error, trace = await act(sender(smtp), text=("x" * 70 + "\n") * 100_000)
    assert isinstance(error, NotSent)
    assert trace.begun is False


async def test_a_connection_cut_after_the_dot_is_unknown(smtp: SmtpServer) -> None:
    smtp.cut_after = "dot"
    error, trace = await act(sender(smtp))
    assert isinstance(error, Unavailable)
    assert "Message-ID" in str(error)
    assert trace.begun is True
    assert len(smtp.taken) == 1  # and indeed it was


async def test_an_answer_to_the_dot_that_never_comes_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp_module, "AFTER_SECONDS", 0.2)
    async with talking(_taking_all(after_dot=None)) as port:
        error, trace = await act(sender(port))
    assert isinstance(error, Unavailable)
    assert trace.begun is True


async def test_the_attempt_has_begun_when_the_dot_is_written_and_not_before() -> None:
    seen: dict[str, bool] = {}
    trace = AttemptTrace(key="act_01")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.test\r\n")
        while line := await reader.readline():
            if line == b"DATA\r\n":
                seen["at DATA"] = trace.begun
                writer.write(b"354 go\r\n")
                while await reader.readline() not in (b"The end.\r\n", b""):
                    pass
                seen["amid the message"] = trace.begun
                while await reader.readline() not in (b".\r\n", b""):
                    pass
                seen["at the dot"] = trace.begun
            writer.write(b"250 ok\r\n")

    token = current_attempt.set(trace)
    try:
        async with talking(serve) as port:
            # Larger than what sockets hold, so that the server has read most of it before the dot.
            payload = {**PAYLOAD, "text": "The end.\n" + "x" * 70 + "\n" + ("y" * 70 + "\n") * 200_000}
            await sender(port).execute(Action(type="send_email", payload=payload))
    finally:
        current_attempt.reset(token)
    assert seen == {"at DATA": False, "amid the message": False, "at the dot": True}


# Not even there.


async def test_a_server_that_is_not_there_was_sent_nothing() -> None:
    error, trace = await act(sender(free_port()))
    assert isinstance(error, NotSent)
    assert trace.begun is False


@pytest.mark.parametrize(
    "greeting",
    [b"554 go away\r\n", b"421 busy\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"\xff\xfe\r\n"],
)
async def test_a_greeting_that_is_none_was_sent_nothing(greeting: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)

    async with talking(serve) as port:
        error, trace = await act(sender(port))
    assert isinstance(error, NotSent)
    assert trace.begun is False


async def test_a_server_without_a_word_was_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with talking(serve) as port:
        monkeypatch.setattr(smtp_module, "REPLY_SECONDS", 0.2)
        error, _ = await act(sender(port))
        assert isinstance(error, NotSent)
        monkeypatch.setattr(smtp_module, "REPLY_SECONDS", 20.0)
        monkeypatch.setattr(smtp_module, "BEFORE_SECONDS", 0.2)
        error, _ = await act(sender(port))
        assert isinstance(error, NotSent)
        with pytest.raises(NotSent):
            await sender(port).check()


async def test_a_cancelled_attempt_ends_at_once() -> None:
    hung = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.test\r\n")
        await reader.readline()
        hung.set()
        await reader.read()

    async with talking(serve) as port:
        task = asyncio.create_task(sender(port).send_email(SendEmail(**PAYLOAD)))
        await hung.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 2)


async def test_a_connection_that_only_receives_says_so() -> None:
    connector = EmailConnector(
        settings=EmailSettings(imap_host="imap.example.com", username="a"), http=ConnectorHttp()
    )
    error, _ = await act(connector)
    assert isinstance(error, Rejected)
    assert "smtp_host" in str(error)


# Encryption and login.


async def test_tls_and_login(certificate: Certificate) -> None:
    async with smtp_server(implicit_tls=certificate.context, auth_require_tls=False) as server:
        connector = sender(server, smtp_security="tls", username=USER, ca_certificates=certificate.pem)
        await connector.check()
        result, _ = await act(connector)
    assert result.accepted == ["bob@example.net"]
    assert server.logins == [("PLAIN", USER, PASSWORD)] * 2


async def test_starttls_and_login(certificate: Certificate) -> None:
    async with smtp_server(tls_context=certificate.context, require_starttls=True) as server:
        connector = sender(server, smtp_security="starttls", username=USER, ca_certificates=certificate.pem)
        await connector.check()
        result, _ = await act(connector)
    assert result.accepted == ["bob@example.net"]


@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_a_certificate_that_nobody_vouches_for_ends_it_before_the_password(
    certificate: Certificate, security: str
) -> None:
    tls: dict[str, Any] = (
        {"implicit_tls": certificate.context} if security == "tls" else {"tls_context": certificate.context}
    )
    async with smtp_server(**tls) as server:
        error, _ = await act(sender(server, smtp_security=security, username=USER))
    assert isinstance(error, NotSent)
    assert "ca_certificates" in str(error)
    assert (server.logins, server.taken) == ([], [])


async def test_starttls_that_is_not_offered_is_not_done_without(smtp: SmtpServer) -> None:
    error, _ = await act(sender(smtp, smtp_security="starttls", username=USER))
    assert isinstance(error, NotSent)
    assert smtp.logins == []


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("535 5.7.8 Error: authentication failed", AuthenticationFailed),
        ("454 4.7.0 Temporary authentication failure", NotSent),
        ("534 5.7.9 mechanism too weak", Rejected),
        ("500 5.5.2 what", Rejected),
        ("421 4.3.2 closing", NotSent),
    ],
)
async def test_only_a_refused_password_is_reported_as_one(
    certificate: Certificate, reply: str, kind: type[ProviderError]
) -> None:
    async with smtp_server(implicit_tls=certificate.context, auth_require_tls=False) as server:
        server.replies["auth"] = reply
        connector = sender(server, smtp_security="tls", username=USER, ca_certificates=certificate.pem)
        with pytest.raises(kind) as caught:
            await connector.check()
        error, trace = await act(connector)
    assert type(caught.value) is type(error) is kind
    assert trace.begun is False
    assert len(server.logins) == 2  # one try each


async def test_a_wrong_password(certificate: Certificate) -> None:
    async with smtp_server(implicit_tls=certificate.context, auth_require_tls=False) as server:
        connector = sender(
            server, "wrong-password", smtp_security="tls", username=USER, ca_certificates=certificate.pem
        )
        with pytest.raises(AuthenticationFailed) as caught:
            await connector.check()
    assert "wrong-password" not in str(caught.value)


async def test_a_password_that_a_server_quotes_is_not_in_the_error(smtp: SmtpServer) -> None:
    quoted = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
    smtp.replies["mail"] = f"550 you said {PASSWORD} and {quoted}"
    error, _ = await act(sender(smtp))
    assert PASSWORD not in str(error)
    connector = sender(smtp, username=USER, allow_cleartext_login=True)
    smtp._options["auth_require_tls"] = False
    error, _ = await act(connector)
    assert PASSWORD not in str(error)
    assert quoted not in str(error)


async def test_a_missing_password_is_said(smtp: SmtpServer) -> None:
    error, _ = await act(sender(smtp, "", username=USER, allow_cleartext_login=True))
    assert isinstance(error, AuthenticationFailed)
    assert "smtp_password" in str(error)


async def test_a_server_without_login_can_be_used_with_an_empty_username(smtp: SmtpServer) -> None:
    result, _ = await act(sender(smtp, username=USER, smtp_username=""))
    assert result.accepted == ["bob@example.net"]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"smtp_host": "mail.example.com"},
        {"imap_host": "mail.example.com"},
        {"imap_host": "mail.example.com", "username": "a", "imap_security": "none"},
        {"smtp_host": "m", "from_address": "a@b.example", "username": "a", "smtp_security": "none"},
        {"smtp_host": "m", "from_address": "a@b.example", "ca_certificates": "none"},
        {"smtp_host": "m", "from_address": "a@b.example\r\nBcc: c@d.example"},
        {"smtp_host": "m x", "from_address": "a@b.example"},
        {"smtp_host": "m", "from_address": "a@b.example", "helo_name": "a b"},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EmailSettings(**wrong)


def _taking_all(after_dot: bytes | None) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.test\r\n")
        while line := await reader.readline():
            if line != b"DATA\r\n":
                writer.write(b"250 ok\r\n")
                continue
            writer.write(b"354 go\r\n")
            while await reader.readline() not in (b".\r\n", b""):
                pass
            if after_dot is None:
                await reader.read()
                return
            writer.write(after_dot)

    return serve
