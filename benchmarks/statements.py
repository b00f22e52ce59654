"""How well are everyday statements understood?

``python -m benchmarks.statements [--part tune|test|fresh_1|...|fresh_5] [--errors] [--json FILE]`` asks
``understand`` about sentences and prints, per category:

- right: exactly what was said, with kind, value, polarity and whose it is (for "ask" and "nothing": that);
- asked: a question back where the sentence was clear;
- passed over: nothing learned and nothing asked, where something was to be learned or asked;
- wrong in silence: something is learned that was not said, or a part is lost beside what is learned.

Shares have Wilson intervals of 95 %. Rules are tuned on the tune half of ``statements_eval.yaml``, the only part whose
errors ``--errors`` prints. The fresh parts beside this file were written after the rules, and asked once before
anything was learned from them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from scipy.stats import binomtest

from easyedit_personal.clustering.lexicon import Lexicon, normalise
from easyedit_personal.statements.parser import understand
from easyedit_personal.statements.records import Statement

OUTCOMES = ("right", "asked", "passed over", "wrong in silence")
_ENTRY = re.compile(r"(?:(?P<whose>[^=]+?)'s )?(?P<kinds>[^=!]+?) (?P<sign>!?)= (?P<values>.+)")
_STANDING = re.compile(
    r"^(?:favou?rite|preferred|usual|main|go-to|disliked|avoided|abandoned) | (?:preference|choice|order|topping"
    r"|genre)$"
)
_ALIASES = {"movie": "film", "show": "series", "schedule": "working hours", "work arrangement": "working hours"}
_ALIASES |= {"activity": "hobby", "game": "board game"}


@dataclass(frozen=True)
class Case:
    """One sentence, and the readings that are right."""

    text: str
    category: str
    readings: tuple[tuple[str, ...], ...]

    @property
    def half(self) -> str:
        """ "test" or "tune", by a hash of the text."""
        return "tune" if int(hashlib.sha256(self.text.encode()).hexdigest(), 16) % 2 else "test"

    @property
    def clear(self) -> bool:
        """Whether the first reading is something to be learned, and nothing else."""
        return not {"ask", "nothing"} & set(self.readings[0])


def cases(part: str) -> list[Case]:
    """The sentences of "tune", "test" or "fresh"."""
    bundled = resources.files("easyedit_personal").joinpath("data", "bundled", "statements_eval.yaml")
    file = Path(__file__).with_name(f"statements_{part}.yaml") if part.startswith("fresh") else bundled
    content: dict[str, list[Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))
    found = [Case(row[0], name, tuple(map(tuple, row[1:]))) for name, rows in content.items() for row in rows]
    return [case for case in found if part in (case.half, file.stem.removeprefix("statements_"))]


def outcome(case: Case, found: Sequence[Statement]) -> str:
    """What came of one sentence."""
    learned = [one for one in found if one.status == "learn"]
    asked = any(one.status == "ask" for one in found)
    if any(_agrees(reading, learned, asked) for reading in case.readings):
        return "right"
    said = {entry for reading in case.readings for entry in reading}
    if any(not any(_same(entry, one) for entry in said) for one in learned):
        return "wrong in silence"
    if asked:
        return "asked"
    return "wrong in silence" if learned else "passed over"


def _agrees(reading: tuple[str, ...], learned: Sequence[Statement], asked: bool) -> bool:
    wanted = [entry for entry in reading if entry not in ("ask", "nothing")]
    left = list(learned)
    for entry in wanted:
        match = next((one for one in left if _same(entry, one)), None)
        if match is None:
            return False
        left.remove(match)
    return not left and asked == ("ask" in reading)


def _same(entry: str, statement: Statement) -> bool:
    parts = _ENTRY.fullmatch(entry)
    if parts is None or (parts["sign"] == "!") != (statement.polarity == "-"):
        return False
    subject, whose = statement.subject or "", statement.whose
    whole = any(_same_kind(name, subject) for name in _options(entry.split(" !=")[0].split(" =")[0]))
    if not (whole and whose == "user"):
        owners = _options(parts["whose"] or "user")
        if not {whose.casefold(), (statement.relation or whose).casefold()} & {owner.casefold() for owner in owners}:
            return False
        if not any(_same_kind(name, subject) for name in _options(parts["kinds"])):
            return False
    return any(_plain(value) == _plain(statement.value or "") for value in _options(parts["values"]))


def _options(text: str) -> list[str]:
    return [part.strip() for part in text.split("|")]


def _same_kind(one: str, other: str) -> bool:
    return bool(_groups(one) & _groups(other)) or _standing(one) == _standing(other)


def _groups(kind: str) -> set[str]:
    """What the lexicon knows a kind as; "food" and "favorite dish" are one."""
    names = [kind, f"favorite {_standing(kind)}", f"{_standing(kind)} preference"]
    return {entry.group for name in names if (entry := Lexicon.load().find(name))}


def _standing(kind: str) -> str:
    text = normalise(kind)
    while (shorter := _STANDING.sub("", text)) != text:
        text = shorter
    return _ALIASES.get(text, text)


def _plain(value: str) -> str:
    text = re.sub(r"\bi'm\b", "i am", value.casefold().replace("\u2019", "'"))
    words = re.sub(r"[^\w%+/:' -]", " ", text).split()
    if len(words) > 1 and words[-1] == "units":
        words.pop()
    while words and words[0] in ("a", "an", "the", "my", "some", "our"):
        words = words[1:]
    return " ".join(words)


def share(count: int, total: int) -> dict[str, Any]:
    """A share in percent, with its interval."""
    if not total:
        return {"count": 0, "n": 0, "share": None, "interval": None}
    interval = binomtest(count, total).proportion_ci(method="wilson")
    bounds = [round(float(100 * bound), 1) for bound in (interval.low, interval.high)]
    return {"count": count, "n": total, "share": round(100 * count / total, 1), "interval": bounds}


def figures(rows: Iterable[tuple[Case, str]]) -> dict[str, Any]:
    """Outcomes by category, and the three figures that decide."""
    rows = list(rows)
    table = {}
    for category in dict.fromkeys(case.category for case, _ in rows):
        own = [result for case, result in rows if case.category == category]
        table[category] = {"n": len(own), **{name: own.count(name) for name in OUTCOMES}}
    clear = [result for case, result in rows if case.clear]
    nothing = [result for case, result in rows if case.readings[0] == ("nothing",)]
    return {
        "categories": table,
        "clear statements right in full": share(clear.count("right"), len(clear)),
        "wrong in silence": share(sum(result == "wrong in silence" for _, result in rows), len(rows)),
        "nothing to learn left alone": share(nothing.count("right"), len(nothing)),
    }


def judged(part: str, reader: Callable[[str], Sequence[Statement]] = understand) -> list[tuple[Case, str]]:
    """Every case of a part with its outcome."""
    return [(case, outcome(case, reader(case.text))) for case in cases(part)]


def main() -> None:
    """Print the table, and write it where asked."""
    parser = argparse.ArgumentParser(description="How well are everyday statements understood?")
    parser.add_argument(
        "--part", choices=("tune", "test", "fresh_1", "fresh_2", "fresh_3", "fresh_4", "fresh_5"), default="tune"
    )
    parser.add_argument("--errors", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    understand("I live in Lisbon")  # rules are compiled
    started = time.perf_counter()
    rows = judged(options.part)
    seconds = time.perf_counter() - started
    found = figures(rows)
    for name, row in found["categories"].items():
        print(f"{name:<14}" + "  ".join(f"{outcome} {row[outcome]}" for outcome in OUTCOMES) + f"  of {row['n']}")
    for name in list(found)[1:]:
        print(f"{name}: {found[name]}")
    if options.errors and options.part == "tune":
        _print_errors(rows)
    if options.json:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout
        context = {"part": options.part, "milliseconds per sentence": round(1000 * seconds / len(rows), 2)}
        context |= {"commit": commit.strip(), "python": platform.python_version()}
        options.json.write_text(json.dumps(context | found, indent=1) + "\n", encoding="utf-8")


def _print_errors(rows: Iterable[tuple[Case, str]]) -> None:
    for case, result in rows:
        if result != "right":
            print(f"\n{case.category}, {result}: {case.text}\n  wanted {' or '.join(map(str, case.readings))}")
            for one in understand(case.text):
                sign = "=" if one.polarity == "+" else "!="
                print(f"  {one.status}: {one.whose}'s {one.subject} {sign} {one.value}  ({one.reason}; {one.text})")


if __name__ == "__main__":
    main()
