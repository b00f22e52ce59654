"""An exported adapter is the edit: PEFT gives the same logits, and servers' rules for adapter files are kept."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open

from easyedit_personal.errors import ModelError, StoreError
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.store.folders import folder_name
from easyedit_personal.store.lora import export_lora, export_many, padded_rank
from easyedit_personal.types import WeightDelta
from tests.store.vllm_rules import MAX_LORA_RANKS, SUPPORTED, check_vllm
from tests.tiny import tiny_model

IDS = torch.randint(0, 400, (2, 11), generator=torch.Generator().manual_seed(5))


def random_delta(model, rank, layer=1, seed=0, scale=0.3):
    layout = find_layout(model)
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(layout.d_model, rank, generator=generator) * scale
    return WeightDelta(layout.rewrite_path(layer), left, torch.randn(rank, layout.d_mlp, generator=generator))


def dense_delta(model, layer=1, rank=None):
    delta = random_delta(model, rank or min(random_delta(model, 1).shape), layer, scale=0.1)
    return WeightDelta.dense(delta.layer, delta.update())


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def assert_same_model(model, deltas, folder):
    """The adapter loaded by PEFT against the edit in place; and neither is the base model."""
    base = logits(model)
    with in_weights(model, deltas):
        wanted = logits(model)
    loaded = PeftModel.from_pretrained(model, folder).eval()
    try:
        got = logits(loaded)
    finally:
        loaded.unload()
        vars(model).pop("peft_config", None)
    assert (got - wanted).abs().max() < 1e-5
    assert (wanted - base).abs().max() > 1e-2


class Shelf:
    def __init__(self, edits):
        self.edits = edits

    def users(self):
        return list(self.edits)

    def deltas(self, user):
        return self.edits[user]

    def version(self, user):
        return len(self.edits[user])


@pytest.mark.parametrize("family", ["llama", "llama-square", "qwen3", "gemma2", "gpt2", "gpt2-square", "gptj"])
def test_peft_gives_the_logits_of_the_edit(family, tmp_path):
    model = tiny_model(family)
    deltas = [random_delta(model, 3), random_delta(model, 2, layer=3, seed=1), random_delta(model, 4, seed=2)]
    folder = export_lora(deltas, tmp_path / "alice", base_model="tiny", name="alice")
    assert_same_model(model, deltas, folder)


def test_the_config_names_full_paths_one_rank_and_scale_one(llama, tmp_path):
    folder = export_lora([random_delta(llama, 9), random_delta(llama, 2, layer=3)], tmp_path / "a", base_model="b/m")
    config = json.loads((folder / "adapter_config.json").read_text())
    paths = ["model.layers.1.mlp.down_proj", "model.layers.3.mlp.down_proj"]
    assert config["target_modules"] == paths and config["r"] == config["lora_alpha"] == 16
    assert config["base_model_name_or_path"] == "b/m" and config["fan_in_fan_out"] is False
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    assert shapes == {
        f"base_model.model.{path}.lora_{side}.weight": shape
        for path in paths
        for side, shape in (("A", [16, 48]), ("B", [32, 16]))
    }


@pytest.mark.parametrize(("rank", "size"), [(1, 8), (8, 8), (9, 16), (33, 64), (512, 512), (513, 1024), (1200, 1536)])
def test_ranks_are_padded_to_what_servers_take(rank, size):
    assert padded_rank(rank) == size
    assert size in MAX_LORA_RANKS or rank > 512


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_dense_updates_are_exported_exactly_or_refused(family, tmp_path):
    model = tiny_model(family)
    full = dense_delta(model)
    assert_same_model(model, [full], export_lora([full], tmp_path / "full"))
    with pytest.raises(StoreError, match="too high a rank"):
        export_lora([full], tmp_path / "refused", max_rank=8)
    assert not (tmp_path / "refused").exists()
    thin = dense_delta(model, rank=5)
    folder = export_lora([thin], tmp_path / "thin", max_rank=8)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 8
    assert_same_model(model, [thin], folder)


def test_many_edits_of_one_matrix_become_one_adapter(llama, tmp_path):
    deltas = [random_delta(llama, 3, seed=seed, scale=0.05) for seed in range(40)]  # rank 120 in a 32 x 48 matrix
    folder = export_lora(deltas, tmp_path / "a")
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 32
    assert_same_model(llama, deltas, folder)


def test_a_given_model_decides_the_orientation_and_the_shapes(llama, tmp_path):
    gpt2 = tiny_model("gpt2")
    folder = export_lora([random_delta(gpt2, 2)], tmp_path / "a", model=gpt2)
    assert json.loads((folder / "adapter_config.json").read_text())["fan_in_fan_out"] is True
    with pytest.raises(ModelError, match="no module"):
        export_lora([random_delta(gpt2, 2)], tmp_path / "b", model=llama)


def test_every_layer_can_be_listed_with_zeros(llama, tmp_path):
    delta = random_delta(llama, 2)
    folder = export_lora([delta], tmp_path / "a", model=llama, every_layer=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["target_modules"] == [f"model.layers.{i}.mlp.down_proj" for i in range(4)]
    assert_same_model(llama, [delta], folder)
    with pytest.raises(StoreError, match="base model"):
        export_lora([delta], tmp_path / "b", every_layer=True)


def test_half_precision_is_written_and_overflow_refused(llama, tmp_path):
    folder = export_lora([random_delta(llama, 2)], tmp_path / "a", dtype=torch.bfloat16)
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"BF16"}  # noqa: SIM118
    with pytest.raises(StoreError, match="overflow"):
        export_lora([random_delta(llama, 2, scale=1e6)], tmp_path / "b", dtype=torch.float16)
    assert not (tmp_path / "b").exists()


def test_nothing_to_export_is_said(tmp_path):
    with pytest.raises(StoreError, match="no edits"):
        export_lora([], tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_replaced_but_nothing_else(llama, tmp_path):
    folder = export_lora([random_delta(llama, 2)], tmp_path / "a")
    before = (folder / "adapter_model.safetensors").read_bytes()
    export_lora([random_delta(llama, 2, seed=9)], tmp_path / "a")
    assert (folder / "adapter_model.safetensors").read_bytes() != before
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match="other files"):
        export_lora([random_delta(llama, 2)], tmp_path / "a")
    assert (folder / "thesis.txt").read_text() == "years of work"
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(StoreError, match="no folder"):
        export_lora([random_delta(llama, 2)], tmp_path / "link")
    assert {entry.name for entry in tmp_path.iterdir()} == {"a", "link"}


def test_a_failed_write_leaves_the_old_adapter(llama, tmp_path, monkeypatch):
    folder = export_lora([random_delta(llama, 2)], tmp_path / "a")
    before = {entry.name: entry.read_bytes() for entry in folder.iterdir()}

    write = Path.write_bytes

    def full(path, content):
        if path.name == "adapter_config.json":  # the second file
            raise OSError(28, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(StoreError, match="No space"):
            export_lora([random_delta(llama, 3)], tmp_path / "a")
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


HOSTILE = [
    "../../etc/passwd",
    "/absolute",
    "..",
    ".",
    "",
    "a/b\\c",
    "nul",
    "C:\\users",
    "Alice",
    "alice ",
    "'; DROP TABLE edits; --",
    "x" * 10_000,
    "\U0001f9d7 climber",
    "zero\x00byte",
    "\ud800",
    "index.json",
    "-rf",
    "a--b",
    "keys",
]


def test_hostile_names_stay_inside_and_apart(llama, tmp_path):
    users = ["alice", "bob_2", *HOSTILE, folder_name("Alice")]
    shelf = Shelf({user: [random_delta(llama, 2, seed=i)] for i, user in enumerate(users)} | {"empty": []})
    home = tmp_path / "home"
    index = export_many(shelf, home, base_model="tiny")
    written = json.loads(index.read_text())
    adapters = written["adapters"]
    assert set(adapters) == set(users) and written["max_lora_rank"] == 8
    folders = [entry["folder"] for entry in adapters.values()]
    assert len({name.lower() for name in folders}) == len(users)
    assert {entry.name for entry in tmp_path.iterdir()} == {"home"}
    assert {entry.name for entry in home.iterdir()} == {*folders, "index.json"}
    assert (adapters["alice"]["folder"], adapters["bob_2"]["folder"]) == ("alice@1", "bob_2@1")
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}@1", name) for name in folders)
    for user in ("../../etc/passwd", "\U0001f9d7 climber"):
        assert_same_model(llama, shelf.deltas(user), home / adapters[user]["folder"])


def test_who_has_no_edits_any_more_has_no_adapter_any_more(llama, tmp_path):
    shelf = Shelf({"alice": [random_delta(llama, 2)], "bob": [random_delta(llama, 2)]})
    export_many(shelf, tmp_path)
    shelf.edits["bob"] = []
    (tmp_path / "notes").mkdir()
    export_many(shelf, tmp_path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"alice@1", "index.json", "notes"}


def test_an_edit_gets_a_name_of_its_own_and_the_old_one_goes(llama, tmp_path):
    shelf = Shelf({"alice": [random_delta(llama, 2)]})
    export_many(shelf, tmp_path)
    shelf.edits["alice"].append(random_delta(llama, 2, seed=1))
    [entry] = json.loads(export_many(shelf, tmp_path).read_text())["adapters"].values()
    assert (entry["folder"], entry["revision"]) == ("alice@2", 2)
    assert {one.name for one in tmp_path.iterdir()} == {"alice@2", "index.json"}
    assert_same_model(llama, shelf.deltas("alice"), tmp_path / "alice@2")


def test_an_edit_during_an_export_is_exported_under_its_own_name(llama, tmp_path):
    shelf = Shelf({"alice": [random_delta(llama, 2)]})
    deltas = shelf.deltas

    def slow(user):
        found = [*deltas(user)]
        if len(found) == 1:
            shelf.edits[user].append(random_delta(llama, 2, seed=1))
        return found

    shelf.deltas = slow
    export_many(shelf, tmp_path)
    assert_same_model(llama, deltas("alice"), tmp_path / "alice@2")


def test_an_index_that_was_tampered_with_removes_nothing_else(llama, tmp_path):
    home = tmp_path / "home"
    victim = export_lora([random_delta(llama, 2)], tmp_path / "victim@7")
    shelf = Shelf({"alice": [random_delta(llama, 2)]})
    export_many(shelf, home)
    for forged in ({"../victim": {"revision": 7}}, {"bob": {"revision": "7/../../victim@7"}}, {"bob": 7}, ["bob"]):
        (home / "index.json").write_text(json.dumps({"adapters": forged}))
        export_many(shelf, home)
    assert victim.is_dir() and (home / "alice@1").is_dir()


def test_a_failing_user_is_named(llama, tmp_path):
    with pytest.raises(StoreError, match=r"carol.*too high a rank"):
        export_many(Shelf({"carol": [dense_delta(llama)]}), tmp_path, max_rank=8)


@pytest.mark.parametrize("family", sorted(SUPPORTED))
def test_adapters_keep_vllms_rules(family, tmp_path):
    model = tiny_model(family)
    folder = export_lora([random_delta(model, 9)], tmp_path / "a", base_model="base")
    assert check_vllm(folder, family, max_lora_rank=16, base_model="base") == []
    assert check_vllm(folder, family, max_lora_rank=8) == ["rank 16 is greater than --max-lora-rank 8"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"use_dora": True}, "use_dora"),
        ({"use_rslora": True}, "use_rslora"),
        ({"r": 4}, "not of rank 4"),
        ({"rank_pattern": {"x": 4}}, "rank_pattern"),
        ({"target_modules": ".*down_proj"}, "pattern"),
        ({"base_model_name_or_path": "other"}, "resolver"),
    ],
)
def test_the_rules_see_what_vllm_refuses(change, fault, llama, tmp_path):
    path = export_lora([random_delta(llama, 2)], tmp_path / "a", base_model="base") / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert any(fault in line for line in check_vllm(path.parent, "llama", base_model="base"))


def test_gpt2_is_not_served_by_vllm(tmp_path):
    folder = export_lora([random_delta(tiny_model("gpt2"), 2)], tmp_path / "a")
    assert check_vllm(folder, "gpt2") == ["gpt2 does not support LoRA in vLLM"]


def test_the_recipes_in_the_document_on_serving_run(llama, tokenizer, tmp_path, monkeypatch):
    """Every Python block of the document, one after the other; vLLM's command line is built and its rules are kept."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    shelf = Shelf({"alice": [random_delta(llama, 9)], "Bob Smith": [random_delta(llama, 2, seed=1)]})
    monkeypatch.chdir(tmp_path)
    names = {"store": shelf, "model": llama, "tokenizer": tokenizer}
    for block in blocks:
        exec(block, names)
    folders = [entry["folder"] for entry in json.loads(names["index_file"].read_text())["adapters"].values()]
    assert len(names["answers"]) == 2 and len(blocks) == 4 and names["pieces"]
    command = names["command"]
    assert command[:3] == ["vllm", "serve", "my-org/my-model"] and "16" in command
    assert [f"{name}={tmp_path}/adapters/{name}" for name in folders] == command[5:7]
    for name in folders:
        assert check_vllm(tmp_path / "adapters" / name, "llama", base_model="my-org/my-model") == []
