"""From an Ask to a kept answer: build the conversation, see whether it fits, generate, cut, compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from torch import nn

from ..data.conversations import distractor_turns
from ..generation.generate import Answer, decode, encode_prompt, generate
from ..generation.score import teacher_forced
from ..modeling.layout import context_limit
from .evaluator import Ask, Case
from .plan import Plan

Message = dict[str, str]


@dataclass(frozen=True, eq=False)
class Asked:
    """One ask of one case, as the conversation that the model sees."""

    case: Case
    ask: Ask
    conversation: list[Any]

    @classmethod
    def of(cls, case: Case, ask: Ask) -> Asked:
        """Put the session's opening, the unrelated turns, what else was said, and the question together."""
        # Of one conversation a figure would say more than of the users: every user hears others.
        seed = f"{case.plan.seed}/{case.item.id}"
        turns = _between(ask.turns, seed, case.plan.conversations) if ask.turns else []
        for said, heard in ask.said:
            turns = [*turns, {"role": "user", "content": said}, {"role": "assistant", "content": heard}]
        return cls(case, ask, case.session.conversation(ask.question, turns))

    def fits(self, tokenizer: Any, plan: Plan) -> bool:
        """Whether conversation and answer fit the model's context."""
        style, room = plan.rules.prompt_format, longest(self.ask, plan)
        return _fits(self.case.session.model, tokenizer, self.conversation, style, room)


def _fits(model: nn.Module, tokenizer: Any, prompt: Any, style: Any, tokens: int) -> bool:
    limit = context_limit(model)
    return limit is None or len(encode_prompt(tokenizer, prompt, style).ids) + tokens <= limit


def longest(ask: Ask, plan: Plan) -> int:
    """How many tokens an answer may have that runs to its natural stop."""
    return plan.max_new_tokens * (2 if ask.long else 1)


def ask_all(rows: Sequence[Asked], before: Mapping[str, Answer]) -> list[tuple[Asked, dict[str, Any]]]:
    """Answer rows that share one model, and make the records that are kept."""
    case = rows[0].case
    style = case.plan.rules.prompt_format
    wanted = [row for row in rows if row.ask.forced]
    pairs = [(row.conversation, row.ask.target) for row in wanted]
    scores = teacher_forced(case.session.model, case.tokenizer, pairs, prompt_format=style)
    forced = dict(zip(map(id, wanted), scores))
    answers = _generate(rows, style)
    return [(row, _record(row, answer, forced.get(id(row)), before)) for row, answer in zip(rows, answers)]


def skipped(ask: Ask) -> dict[str, Any]:
    """The record of a conversation that does not fit."""
    return {**_kept(ask), "text": "", "stopped": False, "skipped": "does not fit the model's context"}


def plain_answers(model: nn.Module, tokenizer: Any, asks: Sequence[Ask], plan: Plan) -> dict[str, Answer]:
    """What the untouched model answers, without any conversation before it, by question; each is asked once.

    Those that do not fit its context are left out: no method can be asked them.
    """
    limits: dict[str, int] = {}
    for ask in asks:
        limits[ask.question] = max(longest(ask, plan), limits.get(ask.question, 0))
    style = plan.rules.prompt_format
    limits = {text: tokens for text, tokens in limits.items() if _fits(model, tokenizer, text, style, tokens)}
    said = generate(model, tokenizer, list(limits), prompt_format=style, max_new_tokens=list(limits.values()))
    return dict(zip(limits, said))


def _generate(rows: Sequence[Asked], style: Any) -> list[Answer]:
    """One answer per row; what several users of one model ask in the same words is answered once."""
    case = rows[0].case
    texts = [(*((message["role"], message["content"]) for message in row.conversation), _limit(row)) for row in rows]
    chosen = dict(zip(texts, rows))
    answers = generate(
        case.session.model,
        case.tokenizer,
        [row.conversation for row in chosen.values()],
        prompt_format=style,
        max_new_tokens=[_limit(row) for row in chosen.values()],
    )
    known = dict(zip(chosen, answers))
    return [known[text] for text in texts]


def _limit(row: Asked) -> int:
    plan, most = row.case.plan, longest(row.ask, row.case.plan)
    # Answers that are held against earlier ones run as long as those did.
    return most if row.ask.compare else plan.rules.limit(_length(row.case.tokenizer, row.ask.target), most)


def _record(row: Asked, answer: Answer, forced: float | None, before: Mapping[str, Answer]) -> dict[str, Any]:
    record = {**_kept(row.ask), "text": answer.text, "stopped": answer.stopped, "tokens": len(answer.tokens)}
    rules, tokenizer = row.case.plan.rules, row.case.tokenizer
    cut = rules.cut(row.ask.cut)
    if cut is not None and not row.ask.compare:
        length = _length(tokenizer, row.ask.target)
        texts = {str(extra): decode(tokenizer, answer.tokens[: length + extra]) for extra in rules.reported}
        record |= {"cuts": texts, "text": texts[str(cut)]}
        record["stopped"] = answer.stopped and len(answer.tokens) < length + cut
    if row.ask.compare:
        record |= {"before": before[row.ask.question].text, "before_stopped": before[row.ask.question].stopped}
    if forced is not None:
        record["forced"] = forced
    return record


def _kept(ask: Ask) -> dict[str, Any]:
    """The ask's fields that scores are computed from."""
    return {key: value for key, value in asdict(ask).items() if key not in ("compare", "forced", "cut", "long")}


@lru_cache(maxsize=4096)
def _length(tokenizer: Any, target: str) -> int:
    return len(tokenizer(target, add_special_tokens=False)["input_ids"])


@lru_cache(maxsize=64)
def _between(turns: int, seed: str, source: str) -> list[Message]:
    return distractor_turns(turns, seed, source)
