"""One clause, read by the rules: what it says, what it says is not so, and about whom."""

from __future__ import annotations

import re
from dataclasses import replace

from ..clustering.lexicon import Lexicon, normalise
from .clauses import completions, members, starts_with_verb
from .people import Person, somebody
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
    ",favorite season,favorite flower,favorite series,programming language,habit,skill,favorite weather"
    ",phone,car,medication,nationality,units".split(",")
)
_NOT_SO = re.compile(r"(?:not|no longer|never|n't|neither)\b", re.IGNORECASE)
# Words of a second sentence, or of none: no value of a kind, but something that a rule has swallowed.
_SUSPECT = re.compile(
    r"^(?:no|any|to be|living|working|based|born|raised|so|always|cannot|could|would|should|never|if|when|because|been|had|have|has|is|are|was|than|as)\b"
    r"|\b(?:and|but|or) (?:i|he|she|they|we|my|it|so|no|is|am|was|do|does|did|have|has|had|will|would|cannot|never|not)\b"
    r"|\b(?:i|he|she|they) (?:am|is|are|was|were|do|does|have|has|had|will|would|can|cannot|like|love|hate|need|want)\b"
    r"|\b(?:which|because|unless|although|though|whereas)\b|\b(?:that|when|if|where|who|while|since) (?:i|he|she|they|we|my|it)\b"
    r"|\s(?:it|them)$|[?]|\b(?:cannot|do not|does not|did not|will not|am not|used to|these days|any ?more|nowadays)\b",
    re.IGNORECASE,
)
_FUNCTION = re.compile(r"\b(?:in|on|at|the|wrong|not|very|is|are|a|an|with|about|so|too)\b|^(?-i:[a-z]+ed)\b", re.IGNORECASE)
NAMES = frozenset({"name", "nickname"})
FREE = frozenset("motto,answer style,goal,plan,best book,favorite book,favorite quote,biggest fear".split(","))
_VAGUE = re.compile(
    r"(?:it|that|this|this one|that one|the same|them|those|these|something|unknown|things?|stuff|anything|everything"
    r"|nothing|one|you|him|her|us|me|both|them both|it all|all of them"
    r"|(?:that|this|the other|the same|another) (?:\w+ )?(?:stuff|thing|kind|one|sort|type|way)s?|(?:something|anything|everything|nothing)\b.*|some .* thing"
    r"|the (?:\w+ )?one|(?:one|some|none|all|both) of .*|what .*|whatever .*|how .*|somebody.*|someone.*|here|there|away|home|myself|everyone|everybody|all|a lot|lots)",
    re.IGNORECASE,
)


def read_clause(clause: str) -> list[Statement]:
    """What a clause says; several entries where it lists things, one with status "ask" where it is not understood."""
    for rewrite in rules().rewrites:
        if means := rewrite.apply(clause):
            return [found for one in means for found in read_clause(one)]
    if (person := somebody(bare_clause(clause))) and (theirs := _read_theirs(person, clause)):
        return theirs
    whole = _read_oneself(clause)
    parts = members(_without_tail(bare_clause(clause)))
    if len(parts) < 2 or (_is_one_thing(whole, parts[1]) and not _lost(parts, whole)):
        return [whole]
    listed = _read_members(parts, clause)
    if not listed or (whole.status == "learn" and any(one.status == "ask" for one in listed)):
        return _read_telegram(parts, clause) or [whole, *_lost(parts, whole)]
    return listed


def _lost(parts: list[str], whole: Statement) -> list[Statement]:
    """Members that the value of the whole does not hold: asked back, not swallowed ("Windows at work and Linux at home")."""
    if whole.status != "learn":
        return []
    value = set((whole.value or "").casefold().split())
    lost = [part for part in parts[1:] if not value & set(part.casefold().split())]
    question = 'And "{}"? Say it in one short sentence.'
    return [_unclear(part, "part of it is not understood", question.format(part)) for part in lost]


def _read_theirs(person: Person, text: str) -> list[Statement]:
    """What is said about somebody else, or nothing where it is not understood."""
    found = []
    read = read_clause(person.clause)
    if not any(one.status == "learn" for one in read):
        return []
    for one in read:
        if one.status != "learn":
            question = f"What about your {person.relation}? Say it in one short sentence."
            found.append(_unclear(text, "part of it is not understood", question))
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
    first = _read_oneself(before)
    if first.status != "learn":
        return []
    found, last = [first], before
    for part in parts[1:]:
        meant = [(_read_oneself(full), full) for full in completions(part, last)]
        meant = [(one, full) for one, full in meant if one.status == "learn" and (_starts_anew(part) or _fits(one, part))]
        if meant:
            # More of the same first: kiwis are another allergy, not a nationality.
            same = found[-1].subject if found[-1].subject in LISTED and not _starts_anew(part) else None
            statement, last = next((pair for pair in meant if pair[0].subject == same), meant[0])
            found.append(replace(statement, text=clause))
        else:
            if first.subject not in LISTED or len(part.split()) > 4:
                return []
            found.append(_unclear(f"I like {part}", "its kind is not clear"))
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
        read = (_read_oneself(f"{verb} {part}") for verb in ("I am", "I have", "I live in"))
        statement = next((one for one in read if one.status == "learn"), None)
        if statement is None:
            return []
        found.append(replace(statement, text=clause))
    return found


def _starts_anew(part: str) -> bool:
    return bool(re.match(r"(?:i|my|no)\b", part, re.IGNORECASE)) or starts_with_verb(part)


def _fits(statement: Statement, part: str) -> bool:
    """Whether the member itself is the value, not words that it shares."""
    return bool(statement.value) and statement.value.casefold() in part.casefold()


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
    return _unclear(clause, UNCOVERED)


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
            if statement.casefold().startswith(match["n"].casefold()) and not is_name(match["n"]):
                continue  # "note: ..." names nothing
            return _named(match["n"], match["v"], clause)
    return None


def _filed(rule: Rule, value: str, clause: str) -> Statement | None:
    """The statement under the kind that the rule or the vocabulary gives; None where neither does."""
    value = clean(value)
    kind = vocabulary().kind_of(value, () if rule.kinds == (ANY,) else rule.kinds) if rule.kinds else None
    kind = kind or rule.otherwise
    own = bool(rule.kinds) and value.casefold().startswith("my ")  # "I love my dog" is no favorite animal
    if kind is None or own or (rule.unless and _names_any(value, rule.unless)):
        return None
    return checked(kind, value, clause)


def _names_any(value: str, kinds: tuple[str, ...]) -> bool:
    return any(vocabulary().kind_of(part, kinds) for part in (value, *value.split()))


def checked(kind: str, value: str, text: str) -> Statement:
    """A statement to be learned, unless its value says nothing."""
    value = clean(value)
    if not value or _VAGUE.fullmatch(value):
        return _unclear(text, "no value is named", f"What exactly is your {kind}? For example: my {kind} is ...")
    if kind not in FREE and _SUSPECT.search(value):
        return _unclear(text, "more is said than one value", f"In a few words: what is your {kind}?")
    if kind in NAMES and (len(value.split()) > 4 or _FUNCTION.search(value)):
        return _unclear(text, "that is no name", f"What is your {kind}, in one or two words?")
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
    if words.split()[-1] in ("thing", "one", "stuff", "thing to do", "part"):
        return False
    fond = len(words.split()) > 1 and words.split()[0] in known.fondness
    return bool(Lexicon.load().find(name)) or words in known.plain_names or fond


_LIKED = re.compile(
    r"i (?:really |just |also |simply |would )*(?:love|like|enjoy|adore|prefer|am into|am fond of|am a (?:(?:big|huge) )?fan of|play|do) (?!not\b)(.+)",
    re.IGNORECASE,
)


UNCOVERED = "no rule covers it"


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
    value = re.sub(r"[\s,]+(?:and|but|or)$", "", _without_tail(value.strip()).strip(" .,!"))
    return unquoted(value)


_ADVERBS = re.compile(
    r"^(i|do not|i do not|i cannot|i am|i have|i am not)(?: (?:really|actually|just|also|honestly|only|simply|absolutely"
    r"|definitely|already|personally|currently|now|still|always|usually|normally|generally|mostly|often|totally|ever|recently|finally|lately|proudly|happily|sadly|unfortunately|sometimes|regularly|especially|particularly))+ ",
    re.IGNORECASE,
)

_AMOUNTS = re.compile(r"\b(?:a lot|lots|loads|plenty|a bit|tons|a fair bit) of ", re.IGNORECASE)


def _with_and_without_tail(statement: str) -> list[str]:
    # "I prefer tea over coffee": what is behind the value may be needed by a rule, or be in its way.
    forms = (statement, _without_tail(statement))
    plain = [_AMOUNTS.sub("", _ADVERBS.sub(r"\1 ", form)) for form in forms]
    return list(dict.fromkeys((*forms, *plain)))


def _without_tail(text: str) -> str:
    while (shorter := rules().tail.sub("", text, count=1)) != text:
        text = shorter
    return text
