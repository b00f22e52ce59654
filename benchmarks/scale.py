"""What do a million, or a hundred million, users cost? A model fitted to measurements, and caches simulated.

``python -m benchmarks.scale [--quick] [--json FILE] [--write benchmarks/SCALE.md] [--from FILE]``

- edits: CPU seconds of the ``lowrank`` kernel on random Llamas of several widths and depths, for several numbers of
  phrases and steps, fitted by non-negative least squares to

      seconds = a steps + b steps phrases P_above + c P + d phrases P

  (P: parameters of the model; P_above: of what a step touches, the layers above the edit and the head). What one core
  of this machine does in b says how far it is from other hardware, nothing else is known about other hardware here;
- bytes: rows of a SQLite store against their factors, fitted to  row = overhead + ratio x factors;
- caches: users are asked for by Zipf's law, p(k) ~ k^-s for the k-th of n users. An LRU cache of C users hits as Che's
  approximation says (Che, Tung, Wang 2002): sum p (1 - exp(-p T)) with T from  sum (1 - exp(-p T)) = C. Ranks are
  binned beyond the first 100,000, so that 100 million users take milliseconds. Held against exact simulation (every
  request, an ordered dictionary) for a million users, also with several servers, users sent to their own server or
  to any;
- fleet: what follows for a fleet that serves a model of Llama-3-8B's shape: the store's size, reads that miss the
  caches, what personalising everybody takes.

CPU seconds of this process, not wall time: they are less at the mercy of what else the machine does.

``--from`` takes the measurements of an earlier result; ``--write`` puts the tables between the marks in SCALE.md.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from scipy.optimize import brentq, nnls

from benchmarks.models import add_options, chosen
from easyedit_personal import PersonalizationHyperParams, UPQADataset
from easyedit_personal.editing.algorithm import personalize
from easyedit_personal.evaluate.provenance import commit, hardware, versions
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.loading import load_model
from easyedit_personal.registry import KERNELS
from easyedit_personal.store import EditStore
from easyedit_personal.types import EditRequest, WeightDelta
from tests import tiny_model

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
SHAPES = ((64, 4), (128, 4), (128, 8), (256, 4), (256, 8))  # width, layers
PHRASES, STEPS = (1, 9, 33), (10, 40)
SKEWS = (0.8, 1.0, 1.2)
POPULATIONS = (10**6, 10**7, 10**8)
EXACT_RANKS, BINS = 100_000, 4_000
ASKED_PER_DAY = 10.0  # requests of an active user
BUSY = 3.0  # the day's busiest hour against its mean
# Llama-3-8B: rank 4 on one layer in bfloat16, 4 x (4096 + 14336) x 2; parameters above the edited layer (5 of 32).
FACTOR_BYTES_8B, ABOVE_8B = 147_456, 6.4e9
TOKENS = 14  # of a phrase with its target
GPU_FLOPS = 150e12  # a guess at what such short sequences reach on a large GPU; nothing here has measured it
CACHE_BYTES = 16 * 2**30  # of a GPU's memory that a server gives to users' factors
TITLES = {
    "che": "Hit rates of LRU caches: Che's approximation and exact simulation",
    "hit_rates": "Hit rates by the share of all users that fit into the caches of all servers together",
    "fleet": "A fleet (Zipf with s = 1, Llama-3-8B's shape)",
}
NAMES = ["hobby", "job", "pet", "car", "drink", "snack", "sport", "color", "season", "band", "city"]


def model_of(width: int, layers: int) -> tuple[Any, Any]:
    """A random Llama with the tokenizer of the tests' small model."""
    _, tokenizer = tiny_model.load()
    heads = max(2, width // 32)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=width * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval(), tokenizer


def parameters(model: Any, layer: int) -> tuple[int, int]:
    """Of the whole model without its input table, and of what lies above a layer, the head included."""
    layout = find_layout(model)
    block = sum(weight.numel() for weight in model.model.layers[0].parameters())
    head = model.get_output_embeddings().weight.numel()
    return layout.n_layers * block + head, (layout.n_layers - layer) * block + head


def measure_edits(quick: bool) -> list[dict[str, float]]:
    """CPU seconds of edits over shapes, phrases and steps; the better of two."""
    found = []
    for width, layers in SHAPES[:2] if quick else SHAPES:
        model, tokenizer = model_of(width, layers)
        layer = layers // 2
        whole, above = parameters(model, layer)
        for phrases in PHRASES[:2] if quick else PHRASES:
            for steps in STEPS:
                hparams = PersonalizationHyperParams(
                    layers=[layer],
                    lowrank={"rank": 4, "steps": steps, "polish": 0, "stop_loss": 0.0},
                    preserve={"weight": 0.0},
                )
                wanted = [EditRequest(f"What's my {NAMES[i % 11]} no {i}?", "bird watching") for i in range(phrases)]
                edit = partial(KERNELS.get("lowrank"), model, tokenizer, wanted, hparams)
                seconds = min(timed(edit) for _ in "ab")
                found.append({"P": whole, "above": above, "phrases": phrases, "steps": steps, "seconds": seconds})
    return found


def timed(call: Any) -> float:
    """CPU seconds of this process."""
    start = time.process_time()
    call()
    return time.process_time() - start


def fit_edits(measured: list[dict[str, float]]) -> dict[str, Any]:
    """The coefficients a, b, c, d, and how well they describe the measurements.

    Least squares of relative errors: a small model's seconds count as much as a large one's.
    """
    rows = np.array([[*_terms(one["P"], one["above"], one["phrases"], one["steps"])] for one in measured])
    seconds = np.array([one["seconds"] for one in measured])
    scale = rows.max(0)
    solved, _ = nnls(rows / scale / seconds[:, None], np.ones(len(seconds)))
    coefficients = solved / scale
    relative = rows @ coefficients / seconds
    return {
        **{name: float(value) for name, value in zip("abcd", coefficients)},
        "n": len(measured),
        "predicted_over_measured": {f"p{q}": round(float(np.percentile(relative, q)), 3) for q in (5, 50, 95)},
    }


def _terms(whole: float, above: float, phrases: float, steps: float) -> tuple[float, ...]:
    return steps, steps * phrases * above, whole, phrases * whole


def seconds_of(fit: dict[str, Any], whole: float, above: float, phrases: float, steps: float) -> float:
    """What the model says of an edit, on one core of the machine that it was fitted on."""
    return float(sum(fit[name] * term for name, term in zip("abcd", _terms(whole, above, phrases, steps))))


def measure_bytes(quick: bool) -> list[dict[str, float]]:
    """Bytes of a SQLite store per user, for factors of several sizes."""
    found = []
    for d_out, d_in, rank in ((64, 170, 1), (192, 512, 4), (512, 2048, 4), (1024, 4096, 8)):
        count = 40 if quick else 400
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "edits.db"
            with EditStore.open(path) as store:
                empty = store.stats()["file_bytes"]
                for number in range(count):
                    delta = WeightDelta(
                        "model.layers.3.mlp.down_proj", torch.randn(d_out, rank), torch.randn(rank, d_in)
                    )
                    store.put(f"user-{number:08d}", [delta], key="bulk/0123456789abcdef", dtype="bfloat16")
                store.vacuum()
                row = (store.stats()["file_bytes"] - empty) / count
        found.append({"factors": rank * (d_out + d_in) * 2, "row": row})
    return found


def fit_bytes(measured: list[dict[str, float]]) -> dict[str, float]:
    """row = overhead + ratio x factors."""
    rows = np.array([[1.0, one["factors"]] for one in measured]) / np.array([[one["row"]] for one in measured])
    solved, _ = nnls(rows, np.ones(len(rows)))
    return {"overhead": round(float(solved[0]), 1), "ratio": round(float(solved[1]), 4)}


class Population:
    """Users by Zipf's law: the first ranks one by one, then bins of ranks that are asked for about equally often."""

    def __init__(self, users: int, skew: float) -> None:
        exact = min(users, EXACT_RANKS)
        edges = (
            np.unique(np.geomspace(exact + 1, users + 1, BINS).astype(np.int64))
            if users > exact
            else np.array([exact + 1])
        )
        self.counts = np.concatenate([np.ones(exact), np.diff(edges).astype(float)])
        middles = np.sqrt(edges[:-1].astype(float) * (edges[1:] - 1))
        weights = np.concatenate([np.arange(1, exact + 1), middles]) ** -skew
        self.p = weights / (weights * self.counts).sum()

    def hit_rate(self, capacity: float) -> float:
        """Of an LRU cache of so many users, by Che's approximation."""
        if capacity >= self.counts.sum():
            return 1.0

        def filled(log_t: float) -> float:
            return float((self.counts * -np.expm1(-self.p * np.exp(log_t))).sum()) - capacity

        t = np.exp(brentq(filled, 0.0, 60.0))
        return float((self.counts * self.p * -np.expm1(-self.p * t)).sum())


def simulated(users: int, skew: float, capacity: int, servers: int, sticky: bool, requests: int) -> float:
    """The exact hit rate of LRU caches, one per server, after a warm-up of half of the requests."""
    rng = np.random.default_rng(0)
    weights = np.arange(1, users + 1) ** -skew
    cumulated = np.cumsum(weights / weights.sum())
    asked = np.minimum(np.searchsorted(cumulated, rng.random(requests)), users - 1)
    where = rng.permutation(users)[asked] % servers if sticky else rng.integers(servers, size=requests)
    caches: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(servers)]
    hits = 0
    for number, (user, server) in enumerate(zip(asked.tolist(), where.tolist())):
        cache = caches[server]
        if user in cache:
            cache.move_to_end(user)
            hits += number >= requests // 2
            continue
        cache[user] = None
        if len(cache) > capacity:
            cache.popitem(last=False)
    return hits / (requests - requests // 2)


def check_che(quick: bool) -> list[dict[str, Any]]:
    """Che's approximation beside exact simulation."""
    users, requests = (10**5, 4 * 10**5) if quick else (10**6, 6 * 10**6)
    found = []
    for skew in SKEWS:
        for servers, sticky, capacity in ((1, True, users // 100), (8, True, users // 100), (8, False, users // 100)):
            # A server that gets all of its users' requests and n-th of users is a share of one large cache.
            room = capacity * servers if sticky else capacity
            che = Population(users, skew).hit_rate(room)
            exact = simulated(users, skew, capacity, servers, sticky, requests)
            routing = "one server" if servers == 1 else f"{servers}, {'own' if sticky else 'any'}"
            found.append(
                {"skew": skew, "servers": routing, "capacity": capacity, "che": round(che, 4), "exact": round(exact, 4)}
            )
    return found


def hit_rates() -> list[dict[str, Any]]:
    """Che's hit rates for all populations, by the share of users that fit into all caches together."""
    found = []
    for users in POPULATIONS:
        for skew in SKEWS:
            people = Population(users, skew)
            rates = {f"{share:g}": round(people.hit_rate(share * users), 3) for share in (0.001, 0.01, 0.1, 0.3)}
            found.append({"users": users, "skew": skew, **rates})
    return found


def fleet(rows: dict[str, float], reads: float, writes: float, own_s: float, flops: float) -> list[dict[str, Any]]:
    """What populations need, at Llama-3-8B's bytes.

    Args:
        rows: how bytes in the store follow from factors.
        reads, writes: of one store's process per second, as measured here for factors of 12 kB.
        own_s: an edit of the model that was measured, on one core, for comparison.
        flops: of an edit of Llama-3-8B.
    """
    cached = CACHE_BYTES // FACTOR_BYTES_8B
    found = []
    for users in POPULATIONS:
        store = users * (rows["overhead"] + rows["ratio"] * FACTOR_BYTES_8B)
        asked = users * ASKED_PER_DAY / 86_400 * BUSY
        people = Population(users, 1.0)
        for servers in (1, 8, 64):
            own = people.hit_rate(cached * servers)
            missed = asked * (1 - own)
            found.append(
                {
                    "users": users,
                    "servers": servers,
                    "store GB": round(store / 1e9, 1),
                    "asked/s": round(asked, 1),
                    "hits, own server": round(own, 3),
                    "hits, any server": round(people.hit_rate(cached), 3),
                    "misses/s": round(missed, 1),
                    "miss MB/s": round(missed * FACTOR_BYTES_8B / 1e6, 1),
                    "of one store's reads": round(missed / reads, 2),
                    "hours of one store's puts": round(users / writes / 3600, 1),
                    "GPU days (guess)": round(users * flops / GPU_FLOPS / 86_400, 1),
                    "core days, own": round(users * own_s / 86_400, 1),
                }
            )
    return found


def edit_flops(own: dict[str, Any]) -> float:
    """Floating point operations of an edit of Llama-3-8B with the settings of the model that was measured: 6 per
    parameter and token (forward and backward), phrases and steps."""
    return 6.0 * ABOVE_8B * TOKENS * own["phrases"] * own["steps"]


def phrases_per_step(hparams: PersonalizationHyperParams) -> int:
    """How many phrases an optimiser's step sees."""
    phrases = hparams.cluster.size + hparams.cluster.indirect
    return min(phrases, getattr(hparams.lowrank, "batch", None) or phrases)


def measure_own(quick: bool, hparams: PersonalizationHyperParams) -> dict[str, Any]:
    """CPU seconds of whole edits of a model with its settings, second moments at hand."""
    model, tokenizer = load_model(hparams)
    people = [item.preference() for item in UPQADataset.bundled(split="test").items[: 3 if quick else 9]]
    taken = [timed(partial(personalize, model, tokenizer, [one], hparams)) for one in people][1:]
    whole, above = parameters(model, min(hparams.layers))
    steps = hparams.lowrank.steps + hparams.lowrank.polish
    about = {"model": str(hparams.model_name), "phrases": phrases_per_step(hparams), "steps": steps}
    return {**about, "seconds": float(np.mean(taken)), "P": whole, "above": above, "n": len(taken)}


def markdown(result: dict[str, Any]) -> str:
    """The tables of SCALE.md."""
    parts = [f"Measured on {result['setup']['hardware']}; commit {result['setup']['commit']}.", ""]
    fit, rows, own = result["edit_fit"], result["byte_fit"], result["measured"]["own"]
    spread = fit["predicted_over_measured"]
    said = seconds_of(fit, own["P"], own["above"], own["phrases"], own["steps"])
    parts += [
        f"Seconds of the kernel on one core = {fit['a']:.3g} steps + {fit['b']:.3g} steps phrases P_above "
        f"+ {fit['c']:.3g} P + {fit['d']:.3g} phrases P ({fit['n']} points; predicted over measured: median "
        f"{spread['p50']}, 5 to 95 %: {spread['p5']} to {spread['p95']}).",
        "",
        f"{own['model']} with its settings: {own['seconds']:.2f} s measured for a whole edit (n = "
        f"{own['n']:.0f}), {said:.2f} s by the formula for the kernel's steps alone.",
        "",
        f"Bytes per row of the store = {rows['overhead']} + {rows['ratio']} x factors.",
        "",
    ]
    for name in ("che", "hit_rates", "fleet"):
        lines = result[name]
        parts += [f"**{TITLES[name]}**", ""]
        parts += [f"| {' | '.join(lines[0])} |", "|" + "---|" * len(lines[0])]
        parts += [f"| {' | '.join(_cell(value) for value in line.values())} |" for line in lines]
        parts.append("")
    return "\n".join(parts)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def measure(quick: bool, hparams: PersonalizationHyperParams) -> dict[str, Any]:
    """Everything that is measured."""
    return {
        "own": measure_own(quick, hparams),
        "edits": measure_edits(quick),
        "bytes": measure_bytes(quick),
        "che": check_che(quick),
    }


def derived(measured: dict[str, Any]) -> dict[str, Any]:
    """Everything that follows."""
    edit_fit, byte_fit = fit_edits(measured["edits"]), fit_bytes(measured["bytes"])
    store = json.loads((Path(__file__).parent / "results" / "store.json").read_text())["results"]
    reads, writes = 1e3 / store["deltas_ms"]["p50"], store["put_flat_out_ms"]["puts_per_second"]
    return {
        "edit_fit": edit_fit,
        "byte_fit": byte_fit,
        "store": {"reads_per_second": round(reads, 1), "puts_per_second": writes},
        "hit_rates": hit_rates(),
        "fleet": fleet(byte_fit, reads, writes, measured["own"]["seconds"], edit_flops(measured["own"])),
    }


def write_tables(path: Path, text: str) -> None:
    """Put the tables between the marks."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}", encoding="utf-8")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few shapes and requests, to try the command")
    parser.add_argument("--from", dest="earlier", type=Path, help="take the measurements of this result")
    parser.add_argument("--json", type=Path, help="write the result here")
    parser.add_argument("--write", type=Path, help="put the tables into this file, between its marks")
    add_options(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.earlier:
        earlier = json.loads(given.earlier.read_text())
        setup, measured = earlier["setup"], earlier["measured"]
    else:
        setup = {"quick": given.quick, "versions": versions(), "hardware": hardware(), "commit": commit()}
        setup |= {"cores": os.cpu_count(), "load_average": os.getloadavg()}
        measured = measure(given.quick, chosen(given))
    result = {"schema": 1, "setup": setup, "measured": measured, "che": measured["che"], **derived(measured)}
    text = markdown(result)
    print(text)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n")
    if given.write:
        write_tables(given.write, text)


if __name__ == "__main__":
    main()
