"""The big table: every method on the same users, clusters of 9 and 1, to the natural stop and by the paper's protocol.

One result folder each, in which ``evaluate`` goes on where it stopped; the Markdown and the pictures are made anew from
whatever is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.models import chosen
from benchmarks.tables import by_turns, markdown, read
from easyedit_personal.data.upqa import UPQADataset
from easyedit_personal.evaluate.plan import STANDARD, Plan
from easyedit_personal.evaluate.report import write_report
from easyedit_personal.evaluate.run import evaluate
from easyedit_personal.integrations.easyedit.host_methods import PREFIX
from easyedit_personal.modeling.loading import load_model

from .editors import EDITORS, with_chosen

OURS = ("lowrank", "finetune", "rome", "memit", "in_prompt", "zero_shot")


def methods_of(options: Any) -> list[str]:
    """Ours as they are called, the host's with "easyedit:" before them."""
    return [f"{PREFIX}{name}" if name in EDITORS else name for name in options.methods]


def run_plan(options: Any, model: Any, tokenizer: Any, plan: Plan, out: Path) -> None:
    """Evaluate into ``out`` what is not there yet."""
    data = UPQADataset.bundled("test") if options.data == "bundled" else UPQADataset(options.data)
    hparams = with_chosen(chosen(options))
    about: dict[str, Any] = {"hparams": hparams, "data": Path(options.data).name, "model_name": str(hparams.model_name)}
    evaluate(model, tokenizer, data.items[: options.users], methods_of(options), plan=plan, out=out, **about)


def table(options: Any) -> int:
    """Run what is missing, folder by folder, then write table.md and a report with pictures per protocol."""
    model, tokenizer = load_model(chosen(options))
    for protocol in options.protocols:
        folders = []
        for size in options.clusters:
            plan = Plan(evaluators=options.evaluators or STANDARD, cluster_size=size, protocol=protocol)
            folders.append(options.out / f"{protocol}-{size}")
            run_plan(options, model, tokenizer, plan, folders[-1])
        _write(options.out, protocol, folders)
    return 0


def _write(out: Path, protocol: str, folders: Sequence[Path]) -> None:
    results = [read(str(folder)) for folder in folders]
    text = f"{markdown(results)}\n\n{by_turns(results)}".strip() + "\n"
    (out / f"table-{protocol}.md").write_text(text, encoding="utf-8")
    print(text)
    print(f"The pictures are in {write_report(folders, out / f'report-{protocol}').parent}.")
