"""Makes the bundled evaluation set `upqa_bundled.json` from hand-written material, item by item, reproducibly.

Here because the set is data with rules: nine names per cluster, tune and test halves that share no value and no
paraphrased, implicit or product question, and probes for what an edit must leave alone. Run
`python -m easyedit_personal.data.bundle` after changing the material; a test compares file and material.
"""

from __future__ import annotations

import json
import sys
from random import Random
from typing import Any

from .material import BUNDLED, NAMES_PER_CLUSTER, SPLITS, Entry, fill, read_material
from .probes import somebody, unrelated_questions, world_probes


def make_records() -> list[dict[str, Any]]:
    """All items in the clustered UPQA layout with our extra fields; the same list at every call.

    ``target`` repeats the one value: the paper teaches the same target under every name, and so do we. (The official
    file lists nine different wordings there, of which only the last is used.)
    """
    types = read_material()["types"]
    return [_record(name, i) for name, entry in types.items() for i in range(len(entry["values"]))]


def split_of(number: int) -> str:
    """Which half the value with this number within its type belongs to: they alternate, so both halves are even."""
    return SPLITS[number % 2]


def _record(name: str, number: int) -> dict[str, Any]:
    material = read_material()
    entry, value = material["types"][name], material["types"][name]["values"][number]
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
        "negated_question": fill(rng.choice(material["negated_frames"]), n=name),
        "other_question": fill(rng.choice(material["other_frames"]), n=name, who=somebody(rng)),
        "unrelated": list(unrelated_questions(rng)),
        "locality": [{"question": question, "answer": answer} for question, answer in world_probes(rng, value)],
    }


def _cluster(name: str, entry: Entry, number: int) -> tuple[list[str], list[str]]:
    """Nine names and their questions, the type's own name last, as in the official file."""
    frames = read_material()["cluster_frames"]
    # Five and the sixteen frames have no common divisor: the eight frames of a cluster differ.
    picked = [frames[(3 * number + 5 * k) % len(frames)] for k in range(NAMES_PER_CLUSTER - 1)]
    questions = [fill(frame, n=other) for frame, other in zip(picked, entry["names"])]
    return [*entry["names"], name], [*questions, entry["questions"][number % len(entry["questions"])]]


def _alternate(phrases: list[str], number: int) -> str:
    """A phrase of the half that belongs to the item's split, in turn."""
    own = phrases[number % 2 :: 2]
    return own[(number // 2) % len(own)]


def _persona(sentences: list[str], value: str, number: int) -> str:
    return fill(sentences[number % len(sentences)], v=value, a="an" if value[0] in "aeiouAEIOU" else "a")


def render() -> str:
    """The file's text: JSON, one field per line, readable in a diff."""
    return json.dumps(make_records(), ensure_ascii=False, indent=1) + "\n"


def main() -> int:
    """Write the file and say what it holds."""
    text, path = render(), BUNDLED / "upqa_bundled.json"
    path.write_text(text, encoding="utf-8")
    records = json.loads(text)
    types = {record["attribute_type"][-1] for record in records}
    print(f"{path.name}: {len(records)} items over {len(types)} attribute types, {len(text):,} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
