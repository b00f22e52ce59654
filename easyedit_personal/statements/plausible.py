"""Values that a rule caught though they are none: a second statement, a mood, a restriction, half an idiom.

Rules match whole clauses, so what a rule did not foresee ends up in its value; such values are asked back.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any

from ..files import parse_yaml
from .clauses import VERBS
from .people import RELATIONS

# Kinds whose values are told in whole phrases, and kinds whose values are titles, which may hold any word.
FREE = frozenset("motto,answer style,goal,plan,best book,favorite book,favorite quote,biggest fear".split(","))
_TITLED = re.compile(r"\b(?:film|movie|book|song|series|show|game|album|quote|motto|novel|play|band|poem|podcast)\b")
PLANS = frozenset({"goal", "plan", "travel plan"})
# Kinds whose values say how something is: "my coffee order is strong", "my hair is short".
_QUALITIES = re.compile(
    r"\b(?:style|eggs?|steaks?|coffee|order|tea|weather|hair|eyes?|colou?r|status|condition|preference|type|build"
    r"|personality|skin|complexion|tone|voice|accent|chronotype|handedness|gender|orientation|diet)\b"
)
_PLACES = frozenset("location,birthplace,childhood home,home town,job,university,school".split(","))
_DATES = frozenset({"birthday", "anniversary", "wedding anniversary"})
_WEEKDAY = re.compile(r"(?:an? |on |on a )?(?:mon|tues|wednes|thurs|fri|satur|sun)day", re.IGNORECASE)
_VAGUE = re.compile(
    r"(?:it|that|this|this one|that one|the same|them|those|these|something|unknown|things?|stuff|anything|everything"
    r"|nothing|one|you|him|her|us|me|both|them both|it all|all of them"
    r"|(?:that|this|the other|the same|another) (?:\w+ )?(?:stuff|thing|kind|one|sort|type|way)s?|(?:something"
    r"|anything|everything|nothing)\b(?! (?:with|containing|made)\b).*|some .* thing"
    r"|the (?:\w+ )?one|(?:one|some|none|all|both) of .*|what .*|whatever .*|how .*|somebody.*|someone.*|here"
    r"|there|away|home|myself|everyone|everybody|all|a lot|lots|another .*|none|n/?a|see .*|same (?:as|here).*"
    r"|to be (?:announced|decided)|tb[ad]|(?:named|called) .*|(?:i|you|he|she|it|we|they) .*|(?:that"
    r"|this|it|there|here)'s .*)",
    re.IGNORECASE,
)
# Words of a second sentence, or of none.
_SUSPECT = re.compile(
    r"^(?:no|any|to be|living|working|based|born|raised|so|always|cannot|could|would|should|never|if|when"
    r"|because|been|had|have|has|is|are|was|than|as|only|much|many|more|less|enough|little|after|before|unlike|except"
    r"|even|apparently|nobody|everybody|moved)\b"
    r"|^(?:my|his|her|their) [\w-]+ (?:an?|the)\b|\b(?:and|but|or) (?:i|he|she|they|we|my|it|so|no|is|am|was|do"
    r"|does|did|have|has|had|will|would|cannot"
    r"|never|not|that|nobody|only|what|how)\b"
    r"|\b(?:i|he|she|they) (?:am|is|are|was|were|do|does|did|have|has|had|will|would|can|cannot|like|love|hate|need"
    r"|want)\b"
    r"|\b(?:which|because|unless|although|though|whereas|unlike|until|apparently|supposedly)\b"
    r"|\b(?:that|when|if|where|who|while|since|so|hope|as) (?:i|he|she|they|we|my|it|you|there|this|that)\b"
    r"|\s(?:it|them|that|this|there|here)$|[?]|\b(?:cannot|do not|does not|did not|will not|am not|used to|these days"
    r"|any ?more|nowadays)\b|\bat least i\b|\b(?:most|some|half) of the time\b|\bthese (?:past|last)\b"
    r"|\b(?:just )?like (?:my|the|every|all)\b|,? (?:what|how) about\b",
    re.IGNORECASE,
)
# Verbs that no noun of a value is spelled like; others only with their object.
_VERB = re.compile(
    r"(?<=\w )(?:is|are|was|were|makes|gives|keeps|gets|hurts|has|had|does|did|would|could|should|became|reminds|brings"
    r"|lets|knows|believes|thinks|says|hates|loves|wants)\b"
    r"|(?<=\w )(?:helps?|make|give|keep|calms?|relaxe?s?|cheers?|drives?|suits?) (?:me|my|us|you|him|her|them)\b"
)
# What follows a wish in whole phrases: "no emojis and that's final".
_AFTERTHOUGHT = re.compile(
    r"\b(?:which (?:is|are)|because|although|even though|unless|until|hope (?:that|this)|so there|what about|how about"
    r"|nobody|(?:makes|gives|keeps) me|apparently|and (?:it|that|i|he|she|they)|at least i|so remember"
    r"|(?:but )?not always|hates (?:it|that))\b"
    r"|'s final|(?<=\w )(?:is|are|working as|studying)\b|,? (?:un)?like my\b|\bwhen it\b|\bsince (?:i|my)\b"
    r"|(?:thanks to|instead of) .+",
    re.IGNORECASE,
)
# "flute and sing in a choir": the second verb has been taken for a thing.
_ANOTHER_VERB = re.compile(
    rf"(?<=\w )(?:and|but|or) (?:{VERBS})\b|(?<=\w )(?:studying|living|trying|looking|working as)\b", re.I
)
_ACTIVITIES = frozenset({"hobby", "habit", "disliked activity", "skill", "workout", *FREE})
_RESTRICTED = re.compile(r"\b(?:except|but only|but not|other than|apart from|without)\b", re.IGNORECASE)
_DANGLING = re.compile(
    r"(?:^|\s)(?:for|until|till|even|but|only|except|since|because|so|and|or|to|of|at|as|is|are|was|were|that"
    r"|which|like"
    r"|than|by|from|the|an|although|though|not|if|when|while|with|my|your)$",
    re.IGNORECASE,
)
_IN_A_PLACE = re.compile(
    r"\s(?-i:[a-z]{3,}ing)\b|\b(?:by|with|like) (?:my|the|an?)\b|\sfor\b|^my\b|\bin my\b|\bsame\b", re.IGNORECASE
)
_NO_PLACE = re.compile(
    r"(?:the )?(?:nights?|noon|dawn|peanuts|hope|fear|peace|sin|denial|luxury|style|squalor|debt|pain|poverty"
    r"|harmony|bed"
    r"|past|present|moment|risk|stake|danger|jeopardy|trouble|limbo|ruins|free|fun|a living|least.*|most.*)"
    r"|(?:with|for|near|next to) (?:my|your|you)\b.*",
    re.IGNORECASE,
)
_NO_NICKNAME = re.compile(
    r"names|to(?:morrow|day|night)|later|now|maybe|back|again|soon|any ?time|(?:when|if|an?|at|on|in|by|the|up"
    r"|upon|out)\b.*",
    re.IGNORECASE,
)
# "My job is ...": how it is, not what it is.
_PREDICATE = re.compile(
    r"(?:getting|becoming|dying|killing|driving me|making me|losing|winning|closing|ending|falling|breaking|acting"
    r"|going (?:up|down|well|badly|great|fine|nowhere|ok|okay|wrong|away)|being|robbing|ruining|running (?:out"
    r"|late|low))"
    r"\b.*"
    r"|on (?:holiday|leave|tour|fire|hold|sale|strike|vacation|the (?:way|line|mend|phone|road|move))\b.*"
    r"|at (?:risk|stake|work|home|school|university|college|war|an end)\b.*"
    r"|in (?:danger|trouble|jeopardy|pieces|ruins|limbo|hospital|pain|an? \w+ (?:mood|state|place)|a (?:mess|mood))\b.*"
    r"|(?:out of|up to|none of|hard to|easy to|difficult to|about|like|near|both|all|too|so|very|pretty|really|quite"
    r"|rather|always|still|never|often|also|currently|as|over|based on|due|back|down|off|just)\b.*"
    r"|an? (?:mess|secret|nightmare|disaster|joke|problem|pain|mystery|bit|lot|long story|dream|delight|pleasure"
    r"|challenge"
    r"|(?:good|great|bad|nice|real|total|complete|huge|big|little|constant|long) .*).*"
    r"|yours|mine|theirs|his|hers|soon|the (?:same|best|worst|problem|greatest|only)\b.*|important.*|everything.*",
    re.IGNORECASE,
)
_DEGREE = re.compile(r"(?:too|so|very|pretty|really|quite|rather|always|not|like|just|near)\b", re.IGNORECASE)
_INTENSE = re.compile(
    r"^(?:a bit |a little |kind of |super |extremely |incredibly |absolutely |totally |way too )", re.I
)
_POINTING = re.compile(r"(?:this|that|the|he|she|it|they|my|his|her|our|your)\b", re.IGNORECASE)
_HAPPENING = re.compile(r"[a-z]{2,}ing\b")
DOINGS = re.compile(
    r"\b(?:hobby|sport|activity|workout|habit|skill|job|profession|work|pastime|passion|fear|drink|food)\b"
)
_PLACED = frozenset(
    {*_PLACES, *"birthday,anniversary,wedding anniversary,wake-up time,bedtime,working hours".split(",")}
)
_PLACED |= {"plane seat", "time zone", "commute", "travel plan", "holiday", "family"}
_PLACE_FIRST = re.compile(
    r"(?:at|in|on|under|behind|with|without|for|from|to|between|against|within|beyond|after|before|by|inside"
    r"|outside)\b",
    re.I,
)
_GOES_ON = re.compile(
    r"(?:in|at|on|for|to|with|of|about|and|but|because|enough|again|lately|here|there|now|when|than|as|this|these|right"
    r"|today|too|though|if|by|from|until|since|without)\b",
    re.IGNORECASE,
)
_RELATED = re.compile(rf"(?:{RELATIONS}|doctor|dentist|gp|therapist|children|kids)", re.IGNORECASE)


def doubt_about(kind: str, value: str) -> tuple[str, str | None] | None:
    """Why a value is not to be learned under a kind, and what to ask its author; None where it may be."""
    titled = bool(_TITLED.search(kind.casefold()))
    if not value or _VAGUE.fullmatch(value):
        return "no value is named", f"What exactly is your {kind}? For example: my {kind} is ..."
    patterns = (_AFTERTHOUGHT, _DANGLING) if kind in FREE else (_SUSPECT,) if titled else (_SUSPECT, _VERB, _DANGLING)
    if any(pattern.search(value) for pattern in patterns):
        return "more is said than one value", f"In a few words: what is your {kind}?"
    if kind not in _ACTIVITIES and _ANOTHER_VERB.search(value):
        return "more is said than one value", f"In a few words: what is your {kind}?"
    if titled:
        return None
    if _RESTRICTED.search(value) and kind not in ("dietary preference", "coffee order", "eggs", "steak"):
        return "it holds with an exception", f"In a few words, without the exception: what is your {kind}?"
    if kind == "nickname" and (_NO_NICKNAME.fullmatch(value) or value.casefold() in _states()):
        return "that is no name", "What should I call you?"
    if kind in _DATES and _WEEKDAY.fullmatch(value):
        return "that is no date", f"On which day of which month is your {kind}?"
    if kind in _PLACES and (_IN_A_PLACE.search(value) or _NO_PLACE.fullmatch(value)):
        return "that is no place", f"In a few words: what is your {kind}?"
    return None


def says_how(name: str, value: str) -> bool:
    """Whether "my NAME is VALUE" says how it is ("boring", "on holiday") instead of what it is."""
    if _QUALITIES.search(name.casefold()):  # "very short" may be how answers should be
        return bool(_PREDICATE.fullmatch(value)) and not _DEGREE.match(value)
    word, _, rest = _INTENSE.sub("", value.casefold()).partition(" ")
    like_this = word.strip(":,") in _states() and (not rest or bool(_GOES_ON.match(rest)))
    if name in FREE:
        return like_this or word.endswith(":")
    if _TITLED.search(name.casefold()) and re.search(r"[A-Z]", value):
        return False
    if is_related(name):  # "my boss is mean", "my kids are noisy"; a name has a capital
        return not re.search(r"\b[A-Z]", value) or bool(_POINTING.match(value))
    if name not in _PLACED and _PLACE_FIRST.match(value):  # "my phone is at 3 percent"
        return True
    if _HAPPENING.match(value) and not DOINGS.search(name.casefold()):  # "my show is coming back"
        return True
    # "beautiful in June" and "boring", but "good old Volvo"
    return bool(_INTENSE.match(value) or _PREDICATE.fullmatch(value)) or like_this


def is_related(name: str) -> bool:
    """Whether a name is what somebody is to the user ("wife", "boss")."""
    return bool(_RELATED.fullmatch(name))


@cache
def _states() -> frozenset[str]:
    """Words that say how something is."""
    file = resources.files("easyedit_personal").joinpath("data", "bundled", "statements_words.yaml")
    content: Any = parse_yaml(file.read_text(encoding="utf-8"))
    return frozenset(content["states"])
