"""The report's pictures, legible in grey and for the colour-blind: shape and label carry what colour does.

matplotlib without pyplot: no window, no global state. Colours are Okabe and Ito's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .columns import Column, Place, kinds_of, turn_tables
from .report import Picture, Run, best_of, shown_in

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "h", "p", "d")
DASHES = ("-", "--", "-.", ":")
DPI = 130


def draw_all(runs: Sequence[Run], folder: Path) -> list[Picture]:
    """Draw what the runs have figures for; PNGs go to ``folder``."""
    looks = {name: look(i) for i, name in enumerate(best_of(runs))}
    drawn = [draw(runs, folder, looks) for draw in (_accuracy, _tradeoff, _use, _clusters, _turns, _cost)]
    return [picture for picture in drawn if picture is not None]


def look(number: int) -> dict[str, Any]:
    """Colour, marker and dash of the n-th method; no two of the first thirteen share a marker."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": DASHES[number % len(DASHES)],
    }


def _accuracy(runs: Sequence[Run], folder: Path, looks: Mapping[str, Any]) -> Picture | None:
    """Dots with intervals, one panel per kind of question: no bars to hide behind."""
    best, columns = best_of(runs), shown_in(runs, "accuracy")
    if not columns:
        return None
    figure = Figure(figsize=(2.6 * len(columns) + 1.6, 0.36 * len(best) + 1.3), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for panel, column in zip(panels, columns):
        for row, (name, (_, method)) in enumerate(best.items()):
            _dot(panel, row, method["metrics"].get(column.evaluator), looks[name])
        panel.set(title=column.title, xlim=(-4, 104), xlabel="%")
        panel.grid(axis="x", color="#ddd")
    panels[0].set_yticks(range(len(best)), list(_names(runs).values()))
    panels[0].invert_yaxis()
    caption = "Share of users whose question is answered with their value, and its 95 % interval. " + _which(runs)
    return _save(figure, folder, "accuracy", "Accuracy by question type and method", caption)


def _dot(panel: Axes, row: int, metric: Mapping[str, Any] | None, style: Mapping[str, Any]) -> None:
    if not metric or metric["mean"] is None:
        return
    low, high = metric["ci95"]
    if low is not None:
        panel.plot([100 * low, 100 * high], [row, row], color="#777", linewidth=1.5, zorder=1)
    panel.plot(100 * metric["mean"], row, color=style["color"], marker=style["marker"], markersize=7, zorder=2)


def _tradeoff(runs: Sequence[Run], folder: Path, looks: Mapping[str, Any]) -> Picture | None:
    """What an edit reaches against what it breaks."""
    return _against(runs, folder, looks, "reach", "tradeoff", "Generality against leakage")


def _use(runs: Sequence[Run], folder: Path, looks: Mapping[str, Any]) -> Picture | None:
    """The picture that matters most: answers that help against what an edit breaks."""
    return _against(runs, folder, looks, "use", "use", "Helpful answers against damage")


def _against(
    runs: Sequence[Run], folder: Path, looks: Mapping[str, Any], place: Place, file: str, title: str
) -> Picture | None:
    """A dot per method: the mean of a place's columns, upwards, against the sum of the damages."""
    points, reaches, damages = {}, shown_in(runs, place), shown_in(runs, "damage")
    for name, (_, method) in best_of(runs).items():
        reach = _mean(*(column.value(method) for column in reaches))
        lost = [_damage(column, method) for column in damages]
        known = [share for share in lost if share is not None]
        if reach is not None and known and len(known) == len(lost):
            points[_names(runs)[name]] = (100 * sum(known), 100 * reach, looks[name])
    if not points:
        return None
    figure = Figure(figsize=(7.5, 5.2), layout="constrained")
    panel = figure.subplots()
    for x, y, style in points.values():
        panel.plot(x, y, color=style["color"], marker=style["marker"], markersize=9, linestyle="none")
    widest = max(20.0, *(x for x, _, _ in points.values())) * 1.15
    panel.set(xlim=(-0.04 * widest, widest), ylim=(-5, 108))
    _write_labels(panel, {name: (x, y) for name, (x, y, _) in points.items()})
    terms = [c.title if c.better == "lower" else f"(100 - {c.title})" for c in damages]
    panel.set(xlabel=f"damage: {' + '.join(terms)}, points (less is better)")
    titles = ", ".join(column.title for column in reaches)
    panel.set(ylabel=f"{titles}, %" if len(reaches) == 1 else f"{place}: mean of {titles}, %")
    panel.grid(color="#ddd")
    legend = "; ".join(f"{column.title}: {column.asked}" for column in [*reaches, *damages])
    caption = f"Up and to the left is better. Shares of users or answers. {legend}. {_which(runs)}"
    return _save(figure, folder, file, title, caption)


def _damage(column: Column, method: Mapping[str, Any]) -> float | None:
    share = column.value(method)
    return share if share is None or column.better == "lower" else 1 - share


def _clusters(runs: Sequence[Run], folder: Path, looks: Mapping[str, Any]) -> Picture | None:
    columns, sizes = shown_in(runs, "clusters"), sorted({run.cluster_size for run in runs})
    if len(sizes) < 2 or not columns:
        return None
    figure = Figure(figsize=(7.5 * len(columns), 4.4), layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False)[0]
    for panel, column in zip(panels, columns):
        lines: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
        for run in runs:
            for name, method in run.methods.items():
                if column.value(method) is not None:
                    lines.setdefault(name, []).append((run.cluster_size, method["metrics"][column.evaluator]))
        for number, (name, values) in enumerate(lines.items()):
            _line(panel, name, values, looks[name], _aside(number, len(lines), 8))
        panel.set(xlabel="phrases in the cluster", ylabel=f"{column.title}, %", ylim=(-4, 104), xticks=sizes)
        panel.grid(color="#ddd")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    legend = "; ".join(f"{column.title}: {column.asked}" for column in columns)
    caption = f"By the number of phrases that the edit saw. {legend}."
    return _save(figure, folder, "clusters", "Accuracy by cluster size", caption)


def _turns(runs: Sequence[Run], folder: Path, looks: Mapping[str, Any]) -> Picture | None:
    tables = turn_tables({name: method for name, (_, method) in best_of(runs).items()})
    if not tables:
        return None
    kinds = kinds_of(next(iter(tables.values())))
    figure = Figure(figsize=(10.5, 3.8), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for panel, kind in zip(panels, kinds):
        for number, (name, table) in enumerate(tables.items()):
            cells = [(int(turns), shares.get(kind)) for turns, shares in table.items()]
            values = [(turns, cell) for turns, cell in cells if cell and cell["mean"] is not None]
            _line(panel, name, values, looks[name], _aside(number, len(tables), 10))
        panel.set(title=kind, xlabel="unrelated turns between", ylim=(-4, 104))
        panel.set_xticks(sorted({int(turns) for table in tables.values() for turns in table}))
        panel.grid(color="#ddd")
    panels[0].set_ylabel("answered with the value, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    missing = sum(shares["not_fitting"] for table in tables.values() for shares in table.values())
    left_out = f" {missing} conversations did not fit the model's context and are left out." if missing else ""
    caption = "Is the preference still acknowledged after turns about other things? " + _which(runs) + left_out
    return _save(figure, folder, "turns", "Acknowledgement by turns", caption)


def _cost(runs: Sequence[Run], folder: Path, looks: Mapping[str, Any]) -> Picture | None:
    points = {}
    for name, (_, method) in best_of(runs).items():
        seconds, size = method["cost"]["seconds_per_user"], method["cost"]["bytes_per_user"]
        if seconds is not None and size is not None:
            points[_names(runs)[name]] = (max(seconds, 1e-3), max(size, 1.0) / 1000, looks[name])
    if not points:
        return None
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    panel = figure.subplots()
    panel.set(
        xscale="log", yscale="log", xlabel="seconds to personalise (1 ms or less at the left)", ylabel="kB to keep"
    )
    for x, y, style in points.values():
        panel.plot(x, y, color=style["color"], marker=style["marker"], markersize=9, linestyle="none")
    panel.margins(0.18)
    _write_labels(panel, {name: (x, y) for name, (x, y, _) in points.items()})
    panel.grid(color="#ddd")
    caption = "What one user costs; both axes are logarithmic. " + _which(runs)
    return _save(figure, folder, "cost", "Cost per user", caption)


def _line(
    panel: Axes, name: str, values: Sequence[tuple[int, Mapping[str, Any]]], style: Mapping[str, Any], aside: float
) -> None:
    xs = [x + aside for x, _ in values]
    panel.plot(xs, [100 * metric["mean"] for _, metric in values], label=name, markersize=6, **style)


def _aside(number: int, count: int, width: float) -> float:
    """A little to the side, so that lines of equal height do not hide each other."""
    return (number - (count - 1) / 2) * 0.008 * width


def _write_labels(panel: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Names beside their points; where they would lie on each other they move towards the panel's middle."""
    panel.figure.canvas.draw()
    middle = panel.transAxes.transform((0.5, 0.5))[1]
    places = {name: panel.transData.transform(point) for name, point in points.items()}
    taken: list[tuple[float, float]] = []
    for name, (x, y) in sorted(places.items(), key=lambda entry: (-abs(entry[1][1] - middle), entry[1][0])):
        step = 3.0 if y < middle else -3.0
        shift = 0.0
        while any(abs(x - a) < 150 and abs(y + shift - b) < 17 for a, b in taken):
            shift += step
        taken.append((x, y + shift))
        arrow = {"arrowstyle": "-", "color": "#999", "linewidth": 0.6} if shift else None
        offset = (12.0, shift * 72 / panel.figure.dpi - 3)
        panel.annotate(name, points[name], offset, textcoords="offset points", fontsize=9, arrowprops=arrow)


def _names(runs: Sequence[Run]) -> dict[str, str]:
    """How methods are labelled: with the cluster size only where it differs between them."""
    best = best_of(runs)
    same = len({run.cluster_size for run, _ in best.values()}) == 1
    return {name: name if same else f"{name} ({run.cluster_size})" for name, (run, _) in best.items()}


def _which(runs: Sequence[Run]) -> str:
    sizes = sorted({run.cluster_size for run, _ in best_of(runs).values()})
    return f"Clusters of {sizes[-1]}." if len(sizes) == 1 else "Each method at its largest cluster, in parentheses."


def _mean(*values: float | None) -> float | None:
    known = [value for value in values if value is not None and math.isfinite(value)]
    return sum(known) / len(known) if known else None


def _save(figure: Figure, folder: Path, name: str, title: str, caption: str) -> Picture:
    path = folder / f"{name}.png"
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return Picture(name, title, caption, path)
