"""What is added to files that EasyEdit has already: lines of ours, and where they go, found in its syntax.

No line of EasyEdit's is kept here; places are described by the names that its documentation tells contributors to use.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from easyedit_personal.errors import HostError, listing

Place = Callable[[str], int]
"""From a file's text to the offset (characters) at which ours goes; LookupError where there is no such place."""


@dataclass(frozen=True, slots=True)
class Addition:
    """Lines for one place of one file.

    Attributes:
        file: inside the checkout.
        where: the place in words.
        place: how it is found.
        text: what is inserted, with the line breaks that it needs.
    """

    file: str
    where: str
    place: Place
    text: str


def _offset(source: str, line: int, column: int) -> int:
    """Character offset of ast's position: lines from 1, columns in UTF-8 bytes."""
    lines = source.splitlines(keepends=True)
    return len("".join(lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())


def _end(source: str, node: ast.AST) -> int:
    return _offset(source, node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]


def _last(source: str, nodes: list[ast.AST]) -> int:
    if not nodes:
        raise LookupError
    return _end(source, nodes[-1])


def after_imports(source: str) -> int:
    """Behind the last import at a module's top."""
    return _last(source, [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)])


def last_entry(source: str, name: str) -> int:
    """Behind the last value of the dictionary ``name``."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict) and _named(node.targets[0], name):
            return _last(source, [*node.value.values])
    raise LookupError


def last_member(source: str, name: str) -> int:
    """Behind the last attribute of the class ``name``."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _last(source, [part for part in node.body if isinstance(part, ast.Assign)])
    raise LookupError


def returned(source: str, name: str) -> int:
    """Behind what the function ``name`` returns."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _last(source, [part for part in node.body if isinstance(part, ast.Return)])
    raise LookupError


def before_heading(source: str, words: str) -> int:
    """Before the first Markdown heading with these words."""
    if found := re.search(rf"^#+ .*{re.escape(words)}.*$", source, re.MULTILINE):
        return found.start()
    raise LookupError


def _named(target: ast.expr, name: str) -> bool:
    return isinstance(target, ast.Name) and target.id == name


REGISTRY = "easyeditor/util/alg_dict.py"
BATCH = "easyeditor/editors/batch_editor.py"
SECTION = """## Personalization

**PersonalizationEditor** makes a user's preferences ("I'm vegetarian") low-rank updates of a few matrices: some
kilobytes per user, undone bit for bit. Data: UPQA. See
[its README](easyeditor/models/personalization/README.md) and `examples/run_upqa.py`.

"""
ADDITIONS = (
    Addition(
        REGISTRY,
        "behind the imports",
        after_imports,
        "\nfrom ..models.personalization import PersonalizationHyperParams, apply_personalization_to_model"
        "\nfrom ..dataset.upqa import UPQADataset",
    ),
    Addition(
        REGISTRY,
        "last entry of ALG_DICT",
        partial(last_entry, name="ALG_DICT"),
        ',\n    "PersonalizationEditor": apply_personalization_to_model',
    ),
    Addition(REGISTRY, "last entry of DS_DICT", partial(last_entry, name="DS_DICT"), ',\n    "upqa": UPQADataset'),
    Addition(
        BATCH,
        "last member of BatchEditor",
        partial(last_member, name="BatchEditor"),
        '\n    PERSONALIZATION = "PersonalizationEditor"',
    ),
    Addition(
        BATCH,
        "end of is_batchable_method",
        partial(returned, name="is_batchable_method"),
        " \\\n            or alg_name == BatchEditor.PERSONALIZATION.value",
    ),
    Addition(
        "easyeditor/models/__init__.py", "behind the imports", after_imports, "\nfrom .personalization import *\n"
    ),
    Addition(
        "easyeditor/dataset/__init__.py", "behind the imports", after_imports, "\nfrom .upqa import UPQADataset\n"
    ),
    Addition(
        "README.md",
        "before the section on contributing",
        partial(before_heading, words="How to contribute"),
        SECTION,
    ),
)


def added(checkout: Path) -> dict[Path, str]:
    """The new texts of EasyEdit's files, by path; nothing is written.

    Raises:
        HostError: a file or a place in it is missing, or ours is there already; all faults at once.
    """
    texts: dict[Path, str] = {}
    faults = []
    for addition in ADDITIONS:
        path = checkout / addition.file
        try:
            text = texts[path] if path in texts else path.read_text(encoding="utf-8")
            if addition.text.strip(" ,\\\n") in text:
                faults.append(f"{addition.file}: ours is there already ({addition.where})")
            place = addition.place(text)
        except (OSError, LookupError, SyntaxError):
            faults.append(f"{addition.file}: no such place: {addition.where}")
            continue
        texts[path] = text[:place] + addition.text + text[place:]
    if faults:
        raise HostError(
            f"This checkout cannot be added to; nothing was written.\n{listing(faults)}",
            got=str(checkout),
            needed="an unchanged checkout of EasyEdit",
            cause="it was added to before, or it is of another version than commit 14cea82 (2026-07-14)",
            remedy="git stash in the checkout, or add by hand what PULL_REQUEST.md lists",
        )
    return texts
