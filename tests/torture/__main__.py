"""`make torture`: runs the scenarios, prints what was promised, tried and found; exits 1 on any red."""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from .altered import ALTERATIONS
from .bench import Bench, Scale, Scenario, Verdict
from .report import Outcome, as_json, print_report
from .scenarios import SCENARIOS


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    scale: Scale = "long" if options.long else "tiny" if options.tiny else "short"
    console = Console()
    console.print(f"seed {options.seed}", highlight=False)
    outcomes = []
    for scenario in SCENARIOS:
        if scenario.name not in options.only:
            continue
        try:
            outcomes.append(
                run(
                    scenario,
                    scale,
                    options.seed,
                    options.alter,
                    keep=options.keep,
                    seconds=options.seconds,
                )
            )
        except KeyboardInterrupt:
            print(f"Interrupted in {scenario.name}; this is what was found before it.", file=sys.stderr)
            break
        if options.json:  # after each: a run may take hours, and end before its time
            options.json.write_text(json.dumps(as_json(outcomes, scale, options.seed), indent=2) + "\n")
    print_report(console, outcomes, scale, options.seed)
    return 0 if all(o.kept for o in outcomes) and len(outcomes) == len(set(options.only)) else 1


def run(
    scenario: Scenario,
    scale: Scale,
    seed: int,
    alterations: Sequence[str] = (),
    *,
    keep: Path | None = None,
    seconds: float | None = None,
) -> Outcome:
    """One scenario in a folder of its own. A scenario that itself fails is red too: it has proven nothing."""
    print(f"{scenario.name}: {scenario.title} ...", file=sys.stderr, flush=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        bench = Bench(Path(folder), scale, seed, alterations, seconds)
        try:
            verdicts = asyncio.run(scenario.run(bench))
        except Exception as error:
            traceback.print_exc()
            verdicts = [
                Verdict(scenario.title, "the scenario itself failed", [f"{type(error).__name__}: {error}"])
            ]
        outcome = Outcome(scenario, verdicts, time.monotonic() - began)
        if keep and not outcome.kept:
            shutil.copytree(folder, keep / f"{scenario.name}-{seed}", dirs_exist_ok=True)
    return outcome


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--long", action="store_true", help="as much as the aims ask for: about an hour")
    parser.add_argument("--tiny", action="store_true", help="as little as `make test` does")
    parser.add_argument("--only", type=_names, default=_names(""), help=f"of {','.join(_ALL)}")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="repeats a run's choices")
    parser.add_argument(
        "--seconds", type=_seconds, help="how long cluster goes on, instead of what its size says"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the data and logs of what turned red")
    parser.add_argument(
        "--alter",
        action="append",
        default=[],
        choices=sorted(ALTERATIONS),
        metavar="NAME",
        help=f"break the platform on purpose: {', '.join(sorted(ALTERATIONS))}",
    )
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError("from 1 to 86400")
    return seconds


_ALL = [scenario.name for scenario in SCENARIOS]


def _names(text: str) -> list[str]:
    names = text.split(",") if text else _ALL
    if unknown := set(names) - set(_ALL):
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
    return names


if __name__ == "__main__":
    sys.exit(main())
