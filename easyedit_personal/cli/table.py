"""The table that ``evaluate`` prints: a row per figure and a column per method, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..evaluate.columns import Column, columns_of, kinds_of, turn_tables

if TYPE_CHECKING:
    from rich.console import Console


def show(console: Console, result: Mapping[str, Any]) -> None:
    """Print the panel, then the conversations, then what failed."""
    from rich.markup import escape

    setup, methods = result["setup"], result["methods"]
    columns = columns_of(result, "table")
    plan = setup.get("plan", {})
    title = (
        f"{setup.get('model')} · {setup.get('data')} · {setup.get('n')} users · clusters of {plan.get('cluster_size')}"
        f" · protocol {setup.get('protocol')}"
    )
    rows = [(column.heading, [_cell(column, method) for method in methods.values()]) for column in columns]
    _print(console, title, list(methods), rows, "shares in %, with 95 % intervals", of="")
    _show_turns(console, turn_tables(methods))
    _show_scores(console, methods, columns, result.get("scores", {}))
    for name, method in methods.items():
        if method["status"] != "ok":
            console.print(f"[bold red]{escape(name)} failed:[/] {escape(str(method['error']))}")


def _print(
    console: Console,
    title: str,
    headings: list[str],
    rows: Iterable[tuple[str, list[str]]],
    caption: str | None = None,
    of: str = "method",
) -> None:
    """A table whose rows' names stand in the column ``of``."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", caption=caption)
    table.add_column(of, no_wrap=True)
    for heading in headings:
        table.add_column(escape(heading), justify="right")
    for name, cells in rows:
        table.add_row(escape(name), *cells)
    console.print(table)


def _cell(column: Column, method: Mapping[str, Any]) -> str:
    value, interval = column.cell(method)
    return f"{value} [dim]{interval.replace(' to ', '-')}[/]" if interval else value


def _show_scores(
    console: Console, methods: Mapping[str, Any], columns: list[Column], scores: Mapping[str, Any]
) -> None:
    """What a judge or an embedder said, where one was asked."""
    for score, about in scores.items():
        scored = {column.evaluator: Column(column.title, column.asked, figure=score, evaluator=column.evaluator)
                  for column in columns}  # fmt: skip
        used = [c for c in scored.values() if any(c.value(method) is not None for method in methods.values())]
        rows = [(name, [column.cell(method)[0] for column in used]) for name, method in methods.items()]
        _print(console, f"{score}: {about}", [column.heading for column in used], rows, "in %")


def _show_turns(console: Console, tables: Mapping[str, Any]) -> None:
    if not tables:
        return
    first = next(iter(tables.values()))
    kinds = kinds_of(first)
    rows = [(name, [_turn_cell(table[turns], kinds) for turns in first]) for name, table in tables.items()]
    _print(console, f"After unrelated turns: {' / '.join(kinds)}", list(first), rows)


def _turn_cell(shares: Mapping[str, Any], kinds: list[str]) -> str:
    known = [shares.get(kind) for kind in kinds]
    text = " / ".join("-" if not share or share["mean"] is None else f"{100 * share['mean']:.0f}" for share in known)
    return text + (f"\n[dim]{shares['not_fitting']} do not fit[/]" if shares.get("not_fitting") else "")
