"""Random models whose answers differ from each other, for kernels that are judged by what is answered."""

from __future__ import annotations

import pytest

from tests.tiny import FAMILIES, tiny_model


@pytest.fixture(params=sorted(FAMILIES))
def loud_model(request):
    """Every architecture, with weights large enough that its answers are not nearly uniform."""
    return tiny_model(request.param, initializer_range=0.2)


@pytest.fixture
def loud_llama():
    """A tiny Llama of that sort."""
    return tiny_model("llama", initializer_range=0.2)
