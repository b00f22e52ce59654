"""What ``edit`` says of each preference: what came of it, as lines for people or as JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..hparams import PersonalizationHyperParams
    from ..learning.learned import Learned
    from ..store import EditStore, StoredEdit
    from ..types import Preference
    from .screen import Screen

WHERE = {"words": "words: the model reads it in its prompt, with every question"}
OTHER_SETTINGS = "the settings are derived; other layers or rates may do better, see docs/your-own-model.md"

# Whose they are, and what is learned as one edit.
Lesson = tuple[str, Sequence["Preference"]]


def known_already(user: str, preference: Preference, edit: StoredEdit) -> dict[str, Any]:
    """The record of what an earlier edit holds already."""
    return {
        "user": user,
        "subject": preference.subject,
        "target": preference.target,
        "edit": edit.id if edit.merged is None else edit.merged,
        "where": edit.where,
        "known": "learned before, in the same way; nothing was done",
    }


def outcome(user: str, learned: Learned, settings: PersonalizationHyperParams) -> dict[str, Any]:
    """The record of what was learned: where it is, what is answered before and after, and what to be warned of."""
    from ..editing.health_check import over_limits
    from ..generation.score import contained
    from ..statements.memory import why_in_words

    preference = learned.preference
    shown: dict[str, Any] = {
        "user": user,
        "subject": preference.subject,
        "target": preference.target,
        "edit": learned.edit,
        "where": learned.where,
        "why": learned.why,
    }
    if learned.overruled:
        shown["overrules"] = [f"{one.subject}: {one.target}" for one in learned.overruled]
    if learned.where == "words":
        derived = settings.made_for.status == "derived" and why_in_words(preference.subject) is None
        return {**shown, "remedy": OTHER_SETTINGS} if derived else shown
    shown |= {
        "question": preference.question,
        "before": learned.before,
        "after": learned.after,
        "bytes": learned.nbytes,
        "seconds": round(learned.seconds, 2),
        "health": {name: round(value, 3) for name, value in learned.health.items()},
    }
    if learned.test:
        shown["self_test"] = [f"{one.question} - {one.answer}" for one in learned.test.replies[1:]]
    warnings = over_limits(learned.health, settings.health)
    if not contained(learned.after, preference.target):
        warnings.append("the answer does not hold what was to be learned; try other settings, or undo")
    elif learned.test and learned.test.fault:
        warnings.append(learned.test.fault)
    return {**shown, "warnings": warnings} if warnings else shown


def show(screen: Screen, shown: dict[str, Any], as_json: bool) -> None:
    """A record as a JSON line, or as lines for people."""
    from .understood import shortened

    if as_json:
        print(json.dumps(shown, ensure_ascii=False), flush=True)
        return
    rest = {name: value for name, value in shown.items() if name not in ("user", "subject", "target")}
    screen.say(f"{shown['user']}: {shown['subject']} = {shown['target']}", "bold")
    for name, value in rest.items():
        shown_value = WHERE.get(value, value) if name == "where" else value
        if name in ("before", "after"):
            shown_value = shortened(value)
        elif name == "self_test":
            shown_value = [shortened(one) for one in value]
        screen.say(f"  {name:<10}{_readable(shown_value)}", "yellow" if name in ("warnings", "remedy") else "")


def _readable(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {figure:g}" for name, figure in value.items()) or "not looked at"
    if isinstance(value, list):
        return "; ".join(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def preview(screen: Screen, lessons: Sequence[Lesson], as_json: bool) -> None:
    """What would be learned."""
    for user, preferences in lessons:
        for preference in preferences:
            shown = {
                "user": user,
                "subject": preference.subject,
                "question": preference.question,
                "target": preference.target,
                "phrases": len(preference.phrases),
            }
            show(screen, shown, as_json)
    if not as_json:
        screen.say("Nothing was edited: this was a dry run.")


def say_stopped(store: EditStore, lessons: Sequence[Lesson]) -> None:
    """After Ctrl-C: what is in the store and what is not."""
    from ..learning.session import believed
    from .screen import plain

    told = [(user, one) for user, preferences in lessons for one in preferences]
    there = {place for place, (user, one) in enumerate(told) if believed(store, user, one)}
    for what, wanted in (("Kept", True), ("Not learned", False)):
        some = [one for place, one in enumerate(told) if (place in there) == wanted]
        said = "; ".join(f"{user}: {one.subject} = {one.target}" for user, one in some)
        print(plain(f"{what}: {said or 'nothing'}"), file=sys.stderr)
    print("The same command again goes on where this one was stopped.", file=sys.stderr)
