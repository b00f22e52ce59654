"""What a user costs: seconds to personalise, bytes to keep, memory at the peak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..columns import Column
from ..evaluator import Evaluator, Record, as_metric, average
from ..plan import Plan
from ..summary import bootstrap


class Cost(Evaluator):
    """Seconds per user, from the first line of the kernel to a model that can be asked."""

    columns = (
        Column("s", "seconds to personalise", "lower", unit="s"),
        Column("kB", "what has to be kept for a user", "lower", unit="kB", figure="bytes"),
    )

    def metric(self, users: Sequence[Record], plan: Plan) -> dict[str, Any]:
        """Mean seconds, and bytes and peak memory beside it."""
        if not users:
            return {}
        return {
            **as_metric(bootstrap([user["seconds"] for user in users], plan.seed)),
            "bytes": average(user["bytes"] for user in users),
            "peak_mib": max(user["peak_mib"] for user in users),
        }
