"""From checked records to items, whatever the layout: official flat and clustered UPQA, our bundled set, PrefEval.

The official files ask only what an edit should change; the questions that it must leave alone are derived here, each
item's from its own seed, so that every method is asked the same on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from .jsonfile import read_json_list
from .material import BUNDLED
from .prefeval import PrefEvalRecord, is_prefeval, parse_prefeval
from .probes import about, negate, somebody, unrelated_questions, world_probes
from .records import UPQAItem, check_records


def read_items(path: str | Path) -> tuple[UPQAItem, ...]:
    """The items of a file; ``"bundled"`` names the set that ships with the package.

    Raises:
        DataError: the file cannot be read or any of its records is faulty; nothing is loaded then.
    """
    path = BUNDLED / "upqa_bundled.json" if path == "bundled" else Path(path)
    records = read_json_list(path)
    if is_prefeval(records):
        return prefeval_items(parse_prefeval(records, str(path)), topic=path.stem)
    check_records(records, str(path))
    return upqa_items(records)


def upqa_items(records: Sequence[Mapping[str, Any]]) -> tuple[UPQAItem, ...]:
    """Items from records that have passed ``check_records``."""
    return tuple(_upqa_item(record, f"user-{i:03d}") for i, record in enumerate(records))


def prefeval_items(records: Sequence[PrefEvalRecord], topic: str) -> tuple[UPQAItem, ...]:
    """PrefEval's explicit preferences as items of one attribute type.

    PrefEval has neither a direct question nor a short value: the preference sentence itself, in the user's first
    person, is the target, asked for as "my <topic> preference"; its question is the implicit one; there is no
    product question.

    Args:
        records: as ``load_prefeval`` gives them.
        topic: the file's name, e.g. "travel_restaurant".
    """
    topic = topic.replace("_", " ").replace("-", " ").strip()
    subject = f"{topic} preference"
    question = f"What's my {subject}?"
    return tuple(
        UPQAItem(
            id=f"{topic.replace(' ', '-')}-{i:03d}",
            persona=record.preference,
            subject=subject,
            question=question,
            paraphrase=f"On the topic of {topic}, what do I prefer?",
            implicit=record.question,
            product="",
            target=record.preference,
            cluster=((subject, question),),
            **_probes(f"{topic}-{i}", question, record.preference, {}),
        )
        for i, record in enumerate(records)
    )


def _upqa_item(record: Mapping[str, Any], name: str) -> UPQAItem:
    names, questions, targets = (_texts(record[key]) for key in ("attribute_type", "question", "target"))
    identifier = str(record.get("id", name))
    return UPQAItem(
        id=identifier,
        persona=record["input_attribute"].strip(),
        subject=names[-1],
        question=questions[-1],
        paraphrase=record["question_paraphrased"].strip(),
        implicit=record["implicit_question"].strip(),
        product=record["product_recommendation_question"].strip(),
        target=targets[-1],
        cluster=tuple(zip(names, questions)),
        variants=tuple(dict.fromkeys(target for target in targets if target != targets[-1])),
        split=record.get("split", ""),
        **_probes(identifier, questions[-1], targets[-1], record),
    )


def _texts(value: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(text.strip() for text in ([value] if isinstance(value, str) else value))


def _probes(seed: str, question: str, target: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """What must stay: the record's own probes, and derived ones where it has none."""
    given = {
        "negated": record.get("negated_question"),
        "other": record.get("other_question"),
        "unrelated": tuple(record.get("unrelated", ())),
        "locality": tuple((probe["question"], probe["answer"]) for probe in record.get("locality", ())),
    }
    if all(given.values()):
        return given
    rng = Random(seed)
    derived = {
        "negated": negate(question),
        "other": about(question, somebody(rng)),
        "unrelated": unrelated_questions(rng),
        "locality": world_probes(rng, target),
    }
    return {key: given[key] or value for key, value in derived.items()}
