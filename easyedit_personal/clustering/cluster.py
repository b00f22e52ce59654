"""PreferenceClusterer: which of a user's preferences are about the same kind of thing.

A scikit-learn estimator over phrases ("hobby", "pastime", "job"). It chooses the number of groups by itself and
says how.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import cut_tree, fcluster
from scipy.spatial.distance import squareform
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.metrics import silhouette_score
from sklearn.utils.validation import check_is_fitted

from ..errors import ConfigError, DataError
from .calibrate import LINKAGES, Calibration, calibrate, dendrogram, distances_of, embed_names
from .embed import make_embedder
from .lexicon import Lexicon
from .pooling import check_texts

SELECTIONS = ("lexicon", "silhouette")


class PreferenceClusterer(ClusterMixin, BaseEstimator):
    """Groups phrases by meaning, by agglomerative clustering of their embeddings.

    The number of groups comes from, in this order: ``n_clusters``; ``distance_threshold``; ``select``. With
    "lexicon", groups are merged up to the distance that recovers the groups of a lexicon best with this embedder
    (``calibrate``); with "silhouette", the number of groups (2 to n - 1) of the highest mean silhouette is taken,
    which can never say "all one" or "all different", so that two phrases still go by the lexicon.

    Args:
        embedder: an ``Embedder``, "tfidf" (None means that), "sentence", or the folder of a sentence encoder. For
            the language model's own hidden states give ``HiddenStateEmbedder(model, tokenizer)``.
        method: "agglomerative" (complete linkage: the farthest two decide), "average" or "ward".
        distance_threshold: cosine distance after centring (Euclidean for "ward") at which merging stops.
        n_clusters: a fixed number of groups.
        template: text around each phrase, ``{}`` standing for it; embedders without context ignore it. Braces in
            the phrases themselves are harmless.
        select: "lexicon" or "silhouette".
        centre: subtract the mean vector of the lexicon's names, which all phrases in the template share. Without it
            the hidden states of a language model all point the same way (adjusted Rand index 0.00 instead of 0.10
            to 0.15 on a small Llama); a sentence encoder gains little (0.864 instead of 0.855).
        known_names: names that the lexicon knows are grouped as the lexicon does (unless a number or threshold forces
            groups together); the embedder decides about all others.
        lexicon: what to calibrate on and to know names from; None means the one that ships with the package.

    Attributes:
        labels_: [n] group of each phrase, numbered in the order of first appearance.
        n_clusters_: how many groups there are.
        reason_: a sentence on how that number was chosen.
        clusters_: the distinct phrases of each group.
        threshold_: the distance up to which phrases were merged; None when the number was given.

    Raises:
        ConfigError: on ``fit``, for arguments that are wrong or contradict each other.
        DataError: on ``fit`` and ``predict``, for no phrases at all, a bare string, or a blank phrase.
    """

    def __init__(
        self,
        embedder: Any = None,
        *,
        method: str = "agglomerative",
        distance_threshold: float | None = None,
        n_clusters: int | None = None,
        template: str = "a person's {}",
        select: str = "lexicon",
        centre: bool = True,
        known_names: bool = True,
        lexicon: Lexicon | None = None,
    ) -> None:
        self.embedder = embedder
        self.method = method
        self.distance_threshold = distance_threshold
        self.n_clusters = n_clusters
        self.template = template
        self.select = select
        self.centre = centre
        self.known_names = known_names
        self.lexicon = lexicon

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        return tags

    def fit(self, X: Iterable[str], y: Any = None) -> PreferenceClusterer:
        """Group the phrases; duplicates (but for case and spacing) always share their group.

        Args:
            X: n phrases.
            y: ignored, as in every scikit-learn clusterer.
        """
        phrases = _check_phrases(X)
        self._check_parameters()
        self._embedder = make_embedder(self.embedder)
        self._calibration = self._calibrated()
        keys = [_key(phrase) for phrase in phrases]
        spelled = dict(zip(keys[::-1], phrases[::-1]))  # the first spelling of each
        distinct = [spelled[key] for key in dict.fromkeys(keys)]
        vectors = self._vectors(distinct)
        groups = np.array(_by_appearance(self._group(vectors, distinct)))
        self._group_of = {_key(phrase): int(group) for phrase, group in zip(distinct, groups)}
        self.labels_ = np.array([self._group_of[key] for key in keys])
        self.n_clusters_ = int(groups.max()) + 1
        self.clusters_ = [[p for p, g in zip(distinct, groups) if g == group] for group in range(self.n_clusters_)]
        self._centroids = np.stack([vectors[groups == group].mean(0) for group in range(self.n_clusters_)])
        self._group_of_kind: dict[str | None, int] = {
            kind: int(g) for kind, g in zip(self._kinds(distinct), groups) if kind
        }
        self.reason_ = f"{_count(self.n_clusters_, 'group')} of {_count(len(distinct), 'distinct phrase')}: {self._why}"
        return self

    def predict(self, X: Iterable[str]) -> np.ndarray:
        """The group [n] of each phrase: its own for one that was fitted, its kind's if the lexicon knows it and the
        group was seen, else the one nearest on average."""
        check_is_fitted(self, "labels_")
        phrases = _check_phrases(X)
        nearest = (self._vectors(phrases) @ self._centroids.T).argmax(1)
        kinds = [self._group_of_kind.get(kind, int(near)) for kind, near in zip(self._kinds(phrases), nearest)]
        return np.array([self._group_of.get(_key(phrase), group) for phrase, group in zip(phrases, kinds)])

    def _vectors(self, phrases: Sequence[str]) -> np.ndarray:
        centre = self._calibration.centre if self._calibration and self.centre else None
        return embed_names(self._embedder, phrases, self.template, centre)

    def _calibrated(self) -> Calibration | None:
        """The lexicon's verdict, or None where nothing of it is needed."""
        given = self.n_clusters is not None or self.distance_threshold is not None
        if given and not self.centre:
            return None
        return calibrate(self._embedder, self.template, self.method, self.centre, self.lexicon)

    def _kinds(self, phrases: Sequence[str]) -> list[str | None]:
        """For each phrase the lexicon's group, None for what it does not know."""
        if not self.known_names:
            return [None] * len(phrases)
        found = [(self.lexicon or Lexicon.load()).find(phrase) for phrase in phrases]
        return [entry.group if entry else None for entry in found]

    def _distances(self, vectors: np.ndarray, phrases: Sequence[str]) -> np.ndarray:
        """Condensed distances; nothing between known names of one kind, the greatest between different kinds."""
        distances = distances_of(vectors, self.method)
        kinds = np.array([kind or "" for kind in self._kinds(phrases)])
        first, second = np.triu_indices(len(phrases), 1)
        known = (kinds[first] != "") & (kinds[second] != "")
        return np.where(known, np.where(kinds[first] == kinds[second], 0.0, 2.0), distances)

    def _group(self, vectors: np.ndarray, phrases: Sequence[str]) -> np.ndarray:
        """A group number [m] for each distinct phrase; sets ``threshold_`` and the reason."""
        n = len(vectors)
        self.threshold_: float | None = None
        if self.n_clusters is not None:
            self._check_number(self.n_clusters, n)
        if n == 1:
            self._why = "there is nothing to tell it from."
            return np.zeros(1, int)
        distances = self._distances(vectors, phrases)
        tree = dendrogram(distances, self.method)
        if self.n_clusters is not None:
            self._why = "asked for by n_clusters."
            return cut_tree(tree, n_clusters=self.n_clusters)[:, 0]
        if self.distance_threshold is not None:
            self._why = f"merged up to the distance {self.distance_threshold:g} given as distance_threshold."
            return self._cut_at(tree, self.distance_threshold)
        if self.select == "silhouette" and n > 2:
            return self._cut_by_silhouette(tree, squareform(distances))
        return self._cut_by_lexicon(tree)

    def _cut_at(self, tree: np.ndarray, threshold: float) -> np.ndarray:
        self.threshold_ = float(threshold)
        return fcluster(tree, threshold, "distance")

    def _cut_by_lexicon(self, tree: np.ndarray) -> np.ndarray:
        found = self._calibration or calibrate(self._embedder, self.template, self.method, self.centre, self.lexicon)
        self._why = (
            f"merged up to the distance {found.threshold:.2f}, which recovers the {found.groups} groups of the "
            f"lexicon best with this embedder (mean adjusted Rand index {found.score:.2f})."
        )
        return self._cut_at(tree, found.threshold)

    def _cut_by_silhouette(self, tree: np.ndarray, distances: np.ndarray) -> np.ndarray:
        cuts = cut_tree(tree, n_clusters=range(2, len(distances)))
        scores = [silhouette_score(distances, cut, metric="precomputed") for cut in cuts.T]
        best = int(np.argmax(scores))
        self._why = f"the best mean silhouette ({scores[best]:.2f}) of 2 to {len(distances) - 1} groups."
        return cuts[:, best]

    def _check_number(self, number: int, distinct: int) -> None:
        if number > distinct:
            raise DataError(
                f"{number} groups cannot be made of {_count(distinct, 'distinct phrase')}.",
                needed="n_clusters at most the number of distinct phrases",
                remedy="leave n_clusters out to have the number chosen",
            )

    def _check_parameters(self) -> None:
        faults = []
        if self.method not in LINKAGES:
            faults.append(f"method: got {self.method!r}, needs one of {', '.join(LINKAGES)}")
        if self.select not in SELECTIONS:
            faults.append(f"select: got {self.select!r}, needs one of {', '.join(SELECTIONS)}")
        if not isinstance(self.template, str) or "{}" not in self.template:
            faults.append(f"template: got {self.template!r}, needs {{}} where the phrase goes")
        if self.n_clusters is not None and self.distance_threshold is not None:
            faults.append("n_clusters and distance_threshold: only one of them can decide")
        if self.n_clusters is not None and not (isinstance(self.n_clusters, (int, np.integer)) and self.n_clusters > 0):
            faults.append(f"n_clusters: got {self.n_clusters!r}, needs a whole number from 1")
        if self.distance_threshold is not None and not _is_distance(self.distance_threshold):
            faults.append(f"distance_threshold: got {self.distance_threshold!r}, needs a number of at least 0")
        if faults:
            raise ConfigError("PreferenceClusterer cannot work with this:\n" + "\n".join(f"  - {f}" for f in faults))


def _check_phrases(phrases: Iterable[str]) -> list[str]:
    found = check_texts(phrases)
    if not found:
        raise DataError("There are no phrases to group.", got=found, needed="at least one phrase")
    return found


def _is_distance(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and bool(value >= 0)


def _key(phrase: str) -> str:
    return " ".join(phrase.casefold().split())


def _by_appearance(groups: np.ndarray) -> list[int]:
    numbers: dict[int, int] = {}
    return [numbers.setdefault(int(group), len(numbers)) for group in groups]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
