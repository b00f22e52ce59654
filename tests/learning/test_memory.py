"""What goes into weights and what into words, and what becomes of earlier values, by the learner of all doors."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.editing.self_test import Reply, SelfTest, questions
from easyedit_personal.errors import HealthError
from easyedit_personal.learning import trial as module
from easyedit_personal.learning.learner import Learner
from easyedit_personal.learning.session import learn_once
from easyedit_personal.learning.trial import KEPT_ANYWAY, PASSED
from easyedit_personal.store import EditStore
from easyedit_personal.store.records import StoredEdit
from easyedit_personal.types import Preference
from tests.editing.test_editor import settings
from tests.tiny import tiny_model, tiny_tokenizer


def told(subject, target):
    return Preference(subject, f"What is my {subject}?", target, "ann", f"my {subject} is {target}")


HOBBY, PET, JOB = told("hobby", "chess"), told("pet", "a cat"), told("job", "baker")
STYLE, OLIVES = told("answer style", "short"), told("disliked food", "olives")


@pytest.fixture
def learner(tmp_path):
    """One whose self-test fails for the targets in ``learner.failing``."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    hparams = settings(model, tokenizer, strategy="joint", finetune={"lr": 0.02, "steps": 2}, health={})
    with EditStore.open(tmp_path / "edits.db", model, tokenizer) as store:
        made = Learner(model, tokenizer, store, hparams)
        made.failing = set()
        yield made


@pytest.fixture(autouse=True)
def tested(learner, monkeypatch):
    def replies(model, tokenizer, preferences, hparams, old, new):
        return ["?"] * len(preferences), [
            SelfTest(
                tuple(
                    Reply(asks, question, "?", (asks != "something else") and one.target not in learner.failing)
                    for asks, question in questions(one)
                )
            )
            for one in preferences
        ]

    monkeypatch.setattr(module, "run_self_tests", replies)


def memory(learner):
    return [(one.preference.target, one.where) for one in learner.store.history("ann") if one.live]


def test_kinds_that_no_edit_carries_go_to_words_without_one(learner, monkeypatch):
    monkeypatch.setattr(learner._solver, "solved", None)  # nothing is edited
    style = learner.learn("ann", STYLE, key="k")
    assert (style.where, style.before, style.nbytes) == ("words", "", 0) and "how to answer" in style.why
    assert learner.learn("ann", STYLE, key="k").edit == style.edit
    assert memory(learner) == [("short", "words")]


def test_an_edit_that_fails_its_self_test_is_not_kept_but_its_words_are(learner):
    passed = learner.learn("ann", HOBBY)
    assert (passed.where, passed.why) == ("weights", PASSED) and passed.test.replies[0].asks == "named"
    learner.failing = {"a cat", "chess"}
    failed = learner.learn("ann", PET)
    assert failed.where == "words" and "does not say it" in failed.why
    kept = learner.learn("ben", PET, keep=True)
    assert (kept.where, kept.why) == ("weights", KEPT_ANYWAY)
    assert memory(learner) == [("chess", "weights"), ("a cat", "words")]


def test_of_several_together_only_those_that_fail_go_to_words(learner):
    learner.failing = {"a cat"}
    job, pet, hobby, style = learner.learn_together("ann", [JOB, PET, HOBBY, STYLE], key="k")
    assert [one.where for one in (job, pet, hobby, style)] == ["weights", "words", "weights", "words"]
    assert job.edit == hobby.edit and len({job.edit, pet.edit, style.edit}) == 3
    assert [one.preference for one in learner.learn_together("ann", [JOB, HOBBY], key="k")] == [JOB, HOBBY]


def test_damage_is_kept_in_words_too_unless_edits_are_to_be_kept(learner, monkeypatch):
    def sick(*_):
        raise HealthError("The edit was refused: perplexity_ratio is 9")

    monkeypatch.setattr(learner._solver, "solved", sick)
    assert "perplexity_ratio is 9" in learner.learn("ann", HOBBY).why
    with pytest.raises(HealthError):
        learner.learn("ann", HOBBY, keep=True)


def test_words_take_the_place_of_an_edit_and_what_was_learned_after_it_is_solved_without_it(learner):
    learner.learn("ann", HOBBY)
    learner.learn("ann", JOB)
    learner.failing = {"golf"}
    golf = learner.learn("ann", told("hobby", "golf"))
    assert golf.where == "words" and golf.overruled == (HOBBY,)
    assert memory(learner) == [("baker", "weights"), ("golf", "words")]
    learner.learn("ben", JOB)
    mine, other = (sum(delta.update() for delta in learner.store.deltas(user)) for user in ("ann", "ben"))
    torch.testing.assert_close(mine, other)


def test_an_edit_that_holds_more_keeps_the_rest(learner):
    learner.learn_together("ann", [HOBBY, JOB])
    learner.failing = {"golf"}
    learner.learn("ann", told("hobby", "golf"))
    assert memory(learner) == [("baker", "weights"), ("golf", "words")]


def test_a_newer_value_in_the_weights_hides_the_words_until_it_is_undone(learner):
    learner.failing = {"chess"}
    learner.learn("ann", HOBBY)
    golf = learner.learn("ann", told("hobby", "golf"))
    assert [one.target for one in golf.overruled] == ["chess"] and learner.store.words("ann") == []
    learner.unlearn("ann")
    assert [one.target for one in learner.store.words("ann")] == ["chess"]


def test_undoing_leaves_words_as_they_are(learner):
    first = learner.learn("ann", HOBBY)
    learner.learn("ann", OLIVES)
    learner.learn("ann", JOB)
    learner.unlearn("ann", first.edit)
    assert sorted(memory(learner)) == [("baker", "weights"), ("olives", "words")]


def test_the_same_fact_is_one_entry_and_values_that_must_not_be_lost_are_added(learner):
    for preference in (HOBBY, STYLE):
        (first,) = learn_once(learner, "ann", [preference])
        (again,) = learn_once(learner, "ann", [preference], key="another door")
        assert isinstance(again, StoredEdit) and again.id == first.edit
    nuts, eggs = told("allergy", "nuts"), told("allergy", "eggs")
    learn_once(learner, "ann", [nuts])
    (both,) = learn_once(learner, "ann", [eggs])
    assert both.preference.target == "nuts and eggs" and both.overruled == (nuts,)
    (known,) = learn_once(learner, "ann", [eggs])
    assert isinstance(known, StoredEdit) and known.id == both.edit
    (replaced,) = learn_once(learner, "ann", [eggs], settled=True)
    assert replaced.preference.target == "eggs"


def test_undoing_words_brings_back_the_edit_that_gave_way_to_them(learner):
    first = learner.learn("ann", HOBBY)
    before = learner.store.deltas("ann")
    learner.failing = {"golf"}
    learner.learn("ann", told("hobby", "golf"))
    assert learner.store.deltas("ann") == []
    learner.unlearn("ann")
    assert memory(learner) == [("chess", "weights")] and learner.store.history("ann")[0].id == first.edit
    for mine, was in zip(learner.store.deltas("ann"), before, strict=True):
        assert torch.equal(mine.update(), was.update())


def test_what_was_solved_again_for_the_words_goes_with_them(learner):
    learner.learn("ann", HOBBY)
    learner.learn("ann", JOB)
    before = sum(delta.update() for delta in learner.store.deltas("ann"))
    learner.failing = {"golf"}
    golf = learner.learn("ann", told("hobby", "golf"))
    learner.unlearn("ann", golf.edit)
    assert memory(learner) == [("chess", "weights"), ("baker", "weights")]
    assert torch.equal(sum(delta.update() for delta in learner.store.deltas("ann")), before)


def test_nothing_comes_back_that_later_edits_were_not_made_for(learner):
    learner.learn("ann", HOBBY)
    learner.learn("ann", JOB)
    learner.failing = {"golf"}
    golf = learner.learn("ann", told("hobby", "golf"))
    learner.learn("ann", PET)
    learner.unlearn("ann", golf.edit)
    assert sorted(memory(learner)) == [("a cat", "weights"), ("baker", "weights")]
