"""One person chats with their own copy of SmolLM2 for twenty turns, as they would at a terminal.

    python examples/chatting.py > docs/chat-recording.txt

What is typed is in ``TURNS``; "y" replies to the chat's questions. The chat itself writes what it reads and what it
answers; long lines are folded, and nothing else changes. ``--turns N`` stops after the first N.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from recording import record

# A line per turn; what stands after " | " are the replies to what the chat asks back.
TURNS = """\
Hi there!
My hobby is letterpress printing. | y
What should I do this weekend?
/why
/compare What is my hobby?
I'm vegetarian and I live in Antwerp. | y | y
What could I cook tonight?
I hate horror movies. | y
Please keep your answers short. | y
My sister Lena is a vet. | y
What does my sister do for a living?
I moved from Antwerp to Ghent. | y
Where do I live?
/prefs
What is the capital of France?
/undo
Where do I live?
What kind of films do I not like?
How are you today?
/compare What should I do this weekend?
"""
COMMANDS = """
easyedit-personal chat --model {model} --store edits.db --user ada \\
    --max-new-tokens 60 < typed.txt

easyedit-personal store show ada --store edits.db
"""


def typed(turns: int) -> str:
    """The lines of the first turns with their replies, and the command that leaves."""
    lines = [line for turn in TURNS.splitlines()[:turns] for line in turn.split(" | ")]
    return "".join(f"{line}\n" for line in [*lines, "/quit"])


def main() -> None:
    """Record the chat in an empty folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=len(TURNS.splitlines()))
    parser.add_argument("--model", default="smollm2", help="a name or an absolute path")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("typed.txt").write_text(typed(options.turns), encoding="utf-8")
        record(COMMANDS.format(model=options.model))


if __name__ == "__main__":
    main()
