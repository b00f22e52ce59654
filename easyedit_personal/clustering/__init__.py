"""Clustering: what a user's preferences are about, and in which words else they may be asked for."""

from .calibrate import best_embedder, calibrate
from .cluster import PreferenceClusterer
from .embed import Embedder, HiddenStateEmbedder, SentenceEmbedder, TfidfEmbedder, make_embedder
from .expand import Phrase, expand
from .lexicon import Lexicon
from .service import PhraseService

__all__ = [
    "Embedder",
    "HiddenStateEmbedder",
    "Lexicon",
    "Phrase",
    "PhraseService",
    "PreferenceClusterer",
    "SentenceEmbedder",
    "TfidfEmbedder",
    "best_embedder",
    "calibrate",
    "expand",
    "make_embedder",
]
