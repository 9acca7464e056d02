"""The platform with everything that counts, times or traces taken out: what metrics are compared with.

`python -m benchmarks.apps.unobserved` takes the arguments of `trunkline`. It is for comparison only, which is
why the platform has no setting for it.
"""

from typing import Any

from app.infra import metrics
from app.modules.actions import runner
from app.modules.integrations import instances
from app.modules.polling import poller
from app.modules.webhooks import ingress, parse, processor


class _Nothing:
    """Counts and times nothing."""

    def inc(self, *_: Any) -> None:
        """Is called instead."""

    observe = inc


def _ignore(*_: Any, **__: Any) -> None:
    """Is called instead."""


def _parse(*given: Any, inline: bool = False, polled: bool = False) -> Any:
    return parse.parse(*given, inline=inline)


def strip() -> None:
    nothing = _Nothing()
    for name, value in list(vars(metrics).items()):
        if name.isupper() and callable(value):
            setattr(metrics, name, lambda *_: nothing)
    for name in ("ACKNOWLEDGEMENT_SECONDS", "WEBHOOK_RESPONSES"):
        setattr(metrics, name, nothing)
    for module, name in (
        (ingress, "note_received"),
        (processor, "note_settled"),
        (poller, "note_settled"),
        (runner, "note_attempt_closed"),
        (instances, "_note_exchange"),
    ):
        assert hasattr(module, name)
        setattr(module, name, _ignore)
    for module in (processor, poller):
        assert hasattr(module, "parse_traced")
        module.parse_traced = _parse


if __name__ == "__main__":
    strip()
    from app.__main__ import main

    main()
