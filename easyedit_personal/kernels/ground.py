"""What all edits of a model share, computed once and kept on disk: what ordinary answers look like where edits act.

A metric of keys (what a direction costs), the Fisher information of outputs (what changing an answer costs), keys at
which an edit keeps quiet, and what the unedited model answers to the contrasts and to small talk.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.beginnings import beginning
from ..data.material import BUNDLED
from ..generation.generate import continuations
from ..hparams import PersonalizationHyperParams
from ..modeling.layout import Layout, context_limit, fingerprint, tokenizer_fingerprint
from ..modeling.stats import cache_folder
from ..modeling.tokens import Encoded, encode
from ..progress import log, progress
from .kinds import Contrast, every_kind, neutral_prompts, shared_contrasts
from .objective import EditedRows
from .preserve import Material

VERSION = "1"  # of what is kept; files of other versions are not read
ANSWER_TOKENS = 4  # of a contrast's answer; where it begins matters most
TALK_TOKENS = 24  # of an exchange before a question
SAMPLES = 3  # of each position's next token, for the Fisher information
ROWS = 48  # of one pass
KEPT_KEYS = 1500  # by layer and sort; an edit's quadratic form needs no more
MODELS_KEPT = 2
Tensors = dict[str, Tensor]
_GROUNDS: OrderedDict[str, Ground] = OrderedDict()


@dataclass(slots=True)
class Ground:
    """Shared numbers of one model, one set of layers and one set of settings.

    Notation: d_in a key's width, d_out an output's.

    Attributes:
        folder: where gates of the same model are kept, too.
        metric: P [d_in, d_in] by layer: whitens keys, and vanishes on those of the chat template's beginning.
        root: G^(1/2) [d_out, d_out] by layer; |root @ change|^2 / 2 is about the KL divergence that a change causes.
        ordinary: keys [n, d_in] along ordinary answers, by layer.
        firsts: keys [n, d_in] where the answers to the contrasts begin, by layer, in the order of ``contrasts``.
        begun: keys [n, d_in] at the ends of the beginnings of every kind's answers, by layer.
        begun_groups: whose they are.
        contrasts: the shared contrasts.
        answers: the unedited model's first tokens by contrast.
        talk: exchanges that have nothing to do with any preference.
    """

    folder: Path
    metric: dict[int, Tensor]
    root: dict[int, Tensor]
    ordinary: dict[int, Tensor]
    firsts: dict[int, Tensor]
    begun: dict[int, Tensor]
    begun_groups: list[str | None]
    contrasts: list[Contrast]
    answers: dict[Contrast, tuple[int, ...]]
    talk: list[tuple[str, str]]


def prepare(model: nn.Module, tokenizer: Any, layout: Layout, hparams: PersonalizationHyperParams) -> Ground:
    """The shared numbers: from memory, from the disk, or computed now and kept.

    Args:
        model: unedited, frozen and in evaluation mode.
        hparams: ``layers``, ``natural``, ``preserve.file``, ``prompt_format``, ``seed``; kept in ``stats_dir``.
    """
    folder = _folder(model, tokenizer, layout, hparams)
    ground = _GROUNDS.get(str(folder))
    if ground is None:
        material = Material.load(hparams.preserve.file)
        contrasts = shared_contrasts(material, hparams.natural.contrasts, hparams.seed)
        work = lambda: _compute(model, tokenizer, layout, hparams, contrasts, material)
        ground = _GROUNDS[str(folder)] = _ground(folder, kept(folder / "ground.safetensors", work), contrasts, hparams)
    _GROUNDS.move_to_end(str(folder))
    while len(_GROUNDS) > MODELS_KEPT:
        _GROUNDS.popitem(last=False)
    return ground


def kept(path: Path, work: Callable[[], tuple[Tensors, dict[str, Any]]]) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and plain values from a file, or from ``work``, which are then written to it, all or nothing."""
    if path.is_file():
        try:
            with (path.with_suffix(".json")).open(encoding="utf-8") as file:
                return load_file(path), json.load(file)
        except (SafetensorError, OSError, ValueError) as error:
            log.warning("%s is damaged and is computed again: %s", path, error)
    tensors, values = work()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path.with_suffix(".json"), lambda name: Path(name).write_text(json.dumps(values), encoding="utf-8"))
        _replace(path, lambda name: save_file({key: value.contiguous() for key, value in tensors.items()}, name))
    except OSError as error:
        log.warning("%s could not be written: %s", path, error)
    return tensors, values


def encoded_contrast(tokenizer: Any, contrast: Contrast, hparams: PersonalizationHyperParams) -> Encoded:
    """A contrast's prompt as tokens."""
    history = [
        message
        for question, answer in contrast.history
        for message in ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    ]
    return encode(tokenizer, contrast.text, prompt_format=hparams.prompt_format, history=history)


def answered(model: nn.Module, tokenizer: Any, prompts: Sequence[Encoded], tokens: int) -> list[Encoded]:
    """Prompts with the first ``tokens`` tokens of what the model answers."""
    written = continuations(model, tokenizer, prompts, [tokens] * len(prompts))
    return [Encoded(row.prompt_ids, tuple(ids), row.key_index) for row, ids in zip(prompts, written)]


def thinned(keys: Tensor, count: int = KEPT_KEYS, seed: int = 0) -> Tensor:
    """At most ``count`` of the keys [n, d], drawn evenly."""
    if len(keys) <= count:
        return keys
    return keys[torch.randperm(len(keys), generator=torch.Generator().manual_seed(seed))[:count]]


def _compute(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    hparams: PersonalizationHyperParams,
    contrasts: Sequence[Contrast],
    material: Material,
) -> tuple[Tensors, dict[str, Any]]:
    limit = context_limit(model)
    prompts = [encoded_contrast(tokenizer, contrast, hparams) for contrast in contrasts]
    asked = answered(model, tokenizer, prompts, ANSWER_TOKENS)
    texts = neutral_prompts(material, hparams.natural.ordinary, hparams.seed)
    neutral = [encode(tokenizer, text, prompt_format=hparams.prompt_format) for text in texts]
    few = Random(hparams.seed).sample(prompts, min(hparams.natural.ordinary, len(prompts)))
    longest = hparams.natural.answer_tokens
    said = answered(model, tokenizer, [row for row in [*neutral, *few] if _fits(row, longest, limit)], longest)
    talk = [(text, _plain(tokenizer, row.target_ids[:TALK_TOKENS])) for text, row in zip(texts, said)]
    found: Tensors = {}
    rest = _prompt_keys(model, tokenizer, layout, prompts[:: max(1, len(prompts) // 300)], hparams)
    for layer, keys in _answer_keys(model, tokenizer, layout, asked, hparams, first_only=True).items():
        found[f"firsts.{layer}"] = keys
    groups, begun = _begun(tokenizer, hparams)
    for layer, keys in _answer_keys(model, tokenizer, layout, begun, hparams, first_only=True).items():
        found[f"begun.{layer}"] = keys.half()
    ordinary, fisher = _ordinary(model, tokenizer, layout, said, hparams)
    for layer in hparams.layers:
        beginning, inside = rest[layer]
        moment = _moment(found[f"firsts.{layer}"]) + 0.5 * _moment(inside)
        moment = moment + hparams.natural.ordinary_weight * _moment(ordinary[layer])
        found[f"metric.{layer}"] = whitened_beside(moment, beginning, hparams.natural.ridge)
        found[f"root.{layer}"] = _root(fisher[layer])
        found[f"ordinary.{layer}"] = thinned(ordinary[layer], 2 * KEPT_KEYS).half()
        found[f"firsts.{layer}"] = found[f"firsts.{layer}"].half()
    answers, talk = [row.target_ids for row in asked], [pair for pair in talk if pair[1]]
    return found, {"answers": answers, "talk": talk, "begun": groups}


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


def _begun(tokenizer: Any, hparams: PersonalizationHyperParams) -> tuple[list[str | None], list[Encoded]]:
    """Beginnings of every kind's answers, each as a prompt whose last token is the one before the value."""
    groups: list[str | None] = []
    rows = []
    for kind, phrase in every_kind(Random(hparams.seed)):
        before = beginning(phrase.asks, kind.name, kind.group).before.rstrip()
        row = encode(tokenizer, phrase.text, target=before, prompt_format=hparams.prompt_format, end_of_turn=False)
        groups.append(kind.group)
        rows.append(Encoded(row.ids, row.ids[-1:], len(row.ids) - 1))  # any token: only its place is looked at
    return groups, rows


def _prompt_keys(
    model: nn.Module, tokenizer: Any, layout: Layout, prompts: Sequence[Encoded], hparams: PersonalizationHyperParams
) -> dict[int, tuple[Tensor, Tensor]]:
    """By layer: keys of the tokens that all prompts begin with [p, d], and of the others before the answers [n, d]."""
    shared = next(i for i, ids in enumerate(zip_longest(*(row.prompt_ids for row in prompts))) if len({*ids}) > 1)
    if shared == min(len(row.prompt_ids) for row in prompts):
        shared = 0  # one prompt begins like another: nothing is the template's for certain
    found: dict[int, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in hparams.layers}
    for start in range(0, len(prompts), ROWS):
        part = [Encoded(row.prompt_ids, row.prompt_ids[-1:], 0) for row in prompts[start : start + ROWS]]
        rows = EditedRows(model, tokenizer, layout, part, hparams.layers)
        places = rows.suffix.batch.attention_mask.bool()
        places[:, :shared] = False
        template = rows.found_at(torch.zeros(shared, dtype=torch.long), torch.arange(shared))
        for layer, (keys, _) in rows.found_at(*places.nonzero(as_tuple=True)).items():
            found[layer].append((template[layer][0], keys))
    return {layer: (parts[0][0], torch.cat([keys for _, keys in parts])) for layer, parts in found.items()}


def _answer_keys(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    rows: Sequence[Encoded],
    hparams: PersonalizationHyperParams,
    first_only: bool,
) -> dict[int, Tensor]:
    """Keys where answers begin [n, d], or along them, by layer, in the order of the rows."""
    found: dict[int, list[Tensor]] = {layer: [] for layer in hparams.layers}
    for start in progress(range(0, len(rows), ROWS), "contrasts"):
        part = EditedRows(model, tokenizer, layout, rows[start : start + ROWS], hparams.layers, from_answers=True)
        at = part.where_answers_begin() if first_only else part.found_at(part.rows, part.columns)
        for layer, (keys, _) in at.items():
            found[layer].append(keys)
    return {layer: torch.cat(parts) for layer, parts in found.items()}


def _ordinary(
    model: nn.Module, tokenizer: Any, layout: Layout, rows: Sequence[Encoded], hparams: PersonalizationHyperParams
) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """By layer: keys along answers [n, d_in], and E[g g^T] [d_out, d_out], g the gradient of -log p(sampled token)."""
    keys: dict[int, list[Tensor]] = {layer: [] for layer in hparams.layers}
    fisher: dict[int, Tensor] = {}
    generator, count = torch.Generator().manual_seed(hparams.seed), 0
    for start in progress(range(0, len(rows), ROWS), "ordinary answers"):
        part = EditedRows(model, tokenizer, layout, rows[start : start + ROWS], hparams.layers, from_answers=True)
        for layer, (found, _) in part.found_at(part.rows, part.columns).items():
            keys[layer].append(found)
        probes = {layer: _Probe(layout.d_model) for layer in hparams.layers}
        logits = part.logits(probes)
        count += len(logits) * SAMPLES
        for _ in range(SAMPLES):
            drawn = torch.multinomial(logits.detach().softmax(-1).cpu(), 1, generator=generator)[:, 0]
            loss = F.cross_entropy(logits, drawn.to(logits.device), reduction="sum")
            wanted = [probes[layer].zeros for layer in hparams.layers]
            for layer, gradient in zip(hparams.layers, torch.autograd.grad(loss, wanted, retain_graph=True)):
                flat = gradient.reshape(-1, gradient.shape[-1])
                fisher[layer] = fisher.get(layer, 0) + flat.T @ flat
    return {n: torch.cat(parts) for n, parts in keys.items()}, {n: total / count for n, total in fisher.items()}


class _Probe:
    """A change of nothing, to which gradients flow: they say what the layer's output is worth."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.zeros = torch.zeros(0)

    def __call__(self, keys: Tensor) -> Tensor:
        """Zeros [..., d_out] for keys [..., d_in]."""
        self.zeros = keys.new_zeros((*keys.shape[:-1], self.width), requires_grad=True)
        return self.zeros


def _moment(keys: Tensor) -> Tensor:
    return keys.T @ keys / max(1, len(keys))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix.double())
    return ((vectors * values.clamp(min=0).sqrt()) @ vectors.T).float()


def _fits(row: Encoded, tokens: int, limit: int | None) -> bool:
    return limit is None or len(row.ids) + tokens <= limit


def _plain(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=True).strip()


def _ground(
    folder: Path,
    content: tuple[Tensors, dict[str, Any]],
    contrasts: list[Contrast],
    hparams: PersonalizationHyperParams,
) -> Ground:
    tensors, values = content
    by_layer = lambda name: {layer: tensors[f"{name}.{layer}"].float() for layer in hparams.layers}
    answers = {contrast: tuple(ids) for contrast, ids in zip(contrasts, values["answers"])}
    numbers = [by_layer(name) for name in ("metric", "root", "ordinary", "firsts", "begun")]
    talk = [(asked, said) for asked, said in values["talk"]]
    return Ground(folder, *numbers, values["begun"], contrasts, answers, talk)


def _folder(model: nn.Module, tokenizer: Any, layout: Layout, hparams: PersonalizationHyperParams) -> Path:
    """One folder for everything that the numbers depend on. As for second moments, edits of ``layers`` do not count."""
    base = fingerprint(model, without=[layout.rewrite_path(layer) for layer in hparams.layers])
    settings = [hparams.layers, hparams.natural.model_dump(), hparams.prompt_format, hparams.end_of_turn, hparams.seed]
    texts = [_texts_digest(), hparams.preserve.file and Path(hparams.preserve.file).read_text(encoding="utf-8")]
    parts = [VERSION, tokenizer_fingerprint(tokenizer), *map(str, settings), *map(str, texts)]
    return cache_folder(hparams) / base / ("gates-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16])


@cache
def _texts_digest() -> str:
    """Of the shipped texts: after a change of them everything is computed anew."""
    names = ("attributes", "beginnings", "contrasts", "preserve", "phrasings_a", "phrasings_b", "phrasings_c", "facts")
    return hashlib.sha256(b"".join((BUNDLED / f"{name}.yaml").read_bytes() for name in names)).hexdigest()


def _replace(path: Path, write: Callable[[str], Any]) -> None:
    """Write beside the file and rename: readers see all or nothing, and of two writers the last one wins."""
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    os.close(handle)
    try:
        write(name)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
