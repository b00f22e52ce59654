"""What the tests' small model can do before any edit: ``python -m tests.tiny_model.evaluate [--model FOLDER]``.

Values, question phrasings and conversations are drawn from what training never saw; every share comes with n and a
Wilson interval.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from easyedit_personal.evaluate.summary import wilson
from easyedit_personal.generation.generate import Answer, generate
from easyedit_personal.generation.score import contained

from .corpus import KINDS
from .dialogues import ACKS, PEOPLE, RELATIONS, Known, Speaker, Turn
from .lexicon import Attribute, load_lexicon

AIMS = {"facts": 0.95, "direct": 0.95, "paraphrase": 0.90, "implicit": 0.80, "unknown": 0.95, "stops": 0.99}


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation that ends with a question, and what a right answer holds (or must not hold)."""

    turns: tuple[Turn, ...]
    right: Callable[[str], bool]


class Exam:
    """Draws questions of every ability, seeded.

    Args:
        seed: equal seeds draw equal exams.
    """

    def __init__(self, seed: int = 2026) -> None:
        self.rng = Random(seed)
        self.speaker = Speaker(load_lexicon(), self.rng, held=True)
        attributes = self.speaker.lexicon.attributes
        self.trained = {value.casefold() for attribute in attributes for value in attribute.train["values"]}

    def learn(self, attribute: Attribute) -> Known:
        """A preference whose value is an ordinary value of no attribute in training, held out here or not."""
        while True:
            known = self.speaker.learn(attribute)
            if known.value.casefold() not in self.trained:
                return known

    def facts(self) -> Question:
        """A fact of the small world in a phrasing that was held out."""
        fact = self.rng.choice(self.speaker.lexicon.facts)
        return Question((("user", self.rng.choice(fact.held)),), lambda text: contained(text, fact.answer))

    def recall(self, kind: str, between: int = 0) -> Question:
        """A stated preference, ``between`` unrelated exchanges, then a question of ``kind`` about it."""
        (attribute,) = self.speaker.far_from([], 1)
        known = self.learn(attribute)
        turns: list[Turn] = [("user", self.speaker.state(known)), ("assistant", self.rng.choice(ACKS))]
        for _ in range(between):
            turns += self.speaker.distractor()
        turns.append(("user", self.speaker.question(attribute, kind)[0]))
        return Question(tuple(turns), lambda text: contained(text, known.value))

    def unknown(self) -> Question:
        """A question of any kind about something that was never stated."""
        (attribute,) = self.speaker.far_from([], 1)
        return Question((("user", self.speaker.question(attribute, self.rng.choice(KINDS))[0]),), says_it_does_not_know)

    def somebody_else(self) -> Question:
        """The user's preference is stated, somebody else's is asked: the user's is no answer."""
        (attribute,) = self.speaker.far_from([], 1)
        known = self.learn(attribute)
        person = (self.rng.choice(RELATIONS), self.rng.choice(PEOPLE))
        asked = self.speaker.ask_theirs(attribute, person, None)[0]
        turns = (("user", self.speaker.state(known)), ("assistant", self.rng.choice(ACKS)), asked)
        return Question(turns, lambda text: not contained(text, known.value))

    def negated(self) -> Question:
        """The preference is stated, its opposite is asked: the value is no answer."""
        (attribute,) = self.speaker.far_from([], 1)
        known = self.learn(attribute)
        asked = self.speaker.ask_negated(attribute)[0]
        turns = (("user", self.speaker.state(known)), ("assistant", self.rng.choice(ACKS)), asked)
        return Question(turns, lambda text: not contained(text, known.value))


def says_it_does_not_know(text: str) -> bool:
    """Whether an answer admits ignorance in one of the ways the model was taught, or any other usual one."""
    lowered = text.casefold().replace("\u2019", "'")
    return any(phrase in lowered for phrase in ("don't know", "do not know", "not told me", "not sure", "no idea"))


def abilities(exam: Exam) -> dict[str, Callable[[], Question]]:
    """Every row of the table and how its questions are drawn."""
    rows: dict[str, Callable[[], Question]] = {"facts": exam.facts}
    for between in (0, 10):
        suffix = f", {between} turns between" if between else ""
        for kind in KINDS:
            rows[kind + suffix] = partial(exam.recall, kind, between)
    return {**rows, "unknown": exam.unknown, "negated": exam.negated, "somebody else": exam.somebody_else}


def evaluate(model: Any, tokenizer: Any, n: int = 200, seed: int = 2026) -> dict[str, dict[str, Any]]:
    """Shares of right answers by ability, and of answers that stopped by themselves.

    Returns:
        ``{row: {"mean", "n", "ci95": [low, high], "aim"}}``.
    """
    exam, figures = Exam(seed), {}
    stopped: list[bool] = []
    for name, draw in abilities(exam).items():
        questions = [draw() for _ in range(n)]
        answers = _ask(model, tokenizer, questions)
        stopped += [answer.stopped for answer in answers]
        figures[name] = _share([q.right(a.text) for q, a in zip(questions, answers)], AIMS.get(name))
    figures["stops"] = _share(stopped, AIMS["stops"])
    return figures


def _ask(model: Any, tokenizer: Any, questions: list[Question]) -> list[Answer]:
    conversations = [[{"role": role, "content": text} for role, text in question.turns] for question in questions]
    return generate(model, tokenizer, conversations)


def _share(right: list[bool], aim: float | None) -> dict[str, Any]:
    share = wilson(sum(right), len(right))
    return {"mean": share.mean, "n": share.n, "ci95": [share.low, share.high], "aim": aim}


def main() -> None:
    """Command line: prints the table, writes JSON where asked."""
    from rich.console import Console
    from rich.table import Table

    from . import FOLDER, load

    parser = argparse.ArgumentParser(description="Measure what the tests' small model can do before any edit.")
    parser.add_argument("--n", type=int, default=200, help="questions per row")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--model", type=Path, default=FOLDER, help="folder that tests.tiny_model.train has written")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    figures = evaluate(*load(options.model), n=options.n, seed=options.seed)
    table = Table(title="the tests' small model, before any edit; held-out values, phrasings and conversations")
    for column in ("ability", "share", "95 % interval", "n", "aim"):
        table.add_column(column)
    for name, row in figures.items():
        low, high = row["ci95"]
        aim = f"{row['aim']:.0%}" if row["aim"] else "-"
        table.add_row(name, f"{row['mean']:.1%}", f"{low:.1%} to {high:.1%}", str(row["n"]), aim)
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
