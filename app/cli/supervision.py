"""Processes that end with the one that started them, however that ends."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .exits import CommandFailed

PATIENCE = 20.0
"""Seconds that a process gets to become ready, and to stop."""


def stop_at_end_of_stdin() -> None:
    """Asks this process to stop, by SIGTERM, once its standard input ends."""

    def watch() -> None:
        # Not through sys.stdin, whose lock would be held when the interpreter shuts down.
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="trunkline-stdin", daemon=True).start()


class Child:
    """A command of this program in a process of its own, which ends at the latest when this one does."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.name = arguments[0]
        self.log = log
        # Settings of the person who starts it are not the child's.
        environment = {k: v for k, v in os.environ.items() if not k.upper().startswith("TRUNKLINE_")}
        with log.open("ab") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-P", "-m", "app", *arguments, "--json", "--stop-with-stdin"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment | {"NO_PROXY": "127.0.0.1"},
                start_new_session=True,  # Ctrl-C is for this process, which stops the child in order
            )

    def ready(self) -> Any:
        """What it prints, as JSON, once it is ready. Raises CommandFailed."""
        output = self._process.stdout
        assert output
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            line = output.readline() if selector.select(PATIENCE) else b""
        try:
            return json.loads(line)
        except ValueError:
            raise CommandFailed(f"`trunkline {self.name}` did not start: {self._last_words()}.") from None

    def check_running(self) -> None:
        """Raises CommandFailed if it has ended by itself."""
        if self._process.poll() is not None:
            raise CommandFailed(f"`trunkline {self.name}` ended by itself: {self._last_words()}.")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else f"exit code {self._process.poll()}"
