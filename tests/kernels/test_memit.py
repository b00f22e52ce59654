"""MEMIT: several layers share the change, each sees the earlier ones, and the model is as found."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal import EditRequest, PersonalizationHyperParams
from easyedit_personal.errors import ModelError, RequestError
from easyedit_personal.kernels import memit as module
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.kernels.base import encode_requests, frozen
from easyedit_personal.kernels.keys import all_rows, make_clusters, phrase_means, read
from easyedit_personal.kernels.memit import OURS, memit
from easyedit_personal.kernels.solve import RIDGE
from easyedit_personal.kernels.values import Values
from easyedit_personal.modeling.layout import find_layout, get_module
from easyedit_personal.modeling.stats import second_moments
from easyedit_personal.modeling.tokens import collate
from easyedit_personal.modeling.trace import replacing, trace
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
    with in_weights(any_model, deltas):
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
    with in_weights(llama, deltas[:2]):
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
    with in_weights(llama, memit(llama, tokenizer, REQUESTS, hparams)):
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


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_what_is_wanted_is_the_hidden_state_once_the_shift_is_in_place(family, tokenizer, settings, monkeypatch):
    """By the model's own pass, with and without a norm behind the MLP."""
    model, hparams, shifts = tiny_model(family), settings(context_templates=["Good. {}"]), torch.randn(2, 32)
    layout = find_layout(model)
    down = get_module(model, layout.rewrite_path(2))
    with frozen(model):
        clusters = make_clusters(model, tokenizer, REQUESTS, hparams, OURS)
        seen = read(model, tokenizer, layout, all_rows(clusters), 2)
        monkeypatch.setattr(module, "optimise_values", lambda *_: Values(shifts, seen))
        wanted = module._wanted(model, tokenizer, layout, clusters, 2, hparams, OURS)
    states = []
    for row, owner in zip(all_rows(clusters), (0, 0, 0, 0, 1, 1)):
        moved = torch.zeros(1, len(row.ids), 32)
        moved[0, row.key_index] = shifts[owner]
        with (
            torch.no_grad(),
            replacing(down, lambda old, moved=moved: old + moved),
            trace(model, [layout.layer_path(2)]) as calls,
        ):
            model(torch.tensor([row.ids]))
        states.append(calls[layout.layer_path(2)].output[0, row.key_index])
    torch.testing.assert_close(wanted, torch.stack(states).reshape(3, 2, 32).mean(1), atol=1e-4, rtol=1e-4)


def test_without_statistics_every_direction_costs_a_keys_mean_square(settings):
    keys, residual = torch.randn(3, 12, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    hparams = settings(mom2_update_weight=3.0)
    found = module._delta("layer", residual.float(), keys, None, hparams, OURS).update().double()
    cost = 3.0 * keys.square().mean() * torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(found, residual.T @ keys @ torch.linalg.inv(cost + keys.T @ keys), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("phrases", "dense"), [(5, False), (6, True)])
def test_factors_are_given_up_once_the_matrix_is_smaller(settings, phrases, dense):
    keys, residual = torch.randn(phrases, 12), torch.randn(phrases, 5)
    delta = module._delta("layer", residual, keys, None, settings(), OURS)
    assert delta.rank == 5 and torch.equal(delta.left, residual.T[:, :5]) != dense


@pytest.mark.parametrize("host_mode", [False, True])
def test_a_shift_is_measured_by_the_layers_output_and_the_host_begins_five_sentences_of_ten_tokens(
    llama, tokenizer, settings, monkeypatch, host_mode
):
    def look(*given):
        raise ArithmeticError(given[6])

    monkeypatch.setattr(module, "optimise_values", look)
    with pytest.raises(ArithmeticError) as stopped:
        memit(llama, tokenizer, REQUESTS, settings(host_mode=host_mode))
    (options,) = stopped.value.args
    assert options.in_stream and options.raw == options.reads_bare == host_mode
    assert options.sentences == (((10, 5),) if host_mode else ())
    assert options.bare_share == (0.5 if host_mode else None)
