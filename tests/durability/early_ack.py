"""The platform with a fault put in: webhooks are acknowledged before they are on disk.

Run like `app`. The proof that nothing is lost by a kill has to find this out.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Table

from app.infra.sqlite import SqliteDatabase

DELAY = 0.1

_appender = SqliteDatabase.appender


def _early(self: SqliteDatabase, table: Table, columns: Sequence[str]) -> Any:
    append = _appender(self, table, columns)

    async def store_later(row: tuple[Any, ...]) -> None:
        asyncio.get_running_loop().call_later(DELAY, append, row)

    return store_later


if __name__ == "__main__":
    SqliteDatabase.appender = _early  # type: ignore[method-assign]

    from app.__main__ import main

    main()
