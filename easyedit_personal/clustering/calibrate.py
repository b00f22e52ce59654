"""How far apart may two names of one thing be? Measured for each embedder on the lexicon, whose groups are known.

Cosine distances mean something else for every model and layer, so no fixed threshold can be right. We draw small
sets of names as users have them, cluster each, and keep the distance that recovers the lexicon's groups best.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import pdist

from ..errors import ConfigError
from ..progress import log
from .embed import Embedder
from .lexicon import Lexicon

LINKAGES = {"agglomerative": "complete", "average": "average", "ward": "ward"}
PER_ENTRY = 6  # names of each entry that are embedded; more cost time and change the threshold by less than 0.02
DRAWS = 60
MAX_GROUPS, MAX_NAMES = 12, 9  # a drawn user has 2 to 12 kinds of preferences, each under 1 to 9 names
USELESS = 0.3

_cache: weakref.WeakKeyDictionary[object, dict[tuple[object, ...], Calibration]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the lexicon taught about an embedder.

    Attributes:
        centre: [d]; mean vector of the lexicon's names, to be subtracted; zeros when centring is off.
        threshold: the distance at which a dendrogram is best cut.
        score: mean adjusted Rand index of the draws at that threshold.
        groups, names: size of the lexicon it was measured on.
    """

    centre: np.ndarray
    threshold: float
    score: float
    groups: int
    names: int


def calibrate(
    embedder: Embedder,
    template: str,
    method: str = "agglomerative",
    centre: bool = True,
    lexicon: Lexicon | None = None,
) -> Calibration:
    """Find the threshold for an embedder, once: results are kept as long as the embedder's model lives.

    They are not renewed when the model is edited later on: an edit of a few ranks moves no group of names.

    Args:
        embedder: gives the vectors.
        template: text around each name, as ``PreferenceClusterer`` uses it.
        method: a key of ``LINKAGES``.
        centre: subtract the mean vector of the lexicon.
        lexicon: None means the one that ships with the package.
    """
    lexicon = lexicon or Lexicon.load()
    key = (getattr(embedder, "settings", ""), template, method, centre, lexicon)
    try:
        kept = _cache.setdefault(getattr(embedder, "owner", embedder), {})
    except TypeError:  # an embedder that cannot be referred to weakly is measured every time
        kept = {}
    if key not in kept:
        kept[key] = _measure(embedder, template, method, centre, lexicon)
    return kept[key]


def best_embedder(
    candidates: Sequence[Embedder], template: str = "a person's {}", method: str = "agglomerative"
) -> Embedder:
    """The candidate that recovers the lexicon's groups best; the first of equals.

    The hidden states of a model of a few million parameters hardly know what words mean (0.1 to 0.15, where
    character n-grams reach 0.45 and MiniLM 0.86), those of a large one may; this decides by measurement.

    Raises:
        ConfigError: there are no candidates.
    """
    if not candidates:
        raise ConfigError("There is no embedder to choose from.", needed="at least one candidate")
    return max(candidates, key=lambda candidate: calibrate(candidate, template, method).score)


def embed_names(
    embedder: Embedder, names: Sequence[str], template: str, centre: np.ndarray | None = None
) -> np.ndarray:
    """Unit vectors [n, d] of names within the template, after subtracting ``centre`` [d]."""
    contextual = getattr(embedder, "contextual", True)
    # Not str.format: names are users' text and may hold braces.
    texts = [template.replace("{}", name) if contextual else name for name in names]
    vectors = np.asarray(embedder.embed(texts), dtype=np.float64)
    if centre is None:
        return vectors
    moved = vectors - centre
    # A text exactly at the centre has no direction; it keeps a tiny one so that distances stay finite.
    lengths = np.linalg.norm(moved, axis=1, keepdims=True)
    return np.where(lengths > 1e-9, moved / np.maximum(lengths, 1e-9), vectors)


def distances_of(vectors: np.ndarray, method: str) -> np.ndarray:
    """Condensed pairwise distances of unit vectors [n, d]: cosine, or Euclidean for "ward"."""
    metric = "euclidean" if LINKAGES[method] == "ward" else "cosine"
    # Rounding can make the distance of equal vectors -1e-17, which linkage refuses.
    return np.maximum(pdist(vectors, metric), 0.0)


def dendrogram(distances: np.ndarray, method: str) -> np.ndarray:
    """SciPy's linkage matrix [n - 1, 4] from condensed distances of n > 1 phrases."""
    return linkage(distances, LINKAGES[method])


def _measure(embedder: Embedder, template: str, method: str, centre: bool, lexicon: Lexicon) -> Calibration:
    groups = lexicon.groups(PER_ENTRY)
    names = [name for members in groups.values() for name in members]
    labels = np.repeat(np.arange(len(groups)), [len(members) for members in groups.values()])
    raw = embed_names(embedder, names, template)
    middle = raw.mean(0) if centre else np.zeros(raw.shape[1])
    vectors = embed_names(embedder, names, template, middle) if centre else raw
    threshold, score = best_threshold(vectors, labels, method)
    if score < USELESS:
        # Its repr, not itself: handlers keep records, and the record would keep the language model alive.
        log.warning("%s hardly tells kinds of attributes apart (adjusted Rand index %.2f)", repr(embedder), score)
    return Calibration(middle, threshold, score, len(groups), len(names))


def best_threshold(vectors: np.ndarray, labels: np.ndarray, method: str, seed: int = 0) -> tuple[float, float]:
    """The distance at which cutting recovers the groups best, and the mean adjusted Rand index it reaches.

    Args:
        vectors: [n, d] unit vectors of names.
        labels: [n] group numbers.
        method: a key of ``LINKAGES``.
        seed: of the draws; the caller's random state is not touched.
    """
    rng = np.random.default_rng(seed)
    drawn = [_draw(labels, rng) for _ in range(DRAWS)]
    trees = [dendrogram(distances_of(vectors[rows], method), method) for rows in drawn if len(rows) > 1]
    same = [_pairs_equal(labels[rows]) for rows in drawn if len(rows) > 1]
    if not trees:
        return 0.0, 0.0
    heights = np.concatenate([tree[:, 2] for tree in trees])
    grid = np.unique(np.quantile(heights, np.linspace(0, 1, 81)))
    curve = np.mean([_rand_curve(cophenet(tree), pairs, grid) for tree, pairs in zip(trees, same)], axis=0)
    # The curve is rugged: the middle of what is within 0.005 of its top moves less than the top itself.
    top = grid[curve >= curve.max() - 0.005]
    threshold = float((top[0] + top[-1]) / 2)
    return threshold, float(np.interp(threshold, grid, curve))


def _draw(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    kinds = np.unique(labels)
    chosen = rng.permutation(kinds)[: rng.integers(2, MAX_GROUPS + 1)]
    rows = [rng.permutation(np.flatnonzero(labels == kind))[: rng.integers(1, MAX_NAMES + 1)] for kind in chosen]
    return np.concatenate(rows)


def _pairs_equal(labels: np.ndarray) -> np.ndarray:
    first, second = np.triu_indices(len(labels), 1)
    return labels[first] == labels[second]


def _rand_curve(heights: np.ndarray, same: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Adjusted Rand index [g] for cuts at each height of ``grid``, from the heights [p] at which pairs are joined."""
    joined = heights[None, :] <= grid[:, None]
    both, ours_only = (joined & same).sum(1), (joined & ~same).sum(1)
    theirs_only, neither = (~joined & same).sum(1), (~joined & ~same).sum(1)
    # Pair-count form of the index: Warrens 2008, "On the equivalence of Cohen's kappa and the Hubert-Arabie
    # adjusted Rand index". Both partitions all singletons, or both one group: equal, and 0/0.
    scale = (both + theirs_only) * (theirs_only + neither) + (both + ours_only) * (ours_only + neither)
    value = 2.0 * (both * neither - theirs_only * ours_only) / np.maximum(scale, 1)
    return np.where(scale == 0, 1.0, value)
