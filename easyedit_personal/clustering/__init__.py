"""Clustering: what a user's preferences are about, and in which words else they may be asked for.

Names are imported when they are asked for: reading plain words needs the lexicon, but neither torch nor scikit-learn.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Embedder": "embed",
    "HiddenStateEmbedder": "embed",
    "Lexicon": "lexicon",
    "Phrase": "questions",
    "PhraseService": "service",
    "PreferenceClusterer": "cluster",
    "SentenceEmbedder": "embed",
    "TfidfEmbedder": "embed",
    "make_embedder": "embed",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
