"""The command line put together: finds the command that is asked for, and turns errors into exit codes."""

import importlib
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from app.errors import TrunklineError

from .commands import example_text, paragraph
from .exits import MEANINGS, CommandFailed, WrongUsage
from .lookup import did_you_mean, in_words
from .output import complain, sentence

LOCAL = {
    "serve": ("serve", "app", "Run the platform."),
    "worker": ("worker", "app", "Do the work of a platform of several nodes."),
    "demo": ("demo", "app", "See the main job done, against a local Telegram."),
    "dev": ("dev", "app", "Run the platform while you write a connector, and see what each change does."),
    "twin": ("twin", "app", "Run a local stand-in for a provider, and give it orders."),
    "new": ("new", "app", "Write a new connector, complete with tests and a stand-in."),
    "check": ("check", "app", "Check connectors against the contract."),
    "config": ("config", "app", "Show the settings and where they come from."),
    "migrate": ("storage", "migrate_app", "Bring the database up to date."),
    "migrate-data": ("migrate_data", "app", "Move everything from SQLite to PostgreSQL."),
    "backup": ("storage", "backup_app", "Copy the database to a file."),
}
"""Commands that work on this machine: module and attribute in this package, and what they do."""

REMOTE = {
    "integrations": ("integrations", "app", "See what can be connected."),
    "connections": ("connections", "app", "Make connections, see how they are doing, change them."),
    "secrets": ("secrets", "app", "Set connections' secrets."),
    "events": ("events", "app", "Read the events that came in, and follow them."),
    "webhooks": ("webhooks", "app", "See webhooks as received, and process failed ones again."),
    "actions": ("actions", "app", "Have connections do something, and see what became of it."),
    "keys": ("keys", "app", "Make and revoke API keys."),
    "tenants": ("keys", "tenants", "See the tenants."),
}
"""Commands that are clients of a running platform."""


class Commands(TyperGroup):
    """Imports a command's module only when that command is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*LOCAL, *REMOTE]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        found = LOCAL.get(cmd_name) or REMOTE.get(cmd_name)
        if found is None:
            return None
        if cmd_name not in self.commands:
            module = importlib.import_module(f"{__package__}.{found[0]}")
            command = typer.main.get_command(getattr(module, found[1]))
            command.name = cmd_name
            self.commands[cmd_name] = command
        return self.commands[cmd_name]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args[:1] == ["help"]:
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            question = did_you_mean(args[0], self.list_commands(ctx))
            raise WrongUsage(f"There is no command '{args[0]}'.", question or "See: trunkline help")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, commands in (("On this machine", LOCAL), ("On a running platform", REMOTE)):
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, _, text) in commands.items()])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TrunklineError as error:
            failure = CommandFailed.from_error(error)
        except CommandFailed as error:
            failure = error
        _report(failure)
        raise typer.Exit(failure.exit_code)


def _report(failure: CommandFailed) -> None:
    complain(in_words(" ".join(filter(None, (f"error: {sentence(failure.message)}", failure.remedy)))))
    for problem in failure.problems:
        complain(f"  {problem.path}: {in_words(problem.message)}")


_EPILOG = "\n\n".join(
    [
        paragraph(
            "Variables:",
            "  TRUNKLINE_URL      address of the platform (default http://127.0.0.1:8080)",
            "  TRUNKLINE_API_KEY  key to use; on the platform's own machine it can be left out,",
            "                     and admin.key in the data folder is read",
            "  TRUNKLINE_...      settings of `trunkline serve`: see `trunkline config`",
        ),
        paragraph("Exit codes:", *(f"  {code.value}  {meaning}" for code, meaning in MEANINGS.items())),
        example_text("trunkline demo", "trunkline connections create --help"),
    ]
)

app = typer.Typer(
    cls=Commands,
    name="trunkline",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=_EPILOG,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"trunkline {version('trunkline')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Self-hosted integration platform: webhooks in, events out, actions with honest outcomes."""
