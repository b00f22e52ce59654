"""Giving a cluster its phrases: from the data set, the user's other preferences, the lexicon or a language model.

An edit that sees one question learns that question; one that sees a cluster of names for the same thing learns the
preference (arXiv 2512.13676: implicit questions go from 65 to 96 % on OLMo2 with nine of them).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import ConfigError, DataError, text_fault
from ..progress import log
from ..registry import PHRASE_SOURCES
from ..types import Preference
from ..validation import section_of
from .cluster import PreferenceClusterer
from .lexicon import Lexicon, normalise
from .questions import Phrase, ask, reword
from .service import PhraseService
from .sources import SourceContext

__all__ = ["Phrase", "expand"]

Cluster = str | tuple[str, str] | Preference | list[Any]


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
    settings: Any = None,
) -> list[Phrase]:
    """The phrases of a cluster: the given ones first, then further ones until there are ``size``.

    Fewer come back where the source knows no more; a source that knows nothing at all is logged as a warning.

    Args:
        cluster: a name ("hobby"), a (subject, question) pair, a ``Preference``, or a list of names and pairs whose
            first is the original.
        source: a name in ``PHRASE_SOURCES``; what each of ours knows is said in ``sources``.
        size: how many phrases at most, the original included.
        target: the value; None takes the ``Preference``'s. Neighbours with another value are left out: they would
            teach two answers to one question.
        pool: records of the data set ("dataset").
        others: the user's other preferences ("neighbours").
        embedder: as for ``PreferenceClusterer`` ("neighbours"), or a function that gives one when it is needed.
        clusterer: decides who is a neighbour; it is not refitted itself. None makes one from ``embedder``.
        lexicon: None means the one that ships with the package.
        service: None reads model, endpoint and key from the environment.
        settings: of a source that was registered with some; None takes their defaults.

    Raises:
        RegistryError: an unknown source.
        ConfigError: a size below 1.
        DataError: the cluster is empty, or an element is neither a name nor a pair.
        ServiceError, MissingDependencyError: see ``PhraseService.phrases``.
    """
    find = PHRASE_SOURCES.get(source)
    _check_size(size)
    given = _distinct(_phrases_of(cluster))
    value = cluster.target if target is None and isinstance(cluster, Preference) else target
    if len(given) >= size:
        return given[:size]
    context = SourceContext(
        value,
        list(pool),
        list(others),
        embedder if callable(embedder) else lambda: embedder,
        clusterer,
        lexicon or Lexicon.load(),
        service or PhraseService(),
        section_of(PHRASE_SOURCES, source, {}) if settings is None else settings,
    )
    further = find(given, size, context) if given[0].subject.strip() else []
    phrases = _distinct([*given, *_new_names(given, further)])[:size]
    if len(phrases) == 1:
        log.warning("the source %r knows no further phrases for %r", source, given[0].subject)
    return phrases


def _check_size(size: int) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ConfigError("A cluster has at least one phrase.", got=size, needed="a whole number from 1")


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
