"""How well a model tells questions about the user from others: a bound for what an edit of one layer can spare.

``python -m benchmarks.separability --json benchmarks/results/separability.json`` fits a logistic regression on the keys
of each layer's down projection where the answer begins: the shipped phrasings of every attribute and questions by name
against the shipped questions about nobody (``kernels.preserve.Material``). It is then asked about the tune half of the
bundled set, none of whose questions it was fitted on: if the threshold lets a share of the implicit (paraphrased,
product) questions through, how many unrelated questions and questions for facts pass too? An update that is linear in
these keys cannot do much better. The last columns say how often the kind of attribute is recognised among all kinds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.models import add_options, chosen
from easyedit_personal import UPQADataset
from easyedit_personal.clustering.lexicon import Lexicon
from easyedit_personal.kernels.phrasings import shipped_phrasings
from easyedit_personal.kernels.preserve import Material
from easyedit_personal.modeling.layout import find_layout
from easyedit_personal.modeling.loading import load_model
from easyedit_personal.modeling.tokens import collate, encode
from easyedit_personal.modeling.trace import trace

ASKED = ("paraphrase", "implicit", "product")
SPARED = ("unrelated", "facts")
SHARES = (0.75, 0.95)


def questions(items: Sequence[Any]) -> dict[str, list[str]]:
    """The bundled set's questions by kind; unrelated ones and facts once each."""
    found = {kind: [getattr(item, kind) for item in items] for kind in ASKED}
    found["unrelated"] = sorted({text for item in items for text in item.unrelated})
    found["facts"] = sorted({text for item in items for text, _ in item.locality})
    return found


def keys_where_answers_begin(
    model: Any, tokenizer: Any, texts: Sequence[str], layers: Sequence[int] | None = None
) -> dict[int, np.ndarray]:
    """Layer (all, or some) -> keys [n, d_mlp] at the last position of each question's prompt."""
    layout = find_layout(model)
    paths = {layer: layout.rewrite_path(layer) for layer in layers or range(layout.n_layers)}
    found: dict[int, list[torch.Tensor]] = {layer: [] for layer in paths}
    for start in range(0, len(texts), 64):
        batch = collate([encode(tokenizer, text) for text in texts[start : start + 64]], tokenizer)
        with torch.no_grad(), trace(model, list(paths.values())) as calls:
            model(**batch.model_inputs(), use_cache=False)
        row = torch.arange(len(batch.last_index))
        for layer, path in paths.items():
            found[layer].append(calls[path].input.reshape(*batch.input_ids.shape, -1)[row, batch.last_index])
    return {layer: torch.cat(parts).float().numpy() for layer, parts in found.items()}


def classifier() -> Any:
    """A logistic regression with a firm prior, on standardised keys."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.03, max_iter=500, class_weight="balanced"))


def passing(scores: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Share of spared questions that pass where a share of the asked ones does."""
    table = {}
    for kind in ASKED:
        for share in SHARES:
            threshold = np.quantile(scores[kind], 1 - share)
            table[f"{kind} {share:.0%}"] = {name: float((scores[name] >= threshold).mean()) for name in SPARED}
    return table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    add_options(parser)
    options = parser.parse_args()
    model, tokenizer = load_model(chosen(options))
    material, items, lexicon = Material.load(), UPQADataset.bundled("tune").items, Lexicon.load()
    personal, impersonal = material.personal(), material.impersonal()
    asked = questions(items)
    fitted = keys_where_answers_begin(model, tokenizer, personal + impersonal)
    kinds = [(text, group) for group, parts in shipped_phrasings().items() for part in parts for text in part]
    of_kinds = keys_where_answers_begin(model, tokenizer, [text for text, _ in kinds])
    held_out = {kind: keys_where_answers_begin(model, tokenizer, texts) for kind, texts in asked.items()}
    groups = [entry.group if (entry := lexicon.find(item.subject)) else "" for item in items]
    results = {}
    for layer in fitted:
        gate = classifier().fit(fitted[layer], [1] * len(personal) + [0] * len(impersonal))
        scores = {kind: gate.decision_function(keys[layer]) for kind, keys in held_out.items()}
        namer = classifier().fit(of_kinds[layer], [group for _, group in kinds])
        named = {kind: float((namer.predict(held_out[kind][layer]) == np.array(groups)).mean()) for kind in ASKED}
        results[str(layer)] = {"passing": passing(scores), "kind recognised": named}
        cells = [f"{name}: " + " / ".join(f"{v:.0%}" for v in row.values()) for name, row in passing(scores).items()]
        print(f"layer {layer}: unrelated / facts pass at {'; '.join(cells)}; kind recognised {named}", flush=True)
    if options.json:
        counts = {kind: len(texts) for kind, texts in asked.items()}
        setup = {"fitted on": [len(personal), len(impersonal)], "asked": counts, "kinds": len(set(groups))}
        options.json.write_text(json.dumps({"setup": setup, "layers": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
