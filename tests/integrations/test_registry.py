"""Where connectors are found, what is checked, and that nothing broken stops the others."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.integrations import connectors
from app.integrations.base import BaseIntegration
from app.integrations.errors import DeclarationError
from app.integrations.models import Event
from app.integrations.registry import Broken, Registry
from app.integrations.specs import ActionSpec, EventSpec, PollSpec, SecretSpec
from app.integrations.verification import StaticToken
from tests.support.connectors import ChatConnector, ChatSettings, Note
from tests.support.specification import COPY, ORIGINAL, ROOT, drop_example

IMPORTS = """
from typing import Any
from pydantic import BaseModel
from app.integrations.base import BaseIntegration
from app.integrations.models import Event
from app.integrations.specs import ActionSpec, EventSpec, PollSpec, SecretSpec
from app.integrations.verification import Hmac, StaticToken
"""


def connector(key: str, extra: str = "", base: str = "BaseIntegration", name: str | None = None) -> str:
    """The source of a connector."""
    class_name = name or "".join(part.title() for part in key.split("_"))
    return IMPORTS + f'\nclass {class_name}({base}):\n    name = "{key}"\n    key = "{key}"\n{extra}'


@dataclass
class Places:
    """The package's folder and one of the user's own, both empty."""

    package: Path
    folder: Path

    def write(self, path: str, text: str = "", *, in_folder: bool = False) -> Path:
        file = (self.folder if in_folder else self.package) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
        return file

    def discover(self) -> Registry:
        return Registry.discover(self.folder)

    def only_broken(self) -> Broken:
        """What is broken, beside a good connector that must not be held up by it."""
        self.write("good/connector.py", connector("good"))
        registry = self.discover()
        assert sorted(registry.integrations) == ["good"]
        [broken] = registry.broken
        assert broken.reason
        assert broken.remedy
        return broken


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    made = Places(tmp_path / "package", tmp_path / "own")
    made.package.mkdir()
    made.folder.mkdir()
    prefix = f"{connectors.__name__}."
    modules = {name for name in sys.modules if name.startswith(prefix)}
    path = list(connectors.__path__)
    connectors.__path__[:] = [str(made.package)]
    yield made
    connectors.__path__[:] = path
    for name in [name for name in sys.modules if name.startswith(prefix) and name not in modules]:
        del sys.modules[name]
        vars(connectors).pop(name.removeprefix(prefix), None)


# Where connectors are found.


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_folder_without_init_is_found(places: Places, in_folder: bool) -> None:
    places.write("acme/connector.py", connector("acme"), in_folder=in_folder)
    registry = places.discover()
    assert registry.broken == []
    found = registry.integrations["acme"]
    assert found.connector.__module__ == "app.integrations.connectors.acme.connector"
    assert found.source == "app.integrations.connectors.acme.connector.Acme"


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_package_that_imports_its_class_is_found(places: Places, in_folder: bool) -> None:
    places.write("acme/__init__.py", "from .impl import Acme", in_folder=in_folder)
    places.write("acme/impl.py", connector("acme"), in_folder=in_folder)
    registry = places.discover()
    assert registry.broken == []
    assert registry.integrations["acme"].connector.__module__ == "app.integrations.connectors.acme.impl"


def test_a_package_with_an_empty_init_and_a_connector_module_is_found(places: Places) -> None:
    places.write("acme/__init__.py")
    places.write("acme/connector.py", connector("acme"))
    assert sorted(places.discover().integrations) == ["acme"]


def test_a_class_in_the_package_itself_is_found(places: Places) -> None:
    places.write("acme/__init__.py", connector("acme"))
    assert sorted(places.discover().integrations) == ["acme"]


def test_both_places_are_looked_at_together(places: Places) -> None:
    places.write("one/connector.py", connector("one"))
    places.write("two/connector.py", connector("two"), in_folder=True)
    assert sorted(places.discover().integrations) == ["one", "two"]


def test_discovering_again_finds_the_same(places: Places) -> None:
    places.write("one/connector.py", connector("one"), in_folder=True)
    assert sorted(places.discover().integrations) == ["one"]
    places.write("two/connector.py", connector("two"), in_folder=True)
    assert sorted(places.discover().integrations) == ["one", "two"]
    assert connectors.__path__.count(str(places.folder.resolve())) == 1


def test_relative_imports_inside_a_connector_work(places: Places) -> None:
    source = IMPORTS + "from .schemas import Note\nfrom . import client\n" + connector("acme")
    places.write("acme/connector.py", source, in_folder=True)
    places.write("acme/schemas.py", "class Note: ...", in_folder=True)
    places.write("acme/client.py", "", in_folder=True)
    assert sorted(places.discover().integrations) == ["acme"]


def test_files_and_hidden_folders_are_no_connectors(places: Places) -> None:
    places.write("loose.py", "raise RuntimeError")
    places.write("__pycache__/connector.py", "raise RuntimeError")
    places.write(".git/connector.py", "raise RuntimeError")
    places.write("readme-and-such/notes.txt", "x")
    registry = places.discover()
    assert (registry.integrations, registry.broken) == ({}, [])


def test_a_missing_folder_is_said_and_stops_nothing(places: Places) -> None:
    places.folder.rmdir()
    broken = places.only_broken()
    assert broken.source == str(places.folder)
    assert "TRUNKLINE_CONNECTORS_PATH" in broken.remedy


def test_a_folder_that_cannot_be_read_is_said_and_stops_nothing(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Path.iterdir

    def denied(path: Path) -> Iterator[Path]:
        if path == places.folder:
            raise PermissionError(13, "Permission denied")
        return look(path)

    monkeypatch.setattr(Path, "iterdir", denied)
    broken = places.only_broken()
    assert broken.source == str(places.folder)
    assert "Permission denied" in broken.reason


def test_a_connector_given_for_its_folder_is_said(places: Places) -> None:
    own = places.write("acme/connector.py", connector("acme"), in_folder=True).parent
    (own / "tests").mkdir()
    places.write("good/connector.py", connector("good"))
    registry = Registry.discover(own)
    assert sorted(registry.integrations) == ["good"]
    [broken] = registry.broken
    assert (broken.source, broken.reason) == (str(own), "The folder for connectors is a connector itself.")
    assert broken.remedy.endswith(str(places.folder))


def test_a_connector_in_a_single_file_is_said(places: Places) -> None:
    file = places.write("acme.py", connector("acme"), in_folder=True)
    places.write("tools.py", "raise RuntimeError", in_folder=True)
    broken = places.only_broken()
    assert broken.source == str(file)
    assert "acme/connector.py" in broken.remedy


def test_a_folder_whose_name_python_cannot_import_is_said(places: Places) -> None:
    places.write("my-service/connector.py", connector("my_service"))
    broken = places.only_broken()
    assert broken.source.endswith("my-service")
    assert "my_service" in broken.remedy


def test_a_folder_that_hides_behind_another_is_said(places: Places) -> None:
    places.write("good/connector.py", connector("other"), in_folder=True)
    broken = places.only_broken()
    assert broken.source == str(places.folder / "good")
    assert "taken" in broken.reason


# Installed distributions.


def distribution(site: Path, name: str, entry_points: str) -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[trunkline.connectors]\n{entry_points}\n")


@pytest.mark.parametrize(
    "value", ["acme_dist", "acme_dist.connector", "acme_dist.connector:Acme", "acme_dist [extra]"]
)
def test_an_installed_distribution_is_found(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    site = tmp_path / "site"
    distribution(site, "acme-dist", f"acme = {value}\nagain = {value}")
    (site / "acme_dist").mkdir()
    (site / "acme_dist" / "__init__.py").write_text("")
    (site / "acme_dist" / "connector.py").write_text(connector("acme"))
    monkeypatch.syspath_prepend(site)
    try:
        registry = places.discover()
    finally:
        for name in ("acme_dist", "acme_dist.connector"):
            sys.modules.pop(name, None)
    assert registry.broken == []
    assert registry.integrations["acme"].source == "acme_dist.connector.Acme"


def test_a_broken_distribution_is_listed(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distribution(tmp_path / "site", "gone-dist", "gone = gone_dist.connector:Gone")
    monkeypatch.syspath_prepend(tmp_path / "site")
    broken = places.only_broken()
    assert broken.source == "gone_dist.connector"
    assert "gone_dist" in broken.remedy


def test_a_distribution_does_not_take_a_key_that_is_there(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    distribution(site, "rival", "good = rival_dist")
    (site / "rival_dist.py").write_text(connector("good", name="Rival"))
    monkeypatch.syspath_prepend(site)
    try:
        broken = places.only_broken()
    finally:
        sys.modules.pop("rival_dist", None)
    assert broken.source == "rival_dist.Rival"
    assert "already taken by app.integrations.connectors.good.connector.Good" in broken.reason


# What cannot be imported.


@pytest.mark.parametrize(
    ("source", "reason", "remedy"),
    [
        ("def broken(:\n", "SyntaxError", "restart"),
        ("x = 1\n\nraise ValueError('no\\nway')", "ValueError: no way", "connector.py:3"),
        ("import a_module_that_is_not_there", "ModuleNotFoundError", "Install 'a_module_that_is_not_there'"),
        ("from .client import Client", "ModuleNotFoundError", "Add client.py"),
        ("from json import nothing_of_the_kind", "ImportError", "connector.py:1"),
        ("1 / 0", "ZeroDivisionError", "connector.py:1"),
        ("import sys\nsys.exit(3)", "SystemExit: 3", "connector.py:2"),
        ("class Odd(BaseException): pass\nraise Odd('x')", "Odd: x", "connector.py:2"),
        (
            "class Mute(Exception):\n def __str__(self): raise ValueError\nraise Mute",
            "Mute",
            "connector.py:3",
        ),
        ("from pydantic import BaseModel\nclass M(BaseModel):\n  x: object()", "Pydantic", "connector.py:2"),
        (
            IMPORTS
            + "from app.integrations.verification import Timestamp\n"
            + "check = Hmac('X-Sig', 's', timestamp=Timestamp('X-Time'))",
            "The time in X-Time is not signed",
            "HeaderValue('X-Time')",
        ),
    ],
)
def test_a_connector_that_cannot_be_imported_is_listed(
    places: Places, source: str, reason: str, remedy: str
) -> None:
    places.write("bad/connector.py", source)
    broken = places.only_broken()
    assert broken.source == "app.integrations.connectors.bad"
    assert reason in broken.reason
    assert remedy in broken.remedy
    assert "\n" not in broken.reason


def test_a_broken_init_is_listed(places: Places) -> None:
    places.write("bad/__init__.py", "import sys; sys.exit()")
    places.write("bad/connector.py", connector("bad"))
    assert "SystemExit" in places.only_broken().reason


@pytest.mark.parametrize(
    "source",
    [
        "",
        "x = 1",
        "from app.integrations.base import BaseIntegration",
        "from tests.support.connectors import ChatConnector",
        IMPORTS
        + "from abc import ABC, abstractmethod\n"
        + "class Template(BaseIntegration, ABC):\n    @abstractmethod\n    def x(self): ...",
    ],
)
def test_a_folder_without_a_connector_of_its_own_is_listed(places: Places, source: str) -> None:
    places.write("bad/connector.py", source)
    broken = places.only_broken()
    assert "no class that inherits from BaseIntegration" in broken.reason
    assert "app.integrations.connectors.bad.connector" in broken.remedy


# Which classes are connectors.


def test_a_base_that_others_in_the_package_build_on_is_no_connector(places: Places) -> None:
    places.write("acme/base.py", IMPORTS + "class AcmeBase(BaseIntegration):\n    version = '2'\n")
    places.write("acme/connector.py", "from .base import AcmeBase\n" + connector("acme", base="AcmeBase"))
    registry = places.discover()
    assert registry.broken == []
    assert registry.integrations["acme"].connector.__name__ == "Acme"


def test_a_base_with_the_same_key_is_no_connector_of_its_own(places: Places) -> None:
    source = connector("acme", name="Template") + "\nclass Acme(Template):\n    version = '2'\n"
    places.write("acme/connector.py", source)
    registry = places.discover()
    assert registry.broken == []
    assert registry.integrations["acme"].connector.version == "2"


def test_a_connector_stays_one_when_another_builds_on_it(places: Places) -> None:
    source = connector("acme") + "\nclass AcmeEurope(Acme):\n    key = 'acme_europe'\n"
    places.write("acme/connector.py", source)
    registry = places.discover()
    assert registry.broken == []
    assert sorted(registry.integrations) == ["acme", "acme_europe"]


def test_two_connectors_in_one_module_are_both_registered(places: Places) -> None:
    places.write("pair/connector.py", connector("left") + connector("right"))
    assert sorted(places.discover().integrations) == ["left", "right"]


def test_of_two_with_one_key_the_first_stays(places: Places) -> None:
    places.write("aaa/connector.py", connector("same", name="First"))
    places.write("bbb/connector.py", connector("same", name="Second"))
    registry = places.discover()
    assert registry.integrations["same"].connector.__name__ == "First"
    [broken] = registry.broken
    assert broken.source == "app.integrations.connectors.bbb.connector.Second"
    assert "'same' is already taken by app.integrations.connectors.aaa.connector.First" in broken.reason


# What is declared.


class Complete(BaseIntegration):
    """Everything declared, as tuples."""

    name = "Complete"
    key = "complete"
    version = "3.1"
    secrets = (SecretSpec("token", "A token"), SecretSpec("extra", "Optional", required=False))
    actions = (ActionSpec("send_note", "Sends", Note, "send_note", result=Note),)
    events = (EventSpec("complete.thing.happened", "It happened", model=Note),)
    polls = (PollSpec("updates", 5.0, "poll"),)
    settings_model = ChatSettings
    verification = StaticToken("X-Token", "token")
    reply_within = 1.5

    def __init__(self, token: str, *, settings: ChatSettings, extra: str | None = None) -> None:
        self.given = (token, settings, extra)

    async def handle_webhook(self, payload: dict) -> Event:
        return Event(type="complete.thing.happened")

    def send_note(self, note: Note) -> Note:
        return note

    async def poll(self, cursor: str | None) -> tuple[list[dict], str | None]:
        return [], cursor


def test_declarations_may_be_tuples() -> None:
    registry = Registry()
    registry.register(Complete, "here")
    known = registry.integrations["complete"]
    assert known.parameters == {"token", "settings", "extra"}
    assert sorted(known.secret_specs) == ["extra", "token"]
    assert known.takes_webhooks
    assert not known.registers_webhooks


def test_an_instance_is_built_with_what_its_constructor_takes() -> None:
    registry = Registry()
    registry.register(Complete, "here")
    settings = ChatSettings()
    built = registry.integrations["complete"].create({"token": "t"}, settings, None)
    assert isinstance(built, Complete)
    assert built.given == ("t", settings, None)


def problem_of(**attributes: object) -> DeclarationError:
    """What is wrong with `Complete` if these attributes are other than they should be."""
    bad = type("Bad", (Complete,), attributes)
    with pytest.raises(DeclarationError) as raised:
        Registry().register(bad, "here")
    assert raised.value.remedy
    return raised.value


class NotAModel:
    pass


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"name": ""}, "has no 'name'"),
        ({"name": None}, "has no 'name'"),
        ({"key": ""}, "has no 'key'"),
        ({"key": 7}, "has no 'key'"),
        ({"key": "My-Service"}, "not a lower-case identifier"),
        ({"key": "my/service"}, "not a lower-case identifier"),
        ({"key": "a" * 64}, "not a lower-case identifier"),
        ({"version": 2}, "'version' is not a string"),
        ({"secrets": SecretSpec("token", "x")}, "'secrets' of Bad is not a list of SecretSpec"),
        ({"secrets": ["token"]}, "'secrets' of Bad is not a list of SecretSpec"),
        ({"actions": [{"name": "x"}]}, "'actions' of Bad is not a list of ActionSpec"),
        ({"events": None}, "'events' of Bad is not a list of EventSpec"),
        ({"secrets": [SecretSpec("", "x")]}, "One of 'secrets' has no name"),
        ({"events": [EventSpec(None, "x")]}, "One of 'events' has no name"),
        ({"events": [EventSpec("a", ""), EventSpec("a", "")]}, "'events' declares a more than once"),
        ({"actions": [ActionSpec("Send Note", "", Note, "send_note")]}, "not a lower-case identifier"),
        ({"actions": [ActionSpec("x", "", Note, "nowhere")]}, "The handler 'nowhere' of action 'x'"),
        ({"actions": [ActionSpec("x", "", Note, "key")]}, "The handler 'key' of action 'x'"),
        ({"actions": [ActionSpec("x", "", Note, None)]}, "The handler 'None' of action 'x'"),
        ({"actions": [ActionSpec("x", "", NotAModel, "send_note")]}, "model of action 'x' is not a Pydantic"),
        ({"actions": [ActionSpec("x", "", None, "send_note")]}, "model of action 'x' is not a Pydantic"),
        ({"actions": [ActionSpec("x", "", Note, "send_note", result=dict)]}, "result of action 'x'"),
        ({"actions": [ActionSpec("x", "", Note, "send_note", effect="twice")]}, "effect 'twice'"),
        ({"actions": [ActionSpec("x", "", Note, "send_note", effect="checkable")]}, "and a probe"),
        ({"actions": [ActionSpec("x", "", Note, "send_note", probe="poll")]}, "and a probe"),
        (
            {"actions": [ActionSpec("x", "", Note, "send_note", effect="checkable", probe="gone")]},
            "the probe of action 'x' does not exist",
        ),
        ({"events": [EventSpec("a", "", model=NotAModel)]}, "model of event 'a' is not a Pydantic model"),
        ({"polls": [PollSpec("updates", 5.0, "gone")]}, "The handler 'gone' of poll 'updates'"),
        ({"polls": [PollSpec("updates", 0, "poll")]}, "are not numbers of seconds"),
        ({"polls": [PollSpec("updates", 5.0, "poll", deadline=-1)]}, "are not numbers of seconds"),
        ({"secrets": [*Complete.secrets, SecretSpec("unused", "x")]}, "Nothing takes the secret unused"),
        ({"secrets": [*Complete.secrets, SecretSpec("http", "x")]}, "A secret cannot be called http"),
        ({"secrets": Complete.secrets[:1]}, "The constructor parameter 'extra' is not a declared secret"),
        ({"settings_model": None}, "no settings_model is declared"),
        ({"settings_model": dict}, "'settings_model' is not a Pydantic model"),
        ({"verification": StaticToken("X", "other")}, "'verification' or 'handshake' names other"),
        ({"verification": "hmac"}, "'verification' of Bad is not a verification declaration"),
        ({"verification": StaticToken}, "'verification' of Bad is not a verification declaration"),
        ({"body": "json"}, "'body' of Bad is not a body declaration"),
        ({"body": None}, "'body' of Bad is not a body declaration"),
        ({"reply_within": "soon"}, "'reply_within' is not a number of seconds"),
        ({"reply_within": 0}, "'reply_within' is not a number of seconds"),
    ],
)
def test_what_cannot_work_is_refused_with_its_remedy(attributes: dict[str, object], problem: str) -> None:
    error = problem_of(**attributes)
    assert problem in error.problem
    assert "test_registry" in error.remedy or "Bad" in error.remedy or "here" in error.remedy


def test_constructors_that_cannot_be_given_their_parameters_are_refused() -> None:
    def unknown(self: object, token: str, settings: object, extra: str = "", base_url: str = "") -> None: ...
    def catch_all(self: object, token: str, settings: object, extra: str = "", **more: str) -> None: ...
    def by_position(self: object, token: str, /, settings: object, extra: str = "") -> None: ...
    def no_default(self: object, token: str, settings: object, extra: str) -> None: ...

    for constructor, problem in (
        (unknown, "'base_url' is not a declared secret, 'settings' or 'http'"),
        (catch_all, "'more' cannot be given by name"),
        (by_position, "'token' cannot be given by name"),
        (no_default, "'extra' is optional, but its constructor parameter has no default"),
    ):
        assert problem in problem_of(__init__=constructor).problem


def test_a_secret_that_only_verification_names_is_taken() -> None:
    registry = Registry()
    registry.register(ChatConnector, "here")
    assert "signing_secret" in registry.integrations["chat"].secret_specs
    assert "signing_secret" not in registry.integrations["chat"].parameters


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("    secrets = [SecretSpec('unused', 'x')]\n", "Nothing takes the secret unused"),
        ("    actions = [ActionSpec('x', 'x', dict, 'y')]\n", "is not a Pydantic model"),
        ("    verification = 7\n", "is not a verification declaration"),
        ("    def __init__(self, other): ...\n", "'other' is not a declared secret"),
        ("    secrets = [SecretSpec(['a'], 'x')]\n", "One of 'secrets' has no name"),
        (
            "    class Odd:\n"
            "        verify = credential_headers = None\n"
            "        secret_names = 7\n"
            "    verification = Odd()\n",
            "What it declares cannot be read: TypeError",
        ),
        (
            "    class M(BaseModel):\n        x: 'NoSuchType'\n"
            "    actions = [ActionSpec('x', 'x', M, 'y')]\n"
            "    def y(self, m): ...\n",
            "The model of action 'x', M, names a type that does not exist",
        ),
    ],
)
def test_a_connector_that_declares_nonsense_is_listed(places: Places, body: str, problem: str) -> None:
    places.write("bad/connector.py", connector("bad", body))
    broken = places.only_broken()
    assert broken.source == "app.integrations.connectors.bad.connector.Bad"
    assert problem in broken.reason
    assert "connector.py" in broken.remedy


def test_a_model_that_refers_to_a_later_one_is_fine(places: Places) -> None:
    body = "    actions = [ActionSpec('x', 'x', First, 'y')]\n    def y(self, m): ...\n"
    models = IMPORTS + "class First(BaseModel):\n    x: 'Second'\nclass Second(BaseModel):\n    y: int\n"
    places.write("fine/connector.py", models + connector("fine", body))
    registry = places.discover()
    assert registry.broken == []
    assert sorted(registry.integrations) == ["fine"]


# The specification's example.


def test_the_specifications_example_is_found_as_it_stands(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SERVICE_URL", "http://127.0.0.1:9")
    drop_example(places.folder)
    registry = places.discover()
    assert registry.broken == []
    known = registry.integrations["my_service"]
    assert known.connector.__module__ == "app.integrations.connectors.my_service.connector"
    assert (known.connector.name, known.connector.version) == ("MyService", "1.0.0")
    assert list(known.secret_specs) == ["api_key"]
    built = known.create({"api_key": "k"}, None, None)
    assert type(built.client).__name__ == "MyServiceClient"


def test_the_copy_of_the_specification_is_the_specification() -> None:
    assert not ORIGINAL.exists() or COPY.read_bytes() == ORIGINAL.read_bytes()


def test_the_connectors_of_this_repository_are_whole() -> None:
    """In a process of its own, as the platform finds them."""
    script = (
        "from app.integrations.registry import Registry; r = Registry.discover(entry_point_group=None); "
        "print(sorted(r.integrations), r.broken)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    folders = sorted(
        entry.name
        for entry in (ROOT / "app" / "integrations" / "connectors").iterdir()
        if entry.is_dir() and entry.name != "__pycache__"
    )
    assert done.stdout.strip() == f"{folders} []"
