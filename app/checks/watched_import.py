"""A program: imports modules and tells what that did beside defining things.

In a process of its own, because a watch cannot be taken off and most effects happen once. The order comes as
JSON on standard input, the answer is the last line of standard output.
"""

import contextlib
import io
import json
import logging
import os
import signal
import sys
import threading
from importlib import import_module
from typing import Any

_FILES = ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree")
_PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn")
_NETWORK = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")


class Watch:
    """Hears of what happens while it is on."""

    def __init__(self) -> None:
        self.on = False
        self.effects: list[str] = []
        sys.addaudithook(self._hear)

    def note(self, effect: str) -> None:
        if effect not in self.effects:
            self.effects.append(effect)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _NETWORK:
            self.note("uses the network")
        elif event in _PROCESSES:
            self.note("starts a process")
        elif event == "open" and not _writes(arguments):
            return
        elif event in _FILES:
            self.note("writes files")


def _writes(arguments: tuple[Any, ...]) -> bool:
    path, mode, flags = arguments
    if str(path).endswith(".pyc") or "__pycache__" in str(path) or isinstance(path, int):
        return False
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def main() -> None:
    order = json.load(sys.stdin)
    sys.path[:] = order["path"]
    # What every connector uses is not its own effect.
    for module in ("base", "http", "models", "specs", "bodies", "verification", "handshakes", "registry"):
        import_module(f"app.integrations.{module}")
    connectors = import_module("app.integrations.connectors")
    connectors.__path__ = order["connectors"]
    watch = Watch()
    before = _state()
    error = ""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        watch.on = True
        try:
            for module in order["modules"]:
                import_module(module)
        except BaseException as failure:  # noqa: BLE001 - SystemExit too is something that imports do
            error = type(failure).__name__
        watch.on = False
    for name, value in _state().items():
        if value != before[name]:
            watch.note(name)
    if out.getvalue() or err.getvalue():
        watch.note("prints")
    print(json.dumps({"effects": watch.effects, "error": error}), flush=True)  # noqa: T201 - the answer
    os._exit(0)  # whatever was started


def _state() -> dict[str, Any]:
    return {
        "starts threads": threading.active_count(),
        "changes the environment": dict(os.environ),
        "changes the search path": list(sys.path),
        "changes the working directory": os.getcwd(),
        "sets up logging": (logging.root.level, list(logging.root.handlers)),
        "handles signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
    }


if __name__ == "__main__":
    main()
