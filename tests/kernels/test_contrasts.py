"""Contrasts as rows: their prompts, the model's answers, pools apart, in parts that a pass can hold."""

from __future__ import annotations

import pytest
import torch

from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels import contrasts as module
from easyedit_personal.kernels.base import frozen
from easyedit_personal.kernels.kinds import Contrast
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.suffix import Suffix
from easyedit_personal.modeling.tokens import Encoded

HPARAMS = PersonalizationHyperParams(layers=[1])
ANSWER = (40, 41)


@pytest.fixture
def made(monkeypatch):
    """What is said of the rows that are made, instead of running them."""
    rows = []
    monkeypatch.setattr(
        module, "EditedRows", lambda *given, **options: rows.append((given[3:], options)) or len(rows) - 1
    )
    return rows


def many(pool, count):
    """Contrasts of one pool, the longest first."""
    return [Contrast(f"{pool} " + "a " * (count - n), pool) for n in range(count)]


def test_pools_are_run_apart_48_rows_of_about_one_length_at_a_time(tokenizer, made):
    contrasts = [*many("named", 49), *many("own", 2), Contrast("named", "named")]
    found = module.packs(None, tokenizer, None, contrasts, dict.fromkeys(contrasts, ANSWER), HPARAMS)
    assert [len(pack.contrasts) for pack in found] == [48, 2, 2]
    assert [{contrast.pool for contrast in pack.contrasts} for pack in found] == [{"named"}, {"named"}, {"own"}]
    for pack in found:
        (rows, layers), options = made[pack.rows]
        lengths = [len(row.prompt_ids) for row in rows]
        assert lengths == sorted(lengths) and {row.target_ids for row in rows} == {ANSWER}
        assert layers == [1] and options == {
            "from_answers": True,
            "known": {},
        }  # nothing before the answers is run again
        texts = [tokenizer.decode(row.prompt_ids) for row in rows]
        assert all(c.text in text for c, text in zip(pack.contrasts, texts, strict=True))
    assert len(found[0].contrasts[0].text) < len(found[1].contrasts[-1].text)


def test_a_contrast_stands_behind_its_turns(tokenizer):
    row = module.encoded_contrast(tokenizer, Contrast("And now?", "own", history=(("Mine is tea.", "Good."),)), HPARAMS)
    text = "<|user|>Mine is tea.<|end|><|assistant|>Good.<|end|><|user|>And now?<|end|><|assistant|>"
    assert tokenizer.decode(row.prompt_ids) == text and row.target_ids == ()


def test_those_whose_turns_do_not_fit_the_context_with_an_answer_s_beginning_are_left_out(tokenizer, monkeypatch):
    plain, talked = Contrast("And now?", "own"), Contrast("And now?", "own", history=(("Mine is tea.", "Good."),))
    longest = len(module.encoded_contrast(tokenizer, talked, HPARAMS).ids) + module.ANSWER_TOKENS
    for limit, found in ((longest, [plain, talked]), (longest - 1, [plain]), (None, [plain, talked]), (1, [plain])):
        monkeypatch.setattr(module, "context_limit", lambda model, limit=limit: limit)
        assert module.fitting(None, tokenizer, [plain, talked], HPARAMS) == found


def test_a_begun_answer_follows_the_prompt_and_is_not_ended(tokenizer):
    row = module.encoded_contrast(tokenizer, Contrast("Whose?", "own"), HPARAMS, "Her pet is")
    assert tokenizer.decode(row.prompt_ids) == "<|user|>Whose?<|end|><|assistant|>"
    assert tokenizer.decode(row.target_ids) == "Her pet is"


def test_prompts_are_answered_48_at_a_time_with_so_many_tokens_each(monkeypatch):
    asked = []

    def continuations(model, tokenizer, rows, limits):
        asked.append((len(rows), limits))
        return [[len(row.prompt_ids)] * limits[0] for row in rows]

    monkeypatch.setattr(module, "continuations", continuations)
    prompts = [Encoded(tuple(range(1 + n)), (), n) for n in range(50)]
    found = module.answered(None, None, prompts, 3)
    assert asked == [(48, [3] * 48), (2, [3] * 2)]
    assert found == [Encoded(row.prompt_ids, (1 + n,) * 3, n) for n, row in enumerate(prompts)]


def test_shared_ones_are_run_once_per_model_and_settings_and_only_the_last_stay(llama, tokenizer, monkeypatch):
    module._SHARED.clear()
    runs, packs = [], module.packs
    monkeypatch.setattr(module, "packs", lambda *given: runs.append(1) or packs(*given))
    contrasts, layout = many("named", 2), find_layout(llama)
    answers = dict.fromkeys(contrasts, ANSWER)
    with frozen(llama):
        for hparams, expected in ((HPARAMS, 1), (HPARAMS, 1), (HPARAMS.replace(layers=[2]), 2), (HPARAMS, 3)):
            (pack,) = module.shared_packs(llama, tokenizer, layout, contrasts, answers, hparams)
            assert len(runs) == expected and pack.rows.layers == hparams.layers
            assert pack.rows.model is llama and pack.rows.logits().shape[0] == 4


def test_a_last_layer_s_passes_are_kept_part_by_part_and_not_made_again(llama, tokenizer, monkeypatch):
    contrasts, layout = [*many("named", 2), *many("own", 3)], find_layout(llama)
    answers, hparams = dict.fromkeys(contrasts, ANSWER), HPARAMS.replace(layers=[layout.n_layers - 1])
    with frozen(llama):
        packs = module.packs(llama, tokenizer, layout, contrasts, answers, hparams)
        known = module.kept_of(packs)
        assert {name.split(".")[1] for name in known} == {"0", "1"}
        monkeypatch.setattr(Suffix, "_capture", None)
        again = module.packs(llama, tokenizer, layout, contrasts, answers, hparams, known)
        for ran, recalled in zip(packs, again, strict=True):
            assert torch.equal(ran.rows.logits(), recalled.rows.logits()) and ran.contrasts == recalled.contrasts
        module._SHARED.clear()
        (shared, _) = module.shared_packs(llama, tokenizer, layout, contrasts, answers, hparams, known)
        assert torch.equal(shared.rows.logits(), packs[0].rows.logits())
        module._SHARED.clear()
