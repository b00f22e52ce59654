"""Fuzzing: many random cases through every door, counted by outcome; `python -m benchmarks.fuzz --cases 100000`.

The cases come from the test suite's own strategies (tests/robustness), so it runs in a checkout only.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.robustness.doors import DOORS, Door, outcome

SLOW = 5.0  # seconds of CPU that no single case should take


def run_door(door: Door, cases: int, number: int) -> tuple[Counter[str], list[str], float]:
    """Outcomes of one door, the first input of every kind of hole, and the slowest case's seconds of CPU."""
    counts: Counter[str] = Counter()
    holes: dict[str, str] = {}
    slowest = 0.0

    @seed(number)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(door.inputs)
    def run(case: Any) -> None:
        nonlocal slowest
        started = time.process_time()
        try:
            counts[outcome(door, case)] += 1
        except Exception as error:
            kind = f"HOLE {type(error).__name__} at {_where(error)}"
            counts[kind] += 1
            holes.setdefault(kind, f"{kind}: {str(error)[:160]!r}\n      input {_shown(case)}")
        slowest = max(slowest, time.process_time() - started)

    run()
    return counts, list(holes.values()), slowest


def _where(error: BaseException) -> str:
    """The last line of ours in the traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "easyedit_personal" in frame.filename or "robustness" in frame.filename]
    frame = (ours or frames)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def _shown(case: Any) -> str:
    try:
        return ascii(case)[:300]
    except (ValueError, RecursionError) as error:
        return f"cannot be shown: {error}"


def main() -> int:
    """Run all doors and print the counts; 1 if there was a hole or a case that took too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", help="only this one")
    parser.add_argument("--json", type=Path, help="write the counts here")
    options = parser.parse_args()
    total = sum(door.share for door in DOORS)
    table: dict[str, Any] = {}
    for door in DOORS:
        if options.door in (None, door.name):
            cases = max(1, round(options.cases * door.share / total))
            counts, holes, slowest = run_door(door, cases, options.seed)
            outcomes = dict(counts.most_common())
            table[door.name] = {"cases": counts.total(), "slowest_cpu_s": round(slowest, 2), "outcomes": outcomes}
            told = ", ".join(f"{name} {n}" for name, n in outcomes.items())
            print(f"{door.name:<15}{counts.total():>7} cases, slowest {slowest:5.2f} s: {told}", flush=True)
            for hole in holes[:12]:
                print(f"    {hole}", flush=True)
    cases = sum(row["cases"] for row in table.values())
    bad = sum(n for row in table.values() for name, n in row["outcomes"].items() if name.startswith("HOLE"))
    late = [name for name, row in table.items() if row["slowest_cpu_s"] > SLOW]
    print(f"{cases} cases, {bad} holes, too slow: {', '.join(late) or 'none'}")
    if options.json:
        command = f"python -m benchmarks.fuzz --cases {options.cases} --seed {options.seed}"
        result = {"command": command, "cases": cases, "holes": bad, "doors": table}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return int(bool(bad or late))


if __name__ == "__main__":
    raise SystemExit(main())
