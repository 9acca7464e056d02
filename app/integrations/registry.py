"""Finds the connectors and checks what they declare.

Three places: the package `app.integrations.connectors`, a folder named by configuration, which is laid
over the same package path, and installed distributions with the entry-point group `trunkline.connectors`
(each entry names a package or module). What cannot be used is listed as broken, with the reason and what
to do, and stops neither the others nor the start.
"""

import importlib
import inspect
import pkgutil
import re
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel

from . import connectors
from .base import BaseIntegration
from .errors import DeclarationError
from .http import ConnectorHttp
from .specs import ActionSpec, EventSpec, PollSpec, SecretSpec
from .verification import BySettings, Verification

ENTRY_POINT_GROUP = "trunkline.connectors"
_KEY = re.compile(r"[a-z][a-z0-9_]{0,62}")
_ACTION = re.compile(r"[a-z][a-z0-9_.]{0,99}")
_RESERVED_PARAMETERS = ("settings", "http")


@dataclass(frozen=True)
class Integration:
    """A registered connector class and how to build its instances."""

    connector: type[BaseIntegration]
    source: str

    @property
    def key(self) -> str:
        return self.connector.key

    @cached_property
    def parameters(self) -> frozenset[str]:
        """The names that the constructor takes."""
        return frozenset(_constructor_parameters(self.connector))

    @cached_property
    def secret_specs(self) -> dict[str, SecretSpec]:
        return {spec.name: spec for spec in self.connector.secrets}

    @property
    def webhook_secrets(self) -> frozenset[str]:
        """The secrets that requests are judged by."""
        return _webhook_secrets(self.connector)

    def verification_for(self, settings: Mapping[str, Any]) -> Verification | None:
        """The check for a connection with these settings. Raises ValidationError if they are not valid."""
        declared, model = self.connector.verification, self.connector.settings_model
        if not isinstance(declared, BySettings):
            return declared
        return declared.choose(model.model_validate(settings) if model else None)

    @property
    def takes_webhooks(self) -> bool:
        return (
            self.connector.handle_webhook is not BaseIntegration.handle_webhook
            or self.connector.receive is not BaseIntegration.receive
        )

    @cached_property
    def webhook_methods(self) -> tuple[str, ...]:
        """The methods that the webhook URL answers to."""
        handshake = self.connector.handshake
        return ("POST",) if handshake is None or handshake.method == "POST" else ("POST", handshake.method)

    @property
    def checks(self) -> bool:
        """Whether the connector can ask if its credentials are good."""
        return self.connector.check is not BaseIntegration.check

    @property
    def registers_webhooks(self) -> bool:
        return self.connector.register_webhook is not BaseIntegration.register_webhook

    def create(
        self, secrets: dict[str, str], settings: BaseModel | None, http: ConnectorHttp
    ) -> BaseIntegration:
        """Builds an instance. An optional secret without a value is left to the parameter's default."""
        arguments: dict[str, Any] = {name: v for name, v in secrets.items() if name in self.parameters}
        if "settings" in self.parameters:
            arguments["settings"] = settings
        if "http" in self.parameters:
            arguments["http"] = http
        return self.connector(**arguments)


@dataclass(frozen=True)
class Broken:
    """A connector that cannot be used, why, and what to do about it."""

    source: str
    reason: str
    remedy: str


@dataclass
class Registry:
    """The integrations that this process knows, by key."""

    integrations: dict[str, Integration] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)

    @classmethod
    def discover(
        cls, folder: Path | None = None, *, entry_point_group: str | None = ENTRY_POINT_GROUP
    ) -> "Registry":
        """Imports every connector there is. Never raises for a connector's fault."""
        registry = cls()
        if folder is not None:
            registry._lay_over(folder)
        importlib.invalidate_caches()
        for name in registry._subfolders():
            registry._add_package(f"{connectors.__name__}.{name}")
        if entry_point_group:
            values = [entry.value for entry in entry_points(group=entry_point_group)]
            for package in dict.fromkeys(re.split(r"[:\[]", value)[0].strip() for value in values):
                registry._add_package(package)
        return registry

    @classmethod
    def of_folder(cls, folder: Path) -> "Registry":
        """Only the connector in `folder`, which gets the documented import path."""
        registry = cls()
        folder = folder.resolve()
        registry._lay_over(folder.parent)
        importlib.invalidate_caches()
        same_name = (Path(root, folder.name).resolve() for root in connectors.__path__)
        first = next((place for place in same_name if place.is_dir()), None)
        if registry._is_importable(folder, first if first != folder else None):
            registry._add_package(f"{connectors.__name__}.{folder.name}")
        return registry

    def register(self, connector: type[BaseIntegration], source: str) -> None:
        """Adds one class. Raises DeclarationError if what it declares is wrong or its key is taken."""
        check_declarations(connector)
        if known := self.integrations.get(connector.key):
            raise DeclarationError(
                f"The key '{connector.key}' is already taken by {known.source}.",
                f"Give {connector.__name__} in {source} another key.",
            )
        self.integrations[connector.key] = Integration(connector, source)

    def _add_package(self, package: str) -> None:
        try:
            modules = list(_import(package))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever a stranger's module raises, SystemExit too
            self.broken.append(_import_failure(package, error))
            return
        classes = _connector_classes(package, modules)
        if not classes:
            self.broken.append(
                Broken(
                    package,
                    "It defines no class that inherits from BaseIntegration.",
                    f"Define one in {package}.connector, or import it in the package.",
                )
            )
        for connector in classes:
            source = f"{connector.__module__}.{connector.__qualname__}"
            try:
                self.register(connector, source)
            except DeclarationError as error:
                self.broken.append(Broken(source, error.problem, error.remedy))
            except Exception as error:  # noqa: BLE001 - a declaration may be anything
                reason = f"What it declares cannot be read: {_words_of(error)}"
                self.broken.append(Broken(source, reason, f"Correct it in {_file_of(connector)}."))

    def _lay_over(self, folder: Path) -> None:
        # On the package's search path the folder's packages get the documented import path.
        path = str(folder.resolve())
        if not folder.is_dir():
            remedy = "Make it, or correct TRUNKLINE_CONNECTORS_PATH or --connectors-path."
            self.broken.append(Broken(path, "The folder for connectors does not exist.", remedy))
        elif (folder / "connector.py").is_file():
            reason = "The folder for connectors is a connector itself."
            remedy = f"Name the folder that it is in: {folder.resolve().parent}"
            self.broken.append(Broken(path, reason, remedy))
        elif path not in connectors.__path__:
            connectors.__path__.append(path)

    def _subfolders(self) -> Iterator[str]:
        first: dict[str, Path] = {}
        for root in map(Path, connectors.__path__):
            try:
                entries = sorted(root.iterdir() if root.is_dir() else ())
            except OSError as error:
                reason = f"The folder cannot be read ({error.strerror})."
                self.broken.append(Broken(str(root), reason, "Correct its permissions."))
                continue
            for entry in entries:
                if entry.is_file() and _is_loose(entry):
                    reason = "A connector is a folder, and this is a single file."
                    remedy = f"Move it to {entry.with_suffix('') / 'connector.py'}"
                    self.broken.append(Broken(str(entry), reason, remedy))
                if not entry.is_dir() or entry.name.startswith((".", "__")):
                    continue
                if self._is_importable(entry, first.get(entry.name)):
                    first[entry.name] = entry
                    yield entry.name

    def _is_importable(self, folder: Path, known: Path | None) -> bool:
        """Whether the folder's name can be its package's; `known` is another folder that has the name."""
        if not folder.name.isidentifier():
            if any(folder.glob("*.py")):
                remedy = f"Rename it, such as {re.sub(r'[^a-z0-9]+', '_', folder.name.lower())}."
                reason = "The folder's name is not one that Python can import."
                self.broken.append(Broken(str(folder), reason, remedy))
            return False
        if known:
            reason = f"The folder's name is already taken by {known}."
            self.broken.append(Broken(str(folder), reason, "Give the folder another name."))
            return False
        return True


def check_declarations(connector: type[BaseIntegration]) -> None:
    """Raises DeclarationError with file and remedy for the first thing that cannot work."""
    where = _file_of(connector)
    for attribute, example in (("name", '"My Service"'), ("key", '"my_service"')):
        if not isinstance(getattr(connector, attribute, None), str) or not getattr(connector, attribute):
            raise DeclarationError(
                f"{connector.__name__} has no '{attribute}'.", f"Set {attribute} = {example} in {where}."
            )
    if not _KEY.fullmatch(connector.key):
        raise DeclarationError(
            f"The key '{connector.key}' is not a lower-case identifier.",
            f"Use letters, digits and underscores in {where}, such as my_service.",
        )
    if not isinstance(connector.version, str):
        raise DeclarationError("'version' is not a string.", f'Write version = "1.0.0" in {where}.')
    for attribute, methods, example in (
        ("body", ("parse",), "JsonObject()"),
        (
            "verification",
            ("verify", "secret_names", "credential_headers"),
            'Hmac(header="...", secret="...")',
        ),
    ):
        value = getattr(connector, attribute)
        if isinstance(value, type) or not (
            all(hasattr(value, method) for method in methods)
            or (value is None and attribute == "verification")
        ):
            raise DeclarationError(
                f"'{attribute}' of {connector.__name__} is not a {attribute} declaration.",
                f"Write something like {attribute} = {example} in {where}.",
            )
    if connector.reply_within is not None and not _is_positive(connector.reply_within):
        raise DeclarationError("'reply_within' is not a number of seconds.", f"Correct it in {where}.")
    for attribute, kind in (
        ("secrets", SecretSpec),
        ("actions", ActionSpec),
        ("events", EventSpec),
        ("polls", PollSpec),
    ):
        _check_specs(connector, attribute, kind, where)
    _check_actions(connector, where)
    for event in connector.events:
        if event.model is not None:
            _check_model(event.model, f"The model of event '{event.name}'", where)
    for poll in connector.polls:
        if not (_is_positive(poll.every) and _is_positive(poll.deadline)):
            raise DeclarationError(
                f"'every' and 'deadline' of poll '{poll.name}' are not numbers of seconds.",
                f"Correct them in {where}.",
            )
        _check_method(connector, poll.handler, f"poll '{poll.name}'", where)
    _check_constructor(connector, where)


def _check_specs(connector: type[BaseIntegration], attribute: str, kind: type, where: str) -> None:
    specs = getattr(connector, attribute)
    if not isinstance(specs, list | tuple) or not all(isinstance(spec, kind) for spec in specs):
        raise DeclarationError(
            f"'{attribute}' of {connector.__name__} is not a list of {kind.__name__}.",
            f"Write {attribute} = [{kind.__name__}(...)] in {where}.",
        )
    names = [spec.name for spec in specs]
    for name in names:
        if not isinstance(name, str) or not name:
            raise DeclarationError(f"One of '{attribute}' has no name.", f"Give it one in {where}.")
    if twice := {name for name in names if names.count(name) > 1}:
        raise DeclarationError(
            f"'{attribute}' declares {', '.join(sorted(twice))} more than once.", f"Remove one in {where}."
        )


def _check_actions(connector: type[BaseIntegration], where: str) -> None:
    for action in connector.actions:
        if not _ACTION.fullmatch(action.name):
            raise DeclarationError(
                f"The action name '{action.name}' is not a lower-case identifier.",
                f"Name it like send_message in {where}.",
            )
        _check_model(action.model, f"The model of action '{action.name}'", where)
        if action.result is not None:
            _check_model(action.result, f"The result of action '{action.name}'", where)
        _check_method(connector, action.handler, f"action '{action.name}'", where)
        if action.effect not in ("once", "idempotent", "checkable"):
            raise DeclarationError(
                f"The effect '{action.effect}' of action '{action.name}' is unknown.",
                f"Use once, idempotent or checkable in {where}.",
            )
        if (action.effect == "checkable") != (action.probe is not None):
            raise DeclarationError(
                f"Action '{action.name}' needs both effect 'checkable' and a probe, or neither.",
                f"Name the probe method with probe=... in {where}.",
            )
        if action.probe:
            _check_method(connector, action.probe, f"the probe of action '{action.name}'", where)


def _check_method(connector: type[BaseIntegration], name: str, what: str, where: str) -> None:
    if not isinstance(name, str) or not callable(getattr(connector, name, None)):
        raise DeclarationError(
            f"The handler '{name}' of {what} does not exist.",
            f"Define it on {connector.__name__} in {where}.",
        )


def _check_constructor(connector: type[BaseIntegration], where: str) -> None:
    declared = {spec.name for spec in connector.secrets}
    if clash := declared & set(_RESERVED_PARAMETERS):
        raise DeclarationError(
            f"A secret cannot be called {', '.join(sorted(clash))}.", f"Rename it in {where}."
        )
    parameters = _constructor_parameters(connector)
    for name, parameter in parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise DeclarationError(
                f"The constructor parameter '{name}' cannot be given by name.",
                f"Write plain parameters in {where}.",
            )
        if name not in declared and name not in _RESERVED_PARAMETERS:
            raise DeclarationError(
                f"The constructor parameter '{name}' is not a declared secret, 'settings' or 'http'.",
                f"Declare SecretSpec(name='{name}', ...) or remove the parameter in {where}.",
            )
    if connector.settings_model is not None:
        _check_model(connector.settings_model, "'settings_model'", where)
    if ("settings" in parameters) and connector.settings_model is None:
        raise DeclarationError(
            "The constructor takes 'settings', but no settings_model is declared.",
            f"Set settings_model to a Pydantic model in {where}.",
        )
    if isinstance(connector.verification, BySettings) and connector.settings_model is None:
        raise DeclarationError(
            "'verification' is chosen by settings, but no settings_model is declared.",
            f"Set settings_model to a Pydantic model in {where}.",
        )
    verified = _webhook_secrets(connector)
    if unknown := verified - declared:
        raise DeclarationError(
            f"'verification' or 'handshake' names {', '.join(sorted(unknown))}, which is not declared.",
            f"Add a SecretSpec for it in {where}.",
        )
    if unused := declared - set(parameters) - verified:
        raise DeclarationError(
            f"Nothing takes the secret {', '.join(sorted(unused))}.",
            f"Take it as a constructor parameter of the same name, or name it in verification ({where}).",
        )
    optional = {spec.name for spec in connector.secrets if not spec.required}
    for name in optional & set(parameters):
        if parameters[name].default is inspect.Parameter.empty:
            raise DeclarationError(
                f"The secret '{name}' is optional, but its constructor parameter has no default.",
                f"Write {name}: str | None = None in {where}.",
            )


def _webhook_secrets(connector: type[BaseIntegration]) -> frozenset[str]:
    declared = (connector.verification, connector.handshake)
    return frozenset[str]().union(*(check.secret_names for check in declared if check is not None))


def _constructor_parameters(connector: type[BaseIntegration]) -> dict[str, inspect.Parameter]:
    if connector.__init__ is object.__init__:
        return {}
    return {
        name: parameter
        for index, (name, parameter) in enumerate(inspect.signature(connector.__init__).parameters.items())
        if index > 0
    }


def _check_model(model: object, what: str, where: str) -> None:
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise DeclarationError(
            f"{what} is not a Pydantic model.", f"Inherit it from pydantic.BaseModel ({where})."
        )
    if model.model_rebuild(raise_errors=False) is False:
        raise DeclarationError(
            f"{what}, {model.__name__}, names a type that does not exist.",
            f"Import or define it in {_file_of(model)}.",
        )


def _is_loose(file: Path) -> bool:
    """Whether a file that lies beside the connectors' folders was meant to be a connector."""
    if file.suffix != ".py" or file.name == "__init__.py":
        return False
    try:
        return b"BaseIntegration" in file.read_bytes()
    except OSError:
        return False


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < float("inf")


def _import(package: str) -> Iterator[ModuleType]:
    module = importlib.import_module(package)
    yield module
    for root in getattr(module, "__path__", []):
        if any(info.name == "connector" for info in pkgutil.iter_modules([root])):
            yield importlib.import_module(f"{package}.connector")
            return


def _connector_classes(package: str, modules: list[ModuleType]) -> list[type[BaseIntegration]]:
    found: dict[type[BaseIntegration], None] = {}
    for module in modules:
        for value in vars(module).values():
            if (
                isinstance(value, type)
                and issubclass(value, BaseIntegration)
                and not inspect.isabstract(value)
                and (value.__module__ == package or value.__module__.startswith(f"{package}."))
            ):
                found[value] = None
    return [c for c in found if not any(_is_base_of(c, other) for other in found)]


def _is_base_of(base: type[BaseIntegration], other: type[BaseIntegration]) -> bool:
    """Whether `base` only serves `other`: it has no key, or leaves the same one to it."""
    key = getattr(base, "key", None)
    return base is not other and issubclass(other, base) and key in (None, getattr(other, "key", None))


def _import_failure(package: str, error: BaseException) -> Broken:
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if package.rsplit(".", 1)[-1] in Path(frame.filename).parts
    ]
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError) and error.filename and error.lineno:
        place = f" ({error.filename}:{error.lineno})"  # its frames end where it was imported
    if isinstance(error, DeclarationError):
        return Broken(package, error.problem, f"{error.remedy}{place}")
    if isinstance(error, ModuleNotFoundError) and error.name:
        own = error.name.startswith(f"{package}.")
        missing = f"Add {error.name.rsplit('.', 1)[-1]}.py" if own else f"Install '{error.name}'"
        remedy = f"{missing}, or correct the import{place}."
    else:
        remedy = f"Correct it{place} and restart."
    return Broken(package, f"It cannot be imported: {_words_of(error)}", remedy)


def _words_of(error: BaseException) -> str:
    try:
        words = str(error)
    except Exception:  # noqa: BLE001 - even that is a stranger's code
        words = "(no words)"
    return " ".join(f"{type(error).__name__}: {words}".split())[:500]


def _file_of(connector: type) -> str:
    try:
        return inspect.getfile(connector)
    except (TypeError, OSError):
        return connector.__module__
