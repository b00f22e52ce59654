"""What does a store of 100,000 users cost?

``python -m benchmarks.store [--users 100000] [--writers 8] [--folder DIR] [--json FILE]`` fills a SQLite store with one
edit per user (rank 4 of a 192 x 512 matrix: 11 kB in float32) with a preference of
the bundled set (nine phrases), and measures wall time:

- put, flat out: that many processes, each putting its next edit as soon as the last is on the disk;
- put, paced: the same processes in a full store, each 10 puts a second at random moments;
- disk: one fdatasync of 12 kB appended to a file, for comparison; a put cannot be on the disk faster;
- deltas, version, history: of users at random, by one process in a store that it has just opened, so that the first
  reads are cold to us (not to the operating system: the file was just written);
- ten: ``deltas`` of users with ten edits;
- undo, forget: of users at random, one after the other;
- size: the closed database's file against the bare factors (rank x (d_out + d_in) x 4 bytes per user);
- memory: resident set while walking over all users, and over all factors in ``verify``;
- backup, verify and vacuum: seconds for the whole store.

Factors are random: time and room do not depend on their values. "ratio" in the size is the issue's figure.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from easyedit_personal import UPQADataset
from easyedit_personal.evaluate.provenance import commit, hardware, versions
from easyedit_personal.store import EditStore
from easyedit_personal.types import Preference, WeightDelta
from tests.tiny_model import load

LAYER, D_OUT, D_IN, RANK = "model.layers.3.mlp.down_proj", 192, 512, 4
HPARAMS = {"kernel": "lowrank", "layers": [3], "rank": RANK}
HEALTH = {"perplexity_ratio": 1.0234, "norm": 0.1187}
PACE, PACED = 10.0, 100  # puts per second and number of them, per writer
SAMPLE = 20_000


def factors(rng: torch.Generator) -> list[WeightDelta]:
    """A user's edit."""
    left = torch.randn(D_OUT, RANK, generator=rng)
    return [WeightDelta(LAYER, left, torch.randn(RANK, D_IN, generator=rng))]


def name(number: int) -> str:
    """A user's id."""
    return f"user-{number:08d}"


def put(store: EditStore, user: str, rng: torch.Generator, said: Preference, key: str) -> float:
    """Put one edit; seconds."""
    deltas = factors(rng)
    start = time.perf_counter()
    store.put(user, deltas, preference=said, kernel="lowrank", hparams=HPARAMS, health=HEALTH, key=key)
    return time.perf_counter() - start


def write(url: str, numbers: range, pace: float, pipe: Any) -> None:
    """One writer: an edit for each number, flat out or at ``pace`` per second; its seconds go to the pipe."""
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(numbers.start)
    wait = random.Random(numbers.start)
    said = [item.preference() for item in UPQADataset.bundled().items]
    with EditStore.open(url) as store:
        pipe.send("ready")
        pipe.recv()
        taken = []
        for number in numbers:
            if pace:
                time.sleep(wait.expovariate(pace))
            taken.append(put(store, name(number), rng, said[number % len(said)], f"{pace}/{number}"))
        pipe.send(taken)


def with_writers(url: str, users: int, writers: int, pace: float = 0.0) -> tuple[list[float], float]:
    """All puts' seconds, and the wall time from the first to the last."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "easyedit_personal.store.store", "easyedit_personal.data.upqa"])
    pipes, children = [], []
    for writer in range(writers):
        ours, theirs = context.Pipe()
        children.append(context.Process(target=write, args=(url, range(writer, users, writers), pace, theirs)))
        children[-1].start()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    start = time.perf_counter()
    for pipe in pipes:
        pipe.send("go")
    taken = [seconds for pipe in pipes for seconds in pipe.recv()]
    wall = time.perf_counter() - start
    for child in children:  # the last one to close the database carries the log back into it
        child.join()
    return taken, wall


def timed(call: Callable[[str], object], users: Iterable[str]) -> list[float]:
    """Seconds of a call per user."""
    taken = []
    for user in users:
        start = time.perf_counter()
        call(user)
        taken.append(time.perf_counter() - start)
    return taken


def disk(folder: Path) -> list[float]:
    """Seconds of an fdatasync after 12 kB have been appended."""
    path = folder / "sync"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    taken = []
    for _ in range(300):
        os.write(descriptor, os.urandom(12_000))
        start = time.perf_counter()
        getattr(os, "fdatasync", os.fsync)(descriptor)
        taken.append(time.perf_counter() - start)
    os.close(descriptor)
    path.unlink()
    return taken


def summary(taken: list[float]) -> dict[str, float]:
    """Quantiles in milliseconds."""
    quantiles = {f"p{q}": float(np.percentile(taken, q)) * 1e3 for q in (50, 90, 99, 99.9)}
    return {
        "n": len(taken),
        **{key: round(value, 3) for key, value in quantiles.items()},
        "max": round(max(taken) * 1e3, 1),
    }


def resident() -> float:
    """This process's resident set in MB (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


def walk(store: EditStore) -> dict[str, Any]:
    """Growth of the resident set over all users, as seen every 1,000 of them."""
    next(store.users(), None)
    before, largest, count = resident(), 0.0, 0
    start = time.perf_counter()
    for count, _ in enumerate(store.users(), 1):
        if count % 1000 == 0:
            largest = max(largest, resident() - before)
    return {"users": count, "seconds": round(time.perf_counter() - start, 2), "growth_mb": round(largest, 1)}


def whole(call: Callable[[], object]) -> dict[str, float]:
    """Seconds and growth of the resident set of one call."""
    before, start = resident(), time.perf_counter()
    call()
    return {"seconds": round(time.perf_counter() - start, 1), "growth_mb": round(resident() - before, 1)}


def measure(path: Path, users: int, writers: int) -> dict[str, Any]:
    """All figures; see the module."""
    result: dict[str, Any] = {"disk_ms": summary(disk(path.parent))}
    EditStore.open(path, *load()).close()  # from here on the store's factors carry fingerprints
    taken, seconds = with_writers(str(path), users, writers)
    result["put_flat_out_ms"] = {**summary(taken), "puts_per_second": round(users / seconds, 1)}
    size, bare = path.stat().st_size, users * RANK * (D_OUT + D_IN) * 4
    result["size"] = {"file_bytes": size, "factor_bytes": bare, "ratio": round(size / bare, 4)}
    rng = random.Random(0)
    some = [name(rng.randrange(users)) for _ in range(SAMPLE)]
    with EditStore.open(path) as store:
        result["memory"] = walk(store)
        result["deltas_ms"] = summary(timed(store.deltas, some))
        result["version_ms"] = summary(timed(store.version, some))
        result["history_ms"] = summary(timed(store.history, some[:2000]))
        result["verify"] = whole(lambda: faultless(store))
        result["backup"] = whole(lambda: store.backup(path.with_name("backup.db")))
        path.with_name("backup.db").unlink()
    taken, _ = with_writers(str(path), PACED * writers, writers, PACE)
    result["put_paced_ms"] = {**summary(taken), "puts_per_second_each": PACE}
    with EditStore.open(path) as store:
        for number in range(100):
            for key in range(10):
                put(store, f"ten-{number}", torch.Generator().manual_seed(key), Preference("a", "b", "c"), str(key))
        tens = [f"ten-{number % 100}" for number in range(2000)]
        result["deltas_of_ten_edits_ms"] = summary(timed(store.deltas, tens))
        gone = rng.sample(range(users), 400)
        result["undo_ms"] = summary(timed(store.undo, map(name, gone[:200])))
        result["forget_ms"] = summary(timed(store.forget, map(name, gone[200:])))
        result["vacuum"] = whole(store.vacuum)
    return result


def faultless(store: EditStore) -> None:
    """Stop if the store is damaged: its figures would mean nothing."""
    faults = store.verify()
    if faults:
        raise SystemExit(f"The store is damaged: {faults[:3]}")


def table(result: dict[str, Any]) -> Table:
    """The figures for people."""
    shown = Table(title="EditStore on SQLite", title_justify="left")
    for column in ("what", "figures"):
        shown.add_column(column, overflow="fold")
    for what, figures in result.items():
        shown.add_row(what, "  ".join(f"{key} {value:,}" for key, value in figures.items()))
    return shown


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--folder", type=Path, help="where the store is made; a temporary folder if not given")
    parser.add_argument("--json", type=Path, help="write the result here too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        result = measure(Path(folder) / "edits.db", given.users, given.writers)
    Console().print(table(result))
    if given.json:
        setup = {
            "users": given.users,
            "writers": given.writers,
            "factors": f"rank {RANK} of {D_OUT} x {D_IN}, float32",
            "versions": versions(),
            "hardware": f"{hardware()}, {os.cpu_count()} cores shared with other processes",
            "commit": commit(),
        }
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({"schema": 1, "setup": setup, "results": result}, indent=2) + "\n")


if __name__ == "__main__":
    main()
