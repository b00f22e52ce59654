"""Indirect ways of asking for a preference, by kind of attribute: what makes an edit general beyond its own words.

They are the shipped phrasings without those that evaluation asks, in plain English that serves any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from random import Random

from ..clustering.lexicon import Lexicon, normalise
from ..data.phrasings import attributes
from ..types import EditRequest
from .base import group_by_cluster

PARTS = ("questions", "implicit", "product")


@cache
def shipped_phrasings() -> dict[str, tuple[tuple[str, ...], ...]]:
    """By group of attributes: paraphrased questions, implicit questions, questions for products."""
    found: dict[str, tuple[tuple[str, ...], ...]] = {}
    for attribute in attributes():
        parts = tuple(attribute.train[part] for part in PARTS)
        earlier = found.get(attribute.group, ((),) * len(PARTS))
        found[attribute.group] = tuple(old + new for old, new in zip(earlier, parts))
    return found


def edited_groups(requests: Sequence[EditRequest], lexicon: Lexicon) -> set[str]:
    """Groups of attributes that the requests are about: by subject, else by a name that stands in the prompt."""
    groups = set()
    for request in requests:
        entry = lexicon.find(request.subject) if request.subject else None
        if entry is not None:
            groups.add(entry.group)
            continue
        text = f" {normalise(request.prompt)} "
        groups |= {e.group for e in lexicon.entries if any(f" {normalise(name)} " in text for name in e.names)}
    return groups


def with_indirect(requests: Sequence[EditRequest], count: int, seed: int = 0) -> list[EditRequest]:
    """The requests, each preference followed by up to ``count`` indirect questions for the same target.

    A preference whose kind is not known, or not the only one that its phrases may mean, stays as it is.

    Args:
        requests: the phrases of all preferences.
        count: indirect questions per preference; a quarter paraphrased, a half implicit, a quarter about products.
        seed: equal seeds give equal questions.
    """
    lexicon = Lexicon.load()
    extended: list[EditRequest] = []
    for members in group_by_cluster(requests):
        own = [requests[i] for i in members]
        groups = edited_groups(own[-1:], lexicon) or edited_groups(own, lexicon)
        if count and len(groups) == 1:
            asked = {normalise(request.prompt) for request in requests}
            texts = [text for text in _draw(groups.pop(), count, seed) if normalise(text) not in asked]
            if own[-1].cluster is None:  # a request that stood alone belongs together with its questions from here on
                own = [replace(own[-1], cluster=f"alone {members[0]}")]
            own += [replace(own[-1], prompt=text, subject=None) for text in texts]
        extended += own
    return extended


def _draw(group: str, count: int, seed: int) -> list[str]:
    rng = Random(f"{seed}/{group}")
    parts = [rng.sample(part, len(part)) for part in shipped_phrasings().get(group, ())]
    if not parts:
        return []
    questions, implicit, product = parts
    turns = zip(questions, implicit[::2], product, implicit[1::2])
    mixed = list(dict.fromkeys(text for turn in turns for text in turn))
    rest = [text for part in (implicit, questions, product) for text in part if text not in mixed]
    return [*mixed, *rest][:count]
