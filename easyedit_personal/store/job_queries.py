"""The statements of the queue, each inside the caller's transaction."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, func, or_, select, text, update

from ..errors import QueueFull
from .job_rows import CANCELLED, DONE, OPEN, QUEUED, RUNNING, Claim
from .schema import job_texts, jobs

RECENT = 20  # ended jobs whose mean time tells how long one takes


def forget_jobs(connection: Connection, owner: bytes) -> None:
    """Overwrite a user's jobs where they stand; whoever is at one will find it lost."""
    empty(connection, jobs.c.owner == owner)


def empty(connection: Connection, which: ColumnElement[bool]) -> None:
    """Overwrite jobs and their texts. ``vacuum`` drops them: see ``maintenance.erase`` for why not now."""
    numbers = list(connection.scalars(select(jobs.c.id).where(which)))
    if not numbers:
        return
    blank = {"owner": b"", "wrapped": None, "content": b""}
    connection.execute(update(job_texts).where(job_texts.c.job.in_(numbers)).values(**blank))
    nothing = {"owner": b"", "token": None, "status": CANCELLED, "created": 0.0, "begun": None, "ended": None}
    nothing |= {"lease": None, "holder": None, "eta": None, "progress": 0.0}
    connection.execute(update(jobs).where(jobs.c.id.in_(numbers)).values(**nothing))


def ended(status: str, now: float, **more: Any) -> dict[str, Any]:
    """What a job becomes that ends now."""
    return {"status": status, "ended": now, "lease": None, "holder": None, "eta": None, **more}


def held(claim: Claim) -> ColumnElement[bool]:
    """The claim's job, if it is still the claim's."""
    return and_(jobs.c.id == claim.job.id, jobs.c.status == RUNNING, jobs.c.holder == claim.holder)


def now_of(connection: Connection) -> float:
    """Seconds since 1970, by the one clock that all machines share."""
    if connection.dialect.name == "sqlite":
        return time.time()
    return float(connection.scalar(text("SELECT extract(epoch FROM clock_timestamp())")) or 0.0)


def check_room(connection: Connection, owner: bytes, most: int | None, most_of_user: int | None) -> None:
    """Raise where one more job would be too many.

    Raises:
        QueueFull: of this user, or of all.
    """
    count = select(func.count()).select_from(jobs).where(jobs.c.status.in_(OPEN))
    if most_of_user is not None and (connection.scalar(count.where(jobs.c.owner == owner)) or 0) >= most_of_user:
        what = f"This user has {most_of_user} jobs that have not ended, and may have no more."
        raise QueueFull(what, of_user=True, remedy="wait for one to end, or cancel one")
    if most is not None and (connection.scalar(count) or 0) >= most:
        raise QueueFull("Too many jobs wait for being learned.", of_user=False, remedy="try again later")


def _next() -> Select[Any]:
    """The oldest job of the user who was served longest ago, of those for whom nothing is running."""
    mine = jobs.alias("mine")
    same = select(mine.c.id).where(mine.c.owner == jobs.c.owner)
    earlier = and_(mine.c.status == QUEUED, mine.c.id < jobs.c.id)
    last = select(func.max(mine.c.begun)).where(mine.c.owner == jobs.c.owner).scalar_subquery()
    free = ~same.where(or_(mine.c.status == RUNNING, earlier)).exists()
    query = select(jobs.c.id).where(jobs.c.status == QUEUED, free)
    # A second learner that skips the first job of a user does not get the second one: it is not the earliest.
    return query.order_by(func.coalesce(last, 0.0), jobs.c.id).limit(1).with_for_update(skip_locked=True, of=jobs)


NEXT = _next()


def seconds_left(connection: Connection, number: int) -> float | None:
    """Seconds until a queued job is done, by what recent ones took and how many are before it."""
    took = (jobs.c.ended - jobs.c.begun).label("took")
    recent = select(took).where(jobs.c.status == DONE, jobs.c.ended.is_not(None)).order_by(jobs.c.ended.desc())
    mean = connection.scalar(select(func.avg(recent.limit(RECENT).subquery().c.took)))
    ahead = or_(jobs.c.status == RUNNING, and_(jobs.c.status == QUEUED, jobs.c.id <= number))
    count = connection.scalar(select(func.count()).select_from(jobs).where(ahead)) or 0
    return None if mean is None else float(mean) * count
