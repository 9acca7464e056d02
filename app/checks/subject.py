"""A connector under test: its class, and where its files are."""

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import app
from app.integrations import connectors
from app.integrations.base import BaseIntegration
from app.integrations.registry import ENTRY_POINT_GROUP, Broken, Integration, Registry

from .fixtures import Fixture, read_fixtures

_APP = Path(app.__file__).resolve().parent
REPOSITORY = _APP.parent if (_APP.parent / "tests" / "integrations" / "connectors").is_dir() else None
"""The checkout that this is; None where Trunkline is installed."""


@dataclass(frozen=True, eq=False)
class ConnectorUnderTest:
    """One connector as its author left it.

    key           the folder's name, or the package's
    package       what Python imports it as
    folder        where its files are; None if it is a single module
    integrations  what the registry made of it: one, if all is well
    broken        what the registry could not use of it
    repository    the checkout that it belongs to; None for connectors from elsewhere
    """

    key: str
    package: str
    folder: Path | None = None
    integrations: tuple[Integration, ...] = ()
    broken: tuple[Broken, ...] = ()
    repository: Path | None = field(default=None, repr=False)

    @property
    def ours(self) -> bool:
        """Whether it belongs to this repository, where quality is not left to anybody's taste."""
        return self.repository is not None

    @cached_property
    def integration(self) -> Integration | None:
        """What is registered under the folder's name, or else the first."""
        same = [one for one in self.integrations if one.key == self.key]
        return next(iter((*same, *self.integrations)), None)

    @property
    def connector(self) -> type[BaseIntegration]:
        assert self.integration is not None, "checks of a class run on connectors that have one"
        return self.integration.connector

    @property
    def has_webhooks(self) -> bool:
        return self.integration is not None and self.integration.takes_webhooks

    @cached_property
    def tests(self) -> Path | None:
        """The folder of its tests, whether or not it is there."""
        if self.repository is not None:
            return self.repository / "tests" / "integrations" / "connectors" / self.key
        if self.folder is None:
            return None
        return self.folder / "tests" if (self.folder / "tests").is_dir() else self.folder

    @property
    def page(self) -> Path | None:
        """Its page for people, whether or not it is there."""
        if self.repository is not None:
            return self.repository / "docs" / "connectors" / f"{self.key}.md"
        return self.folder / "README.md" if self.folder is not None else None

    @cached_property
    def fixtures(self) -> list[Fixture]:
        return read_fixtures(self.tests / "fixtures") if self.tests is not None else []

    def shown(self, path: Path | None, *more: str) -> str:
        """A path as messages name it: below the repository, or below the connector's own folder."""
        if path is None:
            return "/".join((self.key, *more))
        path = path.joinpath(*more)
        for root in (self.repository, self.folder.parent if self.folder else None):
            if root is not None and path.is_relative_to(root):
                return path.relative_to(root).as_posix()
        return str(path)


def discovered(
    folder: Path | None = None, *, entry_points: str | None = ENTRY_POINT_GROUP
) -> list[ConnectorUnderTest]:
    """Every connector that the platform would find, with `folder` as its connectors_path."""
    return _subjects(Registry.discover(folder, entry_point_group=entry_points))


def in_folder(folder: Path) -> ConnectorUnderTest:
    """The connector in one folder."""
    registry = Registry.of_folder(folder)
    found = _subjects(registry)
    if len(found) == 1 and found[0].folder is not None:
        return found[0]
    folder = folder.resolve()
    package = f"{connectors.__name__}.{folder.name}"
    return ConnectorUnderTest(folder.name, package, folder, broken=tuple(registry.broken))


def _subjects(registry: Registry) -> list[ConnectorUnderTest]:
    packages: dict[str, tuple[list[Integration], list[Broken]]] = {}
    for integration in registry.integrations.values():
        packages.setdefault(_package_of(integration), ([], []))[0].append(integration)
    for broken in registry.broken:
        packages.setdefault(_package_of_broken(broken), ([], []))[1].append(broken)
    return [_subject(package, *found) for package, found in sorted(packages.items())]


def _subject(
    package: str, integrations: Iterable[Integration], broken: Iterable[Broken]
) -> ConnectorUnderTest:
    name = Path(package).name if os.sep in package else package.rpartition(".")[2]
    folder = _folder_of(package, name)
    ours = REPOSITORY is not None and folder == _APP / "integrations" / "connectors" / name
    return ConnectorUnderTest(
        name, package, folder, tuple(integrations), tuple(broken), REPOSITORY if ours else None
    )


def _package_of(integration: Integration) -> str:
    module = sys.modules[integration.connector.__module__]
    if hasattr(module, "__path__"):  # the class stands in the package itself
        return module.__name__
    prefix = f"{connectors.__name__}."
    if module.__name__.startswith(prefix):
        return prefix + module.__name__.removeprefix(prefix).partition(".")[0]
    return module.__package__ or module.__name__


def _package_of_broken(broken: Broken) -> str:
    prefix = f"{connectors.__name__}."
    if broken.source.startswith(prefix):
        return prefix + broken.source.removeprefix(prefix).partition(".")[0]
    return broken.source


def _folder_of(package: str, name: str) -> Path | None:
    if os.sep in package:
        return Path(package) if Path(package).is_dir() else None
    if package.startswith(f"{connectors.__name__}."):
        places = (Path(root, name) for root in connectors.__path__)
        return next((place.resolve() for place in places if place.is_dir()), None)
    paths = list(getattr(sys.modules.get(package), "__path__", []))
    return Path(paths[0]).resolve() if paths else None
