"""Which memories were active in an answer, by ablation: how much less likely is it without each of them?

Every edit is taken out in turn, and every sentence that is kept in words; the model reads the answer once each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from ..generation.generate import Prompt, encode_prompt
from ..generation.score import log_likelihoods
from ..kernels.beside import edited
from ..modeling.layout import context_limit
from ..types import WeightDelta
from .personalized import PersonalizedModel
from .remembered import with_words

ACTIVE = 1.0  # nats of the whole answer: without the memory it would be less than half as likely


@dataclass(frozen=True, slots=True)
class Share:
    """What one memory did for an answer.

    Attributes:
        edit: its number where it lives in the weights; None for words.
        sentence: what is kept in words; empty for weights.
        nats: log-probability of the whole answer with all memories, minus that without this one.
    """

    edit: int | None
    sentence: str
    nats: float

    @property
    def active(self) -> bool:
        """Whether the answer would have been less than half as likely without it."""
        return self.nats >= ACTIVE


def shares(
    served: PersonalizedModel,
    parts: Mapping[int, Sequence[WeightDelta]],
    sentences: Sequence[str],
    conversation: Prompt,
    answer: str,
) -> list[Share]:
    """What each memory did for an answer, the most active first.

    Args:
        served: the base model; nobody else may use it meanwhile.
        parts: a user's factors by edit, see ``EditStore.parts``.
        sentences: what is kept in words.
        conversation: what was asked.
        answer: what was said.
    """
    context = context_limit(served.model)

    def likelihood(without: int | None, told: Sequence[str]) -> float:
        prompt = with_words(served.tokenizer, conversation, told, served.prompt_format, context)
        row = encode_prompt(served.tokenizer, prompt, served.prompt_format, answer)
        deltas = list(chain.from_iterable(some for edit, some in parts.items() if edit != without))
        with edited(served.model, deltas):
            (found,) = log_likelihoods(served.model, served.tokenizer, [row])
        return float(found[-len(row.target_ids) :].sum())

    whole = likelihood(None, sentences)
    found = [Share(edit, "", whole - likelihood(edit, sentences)) for edit in parts]
    for one in dict.fromkeys(sentences):
        rest = [other for other in sentences if other != one]
        found.append(Share(None, one, whole - likelihood(None, rest)))
    return sorted(found, key=lambda share: -share.nats)
