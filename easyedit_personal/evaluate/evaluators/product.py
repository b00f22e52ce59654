"""A request for a recommendation: does the preference reach advice?"""

from __future__ import annotations

from ..columns import Column
from ..evaluator import TargetEvaluator


class Product(TargetEvaluator):
    """Share of users whose product question is answered with their value."""

    field = "product"
    long = True
    columns = (
        Column("product", "product question answered with the user's value", places=("table", "report", "accuracy")),
    )
