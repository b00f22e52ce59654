"""A request for a recommendation: does the preference reach advice?"""

from __future__ import annotations

from ..evaluator import TargetEvaluator


class Product(TargetEvaluator):
    """Share of users whose product question is answered with their value."""

    name = "product"
    field = "product"
    asked = "product question answered with the user's value"
