"""What is kept on disk is found again, whole or not at all, and made anew where it is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from easyedit_personal.modeling import kept as module
from easyedit_personal.modeling.kept import kept


def content():
    return {"x": torch.arange(6.0).reshape(2, 3).T}, {"n": [1, "ä"]}  # transposed: not contiguous


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a" / "b" / "some.safetensors"


def forbidden():
    raise AssertionError("it is kept already")


def test_what_is_kept_is_found_again(path):
    made = kept(path, content)
    for tensors, values in (made, kept(path, forbidden)):
        assert torch.equal(tensors["x"], content()[0]["x"]) and values == content()[1]
    assert sorted(file.name for file in path.parent.iterdir()) == ["some.json", "some.safetensors"]
    kept(path.with_name("other.safetensors"), content)  # beside it, in a folder that is there
    assert torch.equal(load_file(path.with_name("other.safetensors"))["x"], content()[0]["x"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"no tensors"),
        lambda path: path.with_suffix(".json").unlink(),
        lambda path: path.with_suffix(".json").write_text("no values"),
    ],
    ids=["tensors", "no values", "values"],
)
def test_damage_is_told_and_mended(path, damage, caplog):
    kept(path, content)
    damage(path)
    assert kept(path, content)[1] == content()[1]
    assert "some.safetensors is damaged and is computed again" in caplog.text
    assert json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) == content()[1]
    kept(path, forbidden)


def test_where_nothing_can_be_written_the_numbers_are_there_all_the_same(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    tensors, values = kept(tmp_path / "file" / "some.safetensors", content)
    assert torch.equal(tensors["x"], content()[0]["x"]) and values == content()[1]
    assert "could not be written" in caplog.text


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_text("before")

    def fails(name):
        Path(name).write_text("half of")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        module._replace(path, fails)
    assert [file.name for file in tmp_path.iterdir()] == ["file"] and path.read_text() == "before"
