"""A question that the preference answers without being named ("What should I do this weekend?")."""

from __future__ import annotations

from ..columns import Column
from ..evaluator import TargetEvaluator


class Implicit(TargetEvaluator):
    """Share of users whose implicit question is answered with their value."""

    field = "implicit"
    long = True
    columns = (
        Column(
            "implicit",
            "implicit question answered with the user's value",
            places=("table", "report", "accuracy", "reach", "clusters"),
        ),
    )
