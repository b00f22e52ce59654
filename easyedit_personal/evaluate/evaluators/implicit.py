"""A question that the preference answers without being named ("What should I do this weekend?")."""

from __future__ import annotations

from ..evaluator import TargetEvaluator


class Implicit(TargetEvaluator):
    """Share of users whose implicit question is answered with their value."""

    name = "implicit"
    field = "implicit"
    asked = "implicit question answered with the user's value"
