"""Edits through neurons: what they add, where they stand, and that several of one user's share none."""

from __future__ import annotations

import math

import pytest
import torch
from peft import PeftModel

from easyedit_personal import EditStore, PersonalizedModel
from easyedit_personal.editing import algorithm
from easyedit_personal.editing.composition import add_preferences
from easyedit_personal.errors import ConfigError, ModelError
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.beside import edited
from easyedit_personal.kernels.carried import Carried, Cells
from easyedit_personal.kernels.factors import Quiet, Space, adam
from easyedit_personal.kernels.ground import prepare
from easyedit_personal.kernels.lowrank import lowrank
from easyedit_personal.kernels.natural import apart
from easyedit_personal.kernels.neurons import (
    Neurons,
    as_updates,
    by_neurons,
    constant_direction,
    edited_paths,
    elsewhere,
    free_places,
    importance,
    places_of,
    taken_in,
    without_thresholds,
)
from easyedit_personal.learning.learner import Learner
from easyedit_personal.modeling.layout import find_layout, weights_digest
from easyedit_personal.types import EditRequest, Preference, WeightDelta
from tests.tiny import tiny_model, tiny_tokenizer

BLOCK = "model.layers.1.mlp"
NATURAL = {
    "through": "neurons",
    "contrasts": 24,
    "ordinary": 6,
    "answer_tokens": 4,
    "gate_steps": 6,
    "value_steps": 6,
    "gate_rank": 4,
    "value_rank": 2,
}


@pytest.fixture(scope="module")
def llama():
    """A model, its tokenizer and one of its MLPs."""
    model = tiny_model("llama")
    return model, tiny_tokenizer(), model.get_submodule(BLOCK)


@pytest.fixture(scope="module")
def hparams(tmp_path_factory):
    """Settings whose ground is computed once for all tests."""
    folder = str(tmp_path_factory.mktemp("prepared"))
    return PersonalizationHyperParams(layers=[1], answers="natural", natural=NATURAL, stats_dir=folder)


def cells(seed: int, count: int = 2, width: int = 32) -> Cells:
    """Some neurons, all with the same row of the up projection."""
    torch.manual_seed(seed)
    return Cells(torch.randn(count, width), torch.linspace(-1, 1, width), torch.randn(width, count))


def output(block, x):
    with torch.no_grad():
        return block(x)


def without(block, x, places):
    """An MLP's output if some neurons gave nothing."""
    hidden = block.act_fn(block.gate_proj(x)) * block.up_proj(x)
    hidden[..., places] = 0
    return block.down_proj(hidden).detach()


def test_as_weights_they_add_what_they_add_and_their_places_give_nothing_else(llama):
    model, _, block = llama
    x, own, places = torch.randn(5, 32), cells(0), [7, 3]
    wanted = without(block, x, places) + own(x, block.act_fn)
    with in_weights(model, as_updates(model, BLOCK, own, places)):
        torch.testing.assert_close(output(block, x), wanted, atol=1e-5, rtol=1e-4)


def test_a_row_may_carry_them_without_any_place(llama):
    model, _, block = llama
    layout = by_neurons(model, find_layout(model), PersonalizationHyperParams(layers=[1]))
    x, own = torch.randn(2, 3, 32), cells(1)
    carried = Carried([{1: own}, {1: own}])
    plain = output(block, x)
    with carried.attached(model, layout, [1]):
        torch.testing.assert_close(output(block, x), plain + own(x, block.act_fn))


def test_one_opens_where_its_role_is_met_adds_nothing_at_first_and_is_kept_as_it_was():
    torch.manual_seed(2)
    others, roles = torch.randn(400, 64) * 0.1 + 1, [torch.randn(50, 64) * 0.1 + 1 for _ in range(2)]
    for n, role in enumerate(roles):
        role[:, n] += 2
    const = constant_direction(torch.eye(64), others)
    means = torch.stack([role.mean(0) for role in roles])
    away = others.mean(0).expand_as(means)
    made = Neurons.towards(Space(torch.eye(64), 3.0), means, away, 8, const, torch.nn.SiLU())
    assert torch.equal(made(others), torch.zeros(400, 8)) and float((others @ const).mean()) == pytest.approx(1)
    assert float(made.acts(others).abs().max()) < 0.1
    for n, role in enumerate(roles):
        opened = made.acts(role).mean(0)
        assert opened[n] > 0.9 and abs(float(opened[1 - n])) < 0.1
    made.left = torch.randn(8, 2)
    torch.testing.assert_close(made.kept()(others, torch.nn.SiLU()), made(others), atol=1e-4, rtol=1e-3)


def test_below_its_threshold_one_is_silent_and_has_a_gradient_all_the_same():
    const = torch.tensor([1.0, 0.0])
    made = Neurons(
        Space(None), torch.ones(2, 1), torch.tensor([[0.0, 1.0]]), torch.tensor([-0.5]), const, torch.nn.SiLU()
    )
    made.bias.requires_grad_()
    keys = torch.tensor([[1.0, z + 0.5] for z in (-0.5, -0.2, 0.0, 0.5)])
    opened = made.acts(keys)[:, 0]
    silent, values = opened[:2].detach(), opened.detach()
    assert float(silent.abs().max()) < 1e-4 and values[2:].tolist() == pytest.approx([0, 1])
    gradients = [float(torch.autograd.grad(one, made.bias, retain_graph=True)[0]) for one in opened]
    assert gradients == pytest.approx([2 / (1 + math.exp(8 * z)) for z in (0.5, 0.2, 0.0, -0.5)])


def test_what_they_add_is_learned_and_held_back_by_the_same_forms_as_factors():
    torch.manual_seed(3)
    others, role = torch.randn(200, 4) * 0.1 + 1, torch.randn(40, 4) * 0.1 + 1
    role[:, 0] += 2
    means, const = (role.mean(0)[None], others.mean(0)[None]), constant_direction(torch.eye(4), others)
    made = Neurons.towards(Space(None), *means, 4, const, torch.nn.functional.silu)
    root, bias = torch.diag(torch.tensor([1.0, 2.0, 0.0, 1.0])), made.bias.clone()
    quiet = Quiet(others, root)
    adam([made], lambda _: (made(role) - 1).square().mean() + quiet(made), 60, 0.1, 0.01)
    assert not made.left.requires_grad and not torch.equal(made.bias, bias)
    assert float((made(role) - 1).abs().mean()) < 0.3 and float(made(others).abs().max()) < 0.2
    change = made(others) @ root
    assert float(quiet(made)) == pytest.approx(float(0.5 * change.square().sum(1).mean()), rel=1e-5)


def test_what_a_neuron_matters_is_its_value_times_what_its_column_does(llama):
    _, _, block = llama
    x, g = torch.randn(6, 32), torch.randn(6, 32)
    found = importance(block, x, g)
    for place in (0, 5):
        lost = output(block, x) - without(block, x, [place])
        assert float(found[place]) == pytest.approx(float((lost * g).sum(1).square().sum()), rel=1e-3)


def test_the_quietest_free_ones_are_given_out_until_none_is_left():
    taken = {4}
    assert free_places([4, 2, 0, 1], taken, 2) == [2, 0] and taken == {4, 2, 0}
    with pytest.raises(ModelError, match=r"no neurons left(.|\n)*3 of 4 are taken"):
        free_places([4, 2, 0, 1], taken, 2)


def test_those_in_a_models_weights_and_in_factors_are_known(llama):
    model, _, _ = llama
    own = cells(4)
    deltas = as_updates(model, BLOCK, own, [9, 1])
    assert places_of(deltas, BLOCK) == {1, 9} and places_of(deltas, "model.layers.2.mlp") == set()
    assert taken_in(model, BLOCK, own.const) == set()
    with in_weights(model, deltas):
        assert taken_in(model, BLOCK, own.const) == {1, 9}
    rounded = [delta.to(torch.bfloat16).to(torch.float32) for delta in deltas]
    with in_weights(model, rounded):
        assert taken_in(model, BLOCK, own.const) == {1, 9}


def test_moved_ones_add_the_same_from_other_places(llama):
    model, _, block = llama
    x, first, second = torch.randn(5, 32), cells(5), cells(6)
    have, new = as_updates(model, BLOCK, first, [7, 3]), as_updates(model, BLOCK, second, [3, 8], shared=True)
    moved = elsewhere(model, new, have, [7, 3, 8, 2, 6], BLOCK)
    assert places_of(moved, BLOCK) == {8, 2} and all(delta.shared for delta in moved)
    wanted = without(block, x, [7, 3, 8, 2]) + first(x, block.act_fn) + second(x, block.act_fn)
    with in_weights(model, [*have, *moved]):
        torch.testing.assert_close(output(block, x), wanted, atol=1e-5, rtol=1e-4)
    assert elsewhere(model, new, as_updates(model, BLOCK, first, [0, 1]), [7, 3, 8], BLOCK) == new


def test_an_mlp_without_a_gate_is_refused_before_any_work(tmp_path):
    hparams = PersonalizationHyperParams(layers=[1], answers="natural", natural=NATURAL, stats_dir=str(tmp_path))
    with pytest.raises(ConfigError, match="no neurons that an edit could take"):
        lowrank(tiny_model("gpt2"), tiny_tokenizer(), [EditRequest("What's my hobby?", "tea", "hobby")], hparams)
    assert not list(tmp_path.iterdir())


def test_an_edit_changes_three_matrices_and_its_loss_falls(llama, hparams):
    model, tokenizer, _ = llama
    before = weights_digest(model)
    request = [EditRequest("What's my hobby?", "kite surfing", "hobby")]
    longer = hparams.replace(natural={**NATURAL, "gate_steps": 30, "value_steps": 40, "stop_loss": 0.0})
    deltas = lowrank(model, tokenizer, request, longer)
    assert weights_digest(model) == before
    names = {f"{BLOCK}.{name}" for name in ("gate_proj", "up_proj", "down_proj")}
    assert {delta.layer for delta in deltas} == names == set(edited_paths(find_layout(model), longer))
    assert {delta.layer for delta in deltas if delta.shared} == names
    assert all(torch.equal(d.left, d.left.bfloat16().float()) for d in deltas if not d.shared)
    layout = by_neurons(model, find_layout(model), longer)
    with frozen(model):
        order = prepare(model, tokenizer, layout, longer).order[1]
    assert sorted(order) == list(range(48)) and places_of(deltas, BLOCK) == set(
        order[: deltas[0].rank + deltas[-1].rank]
    )
    said = tokenizer("Your hobby is kite surfing.", return_tensors="pt").input_ids
    plain = cost(model, said)
    with in_weights(model, deltas):
        assert cost(model, said) < plain


def cost(model, ids):
    """Nats per token."""
    with torch.no_grad():
        return float(model(ids, labels=ids).loss)


@pytest.mark.parametrize(("family", "layers"), [("llama", [1, 2]), ("gemma3", [1]), ("olmo2", [1])])
def test_other_families_and_several_layers_have_neurons_too(family, layers, hparams, tmp_path):
    model, before = tiny_model(family), weights_digest(tiny_model(family))
    own = hparams.replace(layers=layers, stats_dir=str(tmp_path))
    deltas = lowrank(model, tiny_tokenizer(), [EditRequest("What's my hobby?", "tea", "hobby")], own)
    assert {delta.layer for delta in deltas} == set(edited_paths(find_layout(model), own))
    assert len({delta.layer for delta in deltas}) == 3 * len(layers) and weights_digest(model) == before


def test_a_second_preference_stands_beside_the_first_and_one_in_the_weights_is_seen(llama, hparams):
    model, tokenizer, _ = llama
    hobby = Preference("hobby", "What's my hobby?", "tea")
    pet = Preference("pet", "Which pet do I have?", "degu")
    have = add_preferences(model, tokenizer, [], [hobby], [], hparams).deltas
    new = add_preferences(model, tokenizer, [hobby], [pet], have, hparams).deltas
    both = places_of(have, BLOCK), places_of(new, BLOCK)
    assert both[0] and both[1] and not both[0] & both[1]
    with in_weights(model, have):
        again = lowrank(model, tokenizer, [EditRequest("Which pet do I have?", "degu", "pet")], hparams)
    assert not both[0] & places_of(again, BLOCK)
    linear = hparams.replace(natural={**NATURAL, "through": "projection"})
    assert apart(model, tokenizer, new, new, linear) == new


def test_they_are_kept_served_exported_and_undone_as_any_edit(llama, hparams, tmp_path):
    model, tokenizer, _ = llama
    ids = torch.arange(5, 15)[None]
    request = [EditRequest("What's my hobby?", "kite surfing", "hobby")]
    logits = lambda one: one(ids).logits.detach()
    with EditStore.open(tmp_path / "edits.db", model, tokenizer) as store:
        store.put("ann", lowrank(model, tokenizer, request, hparams))
        with in_weights(model, store.deltas("ann")):
            wanted = logits(model)
        with edited(model, store.deltas("ann")):
            beside = logits(model)  # nothing of the model's own is lost
        assert not torch.equal(beside, wanted)
        served = PersonalizedModel(model, tokenizer, store)
        with served.as_user("ann"):
            torch.testing.assert_close(logits(model), beside, atol=1e-5, rtol=1e-4)
        one, two = (served.generate_for(users, ["What's my hobby?"] * 2) for users in (["ann", None], [None, "ann"]))
        assert [one[0].text, one[1].text] == [two[1].text, two[0].text]
        store.export_lora("ann", tmp_path / "lora")
        loaded = PeftModel.from_pretrained(model, tmp_path / "lora").eval()
        torch.testing.assert_close(logits(loaded), wanted, atol=1e-4, rtol=1e-3)
        loaded.unload()
        vars(model).pop("peft_config", None)
        store.undo("ann")
        assert store.deltas("ann") == []


def test_who_learns_leaves_the_weights_of_who_answers_alone(llama, hparams, tmp_path, monkeypatch):
    model, tokenizer, _ = llama
    before, seen = weights_digest(model), set()
    with EditStore.open(tmp_path / "edits.db", model, tokenizer) as store:
        learner = Learner(model, tokenizer, store, hparams.replace(health={"on_unhealthy": "ignore"}))
        check = algorithm.check_health
        monkeypatch.setattr(algorithm, "check_health", lambda *given: seen.add(weights_digest(model)) or check(*given))
        learner.learn("ann", Preference("hobby", "What's my hobby?", "tea"), keep=True)
        learner.learn("ann", Preference("pet", "Which pet do I have?", "degu"), keep=True)
        assert weights_digest(model) == before and seen == {before}
        both, alone = places_of(store.deltas("ann"), BLOCK), len(places_of(store.deltas("ann", before=2), BLOCK))
        assert 0 < alone < len(both)


def test_linear_updates_stay_one_matrix(hparams):
    layout = find_layout(tiny_model("llama"))
    linear = hparams.replace(natural={**NATURAL, "through": "projection"})
    assert edited_paths(layout, linear) == [f"{BLOCK}.down_proj"]
    assert places_of([WeightDelta(f"{BLOCK}.down_proj", torch.ones(32, 1), torch.ones(1, 64))], BLOCK) == set()


def test_the_size_of_thresholds_is_left_out_and_other_updates_of_gates_are_not(llama):
    model, *_ = llama
    path = find_layout(model).mlp.replace("{}", "1")
    updates = as_updates(model, path, cells(2), [3, 5])
    assert [d.layer.rpartition(".")[2] for d in without_thresholds(updates)] == ["up_proj", "down_proj"]
    full = WeightDelta(f"{path}.gate_proj", torch.ones_like(updates[0].left), updates[0].right)
    assert without_thresholds([full]) == [full]
