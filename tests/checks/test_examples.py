"""Payloads made up from schemas."""

import re
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, field_validator, model_validator

from app.checks.examples import of_pattern, payloads_for


class Colour(Enum):
    RED = "red"


class Part(BaseModel):
    name: str
    note: str = "none"


class Node(BaseModel):
    children: list["Node"] = []
    parent: "Node | None" = None


class OneOfTwo(BaseModel):
    link: str | None = None
    id: str | None = None

    @model_validator(mode="after")
    def _one(self) -> "OneOfTwo":
        if (self.link is None) == (self.id is None):
            raise ValueError("one of them")
        return self


class Everything(BaseModel):
    text: str
    long: str = Field(min_length=40, max_length=41)
    short: str = Field(max_length=2)
    code: str = Field(pattern=r"^AC[0-9a-f]{32}$")
    number: int = Field(ge=100)
    fraction: float = Field(gt=0, lt=1)
    even: int = Field(multiple_of=7, ge=50)
    flag: bool
    kind: Literal["a", "b"]
    colour: Colour
    parts: list[Part]
    many: list[str] = Field(min_length=3)
    pairs: dict[str, int]
    anything: Any
    maybe: str | None
    either: int | str
    example: str = Field(examples=["as they write it"])
    nested: Part
    inside: OneOfTwo
    free: dict[str, Any]
    when: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Picky(BaseModel):
    at: str
    file: str

    @field_validator("at")
    @classmethod
    def _time(cls, value: str) -> str:
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            raise ValueError("not a date")
        return value

    @field_validator("file")
    @classmethod
    def _base64(cls, value: str) -> str:
        import base64

        base64.b64decode(value, validate=True)
        return value


class Impossible(BaseModel):
    text: str = Field(min_length=3, max_length=2)


@pytest.mark.parametrize("model", [Everything, Picky, OneOfTwo, Node, Part])
def test_a_payload_is_made_up(model: type[BaseModel]) -> None:
    model.model_validate(next(payloads_for(model)))


def test_the_smallest_comes_first() -> None:
    assert next(payloads_for(Part)) == {"name": "made up"}
    assert list(payloads_for(Part))[1] == {"name": "made up", "note": "none"}


def test_given_fields_are_as_they_are() -> None:
    assert next(payloads_for(Part, {"name": "mine"})) == {"name": "mine"}
    assert list(payloads_for(Part, {"name": 5})) == []


def test_an_impossible_model_has_none() -> None:
    assert list(payloads_for(Impossible)) == []


@pytest.mark.parametrize(
    "pattern",
    [
        r"^AC[0-9a-f]{32}$", r"^\d+\.\d{6}$", r"^https?://[^\s?#]+$", r"^(?:a|b)+c?$", r"^[\w.+-]+/[\w.+-]+$",
        r"^[^\x00]*$", r"^#?[A-Z]{3,}$", r"x", r"^\S+@\S+$", r"^(\+|00)[1-9]\d{6,14}$", r"^[^a-z]{4}\W$",
        r".",
    ],
)  # fmt: skip
def test_a_text_is_made_after_a_pattern(pattern: str) -> None:
    text = of_pattern(pattern)
    assert text is not None
    assert re.search(pattern, text)


@pytest.mark.parametrize("pattern", [r"^(?!a)b$", r"(a)\1", r"(", r"^[é]$"])
def test_what_is_too_much_is_left_to_the_author(pattern: str) -> None:
    text = of_pattern(pattern)
    assert text is None or re.search(pattern, text)
