"""`trunkline serve`: the platform in this process."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .client import ADMIN_KEY_FILE
from .commands import local, single
from .exits import ExitCode
from .flags import Flags, settings_flags, warn_about_variables
from .output import Output, sentence
from .supervision import stop_at_end_of_stdin

if TYPE_CHECKING:
    from app.main import Platform
    from app.worker import Core

app = single()

LAST_WORDS = 1.0
"""Seconds that what still runs gets to end when the platform has stopped."""

StopWithStdin = Annotated[
    bool,
    typer.Option(
        "--stop-with-stdin", help="Stop when standard input ends, as it does with a program's parent."
    ),
]


@local(
    app,
    "serve",
    "trunkline serve",
    "trunkline serve --port 9000 --data-dir ./data",
    "trunkline serve --host 0.0.0.0 --public-url https://hooks.example.com",
)
@settings_flags(skip="out")
def serve(out: Output, flags: Flags, stop_with_stdin: StopWithStdin = False) -> None:
    """Run the platform, until it is asked to stop.

    Every setting is a flag here, and a variable everywhere: --port is TRUNKLINE_PORT. The master key is a
    variable only, TRUNKLINE_MASTER_KEY.
    """
    from app.config import load_settings

    warn_about_variables()
    settings = load_settings(**flags)

    from app.main import serve as serve_platform

    if stop_with_stdin:
        stop_at_end_of_stdin()
    run_to_the_end(serve_platform(settings, lambda platform, url: announce(out, facts(platform, url))))


def run_to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Runs the platform in this process. When it has stopped the process ends, also if code of a connector
    that ignores its cancellation still runs: waiting for that would be waiting for ever."""

    async def run() -> None:
        await work
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        if left and (await asyncio.wait(left, timeout=LAST_WORDS))[1]:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ExitCode.OK)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(run())


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # it is not made for every platform
        return None
    return uvloop.new_event_loop


def facts(platform: "Platform", url: str) -> dict[str, Any]:
    """What there is to say about a platform that has started."""
    broken = [{"source": b.source, "reason": b.reason, "remedy": b.remedy} for b in platform.registry.broken]
    return {
        "url": url,
        "metrics_url": metrics_url(platform.core),
        "data_dir": str(platform.settings.data_dir),
        "admin_key": platform.admin_key,
        "broken": broken,
    }


def metrics_url(core: "Core") -> str | None:
    """Where its metrics are, if they have a port of their own."""
    return None if core.monitor is None else f"{core.monitor.url}/metrics"


def announce(out: Output, ready: Mapping[str, Any]) -> None:
    """Says `facts`."""
    if out.as_json:
        out.line(ready)
        return
    folder = Path(ready["data_dir"])
    out.text(f"Trunkline listens on {ready['url']}\nData is in {folder}")
    if ready["metrics_url"]:
        out.text(f"Metrics are at {ready['metrics_url']}")
    if ready["admin_key"]:
        out.text(
            f"Admin key: {ready['admin_key']}\n"
            f"It is shown this once and kept in {folder / ADMIN_KEY_FILE}, where this command line finds it."
        )
    for connector in ready["broken"]:
        reason = sentence(connector["reason"])
        out.text(f"Broken and left out: {connector['source']}: {reason} {connector['remedy']}")
