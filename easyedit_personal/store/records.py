"""Edits as callers see them: the history's record, where what it holds is kept, and which of them an undo means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from ..errors import StoreError
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
        nbytes: size of its factors in the store.
        merged: the edit that holds its factors since ``compact``; None otherwise.
        preferences: all that the edit was made from.
        why: it is kept where it is; empty where nobody said.
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
