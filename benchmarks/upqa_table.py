"""The main table: every kernel, at several cluster sizes, on the same users with a clean reset each.

``python -m benchmarks.upqa_table --data ../shared/data/upqa/balanced_subset_cluster9.json`` runs the evaluation of
the package once per cluster size (answers stay in ``--work``, where an interrupted run goes on), writes
``benchmarks/results/upqa-table.json`` and prints the table as Markdown.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from easyedit_personal import PersonalizationHyperParams, UPQADataset
from easyedit_personal.evaluate import Plan, evaluate
from easyedit_personal.reference import load

RESULTS = Path(__file__).parent / "results"
# Column -> evaluator; shares in per cent.
COLUMNS = {
    "direct": "direct",
    "paraphrased": "paraphrase",
    "implicit": "implicit",
    "product": "product",
    "leak": "unrelated",
    "negated": "negation",
    "others": "other_user",
    "facts kept": "locality",
}


def run(options: argparse.Namespace) -> dict[str, Any]:
    """One evaluation per cluster size; finished users are not done again."""
    model, tokenizer = load()
    hparams = PersonalizationHyperParams.from_hparams("reference")
    items = UPQADataset(options.data, options.size).items
    results = {}
    for size in options.cluster_sizes:
        results[str(size)] = evaluate(
            model,
            tokenizer,
            items,
            options.methods,
            plan=Plan(cluster_size=size),
            out=options.work / f"cluster{size}",
            hparams=hparams,
            data=Path(options.data).name,
            model_name="reference",
        )
    return results


def markdown(results: dict[str, Any]) -> str:
    """The table: mean and 95 % interval in per cent; s and kB are means per user."""
    heads = ["method", "cluster", *COLUMNS, "perplexity", "stops", "s", "kB"]
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    for size, result in results.items():
        for name, method in result["methods"].items():
            if method["status"] == "ok":
                lines.append(" | ".join([name, size, *_cells(method)]))
            else:
                lines.append(" | ".join([name, size, f"failed: {method['error']}"]))
    return "\n".join(f"| {line} |" for line in lines)


def _cells(method: dict[str, Any]) -> list[str]:
    metrics, cost = method["metrics"], method["cost"]
    shares = [
        f"{100 * metrics[key]['mean']:.1f} ({100 * metrics[key]['ci95'][0]:.0f}-{100 * metrics[key]['ci95'][1]:.0f})"
        for key in COLUMNS.values()
    ]
    health = metrics["health"]
    return [
        *shares,
        f"{health['mean']:.3f}",
        f"{100 * health['stopped']:.1f}",
        f"{cost['seconds_per_user']:.2f}",
        f"{cost['bytes_per_user'] / 1000:.1f}",
    ]


def without_answers(result: dict[str, Any]) -> dict[str, Any]:
    """A result without the users' names: what may be committed."""
    setup = {key: value for key, value in result["setup"].items() if key != "users"}
    return {**result, "setup": setup}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="The main table, by kernel and cluster size.")
    parser.add_argument("--data", required=True, help="a clustered UPQA file")
    parser.add_argument("--size", type=int, help="only the first so many users")
    parser.add_argument(
        "--methods", type=lambda text: text.split(","), default=["rome", "memit", "lowrank", "finetune"]
    )
    parser.add_argument("--cluster-sizes", type=lambda text: [int(n) for n in text.split(",")], default=[1, 9])
    parser.add_argument("--work", type=Path, default=Path("upqa-table"), help="folder for answers")
    parser.add_argument("--no-write", action="store_true", help="print only")
    options = parser.parse_args()
    results = run(options)
    print(markdown(results))
    if not options.no_write:
        RESULTS.mkdir(exist_ok=True)
        kept = {size: without_answers(result) for size, result in results.items()}
        (RESULTS / "upqa-table.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
