"""Stand-ins for absent packages: seen by the host's files only, inert at import, clear when used."""

from __future__ import annotations

import importlib
import importlib.util
import sys

import pytest

from easyedit_personal.errors import MissingDependencyError
from easyedit_personal.integrations.easyedit.stubs import stand_ins_for

# None of these names exists; the shapes are those in which EasyEdit imports what it may lack.
HOST = """
import absent_video, absent_tools.models.hub as hub
from absent_tools.layers import drop_path, Layer as Base
import absent_types

class Mine(Base):
    pass

def annotated(x: absent_types.Optional[absent_types.device] = None) -> absent_types.Module:
    return isinstance(x, absent_types.Module)

@absent_tools.decorator
def decorated():
    return 1

def uses_video():
    return absent_video.open("film")
"""


@pytest.fixture
def host_file(tmp_path, monkeypatch):
    (tmp_path / "fakeless").mkdir()
    (tmp_path / "fakeless" / "__init__.py").write_text("")
    (tmp_path / "fakeless" / "part.py").write_text(
        HOST.replace("import absent_video,", "import absent_tools, absent_video,")
    )
    (tmp_path / "fakeless" / "hopeful.py").write_text(
        "try:\n    from json.nothing import here\nexcept ModuleNotFoundError:\n    here = None\n"
    )
    (tmp_path / "neighbour.py").write_text("import absent_video\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "fakeless"
    for name in ("fakeless", "fakeless.part", "fakeless.hopeful", "neighbour"):
        sys.modules.pop(name, None)


def test_the_hosts_files_get_stand_ins_and_are_named(host_file):
    with stand_ins_for(host_file) as absent:
        part = importlib.import_module("fakeless.part")
    assert absent == {name: {"fakeless.part"} for name in ("absent_tools", "absent_types", "absent_video")}
    assert part.annotated(3) is False


def test_nobody_else_sees_them(host_file):
    with stand_ins_for(host_file):
        importlib.import_module("fakeless.part")
        assert importlib.util.find_spec("absent_video") is None
        assert not [name for name in sys.modules if name.startswith("absent_")]
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("neighbour")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("absent_video")


def test_using_one_names_the_package_and_how_to_get_it(host_file):
    with stand_ins_for(host_file):
        part = importlib.import_module("fakeless.part")
    with pytest.raises(MissingDependencyError, match=r"absent_video\.open(.|\n)*pip install absent_video"):
        part.uses_video()
    with pytest.raises(MissingDependencyError, match="absent_tools"):
        part.Mine()


def test_a_submodule_that_an_installed_package_lacks_is_not_invented(host_file):
    with stand_ins_for(host_file) as absent:
        assert importlib.import_module("fakeless.hopeful").here is None
    assert not absent


def test_the_import_statement_is_pythons_own_again_also_after_an_error(host_file):
    genuine = __builtins__["__import__"] if isinstance(__builtins__, dict) else __builtins__.__import__
    with pytest.raises(RuntimeError), stand_ins_for(host_file):
        raise RuntimeError
    import builtins

    assert builtins.__import__ is genuine
