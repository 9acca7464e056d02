"""Files, all of them or none."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import CannotScaffold


@dataclass(frozen=True)
class Place:
    """A folder that does not exist yet, and the files that it gets."""

    folder: Path
    files: Mapping[str, str]


def refuse_existing(paths: list[Path]) -> None:
    """Raises CannotScaffold if something stands where something is to be written."""
    for path in paths:
        if path.exists() or path.is_symlink():
            raise CannotScaffold(
                f"{path} exists; nothing is overwritten.", "Take another name, or move it away."
            )


def write(places: list[Place], page: tuple[Path, str] | None = None) -> None:
    """Writes folders, and perhaps one more file. Raises CannotScaffold, and then leaves nothing behind."""
    try:
        with _undone_on_failure() as made:
            staged = [(place, _staged(place, made)) for place in places]
            if page is not None:
                _make_parents(page[0], made)
                with page[0].open("x", encoding="utf-8") as file:
                    made.append(page[0])
                    file.write(page[1])
            for place, folder in staged:
                folder.rename(place.folder)
                made.append(place.folder)
    except OSError as error:
        where = error.filename or places[0].folder
        raise CannotScaffold(
            f"{where} cannot be written ({error.strerror}); nothing was.",
            "Choose another folder with --into, or correct its permissions.",
        ) from None


@contextmanager
def _undone_on_failure() -> Iterator[list[Path]]:
    made: list[Path] = []
    try:
        yield made
    except BaseException:
        for path in reversed(made):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def _staged(place: Place, made: list[Path]) -> Path:
    """A hidden folder beside the place, with all that will be in there."""
    _make_parents(place.folder, made)
    folder = Path(tempfile.mkdtemp(prefix=f".{place.folder.name}.", dir=place.folder.parent))
    made.append(folder)
    folder.chmod(0o777 & ~_umask())  # mkdtemp's is for its maker alone
    for name, text in place.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return folder


def _make_parents(path: Path, made: list[Path]) -> None:
    missing = []
    for parent in path.parents:
        if parent.exists():
            break
        missing.append(parent)
    for parent in reversed(missing):
        parent.mkdir()
        made.append(parent)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
