"""What is known of a model from its configuration, without its weights."""

from __future__ import annotations

import json

import pytest
import torch

from easyedit_personal.errors import ModelError
from easyedit_personal.settings.facts import ModelFacts, read_facts
from tests.tiny import FAMILIES, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_folder_needs_its_configuration_only(family, tmp_path):
    config = tiny_model(family).config
    config.save_pretrained(tmp_path)
    assert read_facts(str(tmp_path)) == ModelFacts(config.model_type, 4)


def test_a_pair_is_looked_into_also_inside_of_a_wrapper(llama):
    assert read_facts((llama, tiny_tokenizer())) == ModelFacts("llama", 4)
    assert read_facts([torch.nn.DataParallel(llama), tiny_tokenizer()]) == ModelFacts("llama", 4)


def test_a_multimodal_configuration_counts_the_layers_of_its_text_model(tmp_path):
    text = {"model_type": "gemma3_text", "num_hidden_layers": 7}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    assert read_facts(str(tmp_path)) == ModelFacts("gemma3", 7)


def test_a_gguf_file_needs_its_header_only(tmp_path):
    gguf = pytest.importorskip("gguf", reason="GGUF files are read with the package gguf")
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen2")
    writer.add_block_count(5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert read_facts(str(tmp_path / "m.gguf")) == ModelFacts("qwen2", 5)


@pytest.mark.parametrize(
    ("files", "name", "says"),
    [
        ({}, "", "no config.json"),
        ({}, "gone", "does not exist"),
        ({}, "gone.gguf", "no GGUF file"),
        ({"bad.gguf": b"GGUF\0\0"}, "bad.gguf", "cannot be loaded"),
        ({"config.json": b"{}"}, "", "cannot be loaded"),
        ({"config.json": b'{"model_type": "martian"}'}, "", "cannot be loaded"),
        ({"config.json": b'{"model_type": "resnet"}'}, "", "how many layers"),
    ],
)
def test_what_is_no_model_is_named(files, name, says, tmp_path):
    for file, content in files.items():
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelError, match=says) as caught:
        read_facts(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_a_hub_name_that_is_not_in_the_cache_has_no_facts_unless_asked_for():
    assert read_facts("some/model", download=False) is None
    with pytest.raises(ModelError, match="some/model"):
        read_facts("some/model")
