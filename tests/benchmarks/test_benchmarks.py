"""The benchmark itself: that it runs, and that its arithmetic is right."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from defusedxml import ElementTree

from benchmarks.bench import TINY, Name, Results
from benchmarks.budgets import Budget, budgets
from benchmarks.load import answer_length
from benchmarks.parts import PARTS
from benchmarks.plot import svg

ROOT = Path(__file__).resolve().parents[2]


def rate(row: str) -> Name:
    return Name("acknowledge", "sqlite", row, "req/s")


def test_a_tiny_run_measures_the_platform_beside_its_floors(tmp_path: Path) -> None:
    figures = tmp_path / "run.json"
    done = subprocess.run(
        [
            sys.executable, "-m", "benchmarks", "--tiny", "--only", "acknowledge", "--database", "sqlite",
            "--dir", str(tmp_path), "--json", str(figures),
        ],
        check=False, cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(figures.read_text())
    rows = {figure["row"] for figure in report["medians"]}
    assert {"trunkline, 4", "group_commit, 4", "commit_per_request, 4", "noop, 4"} <= rows
    judged = {budget["title"]: budget["met"] for budget in report["budgets"]}
    assert isinstance(judged["end to end / bare server"], bool)
    assert ElementTree.parse(tmp_path / "run.svg").getroot().tag.endswith("svg")
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_ratio_is_taken_within_each_round() -> None:
    ours, bare = rate("trunkline, 4"), rate("group_commit, 4")
    results = Results([{ours: 60, bare: 100}, {ours: 7, bare: 10}, {ours: 500, bare: 1000}, {ours: 1}])
    assert results.ratio(ours, bare) == 0.6
    assert results.median(ours) == 33.5
    assert results.ratio(rate("nobody"), bare) is None


def test_a_budget_knows_which_side_is_good() -> None:
    at_least = Budget("", "acknowledge", ("a", "req/s"), ("b", "req/s"), 0.6)
    at_most = Budget("", "acknowledge", ("a", "p99 ms"), ("b", "p99 ms"), 3, at_least=False)
    assert (at_least.met(0.6), at_least.met(0.59)) == (True, False)
    assert (at_most.met(3), at_most.met(3.1)) == (True, False)
    assert Budget("", "actions", ("a", ""), ("b", "")).met(0.1) is None


def test_budgets_speak_of_parts_that_exist() -> None:
    assert {budget.part for budget in budgets(TINY)} <= set(PARTS)


def test_the_picture_is_well_formed_whatever_the_names() -> None:
    results = Results([{rate("<a> & b"): 12.0, Name("stored", "postgres", "many", "µs each"): 0.0}])
    assert ElementTree.fromstring(svg(results, "<caption>")) is not None


@pytest.mark.parametrize(
    ("data", "length"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-len", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 40),
    ],
)
def test_the_load_finds_the_end_of_an_answer(data: bytes, length: int | None) -> None:
    assert answer_length(data) == length
