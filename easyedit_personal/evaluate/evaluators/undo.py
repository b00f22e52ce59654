"""Are the weights bit for bit what they were, once the user's session is closed?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...modeling.layout import weights_digest
from ..columns import Column
from ..evaluator import Case, Evaluator, Record, as_metric
from ..plan import Plan
from ..summary import mean_interval


class Undo(Evaluator):
    """Share of users after whom every byte of every weight is as before."""

    columns = (Column("undo", "weights bit-equal after undo"),)

    def after(self, case: Case) -> dict[str, Any]:
        """SHA-256 over all bytes of all weights, against the untouched model's."""
        if not case.method.edits:
            return {"equal": True}
        return {"equal": weights_digest(case.model) == case.base["digest"]}

    def metric(self, users: Sequence[Record], plan: Plan) -> dict[str, Any]:
        """The share, which should be 1."""
        equal = [float(user["figures"][self.name]["equal"]) for user in users if user["figures"].get(self.name)]
        return as_metric(mean_interval(equal, plan.seed)) if equal else {}
