"""Everyday words and the kind of thing they are ("jazz": music), so that "I love X" can be filed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from ..files import parse_yaml

_DETERMINERS = re.compile(
    r"^(?:(?:an? )?(?:cold |hot |nice |good )?(?:glass|cup|pint|slice|bowl|bit|lot|bottle|piece|mug)s? of|an?"
    r"|the|my|some|any|all|good|nice|really|proper|real|two|three|four|five|six|\d+|both)\s+",
    re.IGNORECASE,
)
MODIFIERS = 3  # words in front of a head


@dataclass(frozen=True)
class Vocabulary:
    """Words by kind.

    Attributes:
        kinds: by word in the singular, its kinds, the first the most usual.
        heads: kinds whose words may have describing words in front.
    """

    kinds: dict[str, tuple[str, ...]]
    heads: frozenset[str]

    def kind_of(self, phrase: str, among: Iterable[str] = ()) -> str | None:
        """The kind of thing that a phrase names, or None; ``among`` restricts and orders the kinds, none means all."""
        wanted = tuple(among)
        for form in _forms(phrase):
            if kind := _first(self.kinds.get(form, ()), wanted):
                return kind
        words = bare(phrase).split()
        for start in range(1, min(MODIFIERS, len(words) - 1) + 1):
            if _FUNCTION_WORDS.search(" ".join(words[:start])):
                return None
            for form in _forms(" ".join(words[start:])):
                kinds = tuple(kind for kind in self.kinds.get(form, ()) if kind in self.heads)
                if kind := _first(kinds, wanted):
                    return kind
        return None

    def words(self, kind: str) -> list[str]:
        """The words of a kind."""
        return [word for word, kinds in self.kinds.items() if kind in kinds]


_FUNCTION_WORDS = re.compile(
    r"\b(?:and|or|of|in|on|at|for|with|to|from|by|that|which|who|is|are|am|was|i|my|not|than|but|the|it|so|as"
    r"|especially|like|such|including|particularly|no)\b|,",
    re.IGNORECASE,
)


def _first(kinds: tuple[str, ...], wanted: tuple[str, ...]) -> str | None:
    if not wanted:
        return kinds[0] if kinds else None
    return next((kind for kind in wanted if kind in kinds), None)


def bare(phrase: str) -> str:
    """Lower case, without articles and numbers in front."""
    text = " ".join(phrase.casefold().split()).strip(" .,!\"'")
    while shorter := _DETERMINERS.sub("", text, count=1):
        if shorter == text:
            break
        text = shorter
    return text


def _forms(phrase: str) -> list[str]:
    """The phrase, then its singular."""
    text = bare(phrase)
    return list(dict.fromkeys((" ".join(phrase.casefold().split()), text, *singulars(text))))


def singulars(text: str) -> list[str]:
    """What a plural may be the plural of."""
    found = []
    if text.endswith("ies") and len(text) > 4:
        found.append(text[:-3] + "y")
    if text.endswith(("shes", "ches", "xes", "sses", "oes")):
        found.append(text[:-2])
    if text.endswith("s") and not text.endswith(("ss", "us", "is")):
        found.append(text[:-1])
    return found


@cache
def vocabulary() -> Vocabulary:
    """The bundled words."""
    file = resources.files("easyedit_personal").joinpath("data", "bundled", "statements_words.yaml")
    content: Any = parse_yaml(file.read_text(encoding="utf-8"))
    kinds: dict[str, tuple[str, ...]] = {}
    for kind, words in content["words"].items():
        for word in words:
            for form in dict.fromkeys((word.casefold(), *singulars(word.casefold()))):
                kinds[form] = (*kinds.get(form, ()), kind)
    return Vocabulary(kinds, frozenset(content["heads"]))


def respelled(text: str) -> str:
    """The text with each slip of four letters or more as the known word that it nearly is.

    Names (a capital) and ordinary words stay. A slip is one letter or two that changed places, never the first.
    """
    known, ordinary = _known_words(), _ordinary_words()

    def mended(match: re.Match[str]) -> str:
        word = match[0]
        if word in ordinary or any(form in ordinary for form in singulars(word)):
            return word
        letters = sorted(word)
        near = [other for other in known if len(other) == len(word) and sorted(other) == letters]
        if not near and len(word) > 5:  # short words have too many neighbours, and "falcon" is no slip of "falconry"
            close = difflib.get_close_matches(word, known, n=3, cutoff=0.85)
            near = [other for other in close if abs(len(other) - len(word)) < 2]
        return next((other for other in near if other[0] == word[0]), word)

    return re.sub(r"\b(?<!')[a-z]{4,}\b", mended, text)


@cache
def _known_words() -> tuple[str, ...]:
    """What a slip may be mended to: words of the vocabulary, and those that rules are made of."""
    words = {word for phrase in vocabulary().kinds for word in re.findall(r"[a-z]{4,}", phrase)}
    words |= {word + "s" for word in words if not word.endswith(("s", "y"))}
    return tuple(sorted(words | set(re.findall(r"[a-z]{4,}", _bundled("statements.yaml")))))


@cache
def _ordinary_words() -> frozenset[str]:
    """Words that are no slips: all of the bundled texts, which are spelled with care."""
    files = (
        *("statements.yaml", "statements_words.yaml", "attributes.yaml", "preserve.yaml", "facts.yaml"),
        *("phrasings_a.yaml", "phrasings_b.yaml", "phrasings_c.yaml", "upqa_material.yaml", "distractors.json"),
    )
    return frozenset(word for name in files for word in re.findall(r"[a-z]{4,}", _bundled(name)))


def _bundled(name: str) -> str:
    return resources.files("easyedit_personal").joinpath("data", "bundled", name).read_text(encoding="utf-8").casefold()
