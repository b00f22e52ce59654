"""Is the personalised model still well: perplexity on neutral text, size of the update, natural stop, repetition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...editing.health import perplexity
from ...generation.score import repetition
from ...kernels.apply import relative_norm
from ..columns import Column
from ..evaluator import Case, Evaluator, Record, as_metric, average
from ..plan import Plan
from ..summary import bootstrap


class Health(Evaluator):
    """Perplexity on neutral text, after over before: 1 is unharmed."""

    columns = (
        Column("perplexity", "perplexity on neutral text, after / before", "lower", unit=""),
        Column("stops", "answers that end by themselves", figure="stopped", places=("report",)),
    )

    def measure(self, case: Case) -> dict[str, Any]:
        """The perplexity ratio; 1 by construction where no weight changes."""
        if not case.method.edits:
            return {"perplexity_ratio": 1.0}
        return {"perplexity_ratio": perplexity(case.session.model, case.tokenizer) / case.base["perplexity"]}

    def after(self, case: Case) -> dict[str, Any]:
        """||update|| / ||weight||, of the untouched weight."""
        return {"relative_norm": relative_norm(case.model, case.session.deltas)} if case.session.deltas else {}

    def metric(self, users: Sequence[Record], plan: Plan) -> dict[str, Any]:
        """Mean ratio; largest ratio, mean norm, share of answers that stopped by themselves, mean repetition."""
        ratios = [user["figures"][self.name]["perplexity_ratio"] for user in users if user["figures"].get(self.name)]
        if not ratios:
            return {}
        answers = [a for user in users for a in user["answers"] if not a.get("skipped")]
        norms = [user["figures"][self.name].get("relative_norm") for user in users if user["figures"].get(self.name)]
        return {
            **as_metric(bootstrap(ratios, plan.seed)),
            "worst": max(ratios),
            "relative_norm": average(norm for norm in norms if norm is not None),
            "stopped": average(float(a["stopped"]) for a in answers),
            "repetition": average(repetition(a["text"]) for a in answers),
        }
