"""Is the personalised model still well: perplexity on neutral text, size of the update, natural stop, repetition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...editing.health import perplexity
from ...generation.score import repetition
from ...kernels.apply import relative_norm
from ...kernels.neurons import without_thresholds
from ..columns import Column
from ..evaluator import Case, Evaluator, Record, as_metric, average
from ..plan import Plan
from ..summary import bootstrap


class Health(Evaluator):
    """Perplexity on neutral text, after over before: 1 is unharmed."""

    columns = (
        Column("perplexity", "perplexity on neutral text, after / before", "lower", unit=""),
        Column("stops", "answers that end, of those that end without the edit", figure="stops", places=("report",)),
        Column("refused", "edits that the editor's health check refused", "lower", figure="refused"),
    )

    def measure(self, case: Case) -> dict[str, Any]:
        """The perplexity ratio, 1 by construction where no weight changes; what the editor's health check refused."""
        refused = {"refused": list(case.session.refused)} if case.session.refused else {}
        if not case.method.edits:
            return {"perplexity_ratio": 1.0}
        return {"perplexity_ratio": perplexity(case.session.model, case.tokenizer) / case.base["perplexity"], **refused}

    def after(self, case: Case) -> dict[str, Any]:
        """||update|| / ||weight||, of the untouched weight; of neurons without their thresholds."""
        deltas = case.session.deltas
        return {"relative_norm": relative_norm(case.model, without_thresholds(deltas))} if deltas else {}

    def metric(self, users: Sequence[Record], plan: Plan) -> dict[str, Any]:
        """Mean and largest ratio, mean norm, users without the edit because it was refused, natural stops, repetition.

        "stops" is the share of those answers that the untouched model ends by itself.
        """
        ratios = [user["figures"][self.name]["perplexity_ratio"] for user in users if user["figures"].get(self.name)]
        if not ratios:
            return {}
        answers = [a for user in users for a in user["answers"] if not a.get("skipped")]
        norms = [user["figures"][self.name].get("relative_norm") for user in users if user["figures"].get(self.name)]
        return {
            **as_metric(bootstrap(ratios, plan.seed)),
            "worst": max(ratios),
            "relative_norm": average(norm for norm in norms if norm is not None),
            "refused": average(float("refused" in user["figures"].get(self.name, {})) for user in users),
            "stopped": average(float(a["stopped"]) for a in answers),
            "stops": average(float(a["stopped"]) for a in answers if a.get("before_stopped")),
            "repetition": average(repetition(a["text"]) for a in answers),
        }
