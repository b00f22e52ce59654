"""What ``benchmarks.personas`` prints of the people it has asked: shares, times, sizes, and a row per person."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import linregress, t

from easyedit_personal.evaluate.summary import wilson


def summary(people: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Shares with 95 % intervals, over all people."""
    told = [one for person in people for one in person["told"]]
    places = [where for one in told for where in one["where"]]
    found: dict[str, Any] = {
        "people": len(people),
        "statements": len(told),
        "understood": _share([one["right"] for one in told]),
        "in weights": _share([where == "weights" for where in places]),
    }
    for name in people[0]["answers"] if people else ():
        found[name] = _share([hit for person in people for hit in person["answers"].get(name, ())])
    for place in ("weights", "words"):
        hits = [hit for person in people for hit, known in _direct(person) if known[1] == place]
        found[f"direct, in {place}"] = _share(hits)
    return {**found, **_times(people), **_sizes(people)}


def _direct(person: Mapping[str, Any]) -> list[tuple[bool, Sequence[str]]]:
    return list(zip(person["answers"]["direct"], person.get("known", ())))


def _times(people: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The line through the CPU seconds of the n-th sentence, without those that learned a gate."""
    seen: set[str] = set()
    points = []
    for person in people:
        for number, one in enumerate(person["told"], start=1):
            if "weights" in one["where"] and one.get("kind") in seen:
                points.append((number, one["cpu"]))
            seen.add(one.get("kind", ""))
    if len({number for number, _ in points}) < 3:
        return {"CPU seconds of the n-th": {"n": len(points)}}
    line = linregress(*zip(*points))
    reach = float(t.ppf(0.975, len(points) - 2) * line.stderr)
    first, last = (sorted(cpu for n, cpu in points if (n <= 10) is early) for early in (True, False))
    found = {
        "n": len(points),
        "slope": round(line.slope, 3),
        "interval": [round(line.slope + d, 3) for d in (-reach, reach)],
    }
    halves = {"median of 1-10": _median(first), "median of 11-20": _median(last)}
    return {"CPU seconds of the n-th": {**found, **halves}}


def _median(ordered: Sequence[float]) -> float | None:
    return ordered[len(ordered) // 2] if ordered else None


def _sizes(people: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Files before and after `store compact`, and how many of them have shrunk."""
    compacted = [person["compact"] for person in people if person["compact"]]
    files = [one["file_bytes"] for one in compacted]
    shrunk = sum(after < before for before, after in files)
    means = [round(sum(sizes) / len(files)) for sizes in zip(*files)]
    return {"compact": {"n": len(files), "file bytes": means, "smaller": shrunk}}


def table(people: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row per person, the worst by their direct questions last, and the kinds that fail most."""
    names = [name for name in people[0]["answers"] if name != "everyday with a value"] if people else []
    rows = [f"{'':<10}{'CPU s':>7}{'weights':>9}" + "".join(f"{name[:9]:>11}" for name in names)]
    for person in sorted(people, key=lambda one: -_mean(one["answers"]["direct"])):
        places = [place for _, place in person.get("known", ())]
        cells = "".join(f"{_mean(person['answers'].get(name, ())):>11.0%}" for name in names)
        cpu = sum(one.get("cpu", 0.0) for one in person["told"])
        rows.append(f"{person['name']:<10}{cpu:>7.0f}{_mean([one == 'weights' for one in places]):>9.0%}{cells}")
    failed = Counter(known[0] for person in people for hit, known in _direct(person) if not hit)
    worst = ", ".join(f"{kind} ({count})" for kind, count in failed.most_common(6))
    return [*rows, f"Direct questions without their value, by kind: {worst or 'none'}"]


def _mean(hits: Sequence[bool]) -> float:
    return sum(hits) / len(hits) if hits else 0.0


def _share(hits: Sequence[bool]) -> dict[str, Any]:
    if not hits:
        return {"share": None, "n": 0}
    found = wilson(sum(hits), len(hits))
    return {"share": round(found.mean, 3), "n": found.n, "interval": [round(found.low, 3), round(found.high, 3)]}
