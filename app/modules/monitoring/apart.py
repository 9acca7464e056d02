"""`/metrics`, `/healthz` and `/readyz` on a port of their own: all that a worker has to say over HTTP, and
for other processes a way to keep it from where providers and callers come in.

Raw ASGI like the metrics, so that a worker need not load the web framework for it.
"""

import orjson

from app.errors import StorageUnavailable
from app.infra.db import Database

from .endpoint import Asgi, MetricsEndpoint, Receive, Scope, Send, answer


def monitoring(database: Database) -> Asgi:
    """Everything that is on the port."""

    async def health(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status, said = await _health(database, scope["path"])
        body = b"" if scope["method"] == "HEAD" else orjson.dumps(said)
        await answer(send, status, body, (b"content-type", b"application/json"))

    return MetricsEndpoint(health, database)


async def _health(database: Database, path: str) -> tuple[int, dict[str, str]]:
    if path == "/healthz":
        return 200, {"status": "ok"}
    if path != "/readyz":
        return 404, {"status": "not_found"}
    try:
        await database.check()
    except StorageUnavailable as error:
        return 503, {"status": error.code, "reason": error.message}
    return 200, {"status": "ready"}
