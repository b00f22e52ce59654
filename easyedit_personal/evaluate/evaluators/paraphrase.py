"""The same question in other words: was a fact learned, or a string?"""

from __future__ import annotations

from ..columns import Column
from ..evaluator import TargetEvaluator


class Paraphrase(TargetEvaluator):
    """Share of users whose paraphrased question is answered with their value."""

    field = "paraphrase"
    columns = (
        Column(
            "paraphrase",
            "paraphrased question answered with the user's value",
            places=("table", "report", "accuracy", "reach"),
        ),
    )
