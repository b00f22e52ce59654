"""Many users at once against a server of its own on this machine: who chats and who is being learned, for minutes.

Says how many requests failed, how long an answer's first token takes beside an idle server, and whether memory grows.
All requests go to the loopback address, and end with the time that was asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil
from scipy.stats import linregress

from benchmarks.models import add_options
from easyedit_personal.evaluate.provenance import commit, hardware, versions

QUESTIONS = (
    "What should I do this weekend?",
    "What's my hobby?",
    "Where do I live?",
    "What should I cook tonight?",
    "I have an hour to spare. Any ideas?",
)
SAID = {
    "hobby": ("falconry", "chess", "pottery", "rowing", "origami"),
    "pet": ("a greyhound", "a parrot", "a tortoise"),
    "job": ("nurse", "carpenter", "translator", "surveyor"),
}
TELLS, UNDOES = 0.02, 0.01  # of what a user does; the rest are questions
TOKENS = 32
IDLE = 20  # questions, one after the other
WARM = 0.5  # of the time: caches fill and learners start, so memory is looked at afterwards
OPEN_JOB = ("queued", "running")


@dataclass
class Seen:
    """What the users saw."""

    first: list[float] = field(default_factory=list)
    learned: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    memory: list[tuple[float, float]] = field(default_factory=list)


@asynccontextmanager
async def serving(folder: Path, options: Any) -> AsyncIterator[tuple[str, psutil.Process]]:
    """A server process with an empty store; its address, and itself."""
    command = [sys.executable, "-m", "easyedit_personal.cli.main", "serve", "--store", str(folder / "edits.db")]
    command += ["--port", "0", "--rate", "1000000", "--edit-rate", "1000000", "--no-page"]
    for name in ("model", "hparams"):
        command += [f"--{name}", getattr(options, name)] if getattr(options, name) else []
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ})
        try:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:\d+", await asyncio.to_thread(process.stdout.readline))
            if found is None:
                raise SystemExit((folder / "log").read_text())
            yield found[0], psutil.Process(process.pid)
        finally:
            process.terminate()
            process.wait(120)


async def until_ready(client: httpx2.AsyncClient, process: psutil.Process) -> None:
    """Wait until the server answers."""
    while process.is_running():
        try:
            if (await client.get("/readyz")).is_success:
                return
        except httpx2.TransportError:
            pass
        await asyncio.sleep(0.2)
    raise SystemExit("the server ended before it answered")


async def chat(client: httpx2.AsyncClient, user: str, question: str) -> float:
    """Ask, read to the end, and give the seconds until the first text."""
    body = {"model": f"base@{user}", "messages": [{"role": "user", "content": question}], "stream": True}
    began, first, last = time.perf_counter(), 0.0, ""
    async with client.stream("POST", "/v1/chat/completions", json={**body, "max_tokens": TOKENS}) as response:
        if response.is_error:
            await response.aread()
        response.raise_for_status()
        async for line in response.aiter_lines():
            last = line or last
            if not first and '"content": "' in line and '"content": ""' not in line:
                first = time.perf_counter() - began
    if last != "data: [DONE]":
        raise RuntimeError(f"the stream ended with {last[:200]}")
    return first or time.perf_counter() - began


async def tell(client: httpx2.AsyncClient, user: str, draw: random.Random, end: float) -> tuple[str, float]:
    """Have something learned and follow the job; how it ended, if it did in time, and after how many seconds."""
    kind = draw.choice([*SAID])
    body = {"text": f"My {kind} is {draw.choice(SAID[kind])}."}
    began = time.perf_counter()
    answer = (await client.put(f"/v1/users/{user}/preferences", json=body)).raise_for_status().json()
    while True:
        job = (await client.get(f"/v1/jobs/{answer['job']}", params={"wait": 5})).raise_for_status().json()
        if job["status"] not in OPEN_JOB or time.monotonic() > end:
            return job["status"], time.perf_counter() - began


async def live(client: httpx2.AsyncClient, user: str, seen: Seen, end: float, think: float) -> None:
    """One user until the end: thinks, then asks, tells or undoes."""
    draw = random.Random(user)
    while True:
        await asyncio.sleep(draw.expovariate(1 / think))
        if time.monotonic() > end:
            return
        what = draw.random()
        try:
            if what < TELLS:
                outcome, seconds = await tell(client, user, draw, end)
                seen.outcomes[f"learn {outcome}"] += 1
                seen.learned += [seconds] if outcome == "done" else []
            elif what < TELLS + UNDOES:
                (await client.post(f"/v1/users/{user}/undo")).raise_for_status()
                seen.outcomes["undo"] += 1
            else:
                seen.first.append(await chat(client, user, draw.choice(QUESTIONS)))
                seen.outcomes["chat"] += 1
        except httpx2.HTTPStatusError as error:
            seen.faults[f"{error.response.status_code} {error.response.text[:160]}"] += 1
        except (httpx2.HTTPError, RuntimeError) as error:
            seen.faults[repr(error)[:160]] += 1


async def watch(process: psutil.Process, seen: Seen, end: float) -> None:
    """The server's resident memory, every second."""
    began = time.monotonic()
    while time.monotonic() < end:
        seen.memory.append((time.monotonic() - began, process.memory_info().rss / 2**20))
        await asyncio.sleep(1)


async def run(options: Any) -> dict[str, Any]:
    """Idle first, then everybody at once."""
    limits = httpx2.Limits(max_connections=options.users + 8)
    with tempfile.TemporaryDirectory() as made:
        async with (
            serving(Path(made), options) as (url, process),
            httpx2.AsyncClient(base_url=url, timeout=300, limits=limits) as client,
        ):
            await until_ready(client, process)
            for _ in range(3):
                await chat(client, "nobody", QUESTIONS[0])
            idle = [await chat(client, "nobody", QUESTIONS[n % len(QUESTIONS)]) for n in range(IDLE)]
            seen, end = Seen(), time.monotonic() + options.seconds
            users = [live(client, f"user{n}", seen, end, options.think) for n in range(options.users)]
            await asyncio.gather(watch(process, seen, end), *users)
    return report(idle, seen, options)


def report(idle: list[float], seen: Seen, options: Any) -> dict[str, Any]:
    """The figures."""
    first = {"idle": quantiles(idle), "loaded": quantiles(seen.first)}
    late = np.array([point for point in seen.memory if point[0] >= WARM * options.seconds])
    line = linregress(late[:, 0] / 60, late[:, 1])
    return {
        "schema": 1,
        "setup": setup(options),
        "outcomes": dict(seen.outcomes),
        "errors": sum(seen.faults.values()),
        "faults": dict(seen.faults),
        "requests_per_second": round(sum(seen.outcomes.values()) / options.seconds, 2),
        "first_token_seconds": first,
        "p95_ratio": round(first["loaded"]["p95"] / first["idle"]["p95"], 2),
        "learn_seconds": quantiles(seen.learned),
        "memory_mib": {
            "start": round(seen.memory[0][1], 1),
            "every_minute": [round(value, 1) for _, value in seen.memory[::60]],
            "after_warming_up": round(float(late[0, 1]), 1),
            "end": round(float(late[-1, 1]), 1),
            "slope_per_minute": round(float(line.slope), 3),
            "slope_95_percent": [round(float(line.slope + sign * 1.96 * line.stderr), 3) for sign in (-1, 1)],
        },
    }


def quantiles(values: list[float]) -> dict[str, float]:
    """Number, median, 95th percentile and largest."""
    if not values:
        return {"n": 0}
    p50, p95, most = np.percentile(values, [50, 95, 100]).round(4)
    return {"n": len(values), "p50": float(p50), "p95": float(p95), "max": float(most)}


def setup(options: Any) -> dict[str, Any]:
    """What the figures depend on."""
    mix = {"tell": TELLS, "undo": UNDOES, "chat": round(1 - TELLS - UNDOES, 2)}
    return {
        "users": options.users,
        "seconds": options.seconds,
        "think_seconds": options.think,
        "mix": mix,
        "max_tokens": TOKENS,
        "model": options.model or "default",
        "threads": os.environ.get("OMP_NUM_THREADS", "torch's default"),
        "malloc_arena_max": os.environ.get("MALLOC_ARENA_MAX", "glibc's default"),
        "load_average_at_the_end": round(os.getloadavg()[1], 1),
        "hardware": hardware(),
        "versions": versions(),
        "commit": commit(),
    }


def main() -> None:
    """Command line; ends with 1 if a request failed."""
    parser = argparse.ArgumentParser(description="Many users chatting and being learned, against one server.")
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=600, help="at least 300 for a result that is kept")
    parser.add_argument(
        "--think", type=float, default=5.0, help="seconds a user thinks between two requests, on average"
    )
    parser.add_argument("--json", type=Path, help="write the result here")
    add_options(parser)
    options = parser.parse_args()
    result = asyncio.run(run(options))
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if result["errors"] else 0)


if __name__ == "__main__":
    main()
