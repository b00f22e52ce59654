"""What users install: a wheel that carries the YAML files and the bundled data, and no model."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the tree's tracked files and unpacked into an empty folder."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("not a git checkout: no list of what belongs to the package")
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-2000:]
    (made,) = folder.glob("*.whl")
    assert made.stat().st_size < 1.5e6, f"{made.name}: {made.stat().st_size:,} bytes"
    with zipfile.ZipFile(made) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def run(unpacked: Path, code: str) -> str:
    """Run code that sees only the unpacked wheel, from an empty working folder."""
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=unpacked.parent / "source" / "tests",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_wheel_carries_every_yaml(unpacked):
    out = run(
        unpacked,
        "import easyedit_personal, easyedit_personal.hparams as h\n"
        "print(easyedit_personal.__file__)\n"
        "for name in h.shipped_yaml(): h.PersonalizationHyperParams.from_hparams(name); print(name)",
    )
    first, *names = out.split()
    assert first.startswith(str(unpacked))
    assert names == sorted(path.stem for path in (ROOT / "hparams" / "PersonalizationEditor").glob("*.yaml"))


def test_wheel_carries_the_bundled_data_and_nothing_of_the_tests(unpacked):
    out = run(unpacked, "from easyedit_personal import UPQADataset\nprint(len(UPQADataset.bundled()))")
    assert int(out) >= 200
    assert (unpacked / "easyedit_personal" / "service" / "page" / "index.html").is_file()
    packed = {path.relative_to(unpacked).parts[0] for path in unpacked.rglob("*") if path.is_file()}
    assert all(name == "easyedit_personal" or name.endswith(".dist-info") for name in packed)
    assert not list(unpacked.rglob("*.safetensors"))


@pytest.mark.slow
def test_the_same_source_gives_the_same_wheel_wherever_and_whenever_it_is_built(unpacked, tmp_path):
    digests = set()
    for number, umask in enumerate((0o022, 0o077)):
        source, out = tmp_path / f"copy-{number}", tmp_path / f"out-{number}"
        shutil.copytree(unpacked.parent / "source", source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
        for path in source.rglob("*.py"):
            os.utime(path, (10**9 + number, 10**9 + number))
            path.chmod(0o644 & ~umask)
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
        built = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert built.returncode == 0, built.stderr[-2000:]
        digests.add(hashlib.sha256(next(out.glob("*.whl")).read_bytes()).hexdigest())
    assert len(digests) == 1
