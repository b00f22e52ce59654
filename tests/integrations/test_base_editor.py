"""Our editor inside EasyEdit's BaseEditor: every way to call it, its evaluation, and its refusals."""

from __future__ import annotations

import json
import os

import pytest
import torch

from easyedit_personal import PersonalizationHyperParams, UPQADataset, register, unregister
from easyedit_personal.errors import ModelError, RequestError
from easyedit_personal.generation.generate import generate
from tests.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.easyedit

PROMPTS = ["What's my hobby?", "What is my favourite food?"]
TARGETS = ["hiking", "noodles"]
SUBJECTS = ["hobby", "favourite food"]


def settings(model, **changes):
    """Settings with which a tiny random model learns in a second."""
    values = {
        "model_name": model,
        "layers": [1],
        "kernel": "lowrank",
        "lowrank": {"rank": 8, "lr": 0.02, "steps": 250},
        "preserve": {"weight": 0.0},
        "cluster": {"size": 1},
        "health": {"on_unhealthy": "ignore"},
        **changes,
    }
    return PersonalizationHyperParams(**values)


def loud(family):
    """A random model whose answers differ from each other, so that an edit has something to get hold of."""
    return tiny_model(family, initializer_range=0.2)


@pytest.fixture
def llama():
    return loud("llama")


@pytest.fixture
def base_editor(host, tmp_path, monkeypatch):
    """BaseEditor with our algorithm registered; the working folder is empty and must stay so."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    unregister()
    register(tmp_path / "files", quiet=True)
    yield host.module("editors.editor").BaseEditor
    unregister()
    assert os.listdir(folder) == []


@pytest.fixture(params=["llama", "gpt2"])
def family(request):
    return request.param


def bits(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def accuracies(metrics):
    return [case["post"]["rewrite_acc"] for case in metrics]


@pytest.mark.parametrize("chat", [True, False])
def test_edit_learns_is_evaluated_by_the_host_and_restored(base_editor, family, chat, tmp_path):
    model, tokenizer = loud(family), tiny_tokenizer(chat)
    editor = base_editor.from_hparams(settings((model, tokenizer)))
    before = bits(model)
    metrics, edited, originals = editor.edit(
        prompts=PROMPTS,
        target_new=TARGETS,
        subject=SUBJECTS,
        rephrase_prompts=["What do I do?", "What do I eat?"],
        locality_inputs={"unrelated": {"prompt": ["Who is she?"] * 2, "ground_truth": ["a friend"] * 2}},
        portability_inputs={"implicit": {"prompt": ["What now?"] * 2, "ground_truth": TARGETS}},
    )
    assert isinstance(editor, base_editor)
    assert accuracies(metrics) == [[1.0], [1.0]]
    assert metrics[0]["pre"]["rewrite_acc"][0] < 1
    assert "implicit_acc" in metrics[0]["post"]["portability"] and "unrelated_acc" in metrics[0]["post"]["locality"]
    assert same(model, before) and edited is model
    assert [tensor.shape for tensor in originals.values()] == [before[name].shape for name in originals]
    results = json.loads((tmp_path / "files" / "logs" / "results.json").read_text())
    assert [case["requested_rewrite"]["target_new"] for case in results] == TARGETS


def test_sequential_edits_stay(base_editor, family):
    model, tokenizer = loud(family), tiny_tokenizer()
    editor = base_editor.from_hparams(settings((model, tokenizer)))
    metrics, edited, _ = editor.edit(PROMPTS, TARGETS, subject=SUBJECTS, sequential_edit=True)
    assert accuracies(metrics)[1] == [1.0]
    assert generate(edited, tokenizer, [PROMPTS[1]])[0].text == TARGETS[1]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_batch_edit(base_editor, family, batch_size):
    model, tokenizer = loud(family), tiny_tokenizer()
    editor = base_editor.from_hparams(settings((model, tokenizer), batch_size=batch_size))
    before = bits(model)
    metrics, _, _ = editor.batch_edit(PROMPTS, TARGETS, subject=SUBJECTS, user=["ann", "bob"])
    assert accuracies(metrics) == [[1.0], [1.0]]
    assert same(model, before)
    assert accuracies(editor.edit(PROMPTS[0], TARGETS[0])[0]) == [[1.0]]  # batch_size does not concern edit


def test_edit_requests_with_our_own_keys(base_editor, llama, tokenizer):
    editor = base_editor.from_hparams(settings((llama, tokenizer), cluster={"size": 2}))
    request = {"prompt": PROMPTS[0], "target_new": TARGETS[0], "subject": "hobby", "user": "ann"}
    request["cluster"] = [{"prompt": "What is my job?", "subject": "job"}]
    seen = []
    algorithm = editor.apply_algo
    editor.apply_algo = lambda model, tok, requests, *a, **k: (
        seen.extend(requests),
        algorithm(model, tok, requests, *a, **k),
    )[1]
    before = bits(llama)
    metrics, _, _ = editor.edit_requests([request])
    assert accuracies(metrics) == [[1.0]] and same(llama, before)
    assert (seen[0]["user"], seen[0]["cluster"]) == ("ann", request["cluster"])
    editor.edit_requests([request], sequential_edit=True)
    assert [a.text for a in generate(llama, tokenizer, [PROMPTS[0], "What is my job?"])] == [TARGETS[0]] * 2


def test_own_keys_travel_through_batch_edit(base_editor, llama, tokenizer):
    editor = base_editor.from_hparams(settings((llama, tokenizer), batch_size=2, cluster={"size": 2}))
    seen = []
    algorithm = editor.apply_algo
    editor.apply_algo = lambda model, tok, requests, *a, **k: (
        seen.extend(requests),
        algorithm(model, tok, requests, *a, **k),
    )[1]
    clusters = [[{"prompt": "What is my job?", "subject": "job"}], [{"prompt": "What do I eat?", "subject": "eat"}]]
    editor.batch_edit(PROMPTS, TARGETS, subject=SUBJECTS, user=["ann", "bob"], cluster=clusters)
    assert [request["user"] for request in seen] == ["ann", "bob"]
    assert [request["cluster"] for request in seen] == clusters


def test_by_model_path_whatever_the_folder_is_called(base_editor, family, tmp_path):
    folder = tmp_path / "at5b"  # the host would take it for a T5, or not know the family
    loud(family).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    editor = base_editor.from_hparams(settings(str(folder)))
    before = bits(editor.model)
    metrics, _, _ = editor.edit(PROMPTS[0], TARGETS[0], subject=SUBJECTS[0])
    assert accuracies(metrics) == [[1.0]] and same(editor.model, before)


def test_either_padding_side_gives_the_same_edit_and_metrics(base_editor, family):
    outcomes = []
    tokenizer = tiny_tokenizer()
    side = tokenizer.padding_side
    try:
        for padding_side in ("left", "right"):
            model, tokenizer.padding_side = loud(family), padding_side
            editor = base_editor.from_hparams(settings((model, tokenizer), batch_size=2))
            metrics, edited, _ = editor.batch_edit(PROMPTS, TARGETS, subject=SUBJECTS, sequential_edit=True)
            outcomes.append((bits(edited), accuracies(metrics)))
            assert tokenizer.padding_side == padding_side
    finally:
        tokenizer.padding_side = side
    assert outcomes[0][1] == outcomes[1][1]
    assert all(torch.equal(outcomes[0][0][name], outcomes[1][0][name]) for name in outcomes[0][0])


def test_the_data_set_feeds_edit_and_the_hosts_metrics_show_its_probes(base_editor, llama, tokenizer):
    editor = base_editor.from_hparams(settings((llama, tokenizer), lowrank={"steps": 2}))
    metrics, _, _ = editor.edit(**UPQADataset.bundled("test")[:1].edit_kwargs(), verbose=False)
    post = metrics[0]["post"]
    assert {"implicit_acc", "product_acc"} <= post["portability"].keys()
    assert {"neighborhood_acc", "unrelated_acc"} <= post["locality"].keys()


BAD = {
    "subject not in prompt": ({"subject": ["hobby", "pet"]}, "request 1.*'pet'"),
    "empty target": ({"target_new": ["hiking", " "]}, "request 1.*target_new"),
    "lists of different length": ({"target_new": ["hiking"]}, "target_new: 1 entries for 2 prompts"),
    "probes of different length": (
        {"locality_inputs": {"facts": {"prompt": ["Who?"], "ground_truth": ["a"]}}},
        r"locality_inputs\['facts'\]",
    ),
    "a misspelt argument": ({"subjects": SUBJECTS}, "Did you mean 'subject'"),
}


@pytest.mark.parametrize("call", ["edit", "batch_edit"])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_any_weight_moves(base_editor, llama, tokenizer, call, case):
    changes, said = BAD[case]
    editor = base_editor.from_hparams(settings((llama, tokenizer), batch_size=1))
    before = bits(llama)
    arguments = {"prompts": PROMPTS, "target_new": TARGETS, "subject": SUBJECTS, **changes}
    with pytest.raises(RequestError, match=f"(?s){said}"):
        getattr(editor, call)(**arguments)
    assert same(llama, before)


def test_a_batch_of_requests_with_a_bad_one_is_refused_as_a_whole(base_editor, llama, tokenizer):
    editor = base_editor.from_hparams(settings((llama, tokenizer)))
    before = bits(llama)
    good = {"prompt": PROMPTS[0], "target_new": TARGETS[0]}
    with pytest.raises(RequestError, match=r"request 1 of user 'bob'"):
        editor.edit_requests([good, {**good, "target_new": "", "user": "bob"}], sequential_edit=True)
    with pytest.raises(RequestError, match="nothing to edit"):
        editor.edit_requests([])
    assert same(llama, before)


def test_braces_in_users_text_are_text(base_editor, llama, tokenizer):
    editor = base_editor.from_hparams(settings((llama, tokenizer)))
    metrics, _, _ = editor.edit("What's {my} hobby {}?", "a {} kite", subject="hobby {}")
    assert accuracies(metrics) == [[1.0]]


def test_a_device_or_model_that_is_not_there_is_named(base_editor, llama, tokenizer, tmp_path):
    with pytest.raises(ModelError, match="cuda:97"):
        base_editor.from_hparams(settings((llama, tokenizer), device=97))
    with pytest.raises(ModelError, match="gone"):
        base_editor.from_hparams(settings(str(tmp_path / "gone")))


def test_other_algorithms_are_not_touched(base_editor, host, llama, tokenizer):
    hparams = host.module("models.ft.ft_hparams").FTHyperParams(
        **dict.fromkeys(("rewrite_module_tmp", "layer_module_tmp", "mlp_module_tmp", "attn_module_tmp"), ""),
        **{"ln_f_module": "", "lm_head_module": "", "layers": [1], "num_steps": 1, "lr": 0.1, "weight_decay": 0},
        **{"kl_factor": 0, "norm_constraint": False, "device": "cpu", "alg_name": "FT"},
        **{"model_name": (llama, tokenizer), "objective_optimization": "target_new"},
    )
    editor = base_editor.from_hparams(hparams)
    assert type(editor) is base_editor and editor.model is llama and editor.hparams is hparams
