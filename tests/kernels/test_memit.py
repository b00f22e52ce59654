"""MEMIT: several layers share the change, each sees the earlier ones, and the model is as found."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal import EditRequest, PersonalizationHyperParams
from easyedit_personal.errors import ModelError, RequestError
from easyedit_personal.kernels import memit as module
from easyedit_personal.kernels.apply import edited
from easyedit_personal.kernels.base import encode_requests, frozen
from easyedit_personal.kernels.keys import all_rows, make_clusters, phrase_means, read
from easyedit_personal.kernels.memit import OURS, memit
from easyedit_personal.kernels.solve import RIDGE
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.stats import second_moments
from easyedit_personal.modeling.tokens import collate
from easyedit_personal.registry import KERNELS
from tests.kernels.test_rome import CLUSTER, FOOD, assert_same_state, state, worn
from tests.tiny import POST_NORM, tiny_model

REQUESTS = [CLUSTER[0], FOOD, CLUSTER[1]]


@pytest.fixture
def settings(tmp_path):
    def make(**changes):
        values = {
            **{"layers": [0, 1, 2], "v_num_grad_steps": 6, "v_lr": 0.1, "clamp_norm_factor": 2.0},
            **{"v_weight_decay": 0.0, "mom2_update_weight": 1e-4, "kernel": "memit"},
        }
        return PersonalizationHyperParams(stats_dir=str(tmp_path / "stats"), mom2_n_samples=30, **{**values, **changes})

    return make


def hidden(model, tokenizer, clusters, layer=2):
    seen = read(model, tokenizer, find_layout(model), all_rows(clusters), layer)
    return phrase_means(seen.hidden, clusters, OURS.key_weights)


def test_it_is_registered():
    assert KERNELS.get("memit") is memit


@pytest.mark.parametrize("mom2", [False, True])
def test_the_hidden_states_arrive_where_they_should(any_model, tokenizer, settings, mom2):
    """With a small lambda the layers together bring every phrase to its z; less exactly behind a norm of the MLP's
    output (Gemma, OLMo 2), which can turn its input's image but not lengthen it."""
    hparams = settings(mom2_adjustment=mom2)
    deltas = memit(any_model, tokenizer, REQUESTS, hparams)
    layout = find_layout(any_model)
    with frozen(any_model):
        clusters = make_clusters(any_model, tokenizer, REQUESTS, hparams, OURS)
        wanted = module._wanted(any_model, tokenizer, layout, clusters, 2, hparams, OURS)
    before = hidden(any_model, tokenizer, clusters)
    with edited(any_model, deltas):
        after = hidden(any_model, tokenizer, clusters)
    missing = (wanted - after).norm() / (wanted - before).norm()
    assert missing < (0.9 if layout.family in POST_NORM else 0.1)


def test_one_layer_is_equation_fourteen(llama, tokenizer, settings):
    hparams = settings(layers=[1], mom2_adjustment=True, mom2_dtype="float64", mom2_update_weight=3.0)
    (delta,) = memit(llama, tokenizer, REQUESTS, hparams)
    layout = find_layout(llama)
    with frozen(llama):
        clusters = make_clusters(llama, tokenizer, REQUESTS, hparams, OURS)
        wanted = module._wanted(llama, tokenizer, layout, clusters, 1, hparams, OURS).double()
    seen = read(llama, tokenizer, layout, all_rows(clusters), 1)
    keys = phrase_means(seen.keys, clusters, OURS.key_weights).double()
    residual = wanted - phrase_means(seen.hidden, clusters, OURS.key_weights).double()
    moment = second_moments(llama, tokenizer, [1], hparams)[1]
    moment += 1e-4 * moment.diagonal().mean() * torch.eye(48, dtype=torch.float64)
    update = residual.T @ keys @ torch.linalg.inv(3.0 * moment + keys.T @ keys)
    torch.testing.assert_close(delta.update().double(), update, rtol=1e-3, atol=1e-6)


def test_layers_share_the_change_and_see_the_earlier_ones(llama, tokenizer, settings):
    """The first of three layers takes a third of the residual; the last takes what is left by then."""
    hparams = settings()
    deltas = memit(llama, tokenizer, REQUESTS, hparams)
    assert [delta.layer for delta in deltas] == [f"model.layers.{i}.mlp.down_proj" for i in range(3)]
    assert {delta.rank for delta in deltas} == {3}
    layout = find_layout(llama)
    with frozen(llama):
        clusters = make_clusters(llama, tokenizer, REQUESTS, hparams, OURS)
        wanted = module._wanted(llama, tokenizer, layout, clusters, 2, hparams, OURS)
    torch.testing.assert_close(deltas[0].left.T, (wanted - hidden(llama, tokenizer, clusters)) / 3)
    with edited(llama, deltas[:2]):
        left_over = wanted - hidden(llama, tokenizer, clusters)
    torch.testing.assert_close(deltas[2].left.T, left_over, rtol=1e-4, atol=1e-5)


def test_a_larger_lambda_changes_less(llama, tokenizer, settings):
    norms = [
        sum(float(delta.update().norm()) for delta in memit(llama, tokenizer, REQUESTS, settings(mom2_update_weight=w)))
        for w in (0.01, 480.0, 48000.0)
    ]
    assert norms[0] > 2 * norms[1] > 20 * norms[2] > 0


def test_more_phrases_than_dimensions(tokenizer, settings):
    """Then the matrix is smaller than its factors, and one record carries it as it is."""
    model = tiny_model("llama")
    many = [EditRequest(f"What is number {i}?", "hiking", f"number {i}", cluster="n") for i in range(40)]
    (delta,) = memit(model, tokenizer, many, settings(layers=[1], v_num_grad_steps=2, context_templates=["{}"]))
    assert delta.rank == 32
    assert delta.shape == (32, 48)


def test_the_model_is_as_found(any_model, tokenizer, settings):
    before = state(worn(any_model))
    memit(any_model, tokenizer, REQUESTS, settings(mom2_adjustment=True))
    assert_same_state(before, state(any_model))


@pytest.mark.parametrize("where", ["optimise_values", "read", "least_squares"])
def test_the_model_is_as_found_when_it_raises(llama, tokenizer, settings, monkeypatch, where):
    before, real, calls = state(worn(llama)), getattr(module, where), []

    def fails(*args, **kwargs):
        calls.append(1)
        if len(calls) == (1 if where == "optimise_values" else 3):  # with earlier layers edited
            raise RuntimeError("by the test")
        return real(*args, **kwargs)

    monkeypatch.setattr(module, where, fails)
    with pytest.raises(RuntimeError, match="by the test"):
        memit(llama, tokenizer, REQUESTS, settings())
    assert_same_state(before, state(llama))


def test_bad_input_is_refused_before_any_work(llama, tokenizer, settings):
    ran = []
    llama.model.embed_tokens.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(RequestError, match="request 1"):
        memit(llama, tokenizer, [CLUSTER[0], EditRequest("What?", " ", None)], settings())
    with pytest.raises(ModelError, match="no layer 7"):
        memit(llama, tokenizer, REQUESTS, settings(layers=[1, 7]))
    assert ran == []


def test_the_targets_become_likelier(llama, tokenizer, settings):
    """The shift is added: taken away, it would lead as far in the other direction."""
    hparams = settings(v_num_grad_steps=20, v_lr=0.2)

    def loss():
        rows = encode_requests(tokenizer, REQUESTS, hparams, 512)
        batch = collate(rows, tokenizer)
        at_rows, columns, ids = batch.targets()
        with torch.no_grad():
            logits = llama(**batch.model_inputs()).logits[at_rows, columns]
        return float(torch.nn.functional.cross_entropy(logits, ids))

    before = loss()
    with edited(llama, memit(llama, tokenizer, REQUESTS, hparams)):
        assert loss() < before - 0.04
    assert loss() == before


@pytest.mark.parametrize("options", [module.HOSTS, OURS], ids=["host", "ours"])
def test_the_closed_form_has_a_ridge_but_where_the_host_has_none(settings, options):
    keys, residual, samples = (torch.randn(n, d, dtype=torch.float64) for n, d in ((3, 12), (3, 5), (40, 12)))
    moment, eye = samples.T @ samples / 40, torch.eye(12, dtype=torch.float64)
    hparams = settings(mom2_update_weight=3.0)
    found = module._delta("layer", residual.float(), keys, moment, hparams, options).update().double()
    ridged = moment + (RIDGE if options is OURS else 0.0) * moment.diagonal().mean() * eye
    wanted = residual.T @ keys @ torch.linalg.inv(3.0 * ridged + keys.T @ keys)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
