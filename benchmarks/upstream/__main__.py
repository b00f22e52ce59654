"""Writes what a pull request to EasyEdit would contain, and on request adds it to a checkout.

    python -m benchmarks.upstream --out path/to/folder                               # to look at
    python -m benchmarks.upstream --out path/to/folder --checkout path/to/EasyEdit   # then: git diff there

Everything comes from our own files: ``files/`` here, and hparams/PersonalizationEditor.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from easyedit_personal.errors import ConfigError, PersonalizationError
from easyedit_personal.hparams import ALG_NAME, shipped_yaml

from .additions import ADDITIONS, added

FILES = Path(__file__).parent / "files"
REPOSITORY = Path(__file__).resolve().parents[2]
SUMMARY = "PULL_REQUEST.md"
# In EasyEdit itself nothing has to be registered first.
NOT_THERE = " after easyedit_personal.register()"
TITLE = """# Add PersonalizationEditor and UPQA

The method of the package easyedit-personal (MIT licence) under EasyEdit's usual names: an entry in each registry, a
folder in `easyeditor/models`, a data set, hyper-parameter files, a script in `examples` and a section in the README.
The package is imported when the method is used; without it everything else works as before, and the error says what to
install. No line of EasyEdit is removed.
"""


def write_contents(out: Path) -> list[Path]:
    """Write new files, as they lie in a checkout, and a summary.

    Args:
        out: a folder outside of this repository, new or empty.

    Returns:
        The new files' paths inside ``out``, without the summary.

    Raises:
        ConfigError: ``out`` lies in the repository or has something in it; nothing was written.
    """
    out = out.expanduser().resolve()
    if out.is_relative_to(REPOSITORY) or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise ConfigError(
            "The contents of a pull request do not go there.",
            got=str(out),
            needed="a new or empty folder outside of this repository",
        )
    shutil.copytree(FILES, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    settings = out / "hparams" / ALG_NAME
    settings.mkdir(parents=True)
    for name, path in shipped_yaml().items():
        text = path.read_text(encoding="utf-8").replace(NOT_THERE, "")
        (settings / f"{name}.yaml").write_text(text, encoding="utf-8")
    new = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    (out / SUMMARY).write_text(summary(new), encoding="utf-8")
    return new


def summary(new: list[Path]) -> str:
    """The pull request's description: what is new, and what is added where."""
    parts = [TITLE, "## New files\n", *(f"- `{path}`" for path in new), "\n## Added to files\n"]
    parts += [f"`{one.file}`, {one.where}:\n\n~~~\n{one.text.strip(' ,')}\n~~~\n" for one in ADDITIONS]
    return "\n".join(parts)


def add_to(checkout: Path, out: Path, new: list[Path]) -> None:
    """Copy ``out``'s new files into a checkout of EasyEdit and make the additions; the rest is git's.

    Raises:
        HostError: a place is missing or was added to before; nothing was written.
    """
    texts = added(checkout)
    for path in new:
        target = checkout / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(out / path, target)
    for target, text in texts.items():
        target.write_text(text, encoding="utf-8")


def main() -> None:
    """Write, and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new or empty folder outside of this repository")
    parser.add_argument("--checkout", type=Path, help="a checkout of EasyEdit that everything is added to")
    args = parser.parse_args()
    try:
        new = write_contents(args.out)
        print(f"{len(new)} new files and {SUMMARY} in {args.out}")
        if args.checkout:
            add_to(args.checkout, args.out, new)
            print(f"{len(new)} files and {len(ADDITIONS)} additions in {args.checkout}")
    except PersonalizationError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
