"""Records are values: whoever has one can rely on it, and none takes a misspelt field."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import pytest

import easyedit_personal.kernels
import easyedit_personal.store

WORKING = {"Kept", "Space", "Whole", "Update", "Factors", "Neurons", "Dense"}  # what an optimiser moves


def records():
    for room in (easyedit_personal.kernels, easyedit_personal.store):
        for found in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            module = importlib.import_module(found.name)
            yield from (
                kind
                for kind in vars(module).values()
                if isinstance(kind, type) and kind.__module__ == found.name and dataclasses.is_dataclass(kind)
            )


@pytest.mark.parametrize("kind", [*records()], ids=lambda kind: kind.__qualname__)
def test_records_cannot_be_changed(kind):
    assert "__slots__" in vars(kind) and kind.__dataclass_params__.frozen == (kind.__name__ not in WORKING)
