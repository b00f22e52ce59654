"""``easyedit-personal edit``: teach a user's model what they say, or what stands in a file.

Ends with 0 when everything is in the store, in weights or in words (warnings name what the answers do not show), with 2
when it could not go on, with 3 when something was not understood and nobody was there to be asked, or the user did not
want it, and then nothing was edited; and with 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .edit_report import Lesson, known_already, outcome, preview, say_stopped, show
from .session import DEVICE, ENDPOINT, ENDPOINT_MODEL, HPARAMS, KERNEL, MODEL, STORE, find_reader, find_settings, settle

if TYPE_CHECKING:
    from ..hparams import PersonalizationHyperParams
    from ..learning.session import Reader
    from ..statements.preferences import Unclear
    from ..types import Preference
    from .screen import Screen

NOT_UNDERSTOOD, INTERRUPTED = 3, 130  # exit statuses


def edit(
    texts: list[str] = typer.Argument(None, metavar="[TEXT]...", help="What the user says, in plain words."),
    store: str = STORE,
    user: str = typer.Option(None, "--user", "-u", help="The user's id; with --data, all records are theirs."),
    data: str = typer.Option(
        None, "--data", help="UPQA's or PrefEval's JSON, or JSON lines as `personalize` takes them.", show_default=False
    ),
    model: str = MODEL,
    hparams: str = HPARAMS,
    kernel: str = KERNEL,
    device: str = DEVICE,
    ask: bool = typer.Option(
        None, "--ask/--no-ask", help="Ask back what was not understood; default: at a terminal.", show_default=False
    ),
    endpoint: str = ENDPOINT,
    endpoint_model: str = ENDPOINT_MODEL,
    yes: bool = typer.Option(False, "--yes", "-y", help="Learn what was understood without asking."),
    keep: bool = typer.Option(False, "--keep", help="Keep edits in the weights also where their self-test fails."),
    together: bool = typer.Option(False, "--together", help="One edit for all: quicker, but undone as a whole."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Show what would be learned; edit nothing."),
    as_json: bool = typer.Option(False, "--json", help="JSON lines, for programs."),
) -> None:
    """Teach a user's model what they say: "I prefer aisle seats"."""
    from .screen import Screen

    screen = Screen()
    settings = find_settings(model, hparams, kernel, device)
    asks = data is None and (screen.interactive and not as_json if ask is None else ask)
    shows = asks and not yes and not dry_run
    if data is None:
        lessons = _said(screen, find_reader(endpoint, endpoint_model), texts, user, asks)
        if shows:
            lessons = _wanted(screen, lessons, store)
        if together:
            lessons = [(lessons[0][0], [preference for _, said in lessons for preference in said])]
    else:
        lessons = _read(data, texts, user)
    if dry_run:
        preview(screen, lessons, as_json)
    else:
        _teach(screen, lessons, store, settings, as_json, {"keep": keep, "settled": shows})


def _said(screen: Screen, reader: Reader, texts: Sequence[str] | None, user: str | None, ask: bool) -> list[Lesson]:
    """One lesson per statement, so that each can be undone alone; all are understood before the first is learned."""
    from ..errors import RequestError
    from ..statements.preferences import Unclear
    from ..store.ids import check_user

    if not texts or user is None:
        missing = "what they say" if user else "--user ID" if texts else "--user ID and what they say, or --data FILE"
        raise RequestError("Who is to be taught what?", needed=missing)
    check_user(user)
    lessons: list[Lesson] = []
    open_questions = []
    for found in [found for text in texts for found in reader.read(text, user)]:
        preference = _asked(screen, reader, found, user) if ask and isinstance(found, Unclear) else found
        if isinstance(preference, Unclear):
            open_questions.append(f"{preference.text!r}: {preference.question}")
        elif preference is not None:
            lessons.append((user, [preference]))
    if open_questions or not lessons:
        _not_understood(open_questions)
    return lessons


def _asked(screen: Screen, reader: Reader, unclear: Unclear, user: str) -> Preference | None:
    def reply(question: str) -> str:
        screen.say(question)
        try:
            return screen.read("> ")
        except EOFError:
            return ""

    screen.say(f'"{unclear.text}"? (Enter leaves it out.)')
    return settle(screen, reader, unclear, user, reply)


def _wanted(screen: Screen, lessons: Sequence[Lesson], url: str) -> list[Lesson]:
    """What is left of the lessons of one user once they have seen what was understood, and agreed.

    Raises:
        typer.Exit: they did not, or nothing is left.
    """
    from .understood import agreed, say_understood, settle_earlier

    user, known = lessons[0][0], _known_of(url, lessons[0][0])

    def ask(question: str) -> str:
        screen.say(question)
        return screen.read("> ")

    told = [preference for _, said in lessons for preference in said]
    left = settle_earlier(screen, told, known, ask)
    if left:
        say_understood(screen, left, known)
    if not left or not agreed(ask):
        screen.say("Nothing was edited.")
        raise typer.Exit(NOT_UNDERSTOOD)
    return [(user, [preference]) for preference in left]


def _known_of(url: str, user: str) -> list[Preference]:
    """What an existing store holds of a user; a new one is not made for the question."""
    from ..statements.memory import current
    from ..store import EditStore
    from ..store.database import exists

    if not exists(url):
        return []
    with EditStore.open(url) as store:
        return current(store.preferences(user))


def _not_understood(questions: Sequence[str]) -> None:
    print("Not understood, so nothing was edited:" if questions else "Nothing was edited.", file=sys.stderr)
    for question in questions:
        print(f"  - {question}", file=sys.stderr)
    if questions:
        print("Say it differently, use --ask at a terminal, or --endpoint for a language model.", file=sys.stderr)
    raise typer.Exit(NOT_UNDERSTOOD)


def _read(data: str, texts: Sequence[str] | None, user: str | None) -> list[Lesson]:
    """One lesson per user: what a file says about somebody is solved together."""
    from ..bulk.preferences_file import read_told
    from ..errors import RequestError

    if texts:
        raise RequestError("Preferences come from a file or from words, not both.", got=texts[0], needed="one of them")
    return list(read_told(data if data == "bundled" else Path(data), user).items())


def _teach(
    screen: Screen,
    lessons: Sequence[Lesson],
    url: str,
    settings: PersonalizationHyperParams,
    as_json: bool,
    options: Mapping[str, Any],
) -> None:
    from ..learning.learned import Learned
    from ..learning.learner import Learner
    from ..learning.session import learn_once
    from ..modeling.loading import load_model
    from ..progress import progress_within
    from ..store import EditStore
    from ..store.database import check_store

    check_store(url)
    model, tokenizer = load_model(settings)
    with EditStore.open(url, model, tokenizer) as store:
        learner = Learner(model, tokenizer, store, settings)
        for place, (user, preferences) in enumerate(lessons):
            try:
                with progress_within("Learning", place, len(lessons)):
                    results = learn_once(learner, user, preferences, **options)
            except KeyboardInterrupt:
                say_stopped(store, lessons)
                raise typer.Exit(INTERRUPTED) from None
            for preference, result in zip(preferences, results):
                if isinstance(result, Learned):
                    show(screen, outcome(user, result, settings), as_json)
                else:
                    show(screen, known_already(user, preference, result), as_json)
