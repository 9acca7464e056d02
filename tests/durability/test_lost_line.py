"""The line to PostgreSQL is cut while something is being committed: nobody knows what became of it."""

from pathlib import Path

import httpx2
import pytest

from app.modules.webhooks import service
from tests.support.connectors import OpenConnector
from tests.support.platform import eventually, running_platform
from tests.support.postgres import PostgresServer
from tests.support.process import connect, platform_process
from tests.support.proxy import Proxy
from tests.support.storage import MASTER_KEY
from tests.torture.provider import Provider, running

OPENED = b"INSERT INTO attempts"


@pytest.mark.timeout(60)
@pytest.mark.parametrize("delivered", [False, True], ids=["before", "after"])
async def test_an_attempt_that_may_have_been_opened_is_carried_out_once(
    postgres: PostgresServer,
    empty_postgres: str,
    tmp_path: Path,
    connectors: Path,
    delivered: bool,
) -> None:
    provider = Provider()
    async with running(provider) as provider_url, Proxy(postgres.port, after=OPENED) as proxy:
        url = empty_postgres.replace(f":{postgres.port}/", f":{proxy.port}/")
        async with (
            platform_process(
                tmp_path / "data", connectors=connectors, database_url=url, master_key=MASTER_KEY
            ) as platform,
            platform.client() as client,
        ):

            async def cuts() -> int:
                return proxy.cuts

            made = await connect(client, "courier", settings={"base_url": provider_url})
            proxy.cut_at, proxy.deliver = b"COMMIT", delivered
            action = (await _request(client, made["id"])).json()["id"]
            await eventually(cuts, lambda n: n > 0)
            proxy.cut_at = None

            async def state() -> str:
                return str((await client.get(f"/api/v1/actions/{action}")).json()["state"])

            await eventually(state, lambda seen: seen == "succeeded", 20)
    assert provider.effects == {"it": 1}
    assert provider.asked == {"it": 1}


class Answering(OpenConnector):
    """Its senders wait for what the connector says."""

    reply_within = 5.0


async def test_a_webhook_that_may_have_been_stored_is_processed_although_nobody_answers_it(
    postgres: PostgresServer, empty_postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "LONGEST_ANSWER_MS", 0)
    async with Proxy(postgres.port) as proxy:
        url = empty_postgres.replace(f":{postgres.port}/", f":{proxy.port}/")
        async with running_platform(
            tmp_path, Answering, database_url=url, master_key=MASTER_KEY, node_timeout=1.0
        ) as platform:
            address = (await platform.connect("open"))["webhook_url"]
            proxy.cut_at, proxy.deliver = b"in doubt", True
            answer = await platform.client.post(address, json={"id": "a", "text": "in doubt"})
            proxy.cut_at = None
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert [event["external_id"] for event in await platform.feed_of(1)] == ["a"]


async def _request(client: httpx2.AsyncClient, connection: str) -> httpx2.Response:
    return await client.post(
        f"/api/v1/connections/{connection}/actions", json={"type": "deliver", "payload": {"ref": "it"}}
    )
