"""Preferences learned one after another, and one of them taken back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from easyedit_personal.errors import StoreError, StoreOvertaken
from easyedit_personal.learning.learner import Learner
from easyedit_personal.progress import Meter, metered
from easyedit_personal.store import EditStore
from easyedit_personal.types import Preference
from tests.editing.test_editor import settings
from tests.tiny import tiny_model, tiny_tokenizer

SAID = [Preference(name, f"What is my {name}?", value) for name, value in (("job", "a"), ("pet", "b"), ("sport", "c"))]


@pytest.fixture
def learner(tmp_path):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    hparams = settings(model, tokenizer, strategy="joint", finetune={"lr": 0.02, "steps": 3})
    with EditStore.open(tmp_path / "edits.db", model, tokenizer) as store:
        yield Learner(model, tokenizer, store, hparams)


def update(deltas):
    """The sum of the updates of the one edited matrix."""
    assert len({delta.layer for delta in deltas}) == 1
    return sum(delta.update() for delta in deltas)


def test_what_was_learned_after_it_is_solved_again_in_one_step(learner):
    first, second, third = (learner.learn("ann", one).edit for one in SAID)
    versions = []
    write = learner.store.supersede
    learner.store.supersede = lambda *args: versions.append(learner.store.version("ann")) or write(*args)
    (undone,) = learner.unlearn("ann", second)
    assert undone.id == second and not undone.live and versions == [third]
    assert next(one.id for one in learner.store.history("ann") if one.live) == first
    assert [one.target for one in learner.store.preferences("ann")] == ["a", "c"]
    others = [SAID[0], SAID[2]]
    for one in others:
        learner.learn("ben", one)
    torch.testing.assert_close(update(learner.store.deltas("ann")), update(learner.store.deltas("ben")))


def test_nothing_is_lost_if_the_store_fails_or_somebody_else_is_quicker(learner, monkeypatch):
    for one in SAID:
        learner.learn("ann", one)
    first, *_ = before = learner.store.history("ann")
    with monkeypatch.context() as patched:
        patched.setattr(
            "easyedit_personal.store.entries.add_edit", lambda *_: (_ for _ in ()).throw(StoreError("full"))
        )
        with pytest.raises(StoreError, match="full"):
            learner.unlearn("ann", first.id)
    assert learner.store.history("ann") == before
    solve = learner._solver.solved

    def overtaken(*args):
        learner.store.undo("ann")
        return solve(*args)

    monkeypatch.setattr(learner._solver, "solved", overtaken)
    learner.unlearn("ann", first.id)  # two solves, two undone by the other; then once more
    assert not any(one.live for one in learner.store.history("ann"))


def test_who_is_overtaken_again_and_again_is_told_so(learner, monkeypatch):
    solve = learner._solver.solved

    def overtaken(*args):
        learner.store.put("ann", solve(*args).deltas)
        return solve(*args)

    monkeypatch.setattr(learner._solver, "solved", overtaken)
    with pytest.raises(StoreOvertaken, match="changed meanwhile"):
        learner.learn("ann", SAID[0])
    assert len(learner.store.history("ann")) == 3 and learner.store.preferences("ann") == []


def test_what_is_learned_while_others_change_the_user_is_learned_on_top_of_that(learner, monkeypatch):
    first, solve = learner.learn("ann", SAID[0]), learner._solver.solved

    def late(*args):
        monkeypatch.setattr(learner._solver, "solved", solve)
        result = solve(*args)
        learner.unlearn("ann", first.edit)
        return result

    monkeypatch.setattr(learner._solver, "solved", late)
    learner.learn("ann", SAID[1])
    learner.learn("ben", SAID[1])
    torch.testing.assert_close(update(learner.store.deltas("ann")), update(learner.store.deltas("ben")))


def test_the_last_edit_is_undone_while_something_is_learned(learner):
    edit = learner.learn("ann", SAID[0]).edit
    with learner._lock, ThreadPoolExecutor(1) as pool:
        (undone,) = pool.submit(learner.unlearn, "ann").result(20)
    assert undone.id == edit and learner.store.deltas("ann") == []


def test_how_far_it_is_is_told_and_who_hears_it_may_end_it(learner):
    shares = []
    with metered(Meter(shares.append)):
        learner.learn("ann", SAID[0])
    assert shares == sorted(shares) and shares[0] >= 0 and 0.5 < shares[-1] <= 1 and len(shares) >= 3

    def enough(share):
        raise InterruptedError

    before = {name: value.clone() for name, value in learner._model.state_dict().items()}
    with pytest.raises(InterruptedError), metered(Meter(enough)):
        learner.learn("ann", SAID[1])
    assert len(learner.store.history("ann")) == 1
    assert all(torch.equal(value, before[name]) for name, value in learner._model.state_dict().items())
