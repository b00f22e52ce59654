"""Many preferences in one model: twenty of one user together, and of ever more people one after another.

``python -m benchmarks.many together --json FILE`` gives each of the users twenty preferences of different types (test
half of the bundled set), learns them jointly and asks every one of them. ``python -m benchmarks.many one-by-one --json
FILE`` edits "What is Tamsin's hobby?" and the like into one model, edit upon edit, and asks all of them so far at 1,
3, 10, 30, ...; a method that has lost nearly everything is not driven further. Both go on from what stands in FILE.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.models import add_options, chosen
from easyedit_personal import EditRequest, PersonalizationHyperParams, Preference, UPQADataset
from easyedit_personal.editing.algorithm import personalize
from easyedit_personal.editing.health import HealthBaseline, perplexity
from easyedit_personal.evaluate.summary import mean_interval, wilson
from easyedit_personal.generation.generate import generate
from easyedit_personal.generation.score import contained
from easyedit_personal.kernels.beside import edited
from easyedit_personal.modeling.loading import load_model
from easyedit_personal.store.compact import composed
from easyedit_personal.types import WeightDelta

KINDS = ("question", "paraphrase", "implicit")
LOST = (0.05, 10)  # a method that recalls less than this share, once it has so many edits, is not driven further
PEOPLE = """Tamsin Bertil Ngozi Ilse Rafael Yuki Oleg Maud Kwame Sigrid Pavel Leila Jonas Aiko Dermot Zora Emil Farah
    Hugo Ines Kalle Lotte Marek Nuria Otto Petra Quinn Runa Stellan Thea Ugo Vesna Wim Xenia Yannick""".split()


def twenty(items: Sequence[Any], user: int, count: int) -> list[Any]:
    """One item of each of ``count`` attribute types."""
    by_subject: dict[str, list[Any]] = {}
    for item in items:
        by_subject.setdefault(item.subject, []).append(item)
    return [group[user % len(group)] for group in by_subject.values()][:count]


def request_of(item: Any, size: int) -> EditRequest:
    """The item's preference with its phrases as one cluster."""
    phrases = [(question, name) for name, question in item.phrases(size)]
    return Preference(item.subject, item.question, item.target, phrases=tuple((s, q) for q, s in phrases))


def ask_user(model: Any, tokenizer: Any, items: Sequence[Any], deltas: Sequence[Any]) -> dict[str, Any]:
    """What a user's model answers to everything about all of their preferences."""
    unrelated = sorted({text for item in items for text in item.unrelated})
    with edited(model, deltas):
        answers = {kind: generate(model, tokenizer, [getattr(item, kind) for item in items]) for kind in KINDS}
        others = generate(model, tokenizer, unrelated)
    targets = [item.target for item in items]
    recalled = {k: [contained(a.text, t) for a, t in zip(found, targets)] for k, found in answers.items()}
    mixed = [
        any(contained(answer.text, target) for target in targets if target != item.target)
        for item, answer in zip(items, answers["question"])
    ]
    leaks = [any(contained(answer.text, target) for target in targets) for answer in others]
    return {"recalled": recalled, "mixed": mixed, "leaks": leaks}


def perplexity_ratio(model: Any, tokenizer: Any, deltas: Sequence[WeightDelta]) -> float:
    """Perplexity on neutral text, after over before."""
    before = HealthBaseline.of(model, tokenizer).perplexity
    with edited(model, deltas):
        return perplexity(model, tokenizer) / before


def together(name: str, hparams: Any, model: Any, tokenizer: Any, items: Sequence[Any], users: int, count: int) -> Any:
    """All users' preferences, each user's learned jointly."""
    asked, costs = [], []
    for user in range(users):
        mine = twenty(items, user, count)
        result = personalize(model, tokenizer, [request_of(item, hparams.cluster.size) for item in mine], hparams)
        asked.append(ask_user(model, tokenizer, mine, result.deltas))
        costs.append((result.seconds, result.nbytes, perplexity_ratio(model, tokenizer, result.deltas)))
        print(f"  {name}, user {user}: {sum(asked[-1]['recalled']['question'])} of {count}, {costs[-1]}", flush=True)
    by_place = [[one["recalled"]["question"][place] for one in asked] for place in range(count)]
    figures = {kind: share([hit for one in asked for hit in one["recalled"][kind]]) for kind in KINDS}
    return {
        **figures,
        "worst_preference": min(statistics.mean(hits) for hits in by_place),
        "users_with_all": share([all(one["recalled"]["question"]) for one in asked]),
        "another_target": share([hit for one in asked for hit in one["mixed"]]),
        "unrelated": share([hit for one in asked for hit in one["leaks"]]),
        "seconds": statistics.mean(cost[0] for cost in costs),
        "bytes": statistics.mean(cost[1] for cost in costs),
        "perplexity_ratio": as_dict(mean_interval([cost[2] for cost in costs])),
        "users": users,
        "preferences": count,
    }


def share(hits: Sequence[bool]) -> dict[str, Any]:
    """A share with its Wilson interval."""
    return as_dict(wilson(sum(hits), len(hits)))


def as_dict(interval: Any) -> dict[str, Any]:
    """An interval as JSON."""
    return {"mean": interval.mean, "ci95": [interval.low, interval.high], "n": interval.n}


def people(items: Sequence[Any], count: int, seed: int) -> list[EditRequest]:
    """Preferences of people with names, in random order; no two share a question."""
    values: dict[str, list[str]] = {}
    for item in items:
        values.setdefault(item.subject, []).append(item.target)
    rng = random.Random(seed)
    pairs = list(itertools.product(PEOPLE, values))
    if count > len(pairs):
        raise SystemExit(f"There are {len(pairs)} questions; got --edits {count}.")
    rng.shuffle(pairs)
    return [
        EditRequest(f"What is {person}'s {subject}?", rng.choice(values[subject]), f"{person}'s {subject}")
        for person, subject in pairs[:count]
    ]


def one_by_one(name: str, hparams: Any, model: Any, tokenizer: Any, requests: Sequence[EditRequest]) -> Any:
    """Edit upon edit; recall of all so far and perplexity at 1, 3, 10, 30, ..."""
    stops = sorted({n for power in range(4) for n in (10**power, 3 * 10**power)} | {len(requests)})
    deltas, rows, seconds = [], [], 0.0
    for number, request in enumerate(requests, 1):
        began = time.perf_counter()
        with edited(model, deltas):
            result = personalize(model, tokenizer, [request], hparams)
        deltas = composed([*deltas, *result.deltas])
        seconds += time.perf_counter() - began
        if number in stops:
            so_far = requests[:number]
            with edited(model, deltas):
                answers = generate(model, tokenizer, [one.prompt for one in so_far])
            hits = [contained(answer.text, one.target_new) for answer, one in zip(answers, so_far)]
            row = {"edits": number, "recalled": share(hits), "last_ten": share(hits[-10:])}
            row |= {"perplexity_ratio": perplexity_ratio(model, tokenizer, deltas), "seconds": seconds / number}
            rows.append(row)
            print(f"  {name}: {row}", flush=True)
            if number >= LOST[1] and sum(hits) < LOST[0] * number:
                break
    return rows


def settings(options: Any, name: str, changes: dict[str, Any]) -> PersonalizationHyperParams:
    """The model's settings for this kernel, without the health guard, which measures as well."""
    return chosen(options, name).replace(per_kernel={}, health={"on_unhealthy": "ignore"}, **changes)


ALONE = {"cluster": {"size": 1, "indirect": 0, "behind": 0}}
TOGETHER = {"lowrank": {}, "finetune": {}, "rome": {}, "memit": {}}
ONE_BY_ONE = {"lowrank": ALONE, "finetune": ALONE, "rome": ALONE, "memit": ALONE}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("case", choices=("together", "one-by-one"))
    add_options(parser)
    parser.add_argument("--methods", nargs="+", choices=list(TOGETHER), default=list(TOGETHER))
    parser.add_argument("--users", type=int, default=5)
    parser.add_argument("--count", type=int, default=20, help="preferences of a user")
    parser.add_argument("--edits", type=int, default=900)
    parser.add_argument("--json", type=Path, help="write figures here, and go on from what stands there")
    options = parser.parse_args()
    results = json.loads(options.json.read_text()) if options.json and options.json.is_file() else {}
    items = UPQADataset.bundled("test").items
    for name in options.methods:
        if name in results:
            continue
        changes = (TOGETHER if options.case == "together" else ONE_BY_ONE)[name]
        hparams = settings(options, name, changes)
        model, tokenizer = load_model(hparams)
        if options.case == "together":
            results[name] = together(name, hparams, model, tokenizer, items, options.users, options.count)
        else:
            results[name] = one_by_one(name, hparams, model, tokenizer, people(items, options.edits, seed=0))
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
