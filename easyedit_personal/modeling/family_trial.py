"""Which architectures are edited fast here: tried on tiny random models with the transformers that is installed.

A model of another kind is tried so on its first edit; where that fails, every step is a whole forward pass.
"""

from __future__ import annotations

import torch
import transformers

from .families import family_named, known_families
from .layout import find_layout
from .suffix import Split, Suffix
from .tokens import Encoded, collate


class _NoTokenizer:
    """What ``collate`` asks a tokenizer for."""

    pad_token_id = eos_token_id = 0


@torch.no_grad()
def split_of(family: str) -> Split:
    """How models of one family are cut above an edit here; mode "full" where they cannot be.

    Args:
        family: the name of a record with ``config`` and ``tiny``.

    The random state of the process is as before afterwards.
    """
    record = family_named(family)
    config = getattr(transformers, record.config)(**record.tiny, pad_token_id=0, eos_token_id=1, bos_token_id=1)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    rows = [Encoded(tuple(range(2, 2 + n)), (5, 6), n - 2) for n in (9, 14)]
    batch = collate(rows, _NoTokenizer(), side="left")
    return Suffix(model, find_layout(model), batch, 1, start=int(batch.key_index.min())).split


def describe_splits() -> tuple[list[str], list[str]]:
    """Of the families that can be tried: those edited fast, and those of which every step is a whole forward pass."""
    found = {family.name: split_of(family.name) for family in known_families() if family.config}
    fast = [family for family, split in found.items() if split.mode != "full" and split.prefix]
    return fast, [family for family in found if family not in fast]
