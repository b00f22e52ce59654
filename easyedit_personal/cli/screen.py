"""A terminal, or what stands in for one: lines in, plain text out, answers piece by piece, Ctrl-C as a question.

Without a terminal there are no escape codes, and what was read is written too, so that the output is a transcript.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from unicodedata import category

from rich.console import Console
from rich.markup import escape

YES = {"y", "yes", "yes please", "sure", "ok", "okay", "right"}
KEPT = "\n\t\u200c\u200d"
NO = {"", "n", "no", "no thanks", "nope"}


class Screen:
    """Where the user reads and writes.

    Attributes:
        interactive: somebody sits there; else lines come from a file or a program.
    """

    def __init__(self) -> None:
        self.interactive = sys.stdin.isatty() and sys.stdout.isatty()
        for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace")):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors=errors)
        if self.interactive:
            with suppress(ImportError):
                import readline  # noqa: F401 - makes input() know arrow keys and earlier lines
        colours = "auto" if sys.stdout.isatty() else None
        # A terminal breaks lines between words; a file keeps them whole.
        wraps = sys.stdout.isatty()
        self._console = Console(highlight=False, soft_wrap=not wraps, color_system=colours)  # type: ignore[arg-type]

    def read(self, prompt: str) -> str:
        """The next line.

        Raises:
            EOFError: there is none; at a terminal Ctrl-D.
            KeyboardInterrupt: Ctrl-C.
        """
        if self.interactive:
            return input(plain(prompt))
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        line = line.rstrip("\r\n")
        print(plain(prompt + line), flush=True)
        return line

    def say(self, text: str, style: str = "") -> None:
        """A line, or several; ``style`` is one of rich's."""
        self._console.print(f"[{style}]{escape(plain(text))}[/]" if style else escape(plain(text)))

    def stream(self, pieces: Iterable[str], stopped: Callable[[], bool]) -> tuple[str, bool]:
        """Write an answer as it comes, until its end or until somebody stops it.

        Returns:
            What was written, and whether it was stopped.
        """
        written = ""
        for piece in pieces:
            written += piece
            print(plain(piece), end="", flush=True)
            if stopped():
                break
        print(flush=True)
        return written, stopped()

    def working(self, what: str) -> AbstractContextManager[object]:
        """Shows that something takes its time, at a terminal."""
        return self._console.status(escape(what), refresh_per_second=4) if self.interactive else nullcontext()


def plain(text: str) -> str:
    """Text without characters that a terminal would obey, or that turn a line around; preferences may hold anything.

    Blanks of any width stay, and the joiners that emoji and some scripts need.
    """
    return "".join(
        char if char.isprintable() or char in KEPT or category(char) == "Zs" else _escaped(char) for char in text
    )


def _escaped(char: str) -> str:
    return repr(char)[1:-1]


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C becomes a question instead of an exception: a forward pass is not torn apart in the middle."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
