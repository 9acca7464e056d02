"""`trunkline worker`: the platform's work in this process, for nodes that serve requests elsewhere."""

from functools import partial
from typing import TYPE_CHECKING

from .commands import local, single
from .flags import Flags, settings_flags, warn_about_variables
from .output import Output
from .serve import StopWithStdin, metrics_url, run_to_the_end
from .supervision import stop_at_end_of_stdin

if TYPE_CHECKING:
    from app.worker import Core

app = single()


@local(app, "worker", "trunkline worker --public-url https://hooks.example.com")
@settings_flags(skip="out")
def worker(out: Output, flags: Flags, stop_with_stdin: StopWithStdin = False) -> None:
    """Process webhooks, poll, carry actions out, and take no requests, until it is asked to stop.

    Any number of workers share the work, beside `trunkline serve --role api` or `trunkline serve`. They need
    the same TRUNKLINE_DATABASE_URL, TRUNKLINE_MASTER_KEY, --public-url and --connectors-path. With
    --metrics-port a worker answers /metrics, /healthz and /readyz there, and nothing else.
    """
    from app.config import load_settings

    warn_about_variables()
    settings = load_settings(**flags)

    from app.worker import work

    if stop_with_stdin:
        stop_at_end_of_stdin()
    run_to_the_end(work(settings, partial(_announce, out)))


def _announce(out: Output, core: "Core") -> None:
    if out.as_json:
        out.line({"node": core.nodes.id, "metrics_url": metrics_url(core), "admin_key": core.admin_key})
        return
    out.text(f"Trunkline works, as {core.nodes.id}.")
    if url := metrics_url(core):
        out.text(f"Metrics are at {url}")
    if core.admin_key:
        out.text(f"Admin key: {core.admin_key}\nIt is shown this once and kept in the data folder.")
