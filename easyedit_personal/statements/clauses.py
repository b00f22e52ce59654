"""A sentence taken apart: clauses with a subject of their own, and the members of lists with what they share."""

from __future__ import annotations

import re

MAX_PARTS = 12

# Verbs that a clause about oneself may go on with: "I live in Lisbon and work as a nurse".
VERBS = (
    "live|work|play|love|hate|like|enjoy|prefer|study|drive|speak|have|own|am|do not|cannot|never|dislike|detest|adore"
    "|collect|volunteer|teach|coach|run|swim|cycle|paint|knit|cook|bake|sing|dance|write|read|watch|listen|drink|eat"
    "|smoke|wear|commute|travel|go|get up|wake up|moved|grew up|was born|was raised|raised|support|follow|use|code"
    "|weigh|earn|take|keep|make|raise|used to|avoid|want|would|suffer|got|will|still|now|always|usually|also|mostly"
    "|just|really|sometimes"
)
_SUBJECT = (
    r"(?:(?:now )?i|im|ive|my|call me|please|answer|reply|keep|use|no (?:dog|cat|pets|kids)|do not|never"
    r"|she|he|they|her|his)"
)
# Not after words that make the next "I" part of what was said before: "the food that I like".
_NOT_AFTER = (
    r"(?<!\bthat)(?<!\bwhen)(?<!\bif)(?<!\bbecause)(?<!\bwhat)(?<!\bwhere)(?<!\bthan)(?<!\bas)(?<!\bwhich)(?<!\bwho)"
    r"(?<!\bhow)(?<!\bwhy)(?<!\bthink)(?<!\bguess)(?<!\bsay)(?<!\bwish)(?<!\bhope)(?<!\bknow)(?<!\bwhile)(?<!\bbefore)"
    r""
    r"(?<!\bafter)(?<!\bsince)(?<!\bwhenever)(?<!\buntil)(?<!\bnow)(?<!\bthe .{1,20}\b)"
).replace(r"(?<!\bthe .{1,20}\b)", "")
_CLAUSE = re.compile(
    rf",?\s+(?:and|but|although|though|while|whereas|an|yet|so)\s+(?={_SUBJECT}\b)"
    rf"|,\s*(?={_SUBJECT}\b)"
    rf"|(?P<run>{_NOT_AFTER}\s+(?=(?:i (?:am|live|like|love|work|have|play|hate|do not|don't|drive|speak|study"
    rf"|was|moved|prefer)|im|i'm|ive|i've)\b))"
    rf"|{_NOT_AFTER}(?<=\w\w\w)\s+(?=my (?:name|hobby|(?:favorite|favourite) \w+|job|wife|husband) (?:is|are)\b)"
    r"|\s*,\s*(?=(?:what|how|which|who|where|why|(?:can|could|do|does|is|are|should|will) (?:i|you|there|it"
    r"|that|this|the))\b)"
    r"|\s+n\s+(?=(?:i|im|i'm|my)\b)"
    r"|\s+(?=moved (?:to|from) )(?<!\bhave\s)(?<!\bi\s)(?<!ve\s)(?<!\bjust\s)(?<!\bre\s)(?<!ly\s)",
    re.IGNORECASE,
)
_OTHERS = re.compile(r"(?:my|our|his|her|their|the|he|she|they)\b(?!.* and (?:i|me)\b)", re.IGNORECASE)
_OWN_SUBJECT = re.compile(r"\b(?:i|im|i'm|ive|my|we|our|[a-z]+ing)\b", re.IGNORECASE)
_MEMBER = re.compile(r"\s*,\s*(?:and|but|or|nor)?\s+|\s+(?:and|but|or|nor|&|as well as)\s+|\s*,\s*", re.IGNORECASE)
_AUXILIARIES = frozenset("to,can,cannot,not,never,will,would,should,must,always,usually".split(","))
_VERB_FIRST = re.compile(rf"(?:{VERBS})\b", re.IGNORECASE)
_SUBJECT_FIRST = re.compile(rf"{_SUBJECT}\b", re.IGNORECASE)


def clauses(sentence: str) -> list[str]:
    """The clauses that have a subject of their own."""
    if re.match(r"(?:when|whenever|if)\b", sentence, re.IGNORECASE):
        return [sentence]
    parts, start = [], 0
    for match in _CLAUSE.finditer(sentence):
        before = sentence[start : match.start()].strip(" ,")
        # "the colour I like best" runs on, "my name is Ben I am 19" does not.
        # "my friend Jo moved to Bonn" is one clause.
        somebody = sentence.startswith("moved", match.end()) and _OTHERS.match(before)
        if before and not somebody and not (match["run"] and not _OWN_SUBJECT.search(before)):
            parts.append(before)
            start = match.end()
    parts.append(sentence[start:].strip(" ,"))
    return [part for part in parts if part][:MAX_PARTS] or [sentence]


def members(clause: str) -> list[str]:
    """What commas, "and" and "or" join; one part where nothing is joined."""
    return [part for piece in _MEMBER.split(clause) if (part := piece.strip(" ,"))]


def starts_with_verb(member: str) -> bool:
    """Whether a member goes on with a verb of its own ("work as a nurse")."""
    return bool(_VERB_FIRST.match(member))


def completions(member: str, before: str) -> list[str]:
    """What a later member may mean in full, the likeliest first.

    Args:
        member: "work as a nurse", "jazz".
        before: the clause whose subject and verb it may share, in full ("I love hiking").
    """
    if re.match(r"i\b", member, re.IGNORECASE):
        return [member]
    found = [member] if _SUBJECT_FIRST.match(member) or member.casefold().startswith("no ") else []
    if denied := re.fullmatch(r"not (.+)", member):
        found.append(f"I do not like {denied[1]}")
    if starts_with_verb(member):
        found += [f"I {member}", f"I was {member}"]
    words = before.split()
    # "jazz" after "I love hiking" may share one word or more: "I love jazz", not "I jazz"; "sing" after "I play the
    # flute" shares "I" alone, after "I like to paint" all of "I like to".
    shares = list(range(2, min(len(words), 9)))
    if starts_with_verb(member):
        shares = [number for number in shares if words[number - 1].casefold() in _AUXILIARIES]
    found += [f"{' '.join(words[:number])} {member}" for number in shares]
    found += [f"I am {member}", f"I have {member}"]
    return list(dict.fromkeys(found))
