"""A user's edits made, and made again without one of them.

With ``strategy: joint`` a user's model is what solving all preferences together would make it; the store gets the
difference, so that live edits add up and undo works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ..editing.composition import Addition, add_preferences, add_to_many, overrule_any, stand_apart
from ..errors import PersonalizationError
from ..hparams import PersonalizationHyperParams
from ..store.entries import NewEdit
from ..store.records import WORDS, StoredEdit
from ..store.store import EditStore
from ..types import EditResult, Preference, WeightDelta


class Solver:
    """Computes edits on top of what a user has; changes neither the store nor the model.

    Args:
        model, tokenizer: the base model, for one thread at a time, and its tokenizer.
        store: what users have.
        hparams: how to edit.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, store: EditStore, hparams: PersonalizationHyperParams) -> None:
        self._model, self._tokenizer, self._store, self._hparams = model, tokenizer, store, hparams

    def solved(
        self, user: str, known: Sequence[Preference], new: Sequence[Preference], old: Sequence[WeightDelta]
    ) -> EditResult:
        """The edit that adds new preferences to the known ones, whose factors are ``old``."""
        mine, more = ([replace(one, user=user) for one in some] for some in (known, new))
        joint = self._is_joint(user)
        return add_preferences(self._model, self._tokenizer, mine, more, old, self._hparams, joint=joint)

    def solved_for_many(
        self, users: Mapping[str, Sequence[Preference]]
    ) -> dict[str, EditResult | PersonalizationError]:
        """The edits that add new preferences to what each user has, or the errors that concern them."""
        additions = []
        for user, new in users.items():
            known = self._store.preferences(user, where="weights")
            mine, more = ([replace(one, user=user) for one in some] for some in (known, new))
            additions.append(Addition(mine, more, self._store.deltas(user), self._is_joint(user)))
        return dict(zip(users, add_to_many(self._model, self._tokenizer, additions, self._hparams)))

    def _is_joint(self, user: str) -> bool:
        """Not where some edit's preference is unknown: solved again without it, it would be lost."""
        history = self._store.history(user)
        unknown = [one for one in history if one.live and one.preference is None and one.kernel != "compact"]
        return self._hparams.strategy == "joint" and not unknown

    def solved_again(
        self, user: str, live: Sequence[StoredEdit], place: int, instead: Sequence[Preference]
    ) -> list[NewEdit]:
        """What takes the place of the live edits from ``place`` on, once that one is gone; nothing is changed yet.

        Args:
            instead: overrule some of what was learned; only that goes then, also of the edit at ``place``.
        """
        known = [one for edit in live[:place] if edit.where == "weights" for one in edit.preferences]
        have, new = self._store.deltas(user, before=live[place].id), []
        for edit in live[place if instead else place + 1 :]:
            if edit.where == "words":
                told = NewEdit(preference=edit.preferences, kernel=WORDS, hparams=edit.hparams, why=edit.why)
                new.append(replace(told, instead=edit.instead, remade=edit.remade))
                continue
            rest = [one for one in edit.preferences if not overrule_any(instead, [one])]
            if not rest:
                continue
            result = self.solved(user, known, rest, have)
            new.append(NewEdit(**self.record(rest, result), why=edit.why))
            known += rest
            have = [*have, *result.deltas]
        return new

    def adds_up_without(self, user: str, live: Sequence[StoredEdit], place: int) -> bool:
        """Whether the others stay as they are when one edit is taken back."""
        later = [one for one in live[place + 1 :] if one.where == "weights"]
        return not later or not self.depends(user, live, place)

    def depends(self, user: str, live: Sequence[StoredEdit], place: int) -> bool:
        """Whether what is learned after an edit is made for a model that has it, and can be made again without."""
        later = [one for one in live[place + 1 :] if one.where == "weights"]
        if live[place].where == "words" or not self._is_joint(user) or not all(one.preferences for one in later):
            return False
        theirs = [preference for one in later for preference in one.preferences]
        mine = live[place].preferences
        return not stand_apart([*mine, *theirs], self._hparams) or overrule_any(theirs, mine)

    def record(self, preferences: Sequence[Preference], result: EditResult) -> dict[str, Any]:
        """What the store keeps of an edit, as arguments of ``EditStore.put`` and ``NewEdit``."""
        return {
            "deltas": result.deltas,
            "preference": preferences[0] if len(preferences) == 1 else preferences,
            "kernel": self._hparams.kernel,
            "hparams": self._hparams.to_dict(),
            "health": result.health,
        }
