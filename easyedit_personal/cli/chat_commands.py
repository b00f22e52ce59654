"""What a line that begins with a slash does in a chat. A blank before the slash makes it words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import did_you_mean
from ..statements.memory import current
from ..statements.preferences import Unclear
from ..store.rows import StoredEdit, check_user
from .screen import YES, interruptible

if TYPE_CHECKING:
    from .chat_room import ChatRoom


def obey(room: ChatRoom, line: str) -> bool:
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
        room.screen.say(
            f"There is no {name}.{hint} /help lists what there is; a blank before the slash makes it words."
        )
    else:
        command[1](room, rest.strip())
    return True


def _help(room: ChatRoom, _: str) -> None:
    for name, (usage, _do) in COMMANDS.items():
        what, _, does = usage.partition("|")
        room.screen.say(f"  {name + what:<16}{does}")
    room.screen.say("  /quit           leave; so does Ctrl-D. Ctrl-C stops an answer.")


def _prefs(room: ChatRoom, _: str) -> None:
    edits = [one for one in room.store.history(room.user) if one.live or _is_merged_live(room, one)]
    if not any(one.preferences for one in edits):
        room.screen.say("Nothing is known about you." if not edits else f"{len(edits)} edits without words.")
        return
    valid = current(room.store.preferences(room.user))
    for one in edits:
        for preference in one.preferences:
            number = one.id if one.merged is None else one.merged
            state = "" if preference in valid else "  (overruled by a later one)"
            room.screen.say(f"  {number:>3}  {preference.subject}: {preference.target}{state}")


def _is_merged_live(room: ChatRoom, edit: StoredEdit) -> bool:
    """Whether the edit lives on in the one that ``compact`` made of it."""
    return any(one.live and one.id == edit.merged for one in room.store.history(room.user))


def _learn(room: ChatRoom, text: str) -> None:
    if not text:
        room.screen.say("What shall I learn? For example: /learn my hobby is falconry")
        return
    for found in room.reader.read(text, room.user):
        preference = room.settled(found) if isinstance(found, Unclear) else found
        if preference is None:
            room.screen.say("Not learned.", "dim")
        else:
            room.learn(preference)


def _undo(room: ChatRoom, number: str) -> None:
    if number and not number.isdecimal():
        room.screen.say(f"{number!r} is no edit; /prefs lists them.")
        return
    # Not to be interrupted: what was learned jointly afterwards is put again, one edit after the other.
    with room.screen.working("Undoing ..."), interruptible():
        undone = room.learner.unlearn(room.user, int(number) if number else None)
    if not undone:
        room.screen.say("There is nothing to undo." if not number else f"Edit {number} was undone before.")
    for one in undone:
        said = ", ".join(f"{p.subject}: {p.target}" for p in one.preferences) or "an edit without words"
        room.screen.say(f"Undone: {said} (edit {one.id}).", "green")
    if undone and room.talk.exchanges:
        room.screen.say("What was said here is still in the conversation; /new clears it.", "dim")


def _as(room: ChatRoom, user: str) -> None:
    if user:
        room.become(check_user(user))
    else:
        room.screen.say(f"You are {room.user}. /as USER makes you somebody else.")


def _forget(room: ChatRoom, _: str) -> None:
    question = f"Forget everything that is kept of {room.user}? This cannot be taken back. [yes/no]"
    if room.ask(question).strip().casefold() in YES:
        count = room.forget()
        room.screen.say(f"{count} {'edit' if count == 1 else 'edits'} and this conversation forgotten.", "green")
    else:
        room.screen.say("Nothing was forgotten.", "dim")


def _new(room: ChatRoom, _: str) -> None:
    count = room.talk.clear()
    room.screen.say(f"A new conversation; {count} {'exchange' if count == 1 else 'exchanges'} left behind.", "dim")


def _export(room: ChatRoom, folder: str) -> None:
    if not folder:
        room.screen.say("Where to? For example: /export my-lora")
        return
    room.store.export_lora(room.user, folder, base_model=str(room.hparams.model_name))
    room.screen.say(f"Your copy is in {folder}, as a LoRA adapter for PEFT, vLLM and others.", "green")


# name -> (usage|what it does, function)
COMMANDS: dict[str, tuple[str, Callable[[ChatRoom, str], None]]] = {
    "/help": ("|this list", _help),
    "/prefs": ("|what is known about you", _prefs),
    "/learn": (" TEXT|remember something: /learn my hobby is falconry", _learn),
    "/undo": (" [EDIT]|take back the last edit, or one by its number in /prefs", _undo),
    "/as": (" USER|be somebody else, with a conversation of their own", _as),
    "/forget": ("|remove everything that is kept of you, for good", _forget),
    "/new": ("|begin a new conversation; what was learned stays", _new),
    "/export": (" FOLDER|write your copy as a LoRA adapter", _export),
}
