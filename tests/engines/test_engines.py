"""Serial and processes: the same results, a bounded number of tasks under way, and faults that stay where they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from easyedit_personal.engines import Limits, dispatch, find_engine
from easyedit_personal.errors import ConfigError, DataError, EngineError, RegistryError
from tests.engines.works import Squares, batches


def carried_out(engine, work, tasks):
    """Reports by item, and why items were given up."""
    outcomes = list(engine.run(work, tasks))
    assert sorted(item for outcome in outcomes if outcome.error is None for item in outcome.items) == sorted(
        report[0] for outcome in outcomes for report in outcome.reports
    )
    reports = {report[0]: report[1] for outcome in outcomes for report in outcome.reports}
    return reports, {outcome.items[0]: outcome.error for outcome in outcomes if outcome.error}


def processes(**limits):
    """Two of them."""
    return find_engine("processes", Limits(**{"workers": 2, **limits}))


def files(folder: Path, start: str) -> list[Path]:
    """Notes that the work has left."""
    return sorted(folder.glob(f"{start}-*"))


def test_two_processes_do_what_one_does_and_each_opens_once(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    alone, none = carried_out(find_engine("serial"), Squares(str(tmp_path / "a")), batches(23, 4))
    both, also = carried_out(processes(), Squares(str(tmp_path / "b"), pause=0.05), batches(23, 4))
    assert alone == both == {n: n * n for n in range(23)} and none == also == {}
    assert len(files(tmp_path / "a", "opened")) == 1 and len(files(tmp_path / "b", "opened")) == 2
    assert len(files(tmp_path / "b", "closed")) == 2


def test_threads_are_asked_for_and_given_back(tmp_path):
    import torch

    before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    for engine in (find_engine("serial", Limits(threads=2)), processes(workers=1, threads=2)):
        reports, _ = carried_out(engine, Squares(str(tmp_path), threads=True), [(1,)])
        assert reports == {1: 2}
    assert (torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")) == before


@pytest.mark.parametrize("name", ["serial", "processes"])
def test_nothing_to_do_starts_nobody(name, tmp_path):
    assert list(find_engine(name).run(Squares(str(tmp_path), breaks="must not be opened"), iter([]))) == []


def test_the_source_is_not_read_far_ahead(tmp_path):
    taken, given, done = [0], [], 0

    def source():
        for batch in batches(120, 2):
            taken[0] += 1
            yield batch

    for outcome in processes().run(Squares(str(tmp_path)), source()):
        done += 1
        given.append(taken[0] - done)
        assert len(outcome.reports) == 2
    assert done == 60 and max(given) <= 4


def test_a_killed_worker_loses_nothing(tmp_path):
    work = Squares(str(tmp_path), killed=frozenset({3, 11}), once=True)
    reports, given_up = carried_out(processes(), work, batches(16, 4))
    assert reports == {n: n * n for n in range(16)} and given_up == {}


def test_who_always_kills_is_given_up_alone(tmp_path):
    work = Squares(str(tmp_path), killed=frozenset({5}))
    reports, given_up = carried_out(processes(retries=1), work, batches(12, 4))
    assert reports == {n: n * n for n in range(12) if n != 5}
    assert list(given_up) == [5] and "2 attempts" in given_up[5] and "SIGKILL" in given_up[5]
    assert (tmp_path / "tried-5").read_text() == "xxx"  # in its batch, and twice alone


def test_who_hangs_is_ended(tmp_path, capfd):
    work = Squares(str(tmp_path), hangs=frozenset({2}))
    # On a busy machine an innocent item may be late, too, but not each time.
    reports, given_up = carried_out(processes(retries=2, seconds=1.0), work, batches(6, 3))
    assert reports == {n: n * n for n in range(6) if n != 2}
    assert "longer than 1 s" in given_up[2] and "_misbehave" in capfd.readouterr().err  # where it hung


def test_who_is_stopped_is_ended_from_outside(tmp_path, monkeypatch):
    """SIGSTOP also stops the clock inside of the process."""
    monkeypatch.setattr(dispatch, "GRACE", 0.2)
    work = Squares(str(tmp_path), stopped=frozenset({2}))
    reports, given_up = carried_out(processes(retries=2, seconds=1.0), work, [(0,), (1,), (2,), (3,)])
    assert set(reports) == {0, 1, 3} and list(given_up) == [2]


@pytest.mark.parametrize("name", ["serial", "processes"])
def test_an_error_of_the_work_ends_the_run(name, tmp_path):
    with pytest.raises(DataError, match=r"(?s)number 7 is not liked.*got: +7"):
        list(find_engine(name).run(Squares(str(tmp_path), raises=7), batches(20, 2)))
    with pytest.raises(DataError, match=r"(?s)no model here.*mend it"):
        list(find_engine(name).run(Squares(str(tmp_path), breaks="no model here"), batches(4, 2)))


def test_workers_that_die_at_birth_end_the_run(tmp_path):
    with pytest.raises(EngineError, match=r"(?s)before they have taken their first task.*SIGKILL.*memory"):
        list(processes(workers=1).run(Squares(str(tmp_path), breaks="dies"), batches(4, 2)))


def test_a_script_without_a_guard_is_told_of_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from easyedit_personal.engines import Limits, find_engine\n"
        "from tests.engines.works import Squares\n"
        f"list(find_engine('processes', Limits(workers=1)).run(Squares({str(tmp_path)!r}), [(0, 1)]))\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    ended = subprocess.run([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": root}, capture_output=True)
    assert ended.returncode == 1
    assert b"__main__" in ended.stderr.splitlines()[-2] and b"fewer workers" in ended.stderr.splitlines()[-1]


def test_an_abandoned_run_leaves_no_process(tmp_path):
    run = processes().run(Squares(str(tmp_path), pause=0.05), batches(1000, 2))
    next(run)
    run.close()
    for note in files(tmp_path, "opened"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(note.name.split("-")[1]), 0)


def test_what_engines_refuse():
    with pytest.raises(RegistryError, match="Did you mean 'processes'"):
        find_engine("process")
    for limits in ({"seconds": 5.0}, {"workers": 2}):
        with pytest.raises(ConfigError, match="--engine processes"):
            find_engine("serial", Limits(**limits))
    for limits in ({"workers": 0}, {"threads": 0}, {"retries": -1}, {"seconds": 0.0}, {"start": -1.0}):
        with pytest.raises(ConfigError, match="out of range"):
            Limits(**limits)
