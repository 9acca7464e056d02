"""Every scenario in its smallest size: green as the platform is, red as soon as it is broken on purpose."""

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.specification import ROOT

from . import cluster, crashpoints, kills, memory, poison, power
from .__main__ import main
from .altered import ALTERATIONS
from .bench import Bench, Verdict
from .report import Outcome, as_json
from .scenarios import SCENARIOS

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}

NOT_BROKEN = {"clock"}
"""Alterations that break nothing."""

RED = [
    ("ingest", ["dedupe_off", "cursor_skips"], ["Events are effectively once", "The feed never skips"]),
    (
        "actions",
        ["retry_interrupted_once", "key_per_attempt", "never_asks"],
        ["An action declared once", "An idempotent action", "A checkable action"],
    ),
    ("actions", ["result_before_send"], ["An action declared once"]),
    ("failpoints", ["acknowledge_before_commit"], ["Acknowledged webhooks"]),
    ("power", ["synchronous_normal"], [""]),  # any: a database that is not whole shows itself in any way
    ("power", ["synchronous_off"], [""]),
    ("slow-disk", ["acknowledge_before_commit"], ["No acknowledgement before the fsync"]),
    ("full-disk", ["error_on_full_disk"], ["A full disk is 503"]),
    ("poison", ["poison_breaks_ingress"], ["No bytes at the webhook endpoint"]),
    ("poison", ["poison_stops_processing"], ["Poison stops nothing behind it"]),
    ("backlog", ["unbounded_backlog"], ["Memory is bounded"]),
    ("queue", ["unbounded_claims"], ["No more actions run at the same time"]),
    (
        "cluster",
        [
            "acknowledge_before_commit",
            "dedupe_off",
            "feed_unlocked",
            "retry_interrupted_once",
            "error_on_full_disk",
        ],
        [
            "Acknowledged webhooks",
            "Events are effectively once",
            "The feed never skips",
            "An action declared once",
            "Without its database",
        ],
    ),
]


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Chance's seed, which a failure report shows; TORTURE_SEED sets it."""
    seed = int(os.environ.get("TORTURE_SEED") or random.randrange(2**32))
    request.node.add_report_section("setup", "seed", f"TORTURE_SEED={seed}")
    return seed


def broken(verdicts: list[Verdict]) -> list[str]:
    return [f"{verdict.promise}: {fault}" for verdict in verdicts for fault in verdict.faults]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", BY_NAME)
async def test_the_platform_keeps_its_promises(name: str, tmp_path: Path, seed: int) -> None:
    verdicts = await BY_NAME[name].run(Bench(tmp_path, "tiny", seed))
    assert broken(verdicts) == [], [log.read_text()[-3000:] for log in tmp_path.glob("*.log")]
    assert verdicts


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("name", "alterations", "promises"), RED, ids=lambda value: str(value)[:60])
async def test_a_broken_promise_is_found(
    name: str,
    alterations: list[str],
    promises: list[str],
    tmp_path: Path,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A broken platform shows it sooner.
    monkeypatch.setitem(poison.CASES, "tiny", 400)
    monkeypatch.setitem(kills.WEBHOOKS, "tiny", replace(kills.WEBHOOKS["tiny"], kills=1))
    # So many that every effect class meets every fate.
    monkeypatch.setitem(kills.ACTIONS, "tiny", replace(kills.ACTIONS["tiny"], acknowledged=150))
    monkeypatch.setitem(power.SIZES, "tiny", power.Size(1, 8))
    monkeypatch.setitem(cluster.SIZES, "tiny", replace(cluster.SIZES["tiny"], seconds=3))
    monkeypatch.setattr(crashpoints, "POINTS", ["webhook.after_acknowledgement"])
    verdicts = await BY_NAME[name].run(Bench(tmp_path, "tiny", seed, alterations))
    red = broken(verdicts)
    for promise in promises:
        assert any(fault.startswith(promise) for fault in red), red


def test_every_alteration_is_one_that_a_scenario_has_to_find() -> None:
    listed = {alteration for scenario in SCENARIOS for alteration in scenario.breaks}
    assert listed == set(ALTERATIONS) - NOT_BROKEN
    assert {(name, a) for name, alterations, _ in RED for a in alterations} <= {
        (scenario.name, a) for scenario in SCENARIOS for a in scenario.breaks
    }


def test_a_red_run_exits_with_an_error_and_says_how_to_repeat_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(_: Bench) -> list[Verdict]:
        return [Verdict("It holds", "nothing", ["it does not"], {"tried": 1})]

    async def crash(_: Bench) -> list[Verdict]:
        raise RuntimeError("no idea")

    file = tmp_path / "figures.json"
    for run, told in ((fail, "it does not"), (crash, "RuntimeError: no idea")):
        scenario = type(SCENARIOS[0])("ingest", "made up", run, ())
        monkeypatch.setattr("tests.torture.__main__.SCENARIOS", (scenario,))
        assert main(["--only", "ingest", "--seed", "7", "--json", str(file)]) == 1
        shown = capsys.readouterr().out
        assert told in shown
        assert "--seed 7" in shown
        assert '"kept": false' in file.read_text()


def test_figures_are_told_as_json() -> None:
    verdict = Verdict("It holds", "much", [], {"tried": 1000})
    told = as_json([Outcome(SCENARIOS[0], [verdict], 1.0)], "short", 3)
    assert told["kept"] is True
    assert told["scenarios"][0]["verdicts"][0]["figures"] == {"tried": 1000}


def test_the_bound_on_memory_is_what_the_page_says() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    for bound in (memory.WEBHOOK_BOUND, memory.ACTION_BOUND):
        assert f"{bound // memory.MEGABYTE} MB" in page
