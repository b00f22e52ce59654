"""Values in the making: what a step sees of each, what it costs, when one is done, who is learned together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels import user_value as module
from easyedit_personal.kernels.factors import Factors, Space
from easyedit_personal.kernels.kinds import Kind, Phrase
from easyedit_personal.kernels.user_value import (
    STEADY,
    _each,
    _packs,
    _Seen,
    _Together,
    _Value,
    learn_values,
    unsteady,
)
from easyedit_personal.modeling.tokens import Encoded
from easyedit_personal.types import EditRequest

OWN = [EditRequest("Who sits on my sofa?", "a cat"), EditRequest("What's my pet?", "a cat", "pet")]
PLAIN, SOFA = Phrase("What's my pet?", "name"), Phrase("Who sits on my sofa?", "implicit")
WANTED = SimpleNamespace(value="a cat", kind=Kind("pet", "pet", ()), requests=OWN, gate=None)


def spoken(*lengths):
    """Answers of so many tokens."""
    return [SimpleNamespace(row=Encoded((5,), (7,) * length, 0)) for length in lengths]


def settings(**natural):
    return PersonalizationHyperParams(layers=[1], natural=natural)


@pytest.fixture
def value(monkeypatch):
    """A value with so many phrases; what it is made of is given."""

    def make(count, first=0, seed=0):
        rows = SimpleNamespace(select=lambda numbers: list(numbers), ids=torch.zeros(1))
        monkeypatch.setattr(
            module, "words_and_learned", lambda mine, spoken, own: (torch.tensor([3, 5, 9]), (mine, own), None)
        )
        monkeypatch.setattr(module, "first_factors", lambda mine, *_: {1: "update"})
        monkeypatch.setattr(module, "learned_roles", lambda spoken, learned, device: (len(spoken), learned))
        monkeypatch.setattr(module, "target_gradients", lambda rows, roles, words: (rows, roles, words.tolist()))
        monkeypatch.setattr(module, "own_and_known_starts", lambda mine, spoken, gate: {})
        monkeypatch.setattr(module, "quiet_forms", lambda wanted, ground, gradients, again, _: [gradients, again])
        return _Value(WANTED, spoken(*[1] * count), rows, first, "again", None, settings().replace(seed=seed))

    return make


def test_a_step_sees_half_of_a_values_phrases_and_the_next_one_the_others(value):
    made = value(7, first=20)
    assert made.learned == (list(range(20, 27)), [PLAIN, SOFA])  # its rows among all, and the user's own phrases
    assert made.quiet == [([made.learned[0]], (7, made.learned), [3, 5, 9]), "again"]  # also where its words would rise
    assert sorted(made.part(0) + made.part(1)) == list(range(7)) and made.part(2) == made.part(0)
    assert [len(made.part(step)) for step in range(2)] == [4, 3]
    assert all(part == sorted(part) for part in made.parts) and made.worst == [float("inf")] * 2
    assert value(7, seed=1).parts != made.parts


def test_a_single_phrase_is_seen_at_every_step(value):
    made = value(1)
    assert made.part(0) == made.part(1) == [0] and len(made.worst) == 1


def test_a_value_costs_its_tokens_but_those_said_anyway_and_what_is_heard_elsewhere(value):
    made = value(4)
    made.hparams = settings(value_quiet_weight=0.5)
    made.updates = {1: 2.0, 2: 4.0}
    made.quiet = [(1.0, lambda update: torch.tensor(update), 1), (10.0, lambda update: torch.tensor(update), 2)]
    ids = torch.tensor([5, 3, 9, 9])  # words are 3, 5, 9
    nats = torch.tensor([0.25, 0.015, 2.0, 0.021])
    logits = torch.full((4, 3), -60.0)
    for place, (number, cost) in enumerate(zip((1, 0, 2, 2), nats)):
        logits[place, number], logits[place, (number + 1) % 3] = 0.0, cost.exp().sub(1).log()
    found = made.loss(5, logits, ids)
    answers = 2  # of the step; four tokens each count whole, however long the values
    assert float(found) == pytest.approx(
        (0.25 + 2.0 + 0.021) / (4 * answers) + 0.5 * (1.0 * 2.0 + 10.0 * 4.0), rel=1e-4
    )
    assert made.worst == [float("inf"), pytest.approx(2.0, rel=1e-4)]


def test_an_update_is_steady_where_it_adds_the_same_wherever_the_value_begins(value):
    update = Factors(Space(None, 2.0), torch.tensor([[3.0], [4.0]]), torch.tensor([[1.0, 0.0]]))
    own, same = torch.tensor([[0.5, 7.0], [1.5, 0.0]]), torch.tensor([[1.0, -3.0]])
    silent = torch.tensor([[0.0, 9.0]])
    assert float(unsteady(update, own, same)) == pytest.approx(0.0)
    assert float(unsteady(update, own, silent)) == pytest.approx(1.0)
    assert float(unsteady(update, own, torch.cat([same, silent]))) == pytest.approx(0.5)
    nothing = Factors(Space(None, 2.0), torch.zeros(2, 1), torch.tensor([[1.0, 0.0]]))
    assert float(unsteady(nothing, own, silent)) == 0.0  # before the first step
    made = value(4)
    made.hparams, made.updates, made.quiet = settings(), {1: update}, []
    made.starts = {1: (own, silent)}
    logits = torch.tensor([[60.0, 0.0, 0.0]])
    assert float(made.loss(0, logits, torch.tensor([3]))) == pytest.approx(STEADY, abs=1e-4)


class Learner:
    """What ``_Together`` takes for a value."""

    def __init__(self, *worst, first=0, parts=((0,), (1,)), learned=((True,), (True,))):
        self.worst, self.first, self.parts, self.learned = list(worst), first, parts, learned
        self.updates, self.wanted = {1: None}, WANTED

    def part(self, step):
        return self.parts[step % len(self.parts)]


def test_a_value_is_done_once_all_of_its_tokens_cost_less_than_the_threshold():
    values = [Learner(0.1, 0.5), Learner(0.1, 0.49), Learner(0.6, 0.1)]
    together = _Together(None, values, settings(stop_loss=0.5))
    together._seen[0] = "of three"
    assert not together._all_done() and together.open == [values[0], values[2]] and not together._seen
    together._seen[0] = "of two"
    assert not together._all_done() and together._seen == {0: "of two"}  # nobody left: what is seen stays the same
    values[0].worst[1] = values[2].worst[0] = 0.0
    assert together._all_done() and together.open == []


def test_what_was_not_learned_is_told_with_what_it_costs(monkeypatch, caplog):
    given = []
    monkeypatch.setattr(module, "adam", lambda *args: given.append(args))
    values = [Learner(0.1, 1.04), Learner(1.0, 0.3)]
    _Together(None, values, settings(value_steps=9, value_lr=0.5)).learn()
    assert [record.getMessage() for record in caplog.records] == [
        "'a cat' was not fully learned as pet: 1.0 nats at its dearest token"
    ]
    ((updates, _, *rest),) = given
    assert updates == [None, None] and rest[:3] == [9, 0.5, 0.05]


class Rows:
    """Rows with so many answer tokens each; the tokens are numbered."""

    def __init__(self, lengths, ids=None):
        self.lengths, self.layers = lengths, [1]
        self.rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
        self.columns = torch.arange(len(self.rows)) + 100
        self.ids = torch.arange(len(self.rows)) if ids is None else ids

    def select(self, numbers):
        ids = torch.cat([self.ids[self.rows == n] for n in numbers])
        return Rows([self.lengths[n] for n in numbers], ids)


def test_a_step_sees_the_learned_places_of_the_rows_whose_turn_it_is():
    rows = Rows([2, 1, 3, 2])
    one = Learner(1.0, first=0, learned=((False, True), (True,)))
    other = Learner(1.0, first=2, learned=((True, False, True), (False, True)))
    seen = _Seen.of(rows, [one, other], 2)  # as step 0: the first phrase of each
    assert seen.rows.lengths == [2, 3] and seen.rows_of == [1, 1]
    assert [ids.tolist() for ids in seen.ids] == [[1], [3, 5]]
    assert [index.tolist() for index in seen.at] == [[0, 1, 1], [101, 102, 104]]
    second = _Seen.of(rows, [one, other], 1)
    assert second.rows.lengths == [1, 2] and [ids.tolist() for ids in second.ids] == [[2], [7]]


def test_steps_find_again_what_the_same_turn_saw_and_pass_on_every_values_own(monkeypatch):
    made, passed = [], []
    own = [Learner(1.0), Learner(2.0)]
    for number, learner in enumerate(own):
        learner.words, learner.updates = f"words {number}", {1: f"update {number}"}
        learner.loss = lambda step, part, ids, number=number: torch.tensor(float(step + part + ids[0] + 100 * number))

    class Some:
        def logits_by_part(self, changes, at, counts, words):
            passed.append((changes[1].args, at, counts, words))
            return [10, 20]

    def of(rows, values, step):
        made.append(step)
        return _Seen(Some(), [1, 2], "places", [torch.tensor([1 + 1000 * step, 1]), torch.tensor([2])])

    monkeypatch.setattr(_Seen, "of", of)
    together = _Together(Rows([1]), own, settings())
    for step in range(5):
        assert float(together._loss(step)) == 133 + 2 * step + 1000 * (step % 2)
    assert made == [0, 1]
    assert passed[0] == ((["update 0", "update 1"], [1, 2]), "places", [2, 1], ["words 0", "words 1"])


def test_every_update_adds_to_its_own_rows():
    updates = [Factors(Space(None), torch.randn(2, 1), torch.randn(1, 3)) for _ in range(2)]
    keys = torch.randn(5, 4, 3)
    torch.testing.assert_close(_each(updates, [2, 3], keys), torch.cat([updates[0](keys[:2]), updates[1](keys[2:])]))


def test_values_of_like_length_are_learned_together_until_a_step_sees_enough():
    """A step sees half of the rows; each is as wide as the longest answer and one token more."""
    values = [spoken(4, 2), spoken(1, 1), spoken(4, 4), spoken(2, 1), spoken(9, 1)]
    assert list(_packs(values, 1000)) == [[1, 3, 0, 2, 4]]
    assert list(_packs(values, 6)) == [[1, 3], [0, 2], [4]]  # 2 x 3 tokens are enough, 1 x 5 are not
    assert list(_packs(values, 7)) == [[1, 3, 0], [2, 4]]
    assert list(_packs([spoken(1, 1, 1)], 2)) == list(_packs([spoken(1, 1, 1)], 99)) == [[0]]
    assert list(_packs([], 5)) == []


def test_every_value_gets_its_own_rows_gate_and_result(monkeypatch):
    made, gates = [], [SimpleNamespace(factors=f"gate {n}") for n in range(3)]
    lengths = [(3, 3), (1,), (2, 2, 2)]
    wanted = [SimpleNamespace(number=n, gate=gate) for n, gate in enumerate(gates)]
    monkeypatch.setattr(module, "chosen", lambda model, tokenizer, one, hparams: spoken(*lengths[one.number]))
    monkeypatch.setattr(module, "input_device", lambda model: torch.device("cpu"))
    monkeypatch.setattr(module, "Carried", lambda updates: list(updates))

    def rows(model, tokenizer, layout, encoded, layers, **options):
        made.append((len(encoded), options))
        return "rows"

    def value(one, some, rows, first, again, ground, hparams):
        made.append((one.number, len(some), first, again))
        return SimpleNamespace(updates=f"updates {one.number}")

    monkeypatch.setattr(module, "again_keys", lambda *given: f"again {given[3].number}")
    monkeypatch.setattr(module, "EditedRows", rows)
    monkeypatch.setattr(module, "_Value", value)
    monkeypatch.setattr(
        module, "_Together", lambda rows, values, hparams: SimpleNamespace(learn=lambda: made.append("learn"))
    )
    assert learn_values(None, None, None, wanted, None, settings()) == [f"updates {n}" for n in range(3)]
    gates_of_rows = ["gate 1", *["gate 2"] * 3, *["gate 0"] * 2]
    assert made[0] == (6, {"from_answers": True, "carried": gates_of_rows})
    assert made[1:] == [(1, 1, 0, "again 1"), (2, 3, 1, "again 2"), (0, 2, 4, "again 0"), "learn"]
