"""Where a cluster's further phrases come from: the data set, the user's other preferences, a lexicon, a language model.

One of your own: ``PHRASE_SOURCES.register("mine")`` over a function of the same arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sklearn.base import clone

from ..types import Preference
from .cluster import PreferenceClusterer
from .lexicon import Lexicon, normalise
from .questions import Phrase, reword
from .service import PhraseService


@dataclass(frozen=True)
class SourceContext:
    """What a source may draw on besides the phrases that are there already.

    Attributes:
        target: the preference's value, None where it is not known.
        pool: records of a data set.
        others: the user's other preferences.
        embedder: gives one for names, as ``PreferenceClusterer`` takes it; choosing it may take a while.
        clusterer: says which names belong together; not to be refitted itself.
        lexicon: everyday names of kinds of attributes.
        service: a language model.
        settings: an instance of the class that the source was registered with, if any.
    """

    target: str | None
    pool: Sequence[Preference]
    others: Sequence[Preference]
    embedder: Callable[[], Any]
    clusterer: PreferenceClusterer | None
    lexicon: Lexicon
    service: PhraseService
    settings: Any = None


class PhraseSource(Protocol):
    """Finds further phrases for a cluster.

    Args:
        given: the phrases that are there, the original first; its subject is not blank.
        size: how many phrases the cluster is to have in all.
        context: what may be drawn on.

    Returns:
        Further phrases, best first; those that bring no new name are dropped, and so are those beyond ``size``.
    """

    def __call__(self, given: list[Phrase], size: int, context: SourceContext) -> Iterable[Phrase]: ...


def from_dataset(given: list[Phrase], size: int, context: SourceContext) -> list[Phrase]:
    """The phrases of the pool's records about the same subject."""
    subject = normalise(given[0].subject)
    alike = [record for record in context.pool if normalise(record.subject) == subject]
    return [Phrase(*pair) for record in alike for pair in record.phrases]


def from_neighbours(given: list[Phrase], size: int, context: SourceContext) -> list[Phrase]:
    """The names of the user's other preferences that fall into the same group and have the same value."""
    others = [record for record in context.others if record.subject and _agrees(record.target, context.target)]
    if not others:
        return []
    original = given[0]
    clusterer = clone(context.clusterer) if context.clusterer else PreferenceClusterer(context.embedder())
    labels = clusterer.fit([original.subject, *(record.subject for record in others)]).labels_
    mates = [record for record, label in zip(others, labels[1:]) if label == labels[0]]
    pairs = [(record.subject, record.question) for record in mates] + [p for record in mates for p in record.phrases]
    # Their own questions may say "our" or name another person: the original question under their names is safer.
    return [reword(original.question, original.subject, name, n) for n, (name, _) in enumerate(pairs)]


def from_lexicon(given: list[Phrase], size: int, context: SourceContext) -> list[Phrase]:
    """Everyday names that ship with the package."""
    original, lexicon = given[0], context.lexicon
    entry = lexicon.find(original.subject)
    # No guess for a name that it lacks: the nearest entry by embedding was wrong too often to teach (with MiniLM,
    # "wifi password" went to "phone" and "airline" to "plane seat", well within the clustering threshold).
    names = lexicon.names_for(entry) if entry else []
    return [reword(original.question, original.subject, name, number) for number, name in enumerate(names)]


def from_llm(given: list[Phrase], size: int, context: SourceContext) -> list[Phrase]:
    """What a language model writes."""
    # Two more than needed: answers tend to hold a name that is there already.
    return context.service.phrases(given[0].subject, given[0].question, size - len(given) + 2)


def _agrees(value: str, target: str | None) -> bool:
    return target is None or not value.strip() or normalise(value) == normalise(target)
