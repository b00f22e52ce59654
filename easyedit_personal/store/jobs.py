"""The queue of what is to be learned: as safe as the edits, shared by learners of any number of machines.

A job is a user's: at most one of each user runs, and whose last one began longest ago is next. Its learner holds it on
a lease; the transaction that keeps an edit also notes it in the job, and keeps neither where the lease is lost.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select, update

from ..errors import JobLost, StoreError
from ..progress import log
from ..types import Preference
from .database import Database, insert_into
from .encryption import Encryption
from .ids import check_key, check_user, owner_of, token_of
from .job_queries import NEXT, check_room, empty, ended, held, now_of, seconds_left
from .job_rows import (
    CANCELLED,
    DONE,
    ERROR,
    FAILED,
    OPEN,
    QUEUED,
    REPORT,
    REQUEST,
    RUNNING,
    Claim,
    Job,
    packed,
    read_jobs,
    request_of,
    write_text,
)
from .queries import next_tick
from .retry import again
from .schema import jobs

ATTEMPTS = 5  # claims of a job that ended with the learner's death: one more would only kill the next learner
KEPT_SECONDS = 7 * 24 * 3600.0  # that an ended job can be asked for
GIVEN_UP = {
    "status": 500,
    "error": {
        "message": "The learner stopped in the middle of this, again and again; it was given up.",
        "type": "server_error",
        "param": None,
        "code": "learner_died",
    },
}


class JobQueue:
    """The jobs of a store; see ``EditStore.jobs``.

    Args:
        database, salt, encryption: the store's.
    """

    def __init__(self, database: Database, salt: bytes, encryption: Encryption | None) -> None:
        self._database, self._salt, self._encryption = database, salt, encryption
        self._unreadable: set[int] = set()  # damaged, or of a key that is not here: not to be in others' way

    @again
    def add(
        self,
        user: str,
        preferences: Sequence[Preference],
        *,
        key: str | None = None,
        most: int | None = None,
        most_of_user: int | None = None,
    ) -> Job:
        """Keep a job; it is on the disk when this returns.

        Args:
            user: whose.
            preferences: what is to be learned, each as an edit of its own.
            key: idempotency key; with the same user and key again nothing happens and the first job comes back.
            most: open jobs that there may be, this one included; those who add at the same moment may exceed it.
            most_of_user: likewise, of this user.

        Raises:
            QueueFull: there are too many.
            StoreError: a bad id or key, or a failing database.
        """
        owner = owner_of(check_user(user), self._salt)
        token = None if check_key(key) is None else token_of(owner, str(key), self._salt)
        content = packed(request_of(user, preferences, key))
        with self._database.writing() as connection:
            now, number = now_of(connection), next_tick(connection)
            known = connection.scalar(select(jobs.c.id).where(jobs.c.token == token)) if token else None
            if known is None:
                check_room(connection, owner, most, most_of_user)
                row = {"id": number, "owner": owner, "token": token, "status": QUEUED, "created": now}
                added = insert_into(connection, jobs).values(**row, attempts=0, progress=0.0)
                if connection.execute(added.on_conflict_do_nothing(index_elements=["token"])).rowcount:
                    write_text(connection, number, owner, REQUEST, content, self._encryption)
                else:  # somebody else was faster, and has committed
                    known = connection.scalar(select(jobs.c.id).where(jobs.c.token == token))
            empty(connection, jobs.c.ended < now - KEPT_SECONDS)
        found = self.get(known or number)
        if found is None:
            raise StoreError(f"The job of user {user!r} was forgotten meanwhile.")
        return found

    def get(self, number: int) -> Job | None:
        """A job; None where there is none, or not any more."""
        with self._database.reading() as connection:
            found = read_jobs(connection, jobs.c.id == number, self._encryption)
            if found and found[0].status == QUEUED:
                return replace(found[0], eta=seconds_left(connection, number))
        return found[0] if found else None

    def of(self, user: str) -> list[Job]:
        """A user's jobs, oldest first."""
        owner = owner_of(check_user(user), self._salt)
        with self._database.reading() as connection:
            return read_jobs(connection, jobs.c.owner == owner, self._encryption)

    def counts(self) -> dict[str, int]:
        """How many jobs are queued, and how many run."""
        query = select(jobs.c.status, func.count()).where(jobs.c.status.in_(OPEN)).group_by(jobs.c.status)
        with self._database.reading() as connection:
            found = {status: int(count) for status, count in connection.execute(query).all()}
        return {status: found.get(status, 0) for status in OPEN}

    @again
    def claim(self, seconds: float, *, attempts: int = ATTEMPTS) -> Claim | None:
        """Take the next job; None where there is none to be taken.

        Jobs of learners that died are to be had again once their lease has run out.

        Args:
            seconds: how long it is ours without a ``beat``.
            attempts: after so many dead learners a job has failed.
        """
        with self._database.reading() as connection:  # idle learners do not keep writers waiting
            now = now_of(connection)
            work = or_(jobs.c.status == QUEUED, and_(jobs.c.status == RUNNING, jobs.c.lease < now))
            if connection.scalar(select(jobs.c.id).where(work).limit(1)) is None:
                return None
        with self._database.writing() as connection:
            now = now_of(connection)
            self._recover(connection, now, attempts)
            number = connection.scalar(NEXT.where(jobs.c.id.not_in(self._unreadable)))
            if number is None:
                return None
            try:
                (job,) = read_jobs(connection, jobs.c.id == number, self._encryption)
            except StoreError as error:
                log.error("a job is left alone: %s", error)
                self._unreadable.add(number)
                return None
            holder = secrets.token_bytes(16)
            taken = {"status": RUNNING, "begun": now, "lease": now + seconds, "holder": holder}
            taken |= {"attempts": jobs.c.attempts + 1, "progress": 0.0, "eta": None}
            connection.execute(update(jobs).where(jobs.c.id == number).values(**taken))
            return Claim(replace(job, status=RUNNING), holder)

    @again
    def beat(self, claim: Claim, seconds: float, progress: float, eta: float | None) -> bool:
        """Hold on to a job for so many seconds more; False where it is not ours any more."""
        with self._database.writing() as connection:
            values = {"lease": now_of(connection) + seconds, "progress": progress, "eta": eta}
            return bool(connection.execute(update(jobs).where(held(claim)).values(**values)).rowcount)

    def note(self, connection: Connection, claim: Claim, report: Mapping[str, Any], *, last: bool) -> None:
        """Note an edit in its job, inside the transaction that keeps the edit; the last one ends the job.

        Raises:
            JobLost: it is not ours any more; the transaction must not be committed.
        """
        owner = owner_of(claim.job.user, self._salt)
        values = ended(DONE, now_of(connection), progress=1.0) if last else {"eta": None}
        if not connection.execute(update(jobs).where(held(claim)).values(**values)).rowcount:
            raise JobLost(f"Job {claim.job.id} is not ours any more.")
        write_text(connection, claim.job.id, owner, REPORT, packed(report), self._encryption)

    @again
    def note_known(self, claim: Claim, report: Mapping[str, Any], *, last: bool) -> None:
        """As ``note``, for an edit that had been kept before."""
        with self._database.writing() as connection:
            self.note(connection, claim, report, last=last)

    @again
    def fail(self, claim: Claim, error: Mapping[str, Any]) -> None:
        """End a job that cannot be done; nothing happens where it is not ours any more."""
        content, owner = packed(error), owner_of(claim.job.user, self._salt)
        with self._database.writing() as connection:
            values = ended(FAILED, now_of(connection))
            if connection.execute(update(jobs).where(held(claim)).values(**values)).rowcount:
                write_text(connection, claim.job.id, owner, ERROR, content, self._encryption)

    @again
    def release(self, claim: Claim) -> None:
        """Give a job back in good order, for any learner to take; nothing happens where it is not ours any more."""
        values = {"status": QUEUED, "lease": None, "holder": None, "progress": 0.0, "eta": None}
        with self._database.writing() as connection:
            connection.execute(update(jobs).where(held(claim)).values(**values, attempts=jobs.c.attempts - 1))

    @again
    def cancel(self, number: int) -> bool:
        """End a job that waits or runs: from now on, nothing more of it is kept. False where it had ended."""
        with self._database.writing() as connection:
            mine = update(jobs).where(jobs.c.id == number, jobs.c.status.in_(OPEN))
            return bool(connection.execute(mine.values(**ended(CANCELLED, now_of(connection)))).rowcount)

    def _recover(self, connection: Connection, now: float, attempts: int) -> None:
        """What dead learners left is for others, or given up."""
        dead = and_(jobs.c.status == RUNNING, jobs.c.lease < now)
        hopeless = select(jobs.c.id, jobs.c.owner).where(dead, jobs.c.attempts >= attempts)
        for number, owner in connection.execute(hopeless.with_for_update(skip_locked=True)).all():
            connection.execute(update(jobs).where(jobs.c.id == number).values(**ended(FAILED, now)))
            write_text(connection, number, owner, ERROR, packed(GIVEN_UP), self._encryption)
        left = select(jobs.c.id).where(dead).with_for_update(skip_locked=True)
        numbers = list(connection.scalars(left))
        if numbers:
            values = {"status": QUEUED, "lease": None, "holder": None, "progress": 0.0, "eta": None}
            connection.execute(update(jobs).where(jobs.c.id.in_(numbers)).values(**values))
