"""Bad numbers and bad luck, the same for every kernel: types, overflow, dead units, interruptions, determinism."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from transformers.models.llama import modeling_llama

from easyedit_personal import EditRequest, PersonalizationHyperParams
from easyedit_personal.errors import ConfigError, ModelError, PersonalizationError
from easyedit_personal.kernels import metric
from easyedit_personal.kernels.solve import contrast, precondition
from easyedit_personal.modeling.layout import find_layout, weights_digest
from easyedit_personal.registry import KERNELS
from tests.tiny import tiny_model

NAMES = ("rome", "memit", "lowrank", "finetune")
HOBBY = EditRequest("What's my hobby?", "hiking", "hobby", cluster="a")
FOOD = EditRequest("What shall I eat for my dinner?", "noodles", "dinner", cluster="b")


@pytest.fixture
def settings(tmp_path):
    def make(kernel, **changes):
        values = {
            "kernel": kernel,
            "layers": [1],
            "v_num_grad_steps": 4,
            "v_lr": 0.1,
            "lowrank": {"rank": 2, "steps": 3, "polish": 2},
            "finetune": {"lr": 0.01, "steps": 3},
            "preserve": {"weight": 0.0},
            "cluster": {"size": 1, "indirect": 0, "behind": 0},
            "mom2_n_samples": 30,
            "stats_dir": str(tmp_path / "stats"),
        }
        return PersonalizationHyperParams(**{**values, **changes})

    return make


def run(kernel, model, tokenizer, requests, hparams):
    return KERNELS.get(kernel)(model, tokenizer, requests, hparams)


def state(model):
    """All that an edit must leave as it is."""
    return {
        "weights": weights_digest(model),
        "training": [module.training for module in model.modules()],
        "trainable": [parameter.requires_grad for parameter in model.parameters()],
        "grad": [None if p.grad is None else p.grad.sum().item() for p in model.parameters()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
    }


def in_training(model):
    """A model in the middle of somebody's training: mixed modes and flags, gradients waiting for a step."""
    model.train()
    model.model.layers[0].eval()
    model.model.norm.weight.requires_grad_(False)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    return model


@pytest.mark.parametrize("kernel", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_factors_are_finite_float32_in_every_type(tokenizer, settings, kernel, dtype):
    model = in_training(tiny_model("llama", dtype, initializer_range=0.2))
    before = state(model)
    for delta in run(kernel, model, tokenizer, [HOBBY], settings(kernel)):
        assert delta.left.dtype == delta.right.dtype == torch.float32
        assert float(delta.update().abs().max()) > 0
    assert state(model) == before


@pytest.mark.parametrize("kernel", NAMES)
def test_overflow_is_our_error_and_leaves_the_model_alone(loud_llama, tokenizer, settings, kernel):
    wild = {"v_lr": 1e37, "clamp_norm_factor": 1e38, "lowrank": {"lr": 1e37, "steps": 30, "rank": 2}}
    hparams = settings(kernel, **wild, finetune={"lr": 1e37, "steps": 3})
    before = state(in_training(loud_llama))
    with pytest.raises(ModelError, match="finite"):
        run(kernel, loud_llama, tokenizer, [HOBBY], hparams)
    assert state(loud_llama) == before


@pytest.mark.parametrize("rate", [1e38, float("inf")])
def test_rates_that_no_float_can_hold_are_faults_of_the_settings(settings, rate):
    for change in ({"v_lr": rate}, {"lowrank": {"lr": rate}}, {"finetune": {"lr": rate}}):
        with pytest.raises(ConfigError, match="lr"):
            settings("rome", **change)


@pytest.mark.parametrize("kernel", NAMES)
def test_broken_weights_are_our_error(loud_llama, tokenizer, settings, kernel):
    with torch.no_grad():
        loud_llama.model.layers[2].mlp.up_proj.weight[0, 0] = float("inf")
    before = state(loud_llama)
    with pytest.raises(ModelError, match="finite"):
        run(kernel, loud_llama, tokenizer, [HOBBY], settings(kernel))
    assert state(loud_llama) == before


@pytest.mark.parametrize("moments", [False, True])
@pytest.mark.parametrize("kernel", NAMES)
def test_an_mlp_without_any_activity_is_refused_or_survived(loud_llama, tokenizer, settings, kernel, moments):
    """Zero keys: nothing that a down projection multiplies can change what it says."""
    with torch.no_grad():
        loud_llama.model.layers[1].mlp.up_proj.weight.zero_()
    before = state(loud_llama)
    try:
        deltas = run(kernel, loud_llama, tokenizer, [HOBBY], settings(kernel, mom2_adjustment=moments))
    except PersonalizationError as error:
        assert isinstance(error, ModelError)
    else:
        assert all(delta.update().isfinite().all() for delta in deltas)
    assert state(loud_llama) == before


def test_second_moments_that_are_singular_or_empty():
    """A unit that is never active costs the ridge; units of which none is active are no statistics."""
    once = torch.randn(1, 6)
    keys, singular = torch.randn(2, 6), once.T @ once
    assert precondition(keys, singular).isfinite().all()
    with pytest.raises(ModelError, match="positive definite"):
        precondition(keys, torch.zeros(6, 6))
    params = PersonalizationHyperParams().lowrank
    assert contrast(singular, singular, singular, params).isfinite().all()
    with pytest.raises(ModelError, match="second moments"):
        contrast(torch.zeros(6, 6), singular, singular, params)
    with pytest.raises(ModelError, match="second moments"):
        contrast(singular, torch.full((6, 6), float("nan")), singular, params)


def _interrupt(monkeypatch, at):
    """Ctrl-C at the n-th MLP that runs; the calls so far are counted in the list that comes back."""
    calls, forward = [], modeling_llama.LlamaMLP.forward

    def stops(self, *args):
        calls.append(None)
        if len(calls) == at:
            raise KeyboardInterrupt
        return forward(self, *args)

    monkeypatch.setattr(modeling_llama.LlamaMLP, "forward", stops)
    return calls


@pytest.mark.parametrize("kernel", NAMES)
def test_ctrl_c_anywhere_leaves_the_model_as_it_was(loud_llama, tokenizer, settings, monkeypatch, kernel):
    hparams = settings(kernel, layers=[1, 2], preserve={"neutral": 2, "other_attribute": 1, "negated": 1})
    before = state(in_training(loud_llama))
    run(kernel, loud_llama, tokenizer, [HOBBY], hparams)  # what is found by trial is remembered: later runs are shorter
    with monkeypatch.context() as patch:
        calls = _interrupt(patch, -1)
        run(kernel, loud_llama, tokenizer, [HOBBY], hparams)
    for at in sorted({1, 2, len(calls) // 3, len(calls) // 2, len(calls)}):
        with monkeypatch.context() as patch:
            _interrupt(patch, at)
            with pytest.raises(KeyboardInterrupt):
                run(kernel, loud_llama, tokenizer, [HOBBY], hparams)
        assert state(loud_llama) == before


SOLVES = ("cholesky", "solve", "pinv", "svd", "eigh", "eigvalsh")


@pytest.mark.parametrize(("kernel", "at_least"), [("rome", 2), ("memit", 1), ("lowrank", 2), ("finetune", 0)])
def test_ctrl_c_in_a_solve_leaves_the_model_as_it_was(loud_llama, tokenizer, settings, monkeypatch, kernel, at_least):
    hparams = settings(kernel, layers=[1, 2], mom2_adjustment=True)
    before, met = state(in_training(loud_llama)), []
    for name in SOLVES:
        with monkeypatch.context() as patch:

            def stops(*_, name=name, **__):
                met.append(name)
                raise KeyboardInterrupt

            patch.setattr(torch.linalg, name, stops)
            metric._METRICS.clear()
            with suppress(KeyboardInterrupt):
                run(kernel, loud_llama, tokenizer, [HOBBY, FOOD], hparams)
        assert state(loud_llama) == before
    assert len(set(met)) >= at_least, met


@pytest.mark.parametrize("kernel", NAMES)
def test_the_same_seed_gives_the_same_factors_bit_for_bit(loud_llama, tokenizer, settings, kernel):
    hparams = settings(kernel, preserve={"neutral": 2, "other_attribute": 1, "negated": 1}, seed=3)
    first = run(kernel, loud_llama, tokenizer, [HOBBY, FOOD], hparams)
    torch.manual_seed(99)  # what others have drawn in between does not count
    again = run(kernel, loud_llama, tokenizer, [HOBBY, FOOD], hparams)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.left, other.left) and torch.equal(one.right, other.right)


def test_a_users_factors_do_not_depend_on_who_shares_the_batch(loud_llama, tokenizer, settings):
    """Within 1e-5, relative: padding and the order of sums differ."""
    from easyedit_personal.kernels.rome import rome_for_many

    hparams = settings("rome")
    together = rome_for_many(loud_llama, tokenizer, [[HOBBY], [FOOD], [HOBBY]], hparams)
    for request, deltas in zip((HOBBY, FOOD), together):
        (alone,), (shared,) = run("rome", loud_llama, tokenizer, [request], hparams), deltas
        assert (alone.update() - shared.update()).norm() < 1e-5 * alone.update().norm()


def test_quantised_and_unloaded_weights_are_refused_with_the_reason(loud_llama, tokenizer, settings):
    """A stand-in for 8-bit and 4-bit layers: a linear layer whose weight holds integers."""
    for layer in loud_llama.model.layers:
        whole = layer.mlp.down_proj
        packed = torch.nn.Linear(whole.in_features, whole.out_features, bias=False)
        packed.weight = torch.nn.Parameter(torch.zeros(whole.weight.shape, dtype=torch.int8), requires_grad=False)
        layer.mlp.down_proj = packed
    for kernel in NAMES:
        with pytest.raises(ModelError, match="quantised"):
            run(kernel, loud_llama, tokenizer, [HOBBY], settings(kernel))
    with torch.device("meta"):
        empty = type(loud_llama)(loud_llama.config)
    for kernel in NAMES:
        with pytest.raises(ModelError, match="meta"):
            run(kernel, empty, tokenizer, [HOBBY], settings(kernel))


@pytest.mark.parametrize("kernel", NAMES)
def test_tied_embeddings_stay_tied_and_untouched(tokenizer, settings, kernel):
    model = tiny_model("llama", initializer_range=0.2, tie_word_embeddings=True)
    before = state(model)
    (delta, *_) = run(kernel, model, tokenizer, [HOBBY], settings(kernel))
    assert delta.layer == find_layout(model).rewrite_path(1) and state(model) == before
    assert model.lm_head.weight is model.model.embed_tokens.weight
