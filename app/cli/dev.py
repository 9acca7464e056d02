"""`trunkline dev`: the platform for somebody who writes a connector."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .commands import local, single
from .difference import Change, changes, lines
from .exits import CommandFailed, ExitCode
from .flags import Flags, settings_flags, warn_about_variables
from .output import Output, sentence, summary
from .serve import announce

if TYPE_CHECKING:
    from app.config import Settings

app = single()

QUICK = {"stop_timeout": "1", "log_level": "error"}
"""Settings that are other than `serve`'s unless they are given: a restart is not to wait, and what the log
has to say about connectors is said here in a readable form."""

PATIENCE = 20.0
"""Seconds that a process may take for one step."""
GRACE = 2.0
"""Seconds beyond `stop_timeout` in which a process has to end."""
SETTLE_MS = 200
"""Editors write a file in several steps: what happens within this time is one change."""
LONGEST_LINE = 64 * 1024 * 1024

Json = Mapping[str, Any]


@local(
    app,
    "dev",
    "trunkline dev --connectors-path connectors",
    "trunkline dev --connectors-path connectors --connection roomly",
    "trunkline dev --webhook whk_01J…",
)
@settings_flags(skip="out")
def dev(
    out: Output,
    flags: Flags,
    connection: Annotated[
        str | None, typer.Option(metavar="ID", help="Show this connection only, by id or name.")
    ] = None,
    webhook: Annotated[
        str | None, typer.Option(metavar="ID", help="Parse this webhook again instead of the last one.")
    ] = None,
) -> None:
    """Run the platform while you write a connector, and see what each change does.

    Shows what comes in and the events that it becomes. When a file of a connector is saved, the platform
    restarts with the new code, parses the last webhook of each connection of that connector again, and shows
    what is different. Nothing of that is stored; what a handler does elsewhere, it does again. A connector
    that cannot be used leaves the platform as it was, until the next save. Requests wait meanwhile.

    Takes the settings of `trunkline serve`. --stop-timeout is 1 and --log-level error unless you give them.
    """
    from app.config import load_settings, source_of

    warn_about_variables()
    settings = load_settings(**flags)
    for name, value in QUICK.items():
        if source_of(settings, name, flags, dict(os.environ)) == "default":
            flags[name] = value
    settings = load_settings(**flags)

    from app.infra.listener import bind

    scope = {"connection": connection, "webhook": webhook}
    with bind(settings.host, settings.port) as listener:
        asyncio.run(_Session(_Report(out), listener, settings, flags, scope).run())


def _folders(settings: "Settings") -> list[Path]:
    """The folders with connectors; somebody's own comes first."""
    # Found without importing them: the package is the platform's, and nothing but a folder is wanted of it.
    shipped = Path(__file__).resolve().parents[1] / "integrations" / "connectors"
    own = settings.connectors_path
    if own is None:
        return [shipped]
    if not own.is_dir():
        raise CommandFailed(
            f"The folder {own} does not exist.", "Make it, or correct --connectors-path; it is watched."
        )
    return [own.resolve(), shipped]


class _Ended(Exception):
    """A process has ended, or said that it cannot go on."""

    def __init__(self, message: str, remedy: str = "", exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.failure = CommandFailed(message, remedy, exit_code=exit_code)


class _Generation:
    """A process with one state of the code: see `dev_platform`."""

    def __init__(self, process: asyncio.subprocess.Process, told: asyncio.StreamReader) -> None:
        self._process = process
        self._told = told
        self.broken: list[Json] = []
        """The connectors that it cannot use."""
        self.listening: asyncio.Task[None] | None = None

    @classmethod
    async def spawn(cls, listener: socket.socket, flags: Flags) -> "_Generation":
        """Begins to import the platform."""
        reading, writing = os.pipe()
        order = {"flags": flags, "listener": listener.fileno(), "voice": writing}
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "app.cli.dev_platform", json.dumps(order)),
                stdin=asyncio.subprocess.PIPE,
                stdout=2,  # standard output holds what we say; what a connector prints goes beside it
                pass_fds=(listener.fileno(), writing),
                start_new_session=True,  # Ctrl-C is for this process, which stops the other in order
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        finally:
            os.close(writing)
        told = asyncio.StreamReader(limit=LONGEST_LINE)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(told), os.fdopen(reading, "rb")
        )
        return cls(process, told)

    async def discover(self) -> None:
        """Has it import the connectors. Raises _Ended."""
        await self._order("discover")
        self.broken = (await self._answer("discovered"))["broken"]

    async def serve(self, scope: Json) -> Json:
        """Has it serve the socket. Raises _Ended."""
        await self._order(json.dumps(scope))
        return await self._answer("ready")

    async def heard(self) -> AsyncIterator[Json]:
        """What it tells, to its end."""
        while line := await self._told.readline():
            yield json.loads(line)

    async def exit_code(self) -> int:
        return await self._process.wait()

    async def stop(self, patience: float) -> None:
        """Asks it to end, and sees to it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            async with asyncio.timeout(patience):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self.listening:
            await asyncio.wait([self.listening])

    async def _order(self, line: str) -> None:
        assert self._process.stdin
        with contextlib.suppress(ConnectionError):  # it has ended; that is noticed by what it tells
            self._process.stdin.write(line.encode() + b"\n")
            await self._process.stdin.drain()

    async def _answer(self, wanted: str) -> Json:
        try:
            async with asyncio.timeout(PATIENCE):
                line = await self._told.readline()
        except TimeoutError:
            raise _Ended(
                f"The platform takes longer than {PATIENCE:g} s to start.",
                "Does a connector do something slow where it is imported?",
            ) from None
        if not line:
            raise _Ended(f"The platform ended by itself (exit code {await self.exit_code()}).")
        told: Json = json.loads(line)
        if told["what"] == "failed":
            raise _said(told)
        assert told["what"] == wanted
        return told


def _said(told: Json) -> _Ended:
    return _Ended(told["message"], told["remedy"], ExitCode(told["exit_code"]))


class _Session:
    """From the start to Ctrl-C: one process after another over the same socket.

    The next process has always imported the platform already, so that a save costs the import of the
    connectors, the stop of the present process and the start of the next.
    """

    def __init__(
        self, report: "_Report", listener: socket.socket, settings: "Settings", flags: Flags, scope: Json
    ) -> None:
        self._report = report
        self._listener = listener
        self._flags = flags
        self._scope = scope
        self._folders = _folders(settings)
        self._patience = settings.stop_timeout + GRACE
        self._next: asyncio.Task[_Generation] | None = None
        self._running: _Generation | None = None

    async def run(self) -> None:
        """Until SIGINT or SIGTERM. Raises CommandFailed if it cannot start."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel)
        try:
            await self._work()
        except asyncio.CancelledError:
            pass
        except _Ended as ended:
            raise ended.failure from None
        finally:
            # What is being cleaned up is not to be disturbed.
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, lambda: None)
            await self._stop_all()
        self._report.stopped()

    async def _work(self) -> None:
        saves = self._saves()
        save = asyncio.ensure_future(anext(saves))  # from here on, so that none is missed
        try:
            self._warm_up()
            generation = await self._discovered()
            self._report.ready(await self._take_over(generation, self._own()), self._folders)
            generation.listening = asyncio.create_task(self._listen(generation, first=True))
            while True:
                ends = [self._running.listening] if self._running and self._running.listening else []
                await asyncio.wait([save, *ends], return_when=asyncio.FIRST_COMPLETED)
                if save.done():
                    paths = save.result()
                    save = asyncio.ensure_future(anext(saves))
                    await self._renew(paths)
                elif self._running:
                    ends[0].result()
                    ended, self._running = self._running, None
                    code = await ended.exit_code()
                    failure = CommandFailed(f"The platform ended by itself (exit code {code}).")
                    self._report.failed(failure, goes_on=False)
        finally:
            save.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await save

    async def _saves(self) -> AsyncIterator[set[Path]]:
        from watchfiles import awatch

        while True:
            watch = awatch(*self._folders, debounce=SETTLE_MS, step=SETTLE_MS // 4)
            async with contextlib.aclosing(watch):
                async for found in watch:
                    paths = {Path(path) for _, path in found}
                    yield paths
                    if not paths.isdisjoint(self._folders):
                        break  # a folder that was removed, or moved, took its watch with it
            while not all(folder.is_dir() for folder in self._folders):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(SETTLE_MS / 1000)
            yield set(self._folders[:1])

    async def _renew(self, paths: set[Path]) -> None:
        """Puts the new code to use, if it can be used."""
        began = time.monotonic()
        self._report.saved(sorted(self._shown(path) for path in paths))
        try:
            generation = await self._discovered()
        except _Ended as ended:
            self._report.failed(ended.failure, goes_on=self._running is not None)
            return
        known = {one["source"] for one in self._running.broken} if self._running else set()
        for connector in generation.broken:
            self._report.broken(connector)
        if self._running and any(one["source"] not in known for one in generation.broken):
            await generation.stop(0)
            self._warm_up()
            self._report.kept()
            return
        try:
            await self._take_over(generation, self._touched(paths))
        except _Ended as ended:
            self._report.failed(ended.failure, goes_on=False)
            return
        self._report.restarted(time.monotonic() - began)
        generation.listening = asyncio.create_task(self._listen(generation))

    def _warm_up(self) -> None:
        """Has a process import the platform, for the next save."""
        self._next = asyncio.create_task(_Generation.spawn(self._listener, self._flags))

    async def _discovered(self) -> _Generation:
        """The next process, with the connectors as they are now. Raises _Ended."""
        assert self._next
        generation = await self._next
        try:
            await generation.discover()
        except _Ended:
            await generation.stop(0)
            self._warm_up()
            raise
        return generation

    async def _take_over(self, generation: _Generation, folders: list[str] | None) -> Json:
        """Has a process serve in place of the present one. Raises _Ended."""
        try:
            if self._running:
                await self._running.stop(self._patience)
                self._running = None
            ready = await generation.serve({**self._scope, "folders": folders})
            self._running = generation
        except BaseException:
            await generation.stop(self._patience)
            raise
        finally:
            self._warm_up()
        return ready

    async def _listen(self, generation: _Generation, *, first: bool = False) -> None:
        """Shows what a process tells, to its end. Raises _Ended if the first one cannot do what is wanted."""
        async for told in generation.heard():
            if first and told["what"] == "failed":
                raise _said(told)
            self._report.hear(told)

    async def _stop_all(self) -> None:
        if self._next:
            await (await self._next).stop(0)
        if self._running:
            await self._running.stop(self._patience)

    def _own(self) -> list[str] | None:
        """Names of the folders whose connectors are somebody's own; None if there is no folder for those."""
        first, *others = self._folders
        return [path.name for path in first.iterdir() if path.is_dir()] if others else None

    def _touched(self, paths: set[Path]) -> list[str] | None:
        """Names of the connectors' folders that these files are in; None if one is in none of them."""
        names: set[str] = set()
        for path in paths:
            for folder in self._folders:
                if path.is_relative_to(folder):
                    name, *inside = path.relative_to(folder).parts or ("",)
                    if not (inside or path.is_dir()) or not name:
                        return None
                    names.add(name)
        return sorted(names)

    def _shown(self, path: Path) -> str:
        inside = (path.relative_to(folder) for folder in self._folders if folder in path.parents)
        return str(next(inside, path))


class _Report:
    """Says what happens, and what is different from before."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._last: dict[str, Json] = {}
        """By connection, what was shown last of its last webhook."""

    def ready(self, told: Json, folders: list[Path]) -> None:
        if self._out.as_json:
            self._out.line(told)
            return
        announce(self._out, told)
        self._out.text(f"Watching {folders[0]}. Ctrl-C stops.")

    def saved(self, files: list[str]) -> None:
        self._say({"what": "saved", "files": files}, f"\n{_time()} Saved: {', '.join(files)}")

    def broken(self, connector: Json) -> None:
        remedy = connector["remedy"].replace(" and restart.", ".")  # which is done here
        text = (f"  Broken: {connector['source']}", f"    {sentence(connector['reason'])}", f"    {remedy}")
        self._say({"what": "broken", **connector}, *text)

    def kept(self) -> None:
        self._say({"what": "kept"}, "  The platform goes on with the code of before, until the next save.")

    def restarted(self, seconds: float) -> None:
        text = f"  The new code runs, after {seconds:.1f} s."
        self._say({"what": "restarted", "seconds": round(seconds, 3)}, text)

    def failed(self, failure: CommandFailed, *, goes_on: bool) -> None:
        after = "goes on with the code of before" if goes_on else "is down: requests wait"
        ending = f"The platform {after}, until the next save."
        text = " ".join(filter(None, (sentence(failure.message), failure.remedy, ending)))
        self._say({"what": "failed", "message": failure.message, "remedy": failure.remedy}, f"  {text}")

    def stopped(self) -> None:
        self._out.text("\nStopped.")

    def hear(self, told: Json) -> None:
        """Says what a process told."""
        match told["what"]:
            case "previewed":
                self._previewed(told["now"], told["stored"])
            case "received":
                now = told["now"]
                self._last[now["connection"]] = now
                self._say(told, f"{_time()} {_of(now)}", *_outcome(now, or_else="made no new event"))
            case "refused":
                text = f"{_time()} {told['connection']} refused a request: {told['message']}"
                self._say(told, text)
            case "looked":
                if self._out.as_json or not told["webhooks"]:
                    self._say(told, "  There is no webhook to parse again yet.")
            case "failed":
                self._say(told, f"  {sentence(told['message'])} {told['remedy']}")

    def _previewed(self, now: Json, stored: Json | None) -> None:
        """One webhook, parsed again: compared with what it was when it was shown last, or as stored."""
        last = self._last.get(now["connection"])
        before = last if last and last["webhook"] == now["webhook"] else stored
        if before and not (before["events"] or before["failure"]):
            before = None  # a repetition, perhaps: what became of it says nothing about what it is
        if last is None or last["webhook"] <= now["webhook"]:
            self._last[now["connection"]] = now
        found = _compared(before, now) if before else []
        told = {
            "what": "previewed",
            "before": before,
            "now": now,
            "changes": [one.as_json() for _, one in found],
        }
        self._say(told, f"  {_of(now)}", *_comparison(before, now, found))

    def _say(self, told: Json, *text: str) -> None:
        if self._out.as_json:
            self._out.line(told)
        else:
            self._out.text("\n".join(text))


def _compared(before: Json, now: Json) -> list[tuple[int, Change]]:
    """What is different in the events that both have, by the event's place."""
    pairs = zip(before["events"], now["events"], strict=False)
    return [(index, change) for index, pair in enumerate(pairs) for change in changes(*pair)]


def _comparison(before: Json | None, now: Json, found: list[tuple[int, Change]]) -> Iterator[str]:
    """What a webhook is now, for people."""
    if before is None:
        yield from _outcome(now, or_else="makes no event")
        return
    more = now["events"][len(before["events"]) :]
    fewer = before["events"][len(now["events"]) :]
    failed, fails = before["failure"], now["failure"]
    if failed and not fails:
        yield "    failed before, and does not any more:"
    if not (found or more or fewer) and failed == fails:
        yield f"    as before: {_in_short(now)}"
        return
    for index, event in enumerate(now["events"][: len(before["events"])]):
        of_event = [change for place, change in found if place == index]
        if of_event:
            yield f"    {_named(event)} is different:"
            yield from (f"      {line}" for line in lines(of_event))
        else:
            yield f"    as before: {_named(event)}"
    yield from (f"    + {_whole(event)}" for event in more)
    yield from (f"    - {_whole(event)}" for event in fewer)
    if fails:
        yield f"    {'still fails' if failed else 'fails now'}: {fails['message']}"
    elif failed:
        yield f"    Nothing of this is stored. To store it: trunkline webhooks replay {now['webhook']}"


def _outcome(now: Json, or_else: str) -> Iterator[str]:
    yield from (f"    {_whole(event)}" for event in now["events"])
    if now["failure"]:
        yield f"    failed: {now['failure']['message']}"
    elif not now["events"]:
        yield f"    {or_else}"


def _in_short(now: Json) -> str:
    if now["failure"]:
        return f"fails: {now['failure']['message']}"
    return ", ".join(map(_named, now["events"])) or "no event"


def _named(event: Json) -> str:
    return " ".join(filter(None, (event["type"], event["external_id"])))


def _whole(event: Json) -> str:
    return f"{_named(event)} {summary(event['payload'])}"


def _of(now: Json) -> str:
    name = "" if now["name"] == now["integration"] else f" ({now['name']})"
    return f"{now['integration']}{name} {now['webhook']}"


def _time() -> str:
    return time.strftime("%H:%M:%S")
