"""The platform with a fault put in: after a crash it repeats whatever was being tried.

Run like `app`. The proof that `once` is at most once has to find this out.
"""

from sqlalchemy import update
from sqlalchemy.orm import Session

from app.infra.queue import WorkQueue
from app.modules.actions import runner
from app.modules.actions.models import RUNNING, ActionRow
from app.modules.actions.service import abandon_attempts


def _repeat_all(session: Session, queue: WorkQueue, living: str) -> int:
    session.execute(update(ActionRow).where(ActionRow.state == RUNNING).values(effect="idempotent"))
    lost = abandon_attempts(session, queue, living)
    session.execute(update(ActionRow).where(ActionRow.type == "deliver").values(effect="once"))
    return lost


if __name__ == "__main__":
    runner.abandon_attempts = _repeat_all

    from app.__main__ import main

    main()
