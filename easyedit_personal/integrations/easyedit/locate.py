"""Where EasyEdit is: already imported, named by EASYEDIT_HOME, or importable; else the two lines that fix it.

EasyEdit is no package that pip could install: it is a checkout on the path.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import HostError

VARIABLE = "EASYEDIT_HOME"
REMEDY = f"git clone https://github.com/zjunlp/EasyEdit\n          export {VARIABLE}=$PWD/EasyEdit"


@dataclass(frozen=True, slots=True)
class Location:
    """A checkout of EasyEdit.

    Attributes:
        home: the folder that holds the package ``easyeditor``.
        how: what led there.
    """

    home: Path
    how: Literal["already imported", "EASYEDIT_HOME", "importable"]

    @property
    def package(self) -> Path:
        """The folder of the package itself."""
        return self.home / "easyeditor"


def find_host() -> Location:
    """Find EasyEdit without importing it.

    A module that is imported already wins, then EASYEDIT_HOME (it was set on purpose), then the import path.

    Raises:
        HostError: it is nowhere, or EASYEDIT_HOME does not lead to a checkout.
    """
    loaded = sys.modules.get("easyeditor")
    if loaded is not None and loaded.__file__:
        return Location(Path(loaded.__file__).parent.parent, "already imported")
    if value := os.environ.get(VARIABLE, "").strip():
        return Location(_checked(Path(value).expanduser()), "EASYEDIT_HOME")
    spec = importlib.util.find_spec("easyeditor")
    if spec is not None and spec.origin:
        return Location(Path(spec.origin).parent.parent, "importable")
    raise HostError(
        "EasyEdit was not found.",
        needed=f"a checkout named by {VARIABLE}, or the package easyeditor on the import path",
        cause="EasyEdit is not on the package index; it is used from a checkout",
        remedy=REMEDY,
    )


def _checked(home: Path) -> Path:
    if (home / "easyeditor" / "__init__.py").is_file():
        return home.resolve()
    inside = home.name == "easyeditor" and (home / "__init__.py").is_file()
    raise HostError(
        f"{VARIABLE} does not lead to a checkout of EasyEdit.",
        got=str(home),
        needed="the folder that holds easyeditor/__init__.py",
        cause="it names the package instead of the folder above it" if inside else "the folder is empty or moved",
        remedy=f"export {VARIABLE}={home.parent}" if inside else REMEDY,
    )
