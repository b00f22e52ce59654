"""A gate's learning, part by part: what a step sees, what it weighs, which tokens share a direction, what is kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest
import torch

from easyedit_personal.data.conversations import short_exchanges
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels import gate as module
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.contrasts import Pack
from easyedit_personal.kernels.factors import Factors, Space
from easyedit_personal.kernels.gate import _parts, _phrases, _pools
from easyedit_personal.kernels.ground import Ground
from easyedit_personal.kernels.kinds import Contrast, Kind, Phrase
from easyedit_personal.kernels.preserve import Material
from easyedit_personal.kernels.roles import Role, roles_of
from easyedit_personal.kernels.spoken import Spoken
from easyedit_personal.kernels.target_gradients import ALONG_WEIGHT, ELSEWHERE_WEIGHT
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.tokens import Encoded

PET = Kind("pet", "pet", ("pet",))
HPARAMS = PersonalizationHyperParams(layers=[1, 2])


def said(asks, *roles, history=(), words=None, used=False):
    """An answer with these roles; its prompt has two tokens."""
    row = Encoded((5, 6), words or tuple(range(10, 10 + len(roles))), 1)
    return Spoken(row, roles, Phrase("What?", asks, history, used))


class Group:
    """Rows with keys and outputs of our own: the key of each place is its number."""

    def __init__(self, first, rows, length=2):
        self.first, self.last_index, self.selected = first, torch.zeros(rows), None
        self.rows = torch.arange(rows).repeat_interleave(length)
        self.columns = torch.arange(rows * length)

    def found_at(self, rows, columns):
        keys = self.first + columns.float()[:, None] * torch.tensor([[1.0, 0.5, 0.25]])
        return {1: (keys, keys[:, :2] + 1), 2: (-keys, keys[:, :2] - 1)}

    def select(self, numbers):
        part = Group(self.first, len(numbers))
        part.selected = list(numbers)
        return part


def test_questions_come_again_behind_short_exchanges_and_a_long_one_of_each_sort_in_turn(monkeypatch):
    phrases = [Phrase("By name?", "name"), Phrase("Without?", "implicit"), Phrase("To buy?", "product")]
    asked, talk = [], [("Is it 1?", "Yes, and a long answer follows.")]
    monkeypatch.setattr(module, "kind_phrases", lambda kind, material, named, rng: asked.append(named) or phrases)
    found = _phrases(PET, SimpleNamespace(talk=talk), HPARAMS)
    assert asked == [24] and found[:3] == phrases
    lengths = [len(phrase.history) for phrase in found[3:]]
    assert lengths == [n for n in (1, 2, 1, 4, 1, 2, 3, 6) for _ in range(4)]
    assert [phrase.text for phrase in found[3:]] == ["By name?", "Without?", "By name?", "To buy?"] * 8
    histories = [*dict.fromkeys(phrase.history for phrase in found[3:])]
    assert len(histories) == 8 and histories.pop(2) == tuple(talk)
    assert {turn for history in histories for turn in history} <= set(short_exchanges())
    monkeypatch.setattr(module, "kind_phrases", lambda *_: phrases[:1])  # a kind that has only a name
    assert len(_phrases(PET, SimpleNamespace(talk=talk), HPARAMS)) == 1 + 32
    silent = _phrases(PET, SimpleNamespace(talk=[]), HPARAMS)  # a model that said nothing
    assert {turn for phrase in silent for turn in phrase.history} <= set(short_exchanges())


@pytest.mark.parametrize(("count", "size", "sizes"), [(7, 3, [3, 2, 2]), (6, 3, [3, 3]), (2, 9, [2]), (0, 3, [])])
def test_steps_see_about_so_many_rows_each_and_all_of_them_in_turn(count, size, sizes):
    parts = _parts(count, size, Random(0))
    assert sorted((len(part) for part in parts), reverse=True) == sizes
    assert sorted(number for part in parts for number in part) == list(range(count))
    assert all(part == sorted(part) for part in parts)


def test_answers_behind_other_turns_are_run_apart_from_where_they_begin(monkeypatch):
    made = []
    monkeypatch.setattr(module, "EditedRows", lambda *given, **options: made.append((given[3:], options)) or given[3])
    alone, behind = said("name", "value"), said("name", "value", history=(("Hi.", "Hello."),))
    module._run(None, None, None, [alone, alone, behind], HPARAMS)
    rows = [alone.row, alone.row], [behind.row]
    assert made == [((part, [1, 2]), {"from_answers": True}) for part in rows]


def test_a_step_sees_its_numbers_among_all_groups(monkeypatch):
    monkeypatch.setattr(module, "speaking_of", lambda own, spoken, words: (own.selected, spoken))
    groups, spoken = [Group(0, 2), Group(4, 3), Group(10, 1)], list("abcdef")
    assert module._speaking(groups, [1, 2, 4, 5], spoken, None) == [([1], ["b"]), ([0, 2], ["c", "e"]), ([0], ["f"])]
    assert module._speaking(groups, [0], spoken, None) == [([0], ["a"])]


def test_places_of_all_groups_follow_each_other():
    found = module._places([Group(0, 2), Group(100, 1)])
    assert found[1][0][:, 0].tolist() == [0, 1, 2, 3, 100, 101]
    assert torch.equal(found[1][1], found[1][0][:, :2] + 1) and torch.equal(found[2][0], -found[1][0])


def test_roles_are_first_tokens_by_question_and_then_the_dearest_words():
    spoken = [
        said("name", "say", "say", "value", "say", "say", words=(10, 11, 50, 12, 13)),  # 0-4: the end is said last
        said("implicit", "say", "say", "value", "say", "keep", words=(20, 11, 51, 22, 23)),  # 5-9
        said("name", "say", "say", "value", "say", words=(10, 11, 52, 12), history=(("Hi.", "Hello."),)),  # 10-13
        said("implicit", "say", "say", "value", "say", words=(20, 24, 53, 22)),  # 14-17
        said("name", "say", "value", words=(10, 54), history=(("What?", "It is 3."),), used=True),  # 18-19
    ]
    costs = torch.zeros(20)
    costs[[0, 5, 10, 14]] = torch.tensor([7.0, 4.0, 1.0, 4.0])  # where answers begin: 7, 8 together, and 1 behind turns
    costs[[1, 6, 11]], costs[[3, 12]], costs[15], costs[[8, 17]] = 1.0, 0.5, 2.0, 3.0
    found = [role.places.tolist() for role in roles_of(spoken, costs)]
    # The same word after other beginnings is one role: 6 nats of word 22, 3 of word 11, 2 of 24, and .5 of word 12.
    assert found == [[5, 14], [0], [10], [18], [8, 17], [1, 6, 11], [15], [3, 13]]
    assert [role.used for role in roles_of(spoken, costs)] == [False] * 3 + [True] + [False] * 4


def test_directions_begin_at_nothing_in_units_of_outputs(monkeypatch):
    roles = [Role(torch.tensor([0, 2]), False), Role(torch.tensor([4]), True)]
    numbers = {name: {n: torch.randn(4, 3) for n in (1, 2)} for name in ("root", "ordinary", "firsts", "begun")}
    metric = {n: torch.randn(3, 3) for n in (1, 2)}
    ground = Ground(
        Path(), "", metric, **numbers, begun_groups=[], contrasts=[], answers={}, talk=[], rows={}, order={}
    )
    places = module._places([Group(0, 2), Group(100, 1)])
    used = {n: torch.randn(5, 3) for n in (1, 2)}
    for layer, update in module._start(None, None, places, roles, used, ground).items():
        keys, outputs = places[layer]
        assert update.space.unit == pytest.approx(float(outputs.square().mean().sqrt()))
        assert torch.equal(update.left, torch.zeros(2, 2)) and update.space.metric is ground.metric[layer]
        told_from = ground.firsts[layer], used[layer]  # behind answers that used a value, from what is said there
        for direction, role, others in zip(update.right, ([0, 2], [4]), told_from, strict=True):
            apart = (keys[role].mean(0) - others.mean(0)) @ update.space.metric
            torch.testing.assert_close(direction, apart / apart.dot(apart))
    nothing = module._start(None, None, places, roles, {}, ground)[1].right[1]  # no such contrast fits the context
    apart = (places[1][0][[4]].mean(0) - ground.firsts[1].mean(0)) @ ground.metric[1]
    torch.testing.assert_close(nothing, apart / apart.dot(apart))


def test_pools_are_dealt_out_in_parts_without_the_kind_s_own_and_related_questions():
    material = SimpleNamespace(related=lambda groups: {*groups, "kennel"})
    groups = {
        "own": [None] * 3,
        "named": ["pet", "kennel", "job"],
        "indirect": ["pet", "kennel", "job"],
        "rest": [None],
        "unasked": [None],
    }
    packs = [
        Pack([Contrast("?", pool, g) for g in members], Group(0, len(members))) for pool, members in groups.items()
    ]
    sizes = {"own": 2, "named": 5, "indirect": 5, "rest": 4, "unasked": 0}
    selected = lambda kind: {
        pool: sorted(number for part in parts for number in part.selected)
        for pool, parts in _pools(packs, kind, material, sizes, Random(0)).items()
    }
    assert selected(PET) == {"own": [0, 1, 2], "named": [1, 2], "indirect": [2], "rest": [0]}
    every = {"own": [0, 1, 2], "named": [0, 1, 2], "indirect": [0, 1, 2], "rest": [0]}
    assert selected(Kind("knot", None, ("knot",))) == every
    assert Counter(len(p.selected) for p in _pools(packs, PET, material, sizes, Random(0))["own"]) == {2: 1, 1: 1}


def test_answers_that_do_not_fit_the_context_are_not_learned_from(monkeypatch):
    spoken = [said("name", *["say"] * n, "value") for n in range(4)]  # rows of 3 to 6 tokens
    for limit, fitting in ((5 + module.TAIL, spoken[:3]), (None, spoken)):
        monkeypatch.setattr(module, "context_limit", lambda model, limit=limit: limit)
        assert module._fitting(None, spoken) == fitting


def test_a_gate_keeps_quiet_in_ordinary_text_and_along_tails():
    keys = {n: torch.full((n + 1, 3), float(n)) for n in range(4)}
    ground = SimpleNamespace(root={1: 2 * torch.eye(2), 2: torch.eye(2)}, ordinary={1: keys[0], 2: keys[1]})
    tails = {1: keys[2], 2: keys[2][:0]}
    gradients = {1: torch.tensor([[3.0, 4.0]]), 2: torch.tensor([[1.0, 0.0]])}
    found = module._quiet(ground, tails, gradients)
    assert (ELSEWHERE_WEIGHT, ALONG_WEIGHT) == (1e-3, 5e-3)
    for layer, expected in (
        (1, ((keys[0], ELSEWHERE_WEIGHT), (keys[2], ALONG_WEIGHT))),
        (2, ((keys[1], ELSEWHERE_WEIGHT),)),  # no tails: nothing to be quiet at
    ):
        for (at, root), (wanted, heard) in zip(found[layer], expected, strict=True):
            assert torch.equal(at, wanted)
            torch.testing.assert_close(root, torch.cat([ground.root[layer], heard**0.5 * gradients[layer]]))


def test_contrasts_about_the_kind_are_answered_by_the_model_in_four_tokens(llama, tokenizer):
    contrasts = [Contrast(text, "own") for text in ("What's her pet?", "What isn't my pet?")]
    with frozen(llama):
        (pack,) = module._own_packs(llama, tokenizer, find_layout(llama), contrasts, HPARAMS)
    counts = torch.bincount(pack.rows.rows)
    assert len(counts) == 2 and int(counts.max()) == 4
    ids = pack.rows.suffix.batch.input_ids[0]
    with torch.no_grad():
        greedy = llama(ids[None, : int(pack.rows.last_index[0]) + 1]).logits[0, -1].argmax()
    assert int(pack.rows.ids[0]) == int(greedy)


@pytest.fixture
def learning(monkeypatch):
    """Learn a gate of which every part is given: what a step's loss is made of, and what is passed on."""
    given = {}
    spoken = [said("name", "say", "value") for _ in range(7)]
    pools = {"own": ["own"] * 7, "named": ["named"] * 3}
    update = Factors(Space(None), torch.zeros(2, 1), torch.ones(1, 3))
    own, places = SimpleNamespace(contrasts=["negated", "stated"]), {1: (torch.ones(2, 3), torch.ones(2, 2))}

    def around(*parts):
        given.update(around=parts[3:-1])
        return SimpleNamespace(tensors=lambda: {"near.1": torch.zeros(1, 3)})

    monkeypatch.setattr(module, "speak", lambda tokenizer, phrase, kind, value, hparams: spoken[0])
    monkeypatch.setattr(module, "go_on", lambda model, tokenizer, some, tokens: given.update(tail=tokens) or some)
    monkeypatch.setattr(module, "_fitting", lambda model, some: some)
    monkeypatch.setattr(module, "_run", lambda *_: ["rows"])
    monkeypatch.setattr(module, "_places", lambda rows: places)
    monkeypatch.setattr(module, "_own_packs", lambda *parts: [own if "aside" not in parts[3] else "behind"])
    monkeypatch.setattr(module, "used_answers", lambda *_: ["used"])
    monkeypatch.setattr(module, "asked_again", lambda tokenizer, kind, phrases, used, *_: [spoken[0]] * len(used))
    monkeypatch.setattr(module, "moving_on", lambda used, *_: [["aside"]] * len(used))
    monkeypatch.setattr(module, "fitting", lambda model, tokenizer, some, hparams: some)
    monkeypatch.setattr(module, "closed_of", lambda behind: given.update(behind=behind))
    monkeypatch.setattr(module, "target_gradients", lambda rows, roles, words: {1: torch.tensor([[3.0, 4.0]])})
    monkeypatch.setattr(module, "tails_of", lambda *_: {1: torch.zeros(0, 1)})
    monkeypatch.setattr(module, "begun_answers", lambda kind, own, *_: [kind.name, *own])
    monkeypatch.setattr(module, "quiet_keys", around)
    monkeypatch.setattr(module, "value_starts", lambda spoken, places: {"starts": torch.zeros(len(spoken), 3)})
    monkeypatch.setattr(module, "_pools", lambda packs, *_: given.update(packs=packs) or pools)
    monkeypatch.setattr(module, "words_of", lambda rows, others: given.update(looked_at=others) or "words")
    monkeypatch.setattr(module, "_speaking", lambda rows, part, *_: part)
    monkeypatch.setattr(module, "log_p", lambda part, words: None)
    monkeypatch.setattr(module, "costs_of", lambda rows, words: torch.tensor([1.0, 0.0, 3.0, 0.0] + [0.0] * 12))
    monkeypatch.setattr(module, "_start", lambda *parts: given.update(roles=parts[3]) or {1: update})
    monkeypatch.setattr(module, "speaking_loss", lambda part, *_: given.setdefault("seen", []).append(part) or 1000.0)
    monkeypatch.setattr(module, "turn", lambda found, step: found[0].rows)
    monkeypatch.setattr(module, "divergence", lambda pool, *_: {"own": 1.0, "named": 10.0}[pool])
    monkeypatch.setattr(
        module, "Quiet", lambda keys, root: given.setdefault("keys", []).append(keys) or (lambda _: float(len(root)))
    )
    monkeypatch.setattr(module, "adam", lambda updates, loss, *rest: given.update(loss=loss, rest=rest))

    def learn(keys=500, **natural):
        ordinary = {1: torch.arange(float(keys))[:, None]}
        ground = SimpleNamespace(ordinary=ordinary, root={1: torch.eye(2)}, contrasts=[])
        hparams = PersonalizationHyperParams(layers=[1], natural=natural)
        phrases = [Phrase("What?", "name")] * 7
        given["kept"] = module._learn(None, None, None, PET, phrases, ["shared"], ground, hparams)
        return given

    return learn


def test_a_step_weighs_contrasts_about_the_kind_itself_five_times_and_ordinary_text(learning):
    given = learning(contrast_weight=4.0, quiet_weight=2.0)
    assert given["loss"](0) == pytest.approx(1000 + 4.0 * (5 * 1.0 + 10.0) / 2 + 2.0 * 3.0)
    assert set(given["kept"]) == {"left.1", "right.1", "near.1", "starts"}


def test_a_gate_has_as_many_directions_as_its_rank_the_first_roles_first(learning):
    spoken_first = [0, 2, 4, 6, 8, 10, 12, 14]  # where the seven answers begin, and the one that is asked for again
    assert [role.places.tolist() for role in learning(gate_rank=1)["roles"]] == [spoken_first]


def test_a_step_draws_400_ordinary_keys_anew_or_as_many_as_there_are(learning):
    given = learning()
    for step in range(2):
        given["loss"](step)
    first, second = given["keys"]
    assert len(first) == len(second) == 400 and not torch.equal(first, second)
    learning(keys=30)["loss"](0)
    assert len(given["keys"][-1]) == 30


def test_steps_take_turns_and_every_third_part_of_the_contrasts_says_which_words_matter(learning):
    given = learning(gate_batch=3, gate_steps=9, gate_lr=0.5, right_lr=0.25)
    for step in range(4):
        given["loss"](step)
    first, second, third, again = given["seen"]
    assert sorted(first + second + third) == list(range(8)) and again == first
    assert given["looked_at"] == ["own"] * 3 + ["named"]
    assert given["tail"] == 6 and given["rest"] == (9, 0.5, 0.25)
    own, behind, shared = given["packs"]
    assert own.contrasts == ["negated", "stated"] and behind == "behind" and shared == "shared"
    assert given["behind"] == ["behind"]  # from these, too, directions tell the questions there


def test_what_values_keep_quiet_at_is_found_with_the_answers_keys_the_kind_s_contrasts_and_beginnings(learning):
    spoken, places, tails, own, begun = learning()["around"]
    assert len(spoken) == 8 and torch.equal(places[1][0], torch.ones(2, 3)) and tails[1].shape == (0, 1)
    assert own[0].contrasts == ["negated", "stated"] and own[1:] == ["behind"]
    assert begun[0] == "pet" and len(begun) > 100 and sum(bool(contrast.history) for contrast in begun[1:]) == 12


def test_gates_are_kept_under_a_name_of_all_that_shapes_them(tmp_path, monkeypatch):
    names = []

    class Tensors(dict):
        """Everything that is asked for, in half precision."""

        def __missing__(self, name):
            return torch.ones(1, 1).half()

    def kept(path, work, write):
        assert write  # it is the model that the numbers are of
        names.append(path.name)
        return Tensors(), {}

    monkeypatch.setattr(module, "kept", kept)
    monkeypatch.setattr(module, "fingerprint", lambda model: "base")
    monkeypatch.setattr(module, "_phrases", lambda kind, *_: [Phrase(f"What's my {kind.name}?", "name")])
    ground = SimpleNamespace(folder=tmp_path, base="base")
    shaping = ("gate_lr", "right_lr", "gate_rank", "gate_steps", "gate_batch", "contrast_weight", "quiet_weight")
    for natural in ({}, {}, *({name: 77} for name in shaping), {"value_lr": 77}):
        hparams = PersonalizationHyperParams(layers=[1, 2], natural=natural)
        (gate,) = module.gates_for(None, None, None, [PET], ground, hparams)
        assert set(gate.factors) == set(gate.quiet.near) == {1, 2} and gate.quiet.near[1].dtype == torch.float32
        assert {factor.dtype for factor in gate.factors[1]} == {torch.float32}
        assert {starts[2].dtype for starts in gate.starts.values()} == {torch.float32} and len(gate.starts) == 2
    assert names[0] == names[1] == names[-1] and len(set(names)) == 1 + len(shaping)  # values are no matter of gates
    assert all(len(name) == len("gate-.safetensors") + 16 for name in names)


def test_what_the_base_model_made_of_the_contrasts_holds_for_no_edited_one(tmp_path, monkeypatch):
    recalled, rows = [], {"rows.0.keys": torch.ones(1)}
    monkeypatch.setattr(module, "shared_packs", lambda *given: recalled.append(given[-1]))
    monkeypatch.setattr(module, "_phrases", lambda *_: [])
    monkeypatch.setattr(module, "_learn", lambda *_: (_ for _ in ()).throw(LookupError))
    ground = SimpleNamespace(folder=tmp_path, base="base", contrasts=[], answers={}, rows=rows)
    for model in ("base", "edited"):
        monkeypatch.setattr(module, "fingerprint", lambda _, model=model: model)
        with pytest.raises(LookupError):
            module.gates_for(None, None, None, [PET], ground, PersonalizationHyperParams(layers=[1]))
    assert recalled == [rows, None]


def test_the_shipped_material_says_which_kinds_are_near():
    assert {"hobby", "sport"} <= Material.load().related({"hobby"}) and "pet" not in Material.load().related({"hobby"})
