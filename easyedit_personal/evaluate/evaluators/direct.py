"""The edited question itself: does the model give the value when asked in the words it was taught?"""

from __future__ import annotations

from ..columns import Column
from ..evaluator import TargetEvaluator


class Direct(TargetEvaluator):
    """Share of users whose direct question is answered with their value."""

    field = "question"
    cut = 0
    columns = (
        Column("direct", "direct question answered with the user's value", places=("table", "report", "accuracy")),
    )
