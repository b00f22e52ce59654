"""What each part of the default edit is worth: one part changed at a time, on users that chose none of the settings.

``python -m benchmarks.ablations --users 16 --json benchmarks/results/ablations.json`` edits users of the bundled set's
*test* half with the model's settings and with every variant below, asks the whole panel and two conversations, and
writes after each variant: a second call goes on where the first stopped. ``--only NAME...`` runs some. The rows named
"trade-off" turn one dial of ``lowrank`` and one of FT-M: generality against leakage; ``--picture FILE`` draws them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.models import add_options, chosen
from easyedit_personal import PersonalizationHyperParams, UPQADataset
from easyedit_personal.evaluate import Plan, evaluate
from easyedit_personal.modeling.loading import load_model

TURNS = (0, 2, 6)
COLUMNS = ("direct", "paraphrase", "implicit", "product", "unrelated", "negation", "other_user", "locality")
HEADS = ("direct", "para", "impl", "prod", "leak", "negated", "others", "facts", "2 turns", "6 turns", "ppl", "s", "kB")

# Name -> (kernel, changes of the settings, phrases per cluster).
Variant = tuple[str, dict[str, Any], int]
VARIANTS: dict[str, Variant] = {
    "default": ("lowrank", {}, 9),
    "seed 1": ("lowrank", {"seed": 1}, 9),
    "seed 2": ("lowrank", {"seed": 2}, 9),
    "no further phrases (cluster of 1)": ("lowrank", {}, 1),
    "no indirect questions": ("lowrank", {"cluster": {"indirect": 0}}, 9),
    "nothing behind turns": ("lowrank", {"cluster": {"behind": 0}}, 9),
    "no metric": ("lowrank", {"mom2_adjustment": False}, 9),
    "metric of text only": ("lowrank", {"lowrank": {"spare": 0.0, "reach": 0.0}}, 9),
    "no end of turn": ("lowrank", {"end_of_turn": False}, 9),
    "no polish": ("lowrank", {"lowrank": {"polish": 0}}, 9),
    "rank 2": ("lowrank", {"lowrank": {"rank": 2}}, 9),
    "rank 8": ("lowrank", {"lowrank": {"rank": 8}}, 9),
    "trade-off: no KL": ("lowrank", {"preserve": {"weight": 0.0}}, 9),
    "trade-off: KL 0.1": ("lowrank", {"preserve": {"weight": 0.1}}, 9),
    "trade-off: KL 0.3": ("lowrank", {"preserve": {"weight": 0.3}}, 9),
    "trade-off: FT-M, lr 5e-3": ("finetune", {"finetune": {"lr": 5e-3}}, 9),
    "trade-off: FT-M, lr 1e-2": ("finetune", {"finetune": {"lr": 1e-2}}, 9),
    "trade-off: FT-M, lr 2e-2": ("finetune", {"finetune": {"lr": 2e-2}}, 9),
    "trade-off: ROME": ("rome", {}, 9),
}


def measure(
    variant: Variant, items: list[Any], model: Any, tokenizer: Any, base: PersonalizationHyperParams
) -> dict[str, Any]:
    """The panel's figures of one variant of the settings ``base``, as in ``result.json``."""
    kernel, changes, size = variant
    hparams = base.with_kernel(kernel).replace(**changes, per_kernel={})
    plan = Plan(cluster_size=size, turns=TURNS)
    result = evaluate(model, tokenizer, items, [kernel], plan=plan, hparams=hparams, model_name=str(base.model_name))
    method = result["methods"][kernel]
    setup = {key: value for key, value in result["setup"].items() if key != "users"}
    return {"kernel": kernel, "changes": changes, "cluster_size": size, **method, "setup": setup}


def row(figures: dict[str, Any]) -> list[str]:
    """One variant's cells, in per cent but for the last three."""
    if figures["status"] != "ok":
        return [f"failed: {figures['error'].splitlines()[0]}"]
    metrics, cost = figures["metrics"], figures["cost"]
    cells = [f"{100 * metrics[name]['mean']:.0f}" for name in COLUMNS]
    for turns in TURNS[1:]:
        kinds = metrics["multi_turn"]["by_turns"][str(turns)]
        cells.append("/".join(f"{100 * kinds[kind]['mean']:.0f}" for kind in ("direct", "paraphrase", "implicit")))
    return [
        *cells,
        f"{metrics['health']['mean']:.2f}",
        f"{cost['seconds_per_user']:.1f}",
        f"{cost['bytes_per_user'] / 1000:.0f}",
    ]


def markdown(results: dict[str, Any]) -> str:
    """All variants as a table."""
    lines = [["", *HEADS], ["---"] * (1 + len(HEADS))]
    lines += [[name, *row(figures)] for name, figures in results.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


CURVES = {
    "lowrank, weight of KL": (
        "trade-off: KL 0.3",
        "trade-off: KL 0.1",
        "default",
        "trade-off: no KL",
    ),
    "lowrank, rank": ("rank 2", "default", "rank 8"),
    "FT-M, learning rate": ("trade-off: FT-M, lr 5e-3", "trade-off: FT-M, lr 1e-2", "trade-off: FT-M, lr 2e-2"),
    "ROME": ("trade-off: ROME",),
}


def draw(results: dict[str, Any], path: Path) -> None:
    """Generality against damage, a curve per dial."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 5.2), layout="constrained", dpi=130)
    panel = figure.subplots()
    for style, (label, names) in zip(("o-", "s--", "^-", "D"), CURVES.items()):
        metrics = [results[name]["metrics"] for name in names if name in results]
        reach = [50 * (one["paraphrase"]["mean"] + one["implicit"]["mean"]) for one in metrics]
        damage = [100 * (one["unrelated"]["mean"] + 1 - one["locality"]["mean"]) for one in metrics]
        panel.plot(damage, reach, style, label=label, markersize=8)
        for name, x, y in zip(names, damage, reach):
            panel.annotate(name.removeprefix("trade-off: "), (x, y), (6, -10), textcoords="offset points", fontsize=8)
    panel.set(xlabel="damage: leak + changed facts, points (less is better)", ylabel="reach: paraphrased + implicit, %")
    panel.grid(color="#ddd")
    panel.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--users", type=int, default=16, help="users of the test half, spread over attribute types")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), help="some of the variants")
    parser.add_argument("--json", type=Path, help="write figures here, and go on from what stands there")
    parser.add_argument("--picture", type=Path, help="draw the trade-offs here")
    add_options(parser)
    options = parser.parse_args()
    results = json.loads(options.json.read_text()) if options.json and options.json.is_file() else {}
    items = UPQADataset.bundled("test").items
    items = list(items[:: max(1, len(items) // options.users)][: options.users])
    base = chosen(options)
    model, tokenizer = load_model(base)
    for name in options.only or VARIANTS:
        if name not in results:
            results[name] = measure(VARIANTS[name], items, model, tokenizer, base)
            results = {known: results[known] for known in VARIANTS if known in results}
            if options.json:
                options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            print(markdown({name: results[name]}).splitlines()[-1], flush=True)
    print("\n" + markdown(results))
    if options.picture:
        draw(results, options.picture)


if __name__ == "__main__":
    main()
