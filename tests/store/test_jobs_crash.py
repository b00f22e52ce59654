"""Learners and tellers killed at any moment: no job that was acknowledged is lost, and nothing is learned twice.

The learner is a stub that is quick; the queue, the leases and the transactions are the real ones.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import func, select

from easyedit_personal.errors import QueueFull
from easyedit_personal.learning.learned import Learned
from easyedit_personal.progress import counted
from easyedit_personal.service.worker import Worker
from easyedit_personal.store import EditStore
from easyedit_personal.store.encryption import Encryption
from easyedit_personal.store.schema import jobs
from easyedit_personal.types import Preference
from tests.store.samples import edit
from tests.store.test_crash import told

USERS = [f"user {number}" for number in range(4)]
LEASE = 0.5  # seconds; what the killed were at is begun again after it


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.store.test_jobs_crash"])
    yield context


@dataclass
class Stub:
    """Learns in a few milliseconds, and puts what it learned as ``Learner`` does."""

    store: EditStore
    rng: random.Random = field(default_factory=random.Random)

    def learn(self, user: str, preference: Preference, *, key: str, kept: Any) -> None:
        version = self.store.version(user)
        for _ in counted(range(4)):
            time.sleep(self.rng.uniform(0.0, 0.004))
        deltas = edit(preference.target, rank=1)

        def note(connection: Any, number: int) -> None:
            kept(connection, [Learned(number, preference, "", "", 0.0, 0, {})])

        self.store.put(user, deltas, preference=preference, key=key, version=version, kept=note)


def learn_until_killed(url: str, seed: int, pipe: Any, encryption: Encryption | None) -> None:
    store = EditStore.open(url, encryption=encryption)
    worker = Worker(Stub(store, random.Random(seed)), lease=LEASE, beat=0.1, poll=0.01, attempts=10**4)
    pipe.send(None)
    worker.run()


def tell_until_killed(url: str, seed: int, pipe: Any, encryption: Encryption | None) -> None:
    """Add jobs; each that was acknowledged is told of, with what it says."""
    store, rng, count = EditStore.open(url, encryption=encryption), random.Random(seed), 0
    pipe.send(None)
    while True:
        said = [f"{seed}/{count}/{number}" for number in range(rng.choice((1, 1, 2, 3)))]
        wanted = [Preference("hobby", "What's my hobby?", one) for one in said]
        try:
            key = f"{seed}/{count}" if rng.random() < 0.5 else None
            pipe.send((store.jobs.add(rng.choice(USERS), wanted, key=key, most=30).id, said))
            count += 1
        except QueueFull:
            pass
        time.sleep(rng.uniform(0.0, 0.05))


class Child:
    """A process that begins to learn or to tell; ``heard`` is what it told until it was killed."""

    def __init__(self, processes: Any, work: Any, url: str, seed: int) -> None:
        self.pipe, theirs = processes.Pipe(duplex=False)
        self.process = processes.Process(target=work, args=(url, seed, theirs, Encryption.from_environment()))
        self.process.start()
        theirs.close()

    def kill(self, first: int = 1) -> list[Any]:
        """Once so many messages have come, however slow the machine is; returns what was said but for the first."""
        heard = [self.pipe.recv() for _ in range(first)]
        time.sleep(random.uniform(0.0, 0.2))
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        return [one for one in [*heard, *told(self.pipe)] if one is not None]


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_at_any_moment_no_job_is_lost_or_learned_twice(url, processes, kills):
    rng, seeds, acknowledged = random.Random(kills), itertools.count(), {}
    EditStore.open(url).close()
    works = [learn_until_killed, learn_until_killed, tell_until_killed]
    running = [Child(processes, work, url, next(seeds)) for work in works]
    for _ in range(kills):
        place = rng.randrange(len(works))
        acknowledged |= dict(running[place].kill(2 + rng.randrange(4) if place == 2 else 1))
        running[place] = Child(processes, works[place], url, next(seeds))
    acknowledged |= dict(running.pop().kill(2))
    with EditStore.open(url) as store:
        end = time.monotonic() + 300
        while any(store.jobs.counts().values()):
            assert time.monotonic() < end, store.jobs.counts()
            time.sleep(0.05)
        for child in running:
            child.kill()
        check(store, acknowledged, kills)


def check(store: EditStore, acknowledged: dict[int, list[str]], kills: int) -> None:
    """Every job that was acknowledged is done, and every preference of any job is one edit."""
    found = {job.id: job for user in USERS for job in store.jobs.of(user)}
    assert {job.status for job in found.values()} == {"done"}
    assert {number: [one.target for one in found[number].preferences] for number in acknowledged} == acknowledged
    wanted = Counter(one.target for job in found.values() for one in job.preferences)
    edits = {one.id: one for user in USERS for one in store.history(user)}
    assert Counter(one.preference.target for one in edits.values()) == wanted and set(wanted.values()) == {1}
    for job in found.values():
        assert [edits[report["edit"]].preference.target for report in job.reports] == [
            one.target for one in job.preferences
        ]
        assert all(edits[report["edit"]].user == job.user for report in job.reports)
    assert store.verify() == [] and len(acknowledged) >= kills / 3
    with store._database.reading() as connection:
        again = connection.scalar(select(func.count()).select_from(jobs).where(jobs.c.attempts > 1))
    print(
        f"\n{kills} kills: {len(acknowledged)} jobs acknowledged, {len(found)} kept and done, {len(edits)} edits, "
        f"each once; {again} jobs were begun again"
    )
