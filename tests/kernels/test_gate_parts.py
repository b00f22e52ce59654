"""A gate's parts, each against its definition: the losses, the words they look at, roles, pools, ordinary keys."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import replace
from random import Random

import pytest
import torch
from torch.nn import functional as F

from easyedit_personal.data.phrasings import attributes
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels import ground as ground_module
from easyedit_personal.kernels import ground_numbers
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.contrasts import Pack
from easyedit_personal.kernels.edited_rows import EditedRows
from easyedit_personal.kernels.factors import Factors, Space
from easyedit_personal.kernels.gate import _phrases, _pools, gates_for
from easyedit_personal.kernels.gate_loss import (
    FIRST,
    SURE,
    TAIL_WEIGHT,
    TOP,
    Kept,
    costs_of,
    divergence,
    log_p,
    speaking_loss,
    speaking_of,
    turn,
    words_of,
)
from easyedit_personal.kernels.ground import prepare
from easyedit_personal.kernels.ground_numbers import _ordinary, _prompt_keys, thinned
from easyedit_personal.kernels.kinds import (
    BegunAnswer,
    Contrast,
    Kind,
    Phrase,
    _about,
    every_kind,
    kind_phrases,
    own_contrasts,
    sample_values,
)
from easyedit_personal.kernels.preserve import Material
from easyedit_personal.kernels.quiet_keys import quiet_keys
from easyedit_personal.kernels.roles import roles_of
from easyedit_personal.kernels.spoken import go_on, speak
from easyedit_personal.modeling.layout import find_layout, get_module
from easyedit_personal.modeling.tokens import encode
from easyedit_personal.types import WeightDelta
from tests.tiny import tiny_model, tiny_tokenizer

HOBBY = Kind("hobby", "hobby", ("hobby", "pastime", "interest"))
HPARAMS = PersonalizationHyperParams(layers=[1])
PHRASES = [
    Phrase("What's my hobby?", "name"),
    Phrase("Tell me my pastime.", "name"),
    Phrase("What shall I do now?", "implicit"),
    Phrase("What should I buy?", "product"),
]


@pytest.fixture(scope="module")
def said():
    """A model, its tokenizer and layout, four spoken answers with what the model goes on to say, and their rows."""
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    layout = find_layout(model, HPARAMS)
    with frozen(model):
        spoken = go_on(model, tokenizer, [speak(tokenizer, p, HOBBY, "chess", HPARAMS) for p in PHRASES], 3)
        rows = EditedRows(model, tokenizer, layout, [s.row for s in spoken], [1], from_answers=True)
        yield model, tokenizer, layout, spoken, rows


@pytest.fixture
def update(said):
    torch.manual_seed(0)
    keys, outputs = said[-1].where_answers_begin()[1]
    return Factors(Space(None), torch.randn(outputs.shape[-1], 2), torch.randn(2, keys.shape[-1]))


def test_what_is_said_costs_its_nats_the_first_token_more_and_sure_ones_nothing(said, update):
    *_, spoken, rows = said
    words = words_of([rows], [])
    found = speaking_loss([speaking_of(rows, spoken, words)], {1: update}, words)
    before, after = (rows.logits(change, words=words).log_softmax(-1) for change in (None, {1: update}))
    total = weight = kept = kept_count = 0.0
    number = 0
    for one in spoken:
        for place, role in enumerate(one.roles):
            share = FIRST if place == 0 else 1.0
            cost = -float(after[number, torch.searchsorted(words, rows.ids[number])])
            total += share * cost * (cost > SURE) if role == "say" else 0.0
            weight += share if role == "say" else 0.0
            if role == "keep":
                kept += float(F.kl_div(after[number], before[number], log_target=True, reduction="sum"))
                kept_count += 1
            number += 1
    assert kept_count == 6
    assert float(found) == pytest.approx(total / weight + TAIL_WEIGHT * kept / kept_count, rel=1e-4)


def test_the_words_are_the_rows_own_and_the_likeliest_at_every_place(said):
    *_, rows = said
    words = words_of([rows], [])
    likely = rows.logits().topk(TOP).indices
    assert set(words.tolist()) == {*rows.ids.tolist(), *likely.flatten().tolist()}
    assert words.tolist() == sorted(words.tolist())
    one = rows.select([0])
    assert set(words_of([one], [rows]).tolist()) >= set(likely.flatten().tolist())


def test_a_contrast_costs_most_where_its_answer_begins_and_tells_how_far_it_moved(said, update):
    *_, rows = said
    words = words_of([rows], [])
    part = Kept(rows, log_p(rows, words))
    found = float(divergence(part, {1: update}, words))
    after = rows.logits({1: update}, words=words).log_softmax(-1)
    moved = F.kl_div(after, part.base, log_target=True, reduction="none").sum(-1)
    first = torch.tensor([i == 0 or rows.rows[i] != rows.rows[i - 1] for i in range(len(rows.rows))])
    assert found == pytest.approx(float(moved[first].mean() + moved[~first].mean()), rel=1e-4)
    assert part.latest == pytest.approx(float(moved[first].mean()), rel=1e-4)


def test_every_other_step_takes_what_moved_most_and_in_between_all_in_turn():
    parts = [Kept(None, None, latest) for latest in (0.1, 0.9, 0.3)]
    assert [parts.index(turn(parts, step)) for step in range(8)] == [0, 1, 1, 1, 2, 1, 0, 1]


def test_roles_begin_with_first_tokens_and_go_on_with_the_dearest(said):
    *_, spoken, rows = said
    costs = costs_of(rows, words_of([rows], []))
    roles = [role.places for role in roles_of(spoken, costs)]
    firsts = {int(i) for i in (rows.columns == rows.last_index[rows.rows]).nonzero()}
    sorts = len({s.phrase.asks for s in spoken})
    assert {int(i) for role in roles[:sorts] for i in role} == firsts
    later = [float(costs[role].sum()) for role in roles[sorts:]]
    assert later == sorted(later, reverse=True) and all(len(rows.ids[role].unique()) == 1 for role in roles[sorts:])
    assert sorted(len(role) for role in roles[:sorts]) == [1, 1, 2]  # two questions ask by name


def test_pools_leave_out_what_asks_for_the_kind_itself_and_pools_of_no_size(said):
    model, tokenizer, layout, *_ = said
    texts = {
        "named": [("What's my hobby?", "hobby"), ("What's my pet?", "pet")],
        "indirect": [("What now?", "sport"), ("Whom do I feed?", "pet")],
        "rest": [("Hello!", None)],
    }
    packs = []
    for pool, asked in texts.items():
        contrasts = [Contrast(text, pool, group) for text, group in asked]
        rows = [encode(tokenizer, c.text, target="a b") for c in contrasts]
        packs.append(Pack(contrasts, EditedRows(model, tokenizer, layout, rows, [1], from_answers=True)))
    pools = _pools(packs, HOBBY, Material.load(), {"named": 5, "indirect": 5}, Random(0))
    assert {pool: sum(len(part.last_index) for part in parts) for pool, parts in pools.items()} == {
        "named": 1,
        "indirect": 1,  # sport is too near to hobby
    }


def test_half_of_the_conversations_that_state_a_value_ask_the_plainest_question():
    stated = [c.text for c in own_contrasts(HOBBY, Material.load(), Random(0)) if c.history]
    assert len(stated) == 12
    assert stated[1::2] == ["What's my hobby?"] * 6


def test_ordinary_keys_are_those_of_every_token_of_every_answer(said):
    model, tokenizer, layout, *_ = said
    rows = [encode(tokenizer, "What now?", target="a b c" if i % 2 else "d") for i in range(15)]
    keys, fisher, _ = _ordinary(model, tokenizer, layout, rows, HPARAMS)
    assert len(keys[1]) == sum(len(row.target_ids) for row in rows)
    assert torch.allclose(fisher[1], fisher[1].T, atol=1e-6)
    assert torch.linalg.eigvalsh(fisher[1]).min() > -1e-6


def test_keys_are_thinned_to_so_many_of_themselves():
    keys = torch.randn(30, 4)
    assert thinned(keys, 30) is keys
    found = thinned(keys, 12)
    assert len(found) == 12
    assert len({tuple(row) for row in found.tolist()} & {tuple(row) for row in keys.tolist()}) == 12


def test_every_kind_is_asked_by_name_once_and_once_in_every_other_way():
    asked = Counter((kind.name, phrase.asks) for kind, phrase in every_kind(Random(0)))
    assert set(asked.values()) == {1}
    assert {name for name, _ in asked} == {name for name, asks in asked if asks == "name"}
    assert sum(asks != "name" for _, asks in asked) > len({name for name, _ in asked})


def prepared(said, folder, **natural):
    model, tokenizer, layout, *_ = said
    small = {"contrasts": 24, "ordinary": 6, "answer_tokens": 4, "gate_steps": 6, "gate_rank": 4, **natural}
    hparams = PersonalizationHyperParams(layers=[1], answers="natural", natural=small, stats_dir=str(folder))
    return prepare(model, tokenizer, layout, hparams), hparams


def test_a_gate_learned_on_an_edited_model_is_nobody_elses_and_one_that_is_known_is_everybodys(said, tmp_path):
    model, tokenizer, layout, *_ = said
    ground, hparams = prepared(said, tmp_path)
    path, pet = layout.rewrite_path(1), Kind("pet", "pet", ("pet",))
    width = get_module(model, path).weight.shape
    change = WeightDelta(path, torch.full((width[0], 1), 0.1), torch.full((1, width[1]), 0.1))
    with in_weights(model, [change]):
        assert prepare(model, tokenizer, layout, hparams) is ground  # the numbers are the base model's
        (gate,) = gates_for(model, tokenizer, layout, [HOBBY], ground, hparams)
        assert not gate.shared and not list(ground.folder.glob("gate-*"))
    (known,) = gates_for(model, tokenizer, layout, [HOBBY], ground, hparams)
    assert known.shared and len(list(ground.folder.glob("gate-*.safetensors"))) == 1
    with in_weights(model, [change]):
        again, new = gates_for(model, tokenizer, layout, [HOBBY, pet], ground, hparams)
    assert again.shared and torch.equal(again.factors[1][0], known.factors[1][0]) and not new.shared


def test_half_of_what_is_asked_behind_other_turns_asks_by_name(said, tmp_path):
    ground, hparams = prepared(said, tmp_path)
    ground = replace(ground, talk=[("How are you?", "Well."), ("Is it late?", "No.")])
    behind = [phrase for phrase in _phrases(HOBBY, ground, hparams) if phrase.history]
    assert Counter(phrase.asks == "name" for phrase in behind) == {True: 16, False: 16}
    assert {phrase.history for phrase in behind} & {(turn,) for turn in ground.talk}


def test_a_gate_is_held_back_by_what_it_costs_ordinary_text(said, tmp_path):
    model, tokenizer, layout, *_ = said
    sizes = []
    for weight in (0.0, 1e4):
        ground, hparams = prepared(said, tmp_path, quiet_weight=weight)
        (gate,) = gates_for(model, tokenizer, layout, [HOBBY], ground, hparams)
        left, right = gate.factors[1]
        sizes.append(float((ground.ordinary[1] @ right.T @ left.T).square().mean()))
    assert sizes[1] < 0.5 * sizes[0]


def test_every_other_question_about_a_kind_uses_its_plainest_name():
    texts = [c.text for c in _about(HOBBY, ("Is {who}'s {n} fun?",), ("Ann",), 20, Random(0))]
    assert texts[::2] == ["Is Ann's hobby fun?"] * 10
    assert {"Is Ann's pastime fun?", "Is Ann's interest fun?"} <= set(texts[1::2])


def test_keys_inside_prompts_are_all_behind_the_common_beginning(said):
    model, tokenizer, layout, *_ = said
    texts = ["What now?", "Who are you then?", "Tell me!", *(f"Is {i} odd?" for i in range(60))]
    rows = [encode(tokenizer, text) for text in texts]
    shared = next(i for i in range(99) if len({row.prompt_ids[i] for row in rows}) > 1)
    beginning, inside = _prompt_keys(model, tokenizer, layout, rows, HPARAMS)[1]
    assert len(beginning) == shared
    once_more = len(rows)  # rows need a target: the last token stands there a second time
    assert len(inside) == sum(len(row.prompt_ids) - shared for row in rows) + once_more


def test_the_metric_weighs_where_answers_begin_insides_and_ordinary_text(said, monkeypatch):
    model, tokenizer, layout, *_ = said
    sizes = {"firsts": 5, "along": 7, "inside": 11, "ordinary": 13, "ends": 3, "beginning": 2}
    torch.manual_seed(0)
    keys = {name: torch.randn(count, 6) for name, count in sizes.items()}
    seen = {}
    monkeypatch.setattr(ground_numbers, "answered", lambda model, tokenizer, prompts, tokens: list(prompts))
    monkeypatch.setattr(ground_numbers, "shared_packs", lambda *_: [])
    monkeypatch.setattr(ground_numbers, "_prompt_keys", lambda *_: {1: (keys["beginning"], keys["inside"])})
    monkeypatch.setattr(ground_numbers, "_answer_keys", lambda *_: ({1: keys["firsts"]}, {1: keys["along"]}))
    monkeypatch.setattr(ground_numbers, "last_keys", lambda *_: {1: keys["ends"]})
    monkeypatch.setattr(ground_numbers, "_ordinary", lambda *_: ({1: keys["ordinary"]}, {1: torch.eye(6) * 4}, {}))
    monkeypatch.setattr(ground_numbers, "whitened_beside", lambda *given: seen.setdefault("given", given)[0])
    hparams = PersonalizationHyperParams(layers=[1], natural={"ordinary_weight": 3.0, "ridge": 0.2, "ordinary": 4})
    found, _ = ground_numbers.compute(model, tokenizer, layout, hparams, [Contrast("Hello!", "rest")], Material.load())
    usual = torch.cat([keys["ordinary"], keys["along"]])
    parts = ((1.0, keys["firsts"]), (0.5, keys["inside"]), (3.0, usual))
    moment, beginning, ridge = seen["given"]
    torch.testing.assert_close(moment, sum(weight * part.T @ part / len(part) for weight, part in parts))
    assert torch.equal(beginning, keys["beginning"]) and ridge == 0.2
    torch.testing.assert_close(found["root.1"], torch.eye(6) * 2)
    torch.testing.assert_close(found["firsts.1"].float(), keys["firsts"], atol=2e-3, rtol=2e-3)


def test_values_stand_in_for_those_of_a_kind_that_nobody_knows():
    assert len(sample_values(Kind("knot", None, ("knot",)))) == 2 * len(attributes())
    own = [value for a in attributes() if a.group == "hobby" for value in a.train["values"]]
    assert sample_values(HOBBY) == own


def test_the_grounds_of_the_last_two_models_stay_in_memory(said, tmp_path, monkeypatch):
    model, tokenizer, layout, *_ = said
    monkeypatch.setattr(ground_module, "_GROUNDS", OrderedDict())
    monkeypatch.setattr(ground_module, "kept", lambda *_: None)
    monkeypatch.setattr(ground_module, "_ground", lambda folder, *_: folder)
    plain = PersonalizationHyperParams(layers=[1], stats_dir=str(tmp_path))
    made = [prepare(model, tokenizer, layout, plain.replace(seed=seed)) for seed in range(3)]
    assert list(ground_module._GROUNDS) == [str(folder) for folder in made[1:]]


def test_a_known_kind_is_asked_in_every_way_that_ships():
    asked = Counter(phrase.asks for phrase in kind_phrases(HOBBY, Material.load(), 4, Random(0)))
    assert min(asked["name"], asked["implicit"], asked["product"]) > 4
    unknown = Counter(
        phrase.asks for phrase in kind_phrases(Kind("knot", None, ("knot",)), Material.load(), 4, Random(0))
    )
    assert set(unknown) == {"name"}


def test_every_word_around_a_value_has_a_role_and_only_the_first_behind_it(said):
    *_, spoken, _ = said
    behind = [s.roles[s.value_at :].count("say") > 0 for s in spoken]
    assert any(behind)
    costs = torch.zeros(sum(len(s.roles) for s in spoken))
    assert sum(len(role.places) for role in roles_of(spoken, costs)) == sum(s.value_at for s in spoken) + sum(behind)


def test_values_keep_quiet_along_answers_but_where_they_begin_and_at_near_questions_alone(said):
    model, tokenizer, layout, spoken, rows = said
    contrasts = [Contrast("Whose hobby?", "own"), Contrast("And now?", "own", history=(("Hi.", "Hello."),))]
    own = [encode(tokenizer, c.text, target="a b") for c in contrasts]
    pack = Pack(contrasts, EditedRows(model, tokenizer, layout, own, [1], from_answers=True))
    places = rows.found_at(rows.rows, rows.columns)
    begun = [BegunAnswer(contrasts[0], "Her hobby is")]
    around = quiet_keys(model, tokenizer, layout, spoken, places, {1: places[1][0][:3]}, [pack], begun, HPARAMS)
    along = len(rows.rows) - sum(s.roles.count("value") for s in spoken)
    assert len(around.near[1]) == along + int((pack.rows.rows == 0).sum()) + 3
    assert len(around.closed[1]) == 2 and len(around.begun[1]) == 1
