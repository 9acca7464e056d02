"""Pages of lists: `{"items": [...], "next": cursor or null}`."""

from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from app.errors import Invalid, Problem

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=1000, description="Most items in one page")]
Cursor = Annotated[str | None, Query(max_length=100, description="Where to go on: `next` of the page before")]


class Page(BaseModel, Generic[T]):
    """One page of a list. `next` is null when there is nothing after it."""

    items: list[T]
    next: str | None = Field(description="Cursor of the next page, or null")


def position_of(cursor: str | None, parameter: str = "after") -> int | None:
    """The row position that a cursor stands for; None for none. Raises Invalid."""
    if not cursor:
        return None
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise Invalid(
            "The cursor is not one of this list.",
            code="invalid_cursor",
            remedy="Use `next` (or an event's `cursor`) as it was given, or leave it out to begin anew.",
            problems=[Problem(parameter, "invalid_cursor", "not a cursor")],
        )
    return int(cursor)
