import pytest
from pydantic import BaseModel, ValidationError

from app.integrations.errors import InvalidBody
from app.integrations.files import FileUpload
from app.integrations.inbound import ProviderId, validated


class Inner(BaseModel):
    number: int


class Thing(BaseModel):
    id: ProviderId
    inner: Inner


def test_what_fits_is_handed_on():
    assert validated(Thing, {"id": "a", "inner": {"number": 1}}, "thing").inner.number == 1


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        ({"id": "a", "inner": {"number": "planted value"}}, "inner.number"),
        ({"id": "x" * 257, "inner": {"number": 1}}, "id"),
        ({"id": "a\x00", "inner": {"number": 1}}, "id"),
        ({}, "id, inner"),
        ("planted value", "thing"),
    ],
)
def test_what_does_not_fit_is_named_without_its_values(value, fields):
    with pytest.raises(InvalidBody) as caught:
        validated(Thing, value, "thing")
    assert caught.value.code == "invalid_thing"
    assert str(caught.value) == f"Missing or invalid in this thing: {fields}."
    assert caught.value.__suppress_context__


def test_a_file_brings_its_content_and_keeps_it_out_of_its_repr():
    file = FileUpload(filename="a.txt", content_base64="aGVsbG8=")
    assert file.content == b"hello"
    assert "aGVsbG8" not in repr(file)


@pytest.mark.parametrize(
    "wrong",
    [
        {"filename": "../a", "content_base64": "aGVsbG8="},
        {"filename": "a", "content_base64": "not base64"},
        {"filename": "a", "content_base64": "aGVsbG8=", "content_type": "text"},
        {"filename": "a", "content_base64": "aGVsbG8=", "url": "https://a.example"},
    ],
)
def test_a_file_that_cannot_be_one_is_refused(wrong):
    with pytest.raises(ValidationError):
        FileUpload.model_validate(wrong)
