"""Finding EasyEdit: where it is looked for, and errors that give the two lines that fix it."""

from __future__ import annotations

import sys

import pytest

from easyedit_personal.errors import HostError
from easyedit_personal.integrations.easyedit.locate import find_host
from tests.hosts import run_python


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """No host: neither imported, nor named, nor on the path."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "easyeditor"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delenv("EASYEDIT_HOME", raising=False)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if "EasyEdit" not in path])
    monkeypatch.chdir(tmp_path)


def checkout(folder):
    (folder / "easyeditor").mkdir(parents=True)
    (folder / "easyeditor" / "__init__.py").write_text("")
    return folder


def test_without_a_host_the_error_gives_the_two_lines_that_fix_it():
    with pytest.raises(HostError) as caught:
        find_host()
    message = str(caught.value)
    assert "git clone https://github.com/zjunlp/EasyEdit" in message
    assert "export EASYEDIT_HOME=$PWD/EasyEdit" in message


def test_the_variable_leads_to_a_checkout(monkeypatch, tmp_path):
    home = checkout(tmp_path / "somewhere")
    monkeypatch.setenv("EASYEDIT_HOME", str(home))
    assert (find_host().home, find_host().how) == (home, "EASYEDIT_HOME")


def test_the_variable_wins_over_the_import_path(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(checkout(tmp_path / "importable")))
    assert find_host().how == "importable"
    monkeypatch.setenv("EASYEDIT_HOME", str(checkout(tmp_path / "named")))
    assert find_host().home == tmp_path / "named"


def test_a_variable_that_names_the_package_is_answered_with_the_folder_above(monkeypatch, tmp_path):
    home = checkout(tmp_path / "EasyEdit")
    monkeypatch.setenv("EASYEDIT_HOME", str(home / "easyeditor"))
    with pytest.raises(HostError, match=f"export EASYEDIT_HOME={home}"):
        find_host()


def test_a_variable_that_leads_nowhere_is_not_passed_over(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(checkout(tmp_path / "importable")))
    monkeypatch.setenv("EASYEDIT_HOME", str(tmp_path / "gone"))
    with pytest.raises(HostError, match="does not lead to a checkout"):
        find_host()


def test_importing_our_package_imports_no_host_and_changes_nothing(tmp_path):
    out = run_python(
        "import logging, os, random, sys\n"
        "state, environment = random.getstate(), dict(os.environ)\n"
        "import easyedit_personal\n"
        "from easyedit_personal import register, unregister\n"
        "assert random.getstate() == state and dict(os.environ) == environment\n"
        "assert not logging.getLogger().handlers\n"
        "print([name for name in sys.modules if name.startswith('easyeditor')], os.listdir('.'))",
        tmp_path,
        EASYEDIT_HOME=str(checkout(tmp_path.parent / f"{tmp_path.name}-home")),
    )
    assert out.strip() == "[] []"
