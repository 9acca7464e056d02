"""C04: a planted secret never appears in repr, error, log or Event."""

import asyncio
import base64
import contextlib
import io
import json
import logging
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import httpx2

from app.integrations.base import BaseIntegration

from .connection import MadeUpConnection, made_up_connection
from .delivery import deliver
from .fixtures import BASE_URL, TOKEN, made_up_request, request_of
from .model import Finding
from .outbound import Payloads, Request, outcome, payloads_of, requests_of
from .standin import Answer, StandIn, always, breaking
from .subject import ConnectorUnderTest

_SHORTEST = 8
"""A shorter value given in connection.json says nothing when it turns up."""


@dataclass
class _Lookout:
    """Looks for secrets in texts. `seen` is what was found where, each once."""

    secrets: dict[str, str]
    seen: dict[tuple[str, str], None] = field(default_factory=dict)

    def look(self, text: str, where: str) -> None:
        for name, value in self.secrets.items():
            if len(value) >= _SHORTEST and any(spelling in text for spelling in _spellings(value)):
                self.seen.setdefault((name, where))


def secrets_stay_inside(subject: ConnectorUnderTest) -> Iterator[Finding]:
    """C04."""
    connection = made_up_connection(subject)
    lookout = _Lookout(connection.secrets | {"(the webhook URL's token)": TOKEN})
    with _overheard(lookout):
        asyncio.run(_look_everywhere(subject, connection, lookout))
    for name, where in lookout.seen:
        yield Finding(
            f"the secret {name} appears in {where}.",
            "Keep it out: repr=False on a field, redact=[...] where the client is bound, and messages that "
            "name things instead of quoting what was sent or answered.",
            about=name,
        )


async def _look_everywhere(
    subject: ConnectorUnderTest, connection: MadeUpConnection, lookout: _Lookout
) -> None:
    async with connection.instance() as instance:
        _look_at_representations(instance, lookout)
    await _look_at_events(subject, connection, lookout)
    payloads = await payloads_of(subject, connection)
    for mode, answer in _failures().items():
        with StandIn(answer).in_place():
            async with connection.instance() as instance:
                for request in _requests(instance, connection, payloads):
                    error = await outcome(request.ask)
                    if error is not None:
                        lookout.look(_whole_text(error), f"the error of {request.name} ({mode})")


def _look_at_representations(instance: BaseIntegration, lookout: _Lookout) -> None:
    things = {"the instance": instance} | {
        f"its attribute {name}": value
        for name, value in getattr(instance, "__dict__", {}).items()
        # A text is what it is; an object decides what it shows of itself.
        if not isinstance(value, str | bytes | dict | list | tuple | set | frozenset)
    }
    for what, thing in things.items():
        for show in (repr, str):
            lookout.look(show(thing), f"{show.__name__}() of {what}")


async def _look_at_events(
    subject: ConnectorUnderTest, connection: MadeUpConnection, lookout: _Lookout
) -> None:
    if not subject.has_webhooks:
        return
    readable = [fixture for fixture in subject.fixtures if fixture.is_readable]
    requests = [request_of(subject.connector, fixture) for fixture in readable]
    requests.append(made_up_request(subject.connector, b"{}"))
    async with connection.instance() as instance:
        for request in requests:
            try:
                delivered = await deliver(instance, connection.received(connection.signed(request)))
            except Exception as error:  # noqa: BLE001 - C06 and C08 say what is wrong with it
                lookout.look(_whole_text(error), "the error of a webhook")
                continue
            for event in delivered.events:
                lookout.look(event.model_dump_json(), f"the event {event.type}")
            if delivered.reply is not None:
                lookout.look(delivered.reply.body.decode("utf-8", "replace"), "the reply to a webhook")


def _requests(
    instance: BaseIntegration, connection: MadeUpConnection, payloads: Payloads
) -> Iterator[Request]:
    yield from requests_of(instance, payloads)
    url = f"{BASE_URL}/{instance.key}/{TOKEN}"
    secrets = dict(connection.secrets)
    yield Request("register_webhook", partial(instance.register_webhook, url, secrets))
    yield Request("unregister_webhook", instance.unregister_webhook)


def _whole_text(error: BaseException) -> str:
    """What any log would show of an error: its words, its arguments, its causes."""
    return "\n".join([str(error), repr(error), repr(error.args), *traceback.format_exception(error)])


def _failures() -> dict[str, Answer]:
    """Providers that fail, and quote what they were sent while they do."""
    faults = (httpx2.ReadTimeout, httpx2.ConnectError, httpx2.RemoteProtocolError)
    statuses = (200, 302, 400, 401, 403, 404, 409, 422, 429, 500, 503)
    answers = {f"{status} with an echo": _echo(status) for status in statuses}
    answers |= {
        f"{status} with an echo inside": _echo(status, inside=True) for status in (200, 400, 401, 500)
    }
    answers |= {"200 with HTML": always(200, "<html></html>"), "200 with a list": always(200, "[]")}
    return answers | {kind.__name__: breaking(kind) for kind in faults}


def _echo(status: int, *, inside: bool = False) -> Answer:
    """An answer that quotes the request wherever providers put words: in texts, or inside of objects."""
    fields = ("message", "error", "description", "error_description", "detail", "title", "reason", "code")

    def answer(request: httpx2.Request) -> httpx2.Response:
        said = f"{request.url} {dict(request.headers)} {request.content.decode('utf-8', 'replace')}"
        words = dict.fromkeys(fields, said)
        body: dict[str, object] = {**words, "ok": False, "status": status, "error_code": status}
        body |= {"error": words, "errors": [words]} if inside else {"errors": [said]}
        return httpx2.Response(status, content=json.dumps(body), headers={"location": str(request.url)})

    return answer


@contextlib.contextmanager
def _overheard(lookout: _Lookout) -> Iterator[None]:
    """Looks at everything that is logged or printed meanwhile."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with contextlib.redirect_stdout(written), contextlib.redirect_stderr(written):
            yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        lookout.look(written.getvalue(), "the log or the output")


def _spellings(value: str) -> list[str]:
    """The value as it stands, and as it shows in base64 wherever it begins there."""
    raw = value.encode()
    encoded = [base64.b64encode(b"\0" * shift + raw).decode() for shift in range(3)]
    return [value, *(text[4:].rstrip("=")[:-1] for text in encoded)]
