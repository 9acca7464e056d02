"""`trunkline demo`: the main job, end to end, against a local Telegram, with every step checked."""

import contextlib
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from .client import Api, Json, path_of
from .commands import local, single
from .exits import CommandFailed
from .output import Output, complain
from .supervision import Child
from .twin import http, request

app = single()

TOKEN = "123456:demo-token"  # noqa: S105 - the twin's, worth nothing elsewhere
GREETING, ANSWER = "hello", "You said: hello"
PATIENCE = 10.0
"""Seconds that a step may take."""
LOG_LINES = 20


class Stopped(BaseException):
    """Ctrl-C or SIGTERM."""


@dataclass
class Steps:
    """What was done and checked, printed as it goes."""

    out: Output
    done: list[dict[str, Any]] = field(default_factory=list)

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[dict[str, Any]]:
        """One step: what is put into the dictionary is shown beside it."""
        facts: dict[str, Any] = {}
        begun = time.perf_counter()
        try:
            yield facts
        except (CommandFailed, LookupError, TypeError) as error:
            self.out.text(f"  ✗ {title}")
            if not isinstance(error, CommandFailed):
                error = CommandFailed(f"the answer is not what was expected ({error!r}).")
            raise CommandFailed(f"{title}: {error.message}", error.remedy, problems=error.problems) from None
        took = round((time.perf_counter() - begun) * 1000, 1)
        shown = "  ".join(str(value) for value in facts.values())
        self.out.text(f"  ✓ {title:<38} {took:>7.1f} ms  {shown}".rstrip())
        self.done.append({"step": title, "ms": took, **facts})


@local(app, "demo", "trunkline demo", "trunkline demo --once")
def demo(
    out: Output,
    once: Annotated[bool, typer.Option("--once", help="Check every step, then stop and clean up.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the folder with data and logs.")] = False,
) -> None:
    """See the main job done: a message comes in from a local Telegram, becomes an event, is answered.

    Starts the platform and a stand-in for Telegram on free ports, with a temporary folder. Without --once
    both go on, for you to try things, until Ctrl-C. Exit code 0 only if every step was checked.
    """
    folder = Path(tempfile.mkdtemp(prefix="trunkline-demo-"))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    serving = False
    try:
        with contextlib.ExitStack() as stack:
            steps = Steps(out)
            try:
                world = _start(steps, stack, folder)
                _main_job(steps, world)
            except CommandFailed:
                _show_log(folder)
                raise
            _conclude(out, steps, world, once=once)
            serving = not once
            while serving:
                time.sleep(0.5)
                for child in world.children:
                    child.check_running()
    except Stopped:
        if not serving:
            raise CommandFailed("The demonstration was stopped before its end.") from None
        out.text("\nStopped.")
    finally:
        if keep:
            out.text(f"Kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass
class World:
    """What runs, and how to reach it."""

    api: Api
    key: str
    twin: str
    children: list[Child]
    connection: str = ""
    chat: int = 0


def _start(steps: Steps, stack: contextlib.ExitStack, folder: Path) -> World:
    children = []
    port = _free_port()
    commands = {
        # The public address makes the connector register a webhook; without one it would poll.
        "serve": ["--port", str(port), "--public-url", f"http://127.0.0.1:{port}", "--data-dir", str(folder)],
        "twin": ["telegram", "--port", "0", "--tokens", TOKEN],
    }
    for name, options in commands.items():
        child = Child([name, *options], folder / f"{name}.log")
        stack.callback(child.stop)
        children.append(child)
    with steps.step("The platform is ready") as facts:
        platform = children[0].ready()
        facts["url"] = platform["url"]
        facts["data"] = str(folder)
    with steps.step("A local Telegram is ready") as facts:
        twin = children[1].ready()
        facts["url"] = twin["url"]
    api = stack.enter_context(Api(platform["url"], platform["admin_key"]))
    return World(api, platform["admin_key"], twin["url"], children)


def _main_job(steps: Steps, world: World) -> None:
    api = world.api
    with steps.step("A connection is made") as facts:
        made = api.post(
            "/connections",
            {
                "integration": "telegram",
                "name": "demo",
                "secrets": {"bot_token": TOKEN},
                "settings": {"base_url": world.twin},
            },
        )
        facts["id"] = world.connection = made["id"]
        _expect(made["state"] == "ready", f"its state is {made['state']}")
    connection = path_of("connections", world.connection)
    with steps.step("Telegram knows its webhook URL") as facts:

        def registered() -> bool:
            now = api.get(connection)["registration"]
            _expect(now["state"] != "failed", f"registration failed: {now['error']}")
            return bool(now["state"] == "done")

        _until(registered, "the registration did not end")
        bots = request(world.twin, "GET", "state")["bots"]
        _expect([bot["webhook"] for bot in bots] == [made["webhook_url"]], "Telegram has another URL")
        facts["url"] = made["webhook_url"].rpartition("/")[0] + "/…"
    with steps.step("A forged webhook is turned away") as facts:
        facts["status"] = _forge(made["webhook_url"])
        facts["reason"] = api.get(f"{connection}/refusals")["items"][0]["code"]
    with steps.step(f'Ann writes "{GREETING}" to the bot') as facts:
        said = request(world.twin, "POST", "say", {"text": GREETING, "user_name": "Ann"})
        world.chat = said["chat_id"]
        facts["message"] = f"message {said['message_id']} in chat {world.chat}"
    with steps.step("It is an event in the feed") as facts:
        event = _until(lambda: _first_event(api, world.connection), "no event came")
        facts["id"], facts["type"] = event["id"], event["type"]
        _expect(event["type"] == "telegram.message.received", "it is of another type")
        _expect(event["payload"]["text"] == GREETING, "it has another text")
    with steps.step("It came as a signed webhook") as facts:
        webhook = api.get(path_of("webhooks", event["webhook"]))
        facts["id"], facts["state"] = webhook["id"], webhook["state"]
        _expect((webhook["source"], webhook["state"]) == ("webhook", "processed"), "it came another way")
    with steps.step("The bot answers") as facts:
        action = api.post(
            f"{connection}/actions",
            {"type": "send_message", "payload": {"chat_id": event["payload"]["chat_id"], "text": ANSWER}},
            headers={"prefer": f"wait={PATIENCE:.0f}"},
        )
        facts["id"], facts["state"] = action["id"], action["state"]
        why = (action["error"] or {}).get("message", "no reason is known")
        _expect(action["state"] == "succeeded", f"the action is {action['state']}: {why}")
    with steps.step("Ann sees the answer") as facts:
        chat = request(world.twin, "POST", "chat", {"chat_id": world.chat})["messages"]
        texts = [entry["message"]["text"] for entry in chat if entry["by_bot"]]
        _expect(texts == [ANSWER], "the chat does not show it")
        facts["text"] = texts[0]


def _conclude(out: Output, steps: Steps, world: World, *, once: bool) -> None:
    out.text(
        "\nEvery step was checked. Telegram called a URL here; without TRUNKLINE_PUBLIC_URL the connector\n"
        "polls instead, so a real bot works from a laptop that nobody can reach."
    )
    lines = {} if once else _to_try(world)
    if out.as_json:
        reach = {} if once else {"url": world.api.url, "twin": world.twin, "key": world.key}
        out.line({"ok": True, "steps": steps.done, **reach, "try": list(lines.values())})
    for what, line in lines.items():
        out.text(f"\n# {what}\n{line}")
    if not once:
        out.text("\nCtrl-C stops everything.")


def _to_try(world: World) -> dict[str, str]:
    """Lines for a shell that work as they stand."""
    key = f"Authorization: Bearer {world.key}"
    action = f'{{"type": "send_message", "payload": {{"chat_id": {world.chat}, "text": "Hi Ann"}}}}'
    json_type = ["-H", "Content-Type: application/json"]
    requests = {
        "Write to the bot as Ann": [*json_type, "-d", '{"text": "hello again"}', f"{world.twin}/_twin/say"],
        "Read the events": ["-H", key, f"{world.api.url}/api/v1/events"],
        "Answer Ann": [
            *["-H", key, *json_type, "-H", "Prefer: wait=10", "-d", action],
            f"{world.api.url}/api/v1/connections/{world.connection}/actions",
        ],
        "See the chat": [*json_type, "-d", f'{{"chat_id": {world.chat}}}', f"{world.twin}/_twin/chat"],
    }
    lines = {what: shlex.join(["curl", "-s", *words]) for what, words in requests.items()}
    command = "trunkline" if shutil.which("trunkline") else f"{shlex.quote(sys.executable)} -m app"
    # Not exported: what a shell keeps would outlive the demonstration.
    command = f"TRUNKLINE_URL={world.api.url} TRUNKLINE_API_KEY={world.key} {command}"
    answer = f"{world.connection} send_message -d chat_id={world.chat} -d text='Hi again'"
    lines["The same with this command line"] = "\n".join(
        [
            f"{command} events list",
            f"{command} actions run {answer} --wait 10",
        ]
    )
    return lines


def _first_event(api: Api, connection: str) -> Json | None:
    items = api.get("/events", {"connection": connection})["items"]
    return items[0] if items else None


def _forge(url: str) -> int:
    response = http().post(url, json={"update_id": 1, "message": {}})
    _expect(response.status_code == 401, f"it is answered with {response.status_code}")
    return response.status_code


def _until(condition: Callable[[], Any], otherwise: str) -> Any:
    """What `condition` gives once that is true. Raises CommandFailed."""
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        _expect(time.monotonic() < deadline, f"{otherwise} within {PATIENCE:.0f} s")
        time.sleep(0.01)
    return found


def _expect(good: bool, otherwise: str) -> None:
    if not good:
        raise CommandFailed(f"{otherwise}.")


def _show_log(folder: Path) -> None:
    log = folder / "serve.log"
    lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log.exists() else []
    complain("\n".join(["The end of the platform's log:", *(f"  {line}" for line in lines or ["(empty)"])]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _stop(*_: object) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # what is being cleaned up is not to be disturbed
    raise Stopped
