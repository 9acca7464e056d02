import json
from pathlib import Path
from typing import Any

import pytest
from aiogram.types import Update

from app.integrations.connectors.telegram.connector import TelegramConnector
from app.integrations.connectors.telegram.schemas import UPDATE_KINDS, TelegramSettings
from app.integrations.errors import InvalidBody
from app.integrations.http import ConnectorHttp
from app.integrations.models import Event

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def connector() -> TelegramConnector:
    return TelegramConnector("700111222:abc", TelegramSettings(), ConnectorHttp())


async def event_of(connector: TelegramConnector, name: str) -> Event:
    return await connector.handle_webhook(json.loads((FIXTURES / f"{name}.json").read_text()))


async def test_each_fixture_becomes_the_event_it_is_named_after(connector, fixture):
    name, update = fixture
    event = await connector.handle_webhook(update)
    assert event.type == name
    assert event.external_id == str(update["update_id"])
    spec = connector.event_spec(event.type)
    assert spec.unique_id
    spec.model.model_validate(event.payload)
    assert all(field.description for field in spec.model.model_fields.values())
    json.dumps(event.payload)


async def test_every_declared_event_has_a_fixture(connector):
    named = {path.stem.split("__")[0] for path in FIXTURES.glob("*.json")}
    assert named == {spec.name for spec in connector.events}


async def test_a_message_is_laid_out_flat_beside_the_original(connector):
    event = await event_of(connector, "telegram.message.received")
    raw = event.payload.pop("raw")
    assert raw["entities"][0]["type"] == "bot_command"
    assert event.payload == {
        "update_id": 810200301,
        "chat_id": "5000111222",
        "chat_type": "private",
        "chat_title": None,
        "message_id": 17,
        "message_thread_id": None,
        "date": 1781170000,
        "edit_date": None,
        "from_id": "5000111222",
        "from_name": "Ann Lee",
        "from_username": "ann_lee",
        "text": "/start hello",
        "file_id": None,
        "reply_to_message_id": None,
    }


async def test_a_photo_gives_its_largest_size_caption_topic_and_what_it_answers(connector):
    payload = (await event_of(connector, "telegram.message.received__photo_in_topic")).payload
    assert payload["file_id"] == "AgACAgIAAxkBAAIBlarge"
    assert payload["text"] == "Here it is"
    assert payload["message_thread_id"] == 900
    assert payload["reply_to_message_id"] == 905
    assert payload["chat_title"] == "Support"


async def test_a_channel_post_has_no_sender_but_its_document(connector):
    payload = (await event_of(connector, "telegram.channel_post.received")).payload
    assert payload["from_id"] is payload["from_name"] is None
    assert payload["file_id"] == "BQACAgIAAxkBAAIBdoc"


async def test_a_press_names_query_message_and_data(connector):
    payload = (await event_of(connector, "telegram.callback_query.received")).payload
    assert payload["callback_query_id"] == "4382736351039219573"
    assert (payload["chat_id"], payload["message_id"], payload["data"]) == ("5000111222", 18, "yes:17")
    inline = (await event_of(connector, "telegram.callback_query.received__inline")).payload
    assert inline["chat_id"] is None
    assert inline["inline_message_id"] == "AQAAAInline"


async def test_a_blocked_bot_learns_who_did_it(connector):
    payload = (await event_of(connector, "telegram.my_chat_member.updated")).payload
    assert (payload["old_status"], payload["new_status"]) == ("member", "kicked")
    assert payload["from_id"] == "5000111222"


async def test_another_kind_keeps_everything(connector):
    event = await event_of(connector, "telegram.update.received")
    assert event.payload["kind"] == "poll_answer"
    assert event.payload["update"]["poll_answer"]["option_ids"] == [1]


MESSAGE = {"message_id": 1, "date": 2, "chat": {"id": 3, "type": "private"}}


@pytest.mark.parametrize(
    ("update", "code"),
    [
        ({}, "not_an_update"),
        ({"update_id": 1}, "not_an_update"),
        ({"message": MESSAGE}, "not_an_update"),
        ({"update_id": "1", "message": MESSAGE}, "not_an_update"),
        ({"update_id": True, "message": MESSAGE}, "not_an_update"),
        ({"update_id": None, "message": MESSAGE}, "not_an_update"),
        ({"update_id": 1, "message": MESSAGE, "edited_message": MESSAGE}, "not_an_update"),
        ({"update_id": 1, "new_a": {}, "new_b": {}}, "not_an_update"),
        ({"update_id": 1, "message": None}, "invalid_message"),
        ({"update_id": 1, "message": []}, "invalid_message"),
        ({"update_id": 1, "message": {**MESSAGE, "date": "planted value"}}, "invalid_message"),
        ({"update_id": 1, "message": {**MESSAGE, "chat": {"id": "planted value"}}}, "invalid_message"),
        ({"update_id": 1, "message": {**MESSAGE, "photo": [{"planted value": 1}]}}, "invalid_message"),
        ({"update_id": 1, "edited_message": {}}, "invalid_edited_message"),
        ({"update_id": 1, "channel_post": 5}, "invalid_channel_post"),
        ({"update_id": 1, "callback_query": {"id": 5}}, "invalid_callback_query"),
        ({"update_id": 1, "my_chat_member": {"chat": {}}}, "invalid_my_chat_member"),
    ],
)
async def test_a_malformed_update_is_a_named_error_without_its_values(connector, update, code):
    with pytest.raises(InvalidBody) as caught:
        await connector.handle_webhook(update)
    assert caught.value.code == code
    assert "planted value" not in str(caught.value)
    # Nor in what a traceback would show beside it.
    assert caught.value.__context__ is None or caught.value.__suppress_context__


async def test_an_error_names_the_field(connector):
    with pytest.raises(InvalidBody, match=r"chat\.id"):
        await connector.handle_webhook({"update_id": 1, "message": {**MESSAGE, "chat": {"type": "group"}}})


def test_fixtures_hold_only_fields_of_the_bot_api_and_all_that_it_requires(fixture, api):
    _, update = fixture
    kind = next(name for name in update if name != "update_id")
    if kind == "kind_of_tomorrow":
        return
    assert kind in api["types"]["Update"]
    form = api["types"]["Update"][kind]["types"][0]
    if form in api["types"]:
        assert_form(update[kind], form, api["types"])
    Update.model_validate(update)


def test_every_update_kind_of_the_bot_api_is_known(api):
    assert set(UPDATE_KINDS) == set(api["types"]["Update"]) - {"update_id"}


def assert_form(value: dict[str, Any], form: str, types: dict[str, Any]) -> None:
    """The object has no field that its type has not, and every required one; so have those inside it."""
    fields = types[form]
    assert set(value) <= set(fields), form
    # An InaccessibleMessage stands where a Message may; both have these.
    assert {name for name, field in fields.items() if field["required"]} <= set(value), form
    for name, inner in value.items():
        inner_form = fields[name]["types"][0].removeprefix("Array of ").removeprefix("Array of ")
        if inner_form in types:
            for part in inner if isinstance(inner, list) else [inner]:
                for leaf in part if isinstance(part, list) else [part]:
                    assert_form(leaf, inner_form, types)
