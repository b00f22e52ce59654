"""One clause about one thing, read by the rules: what it says, or what it says is not so."""

from __future__ import annotations

import re
from dataclasses import replace

from ..clustering.lexicon import Lexicon, normalise
from .plausible import PLANS, doubt_about, is_related, says_how
from .records import Statement
from .rules import Rule, rules
from .vocabulary import vocabulary
from .wording import unquoted

MAX_VALUE = 120  # characters
ANY = "any"
_NOT_SO = re.compile(r"(?:not|no longer|never|n't|neither)\b", re.IGNORECASE)
_FUNCTION = re.compile(
    r"\b(?:in|on|at|the|wrong|not|very|is|are|a|an|with|about|so|too)\b|^(?-i:[a-z]+ed)\b", re.IGNORECASE
)
# "I don't only like jazz", "I don't drink much": not the opposite of "I like jazz", "I drink".
_IN_PART = re.compile(
    r"\b(?:only|except|unless|other than|apart from)\b|\bnot just\b|\b(?:eat|drink|smoke|play|watch|read"
    r"|work)(?: .+)? much$"
    r"|\bdrink and drive\b|\b(?:anything|nothing) (?:but|with)\b",
    re.IGNORECASE,
)
_DONE = frozenset({"hobby", "favorite sport", "instrument", "workout", "skill", "habit"})
_WISH = re.compile(r"i (?:would (?:really |just )*(?:love|like)|want|wish|hope) to\b", re.IGNORECASE)
HOW_IT_IS = "it says how something is, not what it is"
NAMES = frozenset({"name", "nickname"})


def read_single(clause: str) -> Statement:
    """What a clause says of whoever says it; status "ask" where no rule covers it."""
    statement = bare_clause(clause)
    if not statement:
        return unclear(clause, "nothing is said")
    if found := _read_negative(statement, clause) or _read_positive(statement, clause):
        return found
    for pattern, subject in rules().fragments:
        if pattern.fullmatch(statement):
            full = subject + statement
            if found := _read_negative(full, clause) or _read_positive(full, clause):
                return found
    return unclear(clause, UNCOVERED)


def _read_negative(statement: str, clause: str) -> Statement | None:
    for rewrite in rules().negatives:
        for form in _with_andwithout_tail(statement):
            for means in rewrite.apply(form) or ():
                found = _read_positive(means, clause)
                if found and found.status == "learn":
                    if _IN_PART.search(statement) or means.startswith("i live with "):
                        return unclear(
                            clause, "it holds in part", "What exactly is not so? Say it in one short sentence."
                        )
                    return replace(found, polarity="-", reason="says what does not hold")
    return None


def _read_positive(statement: str, clause: str) -> Statement | None:
    for rule in rules().statements:
        for form in _with_andwithout_tail(statement):
            if (match := rule.pattern.fullmatch(form)) and (found := _filed(rule, match["v"], clause)):
                return found
    for pattern in rules().frames:
        if match := pattern.fullmatch(statement):
            if statement.casefold().startswith(match["n"].casefold()) and not is_name(match["n"]):
                continue  # "note: ..." names nothing
            return _named(match["n"], match["v"], clause)
    return None


def _filed(rule: Rule, value: str, clause: str) -> Statement | None:
    """The statement under the kind that the rule or the vocabulary gives; None where neither does."""
    value = clean(value, rule.otherwise in PLANS)
    kind = vocabulary().kind_of(value, () if rule.kinds == (ANY,) else rule.kinds) if rule.kinds else None
    kind = kind or rule.otherwise
    if kind in _DONE and _WISH.match(bare_clause(clause)):
        return None  # "I'd love to run a marathon" is no hobby
    own = bool(rule.kinds) and value.casefold().startswith("my ")  # "I love my dog" is no favorite animal
    if kind is None or own or (rule.unless and _names_any(value, rule.unless)):
        return None
    found = checked(kind, value, clause)
    if found.status == "learn" and clause.casefold().startswith(("my ", "our ")) and says_how(kind, value):
        return Statement(clause, "nothing", reason=HOW_IT_IS)
    return found


def _names_any(value: str, kinds: tuple[str, ...]) -> bool:
    return any(vocabulary().kind_of(part, kinds) for part in (value, *value.split()))


def checked(kind: str, value: str, text: str) -> Statement:
    """A statement to be learned, unless its value says nothing."""
    value = clean(value, kind in PLANS)
    if doubt := doubt_about(kind, value):
        return unclear(text, *doubt)
    if kind in NAMES and (len(value.split()) > 4 or _FUNCTION.search(value)):
        return unclear(text, "that is no name", f"What is your {kind}, in one or two words?")
    if len(value) > MAX_VALUE:
        return unclear(text, "too long", f"That is long for one answer. In a few words: what is your {kind}?")
    if _NOT_SO.match(value) and kind != "motto":
        return unclear(text, "says only what is not so", f"What is your {kind}, then?")
    return Statement(text, "learn", kind, value, reason="said plainly")


def _named(name: str, value: str, text: str) -> Statement:
    """A statement that names its attribute; names that are not known are put to the user first."""
    name = " ".join(name.split()).removeprefix("own ")
    name = rules().renames.get(normalise(name), name)
    if not is_name(name) and Lexicon.load().find(f"favorite {name}"):
        name = f"favorite {name}"  # "the book I love most"
    found = checked(name, value, text)
    if found.status == "learn" and is_name(name) and says_how(name, found.value or ""):
        if is_related(name):
            return unclear(text, "it may be no name", f'Is your {name} called "{found.value}"? Tell me the name.')
        return Statement(text, "nothing", reason=HOW_IT_IS)
    if found.status != "learn" or is_name(name):
        return found
    return replace(
        found, status="ask", reason="an unknown kind of thing", question=f'Shall I keep "{name}: {found.value}"?'
    )


def is_name(name: str) -> bool:
    """Whether "my NAME is ..." may be learned without asking back."""
    known, words = rules(), normalise(name)
    if not words or ("'s " in words and words not in known.plain_names):  # somebody else's
        return False
    if words.split()[-1] in ("thing", "one", "stuff", "thing to do", "part"):
        return False
    fond = len(words.split()) > 1 and words.split()[0] in known.fondness and not _FURTHER.search(words)
    return bool(Lexicon.load().find(name)) or words in known.plain_names or fond


_FURTHER = re.compile(r"\b(?:and|but|which|that|who|because|unless|when|if|like|it|my)\b")
_LIKED = re.compile(
    r"i (?:really |just |also |simply |would )*(?:love|like|enjoy|adore|prefer|am into|am fond of"
    r"|am a (?:(?:big|huge) )?fan of|play|do) (?!not\b)(.+)",
    re.IGNORECASE,
)


UNCOVERED = "no rule covers it"


def unclear(text: str, reason: str, question: str | None = None) -> Statement:
    """A question back, with the value if only its kind is missing."""
    if question is None and (liked := _LIKED.fullmatch(bare_clause(text))):
        value = clean(liked[1])
        question = f'What is "{value}" to you? Tell me its kind, such as: hobby, favorite food, music preference.'
        return Statement(text, "ask", None, value, reason="its kind is not clear", question=question)
    question = question or "I did not understand that. Say what is what, for example: my favorite color is teal."
    return Statement(text, "ask", reason=reason, question=question)


def bare_clause(clause: str) -> str:
    """Without lead-ins ("please", "by the way")."""
    statement = clause.strip(" ,.!")
    while True:
        shorter = rules().lead_in.sub("", statement, count=1).lstrip(" ,")
        if shorter == statement or not shorter:
            return shorter and statement
        statement = shorter


def clean(value: str, planned: bool = False) -> str:
    """A value without what only says when or how much, and without quotation marks around it.

    Args:
        value: the words that a rule caught.
        planned: whether they are a plan, of which the time is a part.
    """
    value = value.strip() if planned else without_tail(value.strip())
    value = re.sub(r"[\s,]+(?:and|but|or)$", "", value.strip(" .,!"))
    return unquoted(value)


_ADVERBS = re.compile(
    r"^(i|do not|i do not|i cannot|i am|i have|i am not)(?: (?:really|actually|just|also|honestly|only|simply"
    r"|absolutely"
    r"|definitely|already|personally|currently|now|still|always|usually|normally|generally|mostly|often|totally"
    r"|ever|recently|finally|lately|proudly|happily|sadly|unfortunately|sometimes|regularly|especially"
    r"|particularly))+ ",
    re.IGNORECASE,
)

_AMOUNTS = re.compile(r"\b(?:a lot|lots|loads|plenty|a bit|tons|a fair bit) of ", re.IGNORECASE)


def _with_andwithout_tail(statement: str) -> list[str]:
    # "I prefer tea over coffee": what is behind the value may be needed by a rule, or be in its way.
    forms = (statement, without_tail(statement))
    plain = [_AMOUNTS.sub("", _ADVERBS.sub(r"\1 ", form)) for form in forms]
    return list(dict.fromkeys((*forms, *plain)))


def without_tail(text: str) -> str:
    """Without what only says when, how much or how often."""
    while (shorter := rules().tail.sub("", text, count=1)) != text:
        text = shorter
    return text
