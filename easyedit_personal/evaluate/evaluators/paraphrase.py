"""The same question in other words: was a fact learned, or a string?"""

from __future__ import annotations

from ...registry import EVALUATORS
from ..evaluator import TargetEvaluator


@EVALUATORS.register("paraphrase")
class Paraphrase(TargetEvaluator):
    """Share of users whose paraphrased question is answered with their value."""

    name = "paraphrase"
    field = "paraphrase"
    asked = "paraphrased question answered with the user's value"
