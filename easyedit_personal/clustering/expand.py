"""Giving a cluster its phrases: from the data set, the user's other preferences, the lexicon or a language model.

An edit that sees one question learns that question; one that sees a cluster of names for the same thing learns the
preference (arXiv 2512.13676: implicit questions go from 65 to 96 % on OLMo2 with nine of them).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sklearn.base import clone

from ..errors import ConfigError, DataError, did_you_mean, text_fault
from ..progress import log
from ..types import Preference
from .cluster import PreferenceClusterer
from .lexicon import Lexicon, normalise
from .questions import Phrase, ask, reword
from .service import PhraseService

__all__ = ["Phrase", "expand"]

Cluster = str | tuple[str, str] | Preference | list[Any]


@dataclass(frozen=True)
class _Sources:
    """What the sources may draw on besides the cluster itself."""

    target: str | None
    pool: Sequence[Preference]
    others: Sequence[Preference]
    embedder: Any
    clusterer: PreferenceClusterer | None
    lexicon: Lexicon
    service: PhraseService


def expand(
    cluster: Cluster,
    source: str = "dataset",
    size: int = 9,
    *,
    target: str | None = None,
    pool: Iterable[Preference] = (),
    others: Iterable[Preference] = (),
    embedder: Any = None,
    clusterer: PreferenceClusterer | None = None,
    lexicon: Lexicon | None = None,
    service: PhraseService | None = None,
) -> list[Phrase]:
    """The phrases of a cluster: the given ones first, then further ones until there are ``size``.

    Fewer come back where the source knows no more; a source that knows nothing at all is logged as a warning.

    Args:
        cluster: a name ("hobby"), a (subject, question) pair, a ``Preference``, or a list of names and pairs whose
            first is the original.
        source: "dataset": the preference's own phrases, then those of ``pool`` about the same subject;
            "neighbours": the names of the same user's other preferences that fall into the same group;
            "lexicon": everyday names that ship with the package, no network;
            "llm": a language model behind ``service``.
        size: how many phrases at most, the original included.
        target: the value; None takes the ``Preference``'s. Neighbours with another value are left out, since they
            would teach two answers to one question.
        pool: records of the data set ("dataset").
        others: the user's other preferences ("neighbours").
        embedder: as for ``PreferenceClusterer`` ("neighbours").
        clusterer: decides who is a neighbour; it is not refitted itself. None makes one from ``embedder``.
        lexicon: None means the one that ships with the package.
        service: None reads model, endpoint and key from the environment.

    Raises:
        ConfigError: an unknown source, or a size below 1.
        DataError: the cluster is empty, or an element is neither a name nor a pair.
        ServiceError, MissingDependencyError: see ``PhraseService.phrases``.
    """
    if source not in SOURCES:
        raise ConfigError(
            f"There is no source of phrases {source!r}.{did_you_mean(source, SOURCES)}",
            needed=f"one of {', '.join(SOURCES)}",
        )
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigError("A cluster has at least one phrase.", got=size, needed="a whole number from 1")
    given = _distinct(_phrases_of(cluster))
    value = cluster.target if target is None and isinstance(cluster, Preference) else target
    if len(given) >= size:
        return given[:size]
    found = _Sources(
        value, list(pool), list(others), embedder, clusterer, lexicon or Lexicon.load(), service or PhraseService()
    )
    further = SOURCES[source](given, size, found) if given[0].subject.strip() else []
    phrases = _distinct([*given, *_new_names(given, further)])[:size]
    if len(phrases) == 1:
        log.warning("the source %r knows no further phrases for %r", source, given[0].subject)
    return phrases


def _from_dataset(given: list[Phrase], size: int, found: _Sources) -> list[Phrase]:
    subject = normalise(given[0].subject)
    alike = [record for record in found.pool if normalise(record.subject) == subject]
    return [Phrase(*pair) for record in alike for pair in record.phrases]


def _from_neighbours(given: list[Phrase], size: int, found: _Sources) -> list[Phrase]:
    others = [record for record in found.others if record.subject and _agrees(record.target, found.target)]
    if not others:
        return []
    original = given[0]
    clusterer = clone(found.clusterer) if found.clusterer else PreferenceClusterer(found.embedder)
    labels = clusterer.fit([original.subject, *(record.subject for record in others)]).labels_
    mates = [record for record, label in zip(others, labels[1:]) if label == labels[0]]
    pairs = [(record.subject, record.question) for record in mates] + [p for record in mates for p in record.phrases]
    # Their own questions may say "our" or name another person: the original question under their names is safer.
    return [reword(original.question, original.subject, name, n) for n, (name, _) in enumerate(pairs)]


def _from_lexicon(given: list[Phrase], size: int, found: _Sources) -> list[Phrase]:
    original, lexicon = given[0], found.lexicon
    entry = lexicon.find(original.subject)
    # No guess for a name that it lacks: the nearest entry by embedding was wrong too often to teach (with MiniLM,
    # "wifi password" went to "phone" and "airline" to "plane seat", well within the clustering threshold).
    names = lexicon.names_for(entry) if entry else []
    return [reword(original.question, original.subject, name, number) for number, name in enumerate(names)]


def _from_llm(given: list[Phrase], size: int, found: _Sources) -> list[Phrase]:
    # Two more than needed: answers tend to hold a name that is there already.
    return found.service.phrases(given[0].subject, given[0].question, size - len(given) + 2)


SOURCES: dict[str, Callable[[list[Phrase], int, _Sources], list[Phrase]]] = {
    "dataset": _from_dataset,
    "neighbours": _from_neighbours,
    "lexicon": _from_lexicon,
    "llm": _from_llm,
}


def _agrees(value: str, target: str | None) -> bool:
    return target is None or not value.strip() or normalise(value) == normalise(target)


def _phrases_of(cluster: Cluster) -> list[Phrase]:
    if isinstance(cluster, Preference):
        return [Phrase(cluster.subject, cluster.question), *(Phrase(*pair) for pair in cluster.phrases)]
    items = cluster if isinstance(cluster, list) else [cluster]
    if not items:
        raise DataError("The cluster is empty.", got=cluster, needed="at least one name or (subject, question) pair")
    original = _phrase(items[0], 0, None)
    return [original, *(_phrase(item, number, original) for number, item in enumerate(items[1:], 1))]


def _phrase(item: Any, number: int, original: Phrase | None) -> Phrase:
    """A pair as it is; a bare name with the original's question, or a plain one."""
    if text_fault(item) is None:
        name = item.strip()
        return reword(original.question, original.subject, name, number) if original else ask(name)
    if isinstance(item, tuple) and len(item) == 2 and not any(map(text_fault, item)):
        return Phrase(*item)
    raise DataError(f"Phrase {number} of the cluster is malformed.", got=item, needed="a name or a (subject, question)")


def _new_names(given: list[Phrase], further: Iterable[Phrase]) -> list[Phrase]:
    """Those that bring a new name ("My hobby" and "hobby" are one)."""
    names = {normalise(phrase.subject) for phrase in given}
    kept: list[Phrase] = []
    for phrase in further:
        if normalise(phrase.subject) not in names:
            names.add(normalise(phrase.subject))
            kept.append(phrase)
    return kept


def _distinct(phrases: Iterable[Phrase]) -> list[Phrase]:
    """Without those that repeat an earlier question."""
    return list({phrase.question.strip().casefold(): phrase for phrase in reversed(list(phrases))}.values())[::-1]
