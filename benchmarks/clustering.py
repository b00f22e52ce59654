"""How well does PreferenceClusterer recover which attribute names belong together?

``python -m benchmarks.clustering --data PATH [--embedder tfidf sentence model random] [--json FILE]``
prints the adjusted Rand index on the clustered UPQA file at PATH and on the lexicon that ships with the package.

The defaults were chosen on the lexicon; the UPQA file only tests. Three figures per embedder and set:

- UPQA "own groups": the distinct names of the file against its ten attribute types; a name that the file puts
  under two types ("occupation": profession and job) has no single right answer and is left out.
- UPQA "merged": types that share at least half of the smaller one's names (profession and job) count as one;
  only names that are then still ambiguous ("position": location and job) are left out.
- lexicon "all": every name at once, the threshold calibrated on the same groups (flattering);
  lexicon "held out": calibrated on one half of the groups and tested on the other, both ways.

Names that the lexicon knows would be grouped by it (``known_names``); here that is off, so that the figure is the
embedder's own, except in UPQA "merged, lexicon helps".

The interval is from 200 random choices of 80 % of the names, clustered anew each time (2.5 to 97.5 %).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.metrics import adjusted_rand_score

from benchmarks.models import add_options, chosen
from easyedit_personal.clustering import (
    Embedder,
    HiddenStateEmbedder,
    Lexicon,
    PreferenceClusterer,
    SentenceEmbedder,
    TfidfEmbedder,
)

RESAMPLES = 200
Named = dict[str, str]  # name -> group


def upqa_groups(path: Path) -> dict[str, set[str]]:
    """Names by attribute type, lower case, as the clustered UPQA file groups them (its type is the last name)."""
    groups: dict[str, set[str]] = defaultdict(set)
    for record in json.loads(path.read_text(encoding="utf-8")):
        names = [name.strip().casefold() for name in record["attribute_type"]]
        groups[names[-1]].update(names)
    return dict(groups)


def merged(groups: dict[str, set[str]]) -> dict[str, set[str]]:
    """Groups of which the smaller shares at least half of its names with the other, made one."""
    result = {name: set(members) for name, members in groups.items()}
    for first in list(result):
        for second in list(result):
            if first < second and first in result and second in result:
                shared = len(result[first] & result[second])
                if 2 * shared >= min(len(result[first]), len(result[second])):
                    result[f"{first} / {second}"] = result.pop(first) | result.pop(second)
    return result


def unambiguous(groups: dict[str, set[str]]) -> Named:
    """Names that belong to exactly one group."""
    homes: dict[str, list[str]] = defaultdict(list)
    for group, members in groups.items():
        for name in members:
            homes[name].append(group)
    return {name: found[0] for name, found in sorted(homes.items()) if len(found) == 1}


class Cached:
    """Embeds each text once, since resampling asks for the same names again and again."""

    def __init__(self, inner: Embedder) -> None:
        self.inner, self.known = inner, dict[str, np.ndarray]()
        self.contextual = getattr(inner, "contextual", True)

    def __sklearn_clone__(self) -> Cached:
        return self

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """See ``Embedder``."""
        new = [text for text in dict.fromkeys(texts) if text not in self.known]
        if new:
            self.known.update(zip(new, self.inner.embed(new)))
        return np.stack([self.known[text] for text in texts])


def score(clusterer: PreferenceClusterer, named: Named) -> dict[str, Any]:
    """Adjusted Rand index with its interval, and how many groups were found of how many."""
    names, truth = list(named), list(named.values())
    labels = clusterer.fit(names).labels_
    rng = np.random.default_rng(0)
    values = []
    for _ in range(RESAMPLES):
        rows = rng.permutation(len(names))[: int(0.8 * len(names))]
        found = clusterer.fit([names[row] for row in rows]).labels_
        values.append(adjusted_rand_score([truth[row] for row in rows], found))
    low, high = np.percentile(values, [2.5, 97.5])
    return {
        "ari": round(float(adjusted_rand_score(truth, labels)), 3),
        "ci95": [round(float(low), 3), round(float(high), 3)],
        "n": len(names),
        "groups_found": int(labels.max()) + 1,
        "groups": len(set(truth)),
    }


def held_out(embedder: Embedder, lexicon: Lexicon, options: dict[str, Any]) -> dict[str, Any]:
    """Mean score of two folds, each tested on the groups that the other was calibrated on."""
    groups = list(lexicon.groups())
    halves = [lexicon.restricted_to(groups[0::2]), lexicon.restricted_to(groups[1::2])]
    scores = []
    for known, unseen in (halves, halves[::-1]):
        named = {name: group for group, names in unseen.groups().items() for name in names}
        scores.append(score(PreferenceClusterer(embedder, lexicon=known, **options), named))
    pairs = [one["ci95"] for one in scores]
    return {
        "ari": round(sum(one["ari"] for one in scores) / 2, 3),
        "ci95": [round(sum(pair[side] for pair in pairs) / 2, 3) for side in (0, 1)],
        **{key: sum(one[key] for one in scores) for key in ("n", "groups_found", "groups")},
    }


def random_model() -> HiddenStateEmbedder:
    """The floor: an untrained Llama of width 64 with a tokenizer made of the lexicon's own words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1000, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator([name for entry in Lexicon.load().entries for name in entry.names], trainer)
    torch.manual_seed(0)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=4, **heads)
    return HiddenStateEmbedder(LlamaForCausalLM(config).eval(), PreTrainedTokenizerFast(tokenizer_object=raw))


def chat_model(given: argparse.Namespace) -> HiddenStateEmbedder:
    """Hidden states of the model that ``--model`` names."""
    from easyedit_personal.modeling.loading import load_model

    return HiddenStateEmbedder(*load_model(chosen(given)))


EMBEDDERS: dict[str, Callable[[argparse.Namespace], Embedder]] = {
    "tfidf": lambda given: TfidfEmbedder(),
    "sentence": lambda given: SentenceEmbedder(),
    "model": chat_model,
    "random": lambda given: random_model(),
}


def measure(embedder: Embedder, data: Path | None, options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All figures of one embedder by set."""
    embedder, lexicon = Cached(embedder), Lexicon.load()
    clusterer = PreferenceClusterer(embedder, **options)
    figures = {}
    if data is not None:
        groups = upqa_groups(data)
        figures["UPQA, own groups"] = score(clusterer, unambiguous(groups))
        figures["UPQA, merged"] = score(clusterer, unambiguous(merged(groups)))
        helped = PreferenceClusterer(embedder, **{**options, "known_names": True})
        figures["UPQA, merged, lexicon helps"] = score(helped, unambiguous(merged(groups)))
    named = {name: group for group, names in lexicon.groups().items() for name in names}
    figures["lexicon, all"] = score(clusterer, named)
    figures["lexicon, held out"] = held_out(embedder, lexicon, options)
    return figures


def setup(options: dict[str, Any]) -> dict[str, Any]:
    """What a reader needs to repeat the run."""
    import sklearn
    import torch
    import transformers

    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False, cwd=Path(__file__).parent).stdout.strip()
    versions = {module.__name__: module.__version__ for module in (np, sklearn, torch, transformers)}
    return {"options": options, "versions": versions, "commit": commit, "python": platform.python_version()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clustering", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the clustered UPQA file; without it only the lexicon is measured")
    parser.add_argument("--embedder", nargs="+", choices=EMBEDDERS, default=["tfidf", "sentence", "random"])
    parser.add_argument("--method", default="agglomerative", help="agglomerative, average or ward")
    parser.add_argument("--select", default="lexicon", help="lexicon or silhouette")
    parser.add_argument("--template", default=PreferenceClusterer().template)
    parser.add_argument("--json", type=Path, help="write the result here too")
    add_options(parser)
    given = parser.parse_args(arguments)
    if given.data is not None and not given.data.is_file():
        parser.error(f"--data: there is no file {given.data}")
    options = {"method": given.method, "select": given.select, "template": given.template, "known_names": False}
    result = {name: measure(EMBEDDERS[name](given), given.data, options) for name in given.embedder}
    table = Table("embedder", "names", "ARI", "95 %", "groups found / true", title="adjusted Rand index")
    for name, figures in result.items():
        for label, one in figures.items():
            low, high = one["ci95"]
            found = f"{one['groups_found']} / {one['groups']}"
            table.add_row(name, f"{label} ({one['n']})", f"{one['ari']:.3f}", f"{low:.2f}-{high:.2f}", found)
    Console().print(table)
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({"schema": 1, "setup": setup(options), "embedders": result}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
