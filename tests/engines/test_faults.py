"""Faults in earnest, on processes and on a Ray of this machine: in the end everybody is there once, or is named.

Users' factors are drawn by chance, so that a thousand of them take seconds; everything else is what production runs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from easyedit_personal.bulk.bulk import Bulk
from easyedit_personal.bulk.run import personalize_users
from easyedit_personal.engines import Limits, find_engine
from easyedit_personal.errors import StoreUnavailable
from easyedit_personal.store import EditStore
from tests.engines.conftest import ROOT, begun
from tests.engines.random_factors import RandomFactors, expected, write_users
from tests.postgres import Server
from tests.store.samples import same
from tests.waiting import PATIENCE, wait_until

ENGINES = ["processes", pytest.param("ray", marks=pytest.mark.ray)]
pytestmark = [
    pytest.mark.slow,
    # Ray leaves files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Makes an engine of two workers, of either kind in turn."""
    if request.param == "ray":
        ray = request.getfixturevalue("ray_home")
        begun(lambda: ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False))
    yield lambda **limits: find_engine(request.param, Limits(**{"workers": 2, "seconds": 30.0, **limits}))


@pytest.fixture
def server() -> Iterator[Server]:
    """A PostgreSQL server that the test may stop."""
    made = Server()
    try:
        yield made
    finally:
        made.close()


def everybody_is_somewhere(store: str, failures: Path, count: int, failed: dict[int, str]) -> None:
    """Exactly once in the store with the right factors, or in the failure file with the right reason."""
    lines = [json.loads(line) for line in failures.read_text().splitlines()] if failures.exists() else []
    named = {line["user"]: line["error"] for line in lines}
    assert len(lines) == len(named) and set(named) == {f"user {number}" for number in failed}
    for number, says in failed.items():
        assert says in named[f"user {number}"]
    with EditStore.open(store) as opened:
        users = list(opened.users())
        assert len(users) == len(set(users)) == count - len(failed)
        assert opened.stats()["edits"] == opened.stats()["live"] == count - len(failed)
        for number in set(range(count)) - set(failed):
            assert same(opened.deltas(f"user {number}"), expected(number))
        assert opened.verify() == []


def alive(notes: Path) -> list[int]:
    """Workers that run now."""
    pids = [int(note.name.split("-")[1]) for note in notes.glob("worker-*")]
    return [pid for pid in pids if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_workers_killed_in_the_middle(engine, tmp_path):
    users, store, kills = write_users(tmp_path / "users.jsonl", 300), str(tmp_path / "edits.db"), []

    def on_report(report, tally):
        if tally.done in (30, 100, 170):
            running = [pid for pid in alive(tmp_path) if pid not in kills]
            os.kill(running[0], signal.SIGKILL)
            kills.append(running[0])

    work = Bulk(store, RandomFactors(pause=0.01, notes=str(tmp_path)))
    # Chance may have all three kills meet the same user.
    tally = personalize_users(users, work, engine(retries=3), failures=tmp_path / "f", batch=8, on_report=on_report)
    assert len(kills) == 3 and tally.new + tally.there == 300
    everybody_is_somewhere(store, tmp_path / "f", 300, {})


@pytest.mark.parametrize("kind", ENGINES)
def test_the_driver_killed_and_started_again(kind, tmp_path, request):
    users, store = write_users(tmp_path / "users.jsonl", 400, {7: "raises"}), str(tmp_path / "edits.db")
    environment, cluster = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, None
    if kind == "ray":
        request.getfixturevalue("ray_home")
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 2, "include_dashboard": False}
        cluster = begun(lambda: Cluster(initialize_head=True, head_node_args=head))
        environment |= {"RAY_ADDRESS": cluster.address, "HOME": os.environ["HOME"]}
    command = [sys.executable, "-m", "tests.engines.drive", users, store, tmp_path / "f", kind, tmp_path]
    options: dict[str, Any] = {"env": environment, "cwd": ROOT, "stdout": subprocess.PIPE, "text": True}
    try:
        EditStore.open(store).close()
        for least in (40, 150):
            with subprocess.Popen(command, **options) as driver, EditStore.open(store) as opened:

                def so_many(driver=driver, opened=opened, least=least):
                    assert driver.poll() is None
                    return opened.stats()["users"] >= least

                wait_until(so_many, "too few are done")
                driver.send_signal(signal.SIGKILL)
        # At once: workers of the dead driver may still be at it.
        last = subprocess.run(command, **options, check=True).stdout.split()
        assert int(last[0]) < 260 and int(last[0]) + int(last[1]) == 399 and last[2] == "1"
        wait_until(lambda: not alive(tmp_path), "workers outlive their driver")
    finally:
        if cluster is not None:
            cluster.shutdown()
    everybody_is_somewhere(store, tmp_path / "f", 400, {7: "out of luck"})


def test_poisoned_users_among_a_thousand(engine, tmp_path):
    poisoned = {13: "raises", 200: "nan", 201: "health", 444: "kills", 445: "hangs", 999: "kills"}
    users, store = write_users(tmp_path / "users.jsonl", 1000, poisoned), str(tmp_path / "edits.db")
    limits = engine(seconds=8.0, retries=1)  # a busy machine may keep the innocent waiting for seconds
    tally = personalize_users(users, Bulk(store, RandomFactors()), limits, failures=tmp_path / "f")
    assert tally.failed == 6 and tally.done == 1000
    says = {"raises": "out of luck", "nan": "not finite", "health": "refused", "kills": "2 attempts"}
    says["hangs"] = "longer than 8 s"
    everybody_is_somewhere(store, tmp_path / "f", 1000, {number: says[kind] for number, kind in poisoned.items()})


@pytest.mark.ray
def test_a_node_leaves(ray_home, tmp_path):
    from ray.cluster_utils import Cluster

    users, store = write_users(tmp_path / "users.jsonl", 300), str(tmp_path / "edits.db")
    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = begun(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        second = begun(lambda: cluster.add_node(num_cpus=1))
        ray_home.init(address=cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        left = []

        def on_report(report, tally):
            if not left and tally.done >= 60 and len(alive(tmp_path)) == 2:
                left.append(tally.done)
                cluster.remove_node(second, allow_graceful=False)

        engine = find_engine("ray", Limits(workers=2, seconds=30.0))
        work = Bulk(store, RandomFactors(pause=0.01, notes=str(tmp_path)))
        personalize_users(users, work, engine, failures=tmp_path / "f", batch=8, on_report=on_report)
        assert left and left[0] < 290
    finally:
        ray_home.shutdown()
        cluster.shutdown()
    everybody_is_somewhere(store, tmp_path / "f", 300, {})


@pytest.mark.server
def test_the_store_is_away_for_ten_seconds(engine, server, tmp_path):
    import psycopg

    with psycopg.connect(server.pattern.format("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE edits")
    users, store, away = write_users(tmp_path / "users.jsonl", 200), server.pattern.format("edits"), []

    def on_report(report, tally):
        if tally.done >= 40 and not away:
            server.stop()
            away.append(threading.Timer(10.0, server.start))
            away[0].start()

    work = Bulk(store, RandomFactors(pause=0.01))
    tally = personalize_users(users, work, engine(), failures=tmp_path / "f", batch=8, on_report=on_report)
    away[0].join()
    assert tally.elapsed > 10.0 and tally.new + tally.there == 200
    everybody_is_somewhere(store, tmp_path / "f", 200, {})


@pytest.mark.server
def test_the_store_does_not_come_back_and_the_run_goes_on_another_day(server, tmp_path):
    import psycopg

    with psycopg.connect(server.pattern.format("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE edits")
    users, store, away = write_users(tmp_path / "users.jsonl", 100), server.pattern.format("edits"), []

    def on_report(report, tally):
        if tally.done >= 40 and not away:
            server.stop()
            away.append(True)

    engine = find_engine("processes", Limits(workers=2))
    work = Bulk(store, RandomFactors(pause=0.01), patience=1.0)
    with pytest.raises(StoreUnavailable):
        personalize_users(users, work, engine, failures=tmp_path / "f", batch=8, on_report=on_report)
    server.start()
    tally = personalize_users(users, work, engine, failures=tmp_path / "f", batch=8)
    assert tally.there >= 40 and tally.new + tally.there == 100
    everybody_is_somewhere(store, tmp_path / "f", 100, {})


def hold(path: str, seconds: float, held: threading.Event) -> None:
    """Keep everybody from writing for a while, and say when it begins."""
    with EditStore.open(path) as store, store._database.writing() as connection:
        connection.exec_driver_sql("UPDATE clock SET tick = tick + 1")
        held.set()
        time.sleep(seconds)


def test_somebody_holds_the_database_for_ten_seconds(engine, tmp_path):
    users, store = write_users(tmp_path / "users.jsonl", 100), str(tmp_path / "edits.db")
    held = threading.Event()
    holder = threading.Thread(target=hold, args=(store, 10.0, held))

    def on_report(report, tally):
        if tally.done >= 30 and not held.is_set():
            holder.start()
            assert held.wait(PATIENCE)

    work = Bulk(store, RandomFactors(pause=0.01))
    tally = personalize_users(users, work, engine(), failures=tmp_path / "f", batch=8, on_report=on_report)
    holder.join()
    assert tally.elapsed > 10.0 and tally.new == 100
    everybody_is_somewhere(store, tmp_path / "f", 100, {})
