"""The whole evaluation of 20 users beside EasyEdit's loop: the same questions, before and after a fine-tuning edit.

EasyEdit's loop asks every question of every user one by one, before the edit and after it, with its own
``generate_texts``, which writes without a key-value cache. Ours is ``evaluate`` with the kernel of the same objective.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from easyedit_personal.data.upqa import UPQADataset
from easyedit_personal.evaluate.panel import find_evaluators
from easyedit_personal.evaluate.plan import Plan
from easyedit_personal.evaluate.run import evaluate
from easyedit_personal.evaluate.score import contained
from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.integrations.easyedit import host_method, load_host

from .host import need_host
from .learning import FT_M
from .options import Options
from .pairs import Side, compare
from .shapes import model_of

USERS = 20
ASKED = ("direct", "paraphrase", "implicit", "product", "negation", "other_user", "unrelated", "locality")


def evaluate_20(options: Options) -> dict[str, Any]:
    """Seconds per user. ``difference`` is the share of direct questions answered with the value, ours minus theirs."""
    need_host()
    model, tokenizer = model_of("reference")
    items = UPQADataset.bundled("test").items[:USERS]
    plan, hparams = Plan(evaluators=ASKED), PersonalizationHyperParams.from_hparams("reference")
    some = items[:: len(items) // options.sample] if options.sample else items
    ours = Side(lambda: evaluate(model, tokenizer, items, ["finetune"], plan=plan, hparams=hparams), len(items))
    loop = Loop(model, tokenizer, plan, hparams)
    theirs = Side(lambda: loop.run(some), len(some), facts={"users_run": len(some), "questions": loop.count(some)})
    outcome = compare(ours, theirs, options.pairs, model)
    mine = outcome.ours_result["methods"]["finetune"]["metrics"]
    return {
        "case": options.case,
        "ratio": outcome.ratio,
        "ours": {**outcome.ours, "figures": {name: mine[name]["mean"] for name in ASKED if name in mine}},
        "theirs": {**outcome.theirs, "direct": outcome.theirs_result},
        "difference": mine["direct"]["mean"] - outcome.theirs_result,
        "model": "reference",
        "seconds_are": "per user",
    }


class Loop:
    """EasyEdit's evaluation, user by user and question by question."""

    def __init__(self, model: Any, tokenizer: Any, plan: Plan, hparams: PersonalizationHyperParams) -> None:
        self.model, self.tokenizer, self.plan, self.hparams = model, tokenizer, plan, hparams
        self.editor = host_method("FT", FT_M)
        self.generate = load_host().module("evaluate.evaluate_utils").generate_texts
        self.evaluators = find_evaluators(plan.evaluators)

    def questions(self, item: Any) -> list[str]:
        """What ours asks for this user, too."""
        return [ask.question for evaluator in self.evaluators for ask in evaluator.asks(item, self.plan)]

    def count(self, items: Sequence[Any]) -> float:
        """Questions per user, of which each is asked twice."""
        return sum(len(self.questions(item)) for item in items) / len(items)

    def run(self, items: Sequence[Any]) -> float:
        """Share of the users whose direct question, the first, is answered with the value after the edit."""
        hits = 0
        for item in items:
            questions = self.questions(item)
            self.ask(self.model, questions)
            with self.editor(self.model, self.tokenizer, item.requests(1), self.hparams) as changed:
                hits += contained(self.ask(changed, questions)[0], item.target)
        return hits / len(items)

    def ask(self, model: Any, questions: Sequence[str]) -> list[str]:
        """The host's own generation."""
        return self.generate(model, self.tokenizer, self.hparams, list(questions), "cpu")
