"""The low-rank edit's metric: dear where text is, cheap where questions about the user stand out, computed once."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.errors import ModelError
from easyedit_personal.hparams import LowRankParams, PersonalizationHyperParams
from easyedit_personal.kernels import metric as module
from easyedit_personal.kernels.metric import key_metrics
from easyedit_personal.kernels.preserve import Material
from easyedit_personal.kernels.solve import contrast, whitening
from easyedit_personal.modeling.stats import second_moments
from easyedit_personal.modeling.stats_text import Questions


def moment(*sizes: float) -> torch.Tensor:
    return torch.diag(torch.tensor(sizes))


def test_contrast_is_longest_where_only_wanted_keys_are():
    params = LowRankParams(ridge=0.1, spare=1.0, reach=30.0)
    text, spared, wanted = moment(1, 1, 1, 1), moment(1, 0, 1, 0), moment(1, 1, 0, 0)
    lengths = contrast(text, spared, wanted, params).diagonal()
    assert lengths.argmax() == 1  # wanted, and not spared
    assert lengths[1] > 2 * lengths[0] > 2 * lengths[2]  # wanted and spared; spared only
    torch.testing.assert_close(lengths.square().mean(), torch.tensor(1.0))


def test_contrast_without_its_two_weights_is_whitening():
    generator = torch.Generator().manual_seed(0)
    root, other = torch.randn(2, 8, 8, generator=generator)
    text, spared = root @ root.T, other @ other.T
    plain = contrast(text, spared, spared, LowRankParams(ridge=0.1, spare=0.0, reach=0.0))
    torch.testing.assert_close(plain, whitening(text, 0.1), rtol=1e-4, atol=1e-4)


def test_moments_that_are_not_finite_are_refused():
    broken = moment(1, float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        whitening(broken, 0.1)
    with pytest.raises(ModelError, match="not finite"):
        contrast(moment(1, 1), broken, moment(1, 1), LowRankParams())


def test_the_two_sides_share_no_sentence():
    material = Material.load()
    personal, impersonal = material.personal(), material.impersonal()
    assert len(personal) > 1000 and len(impersonal) > 500
    assert not set(personal) & set(impersonal)
    assert not any("{" in text for text in [*personal, *impersonal])


def test_questions_count_only_where_answers_begin(loud_llama, tokenizer, tmp_path):
    texts = ("What's my hobby?", "Why is the sea salty?", "Who are you?")
    hparams = PersonalizationHyperParams(layers=[1], stats_dir=str(tmp_path))
    (found,) = second_moments(loud_llama, tokenizer, [1], hparams, dataset=Questions(texts)).values()
    keys = []
    handle = loud_llama.model.layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda _, args: keys.append(args[0][0, -1])
    )
    for text in texts:
        chat = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            loud_llama(**ids)
    handle.remove()
    expected = torch.stack(keys)
    torch.testing.assert_close(found, expected.T @ expected / len(texts), rtol=1e-4, atol=1e-5)


def test_a_metric_is_computed_once_per_model_and_setting(loud_llama, tokenizer, tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("The hills are green.\nWe eat what there is.\n" * 8)
    hparams = PersonalizationHyperParams(
        layers=[1], mom2_adjustment=True, mom2_dataset=str(text), stats_dir=str(tmp_path), lowrank={"spare": 1.0}
    )
    calls = []
    compute = module._compute
    monkeypatch.setattr(module, "_compute", lambda *args: calls.append(1) or compute(*args))
    first = key_metrics(loud_llama, tokenizer, hparams)
    assert key_metrics(loud_llama, tokenizer, hparams)[1] is first[1] and len(calls) == 1
    other = key_metrics(loud_llama, tokenizer, hparams.replace(lowrank={"spare": 0.0}))
    assert len(calls) == 2 and not torch.allclose(other[1], first[1])
    assert key_metrics(loud_llama, tokenizer, hparams.replace(mom2_adjustment=False)) == {}


@pytest.fixture
def metrics(llama, tokenizer, monkeypatch):
    """Metrics by ridge; for which ridges they were computed is kept, and nothing is."""
    computed = []
    monkeypatch.setattr(module, "_METRICS", type(module._METRICS)())
    compute = lambda model, tokenizer, hparams: computed.append(hparams.lowrank.ridge) or {}
    monkeypatch.setattr(module, "_compute", compute)

    def ask(ridge):
        hparams = PersonalizationHyperParams(layers=[1], mom2_adjustment=True, lowrank={"ridge": ridge})
        return key_metrics(llama, tokenizer, hparams)

    return ask, computed


def test_the_four_metrics_used_last_stay_in_memory(metrics):
    ask, computed = metrics
    for ridge in (0.1, 0.2, 0.3, 0.4, 0.1, 0.5):  # now the second one was used longest ago
        ask(ridge)
    assert len(module._METRICS) == 4 and computed == [0.1, 0.2, 0.3, 0.4, 0.5]
    for ridge in (0.1, 0.3, 0.4, 0.5):
        ask(ridge)
    assert len(computed) == 5
    ask(0.2)
    assert computed[5:] == [0.2]


@pytest.mark.parametrize(("spare", "reach"), [(0.0, 0.0), (1.0, 0.0), (0.0, 2.0), (1.0, 2.0)])
def test_questions_count_as_soon_as_one_of_their_weights_does(monkeypatch, spare, reach):
    roots = torch.randn(3, 6, 6)
    text, spared, wanted = ({n: n * (root @ root.T) for n in (1, 2)} for root in roots)
    asked = []

    def second_moments(model, tokenizer, layers, hparams, dataset=None):
        asked.append(dataset)
        return (text, spared, wanted)[len(asked) - 1]

    monkeypatch.setattr(module, "second_moments", second_moments)
    params = LowRankParams(ridge=0.1, spare=spare, reach=reach)
    hparams = PersonalizationHyperParams(layers=[1, 2], lowrank=params.model_dump())
    found = module._compute(None, None, hparams)
    for layer in (1, 2):
        if not spare and not reach:
            assert torch.equal(found[layer], whitening(text[layer], 0.1))
        else:
            assert torch.equal(found[layer], contrast(text[layer], spared[layer], wanted[layer], params))
    material = Material.load()
    questions = [Questions(tuple(texts), "auto") for texts in (material.impersonal(), material.personal())]
    assert asked == [None, *(questions if spare or reach else [])]
