"""The hand-written lists behind the bundled set: phrasings, values, people, neutral questions, world facts.

Kept apart from the generator because probes for other people's data are made from the same lists.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..files import read_yaml_mapping

BUNDLED = Path(str(resources.files("easyedit_personal.data"))) / "bundled"
SPLITS = ("tune", "test")
NAMES_PER_CLUSTER = 9
ALTERNATING = ("paraphrased", "implicit", "product", "values")

Entry = dict[str, Any]


@lru_cache(maxsize=1)
def read_material() -> Entry:
    """The content of ``upqa_material.yaml``, checked for what its readers rely on.

    Raises:
        DataError: a type has not eight names, a list that must be even is not, or two values are equal.
    """
    material = read_yaml_mapping(BUNDLED / "upqa_material.yaml")
    faults = [fault for name, entry in material["types"].items() for fault in entry_faults(name, entry)]
    if faults:
        raise DataError("The material of the bundled set is inconsistent.", got="; ".join(faults))
    return material


@lru_cache(maxsize=1)
def world_facts() -> tuple[Entry, ...]:
    """The small world's facts whose held-out wordings read well."""
    facts = read_yaml_mapping(BUNDLED / "facts.yaml")["facts"]
    # "a ant": the facts are made from frames, and a reader should not stumble over the article.
    return tuple(fact for fact in facts if not any(re.search(r"\ba [aeiou]", q) for q in fact["heldout_phrasings"]))


def entry_faults(name: str, entry: Entry) -> list[str]:
    """What is wrong with one attribute type's lists."""
    faults = [f"{name}: {key} has an odd length" for key in ALTERNATING if len(entry[key]) % 2]
    if len({name, *entry["names"]}) != NAMES_PER_CLUSTER:
        faults.append(f"{name}: needs {NAMES_PER_CLUSTER - 1} names that differ from each other and from its own")
    if len({value.lower() for value in entry["values"]}) != len(entry["values"]):
        faults.append(f"{name}: values repeat")
    return faults


def fill(frame: str, **slots: str) -> str:
    """The frame with its {slots} filled; str.format would stumble over braces in a value."""
    return re.sub(r"\{(\w+)\}", lambda match: slots[match.group(1)], frame)
