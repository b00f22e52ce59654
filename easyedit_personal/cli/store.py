"""``easyedit-personal store``: look into a store, take edits back, forget users, export, check, shrink and copy.

Ids are written as they are where they can be printed, and as Python writes them where they cannot: a terminal obeys
control characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ..store import CompactReport, EditStore, StoredEdit
    from ..types import Preference

REWRITTEN = 256 * 2**20  # bytes; smaller files are rewritten within a second or two

app = typer.Typer(name="store", help="Look after a store of users' edits.", no_args_is_help=True)

STORE = typer.Option(
    ..., "--store", "-s", envvar="EASYEDIT_PERSONAL_STORE", help="A path, or a URL of SQLite or PostgreSQL."
)
WHO = typer.Argument(None, metavar="[USER]", help="The user's id.", show_default=False)
OF = typer.Option(None, "--user", "-u", help="The same, for ids that begin with a dash.", show_default=False)
AS_JSON = typer.Option(False, "--json", help="JSON lines, for programs.")


@app.command("ls")
def ls(
    store: str = STORE,
    limit: int = typer.Option(0, "--limit", min=0, help="At most so many; 0 means all."),
    as_json: bool = AS_JSON,
) -> None:
    """Write the id of every user, one per line."""
    with _opened(store) as opened:
        for user in islice(opened.users(), limit or None):
            print(json.dumps(user) if as_json else _plain(user))


@app.command()
def show(who: str = WHO, store: str = STORE, named: str = OF, as_json: bool = AS_JSON) -> None:
    """Show what is kept of a user, in weights and in words, live and undone."""
    user = _one(who, named)
    with _opened(store) as opened:
        history = opened.history(user)
    if as_json:
        for edit in history:
            print(json.dumps(_record(edit), ensure_ascii=False))
    elif history:
        _print_edits(f"Memory of {_plain(user)}", history)
    else:
        print(f"Nothing is kept of {_plain(user)}.")


@app.command()
def undo(
    who: str = WHO,
    store: str = STORE,
    named: str = OF,
    edit: int | None = typer.Option(None, "--edit", help="The edit's number; the last live one if not given."),
    to_version: int | None = typer.Option(None, "--to-version", help="Undo everything that was put after this one."),
) -> None:
    """Take back a user's last edit, one by its number, or all after a version."""
    from ..store.records import came_back

    user = _one(who, named)
    with _opened(store) as opened:
        undone = opened.undo(user, edit, to_version=to_version)
        back = came_back(opened.history(user), undone)
    if undone:
        _print_edits(f"Undone for {_plain(user)}", undone)
        if back:
            _print_edits("Back again, since they had given way to it", back)
    else:
        print(f"Nothing to undo for {_plain(user)}.")


@app.command()
def forget(
    who: list[str] = typer.Argument(None, metavar="[USER]...", help="The users' ids.", show_default=False),
    store: str = STORE,
    named: list[str] = typer.Option(None, "--user", "-u", help="The same, for ids that begin with a dash."),
    yes: bool = typer.Option(False, "--yes", "-y", help="Do not ask."),
) -> None:
    """Remove every byte of users from a store, for good; backups are not reached."""
    users = [*(who or ()), *(named or ())]
    if not users:
        _one(None, None)
    names = ", ".join(map(_plain, users))
    if not yes:
        typer.confirm(f"Forget {names}? This cannot be taken back.", abort=True)
    with _opened(store) as opened:
        for user in users:
            print(f"{_plain(user)}: {opened.forget(user)} edits forgotten.")


@app.command("export-lora")
def export(
    folder: Path = typer.Argument(help="Where the adapter goes; with --all, a folder per user and index.json."),
    store: str = STORE,
    user: str | None = typer.Option(None, "--user", "-u", help="The user's id."),
    everybody: bool = typer.Option(False, "--all", help="Every user of the store."),
    base_model: str = typer.Option("", "--base-model", help="Name or path of the base model, for servers."),
) -> None:
    """Write users' edits as PEFT LoRA adapters."""
    from ..errors import StoreError

    if everybody == (user is not None):
        raise StoreError("Whose edits are to be exported?", needed="--user ID, or --all")
    with _opened(store) as opened:
        if user is None:
            from ..store.lora import export_many

            print(f"The adapters are listed in {export_many(opened, folder, base_model=base_model)}.")
        else:
            print(f"The adapter is in {opened.export_lora(user, folder, base_model=base_model)}.")
            if left_out := opened.words(user):
                print(f"{_plain(left_out_of_lora(left_out))}")


@app.command("export-all")
def export_all(
    who: str = WHO,
    store: str = STORE,
    named: str = OF,
    out: Path = typer.Option(..., "--out", "-o", help="A new folder, or that of an earlier export."),
) -> None:
    """Write everything that is held about a user: words as JSON, factors, and a LoRA adapter."""
    user = _one(who, named)
    with _opened(store) as opened:
        print(f"All that is held about {_plain(user)} is in {opened.export_all(user, out)}.")


@app.command("rotate-key")
def rotate_key(store: str = STORE) -> None:
    """Wrap all users' keys with the first of the keys in EASYEDIT_PERSONAL_STORE_KEY (NEW,OLD)."""
    with _opened(store) as opened:
        print(f"The keys of {opened.rotate_key():,} users are wrapped with the new key; the old one may go.")


@app.command()
def verify(store: str = STORE) -> None:
    """Read everything once and check it; ends with 1 if something is damaged."""
    with _opened(store) as opened:
        faults = opened.verify()
        edits = opened.stats()["edits"] if not faults else None
    for fault in faults:
        where = "" if fault.edit is None else f"edit {fault.edit} of {_plain(str(fault.user))}: "
        print(f"{where}{_plain(fault.what)}")
    if faults:
        print(f"{len(faults)} faults. Take the last backup, or undo what is damaged and personalise again.")
        raise typer.Exit(1)
    print(f"All {edits:,} edits are whole.")


@app.command()
def stats(store: str = STORE, as_json: bool = AS_JSON) -> None:
    """Count users, edits and bytes, and say which model they belong to."""
    with _opened(store) as opened:
        found = opened.stats()
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:<13}{f'{value:,}' if isinstance(value, int) else value or '-'}")


@app.command()
def compact(
    who: str = WHO,
    store: str = STORE,
    named: str = OF,
    rank: int = typer.Option(..., "--rank", help="Budget of rank per matrix."),
    max_error: float | None = typer.Option(None, "--max-error", help="Refuse a larger relative error."),
) -> None:
    """Replace a user's edits by one of lower rank; from then on they can only be undone together."""
    user = _one(who, named)
    with _opened(store) as opened:
        before = opened.stats()["file_bytes"]
        report = opened.compact(user, rank, max_error=max_error)
        if report.edit is not None and before < REWRITTEN:
            opened.vacuum()
        after = opened.stats()["file_bytes"]
    for layer, rank_before in report.rank_before.items():
        print(f"{layer}: rank {rank_before} -> {report.rank_after[layer]}, relative error {report.error[layer]:.3g}")
    print(f"{len(report.merged)} edits merged, {report.bytes_before:,} -> {report.bytes_after:,} bytes of own factors.")
    if report.shared_after < report.shared_before:
        print(f"Rank {rank} leaves no room for factors that other users share: they were merged into the user's own.")
    print(f"The store: {before:,} -> {after:,} bytes{_why_not_smaller(report, before, after)}.")


@app.command()
def backup(path: Path = typer.Argument(help="The new file."), store: str = STORE) -> None:
    """Write a consistent copy while others go on working."""
    with _opened(store) as opened:
        print(f"{path}: {opened.backup(path):,} bytes.")


@app.command()
def vacuum(store: str = STORE) -> None:
    """Rewrite the store without its empty places; nobody can write meanwhile."""
    with _opened(store) as opened:
        before = opened.stats()["file_bytes"]
        opened.vacuum()
        print(f"{before:,} -> {opened.stats()['file_bytes']:,} bytes.")


def _opened(url: str) -> EditStore:
    """The store, which has to exist: a mistyped path must not become a new, empty one."""
    from ..errors import StoreError
    from ..store import EditStore
    from ..store.database import exists

    if not exists(url):
        raise StoreError("There is no such store.", got=url, remedy="check the path; `edit --store` makes new ones")
    return EditStore.open(url)


def left_out_of_lora(words: Iterable[Preference]) -> str:
    """What an adapter does not hold, for the one who exports it."""
    said = "; ".join(f"{one.subject}: {one.target}" for one in words)
    return f"Not in it, since it is kept in words and not in weights: {said}. Servers need that in the prompt."


def _why_not_smaller(report: CompactReport, before: int, after: int) -> str:
    if after < before:
        return ""
    if report.edit is None:
        return ": nothing to merge, the edits are within that rank already"
    if before >= REWRITTEN:
        return ": a file of that size is rewritten by `store vacuum` only, since nobody can write meanwhile"
    if report.bytes_after >= report.bytes_before:
        return ": the edits share no directions that a lower rank could leave out; try a lower --rank"
    return ": what was saved is less than a page of the file, or is kept outside of it"


def _one(who: str | None, named: str | None) -> str:
    """The user who was named, in one way or the other.

    Raises:
        StoreError: nobody was, or two were.
    """
    from ..errors import StoreError

    if (who is None) == (named is None):
        got = "nobody" if who is None else f"{who} and {named}"
        raise StoreError("Whose is it?", got=got, needed="one user's id: `store show alice`")
    return str(who if named is None else named)


def _plain(text: str) -> str:
    return text if text.isprintable() else repr(text)


def _record(edit: StoredEdit) -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(edit), "where": edit.where, "created": edit.created.isoformat()}


def _state(edit: StoredEdit) -> str:
    if edit.merged is not None:
        return f"merged into {edit.merged}"
    return "live" if edit.live else "undone"


def _print_edits(title: str, edits: Iterable[StoredEdit]) -> None:
    """Two paragraphs per edit: what it says and where it is kept, then how it was made; broken between words."""
    from .screen import Screen

    screen = Screen()
    screen.say(title, "bold")
    for edit in edits:
        said = "; ".join(f"{one.subject}: {one.target}" for one in edit.preferences)
        why = f": {edit.why}" if edit.why else ""
        screen.say(f"{edit.id:>5}  {_plain(said or '-')}  [{_state(edit)}, in {edit.where}{_plain(why)}]")
        figures = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in edit.health.items()]
        size = [f"{edit.nbytes / 1000:.1f} kB"] if edit.nbytes else []
        shared = [f"{edit.shared_bytes / 1000:.1f} kB shared by all users"] if edit.shared_bytes else []
        made = [f"{edit.created:%Y-%m-%d %H:%M} UTC", edit.kernel, *size, *shared, *figures]
        screen.say(_plain(f"{'':7}{', '.join(filter(None, made))}"), "dim")
