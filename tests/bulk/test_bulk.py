"""Everybody in a file: once in the store, or in the failure file, whatever the engine and however often it starts."""

from __future__ import annotations

import json
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from easyedit_personal.bulk.bulk import Bulk, LearnerFactory
from easyedit_personal.bulk.run import estimate, personalize_users
from easyedit_personal.bulk.users_file import Failure, UserRecord, count_users, in_batches, read_users
from easyedit_personal.engines import Limits, find_engine
from easyedit_personal.errors import DataError, EngineError, StoreError
from easyedit_personal.store import EditStore
from easyedit_personal.types import Preference
from tests.engines.random_factors import RandomFactors, expected, write_users
from tests.evaluate.people import quick_hparams
from tests.store.samples import gate, same
from tests.tiny import tiny_model


def carried_out(path, store, factory=None, engine=None, **options):
    """The tally, and the failures by user."""
    failures = path.with_suffix(".failures")
    work = Bulk(str(store), factory or RandomFactors())
    tally = personalize_users(path, work, engine or find_engine("serial"), failures=failures, **options)
    lines = [json.loads(line) for line in failures.read_text().splitlines()] if failures.exists() else []
    assert len(lines) == tally.failed
    return tally, {line["user"]: line["error"] for line in lines}


def everybody_is_there(store, numbers):
    """Exactly once, with the right factors, and nobody else."""
    with EditStore.open(store) as opened:
        assert set(opened.users()) == {f"user {number}" for number in numbers}
        for number in numbers:
            assert same(opened.deltas(f"user {number}"), expected(number))
            assert len(opened.history(f"user {number}")) == 1
        assert opened.verify() == []


def test_everybody_once_and_the_second_time_nobody(tmp_path):
    users, store = write_users(tmp_path / "users.jsonl", 40), tmp_path / "edits.db"
    tally, failures = carried_out(users, store, batch=7)
    assert (tally.new, tally.there, tally.failed, failures) == (40, 0, 0, {})
    assert tally.nbytes == 40 * 4 * (24 + 40) * 4 and len(tally.slowest) == 5
    everybody_is_there(store, range(40))
    with EditStore.open(store) as opened:
        (kept,) = opened.history("user 7")
        assert kept.preference == Preference("hobby", "What's my hobby?", "hobby 7", user="user 7")
        assert kept.kernel == "random" and kept.hparams == {"scale": 1.0} and kept.health == {"perplexity_ratio": 1.0}
        before = opened.stats()["edits"]
    again, _ = carried_out(users, store)
    assert (again.new, again.there) == (0, 40)
    with EditStore.open(store) as opened:
        assert opened.stats()["edits"] == before


def test_other_settings_or_preferences_are_other_edits(tmp_path):
    users, store = write_users(tmp_path / "users.jsonl", 3), tmp_path / "edits.db"
    carried_out(users, store)
    other, _ = carried_out(users, store, RandomFactors(scale=2.0))
    write_users(users, 3, {1: "chess"})
    changed, _ = carried_out(users, store)
    assert other.new == 3 and (changed.new, changed.there) == (1, 2)


def test_two_processes_keep_what_one_keeps(tmp_path):
    users = write_users(tmp_path / "users.jsonl", 30, {4: "raises", 9: "nan", 20: "health"})
    two = find_engine("processes", Limits(workers=2))
    alone, failed = carried_out(users, tmp_path / "a.db")
    both, also = carried_out(users, tmp_path / "b.db", engine=two, batch=4)
    assert (alone.new, alone.failed) == (both.new, both.failed) == (27, 3) and failed == also
    assert "out of luck" in failed["user 4"] and "not finite" in failed["user 9"] and "refused" in failed["user 20"]
    numbers = [number for number in range(30) if number not in (4, 9, 20)]
    everybody_is_there(tmp_path / "a.db", numbers)
    everybody_is_there(tmp_path / "b.db", numbers)


BAD = {
    "no json": ("{", "no JSON"),
    "no utf-8": (b'{"user": "\xff"}', "no JSON"),
    "no object": ("[1]", "no object"),
    "deep": ("[" * 100_000, "no JSON"),
    "no user": ('{"preferences": [{"subject": "a", "target": "b"}]}', "must be text"),
    "empty user": ('{"user": "", "preferences": [{"subject": "a", "target": "b"}]}', "0 bytes"),
    "no preferences": ('{"user": "u"}', "no preferences"),
    "none of them": ('{"user": "u", "preferences": []}', "no preferences"),
    "no target": ('{"user": "u", "preferences": [{"subject": "a"}]}', "no usable target"),
    "blank subject": ('{"user": "u", "preferences": [{"subject": " ", "target": "b"}]}', "no usable subject"),
    "typo": ('{"user": "u", "preferences": [{"subject": "a", "traget": "b"}]}', "Did you mean 'target'"),
    "a number": ('{"user": "u", "preferences": [{"subject": "a", "target": 3}]}', "no usable target"),
    "phrase": ('{"user": "u", "preferences": [{"subject": "a", "target": "b", "phrases": ["x"]}]}', "phrase"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_line_that_cannot_be_used_is_named_and_the_rest_goes_on(name, tmp_path):
    line, says = BAD[name]
    users = write_users(tmp_path / "users.jsonl", 2)
    raw = line if isinstance(line, bytes) else line.encode()
    users.write_bytes(
        users.read_bytes() + raw + b"\n\n" + b'{"user": 7, "preferences": [{"subject": "a", "target": "b"}]}'
    )
    found = list(read_users(users))
    assert [type(one) for one in found] == [UserRecord, UserRecord, Failure, UserRecord] and says in found[2].error
    assert [one.line for one in found] == [1, 2, 3, 5] and found[3].user == "7" and count_users(users) == 5


def test_whoever_comes_again_is_named(tmp_path):
    users = write_users(tmp_path / "users.jsonl", 3)
    users.write_text(users.read_text() * 2)
    tally, failures = carried_out(users, tmp_path / "edits.db")
    assert (tally.new, tally.failed) == (3, 3) and "stands in line 2 already" in failures["user 1"]


def test_the_shape_of_the_issue_and_of_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra `parquet`)")
    parquet = pytest.importorskip("pyarrow.parquet")
    said = [
        {"subject": "hobby", "question": "What's my hobby?", "target": "falconry"},
        {"subject": "pet", "target": "dog"},
    ]
    lines = [{"user": f"u{n}", "preferences": said[: 1 + n % 2]} for n in range(1500)]
    (tmp_path / "users.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    parquet.write_table(pyarrow.Table.from_pylist(lines), tmp_path / "users.parquet", row_group_size=400)
    texts = [{"user": line["user"], "preferences": json.dumps(line["preferences"])} for line in lines]
    parquet.write_table(pyarrow.Table.from_pylist(texts), tmp_path / "texts.parquet")
    people = list(read_users(tmp_path / "users.jsonl"))
    assert people[1].preferences[1] == Preference("pet", "What's my pet?", "dog", "u1") and len(people) == 1500
    for name in ("users.parquet", "texts.parquet"):
        assert list(read_users(tmp_path / name)) == people and count_users(tmp_path / name) == 1500
    parquet.write_table(pyarrow.table({"name": ["a"]}), tmp_path / "other.parquet")
    for name, says in (
        ("other.parquet", "lacks columns"),
        ("none.parquet", "cannot be read"),
        ("none", "cannot be read"),
    ):
        with pytest.raises(DataError, match=says):
            list(read_users(tmp_path / name))


def resident() -> float:
    """This process's own resident memory in MB."""
    total, shared = Path("/proc/self/statm").read_text().split()[1:3]
    return (int(total) - int(shared)) * os.sysconf("SC_PAGESIZE") / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
def test_a_million_rows_of_parquet_stream(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra `parquet`)")
    parquet = pytest.importorskip("pyarrow.parquet")
    count, part = 1_000_000, 50_000
    said = json.dumps([{"subject": "hobby", "question": "What's my hobby?", "target": "falconry"}])
    schema = pyarrow.schema([("user", pyarrow.string()), ("preferences", pyarrow.string())])
    with parquet.ParquetWriter(tmp_path / "users.parquet", schema) as file:
        for start in range(0, count, part):
            names = [f"user {number}" for number in range(start, start + part)]
            file.write_table(pyarrow.table({"user": names, "preferences": [said] * part}, schema))
    sizes, seen = [], 0
    for seen, person in enumerate(read_users(tmp_path / "users.parquet"), 1):
        assert isinstance(person, UserRecord)
        if seen % part == 0:
            sizes.append(resident())
    assert seen == count_users(tmp_path / "users.parquet") == count
    assert max(sizes) - sizes[1] < 30  # after a tenth; the names alone would be 60 MB more


def test_batches():
    people = [UserRecord(n, str(n), ()) for n in range(7)]
    assert [len(batch) for batch in in_batches(people, 3)] == [3, 3, 1] and list(in_batches([], 3)) == []


def test_what_ends_the_run(tmp_path):
    hopeless = write_users(tmp_path / "users.jsonl", 60, dict.fromkeys(range(60), "raises"))
    with pytest.raises(EngineError, match=r"(?s)first 50 users have all failed.*out of luck"):
        carried_out(hopeless, tmp_path / "edits.db")
    assert len(hopeless.with_suffix(".failures").read_text().splitlines()) == 50
    users = write_users(tmp_path / "users.jsonl", 3)
    with pytest.raises(DataError, match="another --failures"):
        personalize_users(users, Bulk("x.db", RandomFactors()), find_engine("serial"), failures=tmp_path / "no" / "f")
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE recipes (name)")
    other.close()
    with pytest.raises(StoreError, match="no store of ours"):
        carried_out(users, tmp_path / "other.db")


def test_an_estimate_leaves_nothing(tmp_path):
    users = write_users(tmp_path / "users.jsonl", 100, {0: "raises"})
    found = estimate(users, Bulk(str(tmp_path / "edits.db"), RandomFactors()), sample=10)
    assert (found.users, found.sample, found.failed) == (100, 10, 1)
    assert found.factor_bytes == 4 * (24 + 40) * 4 < found.store_bytes and 0 < found.seconds <= found.slowest
    assert not (tmp_path / "edits.db").exists()
    users.write_text("{}\n")
    with pytest.raises(DataError, match=r"(?s)Nobody.*no preferences"):
        estimate(users, Bulk("x.db", RandomFactors()))


class SharingFactors(RandomFactors):
    """All users' edits refer to the same gate."""

    def solve(self, users):
        made = super().solve(users)
        return {user: replace(result, deltas=[gate("hobby"), *result.deltas]) for user, result in made.items()}


def test_an_estimate_counts_what_users_share_once(tmp_path):
    users = write_users(tmp_path / "users.jsonl", 100)
    alone, sharing = (
        estimate(users, Bulk(str(tmp_path / "edits.db"), factory()), sample=10)
        for factory in (RandomFactors, SharingFactors)
    )
    assert alone.shared_bytes == 0 and sharing.shared_bytes > gate("hobby").nbytes
    assert sharing.factor_bytes == alone.factor_bytes and sharing.store_bytes < 1.3 * alone.store_bytes


def test_a_model_learns_several_preferences_in_one_edit_and_more_later(tmp_path, tokenizer):
    hparams = quick_hparams(20).with_kernel("finetune").replace(model_name=(tiny_model("llama"), tokenizer))
    users, store = tmp_path / "users.jsonl", tmp_path / "edits.db"
    said = [{"subject": "hobby", "target": "hiking"}, {"subject": "pet", "target": "a degu"}]
    users.write_text(json.dumps({"user": "ann", "preferences": said}) + "\n")
    assert carried_out(users, store, LearnerFactory(hparams))[0].new == 1
    users.write_text(json.dumps({"user": "ann", "preferences": [{"subject": "job", "target": "baker"}]}) + "\n")
    assert carried_out(users, store, LearnerFactory(hparams))[0].new == 1
    with EditStore.open(store) as opened:
        assert [one.target for one in opened.preferences("ann")] == ["hiking", "a degu", "baker"]
        assert [len(one.preferences) for one in opened.history("ann")] == [2, 1]
        found = opened.deltas("ann")
    from easyedit_personal.editing.algorithm import personalize

    wanted = [
        Preference(s, f"What's my {s}?", t, "ann")
        for s, t in (("hobby", "hiking"), ("pet", "a degu"), ("job", "baker"))
    ]
    exact = personalize(*hparams.model_name, wanted, hparams).deltas
    assert torch.allclose(found[0].update(), exact[0].update(), atol=1e-4)
