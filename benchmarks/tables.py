"""Tables of finished evaluations: what may be committed of their folders, and the same as Markdown.

``python -m benchmarks.tables DIR... --json benchmarks/results/NAME.json`` reads the folders that ``easyedit-personal
evaluate --out DIR`` wrote (one per cluster size, say) and leaves out the users' names and answers.
``DIR=METHOD,METHOD`` takes some methods of a folder, where others were evaluated anew elsewhere. ``--kinds FILE``, the
data that was evaluated, also prints what became of each kind of preference.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from easyedit_personal.data.upqa import UPQADataset
from easyedit_personal.errors import DataError
from easyedit_personal.evaluate.columns import Column, columns_of, turn_tables
from easyedit_personal.evaluate.evaluator import find_evaluators
from easyedit_personal.evaluate.result_folder import ResultFolder
from easyedit_personal.evaluate.run import plan_of


def read(wanted: str) -> dict[str, Any]:
    """A folder's result without the users' names; with "=" behind the folder, only those methods.

    Raises:
        DataError: there is no result in it, or not of such a method.
    """
    folder, _, names = wanted.partition("=")
    path = Path(folder) / "result.json"
    if not path.is_file():
        raise DataError(f"{folder} holds no result.json.", needed="a folder of a finished evaluation")
    result = json.loads(path.read_text(encoding="utf-8"))
    result["setup"].pop("users", None)
    if names:
        missing = set(names.split(",")) - set(result["methods"])
        if missing:
            known = ", ".join(sorted(result["methods"]))
            raise DataError(f"{folder} has no such method.", got=sorted(missing), needed=known)
        result["methods"] = {name: result["methods"][name] for name in names.split(",")}
        result.pop("comparisons", None)
    return result


def markdown(results: list[dict[str, Any]]) -> str:
    """The main table: the report's figures, a row each, by method; shares in per cent with 95 % intervals.

    A method that was evaluated with several cluster sizes has a column for each. What failed is said below.
    """
    columns = list(dict.fromkeys(column for result in results for column in columns_of(result, "report")))
    runs = [(result, name) for result in results for name in result["methods"]]
    sizes = {result["setup"]["plan"]["cluster_size"] for result in results}
    lines = [["", *(_head(result, name, sizes) for result, name in runs)], ["---"] * (1 + len(runs))]
    lines.append(["users", *(str(result["setup"]["n"]) for result, _ in runs)])
    lines += [[c.heading, *(_cell(c, result["methods"][name]) for result, name in runs)] for c in columns]
    failed = [f"{name}: {e.splitlines()[0]}" for result, name in runs if (e := result["methods"][name]["error"])]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *(f"\nFailed: {one}" for one in failed)])


def _head(result: dict[str, Any], name: str, sizes: set[int]) -> str:
    return name if len(sizes) == 1 else f"{name}, clusters of {result['setup']['plan']['cluster_size']}"


def _cell(column: Column, method: dict[str, Any]) -> str:
    value, interval = column.cell(method)
    return f"{value} ({interval.replace(' to ', '-')})" if interval else value


def by_turns(results: list[dict[str, Any]]) -> str:
    """Direct / paraphrased / implicit after unrelated turns, in per cent, of the runs that asked for turns."""
    rows = list(_turn_rows(results))
    if not rows:
        return ""
    turns = list(rows[0][2])
    lines = [["method", "cluster", *turns], ["---"] * (2 + len(turns))]
    lines += [[name, size, *(cells.get(turn, "") for turn in turns)] for name, size, cells in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _turn_rows(results: list[dict[str, Any]]) -> Iterator[tuple[str, str, dict[str, str]]]:
    for result in results:
        size = str(result["setup"]["plan"]["cluster_size"])
        for name, table in turn_tables(result["methods"]).items():
            if len(table) > 1:
                yield name, size, {turns: _turn_cell(kinds) for turns, kinds in table.items()}


def _turn_cell(kinds: dict[str, Any]) -> str:
    shares = [kind["mean"] for kind in kinds.values() if isinstance(kind, dict)]
    return " / ".join("-" if share is None else f"{100 * share:.0f}" for share in shares)


def by_kind(wanted: str, data: str) -> str:
    """A folder's figures by kind of preference, a row each: how many users, and the mean of theirs in per cent.

    Args:
        wanted: the folder; with "=" behind it, only those methods.
        data: the file that was evaluated.
    """
    path, _, names = wanted.partition("=")
    folder = ResultFolder(path)
    plan, subjects = plan_of(folder.setup() or {}), {item.id: item.subject for item in UPQADataset(data).items}
    evaluators, parts = find_evaluators(plan), []
    for method in names.split(",") if names else folder.methods():
        users = folder.users(method)
        found = {evaluator.name: evaluator.values(users, plan) for evaluator in evaluators}
        asked = {name: values for name, values in found.items() if values}
        kinds = dict.fromkeys(subjects[user["user"]] for user in users)
        lines = [[method, "users", *asked], ["---"] * (2 + len(asked))]
        for kind in kinds:
            own = [user["user"] for user in users if subjects[user["user"]] == kind]
            lines.append([kind, str(len(own)), *(_mean(values, own) for values in asked.values())])
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts)


def _mean(values: Mapping[str, float], users: Sequence[str]) -> str:
    own = [values[user] for user in users if user in values]
    return f"{100 * sum(own) / len(own):.0f}" if own else "-"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Gather finished evaluations into one file and a table.")
    parser.add_argument("folders", nargs="+", help="result folders of easyedit-personal evaluate, or DIR=METHOD,...")
    parser.add_argument("--json", type=Path, help="write what may be committed here")
    parser.add_argument("--kinds", metavar="FILE", help="the data that was evaluated: also figures by kind")
    options = parser.parse_args()
    results = [read(folder) for folder in options.folders]
    print(markdown(results))
    print("\n" + by_turns(results))
    for folder in options.folders if options.kinds else ():
        print("\n" + by_kind(folder, options.kinds))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
