"""Many users at a time: each one's edit, health and faults are those of an edit alone."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal import edit_many
from easyedit_personal.editing import many
from easyedit_personal.editing.algorithm import personalize
from easyedit_personal.errors import HealthError, RequestError
from easyedit_personal.modeling.layout import weights_digest
from easyedit_personal.types import EditResult, Preference, WeightDelta
from tests.editing.test_editor import settings

HOBBY = Preference("hobby", "What's my hobby?", "hiking")
PEOPLE = [
    [HOBBY],
    [Preference("pet", "What's my pet?", "a small dog by the sea"), Preference("job", "What's my job?", "baker")],
    [Preference("hobby", "What's my hobby?", "music")],
]
NATURAL = {"contrasts": 24, "ordinary": 6, "answer_tokens": 4, "gate_steps": 4, "value_steps": 6, "gate_rank": 4}
LOOSE = {"max_perplexity_ratio": 1e9, "max_relative_norm": 1e9, "min_natural_stops": 0.0, "max_surprise": 1e9}


def chosen(llama, tokenizer, folder, kernel, **changes):
    values = {"kernel": kernel, "health": {"on_unhealthy": "refuse", **LOOSE}, "stats_dir": str(folder), **changes}
    if kernel == "lowrank":
        values |= {"answers": "natural", "natural": NATURAL}
    if kernel == "rome":
        values |= {"v_num_grad_steps": 3, "mom2_adjustment": False}
    if kernel == "finetune":
        values |= {"finetune": {"lr": 0.01, "steps": 2}}
    return settings(llama, tokenizer, **values)


def same(one: EditResult, other: EditResult):
    for mine, theirs in zip(one.deltas, other.deltas, strict=True):
        assert mine.layer == theirs.layer and mine.rank == theirs.rank
        assert (mine.update() - theirs.update()).norm() < 1e-3 * theirs.update().norm()
    assert one.health == pytest.approx(other.health, rel=1e-3, abs=1e-4)


@pytest.mark.usefixtures("few_questions")
@pytest.mark.parametrize("kernel", ["lowrank", "rome", "finetune"])
def test_everybody_gets_what_they_would_get_alone(kernel, llama, tokenizer, tmp_path):
    hparams, before = chosen(llama, tokenizer, tmp_path, kernel), weights_digest(llama)
    together = edit_many(llama, tokenizer, PEOPLE, hparams)
    assert weights_digest(llama) == before
    assert len(together) == len(PEOPLE) and all(one.seconds > 0 for one in together)
    for one, said in zip(together, PEOPLE):
        same(one, personalize(llama, tokenizer, said, hparams))


def test_a_fault_is_one_users_alone(llama, tokenizer, tmp_path):
    hparams = chosen(llama, tokenizer, tmp_path, "lowrank")
    long = Preference("hobby", "What's my hobby?", "tea " * 300)
    found = edit_many(llama, tokenizer, [PEOPLE[0], [long], [{"prompt": ""}], PEOPLE[2]], hparams)
    assert [type(one) for one in found] == [EditResult, RequestError, RequestError, EditResult]
    assert "context" in str(found[1])
    same(found[3], personalize(llama, tokenizer, PEOPLE[2], hparams))


def test_an_unhealthy_edit_is_refused_and_the_others_stand(llama, tokenizer, tmp_path, monkeypatch):
    torch.manual_seed(0)
    path = "model.layers.2.mlp.down_proj"
    wild = [WeightDelta(path, torch.randn(32, 4) * 20, torch.randn(4, 48))]
    tame = [WeightDelta(path, torch.zeros(32, 1), torch.zeros(1, 48))]
    monkeypatch.setattr(many, "compute_deltas", lambda model, tok, phrases, hparams: (
        wild if phrases[0].target_new == "hiking" else tame
    ))  # fmt: skip
    hparams = chosen(llama, tokenizer, tmp_path, "finetune", health={"on_unhealthy": "refuse", "max_relative_norm": 1})
    refused, kept = edit_many(llama, tokenizer, [PEOPLE[0], PEOPLE[2]], hparams)
    assert isinstance(refused, HealthError) and "relative_norm" in str(refused)
    assert kept.health["relative_norm"] == 0 and kept.health["perplexity_ratio"] == pytest.approx(1)
    (beside,) = edit_many(llama, tokenizer, [PEOPLE[2]], hparams, beside=[wild])
    assert isinstance(beside, HealthError), "what a user has besides is part of what health is asked of"


def test_nobody_and_no_health(llama, tokenizer, tmp_path):
    hparams = chosen(llama, tokenizer, tmp_path, "finetune", health={"on_unhealthy": "ignore"})
    assert edit_many(llama, tokenizer, [], hparams) == []
    assert edit_many(llama, tokenizer, PEOPLE[:1], hparams)[0].health == {}
