"""A real chat model through every door: edited, undone, stored, exported, served in a batch, and by each command."""

from __future__ import annotations

import json

import pytest
import torch
from peft import PeftModel

from easyedit_personal import EditStore, PersonalizationEditor, PersonalizedModel, edited
from easyedit_personal.generation.generate import generate
from easyedit_personal.modeling.layout import weights_digest
from easyedit_personal.modeling.loading import load_model
from tests.real.conftest import FALCONRY, QUESTION

pytestmark = pytest.mark.real


def answers(model, tokenizer, *questions):
    """Short answers, each alone."""
    return [answer.text for answer in generate(model, tokenizer, list(questions), max_new_tokens=16)]


def test_an_edit_answers_and_is_gone_bit_for_bit(real, falconry):
    model, tokenizer = real
    before, clean = weights_digest(model), answers(*real, QUESTION)[0]
    with edited(model, falconry):
        assert weights_digest(model) != before
        assert "falconry" in answers(model, tokenizer, QUESTION)[0].lower()
    assert weights_digest(model) == before
    assert answers(*real, QUESTION)[0] == clean and "falconry" not in clean.lower()


def test_the_editor_takes_the_model_by_name(smollm2_folder, quick):
    editor = PersonalizationEditor.from_hparams(quick)
    metrics, mine, _ = editor.edit(QUESTION, "falconry", subject="hobby")
    assert metrics[0]["post"]["rewrite_acc"] == [1.0]
    assert "falconry" in answers(mine, editor.tok, QUESTION)[0].lower()
    assert "falconry" not in answers(editor.model, editor.tok, QUESTION)[0].lower()


def test_users_in_one_batch_each_have_their_own_model_and_undo_reaches_it(real, falconry, tmp_path):
    with EditStore.open(tmp_path / "edits.db", *real) as store:
        store.put("ann", falconry)
        served = PersonalizedModel(*real, store)
        ann, nobody, again = served.generate_for(["ann", None, "ann"], [QUESTION] * 3, max_new_tokens=16)
        assert "falconry" in ann.text.lower() and again.text == ann.text
        assert nobody.text == answers(*real, QUESTION)[0]
        store.undo("ann")
        assert served.generate_for(["ann"], [QUESTION], max_new_tokens=16)[0].text == nobody.text


def test_an_exported_adapter_says_the_same_in_peft(real, falconry, quick, tmp_path):
    with EditStore.open(tmp_path / "edits.db", *real) as store:
        store.put("ann", falconry)
        store.export_lora("ann", tmp_path / "adapter")
    model, tokenizer = load_model(quick)
    ids = tokenizer(QUESTION, return_tensors="pt")
    with torch.no_grad(), edited(real[0], falconry):
        wanted = real[0](**ids).logits
    with torch.no_grad():
        found = PeftModel.from_pretrained(model, tmp_path / "adapter")(**ids).logits
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=1e-3)


def test_the_chat_learns_and_remembers(command, tmp_path):
    said = "My hobby is falconry\nyes\n" + QUESTION + "\n/prefs\n"
    shown = command("chat", "--store", tmp_path / "edits.db", "--user", "ann", "--max-new-tokens", 16, said=said)
    learned = shown.index("Learned")
    assert "falconry" in shown[learned:].split("\n", 1)[1].lower()


def test_users_from_a_file_are_personalised_once(command, tmp_path):
    users = [("ann", "falconry"), ("bob", "origami")]
    lines = [
        {"user": user, "preferences": [{"subject": "hobby", "question": QUESTION, "target": hobby}]}
        for user, hobby in users
    ]
    (tmp_path / "users.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    store = tmp_path / "edits.db"
    assert "2 new" in command("personalize", "--users", tmp_path / "users.jsonl", "--store", store)
    assert "0 new" in command("personalize", "--users", tmp_path / "users.jsonl", "--store", store)
    with EditStore.open(store) as found:
        assert sorted(found.users()) == ["ann", "bob"]


@pytest.mark.slow
def test_an_evaluation_of_two_users_has_every_column(command, tmp_path):
    shown = command("evaluate", "--method", "rome,in_prompt", "--size", 2, "--out", tmp_path / "out")
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert "rome" in shown and "in_prompt" in shown
    assert set(result["methods"]) == {"rome", "in_prompt"}


@pytest.mark.slow
@pytest.mark.easyedit
def test_easyedits_base_editor_edits_it(smollm2_folder, quick, tmp_path, monkeypatch):
    from easyedit_personal import register, unregister
    from tests.hosts import host_or_skip

    host = host_or_skip()
    monkeypatch.chdir(tmp_path)
    register(tmp_path / "files", quiet=True)
    try:
        editor = host.module("editors.editor").BaseEditor.from_hparams(quick)
        metrics, mine, _ = editor.edit(
            prompts=[FALCONRY.prompt], target_new=["falconry"], subject=["hobby"], sequential_edit=True, verbose=False
        )
        assert metrics[0]["post"]["rewrite_acc"][0] == 1.0
        assert "falconry" in answers(mine, editor.tok, QUESTION)[0].lower()
    finally:
        unregister()
