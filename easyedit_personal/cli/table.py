"""The table that ``evaluate`` prints: one row per method, best figures first to the eye, intervals below them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# Evaluator -> (heading, whether it is a share). What an arrow says is which way is better.
COLUMNS = {
    "direct": ("direct ↑", True),
    "paraphrase": ("paraphr. ↑", True),
    "implicit": ("implicit ↑", True),
    "product": ("product ↑", True),
    "negation": ("negated ↓", True),
    "other_user": ("others ↓", True),
    "unrelated": ("leak ↓", True),
    "locality": ("kept ↑", True),
    "retention": ("retained ↑", True),
    "capability": ("quiz ↑", True),
    "health": ("perpl. ↓", False),
    "undo": ("undo ↑", True),
}


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print the panel, then the conversations, then what failed."""
    from rich.markup import escape
    from rich.table import Table

    setup, methods = result["setup"], result["methods"]
    plan = setup.get("plan", {})
    title = (
        f"{setup.get('model')} · {setup.get('data')} · {setup.get('n')} users · clusters of {plan.get('cluster_size')}"
        f" · protocol {setup.get('protocol')}"
    )
    table = Table(title=escape(title), title_justify="left", caption="in %, with 95 % intervals", min_width=100)
    table.add_column("method")
    used = [name for name in COLUMNS if any(name in method["metrics"] for method in methods.values())]
    for name in used:
        table.add_column(COLUMNS[name][0], justify="right")
    table.add_column("s", justify="right")
    table.add_column("kB", justify="right")
    for name, method in methods.items():
        cells = [_cell(method["metrics"].get(column), COLUMNS[column][1]) for column in used]
        table.add_row(escape(name), *cells, *_cost(method["cost"]))
    console.print(table)
    _show_turns(console, methods)
    _show_scores(console, methods, result.get("scores", {}))
    for name, method in methods.items():
        if method["status"] != "ok":
            console.print(f"[bold red]{escape(name)} failed:[/] {escape(str(method['error']))}")


def _show_scores(console: Console, methods: Mapping[str, Any], scores: Mapping[str, Any]) -> None:
    """What a judge or an embedder said, where one was asked."""
    from rich.markup import escape
    from rich.table import Table

    for score, about in scores.items():
        table = Table(title=escape(f"{score}: {about}"), title_justify="left", caption="in %", min_width=100)
        used = [name for name in COLUMNS if any(score in m["metrics"].get(name, {}) for m in methods.values())]
        for heading in ("method", *(COLUMNS[name][0] for name in used)):
            table.add_column(heading, justify="left" if heading == "method" else "right")
        for name, method in methods.items():
            values = [method["metrics"].get(column, {}).get(score) for column in used]
            table.add_row(escape(name), *("-" if value is None else f"{100 * value:.0f}" for value in values))
        console.print(table)


def _cell(metric: Mapping[str, Any] | None, is_share: bool) -> str:
    if not metric or metric["mean"] is None:
        return "-"
    if not is_share:
        return f"{metric['mean']:.2f}"
    low, high = metric["ci95"]
    interval = "" if low is None else f"\n[dim]{100 * low:.0f}-{100 * high:.0f}[/]"
    return f"{100 * metric['mean']:.0f}{interval}"


def _cost(cost: Mapping[str, Any]) -> tuple[str, str]:
    seconds, size = cost["seconds_per_user"], cost["bytes_per_user"]
    return ("-" if seconds is None else f"{seconds:.2f}", "-" if size is None else f"{size / 1000:.1f}")


def _show_turns(console: Console, methods: Mapping[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    tables = {name: method["metrics"]["multi_turn"]["by_turns"] for name, method in methods.items()
              if "multi_turn" in method["metrics"]}  # fmt: skip
    if not tables:
        return
    turns = list(next(iter(tables.values())))
    table = Table(title="After unrelated turns: direct / paraphrased / implicit", title_justify="left", min_width=100)
    table.add_column("method")
    for turn in turns:
        table.add_column(turn, justify="right")
    for name, by_turns in tables.items():
        table.add_row(escape(name), *(_turn_cell(by_turns[turn]) for turn in turns))
    console.print(table)


def _turn_cell(shares: Mapping[str, Any]) -> str:
    kinds = [shares.get(kind) for kind in ("direct", "paraphrase", "implicit")]
    text = " / ".join("-" if not kind or kind["mean"] is None else f"{100 * kind['mean']:.0f}" for kind in kinds)
    return text + (f"\n[dim]{shares['not_fitting']} do not fit[/]" if shares.get("not_fitting") else "")
