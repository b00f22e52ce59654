"""Values that are kept per model."""

from __future__ import annotations

from easyedit_personal.modeling import per_model
from easyedit_personal.modeling.per_model import PerModel
from tests.tiny import tiny_model, tiny_tokenizer


def test_equal_models_share_a_value_and_the_least_recently_used_is_dropped(monkeypatch):
    monkeypatch.setattr(per_model, "MODELS_KEPT", 2)
    tokenizer, kept, made = tiny_tokenizer(), PerModel(), []
    models = [tiny_model("llama", seed=seed) for seed in (0, 1, 2)]

    def make():
        made.append(len(made))
        return made[-1]

    assert [kept.get(model, tokenizer, make) for model in (models[0], tiny_model("llama"), models[1])] == [0, 0, 1]
    assert kept.get(models[0], tokenizer, make) == 0
    assert kept.get(models[2], tokenizer, make) == 2, "now the second model's is gone"
    assert [kept.get(model, tokenizer, make) for model in (models[0], models[1])] == [0, 3]
    assert kept.get(models[1], tiny_tokenizer(chat=False), make) == 4
    assert kept.get(models[1], tokenizer, make, "raw") == 5
    kept.clear()
    assert kept.get(models[1], tokenizer, make) == 6
