"""Somebody else's facts: "my daughter Mia is allergic to peanuts" is read as if Mia said it herself."""

from __future__ import annotations

import re
from typing import NamedTuple

RELATIONS = (
    "wife|husband|partner|girlfriend|boyfriend|fiancée?|spouse|ex|ex-wife|ex-husband|mother|mum|mom|mam|dad|father"
    "|parents|folks|son|daughter|kid|kids|child|children|baby|toddler|twins|brother|sister|siblings?|brothers|sisters"
    "|twin(?: (?:brother|sister))?|grandma|grandmother|granny|gran|nan|grandpa|grandfather|grandad|grandparents|uncle"
    "|aunt|auntie|cousin|cousins|niece|nephew|stepson|stepdaughter|stepdad|stepmum|stepmom|stepfather|stepmother"
    "|mother-in-law|father-in-law|brother-in-law|sister-in-law|in-laws|grandson|granddaughter|grandchildren"
    "|best friend|friend|friends|mate|best mate|buddy|boss|manager|colleague|co-worker|coworker|assistant|flatmate"
    "|roommate|housemate|neighbou?rs?|landlord|landlady|teacher|tutor|coach|godson|goddaughter|godmother|godfather"
    "|dog|cat|puppy|kitten|horse|parrot|hamster|rabbit|bf|gf|hubby|bestie|family"
)
_ADJECTIVES = (
    r"(?:(?:older|younger|little|big|elder|eldest|youngest|oldest|late|teenage|baby|twin|old|dear|good|new|ex|adult"
    r"|grown-up|lovely|middle|other|half)\s+){0,2}"
)
_PERSON = re.compile(
    rf"my (?P<relation>{_ADJECTIVES}(?:{RELATIONS}))"
    r"(?P<name>,? (?:(?:named|called) )?(?-i:[A-Z])[\w-]+,?)?"
    r"(?P<own>'s|')? (?P<rest>.+)",
    re.IGNORECASE,
)
_RELATED = re.compile(rf"{_ADJECTIVES}(?:{RELATIONS})\b", re.IGNORECASE)
_IRREGULAR = {"is": "am", "has": "have", "does": "do", "goes": "go", "was": "was", "isn't": "am not", "are": "am"}
_ADVERB = re.compile(
    r"(?:(?:also|really|always|usually|never|only|just|still|now|mostly|often|absolutely|just|sometimes)\s+)+", re.I
)


_FURTHER = re.compile(
    r"((?:,|\band|\bbut) )(is|has|likes|loves|hates|lives|works|plays|drives|speaks|studies|prefers|enjoys|collects"
    r"|eats|drinks|does not|wears|comes|goes|adores|dislikes|teaches|owns)\b"
)


class Person(NamedTuple):
    """Somebody else, and what is said about them in the first person."""

    whose: str
    relation: str
    clause: str


def somebody(clause: str) -> Person | None:
    """Who a clause is about, where that is somebody of the user's; "my" and "I" in it are theirs."""
    match = _PERSON.fullmatch(clause)
    if match is None or _about_oneself(match["rest"], match["own"]):
        return None
    relation = " ".join(match["relation"].split())
    name = re.sub(r"^,? (?:named |called )?|,$", "", match["name"] or "")
    rest = match["rest"]
    if match["own"] and _RELATED.match(rest):  # "my neighbour's daughter is a pilot"
        return None
    if match["own"] and not re.match(r"(?:a|an|the|not|\w+ing|from|called|named|allergic|\d+)\b", rest):
        own = f"my {rest}"
    else:
        own = _first_person(f"is {rest}" if match["own"] else rest)
    return Person(name or relation, relation, own)


def _about_oneself(rest: str, own: str | None) -> bool:
    """ "My wife and I ..." is about the user."""
    return own is None and bool(re.match(r"(?:and i|and me|and|or)\b", rest, re.IGNORECASE))


def _first_person(rest: str) -> str:
    adverbs = _ADVERB.match(rest)
    before, rest = (adverbs[0], rest[adverbs.end() :]) if adverbs else ("", rest)
    verb, _, after = rest.partition(" ")
    after = re.sub(r"\b(?:his|her|their)\b(?= \w)", "my", after)
    after = _FURTHER.sub(lambda match: match[1] + _plain(match[2]), after)
    if verb in ("is", "are") and (named := re.fullmatch(r"(?:called|named) (.+)", after)):
        return f"my name is {named[1]}"
    return f"I {before}{_plain(verb)} {after}".strip()


def _plain(verb: str) -> str:
    """The verb as "I" has it."""
    low = verb.casefold()
    if low in _IRREGULAR:
        return _IRREGULAR[low]
    if low.endswith("ies") and len(low) > 4:
        return verb[:-3] + "y"
    if low.endswith(("shes", "ches", "sses", "xes", "oes")):
        return verb[:-2]
    return verb[:-1] if low.endswith("s") and not low.endswith("ss") else verb
