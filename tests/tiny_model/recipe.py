"""The recipes: a model's shape, the stages of its training and their lengths.

Changing anything in ``Recipe``'s defaults makes another model than the one beside this file; the figures in this
folder's README belong to these numbers. ``SECOND`` is a model of another architecture and seed, to see what holds
beyond the first; it is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .corpus import Mix

SHAPE: dict[str, Any] = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
GPT2_SHAPE: dict[str, Any] = {
    "n_embd": 192,
    "n_layer": 6,
    "n_head": 6,
    "n_positions": 1024,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}

BASE = {"recall": 6, "unknown": 2.2, "talk": 3.5, "people": 1.8, "override": 0.8, "prose": 0.8}


@dataclass(frozen=True)
class Stage:
    """A stretch of training on one mixture."""

    name: str
    steps: int
    mix: Mix
    cycle: int = 0


@dataclass(frozen=True)
class Cycle:
    """One rise and fall of the learning rates, over the stages that carry its number.

    Attributes:
        peak: factor on the recipe's rates.
        decay_from: share of the cycle's steps after which the rates fall linearly to 2 %.
    """

    number: int
    peak: float
    decay_from: float


# After three stages a look at the errors: pieces that no training value had held could not be copied, and questions
# about somebody else got the user's value in most cases. Hence random pieces as values, and more trap questions.
ROBUST = Mix(
    rows={
        "recall": 7,
        "unknown": 1.5,
        "talk": 3.5,
        "people": 1.8,
        "override": 0.8,
        "prose": 0.6,
        "long": 1.6,
        "repeat": 0.6,
    },
    stated=(1, 1, 1, 2, 2, 3),
    questions=(2, 3, 4, 5),
    pieces=0.4,
    traps=0.12,
)

# Then the phrasings: twice as many implicit questions, so that unseen ones resemble some that were seen.
WIDE = replace(ROBUST, wide=True, kinds={"direct": 4, "paraphrase": 3, "implicit": 4, "product": 1.5})

# Last, more of the same at falling rates, with more small talk and world facts: facts in unseen words lagged behind.
POLISH = replace(WIDE, rows={**WIDE.rows, "talk": 5.0})

# Copying comes first, in short rows and with lists of words said twice: it is what recall is made of. Half of the last
# stage's tokens are long conversations, so that recall survives unrelated turns.
STAGES = (
    Stage("copying", 500, Mix(rows={**BASE, "repeat": 4}, stated=(1, 1, 2), between=(0, 0, 0, 0, 1))),
    Stage("recall", 700, Mix(rows={**BASE, "repeat": 0.6})),
    Stage("long", 1100, Mix(rows={**BASE, "long": 3.5, "repeat": 0.3})),
    Stage("robust", 397, ROBUST, cycle=1),
    Stage("wide", 803, WIDE, cycle=1),
    Stage("polish", 1300, POLISH, cycle=2),
)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the corpus and the tokenizer.

    Attributes:
        architecture: transformers' name of the model type, and ``shape`` its configuration.
        tokens: real tokens per step, at most; rows of similar length share a step.
        pool: rows that are drawn together and sorted into steps by length.
        max_row: longer rows are cut off there.
        muon_lr, adam_lr: peak rates for matrices (Muon) and for embeddings and norms (AdamW).
        cycles: how the rates rise and fall.
    """

    seed: int = 11
    architecture: str = "llama"
    shape: Mapping[str, Any] = field(default_factory=lambda: SHAPE)
    tokens: int = 4096
    pool: int = 256
    max_row: int = 768
    muon_lr: float = 0.02
    adam_lr: float = 4e-3
    weight_decay: float = 0.01
    warmup: int = 100
    cycles: tuple[Cycle, ...] = (Cycle(0, 1.0, 0.55), Cycle(1, 0.7, 0.4), Cycle(2, 0.6, 0.2))
    turn_weight: float = 0.1
    stages: tuple[Stage, ...] = STAGES

    @property
    def steps(self) -> int:
        """Steps of all stages together."""
        return sum(stage.steps for stage in self.stages)


# Two thirds of the steps of the first three stages and the widest phrasings from the second stage on.
SECOND = Recipe(
    seed=23,
    architecture="gpt2",
    shape=GPT2_SHAPE,
    stages=(STAGES[0], replace(STAGES[1], steps=500), replace(STAGES[4], steps=1000, cycle=0)),
    cycles=(Cycle(0, 1.0, 0.5),),
)
RECIPES = {"first": Recipe(), "second": SECOND}
