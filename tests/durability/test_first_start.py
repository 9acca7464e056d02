"""The first start, interrupted: the next one completes it."""

import asyncio
import random
import socket
from pathlib import Path
from typing import Any

import pytest

from app import main, worker
from app.integrations.twin import _listen
from tests.support.connectors import OpenConnector
from tests.support.platform import running_platform
from tests.support.process import PlatformProcess, connect


async def test_a_first_start_that_is_killed_is_completed_by_the_next(
    tmp_path: Path, connectors: Path, chance: random.Random
) -> None:
    for number in range(5):
        platform = PlatformProcess(tmp_path / f"data-{number}", connectors=connectors)
        platform.spawn()
        try:
            # Into the time in which folder, keys, schema and catalogue are made.
            await asyncio.sleep(chance.uniform(0.6, 1.3))
            platform.kill()
            await platform.start()
            async with platform.client() as client:
                await connect(client, "signed")
        finally:
            platform.kill()


async def test_the_admin_key_is_in_its_file_before_it_is_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_private = worker.write_private

    def interrupted(path: Path, text: str) -> None:
        raise OSError("interrupted")

    monkeypatch.setattr(worker, "write_private", interrupted)
    with pytest.raises(OSError, match="interrupted"):
        async with running_platform(tmp_path, OpenConnector):
            pass
    monkeypatch.setattr(worker, "write_private", write_private)
    async with running_platform(tmp_path, OpenConnector) as it:
        assert it.platform.admin_key == (tmp_path / "admin.key").read_text().strip()
        await it.connect("open")


@pytest.mark.parametrize("listen", [main.bind, _listen], ids=["platform", "twin"])
async def test_answers_do_not_wait_for_more_to_send(listen: Any) -> None:
    """asyncio switches Nagle's algorithm off only for sockets that say that they are TCP."""
    with listen("127.0.0.1", 0) as listener:
        listener.listen()
        listener.setblocking(False)
        accepted = asyncio.get_running_loop().create_future()

        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            option = writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            accepted.set_result(option)
            writer.close()

        async with await asyncio.start_server(serve, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            assert await accepted != 0
            writer.close()
