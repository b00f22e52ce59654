"""Closed-form edits beside EasyEdit's: rome-1, rome-32, cluster-9, memit-100.

Both sides get the same prompts, the same beginnings before them, the same number of steps, and no early stop. Ours runs
in ``host_mode``, which is EasyEdit's arithmetic to the last average, so that results can be held against each other.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from easyedit_personal.hparams import PersonalizationHyperParams
from easyedit_personal.integrations.easyedit import load_host
from easyedit_personal.kernels.apply import in_weights
from easyedit_personal.kernels.rome import rome_for_many
from easyedit_personal.modeling.tokens import collate, encode
from easyedit_personal.registry import KERNELS
from easyedit_personal.types import EditRequest, WeightDelta

from .host import host_kernel, need_host
from .options import Options
from .pairs import Outcome, Side, compare
from .shapes import cluster, contexts, edited_layers, model_of, requests
from .watch import Passes, Stopwatch

Updates = Mapping[str, Tensor]
PER_REQUEST = ("compute_z", "compute_ks", "get_module_input_output_at_words")  # what MEMIT's time grows with


def settings(tokenizer: Any, kernel: str, options: Options, **changes: Any) -> PersonalizationHyperParams:
    """EasyEdit's shipped numbers (gpt2-xl.yaml) for one of our shapes."""
    values: dict[str, Any] = {
        "kernel": kernel,
        "layers": edited_layers(options.model, kernel, options.hparams),
        "host_mode": True,
        "context_templates": contexts(tokenizer),
        "v_num_grad_steps": options.steps,
        "v_stop_loss": 0.0,
        "v_weight_decay": 1e-3,
        "stats_dir": str(options.stats_dir),
        "mom2_n_samples": 100,
    }
    return PersonalizationHyperParams(**{**values, **changes})


def rome_1(options: Options) -> dict[str, Any]:
    """One request, ours against ``execute_rome``."""
    need_host()
    model, tokenizer = model_of(options.model, options.device, hparams=options.hparams)
    hparams, wanted = settings(tokenizer, "rome", options), requests(1)
    with host_kernel("rome", model, tokenizer, wanted, hparams) as execute:
        passes = Passes(model)
        ours = Side(lambda: KERNELS.get("rome")(model, tokenizer, wanted, hparams))
        theirs = Side(lambda: execute(wanted))
        outcome = compare(ours, theirs, options.pairs, model)
        steps = passes.of(theirs.run)
    difference = apart(of_deltas(outcome.ours_result), of_host(outcome.theirs_result))
    early = early_stop(model, tokenizer, wanted, hparams, options.pairs)
    early["ratio"] = round(outcome.theirs["cpu_seconds"] / early["cpu_seconds"], 2)
    early["losses"] |= {
        "before": loss(model, tokenizer, wanted, []),
        "at_equal_steps": loss(model, tokenizer, wanted, outcome.ours_result),
        "theirs": loss(model, tokenizer, wanted, deltas_of_host(outcome.theirs_result)),
    }
    return report(options, outcome, difference, host_passes=steps, early_stop=early)


def early_stop(model: Any, tokenizer: Any, wanted: Any, hparams: PersonalizationHyperParams, pairs: int) -> Any:
    """The package's own way to the same end: its contexts, and a stop once the loss is where EasyEdit stops, 0.05.

    ``losses`` are nats per target token of the bare prompt, after the edit.
    """
    own = hparams.replace(
        host_mode=False, prompt_format="raw", end_of_turn=False, context_templates=None, v_stop_loss=5e-2
    )
    times = []
    for _ in range(pairs):
        started = time.process_time()
        deltas = KERNELS.get("rome")(model, tokenizer, wanted, own)
        times.append(time.process_time() - started)
    return {
        "cpu_seconds": round(statistics.median(times), 6),
        "losses": {"ours": loss(model, tokenizer, wanted, deltas)},
    }


def rome_32(options: Options) -> dict[str, Any]:
    """32 users' requests: ours in one batch, each with an update of its own; theirs one after the other."""
    need_host()
    model, tokenizer = model_of(options.model, options.device, hparams=options.hparams)
    hparams, wanted = settings(tokenizer, "rome", options), requests(32)
    asked = wanted[:: len(wanted) // options.sample] if options.sample else wanted
    with host_kernel("rome", model, tokenizer, wanted, hparams) as execute:
        ours = Side(lambda: rome_for_many(model, tokenizer, [[one] for one in wanted], hparams), len(wanted))
        theirs = Side(lambda: [execute([one]) for one in asked], len(asked), facts={"requests_run": len(asked)})
        outcome = compare(ours, theirs, options.pairs, model)
    by_request = dict(zip(wanted, outcome.ours_result))
    differences = [apart(of_deltas(by_request[one]), of_host(x)) for one, x in zip(asked, outcome.theirs_result)]
    return report(options, outcome, max(differences), requests=len(wanted), seconds_are="per request")


def cluster_9(options: Options) -> dict[str, Any]:
    """One preference in nine phrases: ours solves for all of them; theirs edits phrase after phrase.

    The results are different by intent. ``difference`` is that of the mean loss (nats per target token) of all nine
    phrases after the edit, ours against theirs; ``losses`` holds both.
    """
    need_host()
    model, tokenizer = model_of(options.model, options.device, hparams=options.hparams)
    wanted = cluster(9)
    hparams = settings(tokenizer, "rome", options)
    own = hparams.replace(host_mode=False, prompt_format="raw", end_of_turn=False, context_templates=None)
    asked = wanted[: options.sample] if options.sample else wanted
    with host_kernel("rome", model, tokenizer, wanted, hparams) as execute:
        ours = Side(lambda: KERNELS.get("rome")(model, tokenizer, wanted, own))
        theirs = Side(
            lambda: one_by_one(model, asked, execute), len(asked) / len(wanted), facts={"phrases_run": len(asked)}
        )
        outcome = compare(ours, theirs, options.pairs, model)
    losses = {
        "before": loss(model, tokenizer, wanted, []),
        "ours": loss(model, tokenizer, wanted, outcome.ours_result),
        "theirs": loss(model, tokenizer, wanted, outcome.theirs_result),
    }
    return report(options, outcome, (losses["ours"] - losses["theirs"]) / losses["theirs"], losses=losses)


def one_by_one(model: Any, asked: Sequence[EditRequest], execute: Any) -> list[WeightDelta]:
    """The host's edits of several phrases, each on top of those before it."""
    deltas: list[WeightDelta] = []
    for request in asked:
        with in_weights(model, deltas):
            factors = execute([request])
        deltas += deltas_of_host(factors)
    return deltas


def deltas_of_host(factors: Mapping[str, tuple[Tensor, Tensor]]) -> list[WeightDelta]:
    """ROME's factors of the host as updates."""
    return [WeightDelta(name.removesuffix(".weight"), v[:, None], u[None]) for name, (u, v) in factors.items()]


def loss(model: Any, tokenizer: Any, wanted: Sequence[EditRequest], deltas: Sequence[WeightDelta]) -> float:
    """Mean nats per target token of the bare prompts with the updates in place."""
    rows = [
        encode(tokenizer, one.prompt, target=one.target_new, prompt_format="raw", end_of_turn=False) for one in wanted
    ]
    batch = collate(rows, tokenizer)
    at, columns, ids = batch.targets()
    with in_weights(model, deltas), torch.no_grad():
        logits = model(**batch.model_inputs()).logits[at, columns].float()
    return round(float(cross_entropy(logits, ids)), 4)


def memit_100(options: Options) -> dict[str, Any]:
    """100 requests over five layers. Theirs takes them one by one: of a sample, the time for 100 follows from what
    optimising values and reading keys and outputs took; the solves, which hardly grow, count as they are."""
    need_host()
    model, tokenizer = model_of(options.model, options.device, hparams=options.hparams)
    wanted = requests(100)
    templates = [template for template in contexts(tokenizer) if template == "{}" or len(template) > 16][:6]
    hparams = settings(
        tokenizer, "memit", options, context_templates=templates, mom2_adjustment=True,
        clamp_norm_factor=0.75, v_weight_decay=0.5, mom2_dtype="float32",
    )  # fmt: skip
    asked = wanted[:: len(wanted) // options.sample] if options.sample else wanted
    with host_kernel("memit", model, tokenizer, wanted, hparams) as execute:
        watch = Stopwatch(load_host().module("models.memit.memit_main"), PER_REQUEST, len(wanted) / len(asked))
        ours = Side(lambda: KERNELS.get("memit")(model, tokenizer, wanted, hparams), len(wanted))
        facts, run = {"requests_run": len(asked)}, watch.around(lambda: execute(asked))
        theirs = Side(run, len(wanted), counted=len(asked), facts=facts, stretch=watch.stretch)
        outcome = compare(ours, theirs, options.pairs, model)
        same = KERNELS.get("memit")(model, tokenizer, asked, hparams)
    difference = apart(of_deltas(same), of_host(outcome.theirs_result))
    return report(options, outcome, difference, requests=len(wanted), layers=hparams.layers, seconds_are="per request")


def of_deltas(deltas: Sequence[WeightDelta]) -> Updates:
    """Our updates by layer, [d_out, d_in]."""
    return {delta.layer: delta.update() for delta in deltas}


def of_host(factors: Mapping[str, tuple[Tensor, Tensor]]) -> Updates:
    """The host's: ROME's (u [d_in], v [d_out]) or MEMIT's (keys [d_in, n], residuals [d_out, n])."""
    return {
        name.removesuffix(".weight"): (b[:, None] @ a[None] if a.ndim == 1 else b @ a.T).float()
        for name, (a, b) in factors.items()
    }


def apart(ours: Updates, theirs: Updates) -> float:
    """The largest relative difference of two updates over the layers (Frobenius norms)."""
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


def report(options: Options, outcome: Outcome, difference: float | None, **more: Any) -> dict[str, Any]:
    """What goes into the JSON."""
    return {
        "case": options.case,
        "ratio": outcome.ratio,
        "ours": outcome.ours,
        "theirs": outcome.theirs,
        "difference": difference,
        "model": options.model,
        "steps": options.steps,
        **more,
    }
