"""Folders and files that appear whole or not at all, and names of users that are safe as names of folders.

Writers here first write next to the target and then rename, which one file system does in one step.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from torch import nn

from ..errors import StoreError

PLAIN = re.compile(r"[a-z0-9]+(?:[_-][a-z0-9]+)*")
LONGEST = 48
WINDOWS = re.compile(r"con|prn|aux|nul|com[0-9]|lpt[0-9]")  # names of devices there
# PEFT keeps adapters in these, under their names: one called "keys" would raise, and so would one with a dot.
TAKEN = frozenset(dir(nn.ModuleDict())) | frozenset(dir(nn.ParameterDict()))


def folder_name(user: str) -> str:
    """A name for a user's folder that says who it is where that is harmless, and never leaves its parent.

    Plain lower-case names are kept. All others get two hyphens and a digest (128 bits), which plain names cannot hold:
    two users never share a folder, neither by chance, nor on a file system that ignores case, nor on purpose. The
    names do as names of adapters too (PEFT takes no dot, vLLM's command line no equals sign, SGLang's no colon).
    """
    plain = len(user) <= LONGEST and PLAIN.fullmatch(user) is not None
    if plain and not WINDOWS.fullmatch(user) and user not in TAKEN:
        return user
    digest = hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    readable = re.sub(r"[^a-z0-9]+", "-", user[:64].lower()).strip("-")[:24] or "user"
    return f"{readable}--{digest}"


def replace_folder(folder: Path, write: Callable[[Path], None], *, allowed: Collection[str]) -> Path:
    """Let ``write`` fill a new folder, then put it in the place of ``folder``.

    Args:
        folder: the target; it may exist if it holds nothing but files named in ``allowed``.
        write: gets an empty folder next to the target.

    Raises:
        StoreError: the target holds something else, or the disk refuses. The target is then as before.
    """
    folder = Path(os.path.abspath(folder))  # no symlink is followed: a link there would be replaced, not its target
    _check_replaceable(folder, allowed)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder.parent) as scratch:
            fresh, old = Path(scratch) / "new", Path(scratch) / "old"
            fresh.mkdir()
            write(fresh)
            _swap(folder, fresh, old)
    except OSError as error:
        raise StoreError(f"{folder} cannot be written: {error}") from None
    return folder


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise StoreError(f"{path} cannot be written: {error}") from None


def _swap(folder: Path, fresh: Path, old: Path) -> None:
    """Two renames: for an instant there is no folder, but never half a one."""
    if folder.exists():
        folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise


def _check_replaceable(folder: Path, allowed: Collection[str]) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise StoreError(f"{folder} is no folder.", needed="a new folder, or an earlier export")
    others = sorted({entry.name for entry in folder.iterdir()} - set(allowed)) if folder.is_dir() else []
    if others:
        raise StoreError(
            f"{folder} holds other files; it would be replaced as a whole.",
            got=others[:5],
            needed="a new folder, an empty one, or an earlier export",
            remedy="name a folder of its own for each adapter",
        )
