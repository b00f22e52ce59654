"""The lowrank kernel: learns and stops, keeps the rest, touches nothing, on every architecture."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from easyedit_personal.errors import ModelError, RequestError
from easyedit_personal.generation.base_answers import with_answers
from easyedit_personal.generation.generate import continuations
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels import lowrank as module
from easyedit_personal.kernels import objective
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.edited_rows import EditedRows
from easyedit_personal.kernels.lowrank import effort, lowrank
from easyedit_personal.kernels.objective import preserve_loss, target_loss
from easyedit_personal.kernels.preserve import preserve_prompts
from easyedit_personal.kernels.solve import whitening
from easyedit_personal.modeling.layout import find_layout, weights_digest
from easyedit_personal.modeling.stats import second_moments
from easyedit_personal.modeling.tokens import Encoded, collate, encode
from easyedit_personal.types import EditRequest
from tests.tiny import POST_NORM, tiny_model, tiny_tokenizer

NAMES = ("pastime", "interest", "hobby")
FREE = {"lowrank": {"rank": 8, "lr": 2.0, "steps": 60, "polish": 40, "polish_lr": 0.1}, "preserve": {"weight": 0.0}}
# A norm after the MLP caps what one edited layer can add; in a random model that is too little to own the answer.
CAPPED = POST_NORM
FEW = {
    "neutral": 6,
    "other_attribute": 2,
    "other_indirect": 2,
    "negated": 1,
    "other_user": 1,
    "answer_tokens": 4,
    "batch": 6,
}


def requests_for(target: str = "kite surfing", names=NAMES, cluster: str = "c") -> list[EditRequest]:
    return [EditRequest(f"What's my {name}?", target, name, cluster=cluster) for name in names]


def settings(**changes) -> PersonalizationHyperParams:
    return PersonalizationHyperParams(**{"layers": [1], **FREE, **changes})


def answers(model, tokenizer, requests, prompt_format="auto") -> list[str]:
    rows = [encode(tokenizer, request.prompt, prompt_format=prompt_format) for request in requests]
    return [tokenizer.decode(ids) for ids in continuations(model, tokenizer, rows, [12] * len(rows))]


def mean_loss(model, tokenizer, deltas, requests) -> float:
    """Nats per target token of the edited model, by a plain forward pass."""
    batch = collate([encode(tokenizer, r.prompt, target=r.target_new) for r in requests], tokenizer)
    rows, columns, ids = batch.targets()
    with torch.no_grad(), in_weights(model, deltas):
        return float(F.cross_entropy(model(**batch.model_inputs()).logits[rows, columns].float(), ids))


def check_learned(model, tokenizer, deltas) -> None:
    """Every phrase's whole answer is the target; where the architecture caps an edit, its loss fell at least."""
    if model.config.model_type in CAPPED:
        assert mean_loss(model, tokenizer, deltas, requests_for()) < 0.9 * mean_loss(
            model, tokenizer, [], requests_for()
        )
        return
    with in_weights(model, deltas):
        assert answers(model, tokenizer, requests_for()) == ["kite surfing<|end|>"] * 3


def divergence(model, tokenizer, deltas, prompts, hparams) -> float:
    """Mean KL(unedited || edited) along the unedited model's answers, by two plain forward passes."""
    batch = collate(with_answers(model, tokenizer, prompts, hparams), tokenizer)
    rows, columns, _ = batch.targets()
    with torch.no_grad():
        before = F.log_softmax(model(**batch.model_inputs()).logits[rows, columns].float(), -1)
        with in_weights(model, deltas):
            after = F.log_softmax(model(**batch.model_inputs()).logits[rows, columns].float(), -1)
    return float(F.kl_div(after, before, log_target=True, reduction="none").sum(-1).mean())


def test_the_target_becomes_the_whole_answer_on_every_architecture(loud_model, tokenizer):
    before = weights_digest(loud_model)
    (delta,) = lowrank(loud_model, tokenizer, requests_for(), settings())
    assert weights_digest(loud_model) == before
    assert delta.layer == find_layout(loud_model).rewrite_path(1)
    check_learned(loud_model, tokenizer, [delta])


def test_without_end_of_turn_only_the_target_is_learned(loud_llama, tokenizer):
    requests = requests_for()
    deltas = lowrank(loud_llama, tokenizer, requests, settings(end_of_turn=False))
    with in_weights(loud_llama, deltas):
        assert all(text.startswith("kite surfing") for text in answers(loud_llama, tokenizer, requests))


def test_a_model_without_chat_template_is_edited_raw():
    model, tokenizer = tiny_model("gpt2", initializer_range=0.2), tiny_tokenizer(chat=False)
    deltas = lowrank(model, tokenizer, requests_for(), settings())
    with in_weights(model, deltas):
        assert answers(model, tokenizer, requests_for()) == [" kite surfing<|end|>"] * 3


def test_several_preferences_are_learned_together(loud_llama, tokenizer):
    requests = [*requests_for(), *requests_for("a newt", ("pet", "house animal"), "d")]
    deltas = lowrank(loud_llama, tokenizer, requests, settings())
    assert deltas[0].rank == 16  # rank counts per preference
    with in_weights(loud_llama, deltas):
        said = answers(loud_llama, tokenizer, requests)
    assert said == [f"{request.target_new}<|end|>" for request in requests]


def test_several_layers_share_the_edit(loud_model, tokenizer):
    before = weights_digest(loud_model)
    deltas = lowrank(loud_model, tokenizer, requests_for(), settings(layers=[2, 1]))
    layout = find_layout(loud_model)
    assert [delta.layer for delta in deltas] == [layout.rewrite_path(1), layout.rewrite_path(2)]
    assert all(float(delta.update().norm()) > 0 for delta in deltas)
    assert weights_digest(loud_model) == before
    check_learned(loud_model, tokenizer, deltas)


@pytest.mark.parametrize("layers", [[1], [0, 2]])
def test_the_loss_is_that_of_the_edited_model(loud_model, tokenizer, layers):
    """What is optimised equals what a plain forward pass of the edited model gives."""
    hparams = settings(layers=layers, lowrank={**FREE["lowrank"], "steps": 5, "stop_loss": 0.0})
    layout = find_layout(loud_model)
    rows = [encode(tokenizer, r.prompt, target=r.target_new) for r in requests_for()]
    deltas = lowrank(loud_model, tokenizer, requests_for(), hparams)
    changes = {n: (lambda keys, d=d: keys @ d.right.T @ d.left.T) for n, d in zip(sorted(layers), deltas)}
    with frozen(loud_model), torch.no_grad():
        ours = target_loss(loud_model, tokenizer, layout, rows, layers)(changes)
    batch = collate(rows, tokenizer)
    at_rows, columns, ids = batch.targets()
    with torch.no_grad(), in_weights(loud_model, deltas):
        logits = loud_model(**batch.model_inputs()).logits[at_rows, columns]
    losses = F.cross_entropy(logits, ids, reduction="none")
    plain = torch.stack([losses[at_rows == i].mean() for i in range(len(rows))])
    torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-3)


def test_preservation_lowers_the_divergence_at_equal_target_loss(loud_llama, tokenizer):
    """Both edits end at the same target loss; the one that preserves moves other answers less, seen or unseen."""
    requests = requests_for(names=("hobby",))
    steady = {"rank": 8, "lr": 1.0, "steps": 150, "polish": 50}
    free, held = (settings(lowrank=steady, preserve={**FEW, "weight": weight}) for weight in (0.0, 0.3))
    edits = [lowrank(loud_llama, tokenizer, requests, hparams) for hparams in (free, held)]
    seen = [prompt.text for prompt in preserve_prompts(requests, held.preserve, held.seed)]
    unseen = ["Tell me more about the hills.", "Who is your doctor?", "What would you like to eat?"]
    lost, kept = (mean_loss(loud_llama, tokenizer, deltas, requests) for deltas in edits)
    assert kept == pytest.approx(lost, abs=0.05)
    for deltas in edits:
        with in_weights(loud_llama, deltas):
            assert answers(loud_llama, tokenizer, requests) == ["kite surfing<|end|>"]
    for prompts, share in ((seen, 0.5), (unseen, 0.8)):
        lost, kept = (divergence(loud_llama, tokenizer, deltas, prompts, held) for deltas in edits)
        assert kept < share * lost, (kept, lost)


def test_the_preservation_term_is_zero_for_no_change_and_counts_kinds_alike(loud_llama, tokenizer):
    hparams = settings(preserve={**FEW, "weight": 1.0})
    layout = find_layout(loud_llama)
    with frozen(loud_llama), torch.no_grad():
        term = preserve_loss(loud_llama, tokenizer, layout, requests_for(), hparams)
        nothing = {1: lambda keys: keys.new_zeros(*keys.shape[:-1], layout.d_model)}
        assert all(abs(float(term(nothing, step))) < 1e-5 for step in range(len(term.parts)))
    # First position and rest each count one where an answer has more than one token; averaged over the groups.
    total = sum(float(group.shares.sum()) for part in term.parts for group in part) / len(term.parts)
    assert 1.0 <= total <= 2.001


@pytest.mark.parametrize("rank", [1, 3, 500])
def test_the_rank_is_respected(loud_llama, tokenizer, rank):
    hparams = settings(lowrank={**FREE["lowrank"], "rank": rank, "steps": 3, "polish": 3})
    (delta,) = lowrank(loud_llama, tokenizer, requests_for(), hparams)
    assert delta.rank == min(rank, 32)
    assert delta.shape == (32, 48)
    assert int(torch.linalg.matrix_rank(delta.update())) <= rank


def test_equal_seeds_give_equal_factors(loud_llama, tokenizer):
    few = {"lowrank": {**FREE["lowrank"], "steps": 4}, "preserve": {**FEW, "weight": 1.0}}
    one, two, other = (
        lowrank(loud_llama, tokenizer, requests_for(), settings(seed=seed, **few))[0].update() for seed in (7, 7, 8)
    )
    assert torch.equal(one, two)
    assert not torch.allclose(one, other)


def test_the_metric_spares_the_keys_that_text_uses(loud_llama, tokenizer, tmp_path):
    """At equal target loss, what the update adds to the keys of the model's own text is less with the metric."""
    text = tmp_path / "text.txt"
    text.write_text("The hills are green.\nMy doctor lives here.\nWe eat what there is.\n" * 4)
    plain = settings(mom2_dataset=str(text), stats_dir=str(tmp_path), lowrank={**FREE["lowrank"], "rank": 32})
    added, losses = [], []
    for hparams in (plain, plain.replace(mom2_adjustment=True, lowrank={"ridge": 1e-3})):
        (delta,) = lowrank(loud_llama, tokenizer, requests_for(), hparams)
        (moment,) = second_moments(loud_llama, tokenizer, [1], hparams).values()
        update = delta.update()
        added.append(float(((update @ moment.to(update)) * update).sum()))
        losses.append(mean_loss(loud_llama, tokenizer, [delta], requests_for()))
    assert max(losses) < 0.3 * mean_loss(loud_llama, tokenizer, [], requests_for())
    assert added[1] < 0.7 * added[0]


def test_the_cut_is_the_best_in_the_metric():
    generator = torch.Generator().manual_seed(3)
    matrix, root = torch.randn(6, 9, generator=generator), torch.randn(9, 9, generator=generator)
    metric = whitening(root @ root.T, 1e-3)
    update = module.Whole(module.Space(metric, 0.5), matrix)
    cut, whole = (update.cut(rank).delta("x") for rank in (2, 6))
    assert cut.rank == 2 and whole.rank == 6
    keys = torch.randn(4, 9, generator=generator)
    torch.testing.assert_close(keys @ whole.update().T, update(keys), rtol=1e-3, atol=1e-4)
    lost = torch.linalg.solve(metric.T, (whole.update() - cut.update()).T).T
    torch.testing.assert_close(lost.norm(), 0.5 * torch.linalg.svdvals(matrix)[2:].norm(), rtol=1e-3, atol=1e-4)


def test_half_precision_models_are_edited_and_left_as_they_are(tokenizer):
    model = tiny_model("llama", dtype=torch.bfloat16, initializer_range=0.2)
    before = weights_digest(model)
    deltas = lowrank(model, tokenizer, requests_for(), settings())
    assert weights_digest(model) == before
    assert deltas[0].left.dtype == deltas[0].right.dtype == torch.float32
    with in_weights(model, deltas):
        assert answers(model, tokenizer, requests_for()) == ["kite surfing<|end|>"] * 3


def test_flags_and_gradients_are_untouched_also_when_it_raises(loud_llama, tokenizer, monkeypatch):
    loud_llama.train()
    frozen_one = loud_llama.model.norm.weight.requires_grad_(False)
    loud_llama.lm_head.weight.grad = torch.ones_like(loud_llama.lm_head.weight)
    before = weights_digest(loud_llama)

    def broken(*_):
        raise ArithmeticError("in the middle")

    lowrank(loud_llama, tokenizer, requests_for(), settings(lowrank={"steps": 2}))
    monkeypatch.setattr(module, "decayed", broken)
    with pytest.raises(ArithmeticError):
        lowrank(loud_llama, tokenizer, requests_for(), settings(preserve={**FEW, "weight": 1.0}))
    assert weights_digest(loud_llama) == before
    assert loud_llama.training and loud_llama.model.layers[0].training
    assert not frozen_one.requires_grad and loud_llama.model.embed_tokens.weight.requires_grad
    assert torch.equal(loud_llama.lm_head.weight.grad, torch.ones_like(loud_llama.lm_head.weight))
    assert loud_llama.model.embed_tokens.weight.grad is None
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in loud_llama.modules())


def test_it_stops_early_and_reports_what_was_not_learned(tokenizer, monkeypatch, caplog):
    loud_llama = tiny_model("llama", initializer_range=0.5)  # its answers can be sure of themselves
    steps = []
    rate = module.decayed
    monkeypatch.setattr(module, "decayed", lambda step, of: steps.append(step) or rate(step, of))
    with caplog.at_level(logging.WARNING, logger="easyedit_personal"):
        lowrank(loud_llama, tokenizer, requests_for(), settings(lowrank={**FREE["lowrank"], "stop_loss": 0.9}))
        assert len(steps) < 50 and not caplog.records
        lowrank(loud_llama, tokenizer, requests_for(), settings(lowrank={"steps": 1, "polish": 0}))
    assert "kite surfing" in caplog.text


def test_a_diverging_edit_is_an_error_of_ours(loud_llama, tokenizer):
    with pytest.raises(ModelError, match="not finite"):
        lowrank(loud_llama, tokenizer, requests_for(), settings(lowrank={"lr": 1e37, "steps": 60, "rank": 2}))
    with pytest.raises(ModelError, match="no layer 9"):
        lowrank(loud_llama, tokenizer, requests_for(), settings(layers=[9]))
    with pytest.raises(RequestError, match="2 of 3"):
        bad = [EditRequest(" ", "x"), EditRequest("Who?", ""), *requests_for(names=("hobby",))]
        lowrank(loud_llama, tokenizer, bad, settings())


def test_effort_grows_with_the_square_up_to_four_preferences_and_never_faster_than_the_number_beyond():
    assert [effort(n) for n in (1, 2, 4, 5, 20)] == [(1, 1), (2, 2), (4, 4), (4, 4), (4, 4)]
    work = [wider * longer / n for n in range(20, 400) for wider, longer in [effort(n)]]
    assert max(work) <= 0.8 and min(work) > 0.6


@pytest.mark.parametrize(
    ("recent", "kept"), [([0.1], False), ([0.1, 0.1], True), ([0.1, 0.4], False), ([0.39, 0], True)]
)
def test_preservation_is_looked_at_over_a_whole_round(recent, kept):
    from easyedit_personal.kernels.lowrank import _is_kept

    hparams = settings(preserve={**FEW, "weight": 1.0, "stop_kl": 0.2})
    assert _is_kept(SimpleNamespace(parts=[[], []]), recent, hparams) == kept and _is_kept(None, [], hparams)


@pytest.mark.parametrize("preferences", [1, 2])
def test_steps_count_per_preference(loud_llama, tokenizer, monkeypatch, preferences):
    steps = []
    rate = module.decayed
    monkeypatch.setattr(module, "decayed", lambda step, of: steps.append(of) or rate(step, of))
    requests = requests_for()
    if preferences == 2:
        requests += requests_for("a newt", ("pet",), "d")
    # Polishing has two tensors with a rate each, and one step more than ``polish``: losses are those before a step.
    unstopped = {"steps": 5, "polish": 3, "stop_loss": 0.0}
    lowrank(loud_llama, tokenizer, requests, settings(lowrank={**FREE["lowrank"], **unstopped}))
    dense, polished = 5 * preferences, 1 + 3 * preferences
    assert steps == [dense] * dense + [polished] * polished * 2


@pytest.mark.parametrize(("stop_kl", "early"), [(1e9, True), (0.0, False)])
def test_it_stops_once_answers_are_learned_and_the_others_kept(tokenizer, monkeypatch, stop_kl, early):
    model, steps, rate = tiny_model("llama", initializer_range=0.5), [], module.decayed
    monkeypatch.setattr(module, "decayed", lambda step, of: steps.append(step) or rate(step, of))
    params = {**FREE["lowrank"], "stop_loss": 1e9, "steps": 8, "polish": 0}
    hparams = settings(lowrank=params, preserve={**FEW, "weight": 1.0, "stop_kl": stop_kl})
    lowrank(model, tokenizer, requests_for(), hparams)
    # Both parts of the preserved prompts have to be seen first, in the last step (of two tensors) too.
    assert len(steps) == (1 + 2 if early else 8 + 2)


def test_nothing_is_computed_twice_where_memory_suffices(loud_llama, tokenizer, monkeypatch):
    again, checkpoint = [], objective.checkpoint
    monkeypatch.setattr(objective, "checkpoint", lambda *given, **named: again.append(1) or checkpoint(*given, **named))
    few = {"lowrank": {"rank": 2, "steps": 2, "polish": 1}, "preserve": {**FEW, "weight": 1.0}}
    lowrank(loud_llama, tokenizer, requests_for(), settings(**few))
    assert again == []


def test_the_rate_falls_from_all_to_a_tenth():
    rates = [module.decayed(step, 9) for step in range(9)]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[4], rates[8]) == pytest.approx((1.0, 0.55, 0.1)) and module.decayed(0, 1) == 1.0


@pytest.mark.parametrize(
    ("most", "groups"), [(None, [[1, 3], [0, 4], [2]]), (1, [[1], [3], [0], [4], [2]]), (2, [[1, 3], [0, 4], [2]])]
)
def test_groups_are_of_about_one_length_and_not_too_large(most, groups):
    rows = [Encoded(tuple(range(length)), (7,), 0) for length in (8, 3, 99, 7, 17)]  # and a target of one token
    assert objective._by_length(rows, range(5), most) == groups


def test_an_answers_first_token_counts_as_much_as_all_others(loud_llama, tokenizer):
    rows = [Encoded((5, 6), (7, 8, 9, 10), 1), Encoded((5, 6, 7), (8,), 1)]
    edited_rows = EditedRows(loud_llama, tokenizer, find_layout(loud_llama), rows, [1])
    shares = objective._position_shares(edited_rows, torch.tensor([0.3, 0.6]))
    torch.testing.assert_close(shares, torch.tensor([0.3, 0.1, 0.1, 0.1, 0.6]))


def test_a_step_of_one_moves_outputs_by_about_their_own_size():
    """Whatever the model's activations; where there are none, nothing is divided by zero."""
    keys, outputs, metric = torch.rand(3, 5) / 100, torch.randn(3, 2) / 10, torch.randn(5, 5) / 10
    target = SimpleNamespace(where_answers_begin=lambda: {1: (keys, outputs), 2: (keys * 0, outputs * 0)})
    found = module.at_zero(target, {1: metric})
    assert {layer: update.matrix.shape for layer, update in found.items()} == {1: (2, 5), 2: (2, 5)}
    assert not any(update.matrix.any() for update in found.values()) and found[1].matrix.requires_grad
    assert found[1].space.metric is metric and found[2].space.metric is None
    reach = float((keys @ metric).abs().sum(1).mean())
    assert found[1].space.unit == pytest.approx(float(outputs.square().mean().sqrt()) / reach, rel=1e-4)
    assert found[2].space.unit == 1.0


def test_what_costs_a_nat_per_token_or_is_no_number_was_not_learned(caplog):
    requests = [EditRequest("What?", target) for target in ("fine", "dear", "lost")]
    module._warn_if_unlearned(requests, torch.tensor([0.99, 1.0, float("nan")]), settings().lowrank)
    assert "60 steps per preference: dear, lost (raise" in caplog.text


@pytest.mark.parametrize(("preferences", "kept", "held"), [(1, 3, 5), (2, 3, 10), (2, 40, 40)])
def test_steps_see_and_memory_holds_more_phrases_the_more_preferences_there_are(
    loud_llama, tokenizer, monkeypatch, preferences, kept, held
):
    sizes, most, term, fewer = [], [], module.target_loss, module.with_fewer
    monkeypatch.setattr(module, "target_loss", lambda *given: sizes.append(given[5:]) or term(*given))
    monkeypatch.setattr(module, "with_fewer", lambda work, *given: most.append(given) or fewer(work, *given))
    requests = [*requests_for(names=("hobby",)), *requests_for("a newt", ("pet",), "d")][:preferences]
    hparams = settings(
        lowrank={"rank": 1, "steps": 1, "polish": 0, "batch": 5},
        preserve={"weight": 0.0, "batch": kept},
        cluster={"behind": 0, "indirect": 0},
    )
    lowrank(loud_llama, tokenizer, requests, hparams)
    assert sizes == [(5 * preferences, None)] and most == [(held, "phrases", loud_llama)]
