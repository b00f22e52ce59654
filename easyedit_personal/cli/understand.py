"""``easyedit-personal understand``: what would be learned from a text, without a model and without torch."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from .screen import plain

if TYPE_CHECKING:
    from ..statements.records import Statement

# Of a record, what ``--json`` prints.
FIELDS = ("status", "subject", "value", "polarity", "whose", "relation", "reason", "question", "text")


def understand(
    texts: list[str] = typer.Argument(..., metavar="TEXT...", help="What somebody says, in plain words."),
    as_json: bool = typer.Option(False, "--json", help="A JSON list, one entry per statement."),
) -> None:
    """Show what would be learned from a text; nothing is edited."""
    from ..statements import understand as read

    found = [statement for text in texts for statement in read(text)]
    if as_json:
        records = [{name: asdict(statement)[name] for name in FIELDS} for statement in found]
        print(json.dumps(records, ensure_ascii=False, indent=1))
        return
    for statement in found:
        print(plain(_line(statement)))


def _line(statement: Statement) -> str:
    """A record for people."""
    if statement.status == "nothing":
        return f'nothing  "{statement.text}": {statement.reason}'
    if statement.status == "ask":
        return f'ask      "{statement.text}": {statement.question}'
    whose = "" if statement.whose == "user" else f"{statement.whose}'s "
    return f"learn  {statement.polarity} {whose}{statement.subject}: {statement.value}"
