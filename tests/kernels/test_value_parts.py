"""What the learning of a value begins with, on rows and numbers of our own: no model is needed."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from easyedit_personal.errors import RequestError
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels import value_start as module
from easyedit_personal.kernels.ground import Ground
from easyedit_personal.kernels.kinds import Contrast, Kind, Phrase
from easyedit_personal.kernels.spoken import Spoken
from easyedit_personal.kernels.target_gradients import ELSEWHERE_WEIGHT, NEAR_WEIGHT
from easyedit_personal.kernels.value_start import (
    Wanted,
    again_keys,
    chosen,
    first_factors,
    learned_roles,
    quiet_forms,
    words_and_learned,
)
from easyedit_personal.modeling.tokens import Encoded
from easyedit_personal.types import EditRequest

PET = Kind("pet", "pet", ("pet",))
ROLES = (("say", "say", "value", "value", "value", "say"), ("say", "value", "say"), ("say", "value"))
ASKS = ("name", "implicit", "product")
LENGTHS = [len(roles) for roles in ROLES]


def spoken(roles=ROLES):
    return [
        Spoken(Encoded((5,), tuple(range(len(one))), 0), one, Phrase("?" * n, "name")) for n, one in enumerate(roles)
    ]


class Rows:
    """The answers' places; what every token costs the model that carries the gate is given."""

    layers, model, layout = (1, 2), None, None

    def __init__(self, costs=None, vocabulary=400):
        count = sum(LENGTHS)
        self.rows = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
        self.columns, self.ids = torch.arange(count), torch.arange(count) % vocabulary
        self.keys, self.outputs, self.graphs = torch.randn(count, 4), torch.randn(count, 2), []
        self.table = torch.full((count, vocabulary), -50.0)
        for place, cost in enumerate(costs or [0.0] * count):
            self.table[place, self.ids[place]] = 0.0
            self.table[place, -1] = torch.tensor(cost).exp().sub(1).clamp(min=1e-9).log()  # so that it costs this

    def logits(self):
        self.graphs.append(torch.is_grad_enabled())
        return self.table

    def found_at(self, rows, columns):
        return {1: (self.keys, self.outputs), 2: (-self.keys, self.outputs + 1)}


def test_a_beginning_of_which_a_token_costs_more_than_a_nat_is_unknown_and_learned():
    """The value's own tokens say nothing about it, nor do those of phrases that are not the user's."""
    costs = [0.5, 1.1, 9, 9, 9, 9, 0.9, 9, 9, 9, 9]
    for own, expected in ((3, (True, False, True)), (2, (True, False, False)), (0, (False, False, False))):
        learned = words_and_learned(Rows(costs), spoken(), [s.phrase for s in spoken()[:own]])[1]
        for flags, roles, unknown in zip(learned, ROLES, expected, strict=True):
            begun = roles.index("value")
            assert flags == (*[unknown] * begun, *[True] * (len(roles) - begun))
    torch.testing.assert_close(words_and_learned(Rows(costs), spoken(), ())[2], torch.tensor(costs), rtol=1e-3, atol=0)


def test_the_loss_looks_at_the_64_likeliest_words_of_every_place_and_the_answers_own():
    rows = Rows()
    rows.table = torch.randn(sum(LENGTHS), 400)
    likely = rows.table.topk(64).indices
    words, *_ = words_and_learned(rows, spoken(), ())
    assert words.tolist() == sorted({*likely.flatten().tolist(), *rows.ids.tolist()})
    few = Rows(vocabulary=12)
    assert set(words_and_learned(few, spoken(), ())[0].tolist()) == set(range(12))
    assert rows.graphs == [False]


@pytest.fixture
def still():
    """A gate and a ground whose numbers tell where they come from."""
    metric, near = torch.randn(2, 4, 4), torch.randn(2, 7, 4)
    nothing = {1: near[0][:0], 2: near[1][:0]}
    quiet = SimpleNamespace(near={1: near[0], 2: near[1]})
    gate = SimpleNamespace(quiet=quiet, starts={False: nothing, True: nothing})
    ground = SimpleNamespace(metric={1: metric[0], 2: metric[1]}, order={})
    ground.start = partial(Ground.start, ground)
    return gate, ground


COSTS = [0.0, 0.0, 9.0, 0.5, 2.0, 0.0, 0.0, 9.0, 0.0, 0.0, 9.0]  # in nats; the value's third token is the dearer one
THIRD_IS_SAID = [*COSTS[:4], 0.04, *COSTS[5:]]


@pytest.mark.parametrize(
    ("rank", "costs", "places"),
    [
        (1, COSTS, [[6], [2, 7, 10]]),
        (2, COSTS, [[6], [2, 7, 10], [4]]),
        (5, COSTS, [[6], [2, 7, 10], [3], [4]]),
        (5, THIRD_IS_SAID, [[6], [2, 7, 10], [3]]),
        (5, [0.0] * 11, [[6], [2, 7, 10]]),  # where the value begins the gate decides, whatever it costs there
    ],
)
def test_directions_are_of_the_value_s_dearest_tokens_and_of_unknown_beginnings(still, rank, costs, places):
    gate, ground = still
    hparams, rows = PersonalizationHyperParams(natural={"value_rank": rank}), Rows()
    # The second phrase's beginning is unknown; of the others, nothing before the value is learned.
    learned = [(False, False, True, True, True, True), (True, True, True), (False, True)]
    for layer, update in first_factors(rows, spoken(), learned, torch.tensor(costs), gate, ground, hparams).items():
        keys, outputs = rows.found_at(None, None)[layer]
        assert update.space.unit == pytest.approx(float(outputs.square().mean().sqrt()))
        assert update.space.metric is ground.metric[layer]
        assert torch.equal(update.left, torch.zeros(2, len(places)))
        for direction, numbers in zip(update.right, places, strict=True):
            apart = (keys[numbers].mean(0) - gate.quiet.near[layer].mean(0)) @ ground.metric[layer]
            torch.testing.assert_close(direction, apart / apart.dot(apart), atol=1e-4, rtol=1e-3)


def test_known_beginnings_have_no_direction(still):
    gate, ground = still
    learned = [(False, False, True, True, True, True), (False, True, True), (False, True)]
    hparams = PersonalizationHyperParams(natural={"value_rank": 1})
    assert len(first_factors(Rows(), spoken(), learned, torch.tensor(COSTS), gate, ground, hparams)[1].right) == 1


def test_where_the_value_comes_up_again_starts_behind_what_follows_it_and_needs_an_open_answer(monkeypatch):
    """Places are numbered by the token that they predict: the value's end and what follows it are learned."""
    asked = []

    def speak(tokenizer, phrase, kind, value, hparams, after=""):
        asked.append((phrase.text, after))
        roles = ("say", "value", "value", *["say"] * (2 + len(asked)))
        return Spoken(Encoded((5,), tuple(range(len(roles))), 0), roles, phrase)

    def rows(model, tokenizer, layout, encoded, layers, from_answers):
        columns = torch.tensor([place for row in encoded for place in range(len(row.target_ids))])
        found = lambda rows, at: {n: (10.0 * n + at[:, None], None) for n in layers}
        return SimpleNamespace(ids=columns, rows=None, columns=columns, found_at=found)

    monkeypatch.setattr(module, "speak", speak)
    monkeypatch.setattr(module, "EditedRows", rows)
    monkeypatch.setattr(module, "context_limit", lambda model: 8)
    monkeypatch.setattr(module, "input_device", lambda model: torch.device("cpu"))
    monkeypatch.setattr(module, "said_again", lambda: ("{v}, {v}", "more {v}", "never asked"))
    answers = [Spoken(Encoded((5,), (1,), 0), ("value",), Phrase(str(n), asks)) for n, asks in enumerate(ASKS)]
    hparams = PersonalizationHyperParams(layers=[1, 2])
    found = again_keys(None, None, None, Wanted(PET, "a cat", [], None), answers, hparams)
    assert asked == [("1", " a cat, a cat"), ("2", " more a cat")]
    assert {n: keys.flatten().tolist() for n, keys in found.items()} == {
        1: [14, 15, 14, 15, 16],
        2: [24, 25, 24, 25, 26],
    }
    named = again_keys(None, None, SimpleNamespace(d_mlp=6), Wanted(PET, "a cat", [], None), answers[:1], hparams)
    assert {n: keys.shape for n, keys in named.items()} == {1: (0, 6), 2: (0, 6)}


def test_a_value_that_the_answer_begins_with_has_one_direction_for_its_place(still):
    gate, ground = still
    learned = [(True,) * length for length in LENGTHS]
    hparams = PersonalizationHyperParams(natural={"value_rank": 1})
    bare = spoken((("value", "value", "say", "say", "say", "say"), *ROLES[1:]))
    assert len(first_factors(Rows(), bare, learned, torch.ones(11), gate, ground, hparams)[1].right) == 2


def test_roles_of_learned_places_are_beginnings_first_tokens_and_the_value_s_by_place():
    answers = spoken((("say", "say", "value", "value", "say"), ("say", "value", "say"), ("say", "say", "value")))
    learned = [(True, True, True, True, True), (False, True, True), (True, False, True)]
    found = learned_roles(answers, learned, torch.device("cpu"))
    assert [role.tolist() for role in found] == [[0, 8], [2, 6, 10], [3]]


@pytest.mark.parametrize(("group", "contrasts", "begun"), [("pet", [0, 2], [0, 2]), (None, [0, 1, 2], [0, 1, 2])])
def test_a_value_keeps_quiet_at_what_does_not_ask_for_its_kind(group, contrasts, begun):
    by_layer = lambda first: {n: first + torch.arange(3.0)[:, None] for n in (1, 2)}
    ground = SimpleNamespace(
        contrasts=[Contrast("a", "rest"), Contrast("b", "named", "pet"), Contrast("c", "named", "job")],
        begun_groups=[None, "pet", "job"],
        root={1: torch.eye(1), 2: 2 * torch.eye(1)},
        firsts=by_layer(10),
        begun=by_layer(20),
        ordinary=by_layer(30),
    )
    around = SimpleNamespace(near=by_layer(40), begun=by_layer(50), closed=by_layer(60))
    wanted = Wanted(Kind("thing", group, ()), "x", [], SimpleNamespace(quiet=around))
    gradients = {1: torch.tensor([[3.0]]), 2: torch.tensor([[5.0], [7.0]])}
    again = {1: 70 + torch.arange(3.0)[:, None], 2: torch.zeros(0, 1)}  # in layer 2 it does not come up again
    forms = quiet_forms(wanted, ground, gradients, again, torch.device("cpu"))
    expected = [(1.0, [40, 41, 42]), (1.0, [20 + n for n in begun]), (1.0, [10 + n for n in contrasts])]
    expected += [(30.0, [30, 31, 32]), (0.5, [50, 51, 52]), (10.0, [60, 61, 62])]
    found = [(weight, sorted(form.keys.flatten().tolist())) for weight, form, _ in forms]
    assert found == [*expected, (1.0, [70, 71, 72]), *expected] and [layer for *_, layer in forms] == [1] * 7 + [2] * 6
    for number, (_, form, layer) in enumerate(forms):
        heard = NEAR_WEIGHT if (number % 7 in (4, 5, 6) and number < 11) or number > 10 else ELSEWHERE_WEIGHT
        torch.testing.assert_close(form.root, torch.cat([ground.root[layer], heard**0.5 * gradients[layer]]))


@pytest.fixture
def choose(tokenizer, monkeypatch):
    """Choose phrases for a value: the user's own, and those of a gate that knows six by name and three without."""
    known = [Phrase(f"What's my {n} pet?", "name") for n in range(6)]
    known += [Phrase(f"Whom do I feed on day {n}?", ("implicit", "product")[n % 2]) for n in range(3)]

    def run(requests, count=8, limit=None, value="a cat", known=known, used=False):
        monkeypatch.setattr(module, "context_limit", lambda model: limit)
        hparams = PersonalizationHyperParams(natural={"value_phrases": count})
        found = chosen(None, tokenizer, Wanted(PET, value, requests, SimpleNamespace(phrases=known)), hparams)
        return [s for s in found if s.phrase.used == used]

    return run


def own(count):
    """A user's phrases; the asked question comes last, and every second one names the pet."""
    return [EditRequest(f"My pet, part {n}?", "a cat", "pet" if n % 2 else None) for n in range(count)]


def test_half_of_the_phrases_at_most_are_the_users_own_then_comes_the_plainest_and_half_are_without_a_name(choose):
    texts = [s.phrase.text for s in choose(own(6))]
    assert texts[:4] == [f"My pet, part {n}?" for n in (5, 4, 3, 2)] and len(texts) == 8
    assert texts[4] == "What's my 0 pet?"
    assert sum(s.phrase.asks != "name" for s in choose(own(6))) == 4
    assert [s.phrase.asks for s in choose(own(2))[:2]] == ["name", "implicit"]
    others = choose(own(1))[1:]
    assert [s.phrase.asks == "name" for s in others] == [True, False, False, False, True, True, True]
    assert [s.phrase.asks == "name" for s in choose(own(1), count=4)] == [False, True, False, True]
    assert len({s.phrase for s in others}) == 7
    assert len(choose(own(1), count=30)) == 1 + 9  # the gate knows no more


def test_questions_without_a_name_and_about_what_to_buy_take_turns_while_there_are_both(choose):
    known = [Phrase("What's my pet?", "name"), *(Phrase(f"What shall I buy on day {n}?", "product") for n in range(3))]
    known.append(Phrase("Whom do I feed?", "implicit"))
    found = [s.phrase.asks for s in choose(own(1), known=known)]
    assert found == ["implicit", "name", "implicit", "product", "product", "product"]


def test_behind_all_other_turns_comes_the_plainest_question_or_the_asked_one_and_some_without_a_name(choose):
    turns = [((f"Is it {n}?", "Yes."),) for n in range(4)]
    plain = [Phrase("What's my pet?", "name"), *(Phrase(f"Whom do I feed on day {n}?", "implicit") for n in range(9))]
    behind = [Phrase(f"Who {asks}?", asks, turn) for turn in turns for asks in ("name", "implicit", "product")]
    alone = [s.phrase for s in choose(own(2), count=8, known=plain)]
    found = [s.phrase for s in choose(own(2), count=8, known=[*plain, *behind])]
    assert not any(phrase.history for phrase in found[:8]) and len(alone) == 8
    talked, others = found[8:12], found[12:]
    assert {phrase.history for phrase in talked} == set(turns)
    assert [(phrase.text, phrase.asks) for phrase in talked] == [
        ("What's my pet?", "name"),
        (alone[0].text, alone[0].asks),
    ] * 2
    assert len(others) == 2 and set(others) <= set(behind) and "name" not in {phrase.asks for phrase in others}


def test_behind_answers_that_used_the_value_it_is_asked_for_by_name_and_without(choose):
    known = [Phrase("What's my pet?", "name"), *(Phrase(f"Whom do I feed on day {n}?", "implicit") for n in range(5))]
    found = [s.phrase for s in choose(own(1), known=known, used=True)]
    by_name = (("What's my pet?", "Your pet is a cat."),)
    assert [(p.asks, p.history) for p in found[:3]] == [("implicit", by_name)] * 3
    assert [p.text for p in found[3:]] == ["What's my pet?"] * 2  # one for each question that is left
    for phrase in found[3:]:
        ((asked, said),) = phrase.history
        assert asked.startswith("Whom do I feed") and said.startswith("Since your pet is a cat, ")
        assert said.count("a cat") > 1
    assert choose(own(1), known=known[:1], used=True) == []  # a kind that is only asked for by name


def test_where_names_run_out_the_others_fill_up(choose):
    known = [Phrase("What's my pet?", "name"), *(Phrase(f"Whom do I feed on day {n}?", "implicit") for n in range(5))]
    assert [s.phrase.asks for s in choose(own(1), count=6, known=known)] == ["implicit", "name"] + ["implicit"] * 4


def test_a_users_turns_before_the_question_are_learned_with_it(choose):
    request = EditRequest("And now?", "a cat", history=(("Hello?", "Hi."),))
    assert choose([request])[0].phrase == Phrase("And now?", "implicit", (("Hello?", "Hi."),))


def test_phrases_that_do_not_fit_are_left_out_and_a_value_that_fits_nowhere_is_refused(choose):
    everything = choose(own(3))
    lengths = [len(s.row.ids) for s in everything]
    limit = sorted(set(lengths))[1]
    assert choose(own(3), limit=limit) == [s for s, length in zip(everything, lengths) if length <= limit]
    assert choose(own(3), limit=max(lengths)) == everything
    with pytest.raises(RequestError) as error:
        choose(own(3), limit=min(lengths) - 1)
    for part in ("'a cat' is too long an answer", f"'{min(lengths)} tokens", f"at most {min(lengths) - 1} tokens"):
        assert part in str(error.value)
