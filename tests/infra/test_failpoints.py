"""Points at which a test can have the process die: off by default, listed, and in the code."""

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

from app.errors import StartupError
from app.infra import failpoints
from app.infra.failpoints import ARMED, GUARD, NAME, POINTS, arm, failpoint, variables
from tests.support.specification import ROOT


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    arm({})


def test_every_point_is_in_the_code_once_and_every_one_in_the_code_is_listed() -> None:
    placed = [
        node.args[0].value
        for path in sorted((ROOT / "app").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") == "failpoint"
        and isinstance(node.args[0], ast.Constant)
    ]
    assert sorted(placed) == sorted(POINTS)


@pytest.mark.parametrize(
    "environment",
    [{}, {NAME: "sqlite.before_commit"}, {GUARD: ARMED}, {NAME: "sqlite.before_commit", GUARD: "1"}],
)
def test_nothing_is_armed_unless_both_variables_say_so(environment: dict[str, str]) -> None:
    assert arm(environment) is None
    assert failpoints._watch is None
    for name in POINTS:
        failpoint(name)


@pytest.mark.parametrize("name", ["no.such.point", "sqlite.before_commit:x"])
def test_an_unknown_point_stops_the_start(name: str) -> None:
    with pytest.raises(StartupError, match="names no point"):
        arm({GUARD: ARMED, NAME: name})


def test_the_variables_are_known_only_while_they_mean_something() -> None:
    assert variables({NAME: "x"}) == set()
    assert variables({GUARD: ARMED}) == {NAME, GUARD}


@pytest.mark.parametrize(("wanted", "passed"), [("poll.after_store", 1), ("poll.after_store:3", 3)])
def test_the_process_dies_when_it_comes_to_the_point_for_the_nth_time(wanted: str, passed: int) -> None:
    program = (
        "import os; from app.infra.failpoints import arm, failpoint; arm(os.environ)\n"
        "for n in range(1, 10):\n"
        "    failpoint('poll.before_store'); print(n, flush=True); failpoint('poll.after_store')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        check=False,
        env={GUARD: ARMED, NAME: wanted, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -9
    assert done.stdout.split() == [str(n) for n in range(1, passed + 1)]
