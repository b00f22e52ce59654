"""Models, adapters, YAML and JSON from strangers: nothing of theirs is run, nothing missing goes unsaid."""

from __future__ import annotations

import ast
import json
import os
import pickle
from itertools import islice
from pathlib import Path

import pytest
import torch

from easyedit_personal.bulk.users_file import Failure, UserRecord, read_users
from easyedit_personal.clustering.lexicon import _read as read_lexicon
from easyedit_personal.data.jsonfile import read_json_list
from easyedit_personal.errors import ConfigError, DataError, ModelError, PersonalizationError
from easyedit_personal.evaluate.judge_local import LocalJudge
from easyedit_personal.files import MOST_NODES, parse_yaml, read_json_mapping, read_yaml_mapping
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.modeling.loading import load_model
from easyedit_personal.modeling.stats_text import _file_texts
from easyedit_personal.service.access import read_tokens
from easyedit_personal.store.factors import load_factors
from tests.tiny import tiny_model

ROOT = Path(__file__).resolve().parents[2]


class Evil:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def load(folder):
    return load_model(PersonalizationHyperParams(model_name=str(folder), device="cpu"))


@pytest.fixture
def folder(tmp_path, tokenizer):
    """A model as save_pretrained writes it."""
    tiny_model("llama").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def sentinel(tmp_path):
    path = tmp_path / "was-run"
    yield path
    assert not path.exists()


def test_a_whole_folder_is_loaded(folder):
    model, tokenizer = load(folder)
    assert len(tokenizer) > 300 and not model.training and LocalJudge.from_folder(folder).name.startswith("local")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "adapter_model.bin"])
@pytest.mark.parametrize("enter", [load, LocalJudge.from_folder], ids=["model", "judge"])
def test_pickled_weights_are_not_opened(folder, sentinel, name, enter):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Evil(sentinel)))
    with pytest.raises(ModelError, match="cannot be loaded"):
        enter(folder)


def test_pickled_factors_are_not_opened(tmp_path, sentinel):
    path = tmp_path / "factors.safetensors"
    path.write_bytes(pickle.dumps(Evil(sentinel)))
    with pytest.raises(PersonalizationError, match="no safetensors"):
        load_factors(path)


@pytest.mark.parametrize("known", [True, False], ids=["known architecture", "unknown architecture"])
def test_code_in_a_model_folder_is_not_run(folder, sentinel, known, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers asks on the terminal unless it is told not to
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(sentinel)!r})\nConfig = Model = None\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    if not known:
        config["model_type"] = "evil"
    (folder / "config.json").write_text(json.dumps(config))
    if known:
        assert type(load(folder)[0]).__name__ == "LlamaForCausalLM"
    else:
        with pytest.raises(ModelError, match="cannot be loaded"):
            load(folder)


def without_a_tensor(path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, path, {"format": "pt"})


def another_shape(path):
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, path, {"format": "pt"})


def in_shards(path, name):
    """An index that names a shard."""
    path.unlink()
    index = {"metadata": {}, "weight_map": {"model.norm.weight": name}}
    path.with_name("model.safetensors.index.json").write_text(json.dumps(index))


DAMAGE = {
    "no config": ("config.json", Path.unlink),
    "config is no JSON": ("config.json", lambda path: path.write_text("{")),
    "config is a list": ("config.json", lambda path: path.write_text("[]")),
    "config of nonsense": ("config.json", lambda path: path.write_text('{"model_type": "llama", "hidden_size": "x"}')),
    "config without a type": ("config.json", lambda path: path.write_text("{}")),
    "config in UTF-16": ("config.json", lambda path: path.write_bytes(path.read_text().encode("utf-16"))),
    "no weights": ("model.safetensors", Path.unlink),
    "weights cut off": ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1000])),
    "weights of garbage": ("model.safetensors", lambda path: path.write_bytes(b"\xff" * 1000)),
    "weights empty": ("model.safetensors", lambda path: path.write_bytes(b"")),
    "a weight missing": ("model.safetensors", without_a_tensor),
    "a weight of another shape": ("model.safetensors", another_shape),
    "a shard missing": ("model.safetensors", lambda path: in_shards(path, "model-1.safetensors")),
    "a shard elsewhere": ("model.safetensors", lambda path: in_shards(path, "../../etc/passwd")),
    "no tokenizer": ("tokenizer.json", Path.unlink),
    "tokenizer of garbage": ("tokenizer.json", lambda path: path.write_text('{"model": 7}')),
    "tokenizer cut off": ("tokenizer.json", lambda path: path.write_text(path.read_text()[:500])),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_folder_that_is_not_whole_is_refused(folder, damage):
    name, harm = DAMAGE[damage]
    harm(folder / name)
    with pytest.raises(ModelError) as caught:
        load(folder)
    assert str(folder) in str(caught.value) and len(str(caught.value)) < 3000


def bomb(lists=12):
    """Nine to the power of the number of lists."""
    rows = ["a0: &a0 [1,1,1,1,1,1,1,1,1]"]
    rows += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, lists)]
    return "\n".join([*rows, f"layers: *a{lists - 1}", "attributes: *a1"]) + "\n"


YAML_DOORS = {
    "settings": PersonalizationHyperParams.from_hparams,
    "a mapping": read_yaml_mapping,
    "a lexicon": read_lexicon,
    "tokens": read_tokens,
}


@pytest.mark.parametrize("door", YAML_DOORS)
@pytest.mark.parametrize(
    "text",
    [
        bomb(),
        "a: &a [*a]\n",
        "a: &a {b: *a}\n",
        "a: !!python/object/apply:os.mkdir [SENTINEL]\n",
        "a: !!python/name:os.system\n",
        "a: !!timestamp x\n",
        "a: " + "[" * 20_000,
        "a: 1\na: 2\n",
        "\ufeff\x00",
    ],
    ids=["bomb", "list in itself", "mapping in itself", "call", "name", "tag", "deep", "double", "nul"],
)
def test_yaml_can_only_be_values_and_not_too_many(tmp_path, sentinel, door, text):
    path = tmp_path / "strange.yaml"
    path.write_text(text.replace("SENTINEL", str(sentinel)))
    path.chmod(0o600)
    with pytest.raises((ConfigError, DataError)) as caught:
        YAML_DOORS[door](path)
    assert len(str(caught.value)) < 3000


def test_yaml_of_many_values_is_read():
    assert len(parse_yaml("[" + "1," * 5000 + "]")) == 5000 and MOST_NODES >= 10**6
    assert parse_yaml("a: &x [1]\nb: *x\n") == {"a": [1], "b": [1]} and parse_yaml("") is None


JSON_DOORS = {
    "a data set": read_json_list,
    "a mapping": read_json_mapping,
    "texts": lambda path: list(_file_texts(path)),
    "lines of text": lambda path: list(_file_texts(path.rename(path.with_suffix(".jsonl")))),
}
STRANGE = {
    "ten million brackets": "[" * 10**7,
    "a million objects": '{"a":' * 10**6,
    "ten thousand digits": "[" + "9" * 10_000 + "]",
    "UTF-16": '[{"text": "a"}]'.encode("utf-16"),
    "nothing but a NUL": "\0",
}


@pytest.mark.parametrize("strange", STRANGE)
@pytest.mark.parametrize("door", JSON_DOORS)
def test_json_is_read_or_refused(tmp_path, door, strange):
    text = STRANGE[strange]
    path = tmp_path / "strange.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises((ConfigError, DataError)) as caught:
        JSON_DOORS[door](path)
    assert len(str(caught.value)) < 3000


def line(user):
    return json.dumps({"user": user, "preferences": [{"subject": "hobby", "target": "chess"}]}) + "\n"


@pytest.mark.parametrize("strange", STRANGE)
def test_a_strange_line_is_a_failure_and_the_next_is_read(tmp_path, strange):
    text = STRANGE[strange]
    path = tmp_path / "users.jsonl"
    path.write_bytes((text if isinstance(text, bytes) else text.encode()) + b"\r\n" + line("ann").encode())
    *failed, ann = read_users(path)
    assert (
        isinstance(ann, UserRecord) and ann.user == "ann" and failed and all(isinstance(one, Failure) for one in failed)
    )


def test_a_users_file_that_changes_while_it_is_read(tmp_path):
    """What was read stays read; what is there now comes after it, whole or as a failure."""
    path = tmp_path / "users.jsonl"
    path.write_text("".join(line(f"u{n}") for n in range(20_000)))
    people = read_users(path)
    before = list(islice(people, 5))
    os.truncate(path, path.stat().st_size // 2 + 7)
    after = list(people)
    assert [one.user for one in before] == [f"u{n}" for n in range(5)]
    assert 9_000 < len(after) < 11_000 and isinstance(after[-1], Failure) and after[0].user == "u5"
    assert all(isinstance(one, UserRecord) for one in after[:-1])
    people = read_users(path)
    next(people)
    path.unlink()
    assert next(people).user == "u1"  # an open file outlives its name


def test_a_parquet_file_that_is_damaged_inside(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"user": f"u{n}", "preferences": json.dumps([{"subject": "hobby", "target": "chess"}])} for n in range(5000)
    ]
    path = tmp_path / "users.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=1000)
    assert sum(isinstance(one, UserRecord) for one in read_users(path)) == 5000
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"\xff" * 400 + whole[len(whole) // 2 + 400 :])
    with pytest.raises(DataError, match="cannot be read"):
        list(read_users(path))


def a_folder(path):
    path.mkdir()


def below_a_file(path):
    path.parent.rmdir()
    path.parent.write_text("")


DOORS = {**YAML_DOORS, **JSON_DOORS, "users": lambda path: list(read_users(path)), "factors": load_factors}
DOORS.pop("lines of text")
UNREADABLE = {
    "a folder": a_folder,
    "not there": lambda path: None,
    "below a file": below_a_file,
    "a link to nothing": lambda path: path.symlink_to(path.with_name("nothing")),
    "a link to itself": lambda path: path.symlink_to(path),
    "a name that is too long": None,
}


@pytest.mark.parametrize("reason", UNREADABLE)
@pytest.mark.parametrize("door", DOORS)
def test_what_cannot_be_read_is_named(tmp_path, door, reason):
    path = tmp_path / "inside" / ("strange.json" if reason != "a name that is too long" else "x" * 300)
    path.parent.mkdir()
    if UNREADABLE[reason]:
        UNREADABLE[reason](path)
    with pytest.raises(PersonalizationError) as caught:
        DOORS[door](path)
    assert path.name[:40] in str(caught.value)


@pytest.mark.parametrize("door", DOORS)
def test_what_may_not_be_read_is_named(tmp_path, door, monkeypatch):
    path = tmp_path / "secret.json"
    path.write_text("{}")

    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    for name in ("read_text", "read_bytes", "open"):
        monkeypatch.setattr(Path, name, forbidden)
    with pytest.raises(PersonalizationError, match=r"secret\.json"):
        DOORS[door](path)


FORBIDDEN_CALLS = {
    "pickle.load",
    "pickle.loads",
    "joblib.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "eval",
    "exec",
    "os.system",
    "tempfile.mktemp",
}


def unsafe(tree):
    """Calls that run what a file says."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        flags = {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}
        if name in FORBIDDEN_CALLS or (name == "torch.load" and flags.get("weights_only") != "True"):
            yield f"{node.lineno}: {name}"
        for flag in ("trust_remote_code", "allow_pickle", "shell"):
            if flags.get(flag, "False") != "False":
                yield f"{node.lineno}: {flag}={flags[flag]}"


def test_the_package_opens_nothing_unsafely():
    files = [path for room in ("easyedit_personal", "benchmarks") for path in (ROOT / room).rglob("*.py")]
    assert len(files) > 150
    assert {str(path): found for path in files if (found := [*unsafe(ast.parse(path.read_text()))])} == {}


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(p)",
        "pickle.loads(b)",
        "yaml.load(t, Loader=yaml.Loader)",
        "f(trust_remote_code=True)",
        "np.load(p, allow_pickle=True)",
        "subprocess.run(c, shell=True)",
        "eval(t)",
    ],
)
def test_an_unsafe_call_would_be_seen(code):
    assert len([*unsafe(ast.parse(code))]) == 1 and not [*unsafe(ast.parse("torch.load(p, weights_only=True)"))]
