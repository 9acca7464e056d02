"""`python -m benchmarks`: measures the platform and what it is compared with, in one run."""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from .budgets import BUDGETS
from .machine import choose_cores, facts, pin
from .measure import Plan, measure
from .report import as_json, print_report
from .servers import SERVERS

_LONGEST_BURST = 600.0


def main() -> int:
    options = _options()
    plan = Plan(
        rounds=options.rounds or (1 if options.quick else 3),
        seconds=options.seconds or (3.0 if options.quick else 10.0),
        other_seconds=options.seconds or (2.0 if options.quick else 3.0),
        connections=options.connections,
        requests=options.requests,
    )
    console = Console(stderr=True, highlight=False)
    cores = choose_cores()
    pin(0, cores.load)
    options.dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.dir, prefix="run-") as folder:
        machine = facts(Path(folder))
        servers = [SERVERS[name] for name in options.only]
        results = measure(servers, plan, cores, Path(folder), console.print)
    print_report(Console(highlight=False), results, plan, cores)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        report = as_json(results, plan, cores, machine, sys.argv[1:])
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if results.errors:
        return 1
    measured = [(budget, budget.measured(results)) for budget in BUDGETS]
    missed = [budget for budget, value in measured if value is not None and not budget.met(value)]
    return 1 if options.strict and missed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of short bursts, to try things out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--only", type=_servers, default=list(SERVERS), help=f"of {','.join(SERVERS)}")
    parser.add_argument("--rounds", type=_count, help="default 3")
    parser.add_argument("--seconds", type=_seconds, help="of every burst; default 10 and 3")
    parser.add_argument("--connections", type=_count, default=64, help="default 64")
    parser.add_argument("--requests", type=_count, default=2_000_000, help="most in one burst")
    parser.add_argument("--strict", action="store_true", help="exit 1 if a budget is missed")
    parser.add_argument(
        "--dir", type=Path, default=Path("bench-results"), help="where the servers keep their data meanwhile"
    )
    return parser.parse_args()


def _servers(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(SERVERS):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return [name for name in SERVERS if name in names]


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
