"""One clause, read by the rules: what it says, what it says is not so, and about whom."""

from __future__ import annotations

import re
from dataclasses import replace

from ..clustering.lexicon import Lexicon, normalise
from .clauses import completions, members, starts_with_verb
from .people import somebody
from .records import Statement
from .rules import Rule, rules
from .vocabulary import vocabulary
from .wording import unquoted

MAX_VALUE = 120  # characters
ANY = "any"
# Kinds of which several may be listed in one breath; of others "and" belongs to the value ("Law and Order").
LISTED = frozenset(
    "hobby,pet,allergy,dietary preference,language,music preference,favorite food,favorite drink,favorite sport"
    ",instrument,favorite animal,favorite color,favorite film genre,book genre,family,profession,favorite fruit"
    ",favorite dessert,favorite snack,favorite board game,favorite video game,collection,biggest fear,health condition"
    ",favorite season,favorite flower,favorite series,programming language,workout,habit,skill,favorite weather"
    ",location,name,age,relationship status,nationality,religion,phone,car,medication,spelling,units".split(",")
)
_NOT_SO = re.compile(r"(?:not|no longer|never|n't|neither)\b", re.IGNORECASE)
_VAGUE = re.compile(
    r"(?:it|that|this|this one|that one|the same|them|those|these|something|unknown|things?|stuff|anything|everything"
    r"|nothing|one|you|him|her|us|me|both|them both|it all|all of them"
    r"|(?:that|this|the other|the same|another) (?:\w+ )?(?:stuff|thing|kind|one|sort|type|way)s?|something .*|some .* thing"
    r"|the (?:\w+ )?one|(?:one|some|none|all|both) of .*|what .*|whatever .*|how .*|somebody.*|someone.*)",
    re.IGNORECASE,
)


def read_clause(clause: str) -> list[Statement]:
    """What a clause says; several entries where it lists things, one with status "ask" where it is not understood."""
    for rewrite in rules().rewrites:
        if means := rewrite.apply(clause):
            return [found for one in means for found in read_clause(one)]
    whole = _read(clause)
    parts = members(_without_tail(bare_clause(clause)))
    if len(parts) < 2 or _is_one_thing(whole, parts[1]):
        return [whole]
    return _read_members(parts, clause) or _read_telegram(parts, clause) or [whole]


def _is_one_thing(whole: Statement, second: str) -> bool:
    """Whether "and" is part of one known name ("rock and roll"), or of a value of a kind that is not listed."""
    if whole.status != "learn" or whole.value is None:
        return False
    known = vocabulary().kind_of(whole.value) is not None
    return known or (whole.subject not in LISTED and not _starts_anew(second))


def _read_members(parts: list[str], clause: str) -> list[Statement]:
    """Each member with what it shares with those before; nothing if one of them makes no sense alone."""
    before = re.sub(r"\bboth (?=an? |the )", "", parts[0], flags=re.IGNORECASE)
    first = _read(before)
    if first.status != "learn" or first.subject not in LISTED and not _starts_anew(parts[1]):
        return []
    found, last = [first], before
    for part in parts[1:]:
        for full in completions(part, last):
            statement = _read(full)
            if statement.status == "learn" and (_starts_anew(part) or _fits(statement, part)):
                found.append(replace(statement, text=clause))
                last = full
                break
        else:
            if not _LIKED.fullmatch(bare_clause(before)) or len(part.split()) > 4:
                return []
            found.append(_unclear(f"I like {part}", "its kind is not clear"))
    return found


def _read_telegram(parts: list[str], clause: str) -> list[Statement]:
    """ "Nurse, 31, two kids": nothing but what somebody is and has."""
    if any(len(part.split()) > 3 for part in parts) or not any(re.fullmatch(r"\d{1,3}", part) for part in parts):
        return []
    found = []
    for part in parts:
        read = (_read(f"{verb} {part}") for verb in ("I am", "I have", "I live in"))
        statement = next((one for one in read if one.status == "learn"), None)
        if statement is None:
            return []
        found.append(replace(statement, text=clause))
    return found


def _starts_anew(part: str) -> bool:
    return bool(re.match(r"(?:i|my)\b", part, re.IGNORECASE)) or starts_with_verb(part)


def _fits(statement: Statement, part: str) -> bool:
    """Whether the member itself is the value, not words that it shares."""
    return bool(statement.value) and statement.value.split()[-1].casefold() in part.casefold()


def _read(clause: str) -> Statement:
    """One clause about one thing."""
    if person := somebody(bare_clause(clause)):
        theirs = _read_oneself(person.clause)
        if theirs.status == "learn" and theirs.subject == "name":
            name = person.relation if is_name(person.relation) else f"{person.relation}'s name"
            return replace(theirs, text=clause, subject=name)
        if theirs.status == "learn":
            return replace(theirs, text=clause, whose=person.whose, relation=person.relation)
    return _read_oneself(clause)


def _read_oneself(clause: str) -> Statement:
    statement = bare_clause(clause)
    if not statement:
        return _unclear(clause, "nothing is said")
    if found := _read_negative(statement, clause) or _read_positive(statement, clause):
        return found
    for pattern, subject in rules().fragments:
        if pattern.fullmatch(statement):
            full = subject + statement
            if found := _read_negative(full, clause) or _read_positive(full, clause):
                return found
    return _unclear(clause, "no rule covers it")


def _read_negative(statement: str, clause: str) -> Statement | None:
    for rewrite in rules().negatives:
        for form in _with_and_without_tail(statement):
            for means in rewrite.apply(form) or ():
                found = _read_positive(means, clause)
                if found and found.status == "learn":
                    return replace(found, polarity="-", reason="says what does not hold")
    return None


def _read_positive(statement: str, clause: str) -> Statement | None:
    for rule in rules().statements:
        for form in _with_and_without_tail(statement):
            if (match := rule.pattern.fullmatch(form)) and (found := _filed(rule, match["v"], clause)):
                return found
    for pattern in rules().frames:
        if match := pattern.fullmatch(statement):
            return _named(match["n"], match["v"], clause)
    return None


def _filed(rule: Rule, value: str, clause: str) -> Statement | None:
    """The statement under the kind that the rule or the vocabulary gives; None where neither does."""
    value = clean(value)
    kind = vocabulary().kind_of(value, () if rule.kinds == (ANY,) else rule.kinds) if rule.kinds else None
    kind = kind or rule.otherwise
    if kind is None or (rule.unless and vocabulary().kind_of(value, rule.unless)):
        return None
    return checked(kind, value, clause)


def checked(kind: str, value: str, text: str) -> Statement:
    """A statement to be learned, unless its value says nothing."""
    value = clean(value)
    if not value or _VAGUE.fullmatch(value):
        return _unclear(text, "no value is named", f"What exactly is your {kind}? For example: my {kind} is ...")
    if len(value) > MAX_VALUE:
        return _unclear(text, "too long", f"That is long for one answer. In a few words: what is your {kind}?")
    if _NOT_SO.match(value) and kind != "motto":
        return _unclear(text, "says only what is not so", f"What is your {kind}, then?")
    return Statement(text, "learn", kind, value, reason="said plainly")


def _named(name: str, value: str, text: str) -> Statement:
    """A statement that names its attribute; names that are not known are put to the user first."""
    name = " ".join(name.split()).removeprefix("own ")
    name = rules().renames.get(normalise(name), name)
    found = checked(name, value, text)
    if found.status != "learn" or is_name(name):
        return found
    return replace(
        found, status="ask", reason="an unknown kind of thing", question=f'Shall I keep "{name}: {found.value}"?'
    )


def is_name(name: str) -> bool:
    """Whether "my NAME is ..." may be learned without asking back."""
    known, words = rules(), normalise(name)
    if not words or "'s " in words and words not in known.plain_names:  # somebody else's
        return False
    return bool(Lexicon.load().find(name)) or words in known.plain_names or words.split()[0] in known.fondness


_LIKED = re.compile(
    r"i (?:really |just |also |simply |would )*(?:love|like|enjoy|adore|prefer|am into|am fond of|play|do) (?!not\b)(.+)",
    re.IGNORECASE,
)


def _unclear(text: str, reason: str, question: str | None = None) -> Statement:
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


def clean(value: str) -> str:
    """A value without what only says when or how much, and without quotation marks around it."""
    return unquoted(_without_tail(value.strip()).strip(" .,!"))


def _with_and_without_tail(statement: str) -> list[str]:
    # "I prefer tea over coffee": what is behind the value may be needed by a rule, or be in its way.
    return list(dict.fromkeys((statement, _without_tail(statement))))


def _without_tail(text: str) -> str:
    while (shorter := rules().tail.sub("", text, count=1)) != text:
        text = shorter
    return text
