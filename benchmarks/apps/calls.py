"""What calls to the provider cost alone: `python -m benchmarks.apps.calls URL COUNT CONCURRENCY` makes them
with the HTTP client that connectors get, stores nothing, and prints how many there were in a second."""

import asyncio
import sys
import time

import uvloop

from app.integrations.http import ConnectorHttp


async def make_calls(url: str, count: int, concurrency: int) -> float:
    http = ConnectorHttp()
    waiting = iter(range(count))

    async def one_after_the_other() -> None:
        for number in waiting:
            await http.post(url, json={"ref": str(number)})

    began = time.perf_counter()
    await asyncio.gather(*(one_after_the_other() for _ in range(concurrency)))
    took = time.perf_counter() - began
    await http.aclose()
    return count / took


if __name__ == "__main__":
    print(uvloop.run(make_calls(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
