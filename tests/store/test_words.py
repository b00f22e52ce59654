"""What is kept in words: beside the edits, encrypted, undone, compacted past, exported and forgotten like them."""

from __future__ import annotations

import json

import pytest

from easyedit_personal.errors import StoreError
from easyedit_personal.store import EditStore, Encryption
from easyedit_personal.store.records import WORDS, came_back
from tests.store.samples import edit, preference

SAID = "an unmistakable dislike of olives"


@pytest.fixture(params=["clear", "encrypted", "factors elsewhere"])
def store(request, tmp_path):
    """A store of each sort."""
    encryption = Encryption([bytes(range(32))]) if request.param != "clear" else None
    factors = str(tmp_path / "factors") if request.param == "factors elsewhere" else None
    with EditStore.open(tmp_path / "edits.db", encryption=encryption, factors=factors) as opened:
        yield opened


def words(store, name, user="ann", **more):
    said = preference(name, user=user)
    return store.put(user, (), preference=said, kernel=WORDS, why=SAID, **more)


def test_words_stand_beside_edits_and_add_nothing_to_the_weights(store):
    first = store.put("ann", edit("a"), preference=preference("a", user="ann"), why="its self-test was passed")
    second = words(store, "b", key="k")
    assert words(store, "b", key="k") == second
    weights, told = store.history("ann")
    assert (weights.where, told.where) == ("weights", "words") and (told.why, told.nbytes) == (SAID, 0)
    assert [one.target for one in store.words("ann")] == [preference("b").target]
    assert [one.target for one in store.preferences("ann", where="weights")] == [preference("a").target]
    assert len(store.deltas("ann")) == len(edit("a")) and set(store.parts("ann")) == {first}
    assert store.stats()["words"] == 1 and store.verify() == []
    assert [one.id for one in store.undo("ann")] == [second] and store.words("ann") == []


def test_an_edit_gives_way_to_words_in_one_step(store):
    first = store.put("ann", edit("a"), preference=preference("a", user="ann"))
    words(store, "a", instead=[first, 99])
    assert [one.live for one in store.history("ann")] == [False, True] and store.deltas("ann") == []


def test_compacting_leaves_words_alone(store):
    for name in "ac":
        store.put("ann", edit(name), preference=preference(name, user="ann"))
    number = words(store, "b")
    report = store.compact("ann", 4)
    assert number not in report.merged and len(report.merged) == 2
    assert len(store.words("ann")) == 1 and len(store.preferences("ann")) == 3 and store.verify() == []


def test_the_person_gets_them_and_can_have_them_forgotten(store, tmp_path):
    words(store, "b")
    record = json.loads((store.export_all("ann", tmp_path / "out") / "everything.json").read_text())
    assert (record["edits"][0]["where"], record["edits"][0]["why"]) == ("words", SAID)
    assert record["edits"][0]["factors"] is None
    with pytest.raises(StoreError):
        store.export_lora("ann", tmp_path / "lora")
    assert store.forget("ann") == 1 and store.history("ann") == store.words("ann") == []
    held = b"".join(path.read_bytes() for path in tmp_path.glob("edits.db*"))
    assert SAID.encode() not in held and preference("b").target.encode() not in held


def test_no_factors_are_an_error_for_anything_else(store):
    with pytest.raises(StoreError, match="nothing to keep"):
        store.put("ann", (), preference=preference("a"))


def test_an_undo_of_words_brings_back_what_gave_way_to_them(store):
    first = store.put("ann", edit("a"), preference=preference("a", user="ann"))
    held = store.deltas("ann")
    number = words(store, "b", instead=[first, 99])
    [undone] = store.undo("ann")
    assert (undone.id, undone.instead) == (number, (first, 99))
    assert [one.id for one in came_back(store.history("ann"), [undone])] == [first] and store.verify() == []
    assert all((a.update() == b.update()).all() for a, b in zip(store.deltas("ann"), held, strict=True))


def test_an_undo_to_a_version_is_what_was_live_then(store):
    first = store.put("ann", edit("a"), preference=preference("a", user="ann"))
    version = store.version("ann")
    later = store.put("ann", edit("c"), preference=preference("c", user="ann"))
    words(store, "a", instead=[first, later])
    store.undo("ann", to_version=version)
    assert [one.live for one in store.history("ann")] == [True, False, False]


def test_a_value_that_a_later_one_overrules_stays_gone(store):
    first = store.put("ann", edit("a"), preference=preference("a", user="ann"))
    number = words(store, "a", instead=[first])
    store.put("ann", edit("a"), preference=preference("a", user="ann"))
    store.undo("ann", number)
    assert [one.live for one in store.history("ann")] == [False, False, True]
