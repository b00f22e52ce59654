"""Users who cost nothing: factors drawn from the user's name, so that a thousand of them take a second or two."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from easyedit_personal.bulk.bulk import Solve
from easyedit_personal.errors import HealthError
from easyedit_personal.store import EditStore
from easyedit_personal.store.retry import patiently
from easyedit_personal.types import EditResult, Preference, WeightDelta
from tests.store.samples import edit

KINDS = ("raises", "nan", "health", "kills", "hangs")


@dataclass(frozen=True)
class RandomFactors:
    """A ``DeltaFactory`` without a model; users whose target names a kind of misfortune meet it.

    Attributes:
        scale: another one makes other settings.
        pause: seconds that each user takes.
        notes: a folder where workers note their process ids.
    """

    scale: float = 1.0
    pause: float = 0.0
    notes: str = ""

    kernel = "random"

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the key depends on."""
        return {"scale": self.scale}

    @contextmanager
    def open(self, url: str) -> Iterator[tuple[EditStore, Solve]]:
        """The store, and factors by name."""
        if self.notes:
            (Path(self.notes) / f"worker-{os.getpid()}").touch()
        torch.set_num_threads(1)
        with patiently(lambda: EditStore.open(url), 30.0) as store:
            yield store, self.solve

    def solve(self, users: Mapping[str, Sequence[Preference]]) -> dict[str, EditResult]:
        """Everybody's factors."""
        return {user: self._of(user, preferences) for user, preferences in users.items()}

    def _of(self, user: str, preferences: Sequence[Preference]) -> EditResult:
        time.sleep(self.pause)
        target = preferences[0].target
        if target == "raises":
            raise RuntimeError("out of luck")
        if target == "health":
            raise HealthError("The edit was refused.")
        if target == "kills":
            os.kill(os.getpid(), signal.SIGKILL)
        if target == "hangs":
            time.sleep(600)
        deltas = [WeightDelta(one.layer, one.left * self.scale, one.right) for one in edit(f"{user}/{target}")]
        if target == "nan":
            deltas[0].left[0, 0] = float("nan")
        return EditResult(deltas, health={"perplexity_ratio": 1.0})


def write_users(path: Path, count: int, poisoned: Mapping[int, str] = {}) -> Path:
    """A file of users "user 0", "user 1", ..., some with a misfortune."""
    with path.open("w") as file:
        for number in range(count):
            said = [{"subject": "hobby", "target": poisoned.get(number, f"hobby {number}")}]
            file.write(json.dumps({"user": f"user {number}", "preferences": said}) + "\n")
    return path


def expected(number: int) -> list[WeightDelta]:
    """What the store has to hold for a user."""
    return edit(f"user {number}/hobby {number}")
