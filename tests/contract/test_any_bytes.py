"""What C08 asks with bodies that somebody thought of, asked with any."""

import asyncio
import contextlib
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from app.checks.connection import MadeUpConnection, made_up_connection
from app.checks.delivery import deliver
from app.checks.fixtures import made_up_request
from app.checks.genuine import NOW
from app.checks.subject import ConnectorUnderTest, discovered
from app.integrations.errors import InboundError

RECEIVERS = [
    pytest.param(subject, id=subject.key) for subject in discovered(entry_points=None) if subject.has_webhooks
]

KEYS = ["id", "type", "event", "data", "object", "message", "payload", "text", "entry", "items", "value"]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
BODIES = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode())
FORMS = st.sampled_from(["json", "form", "xml", "txt", "bin"])


@pytest.mark.parametrize("subject", RECEIVERS)
@given(data=st.data())
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_bytes_end_in_events_or_in_an_error_that_says_why(subject: ConnectorUnderTest, data: Any) -> None:
    connection = made_up_connection(subject)
    body, form = data.draw(BODIES), data.draw(FORMS)
    asyncio.run(take(connection, made_up_request(subject.connector, body, form=form)))


async def take(connection: MadeUpConnection, request: Any) -> None:
    if connection.verification is not None:
        with contextlib.suppress(InboundError):
            connection.verification.verify(request, connection.sender.live(), NOW)
    async with connection.instance() as instance:
        with contextlib.suppress(InboundError, ValidationError):
            await deliver(instance, connection.received(request))
