"""C01 to C03."""

import pytest

from .conftest import Acme, findings, messages


@pytest.mark.parametrize("code", ["C01", "C02", "C03"])
def test_a_plain_connector_passes(acme: Acme, code: str) -> None:
    assert messages(code, acme()) == []


# C01


def test_another_key_than_the_folders_name_is_found(acme: Acme) -> None:
    [finding] = findings("C01", acme(("connector.py", 'key = "acme"', 'key = "acne"')))
    assert finding.message == "its key is 'acne', but its folder is called 'acme'."
    assert finding.level == "quality"


def test_two_connectors_in_one_folder_are_found(acme: Acme) -> None:
    second = '\n\nclass Second(AcmeConnector):\n    key = "acme_two"\n'
    subject = acme(("connector.py", "model_dump()))\n", f"model_dump()))\n{second}"))
    assert messages("C01", subject) == ["it defines 2 connectors (acme, acme_two)."]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("    event = []\n", "events"),
        ("    verifcation = None\n", "verification"),
        ("    setting_model = AcmeSettings\n", "settings_model"),
        ("    async def handle_webook(self, payload): ...\n", "handle_webhook"),
        ("    async def recieve(self, request): ...\n", "receive"),
        ("    def register_webhooks(self, url, secrets): ...\n", "register_webhook"),
    ],
)
def test_names_that_are_nearly_the_contracts_are_found(acme: Acme, written: str, meant: str) -> None:
    [finding] = findings(
        "C01", acme(("connector.py", '    name = "Acme"\n', f'    name = "Acme"\n{written}'))
    )
    assert f"Did you mean '{meant}'?" in finding.message
    assert finding.level == "quality"


def test_names_of_ones_own_are_nobodys_business(acme: Acme) -> None:
    own = "    most = 3\n    def _event(self): ...\n    async def orders(self): ...\n"
    assert findings("C01", acme(("connector.py", '    name = "Acme"\n', f'    name = "Acme"\n{own}'))) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("import nothing_that_exists", "it cannot be imported: ModuleNotFoundError"),
        ("raise SystemExit(3)", "it cannot be imported: SystemExit"),
        ("def broken(:", "it cannot be imported: SyntaxError"),
    ],
)
def test_a_connector_that_cannot_be_loaded_breaks_the_contract(acme: Acme, line: str, problem: str) -> None:
    [finding] = findings("C01", acme(("connector.py", "from typing import Any", line)))
    assert finding.message.startswith(problem)
    assert finding.level == "contract"


def test_wrong_declarations_break_the_contract(acme: Acme) -> None:
    [finding] = findings("C01", acme(("connector.py", '"create_order", result', '"make_order", result')))
    assert finding.message == "the handler 'make_order' of action 'create_order' does not exist."
    assert finding.level == "contract"


@pytest.mark.parametrize(
    ("statement", "effect"),
    [
        ("import os; os.environ['ACME'] = '1'", "changes the environment"),
        ("import threading; threading.Thread(target=__import__('time').sleep, args=[9], daemon=True).start()",
         "starts threads"),
        ("open('/dev/null', 'w').close()", "writes files"),
        ("import subprocess; subprocess.run(['true'])", "starts a process"),
        ("import socket; socket.socket().connect_ex(('127.0.0.1', 9))", "uses the network"),
        ("print('hello')", "prints"),
        ("import logging; logging.basicConfig()", "sets up logging"),
        ("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)", "handles signals"),
        ("import sys; sys.path.append('/nowhere')", "changes the search path"),
    ],
)  # fmt: skip
def test_what_an_import_does_beside_defining_things_is_found(acme: Acme, statement: str, effect: str) -> None:
    # This process is to be spared.
    guarded = f"import sys\nif 'pytest' not in sys.modules:\n    {statement}\nfrom typing import Any"
    [finding] = findings("C01", acme(("connector.py", "from typing import Any", guarded)))
    assert finding.message == f"importing it {effect}."
    assert finding.level == "quality"


def test_an_import_that_leans_on_this_process_is_found(acme: Acme) -> None:
    line = "import sys\nassert 'pytest' in sys.modules\nfrom typing import Any"
    assert messages("C01", acme(("connector.py", "from typing import Any", line))) == [
        "it cannot be imported in a process of its own (AssertionError)."
    ]


# C02


def test_another_python_file_is_found(acme: Acme) -> None:
    subject = acme(files={"helpers.py": "", "extra/__init__.py": "", "extra/more.py": ""})
    assert [finding.about for finding in findings("C02", subject)] == ["extra", "helpers.py"]


# C03


@pytest.mark.parametrize(
    ("line", "name", "level"),
    [
        ("from fastapi import APIRouter", "fastapi.APIRouter", "quality"),
        ("import sqlalchemy.orm", "sqlalchemy.orm", "quality"),
        ("from app.modules.events import service", "app.modules.events.service", "contract"),
        ("from app.config import Settings", "app.config.Settings", "contract"),
        ("import app.infra.db", "app.infra.db", "contract"),
        (
            "from ..telegram.schemas import Chat",
            "app.integrations.connectors.telegram.schemas.Chat",
            "contract",
        ),
        ("from .. import telegram", "app.integrations.connectors.telegram", "contract"),
        ("from app.integrations.twin import Twin", "app.integrations.twin.Twin", "contract"),
    ],
)
def test_imports_out_of_bounds_are_found(acme: Acme, line: str, name: str, level: str) -> None:
    late = f"def late():\n    {line}\n"
    [finding] = findings("C03", acme(files={"client.py": late}))
    assert finding.about == name
    assert finding.message.startswith(f"client.py:2 imports {name}, ")
    assert finding.level == level


def test_a_twin_may_use_what_servers_are_made_of(acme: Acme) -> None:
    lines = (
        "from starlette.responses import Response",
        "from app.integrations.twin import Twin",
        "from . import schemas",
    )
    assert messages("C03", acme(files={"twin.py": "\n".join(lines)})) == []
