"""The paper's figures on this model, side by side with the paper's own: does the ordering of the methods hold?

A folder per cluster size; the largest one also asks after unrelated turns and for general ability (our own quiz: BoolQ
and the like need downloads).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from benchmarks.models import chosen
from easyedit_personal.evaluate.plan import Plan
from easyedit_personal.modeling.loading import load_model

from .editors import HERE
from .table import run_plan

KINDS = ("direct", "paraphrase", "implicit", "product")
METHODS = ("lowrank", "in_prompt", "FT-M", "LoRA", "ROME", "GRACE")
Lines = Mapping[str, Sequence[float | None]]  # method -> per cent at each place of the axis


def figures(options: Any) -> int:
    """Run what is missing, draw paper.png, and say for each figure how many pairs of methods stand as in the paper."""
    model, tokenizer = load_model(chosen(options))
    results = {}
    for size in options.clusters:
        last = size == max(options.clusters)
        asked = (*KINDS, "capability") if last else KINDS
        plan = Plan(evaluators=asked, cluster_size=size, turns=options.turns if last else ())
        folder = options.out / f"cluster-{size}"
        run_plan(options, model, tokenizer, plan, folder)
        results[size] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    paper, ours = theirs(), measured(results)
    lines = [f"{name}: {agreement(paper[name][1], ours[name][1])}" for name in paper if name in ours]
    text = "\n".join([*lines, *ability(results[max(results)])]) + "\n"
    (options.out / "paper.md").write_text(text, encoding="utf-8")
    print(text + f"The picture is {draw(paper, ours, options.out)}.")
    return 0


Figure = tuple[Sequence[Any], Lines, str]  # places of the axis, lines, whose


def theirs() -> dict[str, Figure]:
    """The paper's, as read off."""
    known = yaml.safe_load((HERE / "paper.yaml").read_text(encoding="utf-8"))
    axes = {"accuracy": KINDS, "clusters": known["clusters"].pop("sizes"), "turns": known["turns"].pop("numbers")}
    return {name: (axes[name], *next((lines, model) for model, lines in known[name].items())) for name in axes}


def measured(results: Mapping[int, Mapping[str, Any]]) -> dict[str, Figure]:
    """Ours, of the same axes: accuracy at the smallest cluster, as in the paper; turns at the largest."""
    sizes = sorted(results)
    first, last = results[sizes[0]], results[sizes[-1]]
    whose = f"{last['setup']['model']}, {last['setup']['n']} users"
    names = [name for name in last["methods"] if last["methods"][name]["metrics"]]
    accuracy = {name: [_mean(first, name, kind) for kind in KINDS] for name in names}
    clusters = {name: [_mean(results[size], name, "implicit") for size in sizes] for name in names}
    found = {"accuracy": (KINDS, accuracy, whose), "clusters": (sizes, clusters, whose)}
    tables = {name: last["methods"][name]["metrics"].get("multi_turn", {}).get("by_turns", {}) for name in names}
    turns = sorted({int(turn) for table in tables.values() for turn in table})
    if turns:
        lines = {name: [_share(tables[name], turn) for turn in turns] for name in names}
        found["turns"] = (turns, lines, whose)
    return found


def agreement(paper: Lines, ours: Lines) -> str:
    """How many pairs of methods stand in the paper's order, place by place; what the paper found equal is left out."""
    same, total, against = 0, 0, []
    for one, other in combinations([name for name in paper if name in ours], 2):
        for place in range(min(len(paper[one]), len(ours[one]))):
            mine, his = _step(ours, one, other, place), _step(paper, one, other, place)
            if mine is not None and his and mine * his <= 0:
                against.append(f"{one} and {other} at place {place + 1}")
            if mine is not None and his:
                total, same = total + 1, same + (mine * his > 0)
    wrong = f"; not: {', '.join(against)}" if against else ""
    return f"{same} of {total} pairs of methods, place by place, stand as in the paper{wrong}"


def _step(lines: Lines, one: str, other: str, place: int) -> float | None:
    a, b = lines[one][place], lines[other][place]
    return None if a is None or b is None else a - b


def ability(result: Mapping[str, Any]) -> list[str]:
    """The quiz with and without the edit, per cent."""
    found = []
    for name, method in result["methods"].items():
        quiz = method["metrics"].get("capability")
        if quiz and quiz["mean"] is not None:
            before = quiz.get("before")
            found.append(f"{name}: world quiz {100 * quiz['mean']:.0f} %, unedited {100 * (before or 0):.0f} %")
    return found


def _mean(result: Mapping[str, Any], name: str, kind: str) -> float | None:
    share = result["methods"].get(name, {}).get("metrics", {}).get(kind, {}).get("mean")
    return None if share is None else 100 * share


def _share(table: Mapping[str, Any], turn: int) -> float | None:
    share = table.get(str(turn), {}).get("direct", {}).get("mean")
    return None if share is None else 100 * share


def draw(paper: Mapping[str, Figure], ours: Mapping[str, Figure], out: Path) -> Path:
    """A row per figure: the paper's on the left, ours on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    from easyedit_personal.evaluate.plots import DPI, look

    rows = [name for name in paper if name in ours]
    names = dict.fromkeys(name for row in rows for side in (paper, ours) for name in side[row][1])
    looks = {name: look(number) for number, name in enumerate(names)}
    canvas = Canvas(figsize=(10.5, 3.3 * len(rows)), layout="constrained")
    panels = canvas.subplots(len(rows), 2, squeeze=False, sharey=True)
    for row, name in zip(panels, rows):
        for panel, (axis, lines, whose) in zip(row, (paper[name], ours[name])):
            for method, values in lines.items():
                points = [(n, value) for n, value in enumerate(values) if value is not None]
                panel.plot([n for n, _ in points], [value for _, value in points], label=method, **looks[method])
            panel.set_xticks(range(len(axis)), [str(place) for place in axis])
            panel.set(title=f"{TITLES[name]} ({whose})", ylim=(-4, 104))
            panel.grid(color="#ddd")
        row[0].set_ylabel("%")
    handles = {h: label for p in panels.flat for h, label in zip(*p.get_legend_handles_labels())}
    first = {label: handle for handle, label in reversed(list(handles.items()))}
    canvas.legend([first[n] for n in names], list(names), loc="outside lower center", ncols=4, frameon=False)
    path = out / "paper.png"
    FigureCanvasAgg(canvas)
    canvas.savefig(path, dpi=DPI, metadata={"Software": None})
    return path


TITLES = {
    "accuracy": "answered with the value",
    "clusters": "implicit, by phrases in the cluster",
    "turns": "direct, after unrelated turns",
}
