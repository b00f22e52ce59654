"""The dense comparison: FT-M learns on every architecture, FT-L keeps within its clamp."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.errors import RequestError
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.finetune import PromptLastLoss, finetune
from easyedit_personal.kernels.objective import TargetLoss, in_parts
from easyedit_personal.modeling.layout import find_layout, matrix_shape, weights_digest
from easyedit_personal.modeling.tokens import collate, encode, stop_ids
from tests.kernels.test_lowrank import answers, check_learned, requests_for
from tests.tiny import tiny_model

FT_M = {"objective": "target_new", "lr": 1e-2, "steps": 150, "stop_loss": 0.02}
FT_L = {"objective": "prompt_last", "lr": 1e-2, "steps": 20}


def settings(**changes) -> PersonalizationHyperParams:
    return PersonalizationHyperParams(**{"kernel": "finetune", "layers": [1], "finetune": FT_M, **changes})


def test_ft_m_learns_the_target_and_its_end_on_every_architecture(loud_model, tokenizer):
    before = weights_digest(loud_model)
    (delta,) = finetune(loud_model, tokenizer, requests_for(), settings())
    assert weights_digest(loud_model) == before
    layout = find_layout(loud_model)
    assert (
        delta.shape == matrix_shape(loud_model.get_submodule(layout.rewrite_path(1))) == (layout.d_model, layout.d_mlp)
    )
    check_learned(loud_model, tokenizer, [delta])


def test_ft_l_clamps_every_entry(loud_llama, tokenizer):
    free, clamped = (
        finetune(loud_llama, tokenizer, requests_for(), settings(finetune={**FT_L, "norm_constraint": limit}))[
            0
        ].update()
        for limit in (None, 0.003)
    )
    assert float(free.abs().max()) > 0.003
    assert float(clamped.abs().max()) <= 0.003 + 1e-7
    assert float(clamped.min()) < -0.0029 and float(clamped.max()) > 0.0029
    one_step = {**FT_L, "steps": 1, "lr": 1e-3}  # Adam's first step moves every entry by the rate
    free, within = (
        finetune(loud_llama, tokenizer, requests_for(), settings(finetune={**one_step, "norm_constraint": limit}))[
            0
        ].update()
        for limit in (None, 0.003)
    )
    assert torch.equal(within, free) and float(within.abs().max()) > 0


def test_ft_l_predicts_every_target_token_at_the_prompts_end(loud_llama, tokenizer):
    rows = [encode(tokenizer, r.prompt, target=r.target_new, end_of_turn=False) for r in requests_for()]
    with frozen(loud_llama), torch.no_grad():
        loss = PromptLastLoss(in_parts(loud_llama, tokenizer, find_layout(loud_llama), rows, [1]))({})
    for row, got in zip(rows, loss):
        prompt = torch.tensor([row.prompt_ids])
        with torch.no_grad():
            log_p = loud_llama(prompt).logits[0, -1].log_softmax(-1)
        torch.testing.assert_close(got, -log_p[torch.tensor(row.target_ids)].mean(), rtol=1e-4, atol=1e-4)


def test_it_lowers_its_loss_and_is_deterministic(loud_llama, tokenizer):
    one, two = (finetune(loud_llama, tokenizer, requests_for(), settings(finetune=FT_L))[0] for _ in range(2))
    assert torch.equal(one.update(), two.update())
    ids = tokenizer("kite surfing", add_special_tokens=False)["input_ids"]
    batch = collate([encode(tokenizer, requests_for()[0].prompt)], tokenizer)

    def chance() -> float:
        with torch.no_grad():
            return float(loud_llama(**batch.model_inputs()).logits[0, -1].softmax(-1)[ids].sum())

    before = chance()
    with in_weights(loud_llama, [one]):
        assert chance() > 3 * before


def test_half_precision_and_several_layers(tokenizer):
    model = tiny_model("gpt2", dtype=torch.bfloat16)
    before = weights_digest(model)
    deltas = finetune(model, tokenizer, requests_for(), settings(layers=[1, 2]))
    assert weights_digest(model) == before
    assert [delta.left.dtype for delta in deltas] == [torch.float32] * 2
    with in_weights(model, deltas):
        assert answers(model, tokenizer, requests_for()) == ["kite surfing<|end|>"] * 3


def test_bad_requests_are_refused_before_any_work(loud_llama, tokenizer):
    with pytest.raises(RequestError, match="nothing to edit"):
        finetune(loud_llama, tokenizer, [], settings())


@pytest.mark.parametrize(("objective", "ends"), [(FT_L, False), (FT_M, True)], ids=["ft-l", "ft-m"])
def test_tokens_without_an_order_have_no_end(llama, tokenizer, monkeypatch, objective, ends):
    seen = []

    def look(model, tokenizer, layout, rows, *given, **named):
        seen.extend(rows)
        return in_parts(model, tokenizer, layout, rows, *given, **named)

    monkeypatch.setattr("easyedit_personal.kernels.finetune.in_parts", look)
    finetune(llama, tokenizer, requests_for(), settings(finetune={**objective, "steps": 1}))
    assert seen and {row.target_ids[-1] in stop_ids(llama, tokenizer) for row in seen} == {ends}


def test_it_stops_as_soon_as_the_loss_is_low_enough(loud_llama, tokenizer, monkeypatch):
    looks, ask = [], TargetLoss.__call__
    monkeypatch.setattr(TargetLoss, "__call__", lambda self, changes: looks.append(1) or ask(self, changes))
    (delta,) = finetune(loud_llama, tokenizer, requests_for(), settings(finetune={**FT_M, "stop_loss": 1e9}))
    assert len(looks) == 1 and not delta.update().any()
