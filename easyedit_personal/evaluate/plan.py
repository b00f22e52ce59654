"""What is to be evaluated and how: one frozen record, checked before a model is loaded.

A result folder belongs to one plan, one model and one data set; what differs makes another folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..data.records import UPQAItem
from ..errors import ConfigError, DataError, listing
from ..generation.generate import MAX_NEW_TOKENS
from ..registry import EVALUATORS
from ..validation import sections_faults
from .harness import check_tasks
from .protocol import Protocol, find_protocol

# What every run asks; retention and capability cost several edits or many questions more, and are asked for by name.
STANDARD = (
    *("direct", "paraphrase", "implicit", "product", "helpful", "context_wins", "moving_on"),
    *("negation", "other_user", "other_attribute", "unrelated", "locality", "everyday", "application"),
    *("health", "undo", "cost"),
)


@dataclass(frozen=True)
class Plan:
    """The settings of an evaluation.

    Attributes:
        evaluators: names; ``multi_turn`` joins by itself where ``turns`` are given.
        cluster_size: phrases per preference that an edit sees.
        turns: numbers of unrelated exchanges between preference and question, for ``multi_turn``.
        protocol: "natural" or "paper".
        restores: see ``find_protocol``.
        seed: of distractors, sampled memories and intervals.
        later: how many later preferences ``retention`` edits on top.
        conversations: where the distractors come from: "bundled" or PrefEval's file.
        max_new_tokens: longest answer, twice as much where answers take room (``Ask.long``); what does not stop before
            is cut and reported.
        harness: tasks of lm-evaluation-harness that ``capability`` runs, by name or YAML file.
        harness_users, harness_limit: for how many users, and on how many examples of each task.
        settings: of evaluators that were registered with some, by name, as plain values.

    Raises:
        RegistryError: an evaluator's name is unknown; the message names the nearest.
        ConfigError: a number is out of range, or an evaluator's settings have faults.
    """

    evaluators: Sequence[str] = STANDARD
    cluster_size: int = 1
    turns: Sequence[int] = ()
    protocol: str = "natural"
    restores: bool = True
    seed: int = 0
    later: int = 3
    conversations: str = "bundled"
    max_new_tokens: int = MAX_NEW_TOKENS
    harness: Sequence[str] = ()
    harness_users: int = 1
    harness_limit: int = 100
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    rules: Protocol = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "turns", tuple(dict.fromkeys(self.turns)))
        names = tuple(dict.fromkeys([*self.evaluators, *(["multi_turn"] if self.turns else [])]))
        if self.harness:
            names = tuple(dict.fromkeys([*names, "capability"]))
        object.__setattr__(self, "evaluators", tuple(EVALUATORS.check(name) for name in names))
        object.__setattr__(self, "rules", find_protocol(self.protocol, self.restores))
        for name, value, least in (
            ("cluster_size", self.cluster_size, 1),
            ("max_new_tokens", self.max_new_tokens, 1),
            ("later", self.later, 1),
            ("harness_users", self.harness_users, 1),
            ("harness_limit", self.harness_limit, 1),
            *(("turns", turn, 0) for turn in self.turns),
        ):
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} is out of range.", got=value, needed=f"a whole number from {least} on")
        if "multi_turn" in names and not self.turns:
            raise ConfigError("multi_turn needs to know how many turns.", remedy="give turns, for example 0,2,10")
        check_tasks(self.harness)
        if faults := sections_faults(EVALUATORS, self.settings):
            raise ConfigError(f"Settings of evaluators are not valid.\n{listing(faults)}")

    def check_items(self, items: Sequence[UPQAItem]) -> None:
        """Raise unless every item has a cluster that is large enough, and the distractors are there."""
        if not items:
            raise DataError("There is nobody to evaluate.", needed="at least one item")
        repeated = len(items) - len({item.id for item in items})
        if repeated:
            raise DataError("Users' names occur twice, so their answers could not be told apart.", got=repeated)
        for item in items:
            item.phrases(self.cluster_size)
        if self.turns:
            from ..data.conversations import distractor_turns

            distractor_turns(max(self.turns), self.seed, self.conversations)

    def describe(self) -> dict[str, Any]:
        """The settings as plain values, for result files and for comparing folders."""
        return {
            "evaluators": list(self.evaluators),
            "cluster_size": self.cluster_size,
            "turns": list(self.turns),
            "protocol": self.rules.describe(),
            "seed": self.seed,
            "later": self.later,
            # A path would tie the result to one machine.
            "conversations": Path(self.conversations).name,
            "max_new_tokens": self.max_new_tokens,
            "harness": [Path(task).name for task in self.harness],
            "harness_users": self.harness_users,
            "harness_limit": self.harness_limit,
            "settings": {name: dict(given) for name, given in self.settings.items() if name in self.evaluators},
        }
