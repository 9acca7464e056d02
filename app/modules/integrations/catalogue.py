"""An integration's declarations in the shape of the API."""

import inspect
from functools import lru_cache
from typing import Any

from pydantic import BaseModel
from pydantic.errors import PydanticUserError

from app.integrations.registry import Integration
from app.integrations.verification import in_words

from .models import CatalogueEntry
from .schemas import ActionSpecOut, EventSpecOut, IntegrationOut, LimitsOut, PollSpecOut, SecretOut


def describe(integration: Integration) -> IntegrationOut:
    """Everything that a registered connector declares."""
    connector = integration.connector
    model = connector.settings_model
    return IntegrationOut(
        key=connector.key,
        name=connector.name,
        version=connector.version,
        available=True,
        description=(inspect.cleandoc(connector.__dict__.get("__doc__") or "").splitlines() or [""])[0],
        secrets=[
            SecretOut(name=s.name, description=s.description, required=s.required, generated=s.generate)
            for s in connector.secrets
        ],
        actions=[
            ActionSpecOut(
                name=a.name,
                description=a.description,
                effect=a.effect,
                reads=a.reads,
                destructive=a.destructive,
                payload_schema=_schema(a.model),
                result_schema=_schema(a.result) if a.result else None,
            )
            for a in connector.actions
        ],
        events=[
            EventSpecOut(
                name=e.name,
                description=e.description,
                unique_id=e.unique_id,
                payload_schema=_schema(e.model) if e.model else None,
            )
            for e in connector.events
        ],
        polls=[PollSpecOut(name=p.name, every=p.every, deadline=p.deadline) for p in connector.polls],
        limits=LimitsOut.of(connector.limits) if connector.actions else None,
        settings_schema=_schema(model) if model else None,
        receives=[
            *(["webhook"] if integration.takes_webhooks else []),
            *(["poll"] if connector.polls else []),
        ],
        verified=connector.verification is not None,
        verification=in_words(connector.verification) if integration.takes_webhooks else None,
    )


@lru_cache(maxsize=4096)
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    try:
        return model.model_json_schema()
    except PydanticUserError as error:
        # One field of one connector must not hide the whole catalogue.
        return {"description": f"{model.__name__} has no JSON Schema: {error.message}"}


def describe_absent(entry: CatalogueEntry) -> IntegrationOut:
    """What is remembered of an integration whose connector is gone or broken."""
    return IntegrationOut(
        key=entry.key,
        name=entry.name,
        version=entry.version,
        available=False,
        description="",
        secrets=[],
        actions=[],
        events=[],
        polls=[],
        limits=None,
        settings_schema=None,
        receives=[],
        verified=False,
        verification=None,
    )
