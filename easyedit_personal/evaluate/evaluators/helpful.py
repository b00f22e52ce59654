"""Is the answer of use: does it not only name the preference, but go on with something that fits it?

"Vegetarian" as the answer to "What should I cook tonight?" counts as a hit elsewhere and helps nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...baselines.prompting import opening
from ...generation.generate import encode_prompt
from ...generation.score import contained, log_likelihoods, loops, repetition, taken_up, words
from ...modeling.layout import context_limit
from ...modeling.tokens import Encoded
from ..columns import Column
from ..evaluator import Case, Evaluator, Record, per_user
from ..plan import Plan
from ..summary import mean_interval

ASKED_BY = ("implicit", "product")
MORE_WORDS = 8  # in a row, before or after the value
MOST_REPETITION = 0.3  # of 124 answers of SmolLM2, those above turned in circles when read
LEAST_LIKELIHOOD = -0.7  # nats per token; on two tune users answers had -0.4 to 0, to another question -1.6 to -0.9


class Helpful(Evaluator):
    """Share of implicit and product answers with the value that go on: eight words more, no loop, and likely words.

    Likely to the untouched model that was told the preference in words: on average, a token's log-probability may
    lack 0.7 nats to that of the token which this model itself would have said there.
    """

    columns = (
        Column("helpful", "answers with the value that go on and make sense"),
        Column(
            "helpful of all",
            "helpful implicit and product answers, of all",
            figure="of_all",
            places=("table", "report", "use"),
        ),
    )

    def after(self, case: Case) -> dict[str, Any]:
        """The implicit and product answers once more, with what the untouched model makes of them.

        The paper's protocol cuts answers, so that there is nothing to go on with: nothing is said of it.
        """
        asked = [a for a in case.answers if a["evaluator"] in ASKED_BY and not a.get("skipped")]
        if not asked or case.plan.rules.reported:
            return {}
        rows = [self._row(case, answer) for answer in asked]
        held = [row for row in rows if row]
        known = iter(log_likelihoods(case.model, case.tokenizer, held, against_best=True) if held else ())
        return {"answers": [self._record(case, a, row, next(known) if row else None) for a, row in zip(asked, rows)]}

    def _row(self, case: Case, answer: Record) -> Encoded | None:
        """The answer behind the preference in words; None where it is not in the answer, or no room for both."""
        if not self._holds(case, answer):
            return None
        told = [*opening([case.item]), {"role": "user", "content": answer["question"]}]
        row = encode_prompt(case.tokenizer, told, case.plan.rules.prompt_format, answer["text"])
        limit = context_limit(case.model)
        return row if limit is None or len(row.ids) <= limit else None

    def _record(self, case: Case, answer: Record, row: Encoded | None, likelihood: Any) -> dict[str, Any]:
        kept = {key: answer[key] for key in ("question", "target", "text", "stopped", "turns", "answer")}
        found = None if row is None else float(likelihood[-len(row.target_ids) :].mean())
        kept |= {"holds": self._holds(case, answer), "likelihood": found}
        return {"evaluator": self.name, "kind": answer["evaluator"], **kept}

    def _holds(self, case: Case, answer: Record) -> bool:
        text, target = answer["text"], answer["target"]
        taken = case.item.sentence and taken_up(text, target, answer["question"])
        return taken or case.plan.rules.hit(text, target)

    def grade(self, answer: Record, plan: Plan) -> float | None:
        """1 if the answer with the value is helpful; None without the value."""
        if not answer["holds"]:
            return None
        text, target = answer["text"], answer["target"]
        likely = answer["likelihood"] is not None and answer["likelihood"] >= LEAST_LIKELIHOOD
        # A preference that is a sentence was found in words of the answer's own.
        beside = words_beside(text, target) if contained(text, target) else len(words(text))
        in_a_loop = loops(text) or repetition(text) > MOST_REPETITION
        return float(likely and beside >= MORE_WORDS and not in_a_loop)

    def metric(self, users: Sequence[Record], plan: Plan) -> dict[str, Any]:
        """As of every evaluator; a method that never gives the value has no share of its own, but 0 "of_all"."""
        found = super().metric(users, plan)
        if found or not (values := self.further(users, plan)["of_all"]):
            return found
        of_all = mean_interval(list(values.values()), plan.seed)
        interval = {"further_ci95": {"of_all": [of_all.low, of_all.high]}}
        return {"mean": None, "n": 0, "ci95": [None, None], "of_all": of_all.mean, **interval}

    def further(self, users: Sequence[Record], plan: Plan) -> dict[str, dict[str, float]]:
        """Of all answers, with the value or without."""
        return {"of_all": per_user(users, self.answers, lambda answer: self.grade(answer, plan) or 0.0)}


def words_beside(text: str, value: str) -> int:
    """Number of words before the value's first mention, or after it, whichever is more; 0 where it does not stand."""
    said, wanted = words(text), words(value)
    places = (i for i in range(len(said) - len(wanted) + 1) if said[i : i + len(wanted)] == wanted)
    first = next(places, None)
    return 0 if first is None else max(first, len(said) - first - len(wanted))
