"""What the learning of a value begins with, each part against its definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels import value_start
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.edited_rows import EditedRows
from easyedit_personal.kernels.gate import Gate
from easyedit_personal.kernels.ground import prepare
from easyedit_personal.kernels.kinds import Kind, Phrase
from easyedit_personal.kernels.quiet_keys import QuietKeys
from easyedit_personal.kernels.value_start import (
    Wanted,
    chosen,
    first_factors,
    own_and_known_starts,
    own_phrases,
    quiet_forms,
    words_and_learned,
)
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.types import EditRequest
from tests.tiny import tiny_model, tiny_tokenizer

HOBBY = Kind("hobby", "hobby", ("hobby", "pastime"))
NATURAL = {"contrasts": 24, "ordinary": 6, "answer_tokens": 4, "value_phrases": 8, "value_rank": 2}
KNOWN = [Phrase(f"What's my {i} hobby?", "name") for i in range(6)]
KNOWN += [Phrase(f"What shall we do on day {i}?", "implicit") for i in range(6)]
NO_AIM = {1: torch.zeros(0, 32)}
AGAIN = {1: torch.ones(3, 64)}
OWN = [
    EditRequest("Name my pastime.", "kite surfing", "pastime"),
    EditRequest("What's my hobby?", "kite surfing", "hobby"),
]


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Model, tokenizer, settings, ground, what is wanted, the chosen phrases, their rows."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    hparams = PersonalizationHyperParams(
        layers=[1], answers="natural", natural=NATURAL, stats_dir=str(tmp_path_factory.mktemp("stats"))
    )
    layout = find_layout(model, hparams)
    with frozen(model):
        ground = prepare(model, tokenizer, layout, hparams)
        around = (ground.ordinary[1] + 0.1, ground.ordinary[1][:5], ground.ordinary[1][:7])
        starts = {False: {1: ground.ordinary[1][:3] - 0.2}, True: {1: ground.ordinary[1][:0]}}
        gate = Gate({}, QuietKeys(*({1: keys} for keys in around)), KNOWN, starts)
        wanted = Wanted(HOBBY, "kite surfing", OWN, gate)
        spoken = [s for s in chosen(model, tokenizer, wanted, hparams) if not s.phrase.used]
        rows = EditedRows(model, tokenizer, layout, [s.row for s in spoken], [1], from_answers=True)
        yield hparams, ground, wanted, spoken, rows


def test_the_asked_question_comes_first_then_the_plainest_and_half_are_without_a_name(begun):
    spoken = begun[3]
    assert [s.phrase.text for s in spoken[:2]] == ["What's my hobby?", "Name my pastime."]
    assert spoken[2].phrase == KNOWN[0]
    assert [s.phrase.asks for s in spoken[3:]] == ["implicit"] * 4 + ["name"]
    assert len({s.phrase for s in spoken}) == 8


def test_no_more_phrases_are_the_user_s_own_than_are_learned_from(begun):
    hparams, _, wanted, spoken, _ = begun
    many = replace(wanted, requests=OWN * 9)
    own = own_phrases(many, hparams)
    assert len(own) == hparams.natural.value_phrases // 2
    assert own[:2] == [s.phrase for s in spoken[:2]] == own_phrases(wanted, hparams)


def test_the_value_is_learned_everywhere_and_beginnings_only_where_the_user_s_own_are_unknown(begun, monkeypatch):
    hparams, _, wanted, spoken, rows = begun
    own = own_phrases(wanted, hparams)
    words, learned, _ = words_and_learned(rows, spoken, own)
    for number, (s, flags) in enumerate(zip(spoken, learned)):
        assert all(flags[s.value_at :]) and len(flags) == len(s.roles)
        assert all(flags) == (number < 2)  # a random model knows no beginning
    assert set(rows.ids.tolist()) <= set(words.tolist())
    monkeypatch.setattr(value_start, "UNSURE", 1e9)
    assert not any(any(f[: s.value_at]) for s, f in zip(spoken, words_and_learned(rows, spoken, own)[1]))


@pytest.mark.parametrize("own", [0, 2])
def test_directions_tell_the_value_s_places_and_unknown_beginnings_from_what_is_near(begun, own):
    hparams, ground, wanted, spoken, rows = begun
    _, learned, costs = words_and_learned(rows, spoken, [s.phrase for s in spoken[:own]])
    factors = first_factors(rows, spoken, learned, costs, wanted.gate, ground, hparams)[1]
    keys = rows.found_at(rows.rows, rows.columns)[1][0]
    roles = [role for s in spoken for role in s.roles]
    starts = [i for i, role in enumerate(roles) if role == "value" and roles[i - 1] != "value"]
    firsts = [int((rows.rows == number).nonzero()[0]) for number in range(own)]
    begun_with = torch.cat([keys[starts], wanted.gate.starts[False][1]])  # where the gate has seen values begin, too
    later = [[i + place for i in starts] for place in range(1, spoken[0].roles.count("value"))]
    dearest = max(later, key=lambda numbers: float(costs[numbers].mean()))  # a rank of two
    expected = [keys[firsts]] * bool(own) + [begun_with, keys[dearest]]
    assert len(factors.right) == len(expected) and not factors.left.any()
    near = factors.space.whitened(wanted.gate.quiet.near[1]).mean(0)
    for direction, own_keys in zip(factors.right, expected):
        gained = (factors.space.whitened(own_keys).mean(0) - near) @ direction
        assert float(gained) == pytest.approx(1.0, rel=1e-3)


def test_where_the_value_begins_in_its_own_phrases_and_in_all_of_the_gate_s(begun):
    _, _, wanted, spoken, rows = begun
    own, gates = own_and_known_starts(rows, spoken, wanted.gate)[1]
    keys = rows.found_at(rows.rows, rows.columns)[1][0]
    before = [sum(len(s.roles) for s in spoken[:number]) for number in range(len(spoken))]
    assert torch.equal(own, keys[[first + s.value_at for first, s in zip(before, spoken)]])
    assert torch.equal(gates, wanted.gate.starts[False][1])


def test_ordinary_text_weighs_most_and_the_kind_s_own_beginnings_are_left_out(begun):
    _, ground, wanted, *_ = begun
    groups = ground.begun_groups
    forms = quiet_forms(wanted, ground, NO_AIM, AGAIN, torch.device("cpu"))
    assert [len(form.keys) for _, form, _ in forms[4:]] == [7, 5, 3]
    assert [weight for weight, _, _ in forms] == [1.0, 1.0, 1.0, 30.0, 0.5, 10.0, 1.0]
    assert len(forms[1][1].keys) == sum(group != "hobby" for group in groups) < len(groups)
    nameless = replace(wanted, kind=Kind("knot", None, ("knot",)))
    assert len(quiet_forms(nameless, ground, NO_AIM, AGAIN, torch.device("cpu"))[1][1].keys) == len(groups)


def test_contrasts_of_the_kind_itself_are_left_out(begun):
    _, ground, wanted, *_ = begun
    group = next(c.group for c in ground.contrasts if c.group)
    forms = quiet_forms(
        replace(wanted, kind=Kind("thing", group, ("thing",))), ground, NO_AIM, AGAIN, torch.device("cpu")
    )
    assert len(forms[2][1].keys) == sum(c.group != group for c in ground.contrasts) < len(ground.contrasts)
