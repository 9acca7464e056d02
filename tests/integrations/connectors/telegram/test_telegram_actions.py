import base64
import json
import logging
from typing import Any

import httpx2
import pytest

from app.integrations.connectors.telegram import schemas
from app.integrations.connectors.telegram.connector import MAX_DOWNLOAD, TelegramConnector
from app.integrations.connectors.telegram.schemas import TelegramSettings
from app.integrations.connectors.telegram.twin import Upload
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
from app.integrations.registry import check_declarations

TOKEN = "700111222:AAplantedBotTokenValue_x-y"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAADCAIAAAA2iEnWAAAAEUlEQVR4nGP8z8DAwMDAxAADAA0FAQHmWmYwAAAAAElFTkSuQmCC"
)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


async def run(connector: TelegramConnector, type_: str, **payload: Any) -> dict[str, Any]:
    result = await connector.execute(Action(type=type_, payload=payload))
    json.dumps(result)
    spec = connector.action_spec(type_)
    assert spec.result is not None
    spec.result.model_validate(result)
    return result


# Declarations.


def test_the_declarations_are_sound():
    check_declarations(TelegramConnector)


METHODS = {
    "send_message": "sendMessage",
    "send_photo": "sendPhoto",
    "send_document": "sendDocument",
    "edit_message_text": "editMessageText",
    "delete_message": "deleteMessage",
    "answer_callback_query": "answerCallbackQuery",
    "send_chat_action": "sendChatAction",
    "get_file": "getFile",
}


def test_every_action_has_a_method_of_the_bot_api():
    assert set(METHODS) == {spec.name for spec in TelegramConnector.actions}


@pytest.mark.parametrize("spec", TelegramConnector.actions, ids=lambda spec: spec.name)
def test_fields_of_an_action_are_those_of_the_bot_api_and_described(spec, api):
    known = api["methods"][METHODS[spec.name]]
    ours = {"download"} if spec.name == "get_file" else set()
    assert set(spec.model.model_fields) - ours <= set(known)
    required = {name for name, field in known.items() if field["required"]}
    assert {name for name, field in spec.model.model_fields.items() if field.is_required()} >= required
    assert_described(spec.model.model_json_schema(), spec.name)
    assert_described(spec.result.model_json_schema(mode="serialization"), spec.name)


@pytest.mark.parametrize(
    "model",
    [
        schemas.InlineKeyboardMarkup,
        schemas.InlineKeyboardButton,
        schemas.ReplyKeyboardMarkup,
        schemas.KeyboardButton,
        schemas.ReplyKeyboardRemove,
        schemas.ForceReply,
        schemas.ReplyParameters,
        schemas.LinkPreviewOptions,
        schemas.MessageEntity,
    ],
)
def test_fields_of_objects_in_actions_are_those_of_the_bot_api(model, api):
    assert set(model.model_fields) <= set(api["types"][model.__name__])


def assert_described(schema: dict[str, Any], name: str) -> None:
    for part in [schema, *schema.get("$defs", {}).values()]:
        for field, facts in part.get("properties", {}).items():
            assert facts.get("description"), f"{name}: {part.get('title')}.{field}"


# Each action, end to end.


async def test_a_message_with_buttons_is_sent(stage, connect):
    connector = connect()
    await connector.check()
    said = await stage.do("say", text="hi")
    sent = await run(
        connector,
        "send_message",
        chat_id="1001",
        text="Choose",
        disable_notification=True,
        reply_parameters={"message_id": said["message_id"]},
        reply_markup={
            "inline_keyboard": [
                [{"text": "Yes", "callback_data": "y"}, {"text": "Site", "url": "https://a.example"}]
            ]
        },
    )
    shown = (await stage.chat())[-1]
    assert shown["by_bot"]
    assert shown["message"] == sent
    assert sent["reply_to_message"]["text"] == "hi"
    assert sent["reply_markup"]["inline_keyboard"][0][1]["url"] == "https://a.example"


async def test_objects_pass_on_fields_that_are_not_named_here(stage, connect):
    connector = connect()
    await connector.check()
    await stage.do("say", text="hi")
    button = {"text": "Copy", "copy_text": {"text": "code"}, "style": "primary"}
    markup = {"inline_keyboard": [[button]]}
    sent = await run(connector, "send_message", chat_id=1001, text="x", reply_markup=markup)
    assert sent["reply_markup"] == markup


async def test_an_edit_replaces_the_text_and_its_repetition_is_no_error(stage, connect):
    connector = connect()
    await connector.check()
    await stage.do("say", text="hi")
    sent = await run(connector, "send_message", chat_id=1001, text="one")
    edit = {"chat_id": 1001, "message_id": sent["message_id"], "text": "two"}
    first = await run(connector, "edit_message_text", **edit)
    assert first["modified"]
    assert first["message"]["text"] == "two"
    assert await run(connector, "edit_message_text", **edit) == {"modified": False}
    assert (await stage.chat())[-1]["earlier_texts"] == ["one"]


async def test_a_deletion_and_its_repetition(stage, connect):
    connector = connect()
    await connector.check()
    said = await stage.do("say", text="hi")
    message = {"chat_id": 1001, "message_id": said["message_id"]}
    assert await run(connector, "delete_message", **message) == {"deleted": True}
    assert (await stage.chat())[0]["deleted"]
    assert await run(connector, "delete_message", **message) == {"deleted": False}


async def test_a_photo_is_uploaded_and_sent_again_by_its_id(stage, connect):
    connector = connect()
    await connector.check()
    await stage.do("say", text="hi")
    photo = {"filename": "dot.png", "content_base64": encoded(PNG)}
    markup = {"inline_keyboard": [[{"text": "Like", "callback_data": "l"}]]}
    sent = await run(
        connector,
        "send_photo",
        chat_id=1001,
        photo=photo,
        caption="a dot",
        has_spoiler=True,
        reply_markup=markup,
    )
    assert sent["caption"] == "a dot"
    assert sent["reply_markup"] == markup
    assert (sent["photo"][0]["width"], sent["photo"][0]["height"]) == (2, 3)
    again = await run(connector, "send_photo", chat_id=1001, photo=sent["photo"][0]["file_id"])
    assert again["photo"] == sent["photo"]
    by_url = await run(connector, "send_photo", chat_id=1001, photo="https://a.example/dot.png")
    assert by_url["photo"]


async def test_a_document_is_uploaded_and_fetched(stage, connect):
    connector = connect()
    await connector.check()
    await stage.do("say", text="hi")
    document = {
        "filename": "Übersicht 1.csv",
        "content_base64": encoded(b"a,b\n"),
        "content_type": "text/csv",
    }
    sent = await run(connector, "send_document", chat_id=1001, document=document)
    assert sent["document"]["file_name"] == "Übersicht 1.csv"
    assert sent["document"]["mime_type"] == "text/csv"
    file_id = sent["document"]["file_id"]
    info = await run(connector, "get_file", file_id=file_id)
    assert info["file_size"] == 4
    assert "content_base64" not in info
    fetched = await run(connector, "get_file", file_id=file_id, download=True)
    assert base64.b64decode(fetched["content_base64"]) == b"a,b\n"


async def test_a_file_that_is_too_large_for_a_result_is_refused(stage, connect):
    connector = connect()
    await connector.check()
    bot = stage.twin.bots[700111222]
    file = bot.store("documents", Upload("big.bin", b"0" * (MAX_DOWNLOAD + 1)))
    with pytest.raises(Rejected, match="larger than"):
        await run(connector, "get_file", file_id=file.file_id, download=True)


async def test_a_press_is_answered_and_an_old_one_is_refused(stage, connect):
    connector = connect()
    await connector.check()
    await stage.do("say", text="hi")
    markup = {"inline_keyboard": [[{"text": "Yes", "callback_data": "y"}]]}
    await run(connector, "send_message", chat_id=1001, text="?", reply_markup=markup)
    await stage.do("click", button="Yes")
    items, _ = await connector.poll_updates(None)
    event = await connector.handle_webhook(items[-1])
    assert event.type == "telegram.callback_query.received"
    query = event.payload["callback_query_id"]
    assert await run(connector, "answer_callback_query", callback_query_id=query, text="Done") == {"ok": True}
    shown = await stage.do("chat")
    assert shown["callback_answers"][query] == [{"text": "Done", "show_alert": False}]
    with pytest.raises(Rejected, match="query is too old"):
        await run(connector, "answer_callback_query", callback_query_id="1")


async def test_a_chat_action_is_shown(stage, connect):
    connector = connect()
    await connector.check()
    await stage.do("say", text="hi")
    assert await run(connector, "send_chat_action", chat_id=1001, action="typing") == {"ok": True}
    assert (await stage.do("chat"))["actions"] == ["typing"]


# Payloads that cannot be sent.


@pytest.mark.parametrize(
    ("action", "payload", "path"),
    [
        ("send_message", {"chat_id": 1}, "text"),
        ("send_message", {"chat_id": 1, "text": ""}, "text"),
        ("send_message", {"chat_id": 1, "text": "x", "parsemode": "HTML"}, "parsemode"),
        ("send_message", {"chat_id": 1, "text": "x", "reply_markup": {"buttons": []}}, "reply_markup"),
        ("send_photo", {"chat_id": 1, "photo": {"filename": "a.png"}}, "photo.FileUpload.content_base64"),
        (
            "send_photo",
            {"chat_id": 1, "photo": {"filename": "a.png", "content_base64": "pl@nted"}},
            "photo.FileUpload.content_base64",
        ),
        (
            "send_document",
            {"chat_id": 1, "document": {"filename": "../a", "content_base64": "AAAA"}},
            "document.FileUpload.filename",
        ),
        ("edit_message_text", {"message_id": 1, "text": "x"}, ""),
        ("edit_message_text", {"chat_id": 1, "message_id": 1, "inline_message_id": "a", "text": "x"}, ""),
        ("get_file", {"file_id": "a", "download": "planted"}, "download"),
    ],
)
def test_a_payload_that_does_not_fit_names_its_field(action, payload, path):
    with pytest.raises(InvalidActionPayload) as caught:
        TelegramConnector.validated(Action(type=action, payload=payload))
    assert any(problem.path.startswith(path) for problem in caught.value.problems), caught.value.problems
    assert "pl@nted" not in str(caught.value)


# Errors.


def answering(respond: Any) -> TelegramConnector:
    http = ConnectorHttp(transport=httpx2.MockTransport(respond))
    return TelegramConnector(TOKEN, TelegramSettings(), http)


def refusal(code: int, description: str, **parameters: int) -> httpx2.Response:
    body: dict[str, Any] = {"ok": False, "error_code": code, "description": description}
    if parameters:
        body["parameters"] = parameters
    return httpx2.Response(code, json=body)


MESSAGE = {"chat_id": 1, "text": "x"}


@pytest.mark.parametrize(
    ("response", "error", "words"),
    [
        (refusal(401, "Unauthorized"), AuthenticationFailed, "BotFather"),
        (refusal(404, "Not Found"), AuthenticationFailed, "BotFather"),
        (refusal(404, "Not Found: method not found"), Rejected, "method not found"),
        (refusal(400, "Bad Request: chat not found"), Rejected, "chat not found"),
        (refusal(403, "Forbidden: bot was blocked by the user"), Rejected, "blocked"),
        (refusal(409, "Conflict: whatever"), Rejected, "Conflict"),
        (refusal(429, "Too Many Requests: retry after 7", retry_after=7), RateLimited, "retry after 7"),
        (refusal(500, "Internal Server Error"), Unavailable, "Internal"),
        (refusal(502, "Bad Gateway"), Unavailable, "Bad Gateway"),
        (refusal(400, "Bad Request: upgraded", migrate_to_chat_id=-1005), Rejected, "-1005"),
        (httpx2.Response(200, json={"ok": False, "error_code": 400, "description": "no"}), Rejected, "no"),
        (httpx2.Response(200, json={"ok": False, "description": "odd"}), Unavailable, "odd"),
        (httpx2.Response(200, json={"ok": True, "result": "odd"}), Unavailable, "unknown form"),
        (httpx2.Response(200, text="<html>"), Unavailable, "base_url"),
        (httpx2.Response(200, json=[1]), Unavailable, "base_url"),
        (httpx2.Response(307, headers={"location": "https://elsewhere"}), Rejected, "307"),
        (httpx2.Response(502, text="<html>nginx"), Unavailable, "502"),
        (httpx2.Response(429, text="", headers={"retry-after": "3"}), RateLimited, "429"),
        (httpx2.Response(403, text="proxy"), AuthenticationFailed, "403"),
        (httpx2.Response(413, text="<html>"), Rejected, "413"),
    ],
)
async def test_an_error_answer_becomes_the_typed_error(response, error, words):
    connector = answering(lambda _: response)
    with pytest.raises(ProviderError) as caught:
        await run(connector, "send_message", **MESSAGE)
    assert type(caught.value) is error
    assert words in str(caught.value)


async def test_a_rate_limit_says_how_long():
    connector = answering(lambda _: refusal(429, "Too Many Requests: retry after 7", retry_after=7))
    with pytest.raises(RateLimited) as caught:
        await run(connector, "send_message", **MESSAGE)
    assert caught.value.retry_after == 7


def _raise(error: Exception) -> Any:
    def respond(_: httpx2.Request) -> httpx2.Response:
        raise error

    return respond


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (httpx2.ConnectError("refused"), NotSent),
        (httpx2.ReadTimeout("slow"), Unavailable),
        (httpx2.ReadError("reset"), Unavailable),
    ],
)
async def test_an_outage_is_never_a_bad_token(fault, error):
    with pytest.raises(error):
        await answering(_raise(fault)).check()


async def test_a_dropped_answer_is_an_attempt_that_began_and_may_have_happened(stage, connect):
    connector = connect()
    await connector.check()
    await stage.do("say", text="hi")
    await stage.do("fault", kind="drop_answer", on="sendMessage")
    attempt = AttemptTrace()
    token = current_attempt.set(attempt)
    try:
        with pytest.raises(Unavailable):
            await run(connector, "send_message", chat_id=1001, text="once")
    finally:
        current_attempt.reset(token)
    assert attempt.begun
    assert [entry["message"]["text"] for entry in await stage.chat()] == ["hi", "once"]


async def test_the_token_is_in_no_error_repr_or_log(caplog):
    caplog.set_level(logging.DEBUG)
    secret = "planted_webhook_secret"
    url = "https://p.example/webhooks/telegram/planted_url_token"

    def echo(request: httpx2.Request) -> httpx2.Response:
        return refusal(400, f"Bad Request: {request.url} {request.content.decode()}")

    def break_off(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ReadError(f"reset at {request.url}")

    texts = []
    for respond in (echo, break_off, lambda r: httpx2.Response(200, text=str(r.url))):
        connector = answering(respond)
        texts += [repr(connector), repr(connector.client), repr(vars(connector))]
        for call in (
            connector.check(),
            connector.poll_updates(None),
            connector.register_webhook(url, {"webhook_secret": secret}),
            connector.client.download("documents/file_1"),
        ):
            try:
                await call
            except ProviderError as error:
                texts += [str(error), repr(error), repr(error.__cause__), repr(error.__dict__)]
    spoken = "\n".join([*texts, caplog.text])
    assert "AAplanted" not in spoken
    assert secret not in spoken
    assert "planted_url_token" not in spoken


def test_the_content_of_an_upload_is_not_in_its_repr():
    upload = schemas.FileUpload(filename="a.bin", content_base64=encoded(b"planted"))
    assert encoded(b"planted") not in repr(upload)


async def test_a_token_that_is_no_token_stays_in_its_place_in_the_url():
    seen = []

    def respond(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.url.raw_path)
        return refusal(404, "Not Found")

    http = ConnectorHttp(transport=httpx2.MockTransport(respond))
    connector = TelegramConnector("../x?y z", TelegramSettings(), http)
    with pytest.raises(AuthenticationFailed):
        await connector.check()
    assert seen == [b"/bot..%2Fx%3Fy%20z/getMe"]
