"""How an evaluator's figures are shown. Evaluators declare their columns, results carry them, tables only read them.

So a result can be shown where the evaluator that made it is not installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .evaluator import Evaluator

Unit = Literal["%", "", "s", "kB"]
# What a figure is multiplied by, and how it is written.
UNITS: dict[Unit, tuple[float, str]] = {"%": (100.0, ".0f"), "": (1.0, ".2f"), "s": (1.0, ".2f"), "kB": (0.001, ".1f")}
Place = Literal["table", "report", "accuracy", "reach", "use", "damage", "clusters"]


@dataclass(frozen=True, slots=True)
class Column:
    """One figure of an evaluator, as readers see it.

    Attributes:
        title: the heading, a word or two.
        asked: what the figure says, in a few words for legends.
        better: which way is up.
        unit: "%" for shares in [0, 1], "kB" for bytes.
        figure: the key in the evaluator's metric; "mean" and what ``Evaluator.further`` gives come with intervals.
        places: the terminal's table, the report's, and the report's pictures: a panel of "accuracy", a term of
            "reach", "use" or "damage" in the pictures that set one of the first two against the third, a panel of
            "clusters".
        evaluator: whose it is; filled in by ``describe``.
    """

    title: str
    asked: str
    better: Literal["higher", "lower"] = "higher"
    unit: Unit = "%"
    figure: str = "mean"
    places: tuple[Place, ...] = ("table", "report")
    evaluator: str = ""

    @property
    def heading(self) -> str:
        """The title with an arrow that says which way is better."""
        return f"{self.title} {'↑' if self.better == 'higher' else '↓'}"

    def value(self, method: Mapping[str, Any]) -> float | None:
        """The figure in a method's result, None where there is none."""
        return (method["metrics"].get(self.evaluator) or {}).get(self.figure)

    def cell(self, method: Mapping[str, Any]) -> tuple[str, str]:
        """The figure as it is written, "-" where there is none; and its interval, empty where there is none."""
        value = self.value(method)
        if value is None:
            return "-", ""
        metric = method["metrics"][self.evaluator]
        intervals = {"mean": metric["ci95"], **metric.get("further_ci95", {})}
        low, high = intervals.get(self.figure, (None, None))
        interval = "" if low is None or high is None else f"{self.write(low)} to {self.write(high)}"
        return self.write(value), interval

    def write(self, value: float) -> str:
        """A value in the column's unit."""
        scale, style = UNITS[self.unit]
        return f"{scale * value:{style}}"


def describe(evaluators: Iterable[Evaluator]) -> list[dict[str, Any]]:
    """All columns as plain values, for the result file."""
    return [asdict(replace(column, evaluator=one.name)) for one in evaluators for column in one.columns]


def columns_of(result: Mapping[str, Any], place: Place) -> list[Column]:
    """The columns of a result that are shown in one place and hold anything."""
    known = [Column(**{**column, "places": tuple(column["places"])}) for column in result["columns"]]
    methods = result["methods"].values()
    return [c for c in known if place in c.places and any(c.evaluator in method["metrics"] for method in methods)]


def turn_tables(methods: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By method, the table {turns: {kind of question: share, "not_fitting": number}} of an evaluator that has one."""
    return {
        name: metric["by_turns"]
        for name, method in methods.items()
        for metric in method["metrics"].values()
        if "by_turns" in metric
    }


def kinds_of(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The kinds of questions in a table by turns."""
    return [kind for kind in next(iter(table.values())) if kind != "not_fitting"]
