"""Factor hooks: every row of a batch gets what its user's edited model gives, and no hook outlives its block."""

from __future__ import annotations

import pytest
import torch
import transformers

from easyedit_personal.errors import ModelError
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.modeling.layout import find_layout, get_module
from easyedit_personal.modeling.tokens import collate, encode
from easyedit_personal.serving.multi_adapter import merged, mixed
from easyedit_personal.types import WeightDelta
from tests.tiny import tiny_model

TEXTS = ["What's my hobby?", "Who is your doctor and where do they live?", "hi", "Tell me more.", "What food?"]


def random_delta(model, rank, layer=1, seed=0):
    layout = find_layout(model)
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(layout.d_model, rank, generator=generator) * 0.3
    return WeightDelta(layout.rewrite_path(layer), left, torch.randn(rank, layout.d_mlp, generator=generator))


def people(model, ranks=(2, 5, 1)):
    """Users with updates at one layer or two."""
    users = []
    for seed, rank in enumerate(ranks):
        deltas = [random_delta(model, rank, seed=seed), random_delta(model, 3, layer=1 + seed % 2, seed=10 + seed)]
        users.append(merged(deltas))
    return users


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def last_logits(model, batch, rows=None):
    logits = model(**batch.model_inputs()).logits
    return logits[torch.arange(len(logits)), batch.last_index]


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_every_row_is_answered_by_its_own_model(any_model, tokenizer, side):
    alice, bob, carol = people(any_model)
    rows = [alice, {}, bob, carol, alice]
    batch = collate([encode(tokenizer, text) for text in TEXTS], tokenizer, side=side)
    with mixed(any_model, rows):
        got = last_logits(any_model, batch)
    for number, user in enumerate(rows):
        with in_weights(any_model, list(user.values())):
            wanted = last_logits(any_model, batch)[number]
        assert (got[number] - wanted).abs().max() < 1e-4
    assert (got[0] - last_logits(any_model, batch)[0]).abs().max() > 1e-2
    assert hooks(any_model) == 0


@pytest.mark.parametrize(("ranks", "groups_wanted"), [((2, 2, 2), 1), ((1, 30, 2), 3), ((30, 1, 1), 2)])
@torch.no_grad()
def test_very_different_ranks_share_a_batch(llama, tokenizer, ranks, groups_wanted):
    users = [merged([random_delta(llama, rank, seed=seed)]) for seed, rank in enumerate(ranks)]
    rows = [*users, {}, {}]
    batch = collate([encode(tokenizer, text) for text in TEXTS], tokenizer)
    with mixed(llama, rows) as adapters:
        got = last_logits(llama, batch)
        (groups,) = adapters._groups.values()
    assert len(groups) == groups_wanted
    for number, user in enumerate(rows):
        with in_weights(llama, list(user.values())):
            assert (got[number] - last_logits(llama, batch)[number]).abs().max() < 1e-4


@torch.no_grad()
def test_rows_of_a_forward_pass_are_announced(llama, tokenizer):
    alice, bob, carol = people(llama)
    batch = collate([encode(tokenizer, text) for text in TEXTS[:3]], tokenizer)
    with mixed(llama, [alice, bob, carol]) as adapters:
        everybody = last_logits(llama, batch)
        adapters.set_rows([2, 0])
        some = last_logits(llama, batch.select([2, 0]))
        assert (some - everybody[[2, 0]]).abs().max() < 1e-5
        with pytest.raises(ModelError, match="number of rows"):
            last_logits(llama, batch)
    assert hooks(llama) == 0


@torch.no_grad()
def test_a_model_that_flattens_its_rows(tokenizer):
    """OPT's second linear layer sees [rows x columns, width]."""
    torch.manual_seed(0)
    config = transformers.OPTConfig(
        vocab_size=400, hidden_size=32, ffn_dim=48, num_hidden_layers=3, num_attention_heads=4, word_embed_proj_dim=32
    )
    model = transformers.OPTForCausalLM(config).eval()
    rows = [*people(model), {}, {}]
    batch = collate([encode(tokenizer, text) for text in TEXTS], tokenizer)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    picked = torch.arange(5), batch.last_index
    with mixed(model, rows):
        got = model(**inputs).logits[picked]
    for number, user in enumerate(rows):
        with in_weights(model, list(user.values())):
            assert (got[number] - model(**inputs).logits[picked][number]).abs().max() < 1e-4


@torch.no_grad()
def test_one_users_batch_and_the_base_models_batch(llama, tokenizer):
    alice = people(llama)[0]
    batch = collate([encode(tokenizer, text) for text in TEXTS], tokenizer)
    plain = last_logits(llama, batch)
    with mixed(llama, [{}] * 5):
        assert torch.equal(last_logits(llama, batch), plain)
    with mixed(llama, [alice] * 5) as adapters:
        got = last_logits(llama, batch)
        assert all(group.out.ndim == 2 for (group,) in adapters._groups.values())  # one product, not one per row
    with in_weights(llama, list(alice.values())):
        assert (got - last_logits(llama, batch)).abs().max() < 1e-4


@torch.no_grad()
def test_quantised_projections_can_be_personalised(llama, tokenizer):
    """Their weights cannot be edited in place; what goes in and out of them is all that a hook needs."""
    delta = random_delta(llama, 2, layer=2)
    layer = get_module(llama, "model.layers.2.mlp")

    class Packed(torch.nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.linear, self.in_features, self.out_features = linear, linear.in_features, linear.out_features

        def forward(self, x):
            return self.linear(x)

    batch = collate([encode(tokenizer, TEXTS[0])], tokenizer)
    with in_weights(llama, [delta]):
        wanted = last_logits(llama, batch)
    layer.down_proj = Packed(layer.down_proj)
    with mixed(llama, [{delta.layer: delta}]):
        assert (last_logits(llama, batch) - wanted).abs().max() < 1e-4


@torch.no_grad()
def test_half_precision_keeps_its_type(tokenizer):
    """Factors in float32, a model in bfloat16: rounding differs from the edit in place, the answer hardly."""
    model = tiny_model("llama", torch.bfloat16)
    alice = people(model)[0]
    batch = collate([encode(tokenizer, text) for text in TEXTS], tokenizer)
    with mixed(model, [alice, {}, alice, {}, alice]):
        got = last_logits(model, batch)
    with in_weights(model, list(alice.values())):
        wanted = last_logits(model, batch)
    plain = last_logits(model, batch)
    assert got.dtype == torch.bfloat16 and torch.equal(got[[1, 3]], plain[[1, 3]])
    assert (got - wanted)[[0, 2, 4]].abs().max() < 0.05 * (wanted - plain).abs().max()


def test_what_does_not_fit_is_refused_before_any_hook(llama):
    other = tiny_model("llama", intermediate_size=64)
    for wrong in (random_delta(other, 2), WeightDelta("model.layers.9.mlp.down_proj", *factors_like(llama))):
        with pytest.raises(ModelError), mixed(llama, [people(llama)[0], {wrong.layer: wrong}]):
            pytest.fail("the block was entered")
        assert hooks(llama) == 0


def factors_like(model):
    delta = random_delta(model, 1)
    return delta.left, delta.right


def test_hooks_go_after_an_exception(llama):
    with pytest.raises(KeyboardInterrupt), mixed(llama, people(llama)):
        assert hooks(llama) == 2
        raise KeyboardInterrupt
    assert hooks(llama) == 0


def test_merging_is_exact(llama):
    deltas = [random_delta(llama, 3, seed=seed) for seed in range(4)]
    total = sum(delta.update().double() for delta in deltas)
    (one,) = merged(deltas).values()
    assert one.rank == 12 and (one.update().double() - total).abs().max() < 1e-5
    many = [random_delta(llama, 3, seed=seed) for seed in range(40)]
    (dense,) = merged(many).values()
    assert dense.rank == 32
    assert (dense.update().double() - sum(d.update().double() for d in many)).abs().max() < 1e-5
    assert merged([]) == {} and merged(deltas[:1])[deltas[0].layer] is deltas[0]
    odd = WeightDelta(deltas[0].layer, torch.zeros(5, 1), torch.zeros(1, 5))
    with pytest.raises(ModelError, match="different sizes"):
        merged([deltas[0], odd])
