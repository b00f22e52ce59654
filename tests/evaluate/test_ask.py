"""From an ask to the conversation that the model sees."""

from __future__ import annotations

from types import SimpleNamespace

from easyedit_personal.evaluate import Plan
from easyedit_personal.evaluate.ask import Asked
from easyedit_personal.evaluate.evaluator import Ask

SESSION = SimpleNamespace(conversation=lambda question, turns: [*turns, question])


def heard(user, turns):
    """What stands before a question of one user, and the question."""
    case = SimpleNamespace(plan=Plan(), item=SimpleNamespace(id=user), session=SESSION)
    return Asked.of(case, Ask("multi_turn", "And now?", "falconry", turns=turns)).conversation


def test_every_user_hears_other_turns_and_the_same_ones_again():
    assert heard("user-1", 2) == heard("user-1", 2) != heard("user-2", 2)
    assert heard("user-1", 10)[:4] == heard("user-1", 2)[:-1] and len(heard("user-1", 10)) == 21
    assert heard("user-1", 0) == ["And now?"]
