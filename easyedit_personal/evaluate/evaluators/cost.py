"""What a user costs: seconds to personalise, bytes to keep, memory at the peak."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..columns import Column
from ..evaluator import Evaluator, Record, as_metric, average
from ..plan import Plan
from ..summary import bootstrap


class Cost(Evaluator):
    """Seconds per user, from the first line of the kernel to a model that can be asked; and kilobytes (of 1,000 bytes).

    "kB" is a user's own, that grows with the number of users: factors in two bytes per number where bfloat16 holds them
    exactly, else four. "shared kB" is what their edits need besides and a store keeps once for everybody who has the
    same kind of preference: the gates of natural answers.
    """

    columns = (
        Column("s", "seconds to personalise", "lower", unit="s"),
        Column("kB", "what has to be kept for a user alone", "lower", unit="kB", figure="bytes"),
        Column("shared kB", "kept once for all users", "lower", unit="kB", figure="shared_bytes", places=("report",)),
    )

    def metric(self, users: Sequence[Record], plan: Plan) -> dict[str, Any]:
        """Mean seconds, with bytes and peak memory beside them; earlier results know nothing of shared bytes."""
        if not users:
            return {}
        return {
            **as_metric(bootstrap([user["seconds"] for user in users], plan.seed)),
            "bytes": average(user["bytes"] for user in users),
            "shared_bytes": average(user["shared_bytes"] for user in users if "shared_bytes" in user),
            "peak_mib": max(user["peak_mib"] for user in users),
        }
