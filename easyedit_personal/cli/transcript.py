"""Conversations that go on after a restart, in a file that the user has asked for: JSON lines, one per exchange.

The file is nobody's but its owner's, and not encrypted; ``/new`` and ``/forget`` remove a user's lines from it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..serving.conversation import Exchange


class Transcript:
    """The exchanges of all users who have talked into one file.

    Raises:
        DataError: it cannot be read, or holds something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._rows: list[dict[str, str]] = []
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"The conversation in {self.path} cannot be read: {error}") from None
        for number, line in enumerate(lines, start=1):
            self._rows.append(self._row(line, number))

    def of(self, user: str) -> list[Exchange]:
        """A user's exchanges, the oldest first."""
        return [Exchange(row["said"], row["answer"]) for row in self._rows if row["user"] == user]

    def keep(self, user: str, exchanges: list[Exchange]) -> None:
        """A user's conversation as it is now, in the place of what was there; written whole or not at all."""
        others = [row for row in self._rows if row["user"] != user]
        mine = [{"user": user, "said": one.said, "answer": one.answer} for one in exchanges]
        if others + mine == self._rows:
            return
        self._rows = others + mine
        part = self.path.with_name(self.path.name + ".part")
        try:
            descriptor = os.open(part, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in self._rows)
            part.replace(self.path)
        except (OSError, UnicodeEncodeError) as error:
            raise DataError(f"The conversation cannot be kept in {self.path}: {error}") from None

    def _row(self, line: str, number: int) -> dict[str, str]:
        try:
            row: Any = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("user", "said", "answer")):
            raise DataError(
                f"Line {number} of {self.path} is no exchange.",
                got=line,
                needed='{"user": ..., "said": ..., "answer": ...}',
                remedy="name another file for --history",
            )
        return {key: row[key] for key in ("user", "said", "answer")}
