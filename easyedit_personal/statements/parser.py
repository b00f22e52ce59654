"""From plain words ("I prefer aisle seats") to what can be learned, by the bundled rules; in doubt they ask back.

Rules can be read, tested and extended by hand, need no network and no model, and take a few milliseconds.
"""

from __future__ import annotations

import re
from dataclasses import replace

from .aside import PAST, Aside, first_aside
from .clauses import clauses
from .listing import read_clause
from .passing import passes
from .reading import HOW_IT_IS, UNCOVERED, bare_clause
from .records import Statement
from .rules import rules
from .vocabulary import respelled
from .wording import sentences, straight, written_out

MAX_TEXT = 1000  # characters of one text
MAX_SENTENCE = 400  # the patterns backtrack, and a service reads strangers' words
MAX_STATEMENTS = 24

# Kinds that are said as commands ("keep it short"); other commands state nothing.
STYLES = frozenset("answer style,answer language,units,currency,time format,spelling,nickname,pronouns,name".split(","))
# What may last though no rule covers it, and is worth asking back: traits, habits, tastes, "my ... is ...".
_LASTING = re.compile(
    r"i (?:(?:really|just|also|always|usually|only|never|do not|cannot|often|still|mostly|absolutely|sometimes|have"
    r"|ever|quite|simply) )*(?:(?:left|am not|am (?:now |still )*(?:an?|the|no|one of|allergic|fond|into|afraid"
    r"|scared|from)"
    r"|love|like|enjoy|prefer|hate|dislike|adore|detest|loathe|live|work|study|eat|drink|play|drive|ride|wear"
    r"|use|speak"
    r"|own|rent|share|teach|coach|collect|celebrate|avoid|believe in|smoke|sing|dance|cook|bake|write|paint"
    r"|read|watch"
    r"|listen|travel|commute|fast|pray|bank|vote|support|volunteer|suffer|used to|grew up|was born|switched"
    r"|moved|stopped"
    r"|quit|gave up|given up|stand|bear|be called|run an?|run my|have (?:an?|two|three|four|no|\d+))\b"
    r"|cannot (?:stand|bear|eat|drink)).+|(?:love|hate|dislike|do not (?:like|eat|drink)|cannot stand|never) .+"
    r"|[\w ]+ makes? me (?:ill|sick|unwell)|my (?:\w+ ){1,4}(?:is|are)\b.+|(?:she|he|my (?:wife|husband|son"
    r"|daughter|partner|mother|father|sister"
    r"|brother)).+",
    re.IGNORECASE,
)
_POLITE = re.compile(
    r"(?:please |hey |so |and )*(?:can|could|would|will) you (?:please |always |just )*(.+?)\??", re.IGNORECASE
)
_LEFT = re.compile(r"i (?:have )?(?:just )?(?:left|quit|lost|sold) .+|i am not .+ any ?(?:more|longer)", re.IGNORECASE)
PASSING = "it does not say what lasts"
_ABOUT_ONESELF = re.compile(r"\b(?:i|my|me|mine|he|she|his|her)\b", re.IGNORECASE)


def understand(text: str) -> list[Statement]:
    """Everything that a text says about its author and their people, in its order.

    Args:
        text: what somebody typed; one sentence or several.

    Returns:
        At least one record: what can be learned, what has to be asked back, and what says nothing.
    """
    if len(text) > MAX_TEXT:
        return [_too_long(text[:MAX_TEXT])]
    found: list[Statement] = []
    supposed: Aside | None = None
    for sentence in sentences(text):
        aside = supposed or first_aside(straight(sentence), ("irony", "quoted", "denied", "supposed"))
        if aside and aside.rest:
            supposed = aside
        found += [_set_aside(sentence, aside)] if aside else _understood(sentence)
    if not found:
        question = "What should I remember about you? For example: my hobby is falconry."
        return [Statement(text, "ask", reason="nothing is said", question=question)]
    return found[:MAX_STATEMENTS]


def _understood(sentence: str) -> list[Statement]:
    """The statements of one sentence that nobody else said."""
    if len(sentence) > MAX_SENTENCE:
        return [_too_long(sentence)]
    parts = clauses(straight(sentence))
    found = [_clause(part) for part in parts]
    number = 0
    while number < len(found) - 1:
        # "my wife and I live in Turin", "I like my tea with milk and my steak rare": not two clauses after all.
        if not (_learned(found[number]) and _learned(found[number + 1])):
            both = f"{parts[number]} and {parts[number + 1]}"
            if _learned(again := _clause(both)):
                parts[number : number + 2], found[number : number + 2] = [both], [again]
                continue
        number += 1
    if any(one.status == "learn" for one in found[-1]):  # "I used to ..., but now ...": only now counts
        found = [clause for clause in found if not _is_over(clause[0])]
    if any(one.status == "learn" for clause in found for one in clause):
        found = [[_asked(one) if one.reason == PASSING else one for one in clause] for clause in found]
    if len(parts) == 1:
        return [replace(one, text=sentence) for one in found[0]]
    return [one for clause in found for one in clause]


def _asked(statement: Statement) -> Statement:
    """Beside something that is learned, what no rule covers is asked back rather than lost."""
    return replace(statement, status="ask", question=f'And "{statement.text}"? Say it in one short sentence.')


def _is_over(statement: Statement) -> bool:
    """Whether it says what was: "I left the army" before "and now I'm a postman"."""
    left = statement.status != "learn" and _LEFT.fullmatch(bare_clause(written_out(statement.text)))
    return statement.reason == PAST or bool(left)


def _learned(found: list[Statement]) -> bool:
    return all(one.status == "learn" for one in found)


def _clause(clause: str) -> list[Statement]:
    if polite := _POLITE.fullmatch(clause):
        found = read_clause(written_out(polite[1]))
        if all(one.status == "learn" and one.subject in STYLES for one in found):
            return [replace(_finished(one), text=clause) for one in found]
    if aside := first_aside(clause, ("irony", "quoted", "denied", "supposed", "question")):
        return [_set_aside(clause, aside)]
    full = written_out(clause)
    found = read_clause(full)
    if found[0].status != "learn" and not first_aside(clause, ("request", "moment", "chatter", "doubt", "past")):
        mended = respelled(full)
        if mended != full and (again := read_clause(mended))[0].status == "learn":
            found = again
    if all(one.subject in STYLES for one in found):
        return [replace(_finished(one), text=clause) for one in found]
    if passes(bare_clause(full)):
        return [Statement(clause, "nothing", reason=HOW_IT_IS)]
    if aside := first_aside(clause, ("request", "moment", "doubt", "past")):
        return [_set_aside(clause, aside)]
    if found[0].status == "ask":
        aside = first_aside(clause, ("chatter",))
        if aside:
            return [_set_aside(clause, aside)]
        if found[0].reason == UNCOVERED and found[0].value is None and not _LASTING.match(bare_clause(full)):
            why = PASSING if _ABOUT_ONESELF.search(full) else "it is not about its author"
            return [Statement(clause, "nothing", reason=why)]
    return [replace(_finished(one), text=clause) for one in found]


def _finished(statement: Statement) -> Statement:
    """What does not hold gets a kind of its own."""
    if statement.polarity == "+" or statement.status != "learn":
        return statement
    opposite = rules().opposites.get(statement.subject or "")
    return replace(statement, subject=opposite["subject"]) if opposite else statement


def _set_aside(text: str, aside: Aside) -> Statement:
    return Statement(text, aside.status, reason=aside.why, question=aside.question)


def _too_long(text: str) -> Statement:
    return Statement(
        text, "ask", reason="too long", question="That is a lot at once. Can you say it in one short sentence?"
    )
