"""PersonalizationEditor: BaseEditor's calls and return values, clean weights between cases, no host needed."""

from __future__ import annotations

import sys

import pytest
import torch

from easyedit_personal import PersonalizationEditor, PersonalizationHyperParams, apply_personalization_to_model
from easyedit_personal.editing.algorithm import personalize
from easyedit_personal.errors import ConfigError, HealthError, ModelError, RequestError
from easyedit_personal.generation.generate import generate
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.modeling.layout import weights_digest
from tests.tiny import FAMILIES, tiny_model
from tests.tiny_model import FOLDER

QUESTIONS = ["What's my hobby?", "What is my favourite food?"]
TARGETS = ["hiking", "noodles"]
SUBJECTS = ["hobby", "favourite food"]


def settings(model, tokenizer, **changes):
    """Quick settings that make a tiny random model learn."""
    values = {
        "model_name": (model, tokenizer),
        "layers": [2],
        "kernel": "finetune",
        "finetune": {"lr": 0.02, "steps": 200},
        "preserve": {"weight": 0.0},
        "cluster": {"size": 1},
        "health": {"on_unhealthy": "ignore"},
        **changes,
    }
    return PersonalizationHyperParams(**values)


@pytest.fixture
def editor(llama, tokenizer):
    return PersonalizationEditor.from_hparams(settings(llama, tokenizer))


def answer(model, tokenizer, question):
    return generate(model, tokenizer, [question])[0].text.strip()


def test_returned_model_answers_and_the_editors_model_is_untouched(editor):
    before = weights_digest(editor.model)
    metrics, model, originals = editor.edit(QUESTIONS[0], TARGETS[0], subject=SUBJECTS[0])
    assert answer(model, editor.tok, QUESTIONS[0]) == TARGETS[0]
    assert weights_digest(editor.model) == before != weights_digest(model)
    assert list(originals) == ["model.layers.2.mlp.down_proj.weight"]
    (case,) = metrics
    assert case["post"]["rewrite_acc"] == [1.0] and case["pre"]["rewrite_acc"][0] < 1
    assert case["post"]["rewrite_gen_content"] == [TARGETS[0]]
    assert (case["case_id"], case["requested_rewrite"]["subject"]) == (0, "hobby") and case["time"] > 0


def test_both_models_share_their_unedited_weights(editor):
    _, model, _ = editor.edit(QUESTIONS[0], TARGETS[0])
    assert model.lm_head.weight is editor.model.lm_head.weight
    assert model.model.layers[2].mlp.down_proj.weight is not editor.model.model.layers[2].mlp.down_proj.weight


def test_each_case_starts_from_the_clean_model(editor):
    together, _, _ = editor.edit(QUESTIONS, TARGETS, subject=SUBJECTS)
    second = editor.results[1].deltas
    alone, _, _ = editor.edit(QUESTIONS[1], TARGETS[1], subject=SUBJECTS[1])
    assert torch.equal(second[0].left, editor.results[0].deltas[0].left)
    assert together[1]["post"] == alone[0]["post"]


def test_the_last_users_edits_are_returned(editor):
    _, model, _ = editor.edit(QUESTIONS, TARGETS, user=["ann", "bob"])
    assert answer(model, editor.tok, QUESTIONS[1]) == TARGETS[1]
    with in_weights(editor.model, editor.results[1].deltas):
        assert weights_digest(editor.model) == weights_digest(model)


def test_batch_edit_solves_all_cases_together(editor):
    before = weights_digest(editor.model)
    metrics, model, _ = editor.batch_edit(QUESTIONS, TARGETS, subject=SUBJECTS)
    assert [answer(model, editor.tok, question) for question in QUESTIONS] == TARGETS
    assert len(editor.results) == 1 and [case["case_id"] for case in metrics] == [0, 1]
    assert weights_digest(editor.model) == before


def test_sequential_edit_keeps_edits_and_hands_back_the_originals(editor):
    first = editor.model.model.layers[2].mlp.down_proj.weight.detach().clone()
    _, model, originals = editor.edit(QUESTIONS, TARGETS, sequential_edit=True)
    assert model is editor.model
    assert answer(editor.model, editor.tok, QUESTIONS[1]) == TARGETS[1]
    assert torch.equal(originals["model.layers.2.mlp.down_proj.weight"], first)


def test_probes_show_in_the_metrics(editor):
    metrics, _, _ = editor.edit(
        QUESTIONS[0],
        TARGETS[0],
        rephrase_prompts=["What do I like?"],
        locality_inputs={"facts": {"prompt": ["Who is my doctor?"], "ground_truth": ["a friend"]}},
        portability_inputs={"implicit": {"prompt": ["What should I do?"], "ground_truth": [TARGETS[0]]}},
    )
    post = metrics[0]["post"]
    assert {"rewrite_acc", "rephrase_acc"} <= post.keys() and "implicit_acc" in post["portability"]
    assert 0 <= post["locality"]["facts_acc"][0] <= 1


def test_strategies_joint_and_sequential_both_learn(llama, tokenizer):
    request = {
        "prompt": QUESTIONS[0],
        "target_new": TARGETS[0],
        "subject": "hobby",
        "cluster": [{"prompt": "What is my job?", "subject": "job"}],
    }
    for strategy, records in (("joint", 1), ("sequential", 2)):
        hparams = settings(llama, tokenizer, strategy=strategy, cluster={"size": 2})
        result = personalize(llama, tokenizer, [request], hparams)
        assert len(result.deltas) == records
        with in_weights(llama, result.deltas):
            assert answer(llama, tokenizer, QUESTIONS[0]) == TARGETS[0]


def test_a_later_preference_overrules_an_earlier_one_and_says_so(llama, tokenizer):
    requests = [{"prompt": QUESTIONS[0], "target_new": target} for target in ("hiking", "noodles")]
    result = personalize(llama, tokenizer, requests, settings(llama, tokenizer))
    assert "overruled" in result.notes[0]
    with in_weights(llama, result.deltas):
        assert answer(llama, tokenizer, QUESTIONS[0]) == "noodles"


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_works_as_a_pair(family, tokenizer):
    model = tiny_model(family)
    before = weights_digest(model)
    hparams = settings(model, tokenizer, finetune={"steps": 3})
    metrics, returned, originals = PersonalizationEditor(hparams).edit(QUESTIONS[0], TARGETS[0], subject="hobby")
    assert weights_digest(model) == before != weights_digest(returned)
    assert len(metrics) == 1 and len(originals) == 1


def test_padding_side_does_not_matter(llama, tokenizer):
    results = []
    for side in ("left", "right"):
        tokenizer.padding_side = side
        results.append(
            personalize(
                llama, tokenizer, [{"prompt": QUESTIONS[0], "target_new": "hiking"}], settings(llama, tokenizer)
            )
        )
        assert tokenizer.padding_side == side
    assert torch.equal(results[0].deltas[0].left, results[1].deltas[0].left)


def test_hosts_function_edits_in_place_or_a_copy(llama, tokenizer):
    request = {"prompt": QUESTIONS[0], "target_new": TARGETS[0], "portability": {}, "locality": {}}
    hparams = settings(llama, tokenizer, finetune={"steps": 3})
    before = weights_digest(llama)
    twin, originals = apply_personalization_to_model(llama, tokenizer, [request], hparams, copy=True)
    assert originals == {} and weights_digest(llama) == before != weights_digest(twin)
    model, originals = apply_personalization_to_model(llama, tokenizer, [request], hparams, return_orig_weights=True)
    assert model is llama and weights_digest(llama) == weights_digest(twin)
    dict(llama.named_parameters())["model.layers.2.mlp.down_proj.weight"].data.copy_(*originals.values())
    assert weights_digest(llama) == before


def test_an_unhealthy_edit_is_refused_and_nothing_moves(editor):
    strict = {"on_unhealthy": "refuse", "max_perplexity_ratio": 1.0001, "max_relative_norm": 1e-6}
    editor.hparams = editor.hparams.replace(health=strict)
    before = weights_digest(editor.model)
    with pytest.raises(HealthError, match="relative_norm"):
        editor.edit(QUESTIONS[0], TARGETS[0], sequential_edit=True)
    assert weights_digest(editor.model) == before


def test_bad_requests_are_refused_before_anything_is_edited(editor):
    before = weights_digest(editor.model)
    with pytest.raises(RequestError, match="request 1"):
        editor.edit(QUESTIONS, ["hiking", ""], sequential_edit=True)
    with pytest.raises(RequestError, match="Did you mean 'subject'"):
        editor.edit(QUESTIONS[0], TARGETS[0], subjects="hobby")
    assert weights_digest(editor.model) == before


def test_braces_and_special_tokens_in_user_text_are_text(editor):
    question = "What's my {hobby} <|end|> {} 100%s?"
    _, model, _ = editor.edit(question, "{}", subject="{hobby}")
    assert answer(model, editor.tok, question) == "{}"


def test_models_that_cannot_be_had_are_refused():
    for name, part in (("./no-such-folder", "does not exist"), ((1, 2), "pair")):
        with pytest.raises(ModelError, match=part):
            PersonalizationEditor(PersonalizationHyperParams(model_name=name))


def test_a_missing_device_or_layer_is_refused(llama, tokenizer):
    with pytest.raises(ModelError, match="no layer 9"):
        PersonalizationEditor(settings(llama, tokenizer, layers=[9]))
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match="cuda"):
            PersonalizationEditor(PersonalizationHyperParams(model_name=str(FOLDER), device=0))
    with pytest.raises(ConfigError, match="llama3-8b"):
        PersonalizationEditor.from_hparams("llama-8b")


def test_a_model_folder_on_disk_works(llama, tokenizer, tmp_path):
    llama.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    hparams = settings(llama, tokenizer, finetune={"steps": 2}, model_name=str(tmp_path))
    editor = PersonalizationEditor(hparams)
    assert weights_digest(editor.model) == weights_digest(llama)


def test_easyedit_is_not_needed(editor):
    editor.edit(QUESTIONS[0], TARGETS[0])
    assert "easyeditor" not in sys.modules
