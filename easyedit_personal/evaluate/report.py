"""One self-contained page from result folders: tables, pictures, and what a reader must know about the figures.

Folders of one model, data set and protocol belong together, for example one per cluster size.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..errors import DataError, MissingDependencyError, listing
from .columns import Column, Place, columns_of
from .result_folder import ResultFolder, read_json

SAME = ("fingerprint", "data_digest", "n", "protocol", "seed")


@dataclass(frozen=True)
class Run:
    """One folder's figures."""

    folder: str
    result: Mapping[str, Any]

    @property
    def setup(self) -> Mapping[str, Any]:
        """Model, data, plan, versions."""
        return self.result["setup"]

    @property
    def methods(self) -> Mapping[str, Any]:
        """By name: status, metrics, cost."""
        return self.result["methods"]

    def columns(self, place: Place) -> list[Column]:
        """What is shown of it in one place."""
        return columns_of(self.result, place)

    @property
    def cluster_size(self) -> int:
        """Phrases per preference that the edits saw."""
        return int(self.setup["plan"]["cluster_size"])


def write_report(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write ``index.html`` and the pictures into ``out``.

    Args:
        folders: result folders of ``evaluate``.

    Returns:
        The page's path.

    Raises:
        DataError: a folder has no result, or the folders do not belong together.
        MissingDependencyError: matplotlib is not installed.
    """
    runs = load_runs(folders)
    try:
        from .plots import draw_all
    except ImportError:
        raise MissingDependencyError(
            "The report's pictures need matplotlib.", remedy="pip install 'easyedit-personal[report]'"
        ) from None
    folder = ResultFolder(out).path  # checks that it can be written
    (folder / "answers").rmdir()
    pictures = draw_all(runs, folder)
    page = folder / "index.html"
    page.write_text(render(runs, pictures), encoding="utf-8")
    return page


def load_runs(folders: Sequence[str | Path]) -> list[Run]:
    """The folders' results, smallest cluster first.

    Raises:
        DataError: there are none, one cannot be read, or they are of different models, data or protocols.
    """
    if not folders:
        raise DataError("No result folder was given.", needed="one or more folders that `evaluate` has written")
    runs = []
    for folder in folders:
        result = read_json(Path(folder) / "result.json")
        if not {"setup", "columns", "methods"} <= result.keys():
            raise DataError(
                f"{folder} holds no result of this version's `evaluate`.",
                got=sorted(result),
                remedy=f"easyedit-personal evaluate --rescore {folder}",
            )
        runs.append(Run(Path(folder).name, result))
    faults = [
        f"{run.folder}: {key} is {run.setup.get(key)!r}, in {runs[0].folder} it is {runs[0].setup.get(key)!r}"
        for run in runs[1:]
        for key in SAME
        if run.setup.get(key) != runs[0].setup.get(key)
    ]
    if faults:
        raise DataError(
            f"These folders do not belong into one report.\n{listing(faults)}", remedy="make one report for each"
        )
    return sorted(runs, key=lambda run: run.cluster_size)


def best_of(runs: Sequence[Run]) -> dict[str, tuple[Run, Mapping[str, Any]]]:
    """Each method with the largest cluster it was run on: what single pictures show."""
    return {name: (run, method) for run in runs for name, method in run.methods.items() if method["metrics"]}


def shown_in(runs: Sequence[Run], place: Place) -> list[Column]:
    """The columns that any of the runs shows in one place."""
    return list(dict.fromkeys(column for run in runs for column in run.columns(place)))


@dataclass(frozen=True)
class Picture:
    """A drawn figure."""

    name: str
    title: str
    caption: str
    path: Path


STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#111;background:#fff;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.5rem}
table{border-collapse:collapse;font-size:.85rem;display:block;overflow-x:auto}
th,td{padding:.3rem .6rem;border-bottom:1px solid #bbb;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #111;vertical-align:bottom}
td small{display:block;color:#444}figure{margin:1.5rem 0}img{max-width:100%;height:auto;border:1px solid #ddd}
figcaption{color:#333}.note{border-left:4px solid #111;padding:.4rem .8rem;background:#f2f2f2}
"""


def render(runs: Sequence[Run], pictures: Sequence[Picture]) -> str:
    """The page; everything that comes from outside is escaped, nothing is loaded from anywhere."""
    setup = runs[0].setup
    title = f"Personalising {setup.get('model')}: {setup.get('n')} users of {setup.get('data')}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p class='note'>{note}</p>" for note in _notes(runs)),
        *(_figure(picture) for picture in pictures),
        *(_table(run) for run in runs),
        _setup(runs),
    ]
    body = "\n".join(parts)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _notes(runs: Sequence[Run]) -> list[str]:
    notes = []
    protocol = runs[0].setup["plan"]["protocol"]
    if protocol["name"] == "paper":
        notes.append(
            "These figures follow the protocol of the paper's released code, which flatters: "
            + escape("; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in protocol.items() if key != "name"))
        )
    for run in runs:
        for name, method in run.methods.items():
            if method["status"] != "ok":
                notes.append(f"<b>{escape(name)}</b> in {escape(run.folder)} failed: {escape(str(method['error']))}")
    return notes


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    return (
        f"<h2>{escape(picture.title)}</h2>\n<figure id='{escape(picture.name)}'>"
        f"<img alt='{escape(picture.title)}' src='data:image/png;base64,{data}'>"
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _table(run: Run) -> str:
    columns = run.columns("report")
    head = "".join(f"<th title='{escape(column.asked)}'>{escape(column.heading)}</th>" for column in columns)
    rows = "\n".join(_row(name, method, columns) for name, method in run.methods.items())
    legend = "; ".join(f"<b>{escape(column.title)}</b>: {escape(column.asked)}" for column in columns)
    return (
        f"<h2>All figures, clusters of {run.cluster_size}</h2>\n<p>Shares in % with 95 % intervals (Wilson for shares, "
        f"bootstrap over users otherwise). {legend}.</p>"
        f"<table><thead><tr><th>method</th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _row(name: str, method: Mapping[str, Any], columns: Sequence[Column]) -> str:
    cells = "".join(f"<td>{_cell(*column.cell(method))}</td>" for column in columns)
    return f"<tr><td>{escape(name)}</td>{cells}</tr>"


def _cell(value: str, interval: str) -> str:
    return f"{value}<small>{interval}</small>" if interval else value


def _setup(runs: Sequence[Run]) -> str:
    rows = []
    for run in runs:
        for key in ("model", "fingerprint", "data", "n", "seed", "protocol", "commit", "hardware"):
            rows.append((run.folder, key, run.setup.get(key)))
        rows.append((run.folder, "versions", ", ".join(f"{k} {v}" for k, v in run.setup.get("versions", {}).items())))
    cells = "".join("<tr>" + "".join(f"<td>{escape(str(value))}</td>" for value in row) + "</tr>" for row in rows)
    head = "<tr><th>folder</th><th>what</th><th>value</th></tr>"
    return f"<h2>How it was made</h2><table><thead>{head}</thead><tbody>{cells}</tbody></table>"
