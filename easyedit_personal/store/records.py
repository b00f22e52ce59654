"""Edits as callers see them: the history's record, where what it holds is kept, and which of them an undo means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from ..errors import StoreError
from ..statements.memory import overrules
from ..types import Preference

WORDS = "words"  # the kernel of what is kept in words: such a row has no factors
Where = Literal["weights", "words"]


@dataclass(frozen=True, slots=True)
class StoredEdit:
    """One edit as the history shows it, without its factors.

    Attributes:
        id: the store's running number of this change; a user's ``version`` right after the put.
        user: whose edit it is.
        created: when it was put, UTC.
        live: whether it is part of the user's model now.
        preference: what the user had said; the first, where an edit was made from several.
        kernel: which kernel made it.
        hparams: its hyper-parameters.
        health: figures of the health panel.
        nbytes: size of its own factors in the store.
        merged: the edit that holds its factors since ``compact``; None otherwise.
        preferences: all that the edit was made from.
        why: it is kept where it is; empty where nobody said.
        instead: edits that gave way to it, and come back when it is undone.
        remade: whether what is live between them and it was made again when it came, and goes with it.
        shared_bytes: size of the factors that it refers to and others may, too; the store keeps them once.
    """

    id: int
    user: str
    created: datetime
    live: bool
    preference: Preference | None
    kernel: str
    hparams: Mapping[str, Any]
    health: Mapping[str, float]
    nbytes: int
    merged: int | None = None
    preferences: tuple[Preference, ...] = ()
    why: str = ""
    instead: tuple[int, ...] = ()
    remade: bool = False
    shared_bytes: int = 0

    @property
    def where(self) -> Where:
        """Whether it changes the user's weights, or stands in their prompt."""
        return where_of(self.kernel)


def where_of(kernel: str) -> Where:
    """Where what a kernel made is kept."""
    return "words" if kernel == WORDS else "weights"


def to_undo(user: str, known: list[StoredEdit], edit_id: int | None, to_version: int | None) -> list[StoredEdit]:
    """The live edits of a user's history that an undo means; see ``EditStore.undo``.

    Raises:
        StoreError: there is no such edit, or it was merged by ``compact``.
    """
    live = [edit for edit in known if edit.live]
    if to_version is not None:
        return [edit for edit in live if edit.id > to_version]
    if edit_id is None:
        return live[-1:]
    named = next((edit for edit in known if edit.id == edit_id), None)
    if named is None:
        needed = f"one of {[edit.id for edit in known]}" if known else "an edit of this user; there are none"
        raise StoreError(f"User {user!r} has no edit {edit_id}.", needed=needed)
    if named.merged is not None:
        raise StoreError(
            f"Edit {edit_id} of user {user!r} was merged with others by compact.",
            needed=f"edit {named.merged}, which undoes all of them",
        )
    return [named] if named.live else []


def to_give_back(
    known: Sequence[StoredEdit], undone: Sequence[StoredEdit], to_version: int | None
) -> tuple[list[StoredEdit], list[StoredEdit]]:
    """What comes back when edits are undone that others gave way to, and what goes with them.

    Nothing comes back that a later value overrules, or that later edits were not made for.

    Args:
        known: the user's history, before the undo.
        undone: what is taken back.
        to_version: nothing younger comes back; None is no limit.
    """
    gone, back = {edit.id for edit in undone}, []
    with_them: list[StoredEdit] = []
    for edit in (one for one in undone if one.instead):
        later = [one for one in known if one.live and one.id > edit.id and one.id not in gone]
        if edit.remade:
            if any(one.where == "weights" for one in later):
                continue
            first = min(edit.instead)
            with_them += [one for one in known if one.live and first <= one.id < edit.id and one.id not in gone]
        back += [one for one in known if one.id in edit.instead and _may_return(one, later, to_version)]
    return back, with_them


def came_back(history: Sequence[StoredEdit], undone: Sequence[StoredEdit]) -> list[StoredEdit]:
    """Of the history after an undo, what the undo has brought back."""
    numbers = {number for edit in undone for number in edit.instead}
    return [edit for edit in history if edit.live and edit.id in numbers]


def _may_return(edit: StoredEdit, later: Sequence[StoredEdit], to_version: int | None) -> bool:
    if edit.live or edit.merged is not None or (to_version is not None and edit.id > to_version):
        return False
    newer = [preference for one in later for preference in one.preferences]
    return not any(overrules(one, mine) for one in newer for mine in edit.preferences)
