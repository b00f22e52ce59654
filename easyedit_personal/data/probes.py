"""Questions that an edit must leave alone, for data that has none: negated, about somebody else, unrelated, facts.

UPQA asks only what should change. Whoever edits "my hobby" also wants to know that "what's not my hobby", the
neighbor's hobby and the capital of Norway stay as they were. Rules, not a language model: the same input gives the
same probes.
"""

from __future__ import annotations

import re
from random import Random

from .material import read_material, world_facts

LOCALITY_PROBES = 3
UNRELATED_QUESTIONS = 3

_AUXILIARY = "do|does|did|is|are|was|were|can|could|would|should|will|has|have|had"
_IRREGULAR = {"can": "can't", "will": "won't"}
_CONTRACTIBLE = re.compile(rf"\b({_AUXILIARY})\b(?!n't)", re.IGNORECASE)
_POLAR = re.compile(rf"(?:{_AUXILIARY}|am|tell|name|say|state|remind)\b", re.IGNORECASE)
# The verb only where the person is its subject: "do I" changes, "do my parents" does not. "Tell me" stays.
_ME = r"(?<!tell )(?<!remind )(?<!show )(?<!give )me"
_FIRST = re.compile(rf"\b(?:(?:(do|am|have)\s+)?(I'm|I)|({_ME}|myself|my|mine))\b", re.IGNORECASE)
_SECOND = re.compile(r"\b(?:(?:(do|are|have)\s+)?(you're|you)|(your|yours))\b", re.IGNORECASE)
_THIRD_PERSON = {"do": "does", "am": "is", "are": "is", "have": "has"}
_NAMED = {"my": "{}'s", "mine": "{}'s", "your": "{}'s", "yours": "{}'s", "i'm": "{} is", "you're": "{} is"}
_LATER = {"my": "their", "mine": "theirs", "your": "their", "yours": "theirs", "i": "they", "i'm": "they're"}
_LATER |= {"you": "they", "you're": "they're", "me": "them", "myself": "themselves"}


def negate(question: str) -> str:
    """The question whose right answer is anything but the target: "What's my hobby?" to "What's not my hobby?".

    The auxiliary takes the "not" ("Where doesn't my family live?"); requests and yes-no questions take it at the
    possessive ("Can you name something that is not my hobby?"); what has neither is asked for a wrong answer.
    """
    question = question.strip()
    if _POLAR.match(question):
        plain = re.sub(r"\bmy\b", "something that is not my", question, count=1)
        embedded = re.search(r"\b(what|which|who|where|how|when)\b", question)  # "Do you know what my job is?"
        return _fallback(question) if embedded or plain == question else plain
    contracted = re.match(r"(?P<what>\w+)['\u2019]s (?P<rest>.+)", question)
    if contracted:
        return _negate_contracted(contracted["what"], contracted["rest"])
    am = re.search(r"\bam I\b", question)
    if am:
        return f"{question[: am.end()]} not{question[am.end() :]}"
    found = _CONTRACTIBLE.search(question)
    if not found:
        return _fallback(question)
    verb = found[0]
    return question[: found.start()] + _IRREGULAR.get(verb.lower(), f"{verb}n't") + question[found.end() :]


def _negate_contracted(what: str, rest: str) -> str:
    """ "What's my hobby?": before a possessive the "not" stands free, elsewhere it joins the verb."""
    if re.match(r"(my|your|our)\b", rest) and not re.search(r"\blike\W*$", rest):
        return f"{what}'s not {rest}"
    return f"{what} isn't {rest}"


def _fallback(question: str) -> str:
    return f"Give me an answer that would be wrong: {question}"


def about(question: str, who: str) -> str:
    """The same question about somebody else: "What's my hobby?" to "What's my neighbor Vera's hobby?".

    Args:
        question: asks about "my ..." or "I", or addresses "you" and "your ...", as the official synonyms do.
        who: e.g. "my neighbor Vera".

    Returns:
        The question with its first mention of the person replaced by ``who`` and later ones by pronouns; a question
        that mentions nobody is put into that person's mouth.
    """
    pattern = _FIRST if _FIRST.search(question) else _SECOND  # "you" beside "I" is the assistant
    named = False

    def replace(match: re.Match[str]) -> str:
        nonlocal named
        verb, person = match[1], (match[2] or match[3]).lower()
        if person not in _LATER:  # a Turkish dotted I is an "i" to the pattern
            return match[0]
        if named:
            return f"{'are' if verb and verb.lower() == 'am' else verb} {_LATER[person]}" if verb else _LATER[person]
        named = True
        name = _NAMED.get(person, "{}").replace("{}", who)
        if not verb:
            return name
        third = _THIRD_PERSON[verb.lower()]
        return f"{third.capitalize() if verb[0].isupper() else third} {name}"

    asked = pattern.sub(replace, question)
    return asked if named else f"{who[0].upper()}{who[1:]} wonders: {question}"


def somebody(rng: Random) -> str:
    """A person who is not the user, such as "my dentist Imani"."""
    material = read_material()
    return f"{rng.choice(material['relations'])} {rng.choice(material['people'])}"


def unrelated_questions(rng: Random) -> tuple[str, ...]:
    """Neutral questions without one right answer."""
    return tuple(rng.sample(read_material()["unrelated"], UNRELATED_QUESTIONS))


def world_probes(rng: Random, value: str) -> tuple[tuple[str, str], ...]:
    """(question, answer) pairs of world facts, each about another relation, none answered by the user's value.

    The wordings are ones that no model of ours trained on.
    """
    facts = [fact for fact in world_facts() if str(fact["answer"]).lower() not in value.lower()]
    relations = rng.sample(sorted({fact["relation"] for fact in facts}), LOCALITY_PROBES)
    chosen = [rng.choice([fact for fact in facts if fact["relation"] == relation]) for relation in relations]
    return tuple((_sentence(rng.choice(fact["heldout_phrasings"])), str(fact["answer"])) for fact in chosen)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
