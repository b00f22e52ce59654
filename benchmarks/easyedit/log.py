"""A log of JSON lines that may be stopped at any time: what stands in it is not done again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def rows_of(log: Path) -> list[dict[str, Any]]:
    """What is in the log; a torn last line is cut off."""
    if not log.is_file():
        return []
    raw = log.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if len(whole) < len(raw):
        log.write_bytes(whole)
    return [json.loads(line) for line in whole.splitlines()]


def append(log: Path, row: Mapping[str, Any]) -> None:
    """Add a row, and print it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row)
    with log.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)
