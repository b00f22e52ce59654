"""Second moments: the right matrix, from any kind of text, kept on disk under everything that it depends on."""

from __future__ import annotations

import json
import logging
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file

from easyedit_personal import PersonalizationHyperParams
from easyedit_personal.errors import DataError, MissingDependencyError, ModelError
from easyedit_personal.modeling import stats
from easyedit_personal.modeling.layout import find_layout, get_module, linear_weight
from easyedit_personal.modeling.stats import second_moments
from easyedit_personal.modeling.tokens import encode_text
from easyedit_personal.modeling.trace import trace
from tests.tiny import LINES, tiny_model


@pytest.fixture
def settings(tmp_path):
    def make(**changes):
        values = {"stats_dir": str(tmp_path / "stats"), "mom2_n_samples": 20, "layers": [1], **changes}
        return PersonalizationHyperParams(**values)

    return make


def by_hand(model, tokenizer, texts, layer, max_length=256):
    """Mean of k k^T over all tokens, one text at a time, in double precision."""
    path = find_layout(model).rewrite_path(layer)
    keys = []
    for text in texts:
        with torch.no_grad(), trace(model, [path]) as calls:
            model(torch.tensor([encode_text(tokenizer, text, max_length).ids]))
        keys.append(calls[path].input[0].double())
    stacked = torch.cat(keys)
    return stacked.T @ stacked / len(stacked)


def test_it_is_the_mean_outer_product_of_all_real_tokens(any_model, tokenizer, settings, monkeypatch):
    monkeypatch.setattr(stats, "BATCH_TOKENS", 40)  # several batches, with padding inside
    found = second_moments(any_model, tokenizer, [0, 2], settings(mom2_dtype="float64"), dataset=LINES)
    for layer, moment in found.items():
        torch.testing.assert_close(moment, by_hand(any_model, tokenizer, LINES, layer), rtol=1e-4, atol=1e-9)


def test_files_and_lists_give_the_same(llama, tokenizer, settings, tmp_path):
    plain, lines, whole = tmp_path / "a.txt", tmp_path / "a.jsonl", tmp_path / "a.json"
    plain.write_text("\n\n".join(LINES), encoding="utf-8")
    lines.write_text("\n".join(json.dumps({"text": line}) for line in LINES), encoding="utf-8")
    whole.write_text(json.dumps(LINES), encoding="utf-8")
    wanted = second_moments(llama, tokenizer, [1], settings(), dataset=LINES)[1]
    assert torch.equal(second_moments(llama, tokenizer, [1], settings(mom2_dataset=str(plain)))[1], wanted)
    for path in (lines, whole):
        assert torch.equal(second_moments(llama, tokenizer, [1], settings(), dataset=path)[1], wanted)


def test_samples_and_lengths_are_limited(llama, tokenizer, settings):
    few = second_moments(llama, tokenizer, [1], settings(mom2_n_samples=2, max_length=5), dataset=LINES)[1]
    torch.testing.assert_close(few.double(), by_hand(llama, tokenizer, LINES[:2], 1, 5), rtol=1e-4, atol=1e-9)


def test_the_models_own_samples(any_model, tokenizer, settings):
    found = second_moments(any_model, tokenizer, [1], settings())[1]
    assert found.shape == (find_layout(any_model).d_mlp,) * 2
    assert torch.linalg.eigvalsh(found.double()).min() > -1e-9
    assert found.diagonal().min() > 0
    other = second_moments(any_model, tokenizer, [1], settings(seed=1))[1]
    assert not torch.equal(found, other)
    # Two seeds are two samples of the same distribution.
    assert abs(float(found.trace() / other.trace()) - 1) < 0.2


def test_the_second_time_nothing_runs(llama, tokenizer, settings):
    passes = []
    llama.model.embed_tokens.register_forward_hook(lambda *_: passes.append(1))
    first = second_moments(llama, tokenizer, [1], settings())
    ran = len(passes)
    again = second_moments(llama, tokenizer, [1], settings())
    assert ran > 0
    assert len(passes) == ran
    assert torch.equal(first[1], again[1])
    second_moments(llama, tokenizer, [1, 2], settings())  # only layer 2 is new, but that needs the text
    assert len(passes) > ran


@pytest.mark.parametrize(
    "change", [{"mom2_n_samples": 3}, {"mom2_dtype": "float64"}, {"max_length": 6}, {"mom2_dataset": "self"}]
)
def test_everything_it_depends_on_makes_another_file(llama, tokenizer, settings, tmp_path, change):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(LINES), encoding="utf-8")
    base = {"mom2_dataset": str(text)}
    second_moments(llama, tokenizer, [1], settings(**base))
    second_moments(llama, tokenizer, [1], settings(**{**base, **change}))
    assert len(list((tmp_path / "stats").rglob("*.safetensors"))) == 2


def test_another_model_or_text_makes_another_file(tokenizer, settings, tmp_path):
    for seed, texts in ((0, LINES), (1, LINES), (0, LINES[:3])):
        second_moments(tiny_model(seed=seed), tokenizer, [1], settings(), dataset=texts)
    assert len(list((tmp_path / "stats").rglob("*.safetensors"))) == 3


def test_an_edit_of_the_matrix_itself_needs_no_new_statistics(llama, tokenizer, settings, tmp_path):
    """Keys do not depend on the down projection that they enter: phrase after phrase can be edited with one C."""
    first = second_moments(llama, tokenizer, [1], settings(), dataset=LINES)[1]
    with torch.no_grad():
        linear_weight(get_module(llama, find_layout(llama).rewrite_path(1))).mul_(1.5)
    assert torch.equal(second_moments(llama, tokenizer, [1], settings(), dataset=LINES)[1], first)
    torch.testing.assert_close(by_hand(llama, tokenizer, LINES, 1).float(), first, rtol=1e-4, atol=1e-9)
    assert len(list((tmp_path / "stats").rglob("*.safetensors"))) == 1


def test_a_damaged_file_is_computed_again(llama, tokenizer, settings, tmp_path, caplog):
    wanted = second_moments(llama, tokenizer, [1], settings(), dataset=LINES)[1]
    (file,) = (tmp_path / "stats").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:50])
    with caplog.at_level(logging.WARNING):
        assert torch.equal(second_moments(llama, tokenizer, [1], settings(), dataset=LINES)[1], wanted)
    assert "is damaged" in caplog.text
    assert torch.equal(load_file(file)["second_moment"], wanted)


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path):
    path, moments = tmp_path / "stats" / "c.safetensors", [torch.full((60, 60), float(i)) for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda moment: stats._write(path, moment), moments * 5))
        found = stats._read(path, 60)
    assert any(torch.equal(found, moment) for moment in moments)
    assert [file.name for file in path.parent.iterdir()] == ["c.safetensors"]


def test_a_folder_that_cannot_be_written_costs_only_the_cache(llama, tokenizer, settings, tmp_path, caplog):
    (tmp_path / "stats").write_text("a file stands where the folder should be")
    with caplog.at_level(logging.WARNING):
        found = second_moments(llama, tokenizer, [1], settings(), dataset=LINES)
    assert "could not be kept" in caplog.text
    assert found[1].shape == (48, 48)


def test_bad_text_is_refused(llama, tokenizer, settings, tmp_path, monkeypatch):
    broken, empty, records = tmp_path / "b.json", tmp_path / "e.txt", tmp_path / "r.jsonl"
    broken.write_text("{", encoding="utf-8")
    empty.write_text("\n \n", encoding="utf-8")
    records.write_text('{"text": "hills"}\n{"txt": "sea"}\n', encoding="utf-8")
    for path, message in ((broken, "cannot be read as text"), (empty, "no text"), (records, "Record 1 of")):
        with pytest.raises(DataError, match=message):
            second_moments(llama, tokenizer, [1], settings(), dataset=path)
    with pytest.raises(DataError, match="no text"):
        second_moments(llama, tokenizer, [1], settings(), dataset=[])
    with pytest.raises(DataError, match="a file that does not exist"):
        second_moments(llama, tokenizer, [1], settings(mom2_dataset="nowhere.txt"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match="'wikimedia/wikipedia' is no file"):
        second_moments(llama, tokenizer, [1], settings(mom2_dataset="wikipedia"))


def test_a_hub_data_set_is_streamed(llama, tokenizer, settings, monkeypatch):
    """No network here: a stand-in for the package, which sees how it is called."""
    asked, handed_out = [], []

    def load_dataset(name, config, split, streaming):
        asked.append((name, config, split, streaming))
        return ({"text": handed_out.append(line) or line} for line in LINES * 100)

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    hparams = settings(mom2_dataset="wikitext2", mom2_n_samples=4)
    found = second_moments(llama, tokenizer, [1], hparams)[1]
    assert asked == [("Salesforce/wikitext", "wikitext-2-raw-v1", "train", True)]
    assert len(handed_out) <= 5
    assert torch.equal(found, second_moments(llama, tokenizer, [1], settings(mom2_n_samples=4), dataset=LINES)[1])


def test_keys_that_overflow_are_refused(llama, tokenizer, settings):
    with torch.no_grad():
        llama.model.layers[1].mlp.up_proj.weight[0] = float("inf")
    with pytest.raises(ModelError, match="not finite"):
        second_moments(llama, tokenizer, [1], settings(), dataset=LINES)
