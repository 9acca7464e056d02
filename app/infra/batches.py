"""Group commit for units of work: what is asked for one by one is done together."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from app.errors import StorageUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST = 64


class Batches(Generic[Item, Result]):
    """Has `work` do what was asked for; what is asked for meanwhile is its next batch.

    `work` takes items and returns their results in the same order, all or nothing. If it fails, each item is
    done alone, so that one which cannot be done does not keep the others from it. StorageUnavailable is
    everybody's.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        most: int = MOST,
        size: Callable[[Item], int] = lambda item: 1,
    ) -> None:
        """A batch takes no more items once it has `most`, by their `size`."""
        self._work = work
        self._most = most
        self._size = size
        self._asked: list[tuple[Item, asyncio.Future[Result]]] = []
        self._working: asyncio.Task[None] | None = None

    def ask(self, item: Item) -> "asyncio.Future[Result]":
        """It is done even if nobody waits for it any more."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._asked.append((item, future))
        if self._working is None:
            self._working = asyncio.create_task(self._run())
        return future

    async def _run(self) -> None:
        try:
            while self._asked:
                await self._do(self._take())
        finally:
            self._working = None

    def _take(self) -> "list[tuple[Item, asyncio.Future[Result]]]":
        taken = size = 0
        while taken < len(self._asked) and size < self._most:
            size += self._size(self._asked[taken][0])
            taken += 1
        batch, self._asked = self._asked[:taken], self._asked[taken:]
        return batch

    async def _do(self, batch: "list[tuple[Item, asyncio.Future[Result]]]") -> None:
        try:
            results = await self._work([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to whoever asked
            if len(batch) > 1 and not isinstance(error, StorageUnavailable):
                for one in batch:
                    await self._do([one])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
