"""The table of who reads which key is what kernels read; what nobody reads is said, once."""

from __future__ import annotations

import warnings
from functools import cache

import pytest

from easyedit_personal.errors import IgnoredSettingWarning
from easyedit_personal.hparams import ClusterParams, PersonalizationHyperParams, shipped_yaml
from easyedit_personal.registry import KERNELS
from easyedit_personal.settings.ignored import (
    OURS,
    READERS,
    ignored_settings,
    warn_of_ignored,
)
from easyedit_personal.types import EditRequest
from tests.tiny import tiny_model, tiny_tokenizer

CHECKED_ONLY = {"mlp_module_tmp", "attn_module_tmp"}  # ``find_layout`` looks whether the model has such a module

seen: set[str] = set()


class RecordingCluster(ClusterParams):
    """Notes which keys are read."""

    def __getattribute__(self, name):
        seen.add(f"cluster.{name}")
        return super().__getattribute__(name)


class Recording(PersonalizationHyperParams):
    """The same, for the keys at the top; copying reads all of them, and does not count."""

    def __getattribute__(self, name):
        seen.add(name)
        return super().__getattribute__(name)

    def replace(self, **changes):
        before = set(seen)
        values = {name: getattr(self, name) for name in type(self).model_fields}
        values |= changes
        values["cluster"] = RecordingCluster(**dict(values["cluster"]))
        copy = type(self)(**values)
        seen.clear()
        seen.update(before)
        return copy


@cache
def read_by(kernel: str, host_mode: bool) -> frozenset[str]:
    """The keys that a kernel reads when it edits."""
    hparams = Recording(
        kernel=kernel,
        layers=[1],
        host_mode=host_mode,
        mom2_adjustment=True,
        mom2_n_samples=80,
        v_num_grad_steps=2,
        lowrank={"rank": 1, "steps": 1, "polish": 0},
        finetune={"steps": 1},
        preserve={"neutral": 2},
        context_template_length_params=[[3, 5]],
    )
    hparams.cluster = RecordingCluster(indirect=1, behind=1)
    requests = [EditRequest("What's my hobby?", "hiking", "hobby", cluster="a")]
    seen.clear()
    KERNELS.get(kernel)(tiny_model("llama"), tiny_tokenizer(), requests, hparams)
    return frozenset(seen)


@pytest.mark.parametrize("kernel", sorted(OURS))
@pytest.mark.parametrize("key", sorted(READERS.keys() - CHECKED_ONLY))
def test_the_table_is_what_kernels_read(kernel, key):
    read = {mode for mode in (False, True) if key in read_by(kernel, mode)}
    wanted = {False, True} if kernel in READERS[key] else {True} if f"{kernel}+host_mode" in READERS[key] else set()
    assert read == wanted


def test_what_is_set_and_not_read_is_named_with_its_reader():
    hparams = PersonalizationHyperParams(kernel="rome", cluster={"indirect": 3}, v_loss_layer=7, v_lr=0.1)
    assert set(ignored_settings(hparams)) == {"cluster.indirect", "v_loss_layer"}
    with pytest.warns(IgnoredSettingWarning, match=r"'rome'.*cluster.indirect \(read by finetune, lowrank\); v_loss"):
        warn_of_ignored(hparams)


def test_it_is_said_once():
    hparams = PersonalizationHyperParams(kernel="memit", cluster={"behind": 3})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            warn_of_ignored(hparams)
    assert len(caught) == 1


def test_defaults_say_nothing_and_strangers_kernels_may_read_anything():
    assert not ignored_settings(PersonalizationHyperParams())
    KERNELS.register("mine")(lambda model, tokenizer, requests, hparams: [])
    try:
        assert not ignored_settings(PersonalizationHyperParams(kernel="mine", v_loss_layer=3))
    finally:
        KERNELS.unregister("mine")


def test_easyedits_own_editor_reads_its_evaluation_type():
    hparams = PersonalizationHyperParams(evaluation_type="LLM-judge")
    assert set(ignored_settings(hparams)) == {"evaluation_type"}
    assert not ignored_settings(hparams, in_host=True)


@pytest.mark.parametrize("name", sorted(shipped_yaml()))
@pytest.mark.parametrize("kernel", sorted(OURS))
def test_shipped_files_set_nothing_that_their_kernels_do_not_read(name, kernel):
    settings = PersonalizationHyperParams.from_hparams(name)
    assert not ignored_settings(settings.with_kernel(kernel))
