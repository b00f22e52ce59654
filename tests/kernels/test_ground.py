"""What is kept of a model is found again under all that it depends on."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
import yaml

from easyedit_personal.data.material import BUNDLED
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.kernels import ground as module
from easyedit_personal.kernels.kinds import Contrast
from easyedit_personal.modeling.layout import find_layout


@pytest.fixture
def folder(llama, tokenizer, tmp_path):
    """The folder for some settings."""

    def find(**changes):
        hparams = PersonalizationHyperParams(**{"layers": [1], "stats_dir": str(tmp_path), **changes})
        return module._folder(llama, tokenizer, find_layout(llama), hparams)

    return find


def test_numbers_stand_under_the_model_and_all_settings_that_shape_them(folder, tmp_path):
    shipped = yaml.safe_load((BUNDLED / "preserve.yaml").read_text(encoding="utf-8"))
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(shipped), encoding="utf-8")
    shaping = ({name: 9} for name in ("contrasts", "ordinary", "answer_tokens", "ridge", "ordinary_weight"))
    changes = [{"natural": change} for change in shaping]
    changes += [{"layers": [2]}, {"prompt_format": "raw"}, {"end_of_turn": False}, {"seed": 5}]
    changes += [{"preserve": {"file": str(own)}}]
    folders = [folder(), *(folder(**change) for change in changes)]
    assert len(set(folders)) == len(folders)
    assert folder() == folders[0] == folder(natural={"value_lr": 0.7})  # of no matter here
    own.write_text(yaml.safe_dump({**shipped, "people": ["Ann"]}), encoding="utf-8")
    assert folder(**changes[-1]) not in folders  # the texts count, not the file's name
    assert all(name.name.startswith("gates-") and len(name.name) == len("gates-") + 16 for name in folders)
    assert all(name.is_relative_to(tmp_path) for name in folders)


def test_shipped_texts_are_read_once_and_count(folder, monkeypatch):
    assert module._texts_digest() is module._texts_digest()
    before = folder()
    monkeypatch.setattr(module, "_texts_digest", lambda: "of other texts")
    assert folder() != before


@pytest.fixture
def grounds(llama, tokenizer, tmp_path, monkeypatch):
    """Prepare with a seed; which seeds' numbers were made is counted, and nothing is computed."""
    made = []
    monkeypatch.setattr(module, "_GROUNDS", OrderedDict())
    monkeypatch.setattr(module, "compute", lambda *given: made.append(given[3].seed) or ({}, {}))
    monkeypatch.setattr(module, "kept", lambda path, work: work())
    monkeypatch.setattr(module, "_ground", lambda folder, *_: folder)

    def prepare(seed):
        hparams = PersonalizationHyperParams(layers=[1], stats_dir=str(tmp_path), seed=seed)
        return module.prepare(llama, tokenizer, find_layout(llama), hparams)

    return prepare, made


def test_the_two_grounds_used_last_stay_in_memory(grounds):
    prepare, made = grounds
    first = prepare(1)
    assert prepare(2) != first == prepare(1)
    prepare(3)  # the second one was used longest ago
    assert prepare(1) == first and made == [1, 2, 3]
    prepare(2)
    assert made == [1, 2, 3, 2]


def test_what_is_kept_becomes_numbers_by_layer_and_records():
    names = ("metric", "root", "ordinary", "firsts", "begun")
    tensors = {
        f"{name}.{n}": torch.full((1,), float(k + 10 * n)).half() for k, name in enumerate(names) for n in (1, 2)
    }
    values = {"answers": [[5, 6], [7]], "begun": ["pet", None], "talk": [["Hi?", "Yes."]], "base": "f1"}
    contrasts = [Contrast("a", "rest"), Contrast("b", "rest")]
    hparams = PersonalizationHyperParams(layers=[1, 2])
    ground = module._ground(Path("x"), (tensors, values), contrasts, hparams)
    for k, name in enumerate(names):
        assert {layer: float(value) for layer, value in getattr(ground, name).items()} == {1: 10 + k, 2: 20 + k}
        assert {value.dtype for value in getattr(ground, name).values()} == {torch.float32}
    assert ground.answers == {contrasts[0]: (5, 6), contrasts[1]: (7,)} and ground.contrasts == contrasts
    assert ground.talk == [("Hi?", "Yes.")] and ground.begun_groups == ["pet", None] and ground.folder == Path("x")
    assert ground.base == "f1"
