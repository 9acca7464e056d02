"""`trunkline new`: a connector that passes every check, to begin with."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .commands import local, single
from .output import Output
from .own_connectors import USUAL, VARIABLE

if TYPE_CHECKING:
    from app.scaffold.naming import Naming
    from app.scaffold.rendering import Rendered
    from app.scaffold.sample import Sample

app = single()

_MOST_NAMED = 10


@local(
    app,
    "new",
    "trunkline new acme",
    "trunkline new acme --shape messenger",
    "trunkline new acme --from captured.json --event order.paid",
    "trunkline new acme --into app/integrations/connectors",
)
def new(
    out: Output,
    name: Annotated[str, typer.Argument(help="Name of the connector: its folder, its key, its webhook URL.")],
    shape: Annotated[
        Literal["generic", "messenger", "crm", "email"],
        typer.Option(help="What kind of service it connects to.", show_default=True),
    ] = "generic",
    sample: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="FILE", help="Body of a captured webhook, as JSON: models are made of it."
        ),
    ] = None,
    event: Annotated[
        str | None, typer.Option(metavar="NOUN.VERB", help="What the captured webhook says has happened.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help=f"Folder of connectors; ./{USUAL} if neither this nor {VARIABLE} is given.",
            envvar=VARIABLE,
        ),
    ] = None,
) -> None:
    """Write a new connector: code, a local stand-in, tests, fixtures and a page.

    It is complete and passes `trunkline check`. What it says about the service is invented, except for what
    --from tells; change one thing after another, and check again. Nothing is ever overwritten.
    """
    from app.checks.subject import REPOSITORY
    from app.integrations import connectors
    from app.scaffold.naming import event_name, named
    from app.scaffold.rendering import SHAPES, render
    from app.scaffold.sample import read_sample
    from app.scaffold.writing import Place, refuse_existing, write

    folder = (into or USUAL).expanduser()
    package = Path(connectors.__path__[0]).resolve()
    repository = REPOSITORY if folder.resolve() == package else None
    naming = named(name, in_repository=repository is not None)
    _refuse_folder(folder)
    places = _places(naming, folder, repository)
    refuse_existing(list(places.values()))
    _refuse_taken(naming.key, folder)
    if event and not sample:
        from .exits import WrongUsage

        raise WrongUsage("--event says what a captured webhook means.", "Give that with --from.")
    captured = read_sample(sample.expanduser()) if sample else None
    named_event = event_name(event, naming.key) if event else None
    made = render(naming, SHAPES[shape], captured, named_event, own_folder=repository is None)
    if repository is None:
        files = {**made.code, "README.md": made.page}
        files |= {f"tests/{path}": text for path, text in made.tests.items()}
        write([Place(places["folder"], files)])
    else:
        tests = Place(places["tests"], made.tests)
        write([tests, Place(places["folder"], made.code)], (places["page"], made.page))
    told = _told(naming, shape, made, captured, places)
    told["next"] = _next(naming, made, folder, places, in_repository=repository is not None)
    if out.as_json:
        out.document(told)
    else:
        _print(out, told, made, captured)


def _places(naming: "Naming", folder: Path, repository: Path | None) -> dict[str, Path]:
    """Where things go; `folder` alone if it holds everything."""
    places = {"folder": folder / naming.key}
    if repository is not None:
        places["tests"] = repository / "tests" / "integrations" / "connectors" / naming.key
        places["page"] = repository / "docs" / "connectors" / f"{naming.key}.md"
    return places


def _refuse_folder(folder: Path) -> None:
    from app.scaffold.errors import CannotScaffold

    if folder.exists() and not folder.is_dir():
        raise CannotScaffold(f"{folder} is a file.", "Name a folder with --into.")
    if (folder / "connector.py").exists():
        raise CannotScaffold(f"{folder} is a connector itself.", "Name the folder that it is in with --into.")


def _refuse_taken(key: str, folder: Path) -> None:
    from app.integrations.registry import Registry
    from app.scaffold.errors import CannotScaffold

    known = Registry.discover(folder if folder.is_dir() else None).integrations
    if key in known:
        raise CannotScaffold(
            f"The key '{key}' is already taken by {known[key].source}.",
            f"Take another name, such as my_{key}.",
        )


def _told(
    naming: "Naming", shape: str, made: "Rendered", captured: "Sample | None", places: dict[str, Path]
) -> dict[str, Any]:
    tests = places.get("tests", places["folder"] / "tests")
    files = [places["folder"] / name for name in made.code]
    files += [tests / name for name in made.tests]
    files.append(places.get("page", places["folder"] / "README.md"))
    return {
        "key": naming.key,
        "shape": shape,
        "folder": str(places["folder"]),
        "files": [str(path) for path in files],
        "event": made.event,
        "external_id": made.identity.path if made.identity else None,
        "scrubbed": captured.scrubbed if captured else [],
    }


def _next(
    naming: "Naming", made: "Rendered", folder: Path, places: dict[str, Path], *, in_repository: bool
) -> list[dict[str, str]]:
    """The commands that lead from here to a first event."""
    from app.scaffold.rendering import SIGNING_SECRET

    tests = places.get("tests", places["folder"] / "tests")
    key, path = naming.key, "" if in_repository else f" --connectors-path {shlex.quote(str(folder))}"
    # What `check` finds without being told is not to be told.
    target = key if in_repository or folder == USUAL else shlex.quote(_as_path(places["folder"]))
    commands = [
        ("hold it against the contract", f"trunkline check {target}"),
        ("run its tests", f"pytest {shlex.quote(str(tests))}"),
        ("run the platform; it restarts when you save", f"trunkline dev{path}"),
        (
            "connect, in another terminal",
            f"trunkline connections create {key} --secret api_key=made-up "
            f"--secret signing_secret={SIGNING_SECRET}",
        ),
        (
            "be the provider: send a webhook to the webhook_url that this shows",
            f"curl -H '{naming.header}: {made.signature}' "
            f"--data-binary @{shlex.quote(str(tests / made.fixture))} WEBHOOK_URL",
        ),
        ("see the event", "trunkline events list"),
    ]
    if in_repository:
        commands.append(("put it into the catalogue", "make docs"))
    return [{"what": what, "command": command} for what, command in commands]


def _as_path(folder: Path) -> str:
    """The folder, so that nobody takes it for a key."""
    return str(folder) if folder.is_absolute() or len(folder.parts) > 1 else f"./{folder}"


def _print(out: Output, told: dict[str, Any], made: "Rendered", captured: "Sample | None") -> None:
    out.text(f"Made {told['folder']}, a connector of the shape {told['shape']}:")
    for path in told["files"]:
        out.text(f"  {path}")
    if captured is None:
        out.text("\nThe service that it talks to is invented, and so are its fixtures: change them.")
    else:
        _print_sample(out, told, made, captured)
    out.text("\nWhat comes next:")
    for step in told["next"]:
        out.text(f"\n  # {step['what']}\n  {step['command']}")


def _print_sample(out: Output, told: dict[str, Any], made: "Rendered", captured: "Sample") -> None:
    several = f" {len(captured.items)} items of" if captured.is_array else ""
    out.text(f"\nThe models take{several} the sample, and {made.event} is the event that it becomes.")
    if made.others:
        out.text(f"It has items of several kinds ({', '.join(made.others[:_MOST_NAMED])}): tell them apart.")
    if made.identity is None:
        out.text(
            "Nothing in it tells one from another, so external_id is left out and repetitions are not seen."
        )
    else:
        out.text(
            f"external_id is {made.identity.path}: make sure that it stays the same if it is sent again."
        )
    if captured.left_out:
        out.text(f"The fixture has the first {len(captured.fixture)} items.")
    if scrubbed := told["scrubbed"]:
        more = f" and {len(scrubbed) - _MOST_NAMED} more" if len(scrubbed) > _MOST_NAMED else ""
        out.text(f"Replaced in the fixture: {', '.join(scrubbed[:_MOST_NAMED])}{more}.")
    out.text("Names, phone numbers and ids are in the fixture as they came: look through it.")
