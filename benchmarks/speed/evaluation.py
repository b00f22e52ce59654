"""The evaluation of 20 users (``--users``) beside EasyEdit's loop: ROME for one phrase each, and the same questions.

EasyEdit's loop edits with its ``execute_rome`` and asks every question of every user one by one, before the edit and
after it, with its own ``generate_texts``, which writes without a key-value cache and puts a system message first. Ours
is ``evaluate`` with ``rome`` in ``host_mode``: the same prompts, steps and update; it keeps and grades all answers.
Theirs is given every fourth question, and the time of asking is counted four times.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from easyedit_personal.data.upqa import UPQADataset
from easyedit_personal.evaluate.evaluator import find_evaluators
from easyedit_personal.evaluate.plan import Plan
from easyedit_personal.evaluate.run import evaluate
from easyedit_personal.integrations.easyedit import load_host
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.registry import KERNELS

from .edits import apart, deltas_of_host, of_deltas, of_host, settings
from .host import host_kernel, need_host
from .options import Options
from .pairs import Outcome, Side, compare
from .shapes import model_of

USERS = 20
EVERY = 4  # of the questions that theirs is asked
ASKED = ("direct", "paraphrase", "implicit", "product", "negation", "other_user", "unrelated", "locality")


def evaluate_20(options: Options) -> dict[str, Any]:
    """Seconds per user. ``difference`` is the largest relative one of the users' updates, ours against theirs."""
    need_host()
    model, tokenizer = model_of(options.model, hparams=options.hparams)
    items = UPQADataset.bundled("test").items[: options.users or USERS]
    plan = Plan(evaluators=ASKED, cluster_size=1)
    hparams = settings(tokenizer, "rome", options)
    wanted = [request for item in items for request in item.requests(1)]
    some = items[:: len(items) // options.sample] if options.sample else items
    with host_kernel("rome", model, tokenizer, wanted, hparams) as execute:
        loop = Loop(model, tokenizer, plan, execute)
        ours = Side(lambda: evaluate(model, tokenizer, items, ["rome"], plan=plan, hparams=hparams), len(items))
        facts = {"users_run": len(some), "questions": loop.count(some), "questions_run": f"1 of {EVERY}"}
        theirs = Side(lambda: loop.run(some), len(some), facts=facts, stretch=loop.stretch)
        outcome = compare(ours, theirs, options.pairs, model)
        differences = [
            apart(of_deltas(KERNELS.get("rome")(model, tokenizer, item.requests(1), hparams)), of_host(factors))
            for item, factors in zip(some, outcome.theirs_result)
        ]
    mine = outcome.ours_result["methods"]["rome"]["metrics"]
    figures = {name: mine[name]["mean"] for name in ASKED if name in mine}
    parts = _parts(outcome, loop, lambda: _edits(model, tokenizer, some, hparams), len(some))
    return {
        "case": options.case,
        "ratio": outcome.ratio,
        "ours": {**outcome.ours, **parts["ours"], "figures": figures},
        "theirs": {**outcome.theirs, **parts["theirs"]},
        "difference": max(differences),
        "model": options.model,
        "steps": options.steps,
        "users": len(items),
        "seconds_are": "per user; theirs' operations are those of what was run",
    }


def _edits(model: Any, tokenizer: Any, items: Sequence[Any], hparams: Any) -> None:
    for item in items:
        KERNELS.get("rome")(model, tokenizer, item.requests(1), hparams)


def _parts(outcome: Outcome, loop: Loop, edits: Any, users: int) -> dict[str, dict[str, float]]:
    """CPU seconds per user of editing alone; the rest is asking."""
    started = time.process_time()
    edits()
    mine = (time.process_time() - started) / users
    return {
        "ours": {"editing": round(mine, 4), "asking": round(outcome.ours["cpu_seconds"] - mine, 4)},
        "theirs": {
            "editing": round(loop.editing / users, 4),
            "asking": round(outcome.theirs["cpu_seconds"] - loop.editing / users, 4),
        },
    }


class Loop:
    """EasyEdit's evaluation, user by user and question by question."""

    def __init__(self, model: Any, tokenizer: Any, plan: Plan, execute: Any) -> None:
        self.model, self.tokenizer, self.plan, self.execute = model, tokenizer, plan, execute
        self.generate = load_host().module("evaluate.evaluate_utils").generate_texts
        self.evaluators = find_evaluators(plan)
        self.editing = 0.0  # CPU seconds of the last run's edits
        self.asking = (0.0, 0.0)  # wall and CPU seconds of its questions

    def questions(self, item: Any) -> list[str]:
        """What ours asks for this user, too."""
        return [ask.question for evaluator in self.evaluators for ask in evaluator.asks(item, self.plan)]

    def count(self, items: Sequence[Any]) -> float:
        """Questions per user, of which each is asked twice."""
        return sum(len(self.questions(item)) for item in items) / len(items)

    def run(self, items: Sequence[Any]) -> list[Any]:
        """Every user's update, as the host gives it; the answers are let go."""
        updates, self.editing, self.asking = [], 0.0, (0.0, 0.0)
        for item in items:
            questions = self.questions(item)[::EVERY]
            self.ask(questions)
            started = time.process_time()
            factors = self.execute(item.requests(1))
            self.editing += time.process_time() - started
            with in_weights(self.model, deltas_of_host(factors)):
                self.ask(questions)
            updates.append(factors)
        return updates

    def ask(self, questions: Sequence[str]) -> None:
        """The host's own generation."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.generate(self.model, self.tokenizer, None, list(questions), "cpu")
        spent = time.perf_counter() - wall, time.process_time() - cpu
        self.asking = (self.asking[0] + spent[0], self.asking[1] + spent[1])

    def stretch(self, wall: float, cpu: float) -> tuple[float, float]:
        """Seconds of the last run had all questions been asked."""
        return wall + (EVERY - 1) * self.asking[0], cpu + (EVERY - 1) * self.asking[1]
