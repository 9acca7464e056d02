"""The platform that all of them share, and the table of what was tried."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from tests.support.process import PlatformProcess

from .platform import Connection

ROWS = pytest.StashKey[list[tuple[str, str, str]]]()


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    """A client with the admin key of a platform in a process of its own."""
    process = PlatformProcess(tmp_path_factory.mktemp("platform") / "data", public_url=True)
    try:
        process.spawn()
        asyncio.run(process.ready())
        with httpx2.Client(
            base_url=process.url,
            headers={"Authorization": f"Bearer {process.admin_key}"},
            trust_env=False,
            timeout=60,
        ) as client:
            yield client
    finally:
        if process.running:
            process.kill()


@pytest.fixture(scope="session")
def connect(platform: httpx2.Client) -> Callable[..., Connection]:
    """Makes a connection: `connect("slack", secrets={...}, settings={...})`."""

    def made(integration: str, **body: Any) -> Connection:
        return Connection(platform, integration, **body)

    return made


@pytest.fixture
def remark(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Puts a remark beside the verdict, such as what the emulator cannot do."""
    return lambda text: record_property("remark", text)


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: pytest.TestReport = (yield).get_result()
    if report.when != "call" and not (report.when == "setup" and not report.passed):
        return
    emulator = getattr(getattr(item, "module", None), "EMULATOR", "?")
    tried = item.name.partition("[")[0].removeprefix("test_").replace("_", " ")
    variant = item.name[item.name.find("[") :] if "[" in item.name else ""
    remarks = [str(value) for name, value in report.user_properties if name == "remark"]
    verdict = {"passed": "passed", "failed": "FAILED", "skipped": "did not run"}[report.outcome]
    if report.skipped and isinstance(report.longrepr, tuple):
        remarks.append(report.longrepr[2].removeprefix("Skipped: "))
    words = f"{verdict}: {'; '.join(remarks)}" if remarks else verdict
    item.config.stash[ROWS].append((emulator, " ".join(filter(None, (tried, variant))), words))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    terminalreporter.section("emulator, what was tried, verdict")
    for emulator, tried, verdict in rows:
        terminalreporter.write_line(f"{emulator:<{widths[0]}}  {tried:<{widths[1]}}  {verdict}")
