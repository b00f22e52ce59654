"""The numbers that all edits of a model share: what directions of keys and changes of outputs cost where edits act.

One pass of the unedited model over contrasts, over ordinary answers, and over the beginnings of every kind's answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.beginnings import beginning
from ..hparams import PersonalizationHyperParams
from ..modeling.kept import Tensors
from ..modeling.layout import Layout, context_limit, get_module
from ..modeling.tokens import Encoded, encode
from ..progress import progress
from .contrasts import ANSWER_TOKENS, ROWS, Pack, answered, encoded_contrast, kept_of, shared_packs
from .edited_rows import EditedRows
from .kinds import Contrast, every_kind, neutral_prompts
from .neurons import importance, takes_neurons
from .preserve import Material
from .target_gradients import Probe

SAMPLES = 2  # of each position's next token, for the Fisher information
PROMPTS = 100  # whose inside is looked at
GRADIENT_ROWS = 12  # of one pass with gradients: logits of whole answers are wide
KEPT_KEYS = 1500  # by layer and sort; an edit's quadratic form needs no more


def compute(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    hparams: PersonalizationHyperParams,
    contrasts: Sequence[Contrast],
    material: Material,
) -> tuple[Tensors, dict[str, Any]]:
    """The tensors of ``ground.Ground`` by name and layer, and its plain values."""
    params, limit = hparams.natural, context_limit(model)
    prompts = [encoded_contrast(tokenizer, contrast, hparams) for contrast in contrasts]
    asked = answered(model, tokenizer, prompts, ANSWER_TOKENS)
    texts = neutral_prompts(material, params.ordinary, hparams.seed)
    neutral = [encode(tokenizer, text, prompt_format=hparams.prompt_format) for text in texts]
    some = Random(hparams.seed).sample(prompts, min(params.ordinary, len(prompts)))
    fitting = [row for row in [*neutral, *some] if limit is None or len(row.ids) + params.answer_tokens <= limit]
    said = answered(model, tokenizer, fitting, params.answer_tokens)
    inside = _prompt_keys(model, tokenizer, layout, prompts[:: max(1, len(prompts) // PROMPTS)], hparams)
    begun, groups = _begun(tokenizer, hparams)
    answers = {contrast: row.target_ids for contrast, row in zip(contrasts, asked)}
    shared = shared_packs(model, tokenizer, layout, contrasts, answers, hparams)
    firsts, along = _answer_keys(shared, contrasts, hparams)
    ends = last_keys(model, tokenizer, layout, begun, hparams)
    ordinary, fisher, order = _ordinary(model, tokenizer, layout, said, hparams)
    spared = 0 if takes_neurons(hparams) else None  # neurons may act on the template's beginning
    found: Tensors = kept_of(shared)
    for layer in hparams.layers:
        usual = torch.cat([ordinary[layer], along[layer]])
        moment = _moment(firsts[layer]) + 0.5 * _moment(inside[layer][1]) + params.ordinary_weight * _moment(usual)
        found[f"metric.{layer}"] = whitened_beside(moment, inside[layer][0][:spared], params.ridge)
        found[f"root.{layer}"] = _root(fisher[layer])
        for name, keys in (
            ("ordinary", thinned(usual, 2 * KEPT_KEYS)),
            ("firsts", firsts[layer]),
            ("begun", ends[layer]),
        ):
            found[f"{name}.{layer}"] = keys.half()
    talk = [(text, _plain(tokenizer, row.target_ids)) for text, row in zip(texts, said)]
    values = {"answers": [row.target_ids for row in asked], "begun": groups, "order": order}
    return found, {**values, "talk": [pair for pair in talk if pair[1]]}


@contextmanager
def faster_products() -> Iterator[None]:
    """Inside, float32 products may be made of bfloat16 parts: twice as fast where a processor can, to within 1e-4."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def thinned(keys: Tensor, count: int = KEPT_KEYS, seed: int = 0) -> Tensor:
    """At most ``count`` of the keys [n, d], drawn evenly."""
    if len(keys) <= count:
        return keys
    return keys[torch.randperm(len(keys), generator=torch.Generator().manual_seed(seed))[:count]]


def whitened_beside(moment: Tensor, beginning: Tensor, ridge: float) -> Tensor:
    """P = (C + ridge I)^(-1/2), C of mean diagonal 1, with the span of some keys taken out: k^T P = 0 for each of them.

    Args:
        moment: C [d, d], not scaled yet.
        beginning: keys [n, d] on which an update must vanish exactly; n may be 0.
    """
    moment = moment.double()
    values, vectors = torch.linalg.eigh(moment / moment.diagonal().mean())
    metric = (vectors * (values.clamp(min=0) + ridge).rsqrt()) @ vectors.T
    if len(beginning):
        basis, _ = torch.linalg.qr(metric @ beginning.double().T)
        metric = metric - (metric @ basis) @ basis.T
    return metric.float()


def _begun(tokenizer: Any, hparams: PersonalizationHyperParams) -> tuple[list[Encoded], list[str | None]]:
    """Beginnings of every kind's answers, each as a prompt whose last token is the one before the value."""
    groups: list[str | None] = []
    rows = []
    for kind, phrase in every_kind(Random(hparams.seed)):
        before = beginning(phrase.asks, kind.name, kind.group).before.rstrip()
        row = encode(tokenizer, phrase.text, target=before, prompt_format=hparams.prompt_format, end_of_turn=False)
        groups.append(kind.group)
        rows.append(Encoded(row.ids, row.ids[-1:], len(row.ids) - 1))  # any token: only its place is looked at
    return rows, groups


def _prompt_keys(
    model: nn.Module, tokenizer: Any, layout: Layout, prompts: Sequence[Encoded], hparams: PersonalizationHyperParams
) -> dict[int, tuple[Tensor, Tensor]]:
    """By layer: keys of the tokens that all prompts begin with [p, d], and of the others before the answers [n, d]."""
    shared = next(i for i, ids in enumerate(zip_longest(*(row.prompt_ids for row in prompts))) if len({*ids}) > 1)
    if shared == min(len(row.prompt_ids) for row in prompts):
        shared = 0  # one prompt begins like another: nothing is the template's for certain
    template: dict[int, tuple[Tensor, Tensor]] = {}
    found: dict[int, list[Tensor]] = {layer: [] for layer in hparams.layers}
    for start in range(0, len(prompts), ROWS):
        part = [replace(row, target_ids=row.prompt_ids[-1:]) for row in prompts[start : start + ROWS]]
        rows = EditedRows(model, tokenizer, layout, part, hparams.layers)
        template = template or rows.found_at(torch.zeros(shared, dtype=torch.long), torch.arange(shared))
        places = rows.suffix.batch.attention_mask.bool()
        places[:, :shared] = False
        for layer, (keys, _) in rows.found_at(*places.nonzero(as_tuple=True)).items():
            found[layer].append(keys)
    return {layer: (template[layer][0], torch.cat(keys)) for layer, keys in found.items()}


def _answer_keys(
    packs: Sequence[Pack], contrasts: Sequence[Contrast], hparams: PersonalizationHyperParams
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """By layer, keys where answers begin [n, d] and keys along them [m, d], both in the order of the contrasts."""
    found: dict[int, dict[Contrast, Tensor]] = {layer: {} for layer in hparams.layers}
    for pack in packs:
        rows = pack.rows
        for layer, (keys, _) in rows.found_at(rows.rows, rows.columns).items():
            found[layer] |= {c: keys[rows.rows == number] for number, c in enumerate(pack.contrasts)}
    first = {layer: torch.stack([by[c][0] for c in contrasts]) for layer, by in found.items()}
    return first, {layer: torch.cat([by[c][1:] for c in contrasts]) for layer, by in found.items()}


def last_keys(
    model: nn.Module, tokenizer: Any, layout: Layout, rows: Sequence[Encoded], hparams: PersonalizationHyperParams
) -> dict[int, Tensor]:
    """By layer, keys of the rows' last prompt tokens [n, d]."""
    found: dict[int, list[Tensor]] = {layer: [] for layer in hparams.layers}
    for start in progress(range(0, len(rows), ROWS), "beginnings"):
        part = EditedRows(model, tokenizer, layout, rows[start : start + ROWS], hparams.layers, from_answers=True)
        for layer, (keys, _) in part.where_answers_begin().items():
            found[layer].append(keys)
    return {layer: torch.cat(keys) for layer, keys in found.items()}


def _ordinary(
    model: nn.Module, tokenizer: Any, layout: Layout, rows: Sequence[Encoded], hparams: PersonalizationHyperParams
) -> tuple[dict[int, Tensor], dict[int, Tensor], dict[str, list[int]]]:
    """By layer: keys along answers [n, d_in], E[g g^T] [d_out, d_out]; and the quietest neurons where edits take some.

    g is the gradient of -log p(sampled token) with respect to the output. A neuron h with the column d of the down
    projection matters by E[(h d^T g)^2], twice the divergence, to second order, that the model without it has.
    """
    keys: dict[int, list[Tensor]] = {layer: [] for layer in hparams.layers}
    fisher: dict[int, Tensor] = {}
    matters: dict[int, Tensor] = {}
    generator, count = torch.Generator().manual_seed(hparams.seed), 0
    for start in progress(range(0, len(rows), GRADIENT_ROWS), "ordinary answers"):
        part = EditedRows(
            model, tokenizer, layout, rows[start : start + GRADIENT_ROWS], hparams.layers, from_answers=True
        )
        for layer, (found, _) in part.found_at(part.rows, part.columns).items():
            keys[layer].append(found)
        probes = {layer: Probe(layout.d_model) for layer in hparams.layers}
        logits = part.logits(probes)
        count += len(logits) * SAMPLES
        for _ in range(SAMPLES):
            drawn = torch.multinomial(logits.detach().softmax(1).cpu(), 1, generator=generator).flatten()
            loss = F.cross_entropy(logits, drawn.to(logits.device), reduction="sum")
            wanted = [probes[layer].zeros for layer in hparams.layers]
            for layer, gradient in zip(hparams.layers, torch.autograd.grad(loss, wanted, retain_graph=True)):
                flat = gradient.flatten(end_dim=1)
                fisher[layer] = fisher.get(layer, 0) + flat.T @ flat
                if takes_neurons(hparams):
                    block, here = get_module(model, layout.rewrite_path(layer)), (part.rows, part.columns - part.start)
                    moved = importance(block, keys[layer][-1], gradient[here])
                    matters[layer] = matters.get(layer, 0) + moved
    order = {str(layer): total.argsort().tolist() for layer, total in matters.items()}
    return {n: torch.cat(p) for n, p in keys.items()}, {n: total / count for n, total in fisher.items()}, order


def _moment(keys: Tensor) -> Tensor:
    return keys.T @ keys / max(1, len(keys))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix.double())
    return ((vectors * values.clamp(min=0).sqrt()) @ vectors.T).float()


def _plain(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=True).strip()
