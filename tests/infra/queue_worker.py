"""A worker process for the tests of the queue, which freeze and kill it.

    python -m tests.infra.queue_worker sqlite|postgres PATH_OR_URL HEARTBEAT hang|block SECONDS

Prints the ref of what it is called for; then it hangs, or stands still (its event loop too) for SECONDS and
prints the ref again.
"""

import asyncio
import sys
import time
from pathlib import Path

from app.infra.pgqueue import PgQueuerQueue
from app.infra.postgres import PostgresDatabase
from app.infra.queue import EmbeddedQueue, WorkQueue
from app.infra.sqlite import SqliteDatabase


def say(words: str) -> None:
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


async def main(storage: str, where: str, heartbeat: str, how: str, seconds: str) -> None:
    queue: WorkQueue
    if storage == "sqlite":
        queue = EmbeddedQueue(await SqliteDatabase.open(Path(where)), concurrency=8)
    else:
        database = await PostgresDatabase.open(where)
        queue = PgQueuerQueue(database, where, concurrency=8, heartbeat=float(heartbeat))

    async def handle(ref: str) -> None:
        say(ref)
        if how == "hang":
            await asyncio.Event().wait()
        time.sleep(float(seconds))
        say(ref)

    await queue.run({"k": handle})


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
