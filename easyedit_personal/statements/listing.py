"""A clause that may list things: "I live in Lisbon and work as a nurse", "hiking and jazz", "nurse, 31, two kids".

Each member is read with what it shares with those before; one that makes no sense is asked back, not lost.
"""

from __future__ import annotations

import re
from dataclasses import replace

from .clauses import completions, members, starts_with_verb
from .people import Person, somebody
from .reading import bare_clause, is_name, read_single, unclear, without_tail
from .records import Statement
from .rules import rules
from .vocabulary import vocabulary

# Kinds of which several may be listed in one breath; of others "and" belongs to the value ("Law and Order").
LISTED = frozenset(
    "hobby,pet,allergy,dietary preference,language,music preference,favorite food,favorite drink,favorite sport"
    ",instrument,favorite animal,favorite color,favorite film genre,book genre,family,profession,favorite fruit"
    ",favorite dessert,favorite snack,favorite board game,favorite video game,collection,biggest fear,health condition"
    ",favorite season,favorite flower,favorite series,programming language,habit,skill,favorite weather"
    ",phone,car,medication,nationality,units".split(",")
)


def read_clause(clause: str) -> list[Statement]:
    """What a clause says; several entries where it lists things, one with status "ask" where it is not understood."""
    for rewrite in rules().rewrites:
        if means := rewrite.apply(clause):
            return [found for one in means for found in read_clause(one)]
    if (person := somebody(bare_clause(clause))) and (theirs := _read_theirs(person, clause)):
        return theirs
    whole = read_single(clause)
    parts = members(without_tail(bare_clause(clause)))
    if len(parts) < 2 or (_is_one_thing(whole, parts[1]) and not _lost(parts, whole)):
        return [whole]
    listed = _read_members(parts, clause)
    if not listed or (whole.status == "learn" and any(one.status == "ask" for one in listed)):
        return _read_telegram(parts, clause) or [whole, *_lost(parts, whole)]
    return listed


def _lost(parts: list[str], whole: Statement) -> list[Statement]:
    """Members that the value of the whole does not hold ("Windows at work and Linux at home"): asked back."""
    if whole.status != "learn":
        return []
    value = set((whole.value or "").casefold().split())
    lost = [part for part in parts[1:] if not value & set(part.casefold().split())]
    question = 'And "{}"? Say it in one short sentence.'
    return [unclear(part, "part of it is not understood", question.format(part)) for part in lost]


def _read_theirs(person: Person, text: str) -> list[Statement]:
    """What is said about somebody else, or nothing where it is not understood."""
    found = []
    read = read_clause(person.clause)
    if not any(one.status == "learn" for one in read):
        return []
    for one in read:
        if one.status != "learn":
            question = f"What about your {person.relation}? Say it in one short sentence."
            found.append(unclear(text, "part of it is not understood", question))
        elif one.subject == "name":
            name = person.relation if is_name(person.relation) else f"{person.relation}'s name"
            found.append(replace(one, text=text, subject=name))
        else:
            found.append(replace(one, text=text, whose=person.whose, relation=person.relation))
    return found


def _is_one_thing(whole: Statement, second: str) -> bool:
    """Whether "and" is part of one known name ("rock and roll"), or of a value of a kind that is not listed."""
    if whole.status != "learn" or whole.value is None:
        return False
    known = vocabulary().kind_of(whole.value) is not None
    return known or not (
        whole.subject in LISTED or _starts_anew(second) or re.match(r"i am\b", bare_clause(whole.text), re.IGNORECASE)
    )


def _read_members(parts: list[str], clause: str) -> list[Statement]:
    """Each member with what it shares with those before; nothing if one of them makes no sense alone."""
    before = re.sub(r"\bboth (?=an? |the )", "", parts[0], flags=re.IGNORECASE)
    first = read_single(before)
    if first.status != "learn":
        return []
    found, last = [first], before
    for part in parts[1:]:
        meant = [(read_single(full), full) for full in completions(part, last)]
        meant = [(one, full) for one, full in meant if _is_meant(one, part)]
        if meant:
            # More of the same first: kiwis are another allergy, not a nationality.
            same = found[-1].subject if found[-1].subject in LISTED and not _starts_anew(part) else None
            statement, last = next((pair for pair in meant if pair[0].subject == same), meant[0])
            found.append(replace(statement, text=clause))
        else:
            if first.subject not in LISTED or len(part.split()) > 4:
                return []
            found.append(unclear(f"I like {part}", "its kind is not clear"))
            continue
        if any(one.subject == found[-1].subject for one in found[:-1]) and not (
            found[-1].subject in LISTED or _starts_anew(part)
        ):
            return []
    return found


def _read_telegram(parts: list[str], clause: str) -> list[Statement]:
    """ "Nurse, 31, two kids": nothing but what somebody is and has."""
    if any(len(part.split()) > 3 for part in parts) or not any(re.fullmatch(r"\d{1,3}", part) for part in parts):
        return []
    found = []
    for part in parts:
        read = (read_single(f"{verb} {part}") for verb in ("I am", "I have", "I live in"))
        statement = next((one for one in read if one.status == "learn"), None)
        if statement is None:
            return []
        found.append(replace(statement, text=clause))
    return found


def _is_meant(statement: Statement, part: str) -> bool:
    """Whether a completion makes sense: "Austin, Texas" names nobody, and the member itself is the value."""
    if statement.status != "learn" or (statement.subject == "name" and not _starts_anew(part)):
        return False
    return _starts_anew(part) or (statement.value or "").casefold() in part.casefold()


def _starts_anew(part: str) -> bool:
    return bool(re.match(r"(?:i|my|no)\b", part, re.IGNORECASE)) or starts_with_verb(part)
