"""What connectors do with an inbound item before they trust its form."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, StringConstraints, ValidationError

from .errors import InvalidBody

M = TypeVar("M", bound=BaseModel)

ProviderId = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
"""An identifier that can become an `Event.external_id`, alone or with a few words beside it."""


def validated(model: type[M], value: Any, what: str) -> M:
    """`value` as an instance of `model`. Raises InvalidBody (`invalid_<what>`), which names the fields that
    do not fit and none of their values."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)[:5]
        fields = ", ".join(".".join(map(str, problem["loc"])) or what for problem in problems)
        # Without "from": the cause would carry the input values into every traceback.
        raise InvalidBody(f"invalid_{what}", f"Missing or invalid in this {what}: {fields}.") from None
