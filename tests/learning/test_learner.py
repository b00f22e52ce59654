"""Preferences learned one after another, and one of them taken back."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.errors import StoreError
from easyedit_personal.learning.learner import Learner
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
    solve = learner._solved

    def overtaken(*args):
        learner.store.undo("ann")
        return solve(*args)

    monkeypatch.setattr(learner, "_solved", overtaken)
    with pytest.raises(StoreError, match="changed meanwhile"):
        learner.unlearn("ann", first.id)
    assert [one.target for one in learner.store.preferences("ann")] == ["a"]  # two solves, two undone by the other
