"""register(): what it adds, that it can be repeated and undone, and that it refuses a host whose seams moved."""

from __future__ import annotations

import logging

import pytest

from easyedit_personal import UPQADataset, apply_personalization_to_model, register, unregister
from easyedit_personal.errors import HostError
from easyedit_personal.integrations.easyedit.registration import log_folder

pytestmark = pytest.mark.easyedit


@pytest.fixture
def seams(host):
    """Everything of the host that register() touches."""
    registries, editor = host.module("util.alg_dict"), host.module("editors.editor")

    def state():
        names = ("make_logs", "summary_metrics")
        return (
            dict(registries.ALG_DICT),
            dict(registries.DS_DICT),
            vars(editor.BatchEditor)["is_batchable_method"],
            vars(editor.BaseEditor)["__init__"],
            [vars(editor)[name] for name in names],
            (editor.LOG.level, list(editor.LOG.handlers)),
        )

    unregister()
    yield state
    unregister()


def test_it_adds_the_algorithm_and_the_data_set_and_says_so(host, seams, tmp_path, capsys):
    report = register(tmp_path)
    registries, batch = host.module("util.alg_dict"), host.module("editors.batch_editor").BatchEditor
    assert registries.ALG_DICT["PersonalizationEditor"] is apply_personalization_to_model
    assert registries.DS_DICT["upqa"] is UPQADataset
    assert batch.is_batchable_method("PersonalizationEditor") and batch.is_batchable_method("MEMIT")
    assert not batch.is_batchable_method("ROME")
    said = capsys.readouterr().out
    assert said.strip() == str(report)
    assert str(host.location.home) in said and str(tmp_path / "logs") in said and "upqa" in said


def test_it_is_idempotent_and_undone_without_a_trace(seams, tmp_path):
    before = seams()
    assert not register(tmp_path, quiet=True).already
    once = seams()
    assert register(tmp_path, quiet=True).already and "already" in str(register(quiet=True))
    assert seams() == once != before
    assert unregister() is True
    assert seams() == before
    assert unregister() is False


def test_another_log_folder_takes_effect(seams, tmp_path):
    register(tmp_path / "one", quiet=True)
    report = register(tmp_path / "two", quiet=True)
    assert (report.logs, report.already) == (tmp_path / "two", False)


def test_log_folders_are_chosen_by_call_environment_and_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EASYEDIT_LOGS", raising=False)
    assert log_folder().name == "easyedit" and log_folder() != tmp_path
    monkeypatch.setenv("EASYEDIT_LOGS", str(tmp_path / "env"))
    assert log_folder() == tmp_path / "env"
    assert log_folder(tmp_path / "call") == tmp_path / "call"


@pytest.mark.parametrize(
    ("module", "name", "moved", "said"),
    [
        ("util.alg_dict", "DS_DICT", None, r"util\.alg_dict\.DS_DICT is gone"),
        ("editors.editor", "summary_metrics", lambda results: None, r"summary_metrics changed: .*\(results\)"),
        ("editors.editor", "ALG_DICT", {}, "no longer the dictionary"),
        ("editors.editor", "restore_after_edit", {}, "restore_after_edit changed: it is now a dict"),
    ],
)
def test_a_host_whose_seams_moved_is_refused_by_name_and_left_alone(
    host, seams, monkeypatch, module, name, moved, said
):
    if moved is None:
        monkeypatch.delattr(host.module(module), name)
    else:
        monkeypatch.setattr(host.module(module), name, moved)
    algorithms = dict(host.module("util.alg_dict").ALG_DICT)
    with pytest.raises(HostError, match=said):
        register(quiet=True)
    assert algorithms == host.module("util.alg_dict").ALG_DICT


def test_the_root_logger_is_left_alone(seams, tmp_path):
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    register(tmp_path, quiet=True)
    assert (root.level, list(root.handlers)) == before
