"""The queue of what is to be learned: kept, fair, bounded, done once, cancelled, forgotten."""

from __future__ import annotations

import base64
import json
import random
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from easyedit_personal.errors import JobLost, QueueFull, StoreConflict, StoreError, StoreOvertaken
from easyedit_personal.store import EditStore
from easyedit_personal.store import jobs as queue
from easyedit_personal.store.encryption import ENV
from tests.store.conftest import KEY
from tests.store.samples import edit, preference, same
from tests.store.test_encryption import OTHER, bytes_of

LONG = 60.0  # seconds of a lease that outlives every test


def add(store, user, *names, **more):
    return store.jobs.add(user, [preference(name) for name in names or ("a",)], **more)


def learn(store, claim, name="a", last=True):
    """Keep an edit and note it in its job, as a learner does."""
    kept = lambda connection, number: store.jobs.note(connection, claim, {"edit": number}, last=last)
    return store.put(claim.job.user, edit(name), preference=preference(name), kept=kept)


def status(store, job):
    return store.jobs.get(job.id).status


def test_a_job_outlives_the_process_and_is_done_with_its_edits(store, url):
    job = add(store, "ann", "a", "b", key="k")
    assert (job.status, job.user, job.key, job.progress, job.eta, job.reports) == ("queued", "ann", "k", 0.0, None, ())
    assert job.preferences == (preference("a"), preference("b"))
    store.close()
    with EditStore.open(url) as again:
        claim = again.jobs.claim(LONG)
        assert claim.job.id == job.id and status(again, job) == "running" and again.jobs.claim(LONG) is None
        assert again.jobs.beat(claim, LONG, 0.25, 7.0)
        assert (again.jobs.get(job.id).progress, again.jobs.get(job.id).eta) == (0.25, 7.0)
        first = learn(again, claim, "a", last=False)
        assert status(again, job) == "running" and again.jobs.get(job.id).reports == ({"edit": first},)
        second = learn(again, claim, "b")
        done = again.jobs.get(job.id)
        assert (done.status, done.progress, done.reports) == ("done", 1.0, ({"edit": first}, {"edit": second}))
        assert done.ended >= done.created and not done.is_open and again.verify() == []
        assert [one.id for one in again.history("ann")] == [first, second]
        assert again.jobs.counts() == {"queued": 0, "running": 0} and again.jobs.get(12345) is None


def test_the_same_key_again_is_the_same_job(store):
    job = add(store, "ann", key="k")
    assert add(store, "ann", "b", key="k").id == job.id and add(store, "ben", key="k").id != job.id
    assert add(store, "ann").id != add(store, "ann").id
    with ThreadPoolExecutor(4) as pool:
        assert len({one.id for one in pool.map(lambda _: add(store, "cleo", key="k"), range(8))}) == 1
    assert len(store.jobs.of("cleo")) == 1


def test_users_take_turns_and_have_one_job_running(store):
    waiting = [add(store, user) for user in ("ann", "ann", "ann", "ben", "cleo")]
    order = []
    for _ in waiting:
        claim = store.jobs.claim(LONG)
        order.append(claim.job.user)
        learn(store, claim)
    assert order == ["ann", "ben", "cleo", "ann", "ann"]
    for user in ("ann", "ann", "ben"):
        add(store, user)
    first, second = store.jobs.claim(LONG), store.jobs.claim(LONG)
    assert {first.job.user, second.job.user} == {"ann", "ben"} and store.jobs.claim(LONG) is None
    for claim in (first, second):
        learn(store, claim)
    assert store.jobs.claim(LONG).job.user == "ann"


def test_many_who_take_at_once_take_different_jobs(store, url):
    wanted = {add(store, f"user {number}").id for number in range(12)}
    wanted |= {add(store, "user 0").id}

    def take(_):
        with EditStore.open(url) as other:
            return [claim.job.id for _ in range(6) if (claim := other.jobs.claim(LONG))]

    with ThreadPoolExecutor(4) as pool:
        taken = [number for numbers in pool.map(take, range(4)) for number in numbers]
    assert len(taken) == len(set(taken)) == 12 and set(taken) < wanted


def test_the_queue_is_bounded(store):
    limits = {"most": 3, "most_of_user": 2}
    first = add(store, "ann", **limits)
    add(store, "ann", **limits)
    with pytest.raises(QueueFull, match=r"(?s)has 2 jobs.*cancel one") as caught:
        add(store, "ann", **limits)
    assert caught.value.of_user
    add(store, "ben", **limits)
    with pytest.raises(QueueFull, match=r"(?s)Too many.*later") as caught:
        add(store, "cleo", **limits)
    assert not caught.value.of_user and store.jobs.of("cleo") == []
    store.jobs.cancel(first.id)
    add(store, "cleo", **limits)


def test_what_a_dead_learner_left_is_another_s_and_the_dead_one_keeps_nothing(store):
    job = add(store, "ann", "a", "b")
    dead = store.jobs.claim(LONG)
    learn(store, dead, "a", last=False)
    assert store.jobs.beat(dead, -1.0, 0.5, None)
    claim = store.jobs.claim(LONG)
    assert claim.job.id == job.id and len(claim.job.reports) == 1 and claim.job.progress == 0.0
    before = store.version("ann")
    with pytest.raises(JobLost):
        learn(store, dead, "b")
    assert not store.jobs.beat(dead, LONG, 0.9, None)
    store.jobs.release(dead)
    store.jobs.fail(dead, {"status": 500, "error": {}})
    assert status(store, job) == "running" and store.version("ann") == before
    learn(store, claim, "b")
    assert status(store, job) == "done" and len(store.history("ann")) == 2 and store.verify() == []


def test_a_job_of_which_learners_die_is_given_up(store):
    job, other = add(store, "ann"), add(store, "ann", "b")
    for _ in range(2):
        assert store.jobs.claim(-1.0, attempts=2).job.id == job.id
    assert store.jobs.claim(LONG, attempts=2).job.id == other.id
    given_up = store.jobs.get(job.id)
    assert given_up.status == "failed" and given_up.error["error"]["code"] == "learner_died"


def test_who_gives_a_job_back_in_order_has_not_died_of_it(store):
    job = add(store, "ann")
    for _ in range(9):
        claim = store.jobs.claim(LONG, attempts=2)
        store.jobs.release(claim)
    assert status(store, job) == "queued"


def test_edit_and_end_are_kept_together_or_not_at_all(store):
    job = add(store, "ann")
    claim = store.jobs.claim(LONG)

    def noted_and_then(connection, number):
        store.jobs.note(connection, claim, {"edit": number}, last=True)
        raise StoreError("the disk is gone")

    with pytest.raises(StoreError, match="is gone"):
        store.put("ann", edit("a"), kept=noted_and_then)
    assert status(store, job) == "running" and store.history("ann") == [] and store.version("ann") == 0
    with pytest.raises(StoreOvertaken):
        store.put("ann", edit("a"), version=7, kept=noted_and_then)
    assert store.version("ann") == 0 and store.verify() == []


def test_what_is_cancelled_keeps_what_it_had_and_nothing_more(store):
    waiting, running = add(store, "ben"), add(store, "ann", "a", "b")
    assert store.jobs.cancel(waiting.id) and not store.jobs.cancel(waiting.id)
    claim = store.jobs.claim(LONG)
    learn(store, claim, "a", last=False)
    assert store.jobs.cancel(running.id) and status(store, running) == "cancelled"
    with pytest.raises(JobLost):
        learn(store, claim, "b")
    assert len(store.history("ann")) == len(store.jobs.get(running.id).reports) == 1
    assert not store.jobs.cancel(777) and store.jobs.claim(LONG) is None


def test_the_time_left_is_guessed_from_the_last_ones(store):
    for user in ("ann", "ben"):
        add(store, user)
    claim = store.jobs.claim(LONG)
    learn(store, claim)
    later = [add(store, user) for user in ("cleo", "dora")]
    one, two = (store.jobs.get(job.id).eta for job in later)
    assert one > 0 and two == pytest.approx(one * 3 / 2)


def test_forgetting_takes_the_jobs_along(tmp_path):
    with EditStore.open(tmp_path / "edits.db") as store:
        for user in ("anastasia-1", "benedict-22"):
            add(store, user, user, key=f"key of {user}")
        done, running = store.jobs.claim(LONG), add(store, "anastasia-1", "anastasia-1")
        learn(store, done, "anastasia-1")
        benedict = store.jobs.claim(LONG)
        claim = store.jobs.claim(LONG)
        assert claim.job.id == running.id
        assert store.forget("anastasia-1") == 1
        assert store.jobs.get(running.id) is store.jobs.get(done.job.id) is None and store.jobs.of("anastasia-1") == []
        with pytest.raises(JobLost):
            learn(store, claim)
        texts = [content for (content,) in _texts(tmp_path / "edits.db") if content]
        assert len(texts) == 1 and store.verify() == [] and store.version("anastasia-1") == 0
        learn(store, benedict)
        store.vacuum()
        assert len(_texts(tmp_path / "edits.db")) == 2 and store._owner("anastasia-1") not in bytes_of(tmp_path)


def _texts(path):
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT content FROM job_texts").fetchall()
    finally:
        connection.close()


def test_no_byte_of_the_words_is_left_after_forgetting_or_a_week(tmp_path, monkeypatch):
    with EditStore.open(tmp_path / "edits.db") as store:
        packed, gone, rng = {}, {}, random.Random(0)
        for number in range(30):
            user = f"user {number}"
            job = add(store, user, *(rng.randbytes(30).hex() for _ in range(1 + number % 5)))
            packed[user] = next(content for (content,) in reversed(_texts(tmp_path / "edits.db")))
            if number % 3 == 2:
                store.forget(user)
                gone[user] = packed[user]
            elif number % 3 == 1:
                store.jobs.cancel(job.id)
        everything = bytes_of(tmp_path)
        pieces = lambda data: [data[at : at + 24] for at in range(0, len(data) - 24, 200)]
        assert not any(piece in everything for data in gone.values() for piece in pieces(data)[1:])
        assert all(packed[f"user {n}"][20:44] in everything for n in range(0, 30, 3))
        monkeypatch.setattr(queue, "KEPT_SECONDS", -1.0)
        add(store, "user 0")
        assert [len(store.jobs.of(f"user {n}")) for n in (0, 1, 2, 3, 4)] == [2, 0, 0, 1, 0]
        store.forget("nobody")  # empties the log, where earlier copies of pages lie
        everything = bytes_of(tmp_path)
        ended = [packed[f"user {n}"] for n in range(1, 30, 3)]
        assert not any(piece in everything for data in ended for piece in pieces(data)[1:])


def test_in_an_encrypted_store_words_are_encrypted_and_keys_are_rotated(tmp_path, monkeypatch):
    pytest.importorskip("cryptography", reason="cryptography is not installed (extra `encryption`)")
    monkeypatch.setenv(ENV, KEY)
    with EditStore.open(tmp_path / "edits.db") as store:
        add(store, "anastasia-1", "falconry")
        learn(store, store.jobs.claim(LONG), "falconry")
        waiting = add(store, "benedict-22", "chess", key="the key")
        clear = queue.packed(queue.request_of("benedict-22", [preference("chess")], "the key"))
        everything = bytes_of(tmp_path)
        assert not any(
            word in everything for word in (b"anastasia", b"benedict", b"falconry", b"the key", clear[20:44])
        )
    monkeypatch.setenv(ENV, f"{OTHER},{KEY}")
    with EditStore.open(tmp_path / "edits.db") as store:
        assert store.rotate_key() == 1
    monkeypatch.setenv(ENV, OTHER)
    with EditStore.open(tmp_path / "edits.db") as store:
        assert store.jobs.get(waiting.id).key == "the key" and store.verify() == []
        learn(store, store.jobs.claim(LONG), "chess")
        assert status(store, waiting) == "done"
        one, two = _texts(tmp_path / "edits.db")[:2]
        connection = sqlite3.connect(tmp_path / "edits.db")
        with connection:  # each text belongs where it lies
            connection.execute("UPDATE job_texts SET content = ? WHERE content = ?", (one[0], two[0]))
        connection.close()
        assert any("decrypted" in fault.what for fault in store.verify())
    assert base64.b64decode(KEY) not in bytes_of(tmp_path)


def test_a_damaged_job_is_in_nobody_s_way(tmp_path, caplog):
    with EditStore.open(tmp_path / "edits.db") as store:
        damaged, whole = add(store, "ann"), add(store, "ben")
        connection = sqlite3.connect(tmp_path / "edits.db")
        with connection:
            connection.execute("UPDATE job_texts SET content = x'00' WHERE job = ?", (damaged.id,))
        connection.close()
        assert store.jobs.claim(LONG) is None and f"job {damaged.id} says is damaged" in caplog.text
        assert store.jobs.claim(LONG).job.id == whole.id
        assert [f"job {damaged.id} says" in fault.what for fault in store.verify()] == [True]
        with pytest.raises(StoreError, match="damaged"):
            store.jobs.get(damaged.id)
        assert store.forget("ann") == 0 and store.verify() == []


def test_what_was_asked_for_is_given_to_the_person(store, tmp_path):
    add(store, "ann", "falconry", key="k")
    add(store, "ben", "chess")
    folder = store.export_all("ann", tmp_path / "ann")
    (job,) = json.loads((folder / "everything.json").read_text(encoding="utf-8"))["jobs"]
    assert job["status"] == "queued" and job["preferences"][0]["target"] == "target of falconry" and job["key"] == "k"
    assert job["created"].endswith("+00:00") and "chess" not in (folder / "everything.json").read_text()


@pytest.mark.parametrize(
    "operation",
    [
        lambda store, claim: add(store, "ann", "c"),
        lambda store, claim: store.jobs.claim(LONG),
        lambda store, claim: store.jobs.beat(claim, LONG, 0.5, None),
        lambda store, claim: store.jobs.note_known(claim, {"edit": 1}, last=True),
        lambda store, claim: store.jobs.fail(claim, {"status": 500, "error": {}}),
        lambda store, claim: store.jobs.release(claim),
        lambda store, claim: store.jobs.cancel(claim.job.id),
        lambda store, claim: learn(store, claim),
    ],
    ids=["add", "claim", "beat", "note", "fail", "release", "cancel", "learn"],
)
def test_whatever_writes_is_done_again_after_a_conflict(store, monkeypatch, operation):
    add(store, "ann")
    claim = store.jobs.claim(LONG)
    add(store, "ben")
    real, collisions = store._database.writing, [1, 1]

    @contextmanager
    def writing():
        if collisions:
            collisions.pop()
            raise StoreConflict("collided")
        with real() as connection:
            yield connection

    monkeypatch.setattr(store._database, "writing", writing)
    operation(store, claim)
    assert not collisions and store.verify() == []


def test_an_edit_on_top_of_what_has_changed_is_refused(store):
    first = store.put("ann", edit("a"), version=0)
    assert store.put("ann", edit("b"), version=first) > first
    with pytest.raises(StoreOvertaken, match=rf"(?s)changed meanwhile.*needed: version {first}"):
        store.put("ann", edit("c"), version=first)
    with pytest.raises(StoreOvertaken):
        store.put("new", edit("c"), version=first)
    assert len(store.history("ann")) == 2 and store.version("new") == 0 and store.verify() == []
    known = store.put("ann", edit("c"), key="k")
    assert store.put("ann", edit("c"), key="k", version=first) == known


def test_factors_elsewhere_of_an_edit_that_came_too_late_are_removed(tmp_path):
    with EditStore.open(tmp_path / "edits.db", factors=str(tmp_path / "factors")) as store:
        job = add(store, "ann")
        claim = store.jobs.claim(LONG)
        store.jobs.cancel(job.id)
        for kept in ({"version": 9}, {"kept": lambda c, n: store.jobs.note(c, claim, {}, last=True)}):
            with pytest.raises((JobLost, StoreOvertaken)):
                store.put("ann", edit("a"), **kept)
        assert [file for file in (tmp_path / "factors").rglob("*") if file.is_file()] == []
        store.put("ann", edit("a"))
        assert same(store.deltas("ann"), edit("a"))
