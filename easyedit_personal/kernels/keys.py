"""Which rows of tokens an edit works with, and the key vectors in them.

A key is what enters the edited down projection at the subject's last token. One key per phrase is used everywhere,
its mean over several contexts (R-ROME, arXiv 2403.07175, found that ROME's disabling edits come from using the mean
on one side of its equation and the bare prompt's key on the other). ``key_options.HOST`` is that
other way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ..errors import ConfigError
from ..generation.shared_prefix import families, inputs_after, shared_length
from ..hparams import PersonalizationHyperParams
from ..modeling.layout import Layout, context_limit, input_device
from ..modeling.sample import sample
from ..modeling.tokens import Encoded, encode, encode_text
from ..modeling.trace import trace
from ..types import EditRequest
from .base import encode_requests, group_by_cluster
from .key_options import KeyOptions

T = TypeVar("T")

# Said before the question, in the same turn: neutral, of different lengths, and about nothing that is edited.
NEUTRAL_CONTEXTS = (
    "{}",
    "Thanks for your time. {}",
    "It rained all morning, but now the sky is clear. {}",
    "Let me think for a moment. {}",
    "I just came back and there is one more thing. {}",
    "Good. {}",
    "The train was late again today, as it often is on Mondays. {}",
    "Before we go on, a short question. {}",
)
ROWS_PER_CLUSTER = 18  # nine phrases in two contexts each; one phrase gets all eight
HOST_STARTS = ("The", "Therefore", "Because", "I", "You")
READ_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Cluster:
    """The phrases of one preference, each in several contexts.

    Attributes:
        members: numbers of the requests.
        rows: [phrase][context]; prompt and target; the first context is the bare prompt.
        drift: rows that end at the subject in "{subject} is a", where the model's next-token distribution is to stay.
    """

    members: tuple[int, ...]
    rows: tuple[tuple[Encoded, ...], ...]
    drift: tuple[Encoded, ...]


def make_clusters(
    model: nn.Module,
    tokenizer: Any,
    requests: Sequence[EditRequest],
    hparams: PersonalizationHyperParams,
    options: KeyOptions,
) -> list[Cluster]:
    """Encode all requests in their contexts; requests with the same cluster and target belong together.

    A context that would not fit the model together with its prompt is left out.

    Raises:
        RequestError: some requests cannot be carried out; all of them are named.
    """
    hparams = options.encoding(hparams)
    limit = context_limit(model)
    encode_requests(tokenizer, requests, hparams, limit)  # reports every fault of the bare prompts at once
    by_target = [replace(r, cluster=None if r.cluster is None else f"{r.cluster}\0{r.target_new}") for r in requests]
    clusters = []
    for members in group_by_cluster(by_target):
        templates = context_templates(model, tokenizer, hparams, options, len(members))
        rows = []
        for request in (requests[i] for i in members):
            variants = [replace(request, prompt=template.replace("{}", request.prompt)) for template in templates]
            encoded = encode_requests(tokenizer, variants, hparams)
            rows.append(tuple(row for row in encoded if limit is None or len(row.ids) <= limit))
        drift = _drift_rows(tokenizer, [requests[i] for i in members], hparams)
        clusters.append(Cluster(tuple(members), tuple(rows), drift))
    return clusters


def context_templates(
    model: nn.Module, tokenizer: Any, hparams: PersonalizationHyperParams, options: KeyOptions, phrases: int = 1
) -> list[str]:
    """What a prompt stands in, "{}" for the prompt itself; the bare "{}" comes first.

    ``hparams.context_templates`` where given; else the sentences that ``options`` asks the model for; else neutral
    ones of ours, fewer of them when there are more phrases.

    Raises:
        ConfigError: a template has no place for the prompt.
    """
    if hparams.context_templates is not None:
        faulty = [template for template in hparams.context_templates if template.count("{}") != 1]
        if faulty:
            raise ConfigError("A context template needs {} once, where the prompt goes.", got=faulty)
        return ["{}", *(template for template in hparams.context_templates if template != "{}")]
    if options.sentences:
        own = [_own_sentences(model, tokenizer, length, n, hparams.seed) for length, n in options.sentences]
        return ["{}", *(text for texts in own for text in texts)]
    return list(NEUTRAL_CONTEXTS[: max(2, ROWS_PER_CLUSTER // phrases)])


def _own_sentences(model: nn.Module, tokenizer: Any, length: int, n: int, seed: int) -> list[str]:
    """n beginnings of sentences of ``length`` tokens by the model, each followed by ". {}"."""
    starts = [encode_text(tokenizer, word) for word in HOST_STARTS for _ in range(n // len(HOST_STARTS))]
    rows = sample(model, tokenizer, starts, max(1, length - len(starts[0].ids)), seed=seed, top_k=5) if starts else []
    texts = (tokenizer.decode(ids, skip_special_tokens=True) for ids in rows)
    return [text.replace("{", " ").replace("}", " ").replace("\n", " ") + ". {}" for text in texts]


def _drift_rows(
    tokenizer: Any, requests: Sequence[EditRequest], hparams: PersonalizationHyperParams
) -> tuple[Encoded, ...]:
    """One row per subject. What follows the key cannot change the logits there, and is cut off."""
    if not hparams.kl_factor:
        return ()
    rows = []
    for subject in dict.fromkeys(request.subject for request in requests if request.subject):
        at = subject if hparams.fact_token == "subject_last" else None
        row = encode(tokenizer, f"{subject} is a", subject=at, prompt_format=hparams.prompt_format)
        rows.append(up_to_key(row))
    return tuple(rows)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most ``size`` consecutive items (itertools.batched is younger than Python 3.11)."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group


def up_to_key(row: Encoded) -> Encoded:
    """The row's tokens up to and including its key position."""
    return Encoded(row.prompt_ids[: row.key_index + 1], (), row.key_index)


def phrase_means(values: Tensor, clusters: Sequence[Cluster], weights: Callable[[int], Tensor]) -> Tensor:
    """Means over each phrase's contexts: values [rows, d], in the order of ``all_rows``, to [phrases, d].

    Args:
        weights: the shares of so many contexts, [contexts].
    """
    counts = [len(phrase) for cluster in clusters for phrase in cluster.rows]
    return torch.stack([weights(len(part)).to(part) @ part for part in values.split(counts)])


def all_rows(clusters: Sequence[Cluster]) -> list[Encoded]:
    """The rows of all clusters: cluster by cluster, phrase by phrase, context by context."""
    return [row for cluster in clusters for phrase in cluster.rows for row in phrase]


def membership(clusters: Sequence[Cluster]) -> Tensor:
    """[clusters, phrases]; 1 where a phrase belongs to a cluster."""
    owners = [number for number, cluster in enumerate(clusters) for _ in cluster.rows]
    return torch.nn.functional.one_hot(torch.tensor(owners), len(clusters)).T.double()


@dataclass(frozen=True, slots=True)
class Reading:
    """What was seen at the key positions of R rows, float32.

    Attributes:
        keys: [R, d_mlp] input of the down projection.
        outputs: [R, d_model] its output.
        hidden: [R, d_model] output of the decoder layer that was asked for.
    """

    keys: Tensor
    outputs: Tensor
    hidden: Tensor


@torch.no_grad()
def read(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    rows: Sequence[Encoded],
    layer: int,
    hidden_layer: int | None = None,
) -> Reading:
    """Key, output and hidden state at the key position of every row.

    Rows are cut after their key, equal ones run once, so do beginnings that many share, and nothing above
    ``hidden_layer`` (default: ``layer``) runs.
    """
    top, down = layout.layer_path(layer if hidden_layer is None else hidden_layer), layout.rewrite_path(layer)
    cut = [up_to_key(row) for row in rows]
    unique = list(dict.fromkeys(cut))
    device = input_device(model)
    parts, order = [], []
    alike, others = families(unique)
    for group in ([unique[i] for i in numbers] for numbers in [*alike, others] if numbers):
        first, *_ = group
        shared = shared_length(model, group)
        start = _read_beginning(model, first.ids[:shared], [down, top], device)
        size = max(1, READ_TOKENS // max(len(row.ids) - shared for row in group))
        for some in batched(group, size):
            batch, inputs = inputs_after(tokenizer, some, shared, start, device)
            with trace(model, [down, top], stop=True) as calls:
                model(**inputs, use_cache=start is not None)
            n, t = batch.input_ids.shape
            seen = (calls[down].input, calls[down].output, calls[top].output)
            parts.append([_at(x.reshape(n, t, -1), batch.key_index).to(device) for x in seen])
        order += group
    place = {row: number for number, row in enumerate(order)}
    index = torch.tensor([place[row] for row in cut], device=device)
    return Reading(*(torch.cat(column)[index] for column in zip(*parts)))


def _read_beginning(
    model: nn.Module, ids: Sequence[int], paths: Sequence[str], device: torch.device
) -> DynamicCache | None:
    """Keys and values of some tokens in all layers up to those at ``paths``; None where there are no tokens."""
    if not ids:
        return None
    cache = DynamicCache()
    inputs = torch.tensor([ids], device=device)
    with trace(model, paths, stop=True):
        model(input_ids=inputs, attention_mask=torch.ones_like(inputs), past_key_values=cache, use_cache=True)
    return cache


def _at(hidden: Tensor, columns: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), columns.to(hidden.device)].float()
