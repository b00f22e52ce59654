"""ROME: the model does what the solve promised, on every architecture, and is untouched in between."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from easyedit_personal import EditRequest, PersonalizationHyperParams
from easyedit_personal.errors import ModelError, RequestError
from easyedit_personal.kernels import rome as module
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.key_options import KeyOptions
from easyedit_personal.kernels.keys import all_rows, make_clusters, phrase_means, read
from easyedit_personal.kernels.rome import rome, rome_for_many
from easyedit_personal.kernels.values import _Problem
from easyedit_personal.modeling.layout import find_layout, weights_digest
from easyedit_personal.modeling.stats import second_moments
from easyedit_personal.modeling.tokens import collate, encode
from easyedit_personal.registry import KERNELS
from tests.tiny import LINES, tiny_model, tiny_tokenizer

NAMES = ("hobby", "pastime", "favourite music", "best pet", "dream job", "doctor", "food", "place by the sea", "town")
CLUSTER = [EditRequest(f"What's my {name}?", "hiking", name, cluster="a") for name in NAMES]
FOOD = EditRequest("What shall I eat for my dinner?", "noodles", "dinner", cluster="b")


@pytest.fixture
def settings(tmp_path):
    def make(**changes):
        values = {"layers": [1], "v_num_grad_steps": 6, "v_lr": 0.1, "clamp_norm_factor": 1e4, "v_weight_decay": 0.0}
        return PersonalizationHyperParams(stats_dir=str(tmp_path / "stats"), mom2_n_samples=30, **{**values, **changes})

    return make


def outputs(model, tokenizer, requests, hparams, layer=1):
    """Each phrase's mean output of the down projection at its key, [N, d_model]."""
    clusters = make_clusters(model, tokenizer, requests, hparams, KeyOptions())
    seen = read(model, tokenizer, find_layout(model), all_rows(clusters), layer)
    return phrase_means(seen.outputs, clusters, KeyOptions().key_weights)


def target_loss(model, tokenizer, request, **options):
    batch = collate([encode(tokenizer, request.prompt, target=request.target_new, **options)], tokenizer)
    rows, columns, ids = batch.targets()
    with torch.no_grad():
        return float(F.cross_entropy(model(**batch.model_inputs()).logits[rows, columns].float(), ids))


def test_it_is_registered():
    assert KERNELS.get("rome") is rome


@pytest.mark.parametrize("mom2", [False, True])
def test_every_phrase_is_shifted_by_its_clusters_value(any_model, tokenizer, settings, mom2):
    """By effect in the running model: orientation, bias and averages are all in it."""
    hparams, requests = settings(mom2_adjustment=mom2), [CLUSTER[0], FOOD, CLUSTER[2], CLUSTER[3]]
    (delta,) = rome(any_model, tokenizer, requests, hparams)
    before = outputs(any_model, tokenizer, requests, hparams)
    with in_weights(any_model, [delta]):
        after = outputs(any_model, tokenizer, requests, hparams)
    assert delta.rank == 2  # clusters, not phrases
    assert delta.left.norm(dim=0).min() > 0.1
    wanted = delta.left.T[[0, 0, 0, 1]]  # phrases cluster by cluster
    torch.testing.assert_close(after - before, wanted, atol=1e-2, rtol=1e-2)


def test_the_answer_becomes_the_target(loud_model, tokenizer, settings):
    """A key at the prompt's end, in the last layer, decides the next token alone: what the optimisation reached is
    what the edited model shows."""
    request, options = EditRequest("What's my hobby?", "Q"), {"end_of_turn": False}
    hparams = settings(v_num_grad_steps=120, v_lr=0.3, context_templates=["{}"], layers=[3], kernel="rome", **options)
    assert len(encode(tokenizer, request.prompt, target="Q", **options).target_ids) == 1
    (delta,) = rome(loud_model, tokenizer, [request], hparams)
    with frozen(loud_model):
        clusters = make_clusters(loud_model, tokenizer, [request], hparams, KeyOptions())
        problem = _Problem(loud_model, tokenizer, find_layout(loud_model), clusters, 3, hparams, KeyOptions())
        reached = float(problem.losses(delta.left.T))
    before = target_loss(loud_model, tokenizer, request, **options)
    with in_weights(loud_model, [delta]):
        after = target_loss(loud_model, tokenizer, request, **options)
    assert after == pytest.approx(reached, rel=1e-3)
    assert after < before - 1.5


def test_one_key_is_equation_two(llama, tokenizer, settings):
    hparams = settings(mom2_adjustment=True, mom2_dtype="float64", kernel="rome")
    (delta,) = rome(llama, tokenizer, CLUSTER[:1], hparams)
    clusters = make_clusters(llama, tokenizer, CLUSTER[:1], hparams, KeyOptions())
    key = read(llama, tokenizer, find_layout(llama), all_rows(clusters), 1).keys.double().mean(0)
    moment = second_moments(llama, tokenizer, [1], hparams)[1]
    moment += 1e-4 * moment.diagonal().mean() * torch.eye(48, dtype=torch.float64)
    direction = torch.linalg.solve(moment, key)
    torch.testing.assert_close(delta.right[0].double(), direction / (key @ direction), rtol=1e-4, atol=1e-6)


def test_nine_phrases_make_one_rank(llama, tokenizer, settings):
    (delta,) = rome(llama, tokenizer, CLUSTER, settings())
    assert (delta.rank, delta.shape, delta.layer) == (1, (32, 48), "model.layers.1.mlp.down_proj")
    assert delta.left.dtype == delta.right.dtype == torch.float32


def test_statistics_protect_the_directions_that_text_uses(llama, tokenizer, settings, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(LINES), encoding="utf-8")
    hparams = settings(mom2_dataset=str(text), mom2_dtype="float64")
    moment = second_moments(llama, tokenizer, [1], hparams)[1]
    disturbed = {}
    for mom2 in (False, True):
        (delta,) = rome(llama, tokenizer, CLUSTER, hparams.replace(mom2_adjustment=mom2))
        right = delta.right.double()
        disturbed[mom2] = float(right @ moment @ right.T)
    assert disturbed[True] < 0.8 * disturbed[False]


def test_a_phrase_given_twice_changes_nothing_and_contradictions_do_not_explode(llama, tokenizer, settings):
    """The same key twice: a singular system for a plain inverse."""
    once, twice = (rome(llama, tokenizer, CLUSTER[:1] * n, settings(context_templates=["{}"]))[0] for n in (1, 2))
    torch.testing.assert_close(twice.update(), once.update(), atol=1e-3, rtol=1e-2)
    other = EditRequest(CLUSTER[0].prompt, "noodles", CLUSTER[0].subject, cluster="c")
    (both,) = rome(llama, tokenizer, [CLUSTER[0], other], settings(context_templates=["{}"]))
    assert both.update().norm() < 3 * once.update().norm()


def test_the_tokenizers_padding_side_does_not_matter(llama, settings):
    updates = []
    for side in ("left", "right"):
        tokenizer = copy.deepcopy(tiny_tokenizer())
        tokenizer.padding_side = side
        updates.append(rome(llama, tokenizer, CLUSTER[:3], settings())[0].update())
        assert tokenizer.padding_side == side
    assert torch.equal(*updates)


def state(model):
    """Everything that must be as found."""
    flags = [(p.requires_grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    return weights_digest(model), [m.training for m in model.modules()], flags, hooks, torch.random.get_rng_state()


def assert_same_state(before, after):
    assert before[0] == after[0]
    assert before[1] == after[1]
    assert before[3] == after[3]
    assert torch.equal(before[4], after[4])
    for (flag, grad), (flag_now, grad_now) in zip(before[2], after[2]):
        assert flag == flag_now
        assert (grad is None) == (grad_now is None)
        assert grad is None or torch.equal(grad, grad_now)


def worn(model):
    """As a model comes out of somebody's training: some flags, some gradients."""
    model.train()
    model.get_input_embeddings().requires_grad_(False)
    model(torch.tensor([[5, 6]])).logits.sum().backward()
    return model


def test_the_model_is_as_found(any_model, tokenizer, settings):
    before = state(worn(any_model))
    rome(any_model, tokenizer, [*CLUSTER[:2], FOOD], settings(layers=[2, 1], mom2_adjustment=True))
    assert_same_state(before, state(any_model))


@pytest.mark.parametrize("where", ["optimise_values", "precondition", "equality", "second_moments"])
def test_the_model_is_as_found_when_it_raises(llama, tokenizer, settings, monkeypatch, where):
    before, real, calls = state(worn(llama)), getattr(module, where), []

    def fails(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2 or where == "second_moments":  # in the second layer, with the first one edited
            raise RuntimeError("by the test")
        return real(*args, **kwargs)

    monkeypatch.setattr(module, where, fails)
    with pytest.raises(RuntimeError, match="by the test"):
        rome(llama, tokenizer, CLUSTER[:2], settings(layers=[1, 2], mom2_adjustment=True))
    assert_same_state(before, state(llama))


@pytest.mark.parametrize("layers", [[1], [1, 2]])
def test_many_users_together_are_each_alone(llama, tokenizer, settings, layers, monkeypatch):
    hparams = settings(layers=layers, mom2_adjustment=True, mom2_dtype="float64")
    users = [CLUSTER[:3], [FOOD], [CLUSTER[4], replace(FOOD, target_new="by the sea")]]
    packs, optimise = [], module.optimise_values
    monkeypatch.setattr(module, "optimise_values", lambda *given: packs.append(given[3]) or optimise(*given))
    together = rome_for_many(llama, tokenizer, users, hparams)
    assert len(packs) == (1 if len(layers) == 1 else 2 * len(users))
    for deltas, requests in zip(together, users):
        for delta, alone in zip(deltas, rome(llama, tokenizer, requests, hparams), strict=True):
            assert delta.layer == alone.layer
            assert delta.left.shape == alone.left.shape
            torch.testing.assert_close(delta.update(), alone.update(), atol=1e-4, rtol=1e-3)
    assert rome_for_many(llama, tokenizer, [], hparams) == []


def test_one_users_faulty_request_stops_everybody(llama, tokenizer, settings):
    with pytest.raises(RequestError, match="empty"):
        rome_for_many(llama, tokenizer, [[FOOD], [replace(FOOD, target_new="")]], settings())


def test_several_layers_one_after_the_other(llama, tokenizer, settings):
    first, second = rome(llama, tokenizer, CLUSTER[:2], settings(layers=[2, 1]))
    assert [first.layer, second.layer] == ["model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"]
    with in_weights(llama, [first]):
        (again,) = rome(llama, tokenizer, CLUSTER[:2], settings(layers=[2]))
    torch.testing.assert_close(again.update(), second.update())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_get_float32_factors(tokenizer, settings, dtype):
    model = tiny_model("llama", dtype)
    hparams = settings(mom2_adjustment=True)
    (delta,) = rome(model, tokenizer, CLUSTER[:2], hparams)
    assert delta.left.dtype == delta.right.dtype == torch.float32
    (full,) = rome(tiny_model("llama"), tokenizer, CLUSTER[:2], hparams.replace(stats_dir=hparams.stats_dir + "32"))
    assert F.cosine_similarity(delta.left.flatten(), full.left.flatten(), dim=0) > 0.8
    before = outputs(model, tokenizer, CLUSTER[:2], hparams)
    with in_weights(model, [delta]):
        after = outputs(model, tokenizer, CLUSTER[:2], hparams)
    torch.testing.assert_close(after - before, delta.left.T.expand(2, -1), atol=0.02, rtol=0.05)


def test_bad_input_is_refused_before_any_work(llama, tokenizer, settings):
    ran = []
    llama.model.embed_tokens.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(RequestError, match="list of requests is empty"):
        rome(llama, tokenizer, [], settings())
    with pytest.raises(RequestError, match="request 1"):
        rome(llama, tokenizer, [CLUSTER[0], EditRequest("What?", "", None)], settings())
    with pytest.raises(ModelError, match="no layer 7"):
        rome(llama, tokenizer, CLUSTER[:1], settings(layers=[1, 7]))
    assert ran == []


def test_a_diverging_optimisation_is_an_error(llama, tokenizer, settings):
    with torch.no_grad():
        llama.model.layers[3].mlp.up_proj.weight[0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        rome(llama, tokenizer, CLUSTER[:1], settings())
