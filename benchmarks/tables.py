"""Tables of finished evaluations: what may be committed of their folders, and the same as Markdown.

``python -m benchmarks.tables DIR... --json benchmarks/results/NAME.json`` reads the folders that ``easyedit-personal
evaluate --out DIR`` wrote (one per cluster size, say) and leaves out the users' names and answers.
``DIR=METHOD,METHOD`` takes some methods of a folder, where others were evaluated anew elsewhere.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from easyedit_personal.errors import DataError

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
    """The main table: mean and 95 % interval in per cent; s and kB are means per user."""
    heads = ["method", "cluster", *COLUMNS, "perplexity", "stops", "s", "kB"]
    lines = [" | ".join(heads), " | ".join("---" for _ in heads)]
    for result in results:
        size = str(result["setup"]["plan"]["cluster_size"])
        for name, method in result["methods"].items():
            if method["status"] == "ok":
                lines.append(" | ".join([name, size, *_cells(method)]))
            else:
                lines.append(" | ".join([name, size, f"failed: {method['error'].splitlines()[0]}"]))
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
        for name, method in result["methods"].items():
            table = method["metrics"].get("multi_turn", {}).get("by_turns", {})
            if len(table) > 1:
                yield name, size, {turns: _turn_cell(kinds) for turns, kinds in table.items()}


def _turn_cell(kinds: dict[str, Any]) -> str:
    shares = [kind["mean"] for kind in kinds.values() if isinstance(kind, dict)]
    return " / ".join("-" if share is None else f"{100 * share:.0f}" for share in shares)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Gather finished evaluations into one file and a table.")
    parser.add_argument("folders", nargs="+", help="result folders of easyedit-personal evaluate, or DIR=METHOD,...")
    parser.add_argument("--json", type=Path, help="write what may be committed here")
    options = parser.parse_args()
    results = [read(folder) for folder in options.folders]
    print(markdown(results))
    print("\n" + by_turns(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
