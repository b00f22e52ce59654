"""Steps 1 and 2 of the algorithm: which requests are about the same thing, and how else they may be asked.

A preference becomes a cluster of phrases that share one target; the kernels see nothing but these phrases.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..clustering.calibrate import best_embedder
from ..clustering.embed import Embedder, HiddenStateEmbedder, TfidfEmbedder
from ..clustering.expand import expand
from ..data.records import find_subject
from ..hparams import PersonalizationHyperParams
from ..registry import CLUSTERERS, PHRASE_SOURCES
from ..types import EditRequest, Preference

Request = Mapping[str, Any]


def cluster_phrases(
    model: nn.Module, tokenizer: Any, requests: Sequence[Request], hparams: PersonalizationHyperParams
) -> tuple[list[EditRequest], list[str]]:
    """All phrases to be edited, grouped by preference, and remarks about what was left out.

    Args:
        model, tokenizer: give the default embedding of attribute names.
        requests: checked request dictionaries, one per preference.
        hparams: ``cluster.size`` phrases per preference, from ``cluster.source``.

    Returns:
        Edit requests that carry their preference's ``cluster`` id (the asked question last, as in UPQA), and notes.
    """
    requests, notes = without_overruled(requests)
    # A large model knows what attribute names mean; a small one does not, and letters do better.
    embedders: list[Embedder] = [HiddenStateEmbedder(model, tokenizer), TfidfEmbedder()]
    ids = _cluster_ids(requests, embedders, hparams)
    phrases: list[EditRequest] = []
    seen: set[tuple[str, str]] = set()
    for request, cluster in zip(requests, ids):
        for prompt, subject in _phrases_of(request, requests, embedders, hparams):
            if (cluster, prompt) not in seen:
                seen.add((cluster, prompt))
                phrases.append(_edit_request(request, prompt, subject, cluster))
    return phrases, notes


def without_overruled(requests: Sequence[Request]) -> tuple[list[Request], list[str]]:
    """Drop requests that a later one of the same user contradicts: same question, another target."""
    last = {(request.get("user"), request["prompt"].strip().casefold()): i for i, request in enumerate(requests)}
    kept, notes = [], []
    for i, request in enumerate(requests):
        winner = requests[last[request.get("user"), request["prompt"].strip().casefold()]]
        if winner is request:
            kept.append(request)
        elif winner["target_new"].strip() != request["target_new"].strip():
            notes.append(f"request {i} ({request['target_new']!r}) is overruled by a later {winner['target_new']!r}")
    return kept, notes


def _cluster_ids(
    requests: Sequence[Request], embedders: Sequence[Embedder], hparams: PersonalizationHyperParams
) -> list[str]:
    """One id per request; requests of one user with one target about the same kind of thing share theirs."""
    ids = [str(request.get("cluster_id") or f"{request.get('user') or ''}#{i}") for i, request in enumerate(requests)]
    alike: dict[tuple[Any, str], list[int]] = defaultdict(list)
    for i, request in enumerate(requests):
        if not request.get("cluster_id"):
            alike[request.get("user"), request["target_new"].strip().casefold()].append(i)
    for members in alike.values():
        if len(members) > 1:
            names = [_name(requests[i]) or requests[i]["prompt"] for i in members]
            for i, label in zip(members, _labels(names, embedders, hparams)):
                ids[i] = ids[members[label]]
    return ids


def _labels(names: list[str], embedders: Sequence[Embedder], hparams: PersonalizationHyperParams) -> list[int]:
    """For each name the index of the first name in its group."""
    settings = hparams.cluster
    clusterer = CLUSTERERS.get(settings.method)(
        embedder=best_embedder(embedders, settings.template),
        distance_threshold=settings.distance_threshold,
        template=settings.template,
    )
    labels = list(clusterer.fit(names).labels_)
    return [labels.index(label) for label in labels]


def _phrases_of(
    request: Request, requests: Sequence[Request], embedders: Sequence[Embedder], hparams: PersonalizationHyperParams
) -> list[tuple[str, str | None]]:
    """(prompt, subject) of at most ``cluster.size`` phrases; the asked question itself is always the last."""
    asked, name = (request["prompt"], request.get("subject")), _name(request)
    room, wanted = hparams.cluster.size - 1, hparams.cluster.source
    source = "lexicon" if wanted == "auto" else wanted
    given: Sequence[tuple[str, str]] = [
        (phrase.get("subject") or "", phrase["prompt"]) for phrase in request.get("cluster") or ()
    ]
    if room and name and not (given and wanted == "auto") and wanted != "dataset":
        given = expand(
            (name, asked[0]),
            source,
            size=hparams.cluster.size,
            target=request["target_new"],
            others=[_preference(other) for other in requests if other is not request and _same_user(other, request)],
            embedder=lambda: best_embedder(embedders),
            settings=hparams.settings_of(PHRASE_SOURCES, source),
        )
    phrases = [(prompt, find_subject(subject, prompt)) for subject, prompt in given]
    further = [phrase for phrase in dict.fromkeys(phrases) if phrase[0] != asked[0]]
    return [*further[:room], asked]


def _name(request: Request) -> str:
    """What the attribute is called; requests from EasyEdit have nothing but the words in the prompt."""
    return request.get("attribute") or request.get("subject") or ""


def _same_user(one: Request, other: Request) -> bool:
    return one.get("user") == other.get("user")


def _preference(request: Request) -> Preference:
    return Preference(_name(request), request["prompt"], request["target_new"], request.get("user"))


def _edit_request(request: Request, prompt: str, subject: str | None, cluster: str) -> EditRequest:
    return EditRequest(
        prompt=prompt,
        target_new=request["target_new"].strip(),
        subject=subject,
        cluster=cluster,
        user=request.get("user"),
        ground_truth=request.get("ground_truth"),
    )
