"""The twin, judged by aiogram, which was written against the real thing."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import (
    TelegramBadRequest,
    TelegramConflictError,
    TelegramNetworkError,
    TelegramNotFound,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiogram.filters import CommandStart
from aiogram.methods import TelegramMethod
from aiogram.types import (
    BufferedInputFile,
    CallbackQuery,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    Message,
    ReplyKeyboardMarkup,
    ReplyParameters,
    Update,
)
from aiogram.webhook.aiohttp_server import SimpleRequestHandler, setup_application
from aiohttp import web

from app.integrations.twin import ControlError

USER = 1001
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x02\x00\x00\x00\x03"
YES_NO = InlineKeyboardMarkup(
    inline_keyboard=[
        [
            InlineKeyboardButton(text="Yes", callback_data="y"),
            InlineKeyboardButton(text="No", callback_data="n"),
        ]
    ]
)


# Methods.


async def test_get_me(bot):
    me = await bot.get_me()
    assert (me.id, me.is_bot) == (bot.id, True)
    assert me.username.endswith("bot")


async def test_a_message_is_sent_edited_and_deleted(stage, bot):
    sent = await bot.send_message(USER, "Sure?", reply_markup=YES_NO)
    assert sent.reply_markup.model_dump() == YES_NO.model_dump()
    assert sent.chat.id == USER
    edited = await bot.edit_message_text("Done", chat_id=USER, message_id=sent.message_id)
    assert edited.text == "Done"
    assert edited.reply_markup is None, "an edit without a keyboard takes it away"
    assert edited.edit_date is not None
    assert await bot.delete_message(USER, sent.message_id) is True
    shown = (await stage.chat())[-1]
    assert shown["deleted"]
    assert shown["earlier_texts"] == ["Sure?"]


async def test_a_message_answers_another(bot, stage):
    said = await stage.do("say", text="question")
    answer = await bot.send_message(
        USER, "answer", reply_parameters=ReplyParameters(message_id=said["message_id"])
    )
    assert answer.reply_to_message.text == "question"
    with pytest.raises(TelegramBadRequest, match="message to be replied not found"):
        await bot.send_message(USER, "answer", reply_parameters=ReplyParameters(message_id=999))


async def test_other_keyboards_are_taken_and_not_shown(bot):
    markup = ReplyKeyboardMarkup(keyboard=[[{"text": "a"}]])
    assert (await bot.send_message(USER, "x", reply_markup=markup)).reply_markup is None


async def test_a_photo_is_uploaded_and_reused(bot):
    sent = await bot.send_photo(USER, BufferedInputFile(PNG, "dot.png"), caption="dot")
    assert (sent.photo[-1].width, sent.photo[-1].height) == (2, 3)
    assert sent.caption == "dot"
    again = await bot.send_photo(USER, sent.photo[-1].file_id)
    assert again.photo == sent.photo
    with pytest.raises(TelegramBadRequest, match="IMAGE_PROCESS_FAILED"):
        await bot.send_photo(USER, BufferedInputFile(b"no picture", "dot.png"))
    with pytest.raises(TelegramBadRequest, match="wrong file identifier"):
        await bot.send_photo(USER, "nonsense")


async def test_a_document_is_uploaded_and_downloaded(bot):
    sent = await bot.send_document(USER, BufferedInputFile(b"a,b\n", "table.csv"))
    assert sent.document.file_name == "table.csv"
    file = await bot.get_file(sent.document.file_id)
    assert file.file_size == 4
    assert (await bot.download_file(file.file_path)).read() == b"a,b\n"
    with pytest.raises(TelegramBadRequest):
        await bot.get_file("nonsense")


async def test_a_press_is_received_and_answered(stage, bot):
    await bot.send_message(USER, "Sure?", reply_markup=YES_NO)
    await stage.do("click", button="n")
    (update,) = await bot.get_updates(offset=-1)
    assert update.callback_query.data == "n"
    assert update.callback_query.message.text == "Sure?"
    assert await bot.answer_callback_query(update.callback_query.id, text="ok", show_alert=True)
    answers = (await stage.do("chat"))["callback_answers"]
    assert answers == {update.callback_query.id: [{"text": "ok", "show_alert": True}]}
    stage.twin.settings.callback_lifetime = 0
    with pytest.raises(TelegramBadRequest, match="query is too old"):
        await bot.answer_callback_query(update.callback_query.id)


async def test_a_chat_action(stage, bot):
    assert await bot.send_chat_action(USER, "upload_document")
    assert (await stage.do("chat"))["actions"] == ["upload_document"]
    with pytest.raises(TelegramBadRequest, match="wrong parameter action"):
        await bot.send_chat_action(USER, "dancing")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda bot: bot.send_message(404, "x"), "chat not found"),
        (lambda bot: bot.send_message("@nobody", "x"), "chat not found"),
        (lambda bot: bot.send_message(USER, " "), "message text is empty"),
        (lambda bot: bot.send_message(USER, "x" * 4097), "message is too long"),
        (
            lambda bot: bot.send_photo(USER, BufferedInputFile(PNG, "a"), caption="x" * 1025),
            "caption is too long",
        ),
        (lambda bot: bot.edit_message_text("x", chat_id=USER, message_id=99), "message to edit not found"),
        (lambda bot: bot.edit_message_text("x", chat_id=USER, message_id=1), "message can't be edited"),
        (lambda bot: bot.delete_message(USER, 99), "message to delete not found"),
        (lambda bot: bot.set_webhook("http://example.com/x"), "An HTTPS URL must be provided"),
        (lambda bot: bot.set_webhook("https://a.invalid", secret_token="a b"), "unallowed characters"),
    ],
)
async def test_a_bad_request_says_what_telegram_says(bot, call, words):
    with pytest.raises(TelegramBadRequest, match=words):
        await call(bot)


async def test_an_edit_that_changes_nothing_is_refused(bot):
    sent = await bot.send_message(USER, "same", reply_markup=YES_NO)
    again = {"chat_id": USER, "message_id": sent.message_id, "reply_markup": YES_NO}
    with pytest.raises(TelegramBadRequest, match="message is not modified"):
        await bot.edit_message_text("same", **again)
    await bot.edit_message_text("other", **again)


@pytest.mark.parametrize(
    ("button", "words"),
    [({"text": "a"}, "Text buttons"), ({"text": "a", "callback_data": "x" * 65}, "BUTTON_DATA_INVALID")],
)
async def test_a_bad_button_is_refused(bot, button, words):
    markup = InlineKeyboardMarkup(inline_keyboard=[[button]])
    with pytest.raises(TelegramBadRequest, match=words):
        await bot.send_message(USER, "x", reply_markup=markup)


async def test_an_unknown_token_and_an_unknown_method(stage, bot):
    with pytest.raises(TelegramNotFound, match="method not found"):
        await bot.get_my_commands()
    stage.twin.settings.tokens.append("1:known")
    with pytest.raises(TelegramUnauthorizedError, match="Unauthorized"):
        await bot.get_me()


# Any way of sending parameters.


@pytest.mark.parametrize(
    "options",
    [
        {"params": {"chat_id": USER, "text": "hi"}},
        {"json": {"chat_id": USER, "text": "hi"}},
        {"json": {"chat_id": str(USER), "text": "hi", "reply_markup": json.dumps({"remove_keyboard": True})}},
        {"data": {"chat_id": USER, "text": "hi"}},
        {"data": {"chat_id": USER, "text": "hi"}, "files": {"unused": b"x"}},
        {"params": {"chat_id": USER}, "json": {"text": "hi"}},
    ],
)
async def test_parameters_come_as_query_json_or_form(stage, bot, options):
    async with httpx2.AsyncClient() as http:
        answer = await http.post(f"{stage.url}/bot{bot.token}/SENDmessage", **options)
    assert answer.json()["result"]["text"] == "hi", answer.text


@pytest.mark.parametrize(
    "params",
    [
        {"reply_markup": []},
        {"reply_markup": [1]},
        {"reply_markup": "{"},
        {"reply_markup": {"inline_keyboard": 5}},
        {"reply_markup": {"inline_keyboard": [5]}},
        {"reply_markup": {"inline_keyboard": [[5]]}},
        {"reply_parameters": [1]},
        {"reply_parameters": {"message_id": []}},
        {"chat_id": {}},
        {"text": []},
        {"message_thread_id": "x"},
    ],
)
async def test_odd_parameters_are_answered_and_never_break_the_twin(stage, bot, params):
    async with httpx2.AsyncClient() as http:
        answer = await http.post(
            f"{stage.url}/bot{bot.token}/sendMessage", json={"chat_id": USER, "text": "x", **params}
        )
        assert answer.status_code in (200, 400), answer.text
        odd = {"allowed_updates": [{}, 5], "offset": "x", "limit": -1}
        answer = await http.post(f"{stage.url}/bot{bot.token}/getUpdates", json=odd)
        assert answer.status_code == 200


async def test_get_works_and_other_paths_answer_as_telegram(stage, bot):
    async with httpx2.AsyncClient() as http:
        answer = await http.get(f"{stage.url}/bot{bot.token}/getMe")
        assert answer.json()["ok"] is True
        for path in ("/botnonsense/getMe", "/bot1/getMe", "/", "/file/bot1:a/documents/none"):
            answer = await http.get(stage.url + path)
            assert answer.status_code == 404
            assert answer.json() == {"ok": False, "error_code": 404, "description": "Not Found"}
        answer = await http.post(f"{stage.url}/bot{bot.token}/getMe", json=[1])
        assert answer.status_code == 400


def assert_form(value: Any, form: str, types: dict[str, Any]) -> None:
    fields = types[form]
    assert set(value) <= set(fields), (form, set(value) - set(fields))
    assert {name for name, field in fields.items() if field["required"]} <= set(value), form
    for name, inner in value.items():
        form = fields[name]["types"][0].removeprefix("Array of ").removeprefix("Array of ")
        if form in types:
            for part in inner if isinstance(inner, list) else [inner]:
                for leaf in part if isinstance(part, list) else [part]:
                    assert_form(leaf, form, types)


async def test_what_the_twin_answers_holds_only_fields_of_the_bot_api(stage, bot, api):
    types = api["types"]
    async with httpx2.AsyncClient() as http:

        async def call(method: str, **params: Any) -> Any:
            known = api["methods"][method]
            assert set(params) <= set(known)
            answer = (await http.post(f"{stage.url}/bot{bot.token}/{method}", json=params)).json()
            assert answer["ok"], answer
            return answer["result"]

        me = await call("getMe")
        assert_form(me, "User", types)
        said = await stage.do("say", text="/start x", username="ann", file_name=None)
        await stage.do("say", text="a file", file_name="a.txt", file_text="x", reply_to=said["message_id"])
        await stage.do("say", text="in a group", chat_id=-100200300400500)
        posted = await stage.do("post", text="post", username="news_here")
        await stage.do("edit", chat_id=USER, message_id=said["message_id"], text="edited")
        await stage.do("edit", chat_id=posted["chat_id"], message_id=posted["message_id"], text="edited")
        markup = YES_NO.model_dump(exclude_none=True)
        sent = await call(
            "sendMessage",
            chat_id=USER,
            text="x",
            reply_markup=markup,
            protect_content=True,
            message_thread_id=5,
            message_effect_id="e",
            reply_parameters={"message_id": said["message_id"]},
        )
        assert_form(sent, "Message", types)
        await stage.do("click", button="Yes")
        for update in await call("getUpdates"):
            assert_form(update, "Update", types)
            Update.model_validate(update)
        edited = await call("editMessageText", chat_id=USER, message_id=sent["message_id"], text="y")
        assert_form(edited, "Message", types)
        to_channel = await call("sendMessage", chat_id="@news_here", text="x")
        assert_form(to_channel, "Message", types)
        photo = await call("sendPhoto", chat_id=USER, photo="https://a.example/a.png", caption="c")
        assert_form(photo, "Message", types)
        document = await call("sendDocument", chat_id=USER, document="https://a.example/a.pdf")
        assert_form(document, "Message", types)
        assert_form(await call("getFile", file_id=document["document"]["file_id"]), "File", types)
        await call("setWebhook", url="http://127.0.0.1:9/x", allowed_updates=["message"])
        assert_form(await call("getWebhookInfo"), "WebhookInfo", types)


# Updates by polling.


async def test_offsets_confirm_and_go_back(stage, bot):
    ids = [(await stage.do("say", text=text))["update_id"] for text in ("a", "b", "c")]

    async def got(**options: Any) -> list[int]:
        return [update.update_id for update in await bot.get_updates(**options)]

    assert (await got(limit=2))[-1] == ids[0], "the first is the one of the fixture"
    assert await got(offset=ids[1]) == ids[1:]
    assert await got() == ids[1:]
    assert await got(offset=ids[2] + 5000) == ids[1:], "far beyond the end means nothing"
    assert await got(offset=-1) == ids[2:]
    assert await got() == ids[2:], "a negative offset forgets what is before"
    assert await got(offset=ids[2] + 1) == []


async def test_allowed_updates_stay_until_changed(stage, bot):
    await bot.get_updates(offset=-1, allowed_updates=["channel_post", "unheard_of"])
    await bot.get_updates()
    assert (await stage.do("say", text="x"))["update_id"] is None
    assert (await stage.do("post", text="x"))["update_id"] is not None
    await bot.get_updates(allowed_updates=[])
    info = await bot.get_webhook_info()
    assert info.allowed_updates is None
    assert info.url == ""


async def test_polling_beside_a_webhook_and_two_pollers_conflict(bot):
    await bot.set_webhook("https://nobody.invalid/x")
    with pytest.raises(TelegramConflictError, match="webhook is active"):
        await bot.get_updates()
    await bot.delete_webhook(drop_pending_updates=True)
    first = asyncio.create_task(bot.get_updates(timeout=20))
    await asyncio.sleep(0.05)
    second = asyncio.create_task(bot.get_updates(timeout=20))
    with pytest.raises(TelegramConflictError, match="terminated by other getUpdates"):
        await asyncio.wait_for(first, 5)
    await bot.set_webhook("https://nobody.invalid/x")
    with pytest.raises(TelegramConflictError, match="terminated by setWebhook"):
        await asyncio.wait_for(second, 5)


async def test_a_whole_bot_of_aiogram_polls(stage, bot):
    dispatcher = Dispatcher()

    @dispatcher.message(CommandStart())
    async def _(message: Message) -> None:
        await message.answer(f"Hello {message.from_user.first_name}", reply_markup=YES_NO)

    @dispatcher.callback_query()
    async def _(query: CallbackQuery) -> None:
        await query.answer("thanks")
        await query.message.edit_text(f"You said {query.data}")

    polling = asyncio.create_task(
        dispatcher.start_polling(bot, polling_timeout=5, handle_signals=False, close_bot_session=False)
    )
    try:
        await stage.do("say", text="/start")
        await until(lambda: _last_text(stage) == "Hello Ann")
        await stage.do("click", button="Yes")
        await until(lambda: _last_text(stage) == "You said y")
    finally:
        await dispatcher.stop_polling()
        await polling


# Updates by webhook.


@asynccontextmanager
async def receiving(bot: Bot, dispatcher: Dispatcher, secret: str) -> AsyncIterator[str]:
    """aiogram's own webhook server; gives its URL."""
    app = web.Application()
    handler = SimpleRequestHandler(dispatcher, bot, handle_in_background=False, secret_token=secret)
    handler.register(app, path="/hook")
    setup_application(app, dispatcher, bot=bot)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/hook"
    finally:
        await runner.cleanup()


async def test_a_method_in_the_answer_of_aiogram_is_carried_out(stage, bot):
    dispatcher = Dispatcher()

    @dispatcher.message()
    async def _(message: Message) -> TelegramMethod[Any]:
        if message.text == "file":
            return message.answer_document(BufferedInputFile(b"content", "answer.txt"))
        return message.answer(f"echo {message.text}", reply_markup=YES_NO)

    async with receiving(bot, dispatcher, "sEcret_1") as url:
        await bot.set_webhook(url, secret_token="sEcret_1", drop_pending_updates=True)
        await stage.do("say", text="one")
        await until(lambda: _last_text(stage) == "echo one")
        await stage.do("say", text="file")
        await until(lambda: "document" in _messages(stage)[-1])
        assert _messages(stage)[-1]["document"]["file_name"] == "answer.txt"
        assert _messages(stage)[-3]["reply_markup"]["inline_keyboard"][0][0]["callback_data"] == "y"
        info = await bot.get_webhook_info()
        assert info.pending_update_count == 0
        assert info.last_error_date is None


class Receiver:
    """A webhook that answers as it is told and remembers what came."""

    def __init__(self) -> None:
        self.updates: list[dict[str, Any]] = []
        self.secrets: list[str | None] = []
        self.answers: list[web.Response] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.updates.append(json.loads(await request.text()))
        self.secrets.append(request.headers.get("X-Telegram-Bot-Api-Secret-Token"))
        return self.answers.pop(0) if self.answers else web.Response()

    @property
    def ids(self) -> list[int]:
        return [update["update_id"] for update in self.updates]


@pytest.fixture
async def receiver(bot: Bot) -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/hook"
    await bot.set_webhook(url, secret_token="s-1", drop_pending_updates=True)
    yield receiver
    await runner.cleanup()


async def test_webhooks_come_in_order_with_the_secret_and_are_updates(stage, bot, receiver):
    ids = [(await stage.do("say", text=str(number)))["update_id"] for number in range(10)]
    await until(lambda: len(receiver.ids) == 10)
    assert receiver.ids == ids
    assert set(receiver.secrets) == {"s-1"}
    for update in receiver.updates:
        assert Update.model_validate(update).message.from_user.id == USER


async def test_a_webhook_that_fails_is_tried_again_before_the_next(stage, bot, receiver):
    receiver.answers = [web.Response(status=500), web.Response(status=404)]
    ids = [(await stage.do("say", text=text))["update_id"] for text in ("a", "b")]
    await until(lambda: len(receiver.ids) == 4)
    assert receiver.ids == [ids[0], ids[0], ids[0], ids[1]]
    info = await bot.get_webhook_info()
    assert info.last_error_message == "Wrong response from the webhook: 404 Not Found"
    assert info.last_error_date is not None


async def test_what_nobody_takes_stays_pending_and_goes_over_to_polling(stage, bot):
    await bot.set_webhook("http://127.0.0.1:9/nobody", drop_pending_updates=True)
    said = await stage.do("say", text="kept")
    await until(lambda: stage.twin.bots[bot.id].webhook.last_error_message is not None)
    assert (await bot.get_webhook_info()).pending_update_count == 1
    await bot.delete_webhook()
    assert [update.update_id for update in await bot.get_updates()] == [said["update_id"]]


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.json_response({"method": "sendMessage", "chat_id": USER, "text": "by json"}),
        lambda: web.Response(
            text=f"method=sendMessage&chat_id={USER}&text=by+json",
            content_type="application/x-www-form-urlencoded",
        ),
    ],
)
async def test_a_method_in_the_answer_may_be_json_or_a_form(stage, receiver, answer):
    receiver.answers = [answer()]
    await stage.do("say", text="x")
    await until(lambda: _last_text(stage) == "by json")


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.json_response({"method": "sendMessage", "chat_id": 404, "text": "x"}),
        lambda: web.json_response({"method": "nonsense"}),
        lambda: web.json_response([]),
        lambda: web.Response(body=b"\xff{", content_type="application/json"),
        lambda: web.Response(text="thanks"),
    ],
)
async def test_an_answer_that_cannot_be_carried_out_is_still_taken_as_received(stage, bot, receiver, answer):
    receiver.answers = [answer()]
    await stage.do("say", text="a")
    await stage.do("say", text="b")
    await until(lambda: len(receiver.ids) == 2)
    assert len(set(receiver.ids)) == 2


async def test_the_answer_may_take_the_webhook_away(stage, bot, receiver):
    receiver.answers = [web.json_response({"method": "deleteWebhook"})]
    await stage.do("say", text="a")
    await until(lambda: stage.twin.bots[bot.id].webhook is None)
    assert await bot.get_updates() == []


async def test_a_webhook_is_duplicated_and_delayed_on_order(stage, bot, receiver):
    await stage.do("fault", kind="duplicate", on="webhook")
    await stage.do("fault", kind="delay", on="webhook", seconds=0.15)
    first = await stage.do("say", text="a")
    await until(lambda: len(receiver.ids) == 2)
    assert receiver.ids == [first["update_id"]] * 2
    await stage.do("say", text="b")
    await asyncio.sleep(0.05)
    assert len(receiver.ids) == 2
    await until(lambda: len(receiver.ids) == 3)


# Faults of methods.


async def test_faults_strike_what_they_name_and_as_often(stage, bot):
    await stage.do("fault", kind="status", status=429, retry_after=7, on="sendMessage", count=2)
    await bot.get_me()
    for _ in range(2):
        with pytest.raises(TelegramRetryAfter) as caught:
            await bot.send_message(USER, "x")
        assert caught.value.retry_after == 7
    await bot.send_message(USER, "x")
    assert len(await stage.chat()) == 2


@pytest.mark.parametrize(
    "fault",
    [{"kind": "delay", "on": "sendMesage"}, {"kind": "status", "on": "webhook"}],
    ids=["typo", "no sense"],
)
async def test_a_fault_that_could_never_strike_is_refused(stage, fault):
    with pytest.raises(ControlError):
        await stage.do("fault", **fault)
    assert stage.twin.faults.pending == []


@pytest.mark.parametrize(
    ("control", "order", "words"),
    [
        ("say", {"text": "x"}, "No bot has called yet"),
        ("say", {"bot": 5}, "nothing to say"),
        ("chat", {"bot": 5, "chat_id": 9}, "knows no such chat"),
        ("edit", {"bot": 5, "chat_id": 9, "message_id": 1, "text": "x"}, "knows no such chat"),
        ("raw", {"bot": 5, "update": {"update_id": "x"}}, "not an integer"),
    ],
)
async def test_a_control_that_cannot_be_carried_out_says_why(stage, control, order, words):
    with pytest.raises(ControlError, match=words):
        await stage.do(control, **order)


async def test_a_press_needs_a_button_and_an_edit_a_message_that_is_not_the_bots(stage, bot):
    with pytest.raises(ControlError, match="No message in this chat has inline buttons"):
        await stage.do("click", button="Yes")
    sent = await bot.send_message(USER, "Sure?", reply_markup=YES_NO)
    with pytest.raises(ControlError, match="Its buttons: Yes, No"):
        await stage.do("click", button="Maybe")
    with pytest.raises(ControlError, match="only the bot can edit it"):
        await stage.do("edit", chat_id=USER, message_id=sent.message_id, text="x")
    with pytest.raises(ControlError, match="no such message"):
        await stage.do("edit", chat_id=USER, message_id=99, text="x")


async def test_several_bots_have_to_be_told_apart(stage, bot):
    await stage.do("say", bot=42, text="x")
    with pytest.raises(ControlError, match="several bots"):
        await stage.do("say", text="x")


async def test_a_server_error(stage, bot):
    await stage.do("fault", kind="status")
    with pytest.raises(TelegramServerError):
        await bot.get_me()


async def test_a_dropped_answer_has_its_effect(stage, bot):
    await stage.do("fault", kind="drop_answer", on="sendMessage")
    with pytest.raises(TelegramNetworkError):
        await bot.send_message(USER, "done")
    assert _last_text(stage) == "done"


async def test_a_duplicated_request_has_its_effect_twice(stage, bot):
    await stage.do("fault", kind="duplicate", on="sendmessage")
    await bot.send_message(USER, "twice")
    assert [message.get("text") for message in _messages(stage)] == ["hello", "twice", "twice"]


async def test_a_delay(stage, bot):
    await stage.do("fault", kind="delay", seconds=0.2)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(bot.get_me(), 0.1)


# Controls.


async def test_an_edit_of_a_user_and_of_a_channel(stage, bot):
    said = await stage.do("say", text="one")
    await stage.do("edit", chat_id=USER, message_id=said["message_id"], text="two")
    posted = await stage.do("post", text="three")
    await stage.do("edit", chat_id=posted["chat_id"], message_id=posted["message_id"], text="four")
    first, edited, post, edited_post = (await bot.get_updates())[-4:]
    assert first.message.text == "one", "an update that waits does not change with the message"
    assert edited.edited_message.text == "two"
    assert post.channel_post.sender_chat.title == "Twin channel"
    assert edited_post.edited_channel_post.text == "four"


async def test_a_group_and_a_document_of_a_user(stage, bot):
    await stage.do("say", text="look", chat_id=-55, chat_title="Team", file_name="a.txt", file_text="hi")
    message = (await bot.get_updates())[-1].message
    assert (message.chat.type, message.chat.title, message.caption) == ("group", "Team", "look")
    file = await bot.get_file(message.document.file_id)
    assert (await bot.download_file(file.file_path)).read() == b"hi"


async def test_any_update_can_be_sent(stage, bot):
    sent = await stage.do("raw", update={"poll": {"id": "1"}})
    await stage.do("raw", update={"update_id": sent["update_id"], "poll": {"id": "1"}})
    async with httpx2.AsyncClient() as http:
        answer = await http.get(f"{stage.url}/bot{bot.token}/getUpdates", params={"offset": -2})
    assert answer.json()["result"] == [{"update_id": sent["update_id"], "poll": {"id": "1"}}] * 2
    assert (await stage.do("say", text="next"))["update_id"] == sent["update_id"] + 1


async def test_reset_forgets_everything(stage, bot):
    await bot.get_updates(offset=-1)
    poll = asyncio.create_task(bot.get_updates(offset=stage.twin.bots[bot.id].next_update_id, timeout=20))
    await asyncio.sleep(0.05)
    await stage.do("fault", kind="status")
    await stage.do("reset")
    assert stage.twin.state() == {"bots": [], "faults": []}
    with pytest.raises(TelegramConflictError):
        await asyncio.wait_for(poll, 5)


async def test_bots_do_not_see_each_other(stage, bot):
    session = AiohttpSession(api=TelegramAPIServer.from_base(stage.url))
    async with session:
        other = Bot("42:other", session=session)
        await other.get_me()
        await stage.do("say", bot=42, text="to the other")
        assert [update.message.text for update in await other.get_updates()] == ["to the other"]
        with pytest.raises(TelegramBadRequest, match="chat not found"):
            await other.send_message(4711, "x")
    assert all(update.message.text == "hello" for update in await bot.get_updates())


def _messages(stage: Any) -> list[dict[str, Any]]:
    (bot,) = stage.twin.bots.values()
    return [entry.message for entry in bot.chats[USER].entries.values()]


def _last_text(stage: Any) -> str | None:
    return _messages(stage)[-1].get("text")


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)
