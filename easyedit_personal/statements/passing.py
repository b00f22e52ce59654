"""Moods, aches and delays: "my day is awful", "my back is killing me", "my train is late" say nothing that lasts.

The words are in ``statements_words.yaml`` under ``passing``; what a noun they do not name is said to be decides there.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any

from ..files import parse_yaml
from .plausible import DOINGS, FREE
from .rules import rules

_SAID = re.compile(
    r"(?:my|our) (?:[\w-]+'s )?(?P<noun>[\w -]+?)(?: (?:is|are|was|were|has been|have been|feels?|felt|looks?|looked"
    r"|seems?|went|goes|got|gets|keeps?|has gone)|'s)(?: (?P<value>.+))?",
    re.IGNORECASE,
)
_ACHE = re.compile(
    r"(?:hurts?|aches?|throbs?|itch(?:es)?|stings?|burns?)\b(?!.*\b(?:when(?:ever)?|if|every)\b).*", re.IGNORECASE
)
_COLLECTION = re.compile(r"(?:packed|stuffed) with\b")  # "my attic is packed with tram tickets"
_STOPPED = re.compile(
    r"(?:just |has |have )*(?:died|broke(?:n)?(?: down)?|crashed|froze|stopped working|gave up|packed up)\b.*", re.I
)
_WHOLE = re.compile(r"^(?:(?:whole|entire|poor|left|right|lower|upper|first|last|next|current|other) )+", re.I)
_DEGREE = re.compile(
    r"^(?:(?:not|so|really|very|too|a bit|a little|kind of|still|just|pretty|quite|rather|all(?! over)|totally"
    r"|completely|absolutely|nearly|almost|already|both|super|extremely|such|now|again|finally|one"
    r"|\w+ (?:minute|hour|day|week|month)s?) )+",
    re.IGNORECASE,
)
_SCHEDULE = re.compile(
    r"(?:on|at|from|for|between|called|named|every)\b|\d|(?:mon|tues|wednes|thurs|fri|satur|sun)days?\b|[A-Z][a-z]"
)
_GOES_ON = re.compile(
    r"(?:in|at|on|for|to|with|of|about|and|but|because|enough|again|lately|here|there|now|when|than|as|this|these"
    r"|today|too|though|if|by|from|until|since|without|after|i|me|right|that|already|due)\b",
    re.IGNORECASE,
)
# What anything may be doing or be in for a while, by its first words.
_FOR_NOW = re.compile(
    r"(?:killing|bothering|annoying|driving|making|letting|giving) (?:me|us|him|her|them)\b.*"
    r"|(?:acting|playing|piling|shutting|breaking|falling|wearing|freezing|going|running|looking|feeling)"
    r" (?:up|down|off|out|over|apart|thin|late|low|behind|short|well|badly|great|fine|wrong|crazy|mad|nowhere"
    r"|to (?:bits|pieces)|good|bad|grim|pretty|so|strange|weird|funny|slow)\b.*"
    r"|(?:on (?:fire|hold|strike|edge|its (?:way|last legs)|(?:the|my|their) (?:way|mend|blink|verge|nerves))"
    r"|in (?:bits|pieces|ruins|tatters|knots|pain|agony|tears|trouble|an? (?:\w+ )?(?:mood|state|mess|rut|muddle|huff))"
    r"|at (?:rock bottom|breaking point|zero|\d+ ?(?:%|percent).*)|out of (?:order|control|battery|paper|action)"
    r"|all over the place|up in the air|through the roof|off to an? .+|under the weather)\b.*"
    r"|an? (?:(?:total|complete|real|absolute|right|huge|little|bit of an?) )*(?:mess|nightmare|disaster|blur|struggle"
    r"|shambles|wreck|tip|slog|write-off|pain|joke)\b.*",
    re.IGNORECASE,
)


def passes(clause: str) -> bool:
    """Whether a clause only says how the author, or something of theirs, is doing for the moment.

    Args:
        clause: written out, without lead-ins.
    """
    words = _words()
    if bare := re.match(r"(?:my|our) (?:[\w-]+'s )?(?:(?:left|right|lower|upper|poor) )?([\w-]+) (.+)", clause, re.I):
        noun, verb = bare[1].casefold(), bare[2]
        if (noun in words["body"] and _ACHE.fullmatch(verb)) or (noun in words["devices"] and _STOPPED.fullmatch(verb)):
            return True
    if not (said := _SAID.fullmatch(clause)):
        return False
    noun = _WHOLE.sub("", said["noun"].casefold())
    value = _DEGREE.sub("", said["value"] or "")
    named = (
        noun in FREE or noun in words["lasting"] or noun.partition(" ")[0] in rules().fondness or DOINGS.search(noun)
    )
    if named or not value:
        return False
    if noun in words["moods"] or noun in words["times"]:
        return noun in words["moods"] or not _SCHEDULE.match(value)
    if noun in words["body"] and value.casefold() in words["conditions"]:
        return False
    return value.isupper() == value[:1].isupper() and _for_the_moment(value.casefold())


def _for_the_moment(value: str) -> bool:
    if _COLLECTION.match(value):
        return False
    word, _, rest = value.partition(" ")
    states = _words()["states"]
    like_this = word.strip(",;:") in states and (not rest or rest in states or bool(_GOES_ON.match(rest)))
    return like_this or bool(_FOR_NOW.fullmatch(value))


@cache
def _words() -> dict[str, frozenset[str]]:
    file = resources.files("easyedit_personal").joinpath("data", "bundled", "statements_words.yaml")
    content: Any = parse_yaml(file.read_text(encoding="utf-8"))
    return {name: frozenset(map(str, found)) for name, found in content["passing"].items()}
