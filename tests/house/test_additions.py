"""A kernel, an evaluator, a baseline, a model family and a source of phrases from outside, each in one file.

They are used from the command line, in a process of its own and its worker, as somebody who installed them would.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from easyedit_personal.plugins import VARIABLE
from tests.tiny import SMALL

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "kernel": """
        import torch
        from pydantic import Field
        from easyedit_personal import WeightDelta
        from easyedit_personal.modeling.layout import find_layout
        from easyedit_personal.registry import KERNELS
        from easyedit_personal.validation import Section

        class NudgeParams(Section):
            rank: int = Field(1, ge=1)

        @KERNELS.register("nudge", settings=NudgeParams)
        def nudge(model, tokenizer, requests, hparams):
            layout, rank = find_layout(model, hparams), hparams.settings_of(KERNELS, "nudge").rank
            left, right = torch.full((layout.d_model, rank), 1e-3), torch.ones(rank, layout.d_mlp)
            return [WeightDelta(layout.rewrite_path(layer), left, right) for layer in hparams.layers]
    """,
    "evaluator": """
        from easyedit_personal.evaluate.columns import Column
        from easyedit_personal.evaluate.evaluator import Ask, Evaluator
        from easyedit_personal.registry import EVALUATORS
        from easyedit_personal.validation import Section

        class PoliteParams(Section):
            score: float = 1.0

        @EVALUATORS.register("polite", settings=PoliteParams)
        class Polite(Evaluator):
            columns = (Column("manners", "answers that say please"),)

            def asks(self, item, plan):
                return [Ask(self.name, "Say please.", item.target)]

            def grade(self, answer, plan):
                return self.settings.score
    """,
    "baseline": """
        from contextlib import contextmanager
        from easyedit_personal.baselines.base import Prompting, Session
        from easyedit_personal.registry import BASELINES
        from easyedit_personal.validation import Section

        class EchoParams(Section):
            text: str = "hello"

        @BASELINES.register("echo", settings=EchoParams)
        class Echo(Prompting):
            def __init__(self, settings):
                self.text = settings.text

            @contextmanager
            def personalize(self, model, tokenizer, preferences, cluster_size):
                yield Session(model, rewrite=lambda question: self.text + question, nbytes=len(self.text))
    """,
    "family": """
        from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
        from transformers.models.llama.modeling_llama import LlamaMLP
        from easyedit_personal.modeling.families import Family
        from easyedit_personal.registry import FAMILIES

        class OddConfig(LlamaConfig):
            model_type = "oddity"

        class OddMLP(LlamaMLP):
            def __init__(self, config):
                super().__init__(config)
                self.shrink = self.down_proj
                del self.down_proj

            def forward(self, x):
                return self.shrink(self.act_fn(self.gate_proj(x)) * self.up_proj(x))

        class OddForCausalLM(LlamaForCausalLM):
            config_class = OddConfig

            def __init__(self, config):
                super().__init__(config)
                for layer in self.model.layers:
                    layer.mlp = OddMLP(config)
                self.post_init()

        AutoConfig.register("oddity", OddConfig)
        AutoModelForCausalLM.register(OddConfig, OddForCausalLM)
        FAMILIES.register("oddity")(Family("oddity", down="mlp.shrink"))
    """,
    "source": """
        from easyedit_personal.clustering import Phrase
        from easyedit_personal.registry import PHRASE_SOURCES
        from easyedit_personal.validation import Section

        class SlangParams(Section):
            ending: str = "y"

        @PHRASE_SOURCES.register("slang", settings=SlangParams)
        def slang(given, size, context):
            name = given[0].subject + context.settings.ending
            return [Phrase(name, f"What's my {name}?")]
    """,
    "broken": "raise OSError('nobody mended this')",
}
# What a user types, one process for all of it; the family's file also brings the architecture, so it makes the model.
SESSION = """
import sys
from pathlib import Path
from easyedit_personal.cli.main import app
from easyedit_personal.registry import FAMILIES

folder = Path(sys.argv[1])

def run(*words):
    try:
        app([*map(str, words)], standalone_mode=False)
    except SystemExit as end:
        assert not end.code, words

def main():
    for command in ("evaluate", "edit"):
        print("HELP", command)
        run(command, "--help")
    run("doctor")
    import transformers
    from plugin_family import OddConfig
    from tests.tiny import HEADS, SMALL, tiny_tokenizer
    config = OddConfig(**SMALL, **HEADS, pad_token_id=0, eos_token_id=1, bos_token_id=None)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    run("evaluate", "--model", folder / "model", "--hparams", folder / "mine.yaml", "--method", "nudge,echo",
        "--evaluators", "direct,cost,polite", "--size", 2, "--engine", "processes", "--workers", 1,
        "--out", folder / "result")
    run("report", folder / "result", "--out", folder / "report")
    from easyedit_personal import EditRequest, PersonalizationHyperParams
    from easyedit_personal.editing.phrases import cluster_phrases
    from easyedit_personal.modeling.loading import load_model
    hparams = PersonalizationHyperParams.from_hparams(folder / "mine.yaml").replace(model_name=str(folder / "model"))
    request = {"prompt": "What's my hobby?", "target_new": "chess", "subject": "hobby"}
    print("PHRASES", [phrase.prompt for phrase in cluster_phrases(*load_model(hparams), [request], hparams)[0]])

if __name__ == "__main__":  # the workers of an engine import this file again
    main()
"""
SETTINGS = """
alg_name: PersonalizationEditor
kernel: nudge
layers: [1]
cluster: {source: slang, size: 2}
nudge: {rank: 3}
evaluators: {polite: {score: 0.25}}
baselines: {echo: {text: "Well then: "}}
phrase_sources: {slang: {ending: ito}}
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Everything printed, and the folder with what was written."""
    folder = tmp_path_factory.mktemp("outside")
    for kind, code in FILES.items():
        (folder / f"{kind}.py").write_text(dedent(code))
    site = folder / "site"  # where pip would have installed the kernel's package
    info = site / "nudger-0.7.dist-info"
    info.mkdir(parents=True)
    (folder / "kernel.py").rename(site / "nudger.py")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nudger\nVersion: 0.7\n")
    (info / "entry_points.txt").write_text("[easyedit_personal.kernels]\nnudge = nudger:nudge\n")
    (folder / "mine.yaml").write_text(SETTINGS)
    (folder / "session.py").write_text(SESSION)
    files = [str(folder / f"{kind}.py") for kind in FILES if kind != "kernel"]
    environment = {
        **os.environ,
        VARIABLE: os.pathsep.join(files),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)]),
        "COLUMNS": "250",
    }
    command = [sys.executable, str(folder / "session.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout, folder


def test_help_names_what_was_added(session):
    _, evaluate, edit = session[0].partition("easyedit-personal doctor")[0].split("HELP ")
    assert evaluate.startswith("evaluate") and all(name in evaluate for name in ("nudge", "echo", "polite"))
    assert edit.startswith("edit") and "nudge" in edit


def test_doctor_tells_where_additions_come_from_and_what_is_broken(session):
    lines = session[0].splitlines()

    def row(*parts):
        return any(all(part in line for part in parts) for line in lines)

    assert row("kernel nudge", "added", "module nudger")
    assert row("evaluator polite", "added", "module plugin_evaluator") and row("baseline echo", "added")
    assert row("model family oddity", "added") and row("source of phrases slang", "added")
    assert row("broken.py", "broken", "nobody mended this")


def test_the_table_and_the_report_show_them(session):
    printed, folder = session
    assert "manners ↑" in printed and "nudge" in printed and "echo" in printed
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    for part in ("manners ↑", "answers that say please", "<td>nudge</td>", "<td>echo</td>"):
        assert part in page


def test_each_follows_its_own_settings(session):
    printed, folder = session
    result = json.loads((folder / "result" / "result.json").read_text())
    assert result["setup"]["plan"]["settings"] == {"polite": {"score": 0.25}}
    nudge, echo = result["methods"]["nudge"], result["methods"]["echo"]
    assert nudge["status"] == echo["status"] == "ok", (nudge["error"], echo["error"])
    assert nudge["metrics"]["polite"]["mean"] == echo["metrics"]["polite"]["mean"] == 0.25
    # Ones take two bytes each, thousandths four.
    assert nudge["metrics"]["cost"]["bytes"] == 3 * (4 * SMALL["hidden_size"] + 2 * SMALL["intermediate_size"])
    assert echo["metrics"]["cost"]["bytes"] == len("Well then: ")
    assert 'PHRASES ["What\'s my hobbyito?", "What\'s my hobby?"]' in printed
