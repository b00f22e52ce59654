"""Gates: for one kind of attribute, when to speak and what to say around the value. Learned once per model.

A gate makes the model begin "Your hobby is" or "Since your hobby is" where the hobby is asked for, and go on as it
would by itself after whatever value stands there. The value itself is each user's own part (``value``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from ..hparams import PersonalizationHyperParams
from ..modeling.kept import Tensors, kept
from ..modeling.layout import Layout, context_limit, fingerprint
from ..progress import progress
from .carried import Cells, Pair, part_of, tensors_of
from .contrasts import ANSWER_TOKENS, Pack, answered, encoded_contrast, fitting, packs, shared_packs
from .edited_rows import EditedRows
from .factors import Quiet, Update, adam
from .gate_loss import Kept, Speaking, costs_of, divergence, log_p, speaking_loss, speaking_of, turn, words_of
from .ground import Ground
from .kinds import (
    Contrast,
    Kind,
    Phrase,
    begun_answers,
    behind_talk,
    kind_phrases,
    own_contrasts,
    phrases_behind,
    sample_values,
)
from .preserve import Material
from .quiet_keys import Places, QuietKeys, closed_of, quiet_keys, tails_of, value_starts
from .roles import Role, roles_of
from .spoken import Spoken, go_on, speak
from .target_gradients import ALONG_WEIGHT, ELSEWHERE_WEIGHT, target_gradients, with_gradients
from .used_answers import POOL, asked_again, moving_on, used_answers

NAMED = 24  # questions from templates with the kind's names
CONTRASTS_BEHIND = 8  # contrasts near the kind that come once more behind other turns
NEAR = ("own", POOL)  # pools of contrasts about the kind itself, and behind answers that used it
NEAREST = 5.0  # how much these weigh against those of another pool
TAIL = 6  # tokens that the model writes by itself after a beginning
RATES, SIZES = {"gate_lr", "right_lr"}, {"gate_rank", "gate_steps", "gate_batch", "contrast_batch"}
LEARNED_BY = {*RATES, *SIZES, "contrast_weight", "quiet_weight"}  # the settings that shape a gate
SEEN = 3  # every third part of the contrasts says which words matter: logits of all words are dear
QUIET_KEYS = 400  # drawn at every step


@dataclass(frozen=True, slots=True)
class Gate:
    """A kind's update, and what its users' values need to know of it.

    Attributes:
        factors: (left [d_out, r], right [r, d_in]) by layer, whose product is the update, or neurons.
        quiet: keys at which the kind's values keep quiet.
        phrases: the questions it was learned from, the plainest first.
        starts: keys [n, d_in] where a value begins, alone and behind other turns, by layer; see ``value_starts``.
        shared: it is every user's. One that is learned on a model with somebody's edits in it is not, and is not kept.
    """

    factors: dict[int, Pair | Cells]
    quiet: QuietKeys
    phrases: list[Phrase]
    starts: Mapping[bool, Mapping[int, Tensor]]
    shared: bool = True


def gates_for(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    kinds: Sequence[Kind],
    ground: Ground,
    hparams: PersonalizationHyperParams,
) -> list[Gate]:
    """The kinds' gates: from the disk, or learned now and kept for all users of the model.

    Args:
        model: frozen and in evaluation mode.
    """

    def learned(kind: Kind, phrases: Sequence[Phrase]) -> tuple[Tensors, dict[str, Any]]:
        ran = ground.rows if is_base else None
        shared = shared_packs(model, tokenizer, layout, ground.contrasts, ground.answers, hparams, ran)
        return _learn(model, tokenizer, layout, kind, phrases, shared, ground, hparams), {"kind": kind.name}

    is_base = fingerprint(model) == ground.base
    gates, asked = [], hparams.natural.model_dump(include=LEARNED_BY)
    for kind in kinds:
        phrases = _phrases(kind, ground, hparams)
        name = hashlib.sha256(f"{kind}{phrases}{asked}".encode()).hexdigest()[:16]
        path = ground.folder / f"gate-{name}.safetensors"
        shared = is_base or path.is_file()
        tensors, _ = kept(path, partial(learned, kind, phrases), write=shared)
        factors = {n: part_of(tensors, n) for n in hparams.layers}
        starts = {flag: {n: tensors[f"starts{flag:d}.{n}"].float() for n in hparams.layers} for flag in (False, True)}
        gates.append(Gate(factors, QuietKeys.of(tensors, hparams.layers), phrases, starts, shared))
    return gates


def _phrases(kind: Kind, ground: Ground, hparams: PersonalizationHyperParams) -> list[Phrase]:
    """The kind's questions, and some of them behind other turns: a gate that never saw a conversation closes in one."""
    rng = Random(f"{hparams.seed}/{kind.name}")
    phrases = kind_phrases(kind, Material.load(hparams.preserve.file), NAMED, rng)
    return [*phrases, *phrases_behind(phrases, ground.talk, rng)]


def _learn(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    kind: Kind,
    phrases: Sequence[Phrase],
    shared: Sequence[Pack],
    ground: Ground,
    hparams: PersonalizationHyperParams,
) -> Tensors:
    """The gate's factors, and the keys near it, as they are kept."""
    params, rng = hparams.natural, Random(f"{hparams.seed}/values/{kind.name}")
    values, material = sample_values(kind), Material.load(hparams.preserve.file)
    spoken = [speak(tokenizer, phrase, kind, rng.choice(values), hparams) for phrase in phrases]
    used = used_answers(model, tokenizer, kind, phrases, values, rng, hparams)
    spoken += asked_again(tokenizer, kind, phrases, used, rng, hparams)
    spoken = go_on(model, tokenizer, _fitting(model, spoken), TAIL)
    rows = _run(model, tokenizer, layout, spoken, hparams)
    near = own_contrasts(kind, material, rng)
    talked = fitting(model, tokenizer, behind_talk(near, CONTRASTS_BEHIND, rng), hparams)
    own = _own_packs(model, tokenizer, layout, [*near, *talked], hparams)
    behind = [
        pack
        for some in moving_on(used, near, ground.contrasts, kind, material, rng)
        for pack in _own_packs(model, tokenizer, layout, fitting(model, tokenizer, some, hparams), hparams)
    ]
    pools = _pools([*own, *behind, *shared], kind, material, params.contrast_batch, rng)
    words = words_of(rows, [part for found in pools.values() for part in found[::SEEN]])
    roles = roles_of(spoken, torch.cat([costs_of(part, words) for part in rows]))
    speaking = [_speaking(rows, part, spoken, words) for part in _parts(len(spoken), params.gate_batch, rng)]
    contrasts = {pool: [Kept(part, log_p(part, words)) for part in found] for pool, found in pools.items()}
    places = _places(rows)
    tails = tails_of(model, tokenizer, layout, spoken, hparams)
    begun = begun_answers(kind, near, material, rng)
    around = quiet_keys(model, tokenizer, layout, spoken, places, tails, [*own, *behind], begun, hparams)
    quiet = _quiet(ground, tails, target_gradients(rows, [role.places for role in roles], words))
    updates = _start(model, layout, places, roles[: params.gate_rank], closed_of(behind), ground)
    draw = torch.Generator().manual_seed(hparams.seed)
    bar = iter(progress(range(params.gate_steps), f"gate of {kind.name}"))

    def loss(step: int) -> Tensor:
        next(bar, None)
        total = speaking_loss(speaking[step % len(speaking)], updates, words)
        for pool, found in contrasts.items():
            share = params.contrast_weight * (NEAREST if pool in NEAR else 1.0) / len(contrasts)
            total = total + share * divergence(turn(found, step), updates, words)
        for layer, update in updates.items():
            for keys, root in quiet[layer]:
                some = torch.randint(len(keys), (min(QUIET_KEYS, len(keys)),), generator=draw)
                total = total + params.quiet_weight * Quiet(keys[some.to(keys.device)], root)(update)
        return total

    adam(updates.values(), loss, params.gate_steps, params.gate_lr, params.right_lr)
    next(bar, None)
    parts = [tensors_of(update.kept(), layer) for layer, update in updates.items()]
    return (
        {name: tensor for part in parts for name, tensor in part.items()}
        | around.tensors()
        | value_starts(spoken, places)
    )


def _run(
    model: nn.Module, tokenizer: Any, layout: Layout, spoken: Sequence[Spoken], hparams: PersonalizationHyperParams
) -> list[EditedRows]:
    """The answers' rows in their order, those behind the same turns together: these are read once then."""
    found = []
    for _, part in groupby(spoken, key=lambda s: s.phrase.history):
        rows = [s.row for s in part]
        found.append(EditedRows(model, tokenizer, layout, rows, hparams.layers, from_answers=True))
    return found


def _speaking(
    rows: Sequence[EditedRows], numbers: Sequence[int], spoken: Sequence[Spoken], words: Tensor
) -> list[Speaking]:
    """What one step sees of the answers."""
    found, before = [], 0
    for group in rows:
        count = len(group.last_index)
        part = [number for number in numbers if before <= number < before + count]
        if part:
            own = group.select([number - before for number in part])
            found.append(speaking_of(own, [spoken[number] for number in part], words))
        before += count
    return found


def _places(rows: Sequence[EditedRows]) -> Places:
    """By layer: keys and outputs at all positions of the answers, in their order."""
    found = [group.found_at(group.rows, group.columns) for group in rows]
    return {
        layer: (torch.cat([by[layer][0] for by in found]), torch.cat([by[layer][1] for by in found]))
        for layer in found[0]
    }


def _own_packs(
    model: nn.Module,
    tokenizer: Any,
    layout: Layout,
    contrasts: Sequence[Contrast],
    hparams: PersonalizationHyperParams,
) -> list[Pack]:
    """Contrasts about the kind itself, with the unedited model's answers, which are not known yet."""
    prompts = [encoded_contrast(tokenizer, contrast, hparams) for contrast in contrasts]
    said = answered(model, tokenizer, prompts, ANSWER_TOKENS)
    answers = {contrast: row.target_ids for contrast, row in zip(contrasts, said)}
    return packs(model, tokenizer, layout, contrasts, answers, hparams)


def _pools(
    packs: Sequence[Pack], kind: Kind, material: Material, sizes: Mapping[Any, int], rng: Random
) -> dict[str, list[EditedRows]]:
    """By pool, what one step sees of it: as many rows as ``sizes`` says, without those that ask for the kind itself."""
    related = material.related({kind.group}) if kind.group else set()
    own: dict[str, Set[str | None]] = {"named": {kind.group}, "indirect": related}
    pools: dict[str, list[EditedRows]] = {}
    for pack in packs:
        pool = pack.contrasts[0].pool
        spared, size = own.get(pool, set()), sizes.get(pool, 0)
        numbers = [i for i, contrast in enumerate(pack.contrasts) if contrast.group not in spared]
        for part in _parts(len(numbers), size, rng) if size and numbers else ():
            pools.setdefault(pool, []).append(pack.rows.select([numbers[i] for i in part]))
    return {pool: rng.sample(found, len(found)) for pool, found in pools.items()}


def _start(
    model: nn.Module,
    layout: Layout,
    places: Places,
    roles: Sequence[Role],
    behind: Mapping[int, Tensor],
    ground: Ground,
) -> dict[int, Update]:
    """Updates that add nothing yet; their right factors tell the roles of the answers' tokens from contrasts.

    Args:
        behind: keys [n, d_in] where the answers begin to contrasts behind used answers, by layer.
    """
    found: dict[int, Update] = {}
    for layer, (keys, outputs) in places.items():
        others = [behind.get(layer, ground.firsts[layer]) if role.used else ground.firsts[layer] for role in roles]
        found[layer] = ground.start(model, layout, layer, [keys[role.places] for role in roles], others, outputs)
    return found


def _quiet(
    ground: Ground, tails: Mapping[int, Tensor], gradients: Mapping[int, Tensor]
) -> dict[int, list[tuple[Tensor, Tensor]]]:
    """By layer: keys at which the gate is not to be heard, and the root of the form that says what it costs."""
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for layer, root in ground.root.items():
        mine = gradients[layer]
        parts = ((ELSEWHERE_WEIGHT, ground.ordinary[layer]), (ALONG_WEIGHT, tails[layer]))
        found[layer] = [(keys.to(mine.device), with_gradients(root, mine, w)) for w, keys in parts if len(keys)]
    return found


def _fitting(model: nn.Module, spoken: Sequence[Spoken]) -> list[Spoken]:
    limit = context_limit(model)
    return [s for s in spoken if limit is None or len(s.row.ids) + TAIL <= limit]


def _parts(count: int, size: int, rng: Random) -> list[list[int]]:
    """Numbers of the rows of each step, in turn: about ``size`` each, drawn once."""
    order, n = rng.sample(range(count), count), -(-count // size)
    return [sorted(order[i::n]) for i in range(n)]
