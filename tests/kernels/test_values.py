"""The optimised shift lowers the loss that the model itself would show, stays in its ball, and stops by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from easyedit_personal import EditRequest, PersonalizationHyperParams
from easyedit_personal.errors import ModelError
from easyedit_personal.kernels import packing, values
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.key_options import KeyOptions
from easyedit_personal.kernels.keys import all_rows, make_clusters, read
from easyedit_personal.kernels.values import optimise_values
from easyedit_personal.modeling import suffix
from easyedit_personal.modeling.layout import find_layout, get_module
from easyedit_personal.modeling.tokens import collate
from easyedit_personal.modeling.trace import replacing, trace
from easyedit_personal.registry import KERNELS
from tests.tiny import FAMILIES, tiny_model

REQUESTS = [
    EditRequest("What's my hobby?", "hiking", "hobby", cluster="a"),
    EditRequest("Tell me, what is my pastime?", "hiking", "pastime", cluster="a"),
    EditRequest("My food?", "noodles with pepper", "food", cluster="b"),
]


def loud(family, **changes):
    """A random model whose answers differ from each other."""
    return tiny_model(family, initializer_range=0.2, **changes)


def settings(**changes):
    values = {"v_lr": 0.1, "v_num_grad_steps": 8, "clamp_norm_factor": 50.0, **changes}
    return PersonalizationHyperParams(**values)


def optimise(model, tokenizer, requests, hparams, layer=1, options=KeyOptions()):  # noqa: B008 - a frozen record
    layout = find_layout(model)
    with frozen(model):
        clusters = make_clusters(model, tokenizer, requests, hparams, options)
        return clusters, optimise_values(model, tokenizer, layout, clusters, layer, hparams, options).shifts


def loss_by_hand(model, tokenizer, cluster, shift, hparams, layer=1):
    """The documented loss through the model's own forward pass."""
    layout = find_layout(model)
    down = get_module(model, layout.rewrite_path(layer))
    rows = all_rows([cluster])

    def logits_with_shift(some_rows):
        batch = collate(some_rows, tokenizer)
        n = torch.arange(len(some_rows))
        with torch.no_grad(), trace(model, [layout.rewrite_path(layer)]) as calls:
            base = model(**batch.model_inputs()).logits
        output = calls[layout.rewrite_path(layer)].output
        shifted = output[n, batch.key_index] + shift
        with torch.no_grad(), replacing(down, lambda hidden: hidden.index_put((n, batch.key_index), shifted)):
            return batch, base, model(**batch.model_inputs()).logits

    batch, _, logits = logits_with_shift(rows)
    each = F.cross_entropy(logits[:, :-1].transpose(1, 2), batch.labels[:, 1:], reduction="none")
    loss = (each.sum(1) / (batch.labels != -100).sum(1)).mean()
    if cluster.drift:
        batch, base, logits = logits_with_shift(cluster.drift)
        n = torch.arange(len(cluster.drift))
        now, before = (x[n, batch.key_index].log_softmax(-1) for x in (logits, base))
        loss = loss + hparams.kl_factor * (now.exp() * (now - before)).sum(-1).mean()
    bare = read(model, tokenizer, layout, [phrase[0] for phrase in cluster.rows], layer).outputs
    return loss + hparams.v_weight_decay * shift.norm() / bare.norm(dim=-1).mean() ** 2


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2-square", "gptj"])
def test_the_loss_is_the_documented_one(family, tokenizer):
    model, hparams = loud(family), settings(kl_factor=0.5, v_weight_decay=0.3)
    layout = find_layout(model)
    with frozen(model):
        clusters = make_clusters(model, tokenizer, REQUESTS, hparams, KeyOptions())
        problem = values._Problem(model, tokenizer, layout, clusters, 1, hparams, KeyOptions())
        shifts = torch.randn(2, 32)
        found = problem.losses(shifts)
        wanted = [loss_by_hand(model, tokenizer, c, s, hparams) for c, s in zip(clusters, shifts)]
    torch.testing.assert_close(found, torch.stack(wanted), atol=1e-4, rtol=1e-4)


def test_optimising_lowers_the_loss(any_model, tokenizer):
    hparams = settings(v_lr=0.05, clamp_norm_factor=1e4, v_weight_decay=0.0)
    clusters, shifts = optimise(any_model, tokenizer, REQUESTS, hparams)
    for cluster, shift in zip(clusters, shifts):
        before = loss_by_hand(any_model, tokenizer, cluster, torch.zeros(32), hparams)
        assert loss_by_hand(any_model, tokenizer, cluster, shift, hparams) < before


def test_clusters_together_are_as_clusters_alone(tokenizer, monkeypatch):
    model, hparams = loud("llama"), settings()
    _, together = optimise(model, tokenizer, REQUESTS, hparams)
    alone = [optimise(model, tokenizer, part, hparams)[1] for part in (REQUESTS[:2], REQUESTS[2:])]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-3, rtol=1e-3)
    monkeypatch.setattr(packing, "SHARE", 0.0)
    _, apart = optimise(model, tokenizer, REQUESTS, hparams)
    torch.testing.assert_close(together, apart, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("in_stream", [False, True], ids=["rome", "memit"])
def test_the_shift_stays_in_its_ball(tokenizer, in_stream):
    """Of the down projection's output for ROME, of the layer's for MEMIT."""
    model = loud("llama")
    hparams, options = settings(v_lr=10.0, clamp_norm_factor=0.5), KeyOptions(in_stream=in_stream)
    clusters, shifts = optimise(model, tokenizer, REQUESTS, hparams, options=options)
    for cluster, shift in zip(clusters, shifts):
        seen = read(model, tokenizer, find_layout(model), [phrase[0] for phrase in cluster.rows], 1)
        origin = seen.hidden if in_stream else seen.outputs
        assert shift.norm() == pytest.approx(0.5 * float(origin.norm(dim=-1).mean()), rel=1e-4)


def test_each_cluster_stops_by_itself(tokenizer):
    """The easier cluster's shift is the same however long the harder one goes on."""
    model = loud("llama")
    with frozen(model):
        clusters = make_clusters(model, tokenizer, REQUESTS, settings(), KeyOptions())
        problem = values._Problem(model, tokenizer, find_layout(model), clusters, 1, settings(), KeyOptions())
        start = problem.losses(torch.zeros(2, 32))
    easier = int(start.argmin())
    threshold = float(start.min()) - 1e-3  # reached after a step or two by the easier one only
    runs = [
        optimise(model, tokenizer, REQUESTS, settings(v_stop_loss=threshold, v_num_grad_steps=steps))[1]
        for steps in (6, 20)
    ]
    assert float(start.max()) - float(start.min()) > 0.1
    assert torch.equal(runs[0][easier], runs[1][easier])
    assert runs[0][easier].norm() > 0
    assert not torch.equal(runs[0][1 - easier], runs[1][1 - easier])


def test_the_number_of_steps_counts_evaluations(tokenizer):
    model = loud("llama")
    assert optimise(model, tokenizer, REQUESTS, settings(v_num_grad_steps=1))[1].abs().sum() == 0
    _, once = optimise(model, tokenizer, REQUESTS, settings(v_num_grad_steps=2, v_lr=0.25))
    torch.testing.assert_close(once.abs(), torch.full_like(once, 0.25), rtol=1e-3, atol=1e-3)  # Adam's first step


@pytest.mark.parametrize("kernel", ["rome", "memit"])
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_update_is_that_of_whole_forward_passes(family, kernel, tokenizer, monkeypatch):
    """Grouped queries, sliding windows, parallel blocks and norms after the MLP included; several subjects, so that
    rows are padded differently before and behind their keys."""
    requests = [replace(request, cluster=None) for request in REQUESTS]
    hparams = settings(kernel=kernel, layers=[1], kl_factor=0.5, v_num_grad_steps=5, v_lr=0.05, v_weight_decay=0.1)
    fast = KERNELS.get(kernel)(loud(family), tokenizer, requests, hparams)
    asked = []
    monkeypatch.setattr(suffix, "split_of", lambda *_: asked.append(1) or suffix.Split("full"))
    plain = KERNELS.get(kernel)(loud(family), tokenizer, requests, hparams)
    assert asked
    difference = (fast[0].update() - plain[0].update()).norm() / plain[0].update().norm()
    assert difference < 1e-5


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gptj"])
def test_some_of_the_clusters_are_the_same_problem(family, tokenizer):
    """What is left when others are done: losses of the kept clusters stay what they were."""
    model, hparams = loud(family), settings(kl_factor=0.5)
    requests = [*REQUESTS, EditRequest("Who is my doctor, and where?", "by the sea", "doctor", cluster="c")]
    with frozen(model), torch.no_grad():
        clusters = make_clusters(model, tokenizer, requests, hparams, KeyOptions())
        problem = values._Problem(model, tokenizer, find_layout(model), clusters, 1, hparams, KeyOptions())
        shifts = torch.randn(3, 32)
        found = problem.losses(shifts)
        for kept in ([0, 2], [1]):
            torch.testing.assert_close(problem.only(kept).losses(shifts[kept]), found[kept], atol=1e-5, rtol=1e-5)


def test_rows_of_clusters_that_are_done_no_longer_run(tokenizer):
    model = loud("llama")
    rows = []
    model.model.layers[2].register_forward_hook(lambda module, args, out: rows.append(out.shape[0]))
    with frozen(model):
        clusters = make_clusters(model, tokenizer, REQUESTS, settings(), KeyOptions())
        losses = values._Problem(model, tokenizer, find_layout(model), clusters, 1, settings(), KeyOptions()).losses(
            torch.zeros(2, 32)
        )
    threshold = float(losses.min()) - 1e-3
    rows.clear()
    optimise(model, tokenizer, REQUESTS, settings(v_stop_loss=threshold, v_num_grad_steps=12))
    counts = [len(all_rows([cluster])) + len(cluster.drift) for cluster in clusters]
    assert rows[-1] == counts[1 - int(losses.argmin())] < sum(counts)


def test_a_pack_that_does_not_fit_is_halved(tokenizer, monkeypatch, caplog):
    model, hparams, real = loud("llama"), settings(), values._descend
    _, wanted = optimise(model, tokenizer, REQUESTS, hparams)

    def full_memory(problem, hparams):
        if problem.n > 1:
            raise torch.OutOfMemoryError("by the test")
        return real(problem, hparams)

    monkeypatch.setattr(values, "_descend", full_memory)
    torch.testing.assert_close(optimise(model, tokenizer, REQUESTS, hparams)[1], wanted, atol=1e-3, rtol=1e-3)
    assert "half as many" in caplog.text
    monkeypatch.setattr(values, "_descend", lambda *_: full_memory(values._Problem, hparams))
    monkeypatch.setattr(values._Problem, "n", 2, raising=False)
    with pytest.raises(ModelError, match="memory does not suffice"):
        optimise(model, tokenizer, REQUESTS[:1], hparams)


def test_only_the_suffix_runs(llama, tokenizer):
    """Layers up to the edited one see a few short passes (of the trial's two rows, of the batch), not one per step."""
    passes = {"below": 0, "above": 0}
    llama.model.layers[1].register_forward_hook(lambda *_: passes.__setitem__("below", passes["below"] + 1))
    llama.model.layers[2].register_forward_hook(lambda *_: passes.__setitem__("above", passes["above"] + 1))
    optimise(llama, tokenizer, REQUESTS, settings(v_num_grad_steps=20, v_stop_loss=0.0))
    assert passes["below"] <= 12
    assert passes["above"] >= 20


def test_nothing_runs_once_all_are_done(llama, tokenizer):
    passes, counts = [], []
    llama.model.layers[2].register_forward_hook(lambda *_: passes.append(1))
    for steps in (2, 2, 20):  # the first time the model is also tried for how it can be cut
        optimise(llama, tokenizer, REQUESTS, settings(v_num_grad_steps=steps, v_stop_loss=1e9))
        counts.append(len(passes))
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0
