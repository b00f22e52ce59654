"""A user's memory as one list: which entries live in the weights and which in words, and which of them hold.

The table of kinds that are kept in words, with reasons, is ``memory.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from ..files import parse_yaml
from ..types import Preference
from .listing import LISTED
from .preferences import Unclear, read, same_matter
from .reading import MAX_VALUE, is_name
from .rules import rules

SAY = "My {n}: {v}."


@dataclass(frozen=True, slots=True)
class Kept:
    """One sort of entry that is kept in words.

    Attributes:
        kinds: subjects by name.
        match: for the whole subject; None fits nothing.
        other_people: whether it is about somebody else's facts.
        adds_up: kinds of which several entries hold side by side; True for all.
        why: said to people.
        say: how an entry without its author's words is put to the model.
    """

    kinds: frozenset[str]
    match: re.Pattern[str] | None
    other_people: bool
    adds_up: bool | frozenset[str]
    why: str
    say: str

    def fits(self, subject: str) -> bool:
        """Whether a subject is of this sort."""
        by_name = subject in self.kinds or bool(self.match and self.match.fullmatch(subject))
        return by_name or (self.other_people and is_somebodys(subject))


def why_in_words(subject: str) -> str | None:
    """Why a kind is kept in words; None where it goes into the weights."""
    found = None if subject in _table()["carried"] else _kept(subject)
    return found.why if found else None


def is_somebodys(subject: str) -> bool:
    """Whether a subject names a fact of somebody else's ("daughter Mia's allergy")."""
    return "'s " in subject and not is_name(subject)


def sentence(preference: Preference) -> str:
    """An entry as the model reads it: in its author's words where there are any, on one line."""
    if text := " ".join(preference.text.split()):
        return text if text[-1] in ".!?" else f"{text}."
    kept = _kept(preference.subject)
    return (kept.say if kept else SAY).replace("{n}", preference.subject).replace("{v}", preference.target)


def overrules(later: Preference, earlier: Preference) -> bool:
    """Whether an earlier entry no longer holds once the later one was told."""
    same_value = later.target.strip().casefold() == earlier.target.strip().casefold()
    if _are_opposites(later.subject, earlier.subject):
        return same_value
    return same_matter(later.subject, earlier.subject) and (same_value or not _adds_up(later.subject))


def current(preferences: Sequence[Preference]) -> list[Preference]:
    """Without those that a later one has overruled."""
    return [
        preference
        for number, preference in enumerate(preferences)
        if not any(overrules(later, preference) for later in preferences[number + 1 :])
    ]


def is_listed(subject: str) -> bool:
    """Whether one may have several of a kind at once."""
    return subject in LISTED or subject in _table()["added"]


def is_added(subject: str) -> bool:
    """Whether a later value is added to the earlier ones where nobody can be asked."""
    return subject in _table()["added"]


def together(earlier: Preference, later: Preference) -> Preference:
    """Both values as one entry ("peanuts and eggs"); the later one's words, after the earlier one's.

    One of them alone where its value holds the other's, and the later one where both would be too long for a value.
    """
    old, new = (f" {one.target.casefold()} " for one in (earlier, later))
    if old in new or new in old:
        return later if old in new else earlier
    target = f"{earlier.target} and {later.target}"
    texts = dict.fromkeys(text for one in (earlier, later) if (text := one.text.strip()))
    return later if len(target) > MAX_VALUE else replace(later, target=target, text=" ".join(texts))


def heard(text: str, user: str | None = None) -> list[Preference | Unclear]:
    """What a text says, by the bundled rules; see ``gathered``."""
    return gathered(read(text, user))


def gathered(found: Iterable[Preference | Unclear]) -> list[Preference | Unclear]:
    """What was told in one breath, with several values of a kind as one entry.

    Of a kind that has one value only, two different ones are asked back.
    """
    kept: list[Preference | Unclear] = []
    for one in found:
        place = next((n for n, other in enumerate(kept) if _contradict(other, one)), None)
        if place is None or not isinstance(one, Preference):
            kept.append(one)
            continue
        earlier = kept[place]
        assert isinstance(earlier, Preference)
        kept[place] = together(earlier, one) if is_listed(one.subject) else _either(earlier, one)
    return kept


def _contradict(earlier: Preference | Unclear, later: Preference | Unclear) -> bool:
    if isinstance(earlier, Unclear) or isinstance(later, Unclear):
        return False
    return earlier.target != later.target and overrules(later, earlier)


def _either(earlier: Preference, later: Preference) -> Unclear:
    question = f'Your {later.subject}: "{earlier.target}" or "{later.target}"? Say it in one short sentence.'
    text = earlier.text if earlier.text == later.text else f"{earlier.text} {later.text}"
    return Unclear(text.strip(), question)


def _are_opposites(one: str, other: str) -> bool:
    """ "favorite food" and "disliked food"."""
    pairs = ((kind, row["subject"]) for kind, row in rules().opposites.items())
    if any({one, other} == {*pair} for pair in pairs):
        return True
    return one == f"not my {other}" or other == f"not my {one}"


def _adds_up(subject: str) -> bool:
    kept = _kept(subject)
    if kept is None:
        return False
    if kept.other_people and subject.rpartition("'s ")[2] in LISTED:
        return True
    return kept.adds_up if isinstance(kept.adds_up, bool) else subject in kept.adds_up


def _kept(subject: str) -> Kept | None:
    return next((kept for kept in _table()["words"] if kept.fits(subject)), None)


@cache
def _table() -> dict[str, Any]:
    file = resources.files("easyedit_personal").joinpath("data", "bundled", "memory.yaml")
    content: Any = parse_yaml(file.read_text(encoding="utf-8"))
    return {**content, "words": tuple(map(_read_kept, content["words"]))}


def _read_kept(row: dict[str, Any]) -> Kept:
    adds_up = row.get("adds_up", False)
    return Kept(
        frozenset(row.get("kinds", ())),
        re.compile(row["match"]) if "match" in row else None,
        row.get("other_people", False),
        adds_up if isinstance(adds_up, bool) else frozenset(adds_up),
        row["why"],
        row.get("say", SAY),
    )
