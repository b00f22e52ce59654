"""Train the tests' small model: ``python -m tests.tiny_model.train --out FOLDER [--recipe second]``.

Stops and starts at will: a checkpoint holds weights, optimiser and step, and every step's rows follow from the seed
and the step's number alone.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, GenerationConfig
from transformers.masking_utils import AttentionMaskInterface

from .corpus import Corpus
from .recipe import RECIPES, Recipe, Stage
from .tokenizer import END, PAD, ROLES, render, train_tokenizer

Encoded = tuple[list[int], list[float]]


def float32_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Causal attention in float32: its backward pass in bfloat16 takes five times as long on a CPU."""
    with torch.autocast("cpu", enabled=False):
        out = F.scaled_dot_product_attention(
            query.float(), key.float(), value.float(), is_causal=True, scale=scaling, enable_gqa=True
        )
    return out.transpose(1, 2), None


AttentionInterface.register("float32_causal", float32_attention)
AttentionMaskInterface.register("float32_causal", lambda *args, **kwargs: None)


def build_model(tokenizer: Any, recipe: Recipe) -> Any:
    """The untrained model."""
    torch.manual_seed(recipe.seed)
    config = AutoConfig.for_model(
        recipe.architecture,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **recipe.shape,
    )
    return AutoModelForCausalLM.from_config(config)


def vocabulary_pieces(tokenizer: Any) -> tuple[str, ...]:
    """Every piece of the vocabulary that is made of letters, with its leading space where it has one."""
    pieces = (tokenizer.convert_tokens_to_string([token]) for token in sorted(tokenizer.get_vocab()))
    return tuple(piece for piece in pieces if piece.strip().isascii() and piece.strip().isalpha())


class Rows:
    """Rows as token ids with a weight per token, in steps of similar length; step numbers address them.

    Assistant turns and neutral text weigh 1, what the user says ``turn_weight``: predicting a value that the user
    is about to state cannot be learned, and would drown what can.
    """

    def __init__(self, tokenizer: Any, recipe: Recipe) -> None:
        self.tokenizer, self.recipe = tokenizer, recipe
        self.assistant = tokenizer.convert_tokens_to_ids(ROLES["assistant"])
        self.end = tokenizer.convert_tokens_to_ids(END)
        self.pieces = vocabulary_pieces(tokenizer)

    def stage(self, number: int, stage: Stage, skip: int = 0) -> Iterator[list[Encoded]]:
        """The stage's steps, without the first ``skip``."""
        done, pool = 0, 0
        while done < stage.steps:
            seed = self.recipe.seed * 1_000_003 + number * 10_007 + pool
            for step in self._pool(stage, seed)[: stage.steps - done]:
                done += 1
                if done > skip:
                    yield step
            pool += 1

    def _pool(self, stage: Stage, seed: int) -> list[list[Encoded]]:
        stream = iter(Corpus(stage.mix, seed, pieces=self.pieces))
        rows = sorted((self._encode(next(stream)) for _ in range(self.recipe.pool)), key=lambda row: len(row[0]))
        steps: list[list[Encoded]] = [[]]
        for row in rows:
            if steps[-1] and (len(steps[-1]) + 1) * len(row[0]) > self.recipe.tokens:
                steps.append([])
            steps[-1].append(row)
        random.Random(seed).shuffle(steps)
        return steps

    def _encode(self, row: Any) -> Encoded:
        ids = self.tokenizer(render(row), add_special_tokens=False)["input_ids"][: self.recipe.max_row]
        if row.text:
            return ids, [1.0] * len(ids)
        weights, speaking = [], False
        for token in ids:
            weights.append(1.0 if speaking else self.recipe.turn_weight)
            speaking = token == self.assistant or (speaking and token != self.end)
        return ids, weights


def step_loss(model: Any, step: list[Encoded], pad: int) -> tuple[Tensor, float, int]:
    """Weighted loss of one step, the mean loss of its full-weight tokens, and its real tokens."""
    # Few distinct shapes: the library compiles its bfloat16 products anew for every shape it meets, which took as
    # long as the training itself.
    width = _up(max(len(ids) for ids, _ in step), 32)
    ids = torch.full((_up(len(step), 4), width), pad)
    weights = torch.zeros(ids.shape)
    for i, (row, row_weights) in enumerate(step):
        ids[i, : len(row)] = torch.tensor(row)
        weights[i, : len(row)] = torch.tensor(row_weights)
    # Padding is on the right and attention is causal: no mask is needed.
    hidden = model.base_model(ids, use_cache=False).last_hidden_state
    kept, targets = weights[:, 1:].flatten(), ids[:, 1:].flatten()
    wanted = kept.nonzero().flatten()
    count = len(wanted)
    wanted = F.pad(wanted, (0, _up(count, 512) - count))
    logits = model.lm_head(hidden[:, :-1].flatten(0, 1)[wanted]).float()[:count]
    kept, targets = kept[wanted[:count]], targets[wanted[:count]]
    losses = F.cross_entropy(logits, targets, reduction="none")
    full = float(losses.detach()[kept == 1].mean())
    return (losses * kept).sum() / kept.sum(), full, sum(len(row) for row, _ in step)


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def make_optimizers(model: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms."""
    embeddings = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in embeddings]
    others = [p for p in model.parameters() if p.ndim < 2 or id(p) in embeddings]
    return [
        torch.optim.Muon(matrices, lr=recipe.muon_lr, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, lr=recipe.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate(step: int, recipe: Recipe) -> float:
    """Factor on the peak rates: in every cycle warm-up, a plateau, then linearly down to 2 % of the cycle's peak."""
    for cycle in recipe.cycles:
        length = sum(stage.steps for stage in recipe.stages if stage.cycle == cycle.number)
        if step < length:
            break
        step -= length
    falling = (1 - step / length) / (1 - cycle.decay_from)
    level = 1.0 if step < cycle.decay_from * length else max(0.02, falling)
    return cycle.peak * min(1.0, (step + 1) / recipe.warmup) * level


def train(out: Path, recipe: Recipe | None = None, minutes_between_saves: float = 4.0) -> Any:
    """Train to the recipe's end, from ``out``'s checkpoint if there is one, and write the model to ``out``."""
    recipe = recipe or Recipe()
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    model = build_model(tokenizer, recipe)
    model.set_attn_implementation("float32_causal")
    optimizers = make_optimizers(model, recipe)
    done, tokens = load_checkpoint(out, model, optimizers)
    fast = torch.cpu._is_amx_tile_supported()  # elsewhere bf16 on a CPU is many times slower than float32
    started = saved = time.time()
    losses: list[float] = []  # since the last entry of the log
    for step, rows in enumerate(_steps(Rows(tokenizer, recipe), recipe, done), start=done):
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            loss, full, count = step_loss(model, rows, tokenizer.convert_tokens_to_ids(PAD))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, peak in zip(optimizers, (recipe.muon_lr, recipe.adam_lr)):
            optimizer.param_groups[0]["lr"] = peak * rate(step, recipe)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        tokens, losses = tokens + count, [*losses, full]
        if (step + 1) % 25 == 0:
            seconds = round(time.time() - started)
            entry = {"step": step + 1, "tokens": tokens, "loss": round(sum(losses) / len(losses), 4), "s": seconds}
            with (out / "loss.jsonl").open("a") as log:
                log.write(json.dumps(entry) + "\n")
            losses = []
        if time.time() - saved > 60 * minutes_between_saves:
            save_checkpoint(out, model, optimizers, step + 1, tokens)
            export(out, model, tokenizer)
            saved = time.time()
    save_checkpoint(out, model, optimizers, recipe.steps, tokens)
    export(out, model, tokenizer)
    return model


def _steps(rows: Rows, recipe: Recipe, done: int) -> Iterator[list[Encoded]]:
    for number, stage in enumerate(recipe.stages):
        if done < stage.steps:
            yield from rows.stage(number, stage, skip=done)
        done = max(0, done - stage.steps)


def save_checkpoint(
    out: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], step: int, tokens: int
) -> None:
    """Write the checkpoint whole or not at all."""
    part = out / "checkpoint.pt.part"
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
    torch.save({**state, "step": step, "tokens": tokens}, part)
    part.replace(out / "checkpoint.pt")


def load_checkpoint(out: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> tuple[int, int]:
    """Restore ``out``'s checkpoint if there is one; the steps and tokens that are done."""
    path = out / "checkpoint.pt"
    if not path.exists():
        return 0, 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"]):
        optimizer.load_state_dict(saved)
    return state["step"], state["tokens"]


def export(out: Path, model: Any, tokenizer: Any) -> None:
    """Write weights (safetensors), configuration, generation settings and tokenizer."""
    model.generation_config = GenerationConfig(
        do_sample=False, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train the tests' small model, or go on with it.")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint, log and model")
    parser.add_argument("--recipe", choices=RECIPES, default="first")
    options = parser.parse_args()
    train(options.out, RECIPES[options.recipe])


if __name__ == "__main__":
    main()
