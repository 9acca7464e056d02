"""Messages of all kinds become events: whatever strangers and decades of software have made of them."""

import base64
import time
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.integrations.connectors.email.mime import read_message
from app.integrations.connectors.email.schemas import (
    EmailSettings,
    FetchedMessage,
    MessageReceived,
    ReceivedAttachment,
)
from app.integrations.files import FileUpload


def item(raw: bytes, **more: Any) -> FetchedMessage:
    content = base64.b64encode(raw).decode()
    numbers = {"folder": "INBOX", "uidvalidity": 1, "uid": 2, "size": len(raw), "content_base64": content}
    return FetchedMessage(**{**numbers, **more})


def configured(**more: Any) -> EmailSettings:
    return EmailSettings(imap_host="imap.example.com", username="ann", **more)


def read(raw: bytes, **more: Any) -> MessageReceived:
    return read_message(item(raw), configured(**more))[0]


def identity(raw: bytes, **more: Any) -> str:
    return read_message(item(raw, **more), configured())[1]


def test_a_plain_message() -> None:
    got = read(
        b"From: Bob <bob@example.net>\r\nTo: Ann <ann@example.com>, carl@example.com\r\n"
        b"Cc: dora@example.com\r\n"
        b"Reply-To: desk@example.net\r\nSubject: Lunch\r\nDate: Fri, 20 Nov 2026 09:15:28 +0100\r\n"
        b"Message-ID: <1@example.net>\r\nIn-Reply-To: <0@example.com>\r\n"
        b"References: <a@example.com>\r\n\t<0@example.com>\r\n\r\nAt noon?\r\n"
    )
    assert got.from_ is not None
    assert (got.from_.name, got.from_.address) == ("Bob", "bob@example.net")
    assert [(one.name, one.address) for one in got.to] == [
        ("Ann", "ann@example.com"),
        ("", "carl@example.com"),
    ]
    assert [one.address for one in got.cc + got.reply_to] == ["dora@example.com", "desk@example.net"]
    assert (got.subject, got.date, got.message_id) == (
        "Lunch",
        "2026-11-20T09:15:28+01:00",
        "<1@example.net>",
    )
    assert (got.in_reply_to, got.references) == ("<0@example.com>", ["<a@example.com>", "<0@example.com>"])
    assert (got.text, got.html, got.attachments, got.notes) == ("At noon?\n", None, [], [])


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (b"=?utf-8?b?S8O8bmRpZ3VuZw==?=", "Kündigung"),
        (b"=?utf-8?q?caf=C3=A9_au_lait?=", "café au lait"),
        (b"Re: =?iso-8859-1?Q?Gr=FC=DFe?= von Bob", "Re: Grüße von Bob"),
        (b"=?utf-8?q?one?=\r\n =?utf-8?q?_two?=", "one two"),
        # A character cut in two between encoded words, as much software does.
        (b"=?utf-8?b?w7w=?= =?utf-8?q?=C3?= =?utf-8?q?=A4?=", "üä"),
        (b"=?utf-8*de?q?Gr=C3=BC=C3=9Fe?=", "Grüße"),  # RFC 2231, 5
        (b"=?gb2312?b?xOO6ww==?=", "你好"),
        (b"=?gb2312?b?xOO6wwA?=", "你好\ufffd"),
        (b"=?koi8-r?b?8NLJ18XU?=", "Привет"),
        ("raw ütf-8".encode(), "raw ütf-8"),
        (b"raw latin \xfc", "raw latin ü"),
        (b"=?no-such-charset?q?=C3=A9?=", "é"),
        (b"=?utf-8?b?not base64!?=", "=?utf-8?b?not base64!?="),
        (b"=?utf-8?b?!!!?= x", "=?utf-8?b?!!!?= x"),
        (b"=?", "=?"),
        (b"a\r\n b\r\n\tc", "a b c"),
        (b"", ""),
    ],
)
def test_headers_are_decoded_whatever_they_claim_to_be(header: bytes, text: str) -> None:
    got = read(b"Subject: " + header + b"\r\n\r\n").subject
    assert got == text


def test_a_comma_in_an_encoded_name_separates_nothing() -> None:
    got = read(b"To: =?utf-8?q?Doe=2C_J=C3=A9?= <doe@example.com>, Zed <zed@example.com>\r\n\r\n")
    assert [(one.name, one.address) for one in got.to] == [
        ("Doe, Jé", "doe@example.com"),
        ("Zed", "zed@example.com"),
    ]


@pytest.mark.parametrize(
    ("charset", "raw", "text"),
    [
        ("utf-8", "ü".encode(), "ü"),
        ("iso-8859-1", b"\x80 \xfc", "€ ü"),  # what is called so is Windows' own
        ("us-ascii", "ü".encode(), "ü"),
        ("x-unknown", b"\xfc", "ü"),
        ("iso-2022-jp", "日本".encode("iso-2022-jp"), "日本"),
        ("utf-8", b"\xff\xfe", "ÿþ"),
        ("utf-8", "cut in ü: ä".encode()[:-1], "cut in ü: \ufffd"),
        ("unicode_escape", b"\\u0041", "\\u0041"),
        ("idna", b"xn--a", "xn--a"),
        ("undefined", b"x", "x"),
        ("zlib", b"x", "x"),
    ],
)
def test_texts_are_decoded_whatever_they_claim_to_be(charset: str, raw: bytes, text: str) -> None:
    head = f"Content-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    assert read(head.encode() + raw).text == text


def test_attachments_have_the_fields_that_sending_takes() -> None:
    message = EmailMessage()
    message.set_content("See the files.")
    message.add_alternative("<p>See the files.</p>", subtype="html")
    message.add_attachment(b"\x00\x01\xff", maintype="application", subtype="pdf", filename="Kündigung.pdf")
    message.add_attachment(
        b"x", maintype="image", subtype="png", cid="<logo@example.com>", disposition="inline"
    )
    got = read(message.as_bytes())
    assert (got.text, got.html) == ("See the files.\n", "<p>See the files.</p>\n")
    pdf, png = got.attachments
    assert (pdf.filename, pdf.content_type, pdf.size) == ("Kündigung.pdf", "application/pdf", 3)
    assert base64.b64decode(pdf.content_base64 or "") == b"\x00\x01\xff"
    assert (png.filename, png.inline, png.content_id) == ("attachment-2.png", True, "logo@example.com")
    for file in got.attachments:
        FileUpload(**file.model_dump(include=set(FileUpload.model_fields)))


def test_texts_around_an_image_are_one_text() -> None:
    got = read(
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nbefore\r\n"
        b"--b\r\nContent-Type: image/png\r\n\r\n"
        b"x\r\n--b\r\nContent-Type: text/plain\r\n\r\nafter\r\n--b--\r\n"
    )
    assert got.text == "before\nafter"
    assert [one.filename for one in got.attachments] == ["attachment-1.png"]


def test_a_message_inside_is_a_file_and_its_text_is_not_the_outer_ones() -> None:
    got = read(
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nouter\r\n"
        b"--b\r\nContent-Type: message/rfc822\r\n"
        b"\r\nSubject: Inner\r\n\r\ninner\r\n--b--\r\n"
    )
    (file,) = got.attachments
    assert (got.text, file.content_type, file.filename) == ("outer", "message/rfc822", "attachment-1.eml")
    assert base64.b64decode(file.content_base64 or "") == b"Subject: Inner\r\n\r\ninner"


def test_a_delivery_report_is_kept_as_files() -> None:
    got = read(
        b"Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n"
        b"--b\r\n\r\nIt failed.\r\n"
        b"--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example.net\r\n\r\n"
        b"Final-Recipient: rfc822; x@example.net\r\nStatus: 5.1.1\r\n\r\n--b--\r\n"
    )
    assert got.text == "It failed."
    assert b"Status: 5.1.1" in base64.b64decode(got.attachments[0].content_base64 or "")


def test_files_beyond_the_cap_come_without_content_and_that_is_said() -> None:
    message = EmailMessage()
    message.set_content("text")
    for size in (60, 60, 30):
        message.add_attachment(b"x" * size, maintype="application", subtype="zip", filename=f"{size}.zip")
    got = read(message.as_bytes(), max_attachment_bytes=100)
    assert [(one.size, one.content_base64 is None) for one in got.attachments] == [
        (60, False),
        (60, True),
        (30, False),
    ]
    assert "max_attachment_bytes" in got.notes[0]


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a\\b.txt", "x\x00y", "line\r\n break.txt", "ä" * 300, " ", "/"]
)
def test_a_files_name_is_one_that_sending_takes(name: str) -> None:
    encoded = base64.b64encode(name.encode()).decode()
    got = read(
        b'Content-Type: application/pdf\r\nContent-Disposition: attachment; filename="=?utf-8?b?'
        + encoded.encode()
        + b'?="\r\n\r\nx'
    )
    FileUpload(filename=got.attachments[0].filename, content_base64="eA==")


def test_headers_that_settings_name_are_kept_in_order() -> None:
    raw = b"X-Spam: =?utf-8?q?j=C3=A4?=\r\nReceived: one\r\nReceived: two\r\nX-Other: no\r\n\r\n"
    assert read(raw, keep_headers=["x-spam", "Received", "Missing"]).headers == {
        "x-spam": ["jä"],
        "received": ["one", "two"],
    }


@pytest.mark.parametrize("missing", ["message_id", "subject", "from_", "date", "in_reply_to", "text"])
def test_what_is_missing_is_null(missing: str) -> None:
    got = read(b"X: y\r\n\r\n") if missing != "text" else read(b"Content-Type: text/html\r\n\r\n<p>")
    assert getattr(got, missing) is None


def test_odd_ids_are_kept_as_they_are() -> None:
    assert read(b"Message-ID: no brackets\r\n\r\n").message_id == "no brackets"
    assert read(b"Message-ID:\r\n <folded@example.com>\r\n\r\n").message_id == "<folded@example.com>"


def test_an_oversize_message_has_headers_and_a_note() -> None:
    raw = b"Subject: The film\r\nMessage-ID: <1@example.com>\r\nContent-Type: video/mp4\r\n\r\n"
    got, _ = read_message(item(raw, size=90_000_000, left_out="too_large"), configured())
    assert (got.subject, got.size, got.text, got.attachments) == ("The film", 90_000_000, None, [])
    assert "max_message_bytes" in got.notes[0]


def test_a_huge_header_costs_a_moment_and_no_more() -> None:
    began = time.monotonic()
    many = b"a@example.com, " * 200_000
    got = read(b"To: " + many + b"\r\nSubject: " + b"=?utf-8?q?x?= " * 100_000 + b"\r\n\r\ntext")
    assert got.text == "text"
    assert len(got.to) <= 5000
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("depth", [20, 2000])
def test_parts_inside_parts_cost_a_moment_and_no_more(depth: int) -> None:
    head = b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n"
    raw = b"Subject: Deep\r\n" + b"".join(head % (n, n) for n in range(depth)) + b"\r\n" + b"x\r\n" * 200_000
    began = time.monotonic()
    got = read(raw)
    assert (got.subject, (got.text or "").count("\nx")) == ("Deep", 200_000 - 1 + (depth > 30))
    assert time.monotonic() - began < 5


def test_many_headers_cost_a_moment_and_no_more() -> None:
    began = time.monotonic()
    got = read(b"To: a@b.example\r\n" * 100_000 + b"Subject: late\r\n\r\ntext")
    assert got.text == "text"
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"Subject: a\r\nno header\r\nSubject: b\r\n\r\nbody", "no header\nSubject: b\n\nbody"),
        (b"\r\nall body", "all body"),
        (b"Subject: a\n\nbare\nline ends\n", "bare\nline ends\n"),
        (b"Subject: a", ""),
        (b"", ""),
        (b"Content-Type: multipart/mixed\r\n\r\nno boundary", "no boundary"),
        (b"Content-Type: multipart/mixed; boundary=b\r\n\r\nno --b such\r\n--bb\r\n", "no --b such\n--bb\n"),
        (b"Content-Type: multipart/mixed; boundary=b\r\n\r\nbefore\r\n--b\r\n\r\nx\r\n--b--\r\nafter", "x"),
        (b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nnever closed", "never closed"),
    ],
)
def test_broken_structure_is_read_as_far_as_it_goes(raw: bytes, text: str) -> None:
    assert (read(raw).text or "") == text


def test_many_parts_are_bounded() -> None:
    parts = b"--b\r\nContent-Type: image/png\r\n\r\n\r\n" * 3000
    got = read(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + parts + b"--b--")
    assert len(got.attachments) == 500
    assert any("more than 500 parts" in note for note in got.notes)


# What a message is recognised by.


def test_the_same_message_under_other_numbers_is_the_same() -> None:
    raw = b"Subject: a\r\n\r\nb"
    assert identity(raw) == identity(raw, uid=9, uidvalidity=8)


def test_another_content_or_folder_is_another_message_also_under_one_message_id() -> None:
    ids = {
        identity(b"Message-ID: <1@example.com>\r\n\r\nreal"),
        identity(b"Message-ID: <1@example.com>\r\n\r\nforged"),
        identity(b"Message-ID: <1@example.com>\r\n\r\nreal", folder="Archive"),
    }
    assert len(ids) == 3


def test_what_could_not_be_fetched_is_recognised_by_its_number() -> None:
    assert identity(b"", left_out="not_fetched") != identity(b"", left_out="not_fetched", uid=3)


# Anything.

NAMES = st.sampled_from(
    b"From,To,Cc,Reply-To,Subject,Date,Message-ID,References,In-Reply-To,Content-Type,Content-Disposition,"
    b"Content-Transfer-Encoding,Content-ID,MIME-Version,X-Other,Received".split(b",")
)
VALUES = st.binary(max_size=60) | st.sampled_from(
    [
        b"text/plain; charset=utf-8", b"multipart/mixed; boundary=b", b'multipart/alternative; boundary="b"',
        b"message/rfc822", b"message/delivery-status", b"message/partial; id=1", b"message/external-body",
        b"text/html; charset*=''%ff", b"text/plain; charset=\"", b"text", b"/", b"multipart/mixed", b"base64",
        b"quoted-printable", b"x-uuencode", b"7bit", b"attachment; filename*0*=utf-8''%e4; filename*1=x",
        b"attachment; filename*=no-such''x", b'attachment; filename="', b"inline; filename==?utf-8?b?=?=",
        b"=?utf-8?b?4pyT?=", b"=?utf-8?q?=ZZ?=", b"=?x?y?z?=", b"<a@b>", b"Ann <ann@example.com>", b"<<@@>>",
        b"a:b;c:;", b'"\\', b"Fri, 99 Nov 99999 99:99:99 +9999", b"1 Jan 0001 00:00:00 -2359",
        b"\x00", b"\xff",
    ]
)  # fmt: skip
LINES = st.tuples(NAMES, VALUES).map(lambda pair: pair[0] + b": " + pair[1])
BODIES = st.binary(max_size=80) | st.sampled_from(
    [b"--b", b"--b--", b"begin 644 x\n#86)C\n`\nend", b"=", b"=3", b"!!!", b"", b"\x00\xff", b".", b"From x"]
)
STRUCTURED = st.lists(LINES | BODIES | st.just(b""), max_size=25).map(b"\r\n".join)


@given(raw=STRUCTURED | st.binary(max_size=400), left_out=st.sampled_from([None, None, "too_large"]))
@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_become_an_event_that_can_be_stored(raw: bytes, left_out: Any) -> None:
    got, external_id = read_message(
        item(raw, left_out=left_out), configured(keep_headers=["X-Other", "Received"])
    )
    stored = orjson.loads(orjson.dumps(got.model_dump(by_alias=True)))
    MessageReceived.model_validate(stored)
    assert "\\u0000" not in orjson.dumps(stored).decode()
    assert len(external_id) == 64
    for file in got.attachments:
        if file.content_base64:
            FileUpload(
                filename=file.filename, content_base64=file.content_base64, content_type=file.content_type
            )


def test_every_fixture_is_read_without_a_surprise(fixtures: Path) -> None:
    for path in fixtures.glob("*.json"):
        got, _ = read_message(FetchedMessage.model_validate_json(path.read_bytes()), configured())
        assert isinstance(got, MessageReceived)
        assert all(isinstance(one, ReceivedAttachment) for one in got.attachments)
