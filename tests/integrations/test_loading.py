"""Importing the genuine host: nothing of its import leaks, and text editing needs none of its optional packages."""

from __future__ import annotations

import importlib.util
import json

import pytest

from easyedit_personal.errors import HostError
from easyedit_personal.integrations.easyedit import usable_editors
from easyedit_personal.integrations.easyedit.availability import EditorStatus
from tests.hosts import run_python

pytestmark = pytest.mark.easyedit

LEAKS = """
import json, logging, os, random, sys, warnings
import numpy as np, torch
random.seed(5); np.random.seed(5); torch.manual_seed(5)
random.random(), np.random.rand(), torch.rand(1)
logging.getLogger().setLevel(logging.ERROR)
from easyedit_personal.integrations.easyedit.loading import _import_neighbours
_import_neighbours()
def state():
    handlers = logging.getLogger().handlers[:]
    return dict(os.environ), list(sys.path), list(warnings.filters), handlers, sys.dont_write_bytecode
before = state()
states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
from easyedit_personal.integrations.easyedit import load_host, usable_editors
host = load_host()
assert load_host() is host
print(json.dumps({
    "state": state() == before,
    "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states,
    "level": logging.getLogger().level,
    "files": os.listdir("."),
    "absent": sorted(host.absent),
    "usable": [status.name for status in usable_editors(host) if status.ok],
}))
"""
# A machine with torch, transformers and what they and we install, and nothing that EasyEdit wants besides.
OPTIONAL = {
    *(
        "higher",
        "omegaconf",
        "timm",
        "pandas",
        "iopath",
        "fairscale",
        "cv2",
        "av",
        "qwen_vl_utils",
        "requests",
        "rouge",
    ),
    *("sentence_transformers", "einops", "datasets", "matplotlib", "hydra", "zhipuai", "sniffio", "nltk", "openai"),
    *("torchvision", "PIL"),
}
WITHOUT = f"""
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: None if name.partition(".")[0] in {OPTIONAL!r} else find(name, *args)
"""


@pytest.fixture(scope="module")
def checkout_files(host):
    """Names, sizes and times of all files of the checkout: nothing may be written into it."""

    def state():
        return sorted((str(path), *path.stat()[6:9:2]) for path in host.location.package.rglob("*"))

    return state


def test_nothing_of_the_import_leaks(host, tmp_path, checkout_files):
    files = checkout_files()
    seen = json.loads(run_python(LEAKS, tmp_path, EASYEDIT_HOME=str(host.location.home)))
    assert seen["state"] and seen["random"]
    assert (seen["level"], seen["files"]) == (40, [])
    assert checkout_files() == files


def test_text_editors_run_without_any_of_the_optional_packages(host, tmp_path):
    seen = json.loads(run_python(WITHOUT + LEAKS, tmp_path, EASYEDIT_HOME=str(host.location.home)))
    assert {"higher", "torchvision", "pandas", "openai"} <= set(seen["absent"])
    assert {"ROME", "R-ROME", "MEMIT", "EMMET", "AlphaEdit", "FT", "LoRA", "GRACE", "WISE", "ULTRAEDIT"} <= set(
        seen["usable"]
    )
    assert not {"MEND", "SERAC", "IKE", "FT-Api"} & set(seen["usable"])


def test_absent_packages_are_still_absent_for_everybody_else(host):
    for package in host.absent:
        assert importlib.util.find_spec(package) is None, package


def test_every_algorithm_of_the_registry_is_accounted_for(host):
    statuses = {status.name: status for status in usable_editors(host)}
    assert set(statuses) == set(host.module("util.alg_dict").ALG_DICT) - {"PersonalizationEditor"}
    assert str(statuses["ROME"]) == "ok"
    assert not statuses["MEND"].ok and "trained beforehand" in str(statuses["MEND"])
    for status in statuses.values():
        assert status.ok == (not status.lacks and not status.needs)


def test_a_status_says_what_to_install():
    status = EditorStatus("MELO", ok=False, lacks=("hydra-core",), needs="a folder")
    assert str(status) == "pip install hydra-core; needs a folder"


def test_modules_are_found_although_the_host_clobbers_their_names(host):
    assert host.module("models.rome.rome_main").execute_rome.__name__ == "execute_rome"
    with pytest.raises(HostError, match=r"easyeditor\.models\.nothing"):
        host.module("models.nothing")
