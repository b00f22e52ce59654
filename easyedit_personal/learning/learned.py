"""The record of what came of a statement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..editing.self_test import SelfTest
from ..store.records import Where
from ..types import Preference


@dataclass(frozen=True, slots=True)
class Learned:
    """What came of a statement.

    Attributes:
        edit: its id in the store.
        preference: what was learned.
        before, after: the user's model's answer to the preference's question; empty for what is kept in words.
        seconds: of the edit alone; for words, all that it took.
        nbytes: of the user's own factors.
        health: figures of the health panel.
        overruled: earlier preferences that no longer hold. What edits carry an undo brings back; an edit that gave way
            to words it does not.
        where: "weights", or "words": in the user's prompt.
        why: it is there.
        test: what the edited model said; None where it was not asked.
    """

    edit: int
    preference: Preference
    before: str = ""
    after: str = ""
    seconds: float = 0.0
    nbytes: int = 0
    health: Mapping[str, float] = field(default_factory=dict)
    overruled: tuple[Preference, ...] = ()
    where: Where = "weights"
    why: str = ""
    test: SelfTest | None = None
