"""What is said around learning: what was understood, where it will live, what it replaces, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..statements.memory import is_listed, overrules, together, why_in_words
from ..statements.preferences import Unclear

if TYPE_CHECKING:
    from ..learning.learned import Learned
    from ..types import Preference
    from .screen import Screen

# "I like that", "I would like to know": nothing that could be remembered.
NO_VALUES = {
    "it",
    "that",
    "this",
    "these",
    "those",
    "them",
    "you",
    "your",
    "him",
    "her",
    "how",
    "what",
    "when",
    "to",
    "a",
}

MANY_WORDS = 12  # from here on, an answer without a final point was cut
ADD, REPLACE = {"a", "add", "both", "b"}, {"r", "replace"}


def say_understood(screen: Screen, preferences: Sequence[Preference], known: Sequence[Preference]) -> None:
    """A line for each preference: what it is, where it will live and what it replaces.

    Args:
        known: what the user's memory holds.
    """
    screen.say("I understood:")
    for one in preferences:
        why = why_in_words(one.subject)
        place = f"in words: {why}" if why else "in the weights"
        screen.say(f"  {one.subject}: {one.target}  ({place})")
        for earlier in known:
            if overrules(one, earlier) and earlier.target != one.target:
                screen.say(f"    replaces {earlier.subject}: {earlier.target}", "yellow")


def settle_earlier(
    screen: Screen, preferences: Sequence[Preference], known: Sequence[Preference], ask: Callable[[str], str]
) -> list[Preference]:
    """Ask what becomes of an earlier value where one may have several of a kind; left out are those the user leaves."""
    kept = []
    for one in preferences:
        earlier = next((other for other in known if overrules(one, other)), None) if is_listed(one.subject) else None
        if earlier is None or together(earlier, one).target in (one.target, earlier.target):
            kept.append(one)
            continue
        told = f"Your {earlier.subject} is {earlier.target} so far."
        word = ask(f'{told} Add "{one.target}", replace it, or leave it? [a/r/l]').strip().casefold()
        if word in ADD:
            kept.append(replace(together(earlier, one), user=one.user))
        elif word in REPLACE:
            kept.append(one)
        else:
            screen.say(f"  {one.subject} stays as it is.", "dim")
    return kept


def agreed(ask: Callable[[str], str]) -> bool:
    """Whether what was understood shall be learned; Enter is a yes, the end of the input is none."""
    from .screen import YES

    try:
        word = ask("Shall I learn this? [Y/n]").strip().casefold()
    except EOFError:
        return False
    return word == "" or word in YES


def say_learned(screen: Screen, learned: Learned) -> None:
    """What came of a preference: where it is kept and why, and what the model answers now."""
    preference = learned.preference
    what = f"{preference.subject}: {preference.target}"
    if learned.where == "words":
        screen.say(f"Kept in words: {what} (edit {learned.edit}; {learned.why}).", "green")
    else:
        cost = f"edit {learned.edit}, {learned.nbytes:,} bytes, {learned.seconds:.1f} s"
        screen.say(f"Learned: {what} ({cost}; {learned.why}).", "green")
        before, after = shortened(learned.before), shortened(learned.after)
        screen.say(f"  {preference.question}  before: {before}  now: {after}", "dim")
    for reply in learned.test.replies[1:] if learned.test else ():
        screen.say(f"  {reply.question}  now: {shortened(reply.answer)}", "dim")
    if learned.test and learned.test.fault:
        screen.say(f"  {learned.test.fault}", "yellow")
    for old in learned.overruled:
        screen.say(f"  This overrules {old.subject}: {old.target}.", "dim")


def shortened(answer: str) -> str:
    """An answer with dots behind it where it was cut, as those are that only show what an edit does."""
    ends = len(answer.split()) < MANY_WORDS or answer.rstrip().endswith((".", "!", "?", ":", '"', "'", ")", "`"))
    return answer if ends else f"{answer.rstrip()} ..."


def value_without_kind(found: Preference | Unclear) -> str | None:
    """The value of a statement whose kind is missing, if it could be remembered once that is said."""
    value = found.value if isinstance(found, Unclear) else None
    return value if value and value.split()[0].casefold() not in NO_VALUES else None
