"""``easyedit-personal personalize``: everybody in a file gets their edit, on one core or on a cluster.

Whatever stops it, the same command goes on where it was. Ends with 0 when all users are in the store, with 1 when some
are in the failure file, with 2 when it could not go on, with 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .session import DEVICE, HPARAMS, KERNEL, MODEL, STORE, find_settings

if TYPE_CHECKING:
    from ..bulk.bulk import Bulk, Report
    from ..bulk.run import Tally
    from ..engines import Engine

QUIET = 30.0  # seconds between two lines where there is no terminal


def personalize(
    users: Path = typer.Option(..., "--users", help="JSON lines or Parquet: user, preferences."),
    store: str = STORE,
    engine: str = typer.Option("serial", "--engine", help="serial, processes, ray or ray://HOST:PORT."),
    workers: int = typer.Option(None, "--workers", help="Default: cores, or the cluster's slots.", show_default=False),
    model: str = MODEL,
    hparams: str = HPARAMS,
    kernel: str = KERNEL,
    device: str = DEVICE,
    failures: Path = typer.Option(None, "--failures", help="Default: USERS.failures.jsonl", show_default=False),
    dry_run: bool = typer.Option(False, "--dry-run", help="Try some users, and say what all would take."),
    sample: int = typer.Option(16, "--sample", min=1, help="Users that --dry-run tries."),
    batch: int = typer.Option(16, "--batch", min=1, help="Users per task."),
    time_limit: float = typer.Option(None, "--time-limit", help="Seconds per user; default 600, none for serial."),
    retries: int = typer.Option(1, "--retries", help="Of a user who killed a worker."),
    threads: int = typer.Option(1, "--threads", help="Of each worker."),
    cpus: float = typer.Option(1.0, "--cpus", help="Of each worker, on Ray."),
    gpus: float = typer.Option(None, "--gpus", help="Of each worker, on Ray; default: 1 where there are some."),
    dtype: str = typer.Option("float32", "--dtype", help="Of the factors in the store; bfloat16 halves them."),
    patience: float = typer.Option(60.0, "--patience", help="Seconds to wait for a store that is away."),
    factors: str = typer.Option(None, "--factors", help="Keep factors there instead: s3://..., a folder (fsspec)."),
    metrics_port: int = typer.Option(None, "--metrics-port", help="Serve figures to Prometheus (extra)."),
) -> None:
    """Give every user in a file their edit, skipping those who have it."""
    from ..bulk.bulk import Bulk, LearnerFactory
    from ..bulk.users_file import count_users
    from ..engines import Limits, find_engine
    from ..engines.find import TIME_LIMIT
    from ..store import EditStore
    from ..store.rows import check_dtype

    seconds = TIME_LIMIT if time_limit is None and engine != "serial" else time_limit
    limits = Limits(workers=workers, threads=threads, retries=retries, seconds=seconds, cpus=cpus, gpus=gpus)
    chosen = find_engine(engine, limits)
    work = Bulk(store, LearnerFactory(find_settings(model, hparams, kernel, device)), check_dtype(dtype), patience)
    total = count_users(users)
    if dry_run:
        _estimate(users, work, sample, chosen)
        return
    EditStore.open(store, factors=factors).close()  # a store that cannot be opened is said before workers load models
    file = failures or users.with_name(users.name + ".failures.jsonl")
    try:
        tally = _run(users, work, chosen, file, batch, total, metrics_port)
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on from here.", file=sys.stderr)
        raise typer.Exit(130) from None
    _summarise(tally, chosen, file)
    raise typer.Exit(1 if tally.failed else 0)


def _run(
    users: Path, work: Bulk, engine: Engine, failures: Path, batch: int, total: int, metrics_port: int | None
) -> Tally:
    from ..bulk.run import personalize_users

    observe = _metrics(metrics_port, total) if metrics_port is not None else None
    with _shown(total) as show:

        def on_report(report: Report, tally: Tally) -> None:
            show(tally)
            if observe:
                observe(report)

        return personalize_users(users, work, engine, failures=failures, batch=batch, on_report=on_report)


def _estimate(users: Path, work: Bulk, sample: int, engine: Engine) -> None:
    from ..bulk.run import estimate

    found = estimate(users, work, sample)
    workers = engine.workers
    print(f"{found.users:,} users; {found.sample} tried, {found.failed} of them failed.")
    if found.failed < found.sample:
        whole = found.seconds * found.users / workers
        print(f"{found.seconds:.2f} s per user (slowest {found.slowest:.2f} s): {_time(whole)} with {workers} workers.")
        whole = found.store_bytes * found.users / 1e6
        print(f"{found.factor_bytes:,.0f} bytes of factors per user, {found.store_bytes:,.0f} in the store:")
        shared = f", and {found.shared_bytes / 1e6:,.1f} MB or more that they share" if found.shared_bytes else ""
        print(f"{whole:,.1f} MB for all{shared}.")
    raise typer.Exit(0 if found.failed < found.sample else 1)


def _summarise(tally: Tally, engine: Engine, failures: Path) -> None:
    print(
        f"{tally.done:,} user{'' if tally.done == 1 else 's'} in {_time(tally.elapsed)}: {tally.new:,} new, "
        f"{tally.there:,} {'was' if tally.there == 1 else 'were'} there, "
        f"{tally.failed:,} failed."
    )
    if tally.new:
        per_user = tally.busy / (tally.new + tally.failed)
        print(
            f"{_rate(tally.new / tally.elapsed)} ({engine.name}); {per_user:.2f} s per user and worker, "
            f"{tally.nbytes / tally.new:,.0f} bytes of factors."
        )
        print("Slowest: " + ", ".join(f"{_plain(user)} {seconds:.2f} s" for seconds, user in tally.slowest))
    if tally.failed:
        print(f"Failures are in {failures}; the last: {tally.last_error.splitlines()[0]}")


@contextmanager
def _shown(total: int) -> Iterator[Any]:
    """A function that shows how the run stands: a bar on a terminal, else a line now and then."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(total)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("Personalising"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[says]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total, says="")
        yield lambda tally: bar.update(task, completed=tally.done, says=_says(tally, total))


class _Lines:
    """For logs."""

    def __init__(self, total: int) -> None:
        self._total, self._next = total, time.monotonic() + QUIET

    def __call__(self, tally: Tally) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + QUIET
            print(f"{tally.done:,} of {self._total:,}: {_says(tally, self._total)}", file=sys.stderr, flush=True)


def _says(tally: Tally, total: int) -> str:
    rate = tally.done / max(tally.elapsed, 1e-9)
    left = _time((total - tally.done) / rate) if rate else "?"
    slowest = f", slowest {tally.slowest[0][0]:.1f} s" if tally.slowest else ""
    return f"{_rate(rate)}, {left} left, {tally.failed:,} failed{slowest}"


def _metrics(port: int, total: int) -> Any:
    """A function that counts reports for Prometheus, on a server of its own thread."""
    from ..errors import ConfigError, MissingDependencyError

    try:
        import prometheus_client as prometheus
    except ImportError:
        raise MissingDependencyError(
            "--metrics-port needs prometheus_client.", remedy='pip install "easyedit-personal[metrics]"'
        ) from None
    registry = prometheus.CollectorRegistry()
    counted = prometheus.Counter("easyedit_personal_users", "Users by outcome", ["status"], registry=registry)
    seconds = prometheus.Histogram("easyedit_personal_user_seconds", "Per edited user", registry=registry)
    nbytes = prometheus.Counter("easyedit_personal_factor_bytes", "Factors that were put", registry=registry)
    prometheus.Gauge("easyedit_personal_users_wanted", "Users in the file", registry=registry).set(total)
    try:
        prometheus.start_http_server(port, registry=registry)
    except OSError as error:
        raise ConfigError("The metrics cannot be served.", got=f"port {port}: {error.strerror}") from None

    def observe(report: Report) -> None:
        counted.labels(report.status).inc()
        if report.status == "new":
            seconds.observe(report.seconds)
            nbytes.inc(report.nbytes)

    return observe


def _rate(per_second: float) -> str:
    """Users in the unit in which there is at least one of them, or an hour's."""
    for unit, seconds in (("second", 1.0), ("minute", 60.0)):
        if per_second * seconds >= 1:
            return f"{per_second * seconds:,.1f} users per {unit}"
    return f"{per_second * 3600.0:,.1f} users per hour"


def _time(seconds: float) -> str:
    """Seconds as people say them."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def _plain(text: str) -> str:
    return text if text.isprintable() else repr(text)
