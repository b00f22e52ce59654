"""``easyedit-personal report``: a self-contained page and pictures from result folders."""

from __future__ import annotations

from pathlib import Path

import typer


def report(
    folders: list[Path] = typer.Argument(help="Result folders of `evaluate`."),
    out: Path = typer.Option(Path("report"), "--out", help="Where the page and the pictures go."),
) -> None:
    """Make one HTML page and PNG pictures from result folders."""
    from ..evaluate.report import write_report

    page = write_report(folders, out)
    print(f"The report is {page}.")
