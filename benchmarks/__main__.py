"""`python -m benchmarks`: measures the platform and what it is compared with, in one run."""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from .bench import DEFAULT, FAULTS, LONG, QUICK, TINY, Bench, Name, Plan
from .databases import Postgres, Sqlite, Storage
from .machine import choose_cores, facts, pin, raise_file_limit
from .parts import PARTS, Part
from .plot import svg
from .report import DATABASES, as_json, judged, print_report

_LONGEST_BURST = 600.0
_USUAL = [part.name for part in PARTS.values() if not part.on_request]


def main() -> int:
    options = _options()
    plan = _plan(options)
    began = time.monotonic()
    notes = Console(stderr=True, highlight=False)
    cores = choose_cores()
    pin(0, cores.load)
    raise_file_limit()
    options.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.dir.resolve(), prefix="run-") as folder:
        Path(folder).chmod(0o755)
        machine = facts(Path(folder))
        bench = Bench(plan, cores, Path(folder))
        known: list[Storage] = [Sqlite(), Postgres(Path(folder))]
        storages = [storage for storage in known if storage.name in options.database]
        try:
            _measure(bench, [PARTS[name] for name in options.only], storages, notes.print)
        finally:
            for storage in storages:
                storage.close()
    results = bench.results
    print_report(Console(highlight=False, width=None if sys.stdout.isatty() else 130), results, plan, cores)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    report = as_json(results, plan, cores, machine, sys.argv[1:])
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    picture = options.json.with_suffix(".svg")
    picture.write_text(svg(results, f"{machine['machine']}, {machine['cores']} cores, medians"))
    notes.print(f"{options.json} and {picture} have the figures.")
    notes.print(f"It took {time.monotonic() - began:.0f} s.")
    if results.errors:
        return 1
    missed = [budget for budget, _, measured in judged(results, plan) if budget.met(measured) is False]
    return 1 if options.strict and missed else 0


def _measure(bench: Bench, parts: list[Part], storages: list[Storage], report: Callable[[str], None]) -> None:
    """Runs the plan round by round. What fails is reported, and left out of the rounds that follow."""
    failed: set[tuple[str, str]] = set()
    for number in range(bench.plan.rounds):
        bench.round = number
        bench.results.rounds.append({})
        for part in parts:
            if number >= part.rounds or not part.wanted(bench.plan):
                continue
            for storage in storages:
                if storage.name not in part.databases or (part.name, storage.name) in failed:
                    continue
                report(f"round {number + 1} of {bench.plan.rounds}: {part.name}, {storage.name}")
                try:
                    part.measure(bench, storage, partial(_record, bench, part.name, storage.name))
                except FAULTS as error:
                    failed.add((part.name, storage.name))
                    words = [f"{part.name}, {storage.name}: {error}", *getattr(error, "__notes__", [])]
                    bench.results.errors.append("\n".join(words))


def _record(bench: Bench, part: str, database: str, row: str, column: str, value: float) -> None:
    bench.results.rounds[-1][Name(part, database, row, column)] = value


def _plan(options: argparse.Namespace) -> Plan:
    plans = {"tiny": TINY, "quick": QUICK, "default": DEFAULT, "long": LONG}
    plan: Plan = plans[options.plan]
    if options.rounds:
        plan = replace(plan, rounds=options.rounds)
    if options.seconds:
        plan = replace(plan, seconds=options.seconds)
    return plan


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    how_much = parser.add_mutually_exclusive_group()
    for name, words in (
        ("tiny", "only whether it works: the figures mean nothing"),
        ("quick", "one round of short bursts, to try things out"),
        ("long", "longer bursts, a million stored, a backlog of a gigabyte: half an hour"),
    ):
        how_much.add_argument(f"--{name}", dest="plan", action="store_const", const=name, help=words)
    parser.set_defaults(plan="default")
    parser.add_argument("--only", type=partial(_names, PARTS), default=_USUAL, help=f"of {','.join(PARTS)}")
    parser.add_argument(
        "--database",
        type=partial(_names, DATABASES),
        default=list(DATABASES),
        help=f"of {','.join(DATABASES)}",
    )
    parser.add_argument("--rounds", type=_count, help="default 3")
    parser.add_argument("--seconds", type=_seconds, help="of the bursts that are compared; default 2")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        default=Path("bench-results/run.json"),
        help="all figures to FILE (%(default)s), a picture beside it",
    )
    parser.add_argument("--strict", action="store_true", help="exit 1 if a budget is missed")
    parser.add_argument(
        "--dir", type=Path, default=Path("bench-results"), help="where the servers keep their data meanwhile"
    )
    return parser.parse_args()


def _names(known: "dict[str, Part] | tuple[str, ...]", text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(known):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return [name for name in known if name in names]


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= _LONGEST_BURST:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {_LONGEST_BURST:g}")
    return value


if __name__ == "__main__":
    sys.exit(main())
