"""What all scenarios share: how much is tried, which platform is tortured, and how a verdict is given."""

import contextlib
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from tests.support.process import PlatformProcess, platform_process

from .altered import PROGRAM, VARIABLE

Scale = Literal["tiny", "short", "long"]
"""tiny: a few seconds, for `make test`; short: `make torture`; long: what the aims ask for."""

CONNECTORS = Path(__file__).parent / "connectors"

T = TypeVar("T")


@dataclass
class Verdict:
    """One promise, what was tried to break it, and the faults that were found."""

    promise: str
    tried: str
    faults: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        return not self.faults


@dataclass
class Bench:
    """One run: its folder, its size, its seed, and what of the platform is broken on purpose."""

    folder: Path
    scale: Scale
    seed: int
    alterations: Sequence[str] = ()
    seconds: float | None = None
    """How long a scenario that goes by time goes on, instead of what its size says."""

    def size(self, sizes: Mapping[Scale, T]) -> T:
        return sizes[self.scale]

    def chance(self, name: str) -> random.Random:
        """Chance of its own for everyone who asks, the same for the same seed."""
        return random.Random(f"{self.seed}/{name}")

    @contextlib.asynccontextmanager
    async def platform(
        self,
        *,
        data_dir: Path | None = None,
        alterations: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> AsyncIterator[PlatformProcess]:
        """A platform in a process of its own, ready; broken as the run wants it."""
        changed = [*self.alterations, *alterations]
        options = {"connectors": CONNECTORS, "log_level": "info", **settings}
        if changed:
            options["program"] = PROGRAM
        async with platform_process(
            data_dir or self.folder / "data",
            variables={VARIABLE: ",".join(changed), **(variables or {})},
            **options,
        ) as platform:
            yield platform

    def progress(self, text: str) -> None:
        """Says how far it is, for who watches."""
        if self.scale != "tiny":
            print(f"  {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Scenario:
    """Something done to the platform. `breaks` are the alterations under which it has to turn red."""

    name: str
    title: str
    run: Callable[[Bench], Awaitable[list[Verdict]]]
    breaks: Sequence[str]
