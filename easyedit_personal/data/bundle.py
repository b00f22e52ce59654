"""Makes the bundled evaluation set `upqa_bundled.json` from hand-written material, item by item, reproducibly.

Here because the set is data with rules: nine names per cluster, tune and test halves that share no value and no
paraphrased, implicit or product question, and probes for what an edit must leave alone. Run
`python -m easyedit_personal.data.bundle` after changing the material; a test compares file and material.
"""

from __future__ import annotations

import json
import re
import sys
from functools import lru_cache
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any

from ..errors import DataError
from ..files import read_yaml_mapping

BUNDLED = Path(str(resources.files("easyedit_personal.data"))) / "bundled"
SPLITS = ("tune", "test")
NAMES_PER_CLUSTER = 9
LOCALITY_PROBES = 3
UNRELATED_QUESTIONS = 3
_ALTERNATING = ("paraphrased", "implicit", "product")

Record = dict[str, Any]


@lru_cache(maxsize=1)
def read_material() -> Record:
    """The hand-written material, checked for what the generator relies on.

    Raises:
        DataError: a type has not eight names, a list that must be even is not, or two values are equal.
    """
    material = read_yaml_mapping(BUNDLED / "upqa_material.yaml")
    faults = [fault for name, entry in material["types"].items() for fault in _entry_faults(name, entry)]
    if faults:
        raise DataError("The material of the bundled set is inconsistent.", got="; ".join(faults))
    return material


def make_records() -> list[Record]:
    """All items in the clustered UPQA layout with our extra fields; the same list at every call."""
    types = read_material()["types"]
    return [_record(name, i) for name, entry in types.items() for i in range(len(entry["values"]))]


def split_of(number: int) -> str:
    """Which half the value with this number within its type belongs to: they alternate, so both halves are even."""
    return SPLITS[number % 2]


def _entry_faults(name: str, entry: Record) -> list[str]:
    faults = [f"{name}: {key} has an odd length" for key in (*_ALTERNATING, "values") if len(entry[key]) % 2]
    if len({name, *entry["names"]}) != NAMES_PER_CLUSTER:
        faults.append(f"{name}: needs {NAMES_PER_CLUSTER - 1} names that differ from each other and from its own")
    if len({value.lower() for value in entry["values"]}) != len(entry["values"]):
        faults.append(f"{name}: values repeat")
    return faults


def _record(name: str, number: int) -> Record:
    entry, value = read_material()["types"][name], read_material()["types"][name]["values"][number]
    identifier = f"{name.replace(' ', '-')}-{number:02d}"
    rng = Random(identifier)  # each item's own, so that adding an item changes no other
    names, questions = _cluster(name, entry, number)
    return {
        "id": identifier,
        "split": split_of(number),
        "input_attribute": _persona(entry["personas"], value, number),
        "attribute_type": names,
        "question": questions,
        "question_paraphrased": _alternate(entry["paraphrased"], number),
        "implicit_question": _alternate(entry["implicit"], number),
        "product_recommendation_question": _alternate(entry["product"], number),
        "target": [value] * NAMES_PER_CLUSTER,
        "negated_question": _fill(rng.choice(read_material()["negated_frames"]), n=name),
        "other_question": _fill(rng.choice(read_material()["other_frames"]), n=name, who=_somebody(rng)),
        "unrelated": rng.sample(read_material()["unrelated"], UNRELATED_QUESTIONS),
        "locality": _locality(rng, value),
    }


def _cluster(name: str, entry: Record, number: int) -> tuple[list[str], list[str]]:
    """Nine names and their questions, the type's own name last, as in the official file."""
    frames = read_material()["cluster_frames"]
    # Five and the sixteen frames have no common divisor: the eight frames of a cluster differ.
    picked = [frames[(3 * number + 5 * k) % len(frames)] for k in range(NAMES_PER_CLUSTER - 1)]
    questions = [_fill(frame, n=other) for frame, other in zip(picked, entry["names"])]
    return [*entry["names"], name], [*questions, entry["questions"][number % len(entry["questions"])]]


def _alternate(phrases: list[str], number: int) -> str:
    """A phrase of the half that belongs to the item's split, in turn."""
    own = phrases[number % 2 :: 2]
    return own[(number // 2) % len(own)]


def _persona(sentences: list[str], value: str, number: int) -> str:
    return _fill(sentences[number % len(sentences)], v=value, a="an" if value[0] in "aeiouAEIOU" else "a")


def _somebody(rng: Random) -> str:
    return f"{rng.choice(read_material()['relations'])} {rng.choice(read_material()['people'])}"


def _locality(rng: Random, value: str) -> list[dict[str, str]]:
    """Probes of world facts, each about another relation, in wordings that the reference model never trained on."""
    facts = [fact for fact in _facts() if fact["answer"].lower() not in value.lower()]
    relations = rng.sample(sorted({fact["relation"] for fact in facts}), LOCALITY_PROBES)
    chosen = [rng.choice([fact for fact in facts if fact["relation"] == relation]) for relation in relations]
    return [{"question": _sentence(rng.choice(f["heldout_phrasings"])), "answer": str(f["answer"])} for f in chosen]


@lru_cache(maxsize=1)
def _facts() -> list[Record]:
    facts = read_yaml_mapping(BUNDLED / "facts.yaml")["facts"]
    # "a ant": the facts are made from frames, and a reader should not stumble over the article.
    return [fact for fact in facts if not any(re.search(r"\ba [aeiou]", q) for q in fact["heldout_phrasings"])]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _fill(frame: str, **slots: str) -> str:
    """The frame with its {slots} filled; str.format would stumble over braces in a value."""
    return re.sub(r"\{(\w+)\}", lambda match: slots[match.group(1)], frame)


def render() -> str:
    """The file's text: JSON, one field per line, readable in a diff."""
    return json.dumps(make_records(), ensure_ascii=False, indent=1) + "\n"


def main() -> int:
    """Write the file and say what it holds."""
    path = BUNDLED / "upqa_bundled.json"
    text = render()
    path.write_text(text, encoding="utf-8")
    records = json.loads(text)
    types = {record["attribute_type"][-1] for record in records}
    print(f"{path.name}: {len(records)} items over {len(types)} attribute types, {len(text):,} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
