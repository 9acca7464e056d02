"""Units of work that are asked for one by one and done together."""

import asyncio
from collections.abc import Sequence

import pytest

from app.errors import StorageUnavailable
from app.infra.batches import Batches


class Work:
    """Doubles numbers, one batch at a time, once it may."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.may = asyncio.Event()
        self.bad: set[int] = set()
        self.down = False

    async def __call__(self, numbers: Sequence[int]) -> list[int]:
        await self.may.wait()
        self.batches.append(list(numbers))
        if self.down:
            raise StorageUnavailable("down")
        if self.bad & set(numbers):
            raise ValueError("bad")
        return [2 * number for number in numbers]


async def test_what_comes_meanwhile_is_the_next_batch() -> None:
    work = Work()
    batches = Batches(work, most=3)
    first = batches.ask(0)
    await asyncio.sleep(0)
    others = [batches.ask(number) for number in range(1, 6)]
    work.may.set()
    assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10]
    assert work.batches == [[0], [1, 2, 3], [4, 5]]
    assert await batches.ask(6) == 12


async def test_one_that_cannot_be_done_fails_alone() -> None:
    work = Work()
    work.bad, batches = {2}, Batches(work)
    asked = [batches.ask(number) for number in range(4)]
    work.may.set()
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [r for r in results if not isinstance(r, Exception)] == [0, 2, 6]
    assert isinstance(results[2], ValueError)


async def test_without_storage_nobody_is_tried_alone() -> None:
    work = Work()
    work.down, batches = True, Batches(work)
    asked = [batches.ask(number) for number in range(3)]
    work.may.set()
    for future in asked:
        with pytest.raises(StorageUnavailable):
            await future
    assert work.batches == [[0, 1, 2]]
    work.down = False
    assert await batches.ask(1) == 2


async def test_it_is_done_even_if_nobody_waits_any_more() -> None:
    work = Work()
    batches = Batches(work)
    gone, stays = batches.ask(1), batches.ask(2)
    gone.cancel()
    work.may.set()
    assert await stays == 4
    assert work.batches == [[1, 2]]
