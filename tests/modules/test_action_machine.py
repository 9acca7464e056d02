"""The state machine of actions against a world that keeps count of what really happened: random walks."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from app.infra.db import Base
from app.infra.sqlite import writer_engine
from app.integrations.registry import Registry
from app.modules.actions import attempts
from app.modules.actions.attempts import OpenAttempt, Outcome
from app.modules.actions.models import ActionRow, Attempt
from app.modules.actions.schedule import Schedule
from app.modules.actions.service import cancel_action, retry_action

T = TypeVar("T")

ENDED = ("succeeded", "failed", "unknown", "cancelled")
ENDS = ("lost after", "refused", "lost before", "not sent", "done")
WALKS = 100
STEPS = 12


class Woken:
    """A queue whose wake-ups nobody needs: the walk decides what runs next."""

    def put(self, session: Session, kind: str, ref: str, not_before: int = 0) -> None:
        pass


class AtOnce(Schedule):
    def pause(self, tried: int, retry_after: float | None) -> float | None:
        return 0.0 if tried < self.attempts else None


class World:
    """One action, its runners, and the effects that it has had at the provider."""

    def __init__(self, engine: Engine, effect: str, id: str, chance: random.Random) -> None:
        self.engine, self.effect, self.id, self.chance = engine, effect, id, chance
        self.registry = Registry({}, [])
        self.schedule = AtOnce(4, 86_400.0)
        self.effects = 0
        self.owner = 0
        self.called_off = False
        self.story: list[str] = []
        self.lost: list[tuple[OpenAttempt, Outcome]] = []
        """What owners that were thought dead still have to say."""
        self.unit(lambda s: s.add(_row(id, effect)))

    def step(self) -> None:
        """One thing that can happen now."""
        state = self.row().state
        can: list[Callable[[], None]] = [self.speak_late] if self.lost else []
        if state == "queued":
            can += [self.try_it, self.try_it, self.try_it, self.die_trying, self.die_trying, self.cancel]
        elif state in ("failed", "cancelled") or (state == "unknown" and self.effect != "once"):
            # Whoever retries an unknown `once` has decided that it may happen twice.
            can.append(self.retry)
        if can:
            chosen = self.chance.choice(can)
            self.story.append(chosen.__name__)
            chosen()
            self.check()

    def unit(self, work: Callable[[Session], T]) -> T:
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            return work(session)

    def row(self) -> ActionRow:
        return self.unit(lambda s: s.get_one(ActionRow, self.id))

    @property
    def name(self) -> str:
        return f"run_{self.owner}"

    def opened(self) -> OpenAttempt:
        [attempt] = self.unit(
            lambda s: attempts.open_attempts(s, Woken(), self.registry, [self.id], self.name)
        )
        assert attempt is not None
        again = self.unit(lambda s: attempts.open_attempts(s, Woken(), self.registry, [self.id] * 2, "run_x"))
        assert again == [None, None], "an open attempt is not opened twice"
        self.check()
        return attempt

    def try_it(self) -> None:
        attempt = self.opened()
        self.close(attempt, self.carried_out(attempt))

    def die_trying(self) -> None:
        """The owner is given up; perhaps it lives after all, and says later what it had done by then."""
        attempt = self.opened()
        outcome = self.carried_out(attempt)
        self.owner += 1
        assert self.unit(self.abandon) == 1
        if self.chance.random() < 0.5:
            self.lost.append((attempt, outcome))

    def abandon(self, session: Session) -> int:
        return attempts.abandon_attempts(session, Woken(), self.schedule, [self.name])

    def speak_late(self) -> None:
        self.close(*self.lost.pop(0))

    def cancel(self) -> None:
        self.called_off = True
        self.unit(lambda s: cancel_action(s, s.get_one(ActionRow, self.id)))

    def retry(self) -> None:
        self.called_off = False
        self.unit(lambda s: retry_action(s, Woken(), self.schedule, s.get_one(ActionRow, self.id)))

    def close(self, attempt: OpenAttempt, outcome: Outcome) -> None:
        self.unit(
            lambda s: attempts.close_attempts(s, Woken(), self.registry, self.schedule, [(attempt, outcome)])
        )

    def carried_out(self, attempt: OpenAttempt) -> Outcome:
        """What the provider makes of the request, and what the runner hears of it."""
        what = self.chance.choice(ENDS)
        self.story.append(what)
        found: dict[str, Any] = {}
        if attempt.ask_first:
            if self.effects:
                return Outcome("succeeded", True, result="{}")
            found = {"not_applied": True}
        if what in ("done", "lost after"):
            self.effects = 1 if self.effect == "idempotent" else self.effects + 1
        if what == "done":
            return Outcome("succeeded", True, result="{}", **found)
        if what == "refused":
            return Outcome("refused", True, error_code="rejected", error="no", **found)
        if what == "not sent":
            return Outcome("not_done", False, error_code="not_sent", error="no", **found)
        return Outcome("ambiguous", True, error_code="provider_unavailable", error="broke", **found)

    def check(self) -> None:
        """What the state says is the truth."""
        row = self.row()
        if row.state == "succeeded":
            assert self.effects == 1, self.story
        elif row.state in ("failed", "cancelled"):
            assert self.effects == 0, self.story
        assert self.effects <= 1, ("it was done twice", self.story)
        assert not (self.called_off and row.state in ("queued", "running")), ("taken up again", self.story)
        assert row.attempts - row.schedule_start <= self.schedule.attempts, ("too many tries", self.story)
        tries = self.unit(lambda s: s.query(Attempt).filter_by(action_id=self.id).order_by("number").all())
        assert [t.number for t in tries] == list(range(1, row.attempts + 1))
        assert sum(t.state == "open" for t in tries) == (row.state == "running")
        assert (row.finished_at is not None) == (row.state in ENDED), self.story
        assert row.waiting is None or row.state == "queued", self.story


def _row(id: str, effect: str) -> ActionRow:
    return ActionRow(
        id=id, tenant="default", connection_id="con_1", integration="gone", type="do_it", payload="{}",
        effect=effect, state="queued", attempts=0, schedule_start=0, ambiguous=False, run_at=0,
        deadline=1 << 52, created_at=0,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _on_every_storage() -> None:
    """The transitions are plain units of work: one database is enough for them."""


@pytest.mark.parametrize("effect", ["once", "idempotent", "checkable"])
def test_whatever_happens_the_state_is_the_truth(
    tmp_path: Path, effect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.modules.actions.gates.BREAK_AFTER", 1 << 30)
    engine = writer_engine(tmp_path / "a.db")
    # Nothing here is about the disk.
    engine.raw_connection().driver_connection.execute("PRAGMA synchronous=OFF")  # type: ignore[union-attr]
    Base.metadata.create_all(engine)
    for seed in range(WALKS):
        world = World(engine, effect, f"act_{seed}", random.Random(f"{effect}{seed}"))
        for _ in range(STEPS):
            world.step()
        # Nothing of this walk is left for the next one to give up.
        assert world.row().state != "running"
    engine.dispose()
