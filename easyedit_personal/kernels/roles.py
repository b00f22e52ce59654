"""Which places of a kind's answers share a direction of its gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .spoken import Spoken


@dataclass(frozen=True, slots=True)
class Role:
    """Places of the answers that one direction is for.

    Attributes:
        places: numbers of the answers' positions.
        used: where answers begin behind others that used the value.
    """

    places: Tensor
    used: bool


def roles_of(spoken: Sequence[Spoken], costs: Tensor) -> list[Role]:
    """Where answers begin first, then the dearest words to the model as it is.

    Where an answer begins, roles are told apart by what is asked and by what stands before the question: nothing, other
    turns, or the kind's own answers. Keys look otherwise there. Later, by the word that is to be said.

    Args:
        costs: -log p_0 of all tokens of the answers [m].
    """
    found: dict[tuple[int, str, str | int], list[int]] = {}
    number = 0
    for s in spoken:
        for place, (role, token) in enumerate(zip(s.roles, s.row.target_ids)):
            if role == "say" and (place < s.value_at or s.roles[place - 1] == "value"):
                behind = "used" if s.phrase.used else "talk" if s.phrase.history else ""
                key = (1, "", token) if place else (0, behind, s.phrase.asks)
                found.setdefault(key, []).append(number)
            number += 1
    dear = {key: float(costs[numbers].sum()) for key, numbers in found.items()}
    order = sorted(found, key=lambda key: (key[0], -dear[key]))
    return [Role(torch.tensor(found[key]), key[1] == "used") for key in order]
