"""The platform of `trunkline dev`: one state of the code, in a process of its own.

It imports the platform and waits, so that the step from a saved file to running code is short. Orders come
on standard input, one JSON document a line; what there is to tell goes to a pipe, in the same form. Standard
output is left to the connector, whose author may print what he likes.

    discover  imports the connectors and tells what is broken: `discovered`
    serve     serves the socket that it was given: `ready`, then `previewed` for each last webhook, `looked`,
              and from then on `received` and `refused` as requests come in
    (end)     stops, as SIGTERM does

`failed` says that it cannot go on, and why.
"""

import asyncio
import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

import structlog

from app.errors import NotFound, TrunklineError
from app.infra.clock import now_ms
from app.infra.place import kind_and_place

from .exits import CommandFailed

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from app.integrations.registry import Registry
    from app.main import Platform
    from app.modules.integrations.refusals import Refusal
    from app.modules.webhooks.outcomes import Outcome, Source

log = structlog.get_logger()

EVERY = 0.1
"""Seconds between two looks at what has come in."""

CONNECTORS = "app.integrations.connectors"


def main() -> None:
    order = json.loads(sys.argv[1])
    voice = os.fdopen(order["voice"], "w", encoding="utf-8")

    def say(what: str, **told: Any) -> None:
        voice.write(json.dumps({"what": what, **told}) + "\n")
        voice.flush()

    try:
        _run(order, say)
    except TrunklineError as error:
        say("failed", **_failure(error))
        sys.exit(1)


def _run(order: Any, say: Any) -> None:
    import app.main
    from app.cli.serve import facts, run_to_the_end
    from app.cli.supervision import stop_at_end_of_stdin
    from app.config import load_settings
    from app.integrations.registry import Registry

    if not sys.stdin.readline():
        return
    # Two saves within a second can leave bytecode that passes for the newer file's.
    sys.dont_write_bytecode = True
    settings = load_settings(**order["flags"])
    registry = Registry.discover(settings.connectors_path)
    say(
        "discovered",
        broken=[{"source": b.source, "reason": b.reason, "remedy": b.remedy} for b in registry.broken],
    )
    if not (wanted := sys.stdin.readline()):
        return
    stop_at_end_of_stdin()
    scope, began = json.loads(wanted), now_ms()

    async def watch(platform: "Platform") -> None:
        try:
            await _Watch(platform, scope, say).run(began)
        except TrunklineError as error:
            say("failed", **_failure(error))
        except Exception as error:
            log.exception("watching_failed")
            say("failed", **_failure(TrunklineError(f"Watching has ended: {kind_and_place(error)}.")))

    run_to_the_end(
        app.main.serve(
            settings,
            lambda platform, url: say("ready", **facts(platform, url)),
            listener=socket.socket(fileno=order["listener"]),
            registry=registry,
            beside=watch,
        )
    )


class _Watch:
    """Tells what the code makes of the last webhooks, and what comes in."""

    def __init__(self, platform: "Platform", scope: Any, say: Any) -> None:
        self._platform = platform
        self._scope = scope
        self._say = say
        self._connection: str | None = None

    async def run(self, began: int) -> None:
        """Until it is cancelled. What came before `began` is looked at again, the rest is new."""
        from app.modules.webhooks import outcomes

        self._platform.refusals.watcher = self._refused
        # Connections wait in the socket while nobody serves: the first may have been served before this.
        last = await self._platform.database.read(lambda session: outcomes.last_seq(session, began))
        sources = await self._last_webhooks(last)
        # At the same time: a connector may take long for what it gets again.
        await asyncio.gather(self._look_again(sources), self._follow(last))

    async def _look_again(self, sources: "list[Source]") -> None:
        from app.modules.webhooks import outcomes

        def unit(session: "Session") -> "list[Outcome | None]":
            return [outcomes.as_stored(session, source) for source in sources]

        for source, stored in zip(sources, await self._platform.database.read(unit), strict=True):
            parsed = await self._platform.worker.processor.preview(source.webhook)
            preview = outcomes.as_parsed(source, parsed)
            self._say("previewed", now=_shown(preview), stored=_shown(stored) if stored else None)
        self._say("looked", webhooks=len(sources))

    def _refused(self, connection: str, refusal: "Refusal") -> None:
        if self._connection in (None, connection):
            self._say("refused", connection=connection, code=refusal.code, message=refusal.message)

    async def _last_webhooks(self, last: int) -> "list[Source]":
        from app.modules.webhooks import outcomes

        read = self._platform.database.read
        if webhook := self._scope["webhook"]:
            found = await read(lambda session: outcomes.source_of(session, webhook))
            if found is None:
                raise NotFound("webhook", webhook)
            self._connection = found.connection
            return [found]
        keys = None
        if called := self._scope["connection"]:
            ids = await read(lambda session: outcomes.connections_called(session, called))
            if not ids:
                raise NotFound("connection", called)
            if len(ids) > 1:
                message = f"{len(ids)} connections are named '{called}'."
                raise TrunklineError(message, remedy=f"Give the id: {', '.join(ids)}.")
            self._connection = ids[0]
        elif (folders := self._scope["folders"]) is not None:
            keys = _keys_in(self._platform.registry, folders)
        return await read(lambda session: outcomes.newest_of_each(session, last, keys, self._connection))

    async def _follow(self, last: int) -> None:
        """Tells of every webhook once it is settled, however long its connector takes."""
        from app.modules.webhooks import outcomes

        unsettled: set[int] = set()

        def unit(session: "Session") -> "list[tuple[Source, Outcome | None]]":
            found = outcomes.newer(session, last, unsettled, self._connection)
            return [(source, outcomes.as_stored(session, source)) for source in found]

        while True:
            await asyncio.sleep(EVERY)
            for source, outcome in await self._platform.database.read(unit):
                last = max(last, source.seq)
                if outcome is None:
                    unsettled.add(source.seq)
                else:
                    unsettled.discard(source.seq)
                    self._say("received", now=_shown(outcome))


def _failure(error: TrunklineError) -> dict[str, Any]:
    exit_code = CommandFailed.from_error(error).exit_code
    return {"message": error.message, "remedy": error.remedy, "exit_code": exit_code}


def _keys_in(registry: "Registry", folders: list[str]) -> list[str]:
    """Keys of the connectors that live in folders of these names."""
    packages = [f"{CONNECTORS}.{folder}" for folder in folders]
    return [
        integration.key
        for integration in registry.integrations.values()
        if any(f"{integration.connector.__module__}.".startswith(f"{package}.") for package in packages)
    ]


def _shown(outcome: "Outcome") -> dict[str, Any]:
    source, failure = outcome.source, outcome.failure
    return {
        "webhook": source.webhook,
        "connection": source.connection,
        "name": source.name,
        "integration": source.integration,
        "events": [
            {"type": e.type, "external_id": e.external_id, "payload": json.loads(e.payload)}
            for e in outcome.events
        ],
        "failure": {"code": failure.code, "message": failure.message} if failure else None,
    }


if __name__ == "__main__":
    main()
