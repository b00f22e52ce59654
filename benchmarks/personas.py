"""Twenty facts about one person, told in plain words through the chat's own path, and asked for afterwards.

``python -m benchmarks.personas --personas N [--statements M] [--share K/N] [--json FILE]`` tells the first M sentences
of each of the first N people of ``personas.yaml`` one after the other, answers questions back with yes, and asks the
person's model:

- direct: the question of every kind that was learned; right where its value is in the answer;
- crossed: of the same answers, those that hold the value of another kind;
- indirect: a held-out question that asks for the kind without its name;
- everyday: questions about none of it; unchanged where the answer is the base model's word for word;
- mixtures: questions to which several kinds answer; right where one of their values is in the answer;
- compacted: the direct questions once more after `store compact`, whose sizes are given.

Entries in words count like those in weights: they are in the prompt. CPU seconds are those of learning one sentence,
the gate of a kind that nobody had said before left out of the line through them. FILE is written after each person, and
whoever stands in it with the same settings is not told again: the same command goes on where it was stopped. Several
processes with --share 1/2, 2/2 may write one FILE. What it prints has a row per person, and names the worst.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from benchmarks.models import add_options, chosen
from benchmarks.personas_figures import summary, table
from easyedit_personal import EditStore, PersonalizedModel, Preference
from easyedit_personal.clustering.lexicon import Lexicon
from easyedit_personal.data.phrasings import attributes
from easyedit_personal.generation.score import contained, words
from easyedit_personal.learning.learned import Learned
from easyedit_personal.learning.learner import Learner
from easyedit_personal.learning.session import Reader, learn_once, method_settings
from easyedit_personal.modeling.loading import load_model
from easyedit_personal.statements.memory import current
from easyedit_personal.statements.preferences import Unclear, same_matter

RESULT = Path(__file__).parent / "results" / "personas.json"
COMPACT_RANK = 64  # of the file's last measure: what `store compact` makes of it
ANSWER_TOKENS = 48


def persona_set() -> dict[str, Any]:
    """The bundled people with what they say and what is asked."""
    file = resources.files("easyedit_personal").joinpath("data", "bundled", "personas.yaml")
    content: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return content


def told_right(found: Sequence[Preference], kind: str, value: str, alike: Sequence[Sequence[str]]) -> bool:
    """Whether a sentence was understood: its kind, or one alike, and its value up to articles and a word more."""
    wanted = set(words(value)) - {"a", "an", "the", "to"}
    groups = [group for group in alike if kind in group]
    return any(
        (same_matter(one.subject, kind) or any(one.subject in group for group in groups))
        and (wanted <= (got := set(words(one.target))) or got <= wanted)
        for one in found
    )


def tell(
    reader: Reader, learner: Learner, user: str, rows: Sequence[Sequence[str]], alike: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Say one sentence after the other, as in a chat whose user agrees; what came of each."""
    found = []
    for kind, value, say in rows:
        started, worked = time.perf_counter(), time.process_time()
        read = reader.read(say, user)
        suggested = [one.suggestion for one in read if isinstance(one, Unclear) and one.suggestion]
        clear = [one for one in read if isinstance(one, Preference)]
        results = [learn_once(learner, user, [one])[0] for one in [*clear, *suggested]]
        learned = [one for one in results if isinstance(one, Learned)]
        found.append(
            {
                "say": say,
                "kind": next((one.preference.subject for one in learned), kind),
                "right": told_right([*clear, *suggested], kind, value, alike),
                "asked": not clear,
                "where": [one.where for one in learned],
                "why": [one.why for one in learned],
                "seconds": round(time.perf_counter() - started, 2),
                "cpu": round(time.process_time() - worked, 2),
            }
        )
        print(f"  {say!r}: {found[-1]['where'] or 'nothing'} in {found[-1]['seconds']} s", flush=True)
    return found


def answered(served: PersonalizedModel, user: str | None, questions: Sequence[str]) -> list[str]:
    """The beginnings of a user's answers; None is the base model."""
    found = served.generate_for([user] * len(questions), list(questions), max_new_tokens=ANSWER_TOKENS)
    return [answer.text for answer in found]


def ask(served: PersonalizedModel, user: str, known: Sequence[Preference], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Every question's answer, by the sort of question."""

    def answers(questions: Sequence[str], who: str | None = user) -> list[str]:
        return answered(served, who, questions)

    direct = answers([one.question for one in known])
    hidden = [(one, question) for one in known if (question := _indirect(one.subject))]
    indirect = answers([question for _, question in hidden])
    yours, base = answers(asked["everyday"]), answers(asked["everyday"], None)
    mixed = [(row["ask"], _values(known, row["kinds"])) for row in asked["mixtures"]]
    mixed = [(question, values) for question, values in mixed if values]
    mixtures = answers([question for question, _ in mixed])
    return {
        "direct": [contained(a, one.target) for a, one in zip(direct, known)],
        "crossed": [_crossed(a, one, known) for a, one in zip(direct, known)],
        "indirect": [contained(a, one.target) for a, (one, _) in zip(indirect, hidden)],
        "everyday unchanged": [a == b for a, b in zip(yours, base)],
        "everyday with a value": [any(contained(a, one.target) for one in known) for a in yours],
        "mixtures": [any(contained(a, value) for value in values) for a, (_, values) in zip(mixtures, mixed)],
    }


def person(
    options: argparse.Namespace, entry: Mapping[str, Any], asked: Mapping[str, Any], model: Any, tokenizer: Any
) -> dict[str, Any]:
    """Tell, ask and compact one person, in a store of their own."""
    with tempfile.TemporaryDirectory() as folder, EditStore.open(f"{folder}/edits.db", model, tokenizer) as store:
        learner, user = Learner(model, tokenizer, store, options.settings), entry["name"]
        started = time.perf_counter()
        told = tell(Reader(), learner, user, entry["told"][: options.statements], asked["alike"])
        seconds = time.perf_counter() - started
        known = current(store.preferences(user))
        served = PersonalizedModel(model, tokenizer, store, hparams=options.settings)
        found = ask(served, user, known, asked)
        compacted = _compacted(store, user)
        if compacted is not None:
            again = answered(served, user, [one.question for one in known])
            found["compacted"] = [contained(answer, one.target) for answer, one in zip(again, known)]
        kept = {one.subject for one in store.preferences(user, where="weights")}
    places = [[one.subject, "weights" if one.subject in kept else "words"] for one in known]
    answers = {"known": places, "answers": found, "compact": compacted}
    return {"name": user, "told": told, "seconds": round(seconds, 1), **answers}


def _compacted(store: EditStore, user: str) -> dict[str, Any] | None:
    """What `store compact` makes of a user's file; None where nothing is in the weights."""
    if not store.parts(user):
        return None
    store.vacuum()
    before = store.stats()
    report = store.compact(user, COMPACT_RANK)
    store.vacuum()
    after = store.stats()
    sizes = {name: [before[name], after[name]] for name in ("factor_bytes", "file_bytes")}
    return {**sizes, "merged": len(report.merged), "error": round(report.max_error, 4)}


def _indirect(subject: str) -> str | None:
    """A held-out question that asks for a kind without its name."""
    entry = Lexicon.load().find(subject)
    return next((q for a in attributes() if entry and a.group == entry.group for q in a.held["implicit"]), None)


def _crossed(answer: str, asked: Preference, known: Sequence[Preference]) -> bool:
    others = (one for one in known if one is not asked and not contained(asked.target, one.target))
    return any(contained(answer, one.target) for one in others)


def _values(known: Sequence[Preference], kinds: Sequence[str]) -> list[str]:
    return [one.target for one in known if any(same_matter(one.subject, kind) for kind in kinds)]


def kept(file: Path, made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Who stands in a file that was made in this way."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    people: list[dict[str, Any]] = found["persons"] if found.get("made") == made else []
    return people


def keep(file: Path, made: Mapping[str, Any], one: dict[str, Any]) -> list[dict[str, Any]]:
    """Write one more person into the file, beside what other processes have written meanwhile; everybody in it."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    folder = os.open(file.absolute().parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        people = [*kept(file, made), {**one, "commit": commit}]
        context = {"python": platform.python_version(), "machine": platform.machine()}
        record = {**context, "summary": summary(people), "made": made, "persons": people}
        part = file.with_name(file.name + ".part")
        part.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(file)
    finally:
        os.close(folder)
    return people


def main() -> None:
    """Tell and ask everybody who is not in the file yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--personas", type=int, default=20)
    parser.add_argument("--statements", type=int, default=20)
    parser.add_argument("--share", default="1/1", help="K/N: the K-th of N processes")
    parser.add_argument("--json", type=Path, default=RESULT)
    options = parser.parse_args()
    share, shares = map(int, options.share.split("/"))
    asked, settings = persona_set(), chosen(options)
    options.settings = settings
    made = {"settings": method_settings(settings.to_dict()), "statements": options.statements}
    made["model"] = str(settings.model_name)
    people = kept(options.json, made)
    mine = asked["people"][: options.personas][share - 1 :: shares]
    wanted = [entry for entry in mine if entry["name"] not in {one["name"] for one in people}]
    if wanted:
        model, tokenizer = load_model(settings)
    for entry in wanted:
        print(entry["name"], flush=True)
        people = keep(options.json, made, person(options, entry, asked, model, tokenizer))
    print("\n".join(table(people)))
    for name, figure in summary(people).items():
        print(f"{name:<24}{figure}")


if __name__ == "__main__":
    main()
