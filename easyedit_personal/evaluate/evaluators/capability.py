"""What the model could do before: a fixed quiz on world facts, the same for every user.

Our own small task, always at hand; lm-evaluation-harness runs the paper's tasks (see ``harness``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...data.records import UPQAItem
from ...editing.health import neutral_pairs
from ...generation.score import contained
from ..columns import Column
from ..evaluator import Ask, Case, Evaluator, Record, average
from ..harness import run_tasks
from ..plan import Plan


class Capability(Evaluator):
    """Share of a quiz of 24 world facts that is answered rightly."""

    columns = (Column("quiz", "world quiz answered rightly"),)

    def asks(self, item: UPQAItem, plan: Plan) -> list[Ask]:
        """The whole quiz."""
        return [Ask(self.name, q, item.target, answer, compare=True) for q, answer in neutral_pairs()]

    def measure(self, case: Case) -> dict[str, Any]:
        """The harness's tasks on the personalised model, for the first users only."""
        first = [item.id for item in case.items[: case.plan.harness_users]]
        if not case.plan.harness or case.item.id not in first:
            return {}
        return {"harness": self._run(case, case.session.model)}

    def after(self, case: Case) -> dict[str, Any]:
        """The same on the untouched model, once per run."""
        if not case.plan.harness:
            return {}
        if "harness" not in case.base:
            case.base["harness"] = self._run(case, case.model)
        return {"harness_before": case.base["harness"]}

    def _run(self, case: Case, model: Any) -> dict[str, float]:
        return run_tasks(model, case.tokenizer, case.plan.harness, limit=case.plan.harness_limit)

    def metric(self, users: Sequence[Record], plan: Plan) -> dict[str, Any]:
        """The quiz, and each task's mean with and without personalisation under "harness"."""
        found = super().metric(users, plan)
        figures = [user["figures"].get(self.name, {}) for user in users]
        runs = [figure for figure in figures if "harness" in figure]
        if runs:
            found["harness"] = {
                task: {
                    "mean": average(run["harness"][task] for run in runs),
                    "before": average(run["harness_before"][task] for run in runs),
                    "n": len(runs),
                }
                for task in runs[0]["harness"]
            }
        return found

    def grade(self, answer: Record, plan: Plan) -> float | None:
        """1 if the right answer stands in what was said."""
        return None if answer.get("skipped") else float(contained(answer["text"], answer["answer"]))

    def details(self, answers: Sequence[Record], plan: Plan) -> dict[str, Any]:
        """The same without personalisation."""
        return {"before": average(float(contained(a["before"], a["answer"])) for a in answers if a.get("before"))}
