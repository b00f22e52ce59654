"""What a line that begins with a slash does in a chat. A blank before the slash makes it words."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, zip_longest
from math import exp
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from ..errors import did_you_mean
from ..serving.active import shares
from ..statements.memory import current
from ..statements.preferences import Unclear
from ..store.ids import check_user
from ..store.records import StoredEdit, came_back
from .screen import YES, interruptible
from .store import left_out_of_lora

if TYPE_CHECKING:
    from .chat_session import ChatSession


def obey(session: ChatSession, line: str) -> bool:
    """Carry out a command line such as "/undo 3".

    Returns:
        Whether the chat goes on.
    """
    name, _, rest = line.strip().partition(" ")
    if name in ("/quit", "/exit", "/q"):
        return False
    command = COMMANDS.get(name)
    if command is None:
        hint = did_you_mean(name, [*COMMANDS, "/quit"])
        session.screen.say(
            f"There is no {name}.{hint} /help lists what there is; a blank before the slash makes it words."
        )
    else:
        command[1](session, rest.strip())
    return True


def _help(session: ChatSession, _: str) -> None:
    for name, (usage, _do) in COMMANDS.items():
        what, _, does = usage.partition("|")
        session.screen.say(f"  {name + what:<16}{does}")
    session.screen.say("  /quit           leave; so does Ctrl-D. Ctrl-C stops an answer.")


def _prefs(session: ChatSession, _: str) -> None:
    edits = [one for one in session.store.history(session.user) if one.live or _is_merged_live(session, one)]
    if not any(one.preferences for one in edits):
        session.screen.say("Nothing is known about you." if not edits else f"{len(edits)} edits without words.")
        return
    valid = current(session.store.preferences(session.user))
    for one in edits:
        for preference in one.preferences:
            number = one.id if one.merged is None else one.merged
            state = "" if preference in valid else "  (overruled by a later one)"
            place = f"  [in {one.where}{f': {one.why}' if one.why else ''}]"
            session.screen.say(f"  {number:>3}  {preference.subject}: {preference.target}{state}{place}")


def _is_merged_live(session: ChatSession, edit: StoredEdit) -> bool:
    """Whether the edit lives on in the one that ``compact`` made of it."""
    return any(one.live and one.id == edit.merged for one in session.store.history(session.user))


def _learn(session: ChatSession, text: str) -> None:
    if not text:
        session.screen.say("What shall I learn? For example: /learn my hobby is falconry")
        return
    wanted = []
    for found in session.reader.read(text, session.user):
        preference = session.settled(found) if isinstance(found, Unclear) else found
        if preference is None:
            session.screen.say("Not learned.", "dim")
        else:
            wanted.append(preference)
    if wanted:
        session.teach(wanted)


def _undo(session: ChatSession, number: str) -> None:
    if number and not number.isdecimal():
        session.screen.say(f"{number!r} is no edit; /prefs lists them.")
        return
    # Not to be interrupted: what was learned jointly afterwards is put again, one edit after the other.
    with session.screen.working("Undoing ..."), interruptible():
        undone = session.learner.unlearn(session.user, int(number) if number else None)
    if not undone:
        session.screen.say("There is nothing to undo." if not number else f"Edit {number} was undone before.")
    for one in undone:
        said = ", ".join(f"{p.subject}: {p.target}" for p in one.preferences) or "an edit without words"
        session.screen.say(f"Undone: {said} (edit {one.id}).", "green")
    for one in came_back(session.store.history(session.user), undone):
        said = ", ".join(f"{p.subject}: {p.target}" for p in one.preferences)
        session.screen.say(f"Back again: {said} (edit {one.id}).", "green")
    if undone and session.talk.exchanges:
        session.screen.say("What was said here is still in the conversation; /new clears it.", "dim")


def _as(session: ChatSession, user: str) -> None:
    if user:
        session.become(check_user(user))
    else:
        session.screen.say(f"You are {session.user}. /as USER makes you somebody else.")


def _forget(session: ChatSession, _: str) -> None:
    question = f"Forget everything that is kept of {session.user}? This cannot be taken back. [yes/no]"
    if session.ask(question).strip().casefold() in YES:
        count = session.forget()
        session.screen.say(f"{count} {'edit' if count == 1 else 'edits'} and this conversation forgotten.", "green")
    else:
        session.screen.say("Nothing was forgotten.", "dim")


def _new(session: ChatSession, _: str) -> None:
    count = session.talk.clear()
    session.keep_talk()
    session.screen.say(f"A new conversation; {count} {'exchange' if count == 1 else 'exchanges'} left behind.", "dim")


def _export(session: ChatSession, folder: str) -> None:
    if not folder:
        session.screen.say("Where to? For example: /export my-lora")
        return
    session.store.export_lora(session.user, folder, base_model=str(session.hparams.model_name))
    session.screen.say(f"Your copy is in {folder}, as a LoRA adapter for PEFT, vLLM and others.", "green")
    if words := session.store.words(session.user):
        session.screen.say(left_out_of_lora(words))


def _more(session: ChatSession, _: str) -> None:
    session.more()


def _why(session: ChatSession, _: str) -> None:
    last = session.talk.last()
    if last is None:
        session.screen.say("There was no answer yet.")
        return
    parts, sentences = session.store.parts(session.user), session.served.cache.memory(session.user)[1]
    with session.screen.working("Asking without each of them ..."), interruptible():
        found = shares(session.served, parts, sentences, *last)
    if not found:
        session.screen.say("None: nothing is known about you.")
        return
    names = {one.id: one for one in session.store.history(session.user)}
    session.screen.say("Memories in the last answer, by how many times less likely it would be without each:")
    for share in found:
        what = f'"{share.sentence}" (in words)' if share.edit is None else _named(names.get(share.edit), share.edit)
        mark = "*" if share.active else " "
        session.screen.say(f"  {mark} {_times(share.nats):>10}  {what}", "" if share.active else "dim")
    session.screen.say("* active. Each is left out in turn, and the model reads its answer again.", "dim")


def _named(edit: StoredEdit | None, number: int) -> str:
    said = "; ".join(f"{one.subject}: {one.target}" for one in edit.preferences) if edit else ""
    return f"{said or 'several, merged by compact'} (edit {number})"


def _times(nats: float) -> str:
    return "-" if nats < 0.1 else f"{exp(nats):.1f} x" if nats < 9 else f"e^{nats:.0f} x"


def _compare(session: ChatSession, text: str) -> None:
    last = session.talk.last()
    if not text and last is None:
        session.screen.say("What shall both answer? For example: /compare What should I do on Saturday?")
        return
    asked: Any = [{"role": "user", "content": text}] if text or last is None else last[0]
    with session.screen.working("Both answer ..."), interruptible():
        base, yours = session.served.generate_for(
            [None, session.user], [asked] * 2, max_new_tokens=session.talk.max_new_tokens
        )
    for line in side_by_side(("the base model", base.text), ("yours", yours.text)):
        session.screen.say(line)


def side_by_side(*columns: tuple[str, str], width: int = 80) -> list[str]:
    """Titles and texts beside each other, in lines that are no longer than ``width``."""
    each = (width - 3 * (len(columns) - 1)) // len(columns)
    wrapped = [
        [title, "-" * each, *chain.from_iterable(wrap(line, each) or [""] for line in text.splitlines())]
        for title, text in columns
    ]
    rows = zip_longest(*wrapped, fillvalue="")
    return [" | ".join(f"{cell:<{each}}" for cell in row).rstrip() for row in rows]


# name -> (usage|what it does, function)
COMMANDS: dict[str, tuple[str, Callable[[ChatSession, str], None]]] = {
    "/help": ("|this list", _help),
    "/prefs": ("|what is known about you", _prefs),
    "/learn": (" TEXT|remember something: /learn my hobby is falconry", _learn),
    "/undo": (" [EDIT]|take back the last edit, or one by its number in /prefs", _undo),
    "/as": (" USER|be somebody else, with a conversation of their own", _as),
    "/forget": ("|remove everything that is kept of you, for good", _forget),
    "/more": ("|go on with an answer that was cut", _more),
    "/why": ("|which memories were active in the last answer", _why),
    "/compare": (" [TEXT]|the base model's answer beside yours, to this or to the last question", _compare),
    "/new": ("|begin a new conversation; what was learned stays", _new),
    "/export": (" FOLDER|write your copy as a LoRA adapter", _export),
}
