"""Reading documents as a reader does: their text, code blocks, links, quoted names and commands."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md", "benchmarks/SCALE.md")
DOCUMENTS = [
    *(ROOT / name for name in NAMES),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*.md")),
    *sorted((ROOT / "examples").glob("*.ipynb")),
    ROOT / "tests" / "README.md",
    ROOT / "tests" / "tiny_model" / "README.md",
    ROOT / "easyedit_personal" / "kernels" / "METHOD.md",
]
SHELL = ("", "sh", "bash", "shell", "console")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^|\n)\n((?: {4}.+\n)+)")
_CONTINUED = re.compile(r"\\\n\s*")
_LINK = re.compile(r"\]\(([^)#\s]*)(#[^)\s]*)?\)")


def text_of(path: Path) -> str:
    """A document as Markdown; a notebook's code cells become Python blocks."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(text)["cells"]]
    return "\n\n".join(f"```python\n{source}\n```" if kind == "code" else source for kind, source in cells)


def blocks(text: str, *languages: str) -> list[str]:
    """Fenced code blocks of some languages, in order."""
    return [code for language, code in _FENCE.findall(text) if language in languages]


def spans(text: str) -> list[str]:
    """Everything between single backticks outside of code blocks, on one line."""
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", _FENCE.sub("", text))]


def links(text: str) -> list[tuple[str, str]]:
    """(path, anchor) of every link that stays in the repository; either may be empty."""
    return [link for link in _LINK.findall(_FENCE.sub("", text)) if not re.match(r"\w+:", link[0])]


def anchors(text: str) -> set[str]:
    """The anchors that a site such as GitHub gives a document's headings."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", heading.lower()).replace(" ", "-") for heading in headings}


def command_lines(text: str) -> Iterator[list[str]]:
    """Commands in shell blocks, indented blocks and quotes, as words; what cannot be split is no command."""
    code = [*blocks(text, *SHELL), *_INDENTED.findall(_FENCE.sub("", text))]
    lines = [line.strip() for block in code for line in _CONTINUED.sub(" ", block).splitlines()]
    for line in [*lines, *spans(text)]:
        try:
            words = shlex.split(line.removeprefix("$ "), comments=True)
        except ValueError:
            continue
        yield from _split(words)


def _split(words: list[str]) -> Iterator[list[str]]:
    """The commands of one line, without variables before them, and what they are piped or written to."""
    command: list[str] = []
    for word in [*words, "&&"]:
        if word in ("&&", "||", "|", ";", ">", ">>"):
            if command:
                yield command
            command = []
        elif command or not re.fullmatch(r"(export|[A-Z_]+=.*)", word):
            command.append(word)
