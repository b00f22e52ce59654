"""EasyEdit's own example scripts on SmolLM2 as they are, and the calls of its BaseEditor, with its own evaluation.

Scripts get what their users write: a YAML file (the host's own numbers, this model's layers, few steps) and data in the
layout that they read, here two records of ours. They run in an empty folder, so that EasyEdit's stays as it is.
"""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from easyedit_personal.integrations.easyedit.host_hparams import settings_for
from tests.hosts import host_or_skip, run_python

pytestmark = [pytest.mark.real, pytest.mark.easyedit]

RECORDS = [
    {
        "subject": subject,
        "src": f"What is my {subject}?",
        "rephrase": f"Could you name my {subject}?",
        "alt": value,
        "loc": "What is the capital of France?",
        "loc_ans": "Paris",
        "portability": {"New Question": f"What do I need for my {subject}?", "New Answer": value},
    }
    for subject, value in (("hobby", "falconry"), ("pet", "a tortoise"))
]
FEW = {"num_steps": 15, "lr": 2e-3, "objective_optimization": "target_new", "device": "cpu"}
LIMIT = 1800  # seconds; on a busy machine an import of EasyEdit alone may take minutes
# Only its prompting method (IKE) uses it, but the script imports it in any case.
SENTENCES = (
    "import sys, types; sys.modules['sentence_transformers'] = types.SimpleNamespace(SentenceTransformer=None)\n"
)
# script -> the method, further words, and how its data files are called
SCRIPTS = {
    "run_zsre_llama2.py": ("FT", ["--ds_size", "1"], "zsre_mend_eval_portability_gpt4.json"),
    "run_wise_editing.py": ("FT", ["--data_type", "ZsRE", "--ds_size", "2", "--sequential_edit"], "ZsRE"),
    "run_AlphaEdit_editing.py": ("FT", ["--data_type", "ZsRE", "--ds_size", "1"], "zsre_mend_eval.json"),
}


@pytest.fixture(scope="module")
def host():
    return host_or_skip()


@pytest.fixture(scope="module")
def folder(smollm2_folder, tmp_path_factory):
    """The model under a name that EasyEdit takes for a Llama, which it is."""
    path = tmp_path_factory.mktemp("models") / "llama-smollm2"
    path.symlink_to(smollm2_folder, target_is_directory=True)
    return path


@pytest.fixture
def hparams(host, folder, tmp_path):
    """Writes the YAML file of a method."""
    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))

    def write(method):
        known = vars(settings_for(host, method, shape))
        values = {**known, **{key: value for key, value in FEW.items() if key in known}, "model_name": str(folder)}
        path = tmp_path / "settings.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.mark.parametrize("script", SCRIPTS)
def test_its_script_edits_and_evaluates(host, hparams, tmp_path, script):
    method, words, data = SCRIPTS[script]
    if script == "run_AlphaEdit_editing.py":
        pytest.importorskip("nltk", reason="EasyEdit's figures of generated text need nltk and its data")
    (tmp_path / "work").mkdir()
    if data.endswith(".json"):
        (tmp_path / data).write_text(json.dumps(RECORDS))
    else:
        (tmp_path / data).mkdir()
        for part in ("edit", "train"):
            (tmp_path / data / f"zsre_mend_{part}.json").write_text(json.dumps(RECORDS))
    words = ["--editing_method", method, "--hparams_dir", str(hparams(method)), "--data_dir", str(tmp_path), *words]
    out = "--metrics_save_dir" if script == "run_zsre_llama2.py" else "--output_dir"
    path = host.location.home / "examples" / script
    code = f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')"
    run = f"import sys; sys.argv = {[script, *words, out, str(tmp_path / 'work')]!r}\n{SENTENCES}"
    loads = "from easyedit_personal.integrations.easyedit import load_host; load_host()\n"
    run_python(f"{loads}{run}{code}", tmp_path / "work", LIMIT, EASYEDIT_HOME=str(host.location.home))
    (kept,) = (tmp_path / "work").glob("*.json")
    metrics = json.loads(kept.read_text())
    assert {case["requested_rewrite"]["target_new"] for case in metrics} <= {record["alt"] for record in RECORDS}
    assert len(metrics) == int(words[words.index("--ds_size") + 1])
    for case in metrics:
        assert {"rewrite_acc", "rephrase_acc", "locality"} <= case["post"].keys()
        assert case["post"]["rewrite_acc"] != case["pre"]["rewrite_acc"]


CALLS = """
from easyedit_personal.integrations.easyedit import load_host; load_host()
from easyedit_personal import register
register(FOLDER, quiet=True)
from easyeditor import BaseEditor, FTHyperParams
editor = BaseEditor.from_hparams(FTHyperParams.from_hparams(SETTINGS))
weight = editor.model.model.layers[editor.hparams.layers[0]].mlp.down_proj.weight
before = weight.detach().clone()
words = dict(prompts=PROMPTS, target_new=TARGETS, subject=SUBJECTS, rephrase_prompts=PROMPTS[::-1])
metrics, _, _ = editor.batch_edit(**words)
print("BATCH", len(metrics), [len(case["post"]["rephrase_acc"]) for case in metrics], bool((weight == before).all()))
editor.hparams.batch_size = 1  # what edit_requests insists on
requests = [
    {"prompt": p, "target_new": "falconry", "subject": s, "ground_truth": "<|endoftext|>", "locality": {},
     "portability": {}, "cluster": "free time", "user": "ann"}
    for p, s in [("What's my hobby?", "hobby"), ("What's my pastime?", "pastime")]
]
metrics, _, _ = editor.edit_requests(requests)
print("CLUSTER", [case["requested_rewrite"]["cluster"] for case in metrics], bool((weight == before).all()))
metrics, edited, _ = editor.edit_requests(requests, sequential_edit=True)
print("KEPT", edited is editor.model, bool((weight == before).all()))
"""


def test_its_calls_batch_clusters_and_sequential(host, hparams, tmp_path):
    path = hparams("FT")
    changed = {**yaml.safe_load(path.read_text()), "batch_size": 2}
    path.write_text(yaml.safe_dump(changed))
    (tmp_path / "work").mkdir()
    names = {
        "FOLDER": str(tmp_path / "files"),
        "SETTINGS": str(path),
        "PROMPTS": [record["src"] for record in RECORDS],
        "TARGETS": [record["alt"] for record in RECORDS],
        "SUBJECTS": [record["subject"] for record in RECORDS],
    }
    code = "".join(f"{name} = {value!r}\n" for name, value in names.items()) + CALLS
    said = run_python(code, tmp_path / "work", LIMIT, EASYEDIT_HOME=str(host.location.home))
    assert "BATCH 2 [1, 1] True" in said
    assert "CLUSTER ['free time', 'free time'] True" in said
    assert "KEPT True False" in said
