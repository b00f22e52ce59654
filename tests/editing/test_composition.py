"""What a new preference adds, and that learning and evaluation compose a user's preferences alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from easyedit_personal.baselines.kernel import KernelMethod
from easyedit_personal.editing import composition
from easyedit_personal.editing.composition import add_preferences, current
from easyedit_personal.errors import HealthError
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.learning.learner import Learner
from easyedit_personal.modeling.layout import weights_digest
from easyedit_personal.store import EditStore
from easyedit_personal.store.compact import composed
from easyedit_personal.types import EditResult, Preference
from tests.evaluate.people import people, quick_hparams
from tests.serving.test_personalized import random_delta

PEOPLE = [item.preference(2) for item in people()[:2]]


def update(deltas):
    """The sum of the updates of the one edited matrix."""
    assert len({delta.layer for delta in deltas}) == 1
    return sum(delta.update() for delta in deltas)


@pytest.mark.parametrize("strategy", ["joint", "sequential"])
def test_the_evaluated_edit_is_the_one_that_users_get(strategy, llama, tokenizer, tmp_path):
    """Two preferences, one after the other: through a store and through the evaluated method, the same factors."""
    hparams = quick_hparams(5).replace(kernel="finetune", strategy=strategy, cluster={"size": 2})
    hparams = hparams.replace(health={"self_test": "skip"})
    with EditStore.open(tmp_path / "edits.db", llama, tokenizer) as store:
        learner = Learner(llama, tokenizer, store, hparams)
        for preference in PEOPLE:
            learner.learn("ann", preference)
        stored = store.deltas("ann")
    with KernelMethod("finetune", hparams).personalize(llama, tokenizer, people()[:2], 2) as session:
        assert session.refused == ()
        torch.testing.assert_close(update(session.deltas), update(stored), atol=1e-5, rtol=1e-4)


def test_joint_gives_the_difference_and_sequential_goes_on(llama, tokenizer, monkeypatch):
    hparams = quick_hparams(3).replace(kernel="finetune")
    first = add_preferences(llama, tokenizer, [], PEOPLE[:1], [], hparams).deltas
    both = add_preferences(llama, tokenizer, [], PEOPLE, [], hparams).deltas
    second = add_preferences(llama, tokenizer, PEOPLE[:1], PEOPLE[1:], first, hparams).deltas
    torch.testing.assert_close(update([*first, *second]), update(both), atol=1e-6, rtol=1e-4)
    seen = []

    def looking(model, tok, given, hparams, clean):
        seen.append((weights_digest(model), given, clean))

    monkeypatch.setattr(composition, "personalize", looking)
    add_preferences(llama, tokenizer, PEOPLE[:1], PEOPLE[1:], first, hparams, joint=False)
    with in_weights(llama, first):
        assert seen[0][:2] == (weights_digest(llama), PEOPLE[1:])
    assert seen[0][2] is llama, "held against the clean model"


def test_what_is_solved_again_takes_nothing_of_a_gate_for_the_users_own(llama, tokenizer, monkeypatch):
    """The hobby is another one: its gate is there, the pet's is new, and of the values the old one goes."""
    gates = [replace(random_delta(llama, 3, seed), shared=True) for seed in (1, 2)]
    old, new = (random_delta(llama, 2, seed).to(torch.bfloat16).to(torch.float32) for seed in (3, 4))
    monkeypatch.setattr(composition, "personalize", lambda *_: EditResult([*gates, new]))
    hparams = quick_hparams(3).replace(kernel="lowrank", answers="natural", strategy="joint")
    have = composed([gates[0], old])
    newer = Preference("pastime", "What's my pastime?", "chess")
    shared, own = add_preferences(llama, tokenizer, PEOPLE[:1], [newer], have, hparams).deltas
    assert shared is gates[1] or torch.equal(shared.left, gates[1].left)
    assert shared.shared and (own.shared, own.rank) == (False, 4) and own.nbytes == 2 * own.rank * sum(own.shape)
    torch.testing.assert_close(update([*have, shared, own]), update([*gates, new]), atol=1e-5, rtol=1e-4)
    monkeypatch.setattr(composition, "personalize", lambda *_: EditResult([gates[0], old]))
    (nothing,) = add_preferences(llama, tokenizer, PEOPLE[:1], [newer], have, hparams).deltas
    assert not nothing.update().any(), "the same again adds nothing"


def test_a_later_statement_about_the_same_matter_wins():
    later = Preference("pastime", "What's my pastime?", "chess")
    assert current([*PEOPLE, later]) == [PEOPLE[1], later]


@pytest.mark.parametrize("refuses", [0, 1])
def test_what_the_health_check_refuses_is_left_out_and_said(refuses, llama, tokenizer, monkeypatch):
    """The other preference stays; a refused one is not among what later ones are composed with."""
    hparams, calls = quick_hparams(3).replace(kernel="finetune"), []

    def adding(model, tokenizer, known, new, *rest):
        calls.append([one.subject for one in known])
        if len(calls) == refuses + 1:
            raise HealthError("The edit was refused: perplexity_ratio is 9")
        return add_preferences(model, tokenizer, known, new, *rest)

    monkeypatch.setattr("easyedit_personal.baselines.kernel.add_preferences", adding)
    method = KernelMethod("finetune", hparams)
    with method.personalize(llama, tokenizer, people()[:2], 1) as session:
        assert len(session.refused) == 1 and "perplexity_ratio" in session.refused[0]
        assert len(session.deltas) == 1 and calls == [[], [] if refuses == 0 else ["hobby"]]


def test_natural_preferences_of_other_kinds_are_not_solved_again(llama, tokenizer, monkeypatch):
    hparams = quick_hparams(3).replace(kernel="lowrank", answers="natural", strategy="joint")
    first = [random_delta(llama, 2, 1)]
    seen = []

    def looking(model, tok, given, hparams, beside=()):
        seen.append((given, beside))
        return EditResult([random_delta(llama, 1, 2)])

    monkeypatch.setattr(composition, "personalize", looking)
    alone = add_preferences(llama, tokenizer, PEOPLE[:1], PEOPLE[1:], first, hparams)
    assert seen.pop() == (PEOPLE[1:], first) and alone.deltas[0].rank == 1
    newer = Preference("pastime", "What's my pastime?", "chess")
    add_preferences(llama, tokenizer, PEOPLE, [newer], first, hparams)
    assert seen.pop() == ([PEOPLE[1], newer], ()), "the older hobby has to leave the weights"
