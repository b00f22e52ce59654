"""A thread that learns what the store's queue holds, one job after the other, beside any number of others elsewhere.

While it learns, a second thread holds on to the job and tells how far it is. Whatever ends a learner, the job is
another's once its lease has run out, and goes on behind the edits that were kept.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection

from ..errors import HealthError, JobLost, PersonalizationError, StoreUnavailable
from ..learning.learned import Learned
from ..learning.learner import Learner
from ..learning.session import added, taught
from ..modeling.memory import free
from ..progress import Meter, log, metered
from ..store.job_rows import Claim
from ..store.jobs import ATTEMPTS
from ..store.records import StoredEdit
from ..store.store import EditStore
from .api_errors import ApiError, as_api_error
from .records import edit_record, learned_record

LEASE, BEAT, POLL = 30.0, 2.0, 1.0  # seconds; a lease outlives a dozen beats that a busy machine is late with
GUESSED = 0.05  # progress from which on the time left is guessed


class Interrupted(Exception):
    """This learner has to leave its job: it is being stopped, or the job is not its own any more."""


class Worker:
    """Takes jobs from the queue of a learner's store until it is closed.

    Args:
        learner: how to learn, and where the queue is.
        ended: is told of every job that ended here: "done" or "failed", and the seconds since it was asked for.
        lease: seconds after which others may take a job whose learner was not heard of.
        beat: seconds between two signs of life.
        poll: seconds between two looks at an empty queue.
        attempts: learners that may die of a job.
    """

    def __init__(
        self,
        learner: Learner,
        ended: Callable[[str, float], None] = lambda outcome, seconds: None,
        *,
        lease: float = LEASE,
        beat: float = BEAT,
        poll: float = POLL,
        attempts: int = ATTEMPTS,
    ) -> None:
        self.learner, self.queue, self._ended = learner, learner.store.jobs, ended
        self.lease, self.beat, self.poll, self.attempts = lease, beat, poll, attempts
        self._woken, self._stopping = threading.Event(), False
        self._thread = threading.Thread(target=self.run, name="easyedit-personal-learner", daemon=True)

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether jobs are taken."""
        return self._thread.is_alive() and not self._stopping

    def wake(self) -> None:
        """There is something to do."""
        self._woken.set()

    def stop(self) -> None:
        """Leave the job at its next step, for others or for the next start; fit for a signal handler."""
        self._stopping = True

    def close(self, seconds: float | None = None) -> None:
        """Stop, and wait for it."""
        self.stop()
        self.wake()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def run(self) -> None:
        """Learn until stopped."""
        while not self._stopping:
            try:
                idle = not self.run_one()
            except Exception as error:  # the store is away, most likely: this thread must outlive that
                log.warning("the queue cannot be read or written: %s", error)
                idle = True
            if idle:
                self._woken.wait(self.poll)
                self._woken.clear()

    def run_one(self) -> bool:
        """Take a job and see it through; False where there was none."""
        claim = self.queue.claim(self.lease, attempts=self.attempts)
        if claim is None:
            return False
        try:
            with self._held(claim) as hold:
                self._learn(claim, hold)
            self._ended("done", time.time() - claim.job.created)
        except (Interrupted, JobLost):
            self.queue.release(claim)
        except StoreUnavailable as error:
            log.warning("job %d waits for the store: %s", claim.job.id, error.what)
            self.queue.release(claim)
            return False
        except Exception as error:
            self.queue.fail(claim, _told(error))
            self._ended("failed", time.time() - claim.job.created)
        free()  # or a server's memory grows with every edit
        return True

    def _learn(self, claim: Claim, hold: _Hold) -> None:
        """The job's preferences one after the other, those left out whose edits are there."""
        job, store = claim.job, self.learner.store
        for number in range(len(job.reports), len(job.preferences)):
            preference, last = job.preferences[number], number == len(job.preferences) - 1
            key = f"{job.key}\n{number}" if job.key else f"\njob {job.id}\n{number}"
            preference = added(store, job.user, preference)
            if known := known_edit(store, job.user, key) or taught(self.learner, job.user, preference):
                self.queue.note_known(claim, edit_record(known), last=last)
                continue
            hold.begin(number, len(job.preferences))
            try:
                with metered(Meter(hold.tell)):
                    self.learner.learn(job.user, preference, key=key, kept=self._noting(claim, last))
            except HealthError as error:
                what = f"{preference.subject!r} would damage the user's model and was not learned."
                raise ApiError(422, what, code="unhealthy_edit") from error

    def _noting(self, claim: Claim, last: bool) -> Callable[[Connection, Sequence[Learned]], None]:
        def note(connection: Connection, learned: Sequence[Learned]) -> None:
            self.queue.note(connection, claim, learned_record(learned[0]), last=last)

        return note

    @contextmanager
    def _held(self, claim: Claim) -> Iterator[_Hold]:
        """Hold on to a job while the body works on it."""
        hold, over = _Hold(lambda: self._stopping), threading.Event()

        def keep() -> None:
            while not over.wait(self.beat):
                try:
                    if not self.queue.beat(claim, self.lease, hold.progress, hold.eta):
                        hold.lost = True
                except Exception as error:  # while the store is away, the lease goes on as far as it goes
                    log.warning("no sign of life of job %d: %s", claim.job.id, error)

        thread = threading.Thread(target=keep, name="easyedit-personal-lease", daemon=True)
        thread.start()
        try:
            yield hold
        finally:
            over.set()
            thread.join()


class _Hold:
    """How far a job is, and whether it is still to be worked on."""

    def __init__(self, is_stopping: Callable[[], bool]) -> None:
        self.progress, self.lost = 0.0, False
        self._is_stopping, self._began = is_stopping, time.monotonic()
        self._done, self._of = 0, 1

    @property
    def eta(self) -> float | None:
        """Seconds left, if they take their time as those before did."""
        if self.progress < GUESSED:
            return None
        return (time.monotonic() - self._began) * (1 - self.progress) / self.progress

    def begin(self, done: int, of: int) -> None:
        """So many of a job's edits are done."""
        self._done, self._of = done, of

    def tell(self, share: float) -> None:
        """Such a share of the present edit is done.

        Raises:
            Interrupted: leave it.
        """
        if self.lost or self._is_stopping():
            raise Interrupted
        self.progress = (self._done + share) / self._of


def known_edit(store: EditStore, user: str, key: str) -> StoredEdit | None:
    """The edit that was made under an idempotency key."""
    number = store.find({user: key}).get(user)
    return next((edit for edit in store.history(user) if edit.id == number), None) if number else None


def _told(error: Exception) -> dict[str, Any]:
    """Why a job failed, for its user; what they may not see goes to the log."""
    known = error if isinstance(error, ApiError) else None
    if isinstance(error, PersonalizationError):
        known = as_api_error(error)
    if known is None:
        name = uuid.uuid4().hex[:16]
        log.error("job %s failed", name, exc_info=error)
        known = ApiError(500, f"Something went wrong here; it is in the log under {name}.", code="internal_error")
    return {"status": known.status, **known.body}
