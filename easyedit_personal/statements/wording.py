"""The words of a statement as the rules expect them: straight quotes, short forms written out, one clause at a time.

Values keep their author's words: only what stands beside "I" or opens a clause is written out.
"""

from __future__ import annotations

import re

_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"})
_SENTENCE_END = re.compile(r"[\n;]+|(?<=[.!?])[\"')]*\s+(?=\S)|\s+(?:\||//|--?)\s+")
_ABBREVIATIONS = re.compile(r"\b(?:dr|mr|mrs|ms|st|prof|vs|etc|no|approx|e\.g|i\.e)\.$", re.IGNORECASE)

_BE = {"m": "am", "ve": "have", "d": "would", "ll": "will", "re": "are"}
_NOT = (
    r"(do|does|did|can|could|would|should|wo|is|are|was|were|have|has|had)(?:n'?t)|(ai)n'?t|(cannot)|(can) not"
    r"|(never)"
)
_SLOPPY = [
    (r"\bi ?'?m\b(?!\.)", "I am"),
    (r"\bi'? ?ve\b", "I have"),
    (r"\bi'd\b", "I would"),
    (r"\bi'll\b", "I will"),
    (r"\b(?:we're|were(?= (?:vegan|vegetarian|a family)))\b", "we are"),
    (r"\bwe've\b", "we have"),
    (r"\bwe'll\b", "we will"),
    (r"\bwe'd\b", "we would"),
    (r"\bi gotta\b", "I have to"),
    (r"\bi wanna\b", "I want to"),
    (r"\bfav(?:e|s|es|rite|ourit|orit)?\b", "favorite"),
    (r"\bdunno\b", "do not know"),
    (r"\bgonna\b", "going to"),
    (r"\b(?:luv|lov)\b", "love"),
    (r"\bhav\b", "have"),
    (r"(?<=\w) n (?=\w)", " and "),
    (r"\bdnt\b", "do not"),
    (r"\bi liv\b", "i live"),
    (r"\b(is|are)n'?t (?=(?:really )?(?:my|for me)\b)", r"\1 not "),
    (r"\brea?l+[iy]e?\b|\brealy\b", "really"),
    (r"\bb-?day\b", "birthday"),
    (r"\bu\b(?=\s+(?:can|should|may|could)\b)", "you"),
]
_SLOPPY_FORMS = [(re.compile(pattern, re.IGNORECASE), plain) for pattern, plain in _SLOPPY]
_SHORT_NOT = re.compile(
    r"(?P<before>^|\b(?:i|we|you|he|she|they|it|and|but|or|also|just|really|please|my(?: (?!is\b|are\b"
    r"|was\b)[\w'-]+){1,4}?)\s+)"
    r"(?P<verb>do|does|did|ca|could|would|should|wo|is|are|was|were|have|has|had)n'?t\b",
    re.IGNORECASE,
)
_WHOLE = {"ca": "cannot", "wo": "will not"}
_WE = re.compile(r"\b(we|our|ours|us)\b", re.IGNORECASE)
_MINE = {"we": "I", "our": "my", "ours": "mine", "us": "me"}


def straight(text: str) -> str:
    """Plain quotation marks and dashes."""
    return text.translate(_QUOTES)


def sentences(text: str) -> list[str]:
    """The sentences of a text, with their final punctuation."""
    found: list[str] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        piece = text[start : match.start()].strip()
        if _ABBREVIATIONS.search(piece):
            continue
        found.append(text[start : match.end()].strip() if match[0].strip() in ('"', "'", ")") else piece)
        start = match.end()
    found.append(text[start:].strip())
    return [piece for piece in found if piece.strip(" .,;!?")]


def written_out(sentence: str) -> str:
    """Short forms in full, "we" as "I", single spaces, no final punctuation."""
    text = " ".join(sentence.split())
    for pattern, plain in _SLOPPY_FORMS:
        text = pattern.sub(plain, text)
    text = _SHORT_NOT.sub(lambda m: m["before"] + _WHOLE.get(m["verb"].casefold(), m["verb"] + " not"), text)
    text = re.sub(r"\b(I|my [\w' -]{1,30}?) (?:can not|cant)\b", r"\1 cannot", text, flags=re.IGNORECASE)
    text = _WE.sub(lambda m: _MINE[m[1].casefold()], text)
    text = re.sub(r"\bI are\b", "I am", text)
    return text.strip().rstrip(".!,").strip()


def unquoted(value: str) -> str:
    """Without quotation marks around the whole."""
    found = re.fullmatch(r"[\"'`](.+)[\"'`]", value)
    return (found[1] if found else value).strip()
