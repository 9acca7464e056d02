"""Does what a page says, as a reader would: files, commands, servers, and what they print.

Markers are HTML comments right before a code block:

    file: PATH        the block is the content of this file
    edit: PATH        a diff: lines with - are replaced by lines with +
    run               shell commands, which must succeed; `run: exit 6` must end with 6, `run: repeat` is
                      done again until the output fits
    start: NAME       a server; one of the same name is stopped before
    output            what the block before prints: … stands for anything, a line … for any lines
    not run: WHY

Ids of one's own are written con_… and are filled in with the last one seen. Ports are replaced by free ones,
Telegram by the twin, and the PostgreSQL database at db.example by one of the test's own.
"""

import os
import random
import re
import select
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

from .markdown import ROOT, Block, blocks

PATIENCE = 20.0

_PORTS = ("8080", "8081", "8090")
_DATABASE = "postgresql://trunkline:…@db.example/trunkline"
_IDS = re.compile(r"\b((?:con|whk|evt|act|key)_)[0-9a-f]{32}\b|\b(tl_)[\w-]{43}")
_WEBHOOK_URL = re.compile(r"http://127\.0\.0\.1:\d+/webhooks/\w+/[\w-]{43}")
_WEBHOOK_URL_OF_MINE = re.compile(r"http://127\.0\.0\.1:\d+/webhooks/\w+/…")


class Walkthrough:
    """A reader with an empty folder, an empty home and an empty database."""

    def __init__(self, folder: Path, database_url: str = "") -> None:
        self._database_url = database_url
        self.folder = folder / "work"
        self.folder.mkdir()
        self._home = folder / "home"
        self._home.mkdir()
        self._bin = folder / "bin"
        self._bin.mkdir()
        self._variables = folder / "variables"
        self._logs = folder / "logs"
        self._logs.mkdir()
        self._ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        self._seen: dict[str, str] = {}
        self._webhook_url = ""
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        python = shlex.quote(sys.executable)
        self._program("python", f'exec {python} "$@"')
        self._program("trunkline", f'exec {python} -P -m app "$@"')
        self._program("curl", f'exec {python} {shlex.quote(str(Path(__file__).with_name("curl.py")))} "$@"')

    def close(self) -> None:
        for name in list(self._servers):
            self._stop(name)

    def follow(self, page: Path) -> None:
        """Does the whole page. Raises AssertionError that names the line."""
        todo = [block for block in blocks(page) if block.marker]
        for number, block in enumerate(todo, start=1):
            shown = [following.text for following in todo[number : number + 1] if following.kind == "output"]
            self.do(block, shown[0] if shown else None)

    def do(self, block: Block, expected: str | None) -> None:
        match block.kind:
            case "file":
                path = self.folder / block.argument
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self._with_ports(block.text))
            case "edit":
                self._edit(block)
            case "run":
                self._run(block, expected)
            case "start":
                self._start(block, expected)
            case "output" | "not run":
                pass
            case other:
                raise AssertionError(f"{block}: the marker '{other}' is unknown")

    def _run(self, block: Block, expected: str | None) -> None:
        code = int(block.argument.removeprefix("exit ")) if block.argument.startswith("exit ") else 0
        deadline = time.monotonic() + PATIENCE
        while True:
            done = subprocess.run(
                ["sh", "-c", f"{self._prelude()}\n{self._filled_in(block.text)}"],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
                check=False,
            )
            fits = expected is None or matches(self._with_ports(expected), done.stdout)
            if fits or block.argument != "repeat" or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        self._remember(done.stdout)
        assert done.returncode == code, f"{block}: exit code {done.returncode}:\n{done.stdout}"
        assert fits, f"{block}: expected\n{expected}\nbut it printed\n{done.stdout}"

    def _start(self, block: Block, expected: str | None) -> None:
        self._stop(block.argument)
        log = self._logs / f"{block.argument}.txt"
        with log.open("ab") as errors:
            server = subprocess.Popen(
                ["sh", "-c", f"{self._variables_so_far()}\nexec {self._filled_in(block.text).strip()}"],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self._servers[block.argument] = server
        if "trunkline" not in block.text:
            _until_it_listens(self._ports["8090"])
            return
        wanted = self._with_ports(expected or "…\n")
        printed, deadline = "", time.monotonic() + PATIENCE
        assert server.stdout
        while not (printed and matches(wanted, printed)):
            ready, _, _ = select.select([server.stdout], [], [], max(deadline - time.monotonic(), 0))
            more = os.read(server.stdout.fileno(), 1 << 16).decode() if ready else ""
            printed += more
            assert more, f"{block}: expected\n{wanted}\nbut it printed\n{printed}\n{log.read_text()}"
        self._remember(printed)

    def _stop(self, name: str) -> None:
        server = self._servers.pop(name, None)
        if server is None:
            return
        server.terminate()
        try:
            server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
            raise
        finally:
            if server.stdout:
                server.stdout.close()

    def _edit(self, block: Block) -> None:
        path = self.folder / block.argument
        lines = block.text.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line.startswith("-"))
        new = "".join(line[1:] for line in lines if line.startswith("+"))
        text = path.read_text()
        assert text.count(old) == 1, f"{block}: {path.name} does not hold once:\n{old}"
        path.write_text(text.replace(old, new))

    def _filled_in(self, commands: str) -> str:
        commands = self._with_ports(commands).replace(_DATABASE, f"'{self._database_url}'")
        twin = f"http://127.0.0.1:{self._ports['8081']}"
        if "base_url" not in commands:
            commands = commands.replace("create telegram", f"create telegram --setting base_url={twin}")
            commands = commands.replace(
                '{"integration": "telegram",',
                f'{{"integration": "telegram", "settings": {{"base_url": "{twin}"}},',
            )
        commands = _WEBHOOK_URL_OF_MINE.sub(lambda _: self._webhook_url, commands)
        return re.sub(r"\b((?:con|whk|evt|act|key|tl)_)…", lambda found: self._seen[found[1]], commands)

    def _remember(self, printed: str) -> None:
        for found in _IDS.finditer(printed):
            self._seen[found[1] or found[2]] = found[0]
        for found in _WEBHOOK_URL.finditer(printed):
            self._webhook_url = found[0]

    def _with_ports(self, text: str) -> str:
        return re.sub(rf"\b({'|'.join(_PORTS)})\b", lambda found: self._ports[found[0]], text)

    def _prelude(self) -> str:
        file = shlex.quote(str(self._variables))
        return f"set -ea; {self._variables_so_far()}; trap 'export -p > {file}' EXIT"

    def _variables_so_far(self) -> str:
        # As in one terminal, variables of one block are there in the next.
        file = shlex.quote(str(self._variables))
        return f"[ ! -f {file} ] || . {file}"

    def _environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
        return clean | {
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self._home),
            "TRUNKLINE_PORT": self._ports["8080"],
            "TRUNKLINE_URL": f"http://127.0.0.1:{self._ports['8080']}",
            "TRUNKLINE_TWIN_URL": f"http://127.0.0.1:{self._ports['8081']}",
        }

    def _program(self, name: str, line: str) -> None:
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)


def matches(expected: str, printed: str) -> bool:
    """Whether the output is as a page shows it, however it is spaced."""
    pattern = ""
    for line in _lines(expected):
        if line == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(map(re.escape, line.split("…"))) + r"\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(printed))) is not None


def _lines(text: str) -> list[str]:
    lines = (" ".join(line.split()).replace(" …", "…").replace("… ", "…") for line in text.splitlines())
    return [line for line in lines if line]


def _free_ports(count: int) -> list[str]:
    # Below those that the system gives to outgoing connections, so that nobody takes one meanwhile.
    found: list[str] = []
    while len(found) < count:
        port = random.randint(20_000, 29_999)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(str(port))
    return found


def _until_it_listens(port: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(port))) == 0:
                return
        assert time.monotonic() < deadline, f"nothing listens on {port}"
        time.sleep(0.05)
