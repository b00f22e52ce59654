"""What a pull request to EasyEdit would contain works in a copy of a checkout, and changes none of its lines."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

import pytest

from benchmarks.upstream.__main__ import FILES, SUMMARY, add_to, write_contents
from benchmarks.upstream.additions import ADDITIONS
from easyedit_personal.errors import ConfigError, HostError
from easyedit_personal.hparams import shipped_yaml
from tests.hosts import REPOSITORY, run_python

# As one of EasyEdit's users would write it, on a tiny random model.
SCRIPT = """
import sys
from easyedit_personal.integrations.easyedit import load_host
load_host()  # imports the checkout without the packages that text editing does not need
import torch
from easyeditor import BaseEditor, PersonalizationHyperParams
from easyeditor.dataset import UPQADataset
from easyeditor.editors.batch_editor import BatchEditor
from easyeditor.util.alg_dict import ALG_DICT, DS_DICT
from tests.tiny import tiny_model, tiny_tokenizer

assert ALG_DICT["PersonalizationEditor"].__module__ == "easyeditor.models.personalization.personalization_main"
assert BatchEditor.is_batchable_method("PersonalizationEditor") and not BatchEditor.is_batchable_method("ROME")
assert DS_DICT["upqa"] is UPQADataset and len(UPQADataset("bundled", size=2)) == 2
path = CHECKOUT + "/hparams/PersonalizationEditor/smollm2"
hparams = PersonalizationHyperParams.from_hparams(path)
assert hparams.alg_name == "PersonalizationEditor" and hparams.layers == [29]

model, tokenizer = tiny_model("llama", initializer_range=0.2), tiny_tokenizer()
hparams = hparams.replace(
    model_name=(model, tokenizer), made_for={"family": None, "n_layers": None}, layers=[1], answers="short",
    prompt_format="raw",
    lowrank={"lr": 0.02, "steps": 250}, preserve={"weight": 0.0}, mom2_adjustment=False,
    cluster={"size": 1, "indirect": 0, "behind": 0}, health={"on_unhealthy": "ignore"},
)
before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
editor = BaseEditor.from_hparams(hparams)
editor.model_name = model.config.model_type
assert editor.apply_algo is ALG_DICT["PersonalizationEditor"]
metrics, edited, originals = editor.edit(
    prompts=["What's my hobby?"], target_new=["hiking"], subject=["hobby"], sequential_edit=KEPT
)
changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
print("CHANGED", changed, "ORIGINALS", list(originals), end=" ")
print("ACC", [float(share) for share in metrics[0]["post"]["rewrite_acc"]])
sys.modules["easyedit_personal"] = None  # as where it is not installed
try:
    PersonalizationHyperParams.from_hparams("smollm2")
except ImportError as error:
    print("WITHOUT", error)
"""


def copied(host, folder: Path) -> Path:
    """The checkout, without what is large and not read."""
    checkout = folder / "EasyEdit"
    large = (".git", "tutorial-notebooks", "steer", "demo", "examples", "figs", "data", "hugging_cache", "__pycache__")
    shutil.copytree(host.location.home, checkout, ignore=shutil.ignore_patterns(*large))
    return checkout


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_our_files_and_a_summary(tmp_path):
    out = tmp_path / "out"
    new = write_contents(out)
    assert {path.name for path in new if path.suffix == ".yaml"} == {f"{name}.yaml" for name in shipped_yaml()}
    ours = [path.relative_to(FILES) for path in FILES.rglob("*") if path.is_file() and path.suffix in (".py", ".md")]
    assert set(ours) < set(new) and all((out / path).read_bytes() == (FILES / path).read_bytes() for path in ours)
    said = (out / SUMMARY).read_text()
    assert all(f"`{path}`" in said for path in new) and all(one.file in said for one in ADDITIONS)
    assert "register()" not in "".join((out / path).read_text() for path in new)


def test_it_goes_neither_into_the_repository_nor_over_something(tmp_path):
    (tmp_path / "mine").write_text("mine")
    for folder in (REPOSITORY / "build" / "upstream", tmp_path):
        with pytest.raises(ConfigError, match="do not go there"):
            write_contents(folder)
    assert not (REPOSITORY / "build" / "upstream").exists() and state(tmp_path) == {"mine": b"mine"}


@pytest.mark.easyedit
@pytest.mark.parametrize("kept", [False, True])
def test_a_checkout_with_it_edits_by_its_own_registry(host, tmp_path, kept):
    checkout, out = copied(host, tmp_path), tmp_path / "out"
    add_to(checkout, out, write_contents(out))
    (tmp_path / "work").mkdir()
    code = f"CHECKOUT, KEPT = {str(checkout)!r}, {kept}\n{SCRIPT}"
    said = run_python(code, tmp_path / "work", EASYEDIT_HOME=str(checkout))
    weight = "model.layers.1.mlp.down_proj.weight"
    assert f"CHANGED {[weight] if kept else []} ORIGINALS ['{weight}'] ACC [1.0]" in said
    assert "WITHOUT PersonalizationEditor needs the package easyedit-personal: pip install" in said


@pytest.mark.easyedit
def test_no_line_of_the_hosts_goes_and_a_second_time_is_refused(host, tmp_path):
    checkout, out = copied(host, tmp_path), tmp_path / "out"
    before = state(checkout)
    new = write_contents(out)
    add_to(checkout, out, new)
    after = state(checkout)
    assert set(after) - set(before) == {str(path) for path in new}
    assert {name for name in before if before[name] != after[name]} == {one.file for one in ADDITIONS}
    for name in {one.file for one in ADDITIONS}:
        matcher = difflib.SequenceMatcher(None, before[name].decode(), after[name].decode(), autojunk=False)
        if len(before[name]) < 20_000:
            assert {code for code, *_ in matcher.get_opcodes()} <= {"equal", "insert"}
    with pytest.raises(HostError, match="there already") as refusal:
        add_to(checkout, out, new)
    assert str(refusal.value).count("there already") == len(ADDITIONS) and state(checkout) == after


@pytest.mark.easyedit
def test_a_checkout_without_a_place_is_left_alone(host, tmp_path):
    checkout, out = copied(host, tmp_path), tmp_path / "out"
    registry = checkout / "easyeditor" / "util" / "alg_dict.py"
    registry.write_text(registry.read_text().replace("DS_DICT", "DATA_SETS"))
    before = state(checkout)
    new = write_contents(out)
    with pytest.raises(HostError, match="no such place: last entry of DS_DICT"):
        add_to(checkout, out, new)
    assert state(checkout) == before
