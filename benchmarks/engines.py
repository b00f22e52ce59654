"""What do two processes bring, what does the path cost per user, and does memory stay flat?

``python -m benchmarks.engines [--users 24] [--rounds 5] [--many 100000] [--engine processes] [--json FILE]``

- ratio: the model (``--model``) personalises the same users serially and with 2 workers, turn by turn; throughput is
  counted once every worker has delivered (loading the model is measured apart), and includes the last task's idle
  neighbour. The spread over rounds is reported, since a busy machine decides more than we do;
- overhead: seconds per user on the whole path (reading the file, task, store, report) against those of the edit alone,
  serially, where both can be timed in one process;
- many: users with random factors (28 kB: two matrices of 192 x 512, rank 5), from the file through 2 workers into the
  store and, one by one, back out; resident memory of driver and workers is read every second. "growth" is the largest
  after the first tenth against what it was there;
- again: the same file a second time, when everybody is there.

All wall time. What it shows depends on how busy the cores are: look at the spread.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.models import add_options, chosen
from easyedit_personal import PersonalizationHyperParams, UPQADataset
from easyedit_personal.bulk.bulk import Bulk, LearnerFactory, Solve, Solved
from easyedit_personal.bulk.run import Tally, personalize_users
from easyedit_personal.engines import Limits, find_engine
from easyedit_personal.evaluate.provenance import commit, hardware, versions
from easyedit_personal.store import EditStore
from easyedit_personal.types import EditResult, Preference, WeightDelta

LAYERS = ("model.layers.2.mlp.down_proj", "model.layers.3.mlp.down_proj")
D_OUT, D_IN, RANK = 192, 512, 5
WORKERS = 2
MANY_BATCH = 64
WALKED = 1000  # users between two looks at the memory while reading


@dataclass(frozen=True)
class RandomMaker:
    """Users who cost nothing to compute; what remains is the path."""

    kernel = "random"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def open(self, url: str) -> Iterator[tuple[EditStore, Solve]]:
        """The store, and factors by chance."""
        torch.set_num_threads(1)
        with EditStore.open(url) as store:
            yield store, lambda users: {user: _random(user) for user in users}


def _random(user: str) -> EditResult:
    rng = torch.Generator().manual_seed(int(user.rpartition("-")[2]))
    lefts = [torch.randn(D_OUT, RANK, generator=rng) for _ in LAYERS]
    deltas = [WeightDelta(path, left, torch.randn(RANK, D_IN, generator=rng)) for path, left in zip(LAYERS, lefts)]
    return EditResult(deltas)


@dataclass(frozen=True)
class TimedFactory(LearnerFactory):
    """The real factory, whose edits' own seconds are noted; serial only."""

    seconds: list[float] = field(default_factory=list)

    @contextmanager
    def open(self, url: str) -> Iterator[tuple[EditStore, Solve]]:
        """As ``LearnerFactory``."""
        with super().open(url) as (store, solve):

            def timed(users: Mapping[str, Sequence[Preference]]) -> Solved:
                found = solve(users)
                self.seconds.extend(one.seconds for one in found.values() if isinstance(one, EditResult))
                return found

            yield store, timed


def write_users(path: Path, count: int) -> Path:
    """Users with the bundled set's preferences, in turn, with all their phrases."""
    items = [item.preference() for item in UPQADataset.bundled().items]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            said = items[number % len(items)]
            phrases = [{"subject": subject, "question": question} for subject, question in said.phrases]
            fields = {"subject": said.subject, "question": said.question, "target": said.target, "phrases": phrases}
            file.write(json.dumps({"user": f"user-{number:08d}", "preferences": [fields]}) + "\n")
    return path


def throughput(users: Path, count: int, engine: str, work: Bulk, workers: int) -> dict[str, float]:
    """Users per second once every worker has delivered, and seconds until then."""
    times: list[float] = []
    start = time.perf_counter()
    personalize_users(
        users,
        work,
        find_engine(engine, Limits(workers=workers)),
        failures=users.with_suffix(".failures"),
        batch=1,
        on_report=lambda report, tally: times.append(time.perf_counter() - start),
    )
    warm = 2 * workers  # by then each has delivered, unless one is twice as fast
    return {
        "per_second": (count - warm) / (times[-1] - times[warm - 1]),
        "until_warm": times[warm - 1],
        "all": times[-1],
    }


def ratio(folder: Path, count: int, rounds: int, engine: str, hparams: PersonalizationHyperParams) -> dict[str, Any]:
    """Serial against two workers, turn by turn."""
    users = write_users(folder / "users.jsonl", count)
    found: dict[str, list[dict[str, float]]] = {"serial": [], engine: []}
    timed: list[float] = []
    overheads = []
    for number in range(rounds):
        factory = TimedFactory(hparams, [])
        serial = Bulk(str(folder / f"serial-{number}.db"), factory)
        found["serial"].append(throughput(users, count, "serial", serial, 1))
        edits = factory.seconds[2:]
        overheads.append(1 / found["serial"][-1]["per_second"] / statistics.fmean(edits) - 1)
        timed += edits
        spread = Bulk(str(folder / f"spread-{number}.db"), LearnerFactory(hparams))
        found[engine].append(throughput(users, count, engine, spread, WORKERS))
    rates = {name: [one["per_second"] for one in runs] for name, runs in found.items()}
    ratios = [b / a for a, b in zip(rates["serial"], rates[engine])]
    return {
        "users_per_second": {name: spread_of(values) for name, values in rates.items()},
        "ratio": spread_of(ratios),
        "until_warm_s": {name: spread_of([one["until_warm"] for one in runs]) for name, runs in found.items()},
        "edit_s": spread_of(timed),
        "overhead": spread_of(overheads),
        "equal": same(folder / "serial-0.db", folder / "spread-0.db"),
    }


def same(one: Path, two: Path) -> bool:
    """Whether two stores hold the same factors bit for bit."""
    with EditStore.open(one) as first, EditStore.open(two) as second:
        return all(alike(first.deltas(user), second.deltas(user)) for user in first.users())


def alike(one: Sequence[WeightDelta], two: Sequence[WeightDelta]) -> bool:
    """Equal bit for bit."""
    pairs = zip(one, two, strict=True)
    return all(torch.equal(a.left, b.left) and torch.equal(a.right, b.right) for a, b in pairs)


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {name: round(call(values), 4) for name, call in (("median", statistics.median), ("min", min), ("max", max))}


def resident(pid: int) -> float:
    """A process's own resident memory in MB (Linux)."""
    total, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    return (int(total) - int(shared)) * os.sysconf("SC_PAGESIZE") / 1e6


class Memory:
    """Resident memory over a run, by process."""

    def __init__(self, total: int) -> None:
        self.total, self.next = total, 0.0
        self.seen: dict[str, list[tuple[float, float]]] = {}

    def look(self, tally: Tally) -> None:
        """At most once a second."""
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + 1.0
        self.note("driver", os.getpid(), tally.done / self.total)
        for child in multiprocessing.active_children():
            self.note(child.name, child.pid or 0, tally.done / self.total)

    def note(self, name: str, pid: int, share: float) -> None:
        """Resident memory after a share of the run."""
        self.seen.setdefault(name, []).append((share, resident(pid)))

    def growth(self) -> dict[str, Any]:
        """In MB: after the first tenth, the largest after that."""
        found = {}
        for name, seen in self.seen.items():
            late = [size for share, size in seen if share >= 0.1]
            if late:
                found[name] = {"after_a_tenth": round(late[0], 1), "growth": round(max(late) - late[0], 1)}
        return found


def many(folder: Path, count: int, engine: str) -> dict[str, Any]:
    """Random factors through the whole path, and out again."""
    users, store = write_users(folder / "many.jsonl", count), str(folder / "many.db")
    work = Bulk(store, RandomMaker())
    result: dict[str, Any] = {}
    for name in ("write", "again"):
        memory = Memory(count)
        tally = personalize_users(
            users,
            work,
            find_engine(engine, Limits(workers=WORKERS)),
            failures=folder / "failures",
            batch=MANY_BATCH,
            on_report=partial(_look, memory),
        )
        result[name] = {"users": tally.new + tally.there, "seconds": round(tally.elapsed, 1)}
        result[name] |= {"per_second": round(tally.done / tally.elapsed, 1), "memory_mb": memory.growth()}
    result["read"] = read(store, count)
    return result


def _look(memory: Memory, report: object, tally: Tally) -> None:
    memory.look(tally)


def read(store: str, count: int) -> dict[str, Any]:
    """Everybody's factors, held against what they were made from."""
    memory, start, done = Memory(count), time.monotonic(), 0
    with EditStore.open(store) as opened:
        for done, user in enumerate(opened.users(), 1):
            if not alike(opened.deltas(user), _random(user, ()).deltas):
                raise SystemExit(f"{user} has other factors than were made.")
            if done % WALKED == 0:
                memory.note("reader", os.getpid(), done / count)
    if done != count:
        raise SystemExit(f"{done} users are there, {count} were written.")
    seconds = time.monotonic() - start
    return {"users": done, "seconds": round(seconds, 1), "memory_mb": memory.growth()}


def table(result: dict[str, Any]) -> Table:
    """The figures for people."""
    shown = Table(title="Engines", title_justify="left")
    for column in ("what", "figures"):
        shown.add_column(column, overflow="fold")
    for part, figures in result.items():
        for what, figure in figures.items():
            shown.add_row(f"{part} {what}", str(figure))
    return shown


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--users", type=int, default=24, help="per round; 0 leaves this part out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--many", type=int, default=100_000, help="0 leaves this part out")
    parser.add_argument("--engine", default="processes", help="what serial is compared with")
    parser.add_argument("--folder", type=Path, help="where stores are made; a temporary folder if not given")
    parser.add_argument("--json", type=Path, help="write the result here too")
    add_options(parser)
    given = parser.parse_args()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        if given.users:
            result["edits"] = ratio(Path(folder), given.users, given.rounds, given.engine, chosen(given))
        if given.many:
            result["random"] = many(Path(folder), given.many, given.engine)
    Console().print(table(result))
    if given.json:
        setup = {
            **{name: getattr(given, name) for name in ("users", "rounds", "many", "engine", "model", "hparams")},
            "workers": WORKERS,
            "versions": versions(),
            "hardware": f"{hardware()}, {os.cpu_count()} cores",
            "load_average": os.getloadavg(),
            "commit": commit(),
        }
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({"schema": 1, "setup": setup, "results": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
