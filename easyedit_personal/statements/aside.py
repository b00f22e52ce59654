"""What says nothing that could be learned: questions, requests, other people's words, moods, irony and doubt.

Whole sentences are looked at, by the patterns of ``statements_aside.yaml``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from ..files import parse_yaml

PAST = "it says what was, not what is"  # the section "past", whose "but now ..." may say more


@dataclass(frozen=True, slots=True)
class Aside:
    """One sort of sentence that is set aside.

    Attributes:
        name: "question", "request", ...
        status: "nothing", or "ask" where its author may have meant something.
        why: said to people.
        question: with "ask", what to ask.
        rest: whether it holds for what follows in the same text.
        patterns: any of them, anywhere in the sentence.
    """

    name: str
    status: Literal["ask", "nothing"]
    why: str
    question: str | None
    rest: bool
    patterns: tuple[re.Pattern[str], ...]

    def holds(self, sentence: str) -> bool:
        """Whether the sentence is of this sort."""
        return any(pattern.search(sentence) for pattern in self.patterns)


def first_aside(sentence: str, names: tuple[str, ...]) -> Aside | None:
    """The first of these sorts that the sentence is of."""
    return next((one for one in asides() if one.name in names and one.holds(sentence)), None)


@cache
def asides() -> tuple[Aside, ...]:
    """The bundled sorts, in their order."""
    file = resources.files("easyedit_personal").joinpath("data", "bundled", "statements_aside.yaml")
    rows: Any = parse_yaml(file.read_text(encoding="utf-8"))
    return tuple(
        Aside(
            row["name"],
            row["status"],
            row["why"],
            row.get("ask"),
            row.get("rest", False),
            tuple(re.compile(pattern, re.IGNORECASE) for pattern in row["search"]),
        )
        for row in rows
    )
