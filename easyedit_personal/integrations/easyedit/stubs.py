"""Stand-ins for packages that EasyEdit imports and this machine lacks (video, OCR, clients of paid services...).

A stand-in is handed to the host's own import statements only and never enters ``sys.modules``: everybody else,
transformers' availability checks included, goes on seeing that the package is absent.
"""

from __future__ import annotations

import builtins
import importlib.util
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from ...errors import MissingDependencyError

# Where the name to install differs from the name to import.
INSTALL_NAMES = {"cv2": "opencv-python-headless", "hydra": "hydra-core", "PIL": "pillow", "sklearn": "scikit-learn"}
INSTALL_NAMES |= {"qwen_vl_utils": "qwen-vl-utils", "sentence_transformers": "sentence-transformers"}


class Stub(ModuleType):
    """Anything inside an absent package: a module, a class or a function, whatever the host takes it for.

    It is inert while the host is being imported and says what is missing as soon as it is used.
    """

    _importing = False

    def __getattr__(self, name: str) -> Stub:
        if name.startswith("__"):
            raise AttributeError(name)
        return Stub(f"{self.__name__}.{name}")

    def __getitem__(self, key: Any) -> Stub:
        return self  # a type in an annotation, such as Optional[stub]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if Stub._importing:
            return self  # a decorator, or a constant made at import
        _refuse(self.__name__)

    def __instancecheck__(self, instance: Any) -> bool:
        return False  # nothing can be an instance of a class that is not there

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        path = self.__name__
        return (type("AbsentBase", (), {"__init__": lambda *args, **kwargs: _refuse(path)}),)


@contextmanager
def stand_ins_for(package: Path) -> Iterator[Mapping[str, set[str]]]:
    """While active, import statements in files under ``package`` get stand-ins for packages that are not installed.

    Yields the absent packages met so far, each with the names of the host's modules that import it. Submodules that
    an installed package lacks are not replaced: the host handles those that newer transformers dropped by itself.
    """
    genuine = builtins.__import__
    absent: dict[str, set[str]] = defaultdict(set)

    def guarded(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        try:
            return genuine(name, globals, locals, fromlist, level)
        except ModuleNotFoundError:
            top = name.partition(".")[0]
            if level or not _written_under(package, globals) or _is_installed(top):
                raise
            absent[top].add(str((globals or {}).get("__name__")))
            return Stub(name if fromlist else top)

    builtins.__import__ = guarded
    Stub._importing = True
    try:
        yield absent
    finally:
        builtins.__import__ = genuine
        Stub._importing = False


def _written_under(package: Path, namespace: Mapping[str, Any] | None) -> bool:
    file = (namespace or {}).get("__file__")
    return isinstance(file, str) and Path(file).is_relative_to(package)


def _is_installed(top: str) -> bool:
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def install_name(top: str) -> str:
    """What to give to pip for an importable name."""
    return INSTALL_NAMES.get(top, top)


def _refuse(path: str) -> NoReturn:
    top = path.partition(".")[0]
    raise MissingDependencyError(
        f"This part of EasyEdit uses {path}, and the package {top!r} is not installed.",
        cause="EasyEdit was loaded without the packages that are absent",
        remedy=f"pip install {install_name(top)}",
    )
