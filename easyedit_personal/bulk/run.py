"""Personalising everybody in a file: the driver's side, with the failure file, the running tally and the estimate.

Memory does not grow with the number of users, apart from what the engine has under way.
"""

from __future__ import annotations

import heapq
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import IO

from ..engines import Engine, Limits, Outcome, find_engine
from ..errors import DataError, EngineError, listing
from ..store import EditStore
from .bulk import Bulk, Report
from .users_file import Failure, UserRecord, count_users, in_batches, read_users

BATCH = 16  # users per task
SLOWEST = 5  # users that the summary names
HOPELESS = 50  # failures before the first success, after which going on makes no sense


@dataclass
class Tally:
    """How a run stands.

    Attributes:
        new, there, failed: users who were put, had been there, or are in the failure file.
        busy: seconds that all workers together spent on users.
        nbytes: of the factors that were put.
        slowest: (seconds, user), the slowest first.
        last_error: of the last failure.
    """

    started: float = field(default_factory=time.monotonic)
    new: int = 0
    there: int = 0
    failed: int = 0
    busy: float = 0.0
    nbytes: int = 0
    last_error: str = ""
    _slowest: list[tuple[float, str]] = field(default_factory=list)

    @property
    def done(self) -> int:
        """Users about whom all is said."""
        return self.new + self.there + self.failed

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def slowest(self) -> list[tuple[float, str]]:
        """Seconds and user, the slowest first."""
        return sorted(self._slowest, reverse=True)

    def take(self, report: Report) -> None:
        """Count a user."""
        if report.status == "there":
            self.there += 1
            return
        self.busy += report.seconds
        if report.status == "failed":
            self.failed += 1
            self.last_error = report.error
            return
        self.new += 1
        self.nbytes += report.nbytes
        heapq.heappush(self._slowest, (report.seconds, report.user))
        if len(self._slowest) > SLOWEST:
            heapq.heappop(self._slowest)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What personalising a file would take, from a sample.

    Attributes:
        users: lines in the file.
        sample: users who were tried.
        failed: how many of them failed.
        seconds: per user and worker, mean; loading the model left out.
        slowest: the slowest of the sample.
        factor_bytes: each user's own, mean.
        store_bytes: per user in a SQLite store, with preferences, indexes and half empty pages.
        shared_bytes: of what the users of the sample share, in the store once.
    """

    users: int
    sample: int
    failed: int
    seconds: float
    slowest: float
    factor_bytes: float
    store_bytes: float
    shared_bytes: int


def personalize_users(
    path: str | Path,
    work: Bulk,
    engine: Engine,
    *,
    failures: str | Path,
    batch: int = BATCH,
    on_report: Callable[[Report, Tally], None] = lambda report, tally: None,
) -> Tally:
    """Give everybody in a file their edit.

    Who has theirs already is skipped; who fails is written to ``failures`` (JSON lines: line, user, error) and the
    rest goes on. Starting it again after whatever happened goes on where it was; the failure file is then written
    anew, so that in the end everybody is in the store or in there.

    Args:
        path: JSON lines or Parquet; see ``users_file``.
        work: store, model and settings.
        engine: who carries it out.
        failures: removed where nobody failed.
        batch: users per task.
        on_report: called after every user.

    Raises:
        DataError: the file of users cannot be read, or that of failures not be written.
        EngineError: no worker starts, or the first 50 users all failed.
        StoreError: the store cannot be opened, or was away for longer than ``work.patience``.
    """
    tally = Tally()
    with _failure_file(Path(failures)) as file:

        def heard(report: Report) -> None:
            tally.take(report)
            if report.status == "failed":
                fields = {"line": report.line, "user": report.user or None, "error": report.error}
                file.write(json.dumps(fields) + "\n")
                file.flush()
                _check_hope(tally)
            on_report(report, tally)

        def users() -> Iterator[UserRecord]:
            for found in read_users(path):
                if isinstance(found, UserRecord):
                    yield found
                else:
                    heard(Report(found.line, found.user or "", "failed", error=found.error))

        for outcome in engine.run(work, in_batches(users(), batch)):
            for report in _reports(outcome):
                heard(report)
    return tally


def estimate(path: str | Path, work: Bulk, sample: int = 16) -> Estimate:
    """Try some users, evenly spread over the file, with a store of their own that is removed again.

    Raises:
        DataError: there is nobody in the file, or it cannot be read.
    """
    total = count_users(path)
    step = max(1, total // max(1, sample))
    chosen = list(islice((one for one in read_users(path) if (one.line - 1) % step == 0), sample))
    users = [one for one in chosen if isinstance(one, UserRecord)]
    if not users:
        faults = [one.error for one in chosen if isinstance(one, Failure)]
        raise DataError(f"Nobody in {path} can be tried.\n{listing(faults)}", got=f"{total} lines")
    with tempfile.TemporaryDirectory() as folder:
        url = str(Path(folder) / "sample.db")
        with EditStore.open(url) as store:
            empty = store.stats()
        trial = replace(work, url=url)
        # The first user also waits for statistics and caches: whoever runs millions does not care.
        warm = [users[0], *users] if len(users) > 1 else users
        serial, named = find_engine("serial", Limits()), list(_renamed(warm))
        batches = [named[:1], *in_batches(named[1:], BATCH)]
        reports = [report for outcome in serial.run(trial, batches) for report in outcome.reports]
        with EditStore.open(url) as store:
            grown = {name: value - empty[name] for name, value in store.stats().items() if name.endswith("_bytes")}
    new = [report for report in reports[len(warm) - len(users) :] if report.status == "new"]
    factor_bytes = sum(report.nbytes for report in new) / max(1, len(new))
    own = grown["file_bytes"] - grown["shared_bytes"]
    return Estimate(
        users=total,
        sample=len(users),
        failed=len(users) - len(new),
        seconds=sum(report.seconds for report in new) / max(1, len(new)),
        slowest=max((report.seconds for report in new), default=0.0),
        factor_bytes=factor_bytes,
        store_bytes=factor_bytes * own / max(1, sum(report.nbytes for report in reports)),
        shared_bytes=grown["shared_bytes"],
    )


def _renamed(users: list[UserRecord]) -> Iterator[UserRecord]:
    """The same preferences under numbers: the first one comes twice."""
    return (replace(record, user=str(number)) for number, record in enumerate(users))


def _reports(outcome: Outcome) -> Iterator[Report]:
    if outcome.error is None:
        yield from outcome.reports
        return
    for record in outcome.items:
        yield Report(record.line, record.user, "failed", outcome.seconds, error=outcome.error)


def _check_hope(tally: Tally) -> None:
    if tally.failed >= HOPELESS and not tally.new + tally.there:
        raise EngineError(
            f"The first {tally.failed} users have all failed, the last with: {tally.last_error}",
            remedy="mend what they have in common and start again",
        )


@contextmanager
def _failure_file(path: Path) -> Iterator[IO[str]]:
    """A new file of JSON lines; gone where there were none."""
    try:
        with path.open("w", encoding="utf-8") as file:
            yield file
            empty = file.tell() == 0
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}", remedy="name another --failures") from None
    if empty:
        path.unlink(missing_ok=True)
