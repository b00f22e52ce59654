"""The ray engine on a Ray of this machine: as the others, also when workers die, hang, or their node leaves."""

from __future__ import annotations

import time

import pytest

from easyedit_personal.engines import Limits, find_engine
from easyedit_personal.errors import DataError, EngineError
from tests.engines.conftest import begun
from tests.engines.test_engines import carried_out, files
from tests.engines.works import Squares, batches

pytestmark = [
    pytest.mark.ray,
    # Ray leaves files and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


def ray_engine(**limits):
    """Two workers on a cluster of its own, or on the one that is connected."""
    return find_engine("ray", Limits(**{"workers": 2, **limits}))


def test_the_same_results_one_thread_each_and_nothing_left(ray_home, tmp_path):
    (tmp_path / "a").mkdir()
    reports, given_up = carried_out(ray_engine(), Squares(str(tmp_path / "a"), pause=0.05), batches(23, 4))
    assert reports == {n: n * n for n in range(23)} and given_up == {}
    assert len(files(tmp_path / "a", "opened")) == len(files(tmp_path / "a", "closed")) == 2
    assert not ray_home.is_initialized()


def test_deaths_hangs_and_errors(ray_home, tmp_path, capfd):
    for name in "abcd":
        (tmp_path / name).mkdir()
    begun(lambda: ray_home.init(num_cpus=2, include_dashboard=False, log_to_driver=False))
    once = Squares(str(tmp_path / "a"), killed=frozenset({3, 11}), once=True)
    assert carried_out(ray_engine(), once, batches(16, 4)) == ({n: n * n for n in range(16)}, {})
    bad = Squares(str(tmp_path / "b"), killed=frozenset({5}), hangs=frozenset({9}), threads=True)
    reports, given_up = carried_out(ray_engine(retries=0, seconds=6.0), bad, batches(12, 4))
    assert reports == {n: 1 for n in range(12) if n not in (5, 9)} and set(given_up) == {5, 9}
    assert "longer than 6 s" in given_up[9] and "1 attempts" in given_up[5]
    with pytest.raises(DataError, match="number 7 is not liked"):
        list(ray_engine().run(Squares(str(tmp_path / "c"), raises=7), batches(20, 2)))
    with pytest.raises(EngineError, match="before they have taken their first task"):
        list(ray_engine().run(Squares(str(tmp_path / "d"), breaks="dies"), batches(4, 2)))
    assert ray_home.is_initialized()  # whoever connected disconnects


def test_a_cluster_without_room_or_that_is_not_there(ray_home, tmp_path):
    begun(lambda: ray_home.init(num_cpus=0, include_dashboard=False, log_to_driver=False))
    with pytest.raises(EngineError, match="no slot"):
        list(find_engine("ray").run(Squares(str(tmp_path)), batches(4, 2)))
    with pytest.raises(EngineError, match=r"(?s)No worker was ready.*no room"):
        list(ray_engine(start=2.0).run(Squares(str(tmp_path)), batches(4, 2)))
    ray_home.shutdown()
    with pytest.raises(EngineError, match="cannot be reached"):
        list(find_engine("ray://127.0.0.1:9").run(Squares(str(tmp_path)), batches(4, 2)))


@pytest.mark.slow
def test_a_node_leaves_in_the_middle(ray_home, tmp_path):
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False}
    cluster = begun(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        second = begun(lambda: cluster.add_node(num_cpus=1))
        ray_home.init(address=cluster.address, log_to_driver=False)
        cluster.wait_for_nodes()
        reports, removed = {}, False
        for outcome in ray_engine().run(Squares(str(tmp_path), pause=0.05), batches(120, 4)):
            assert outcome.error is None
            reports |= dict(outcome.reports)
            if not removed and len(files(tmp_path, "opened")) == 2 and len(reports) > 20:
                cluster.remove_node(second, allow_graceful=False)
                removed = True
        assert removed and reports == {n: n * n for n in range(120)}
        tried = sum(len(note.read_text()) for note in files(tmp_path, "tried"))
        assert 120 <= tried <= 130  # what was under way on the lost node, and nothing else, was done again
    finally:
        ray_home.shutdown()
        cluster.shutdown()
        time.sleep(0.5)
