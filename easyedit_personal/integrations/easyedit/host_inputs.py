"""What EasyEdit's methods would fetch or make badly by themselves: second moments, and random context sentences.

The host would download Wikipedia for statistics, and its own sampler writes wrong text on transformers 5. Both are
served here, per model, and only for the time of one edit.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from ...hparams import PersonalizationHyperParams
from ...modeling.sample import sample
from ...modeling.stats import second_moments
from ...modeling.tokens import encode_text

# Caches that the host keys by nothing or by a name that all models in memory share, and what empty means.
EMPTY = {"CONTEXT_TEMPLATES_CACHE": None, "P_loaded": False, "cache_c_new": False, "WISEload": True}
KEYED = ("COV_CACHE", "inv_mom2_cache", "edit_history", "merge_group_edit_history")


@contextmanager
def provided(
    package: str, model: nn.Module, tokenizer: Any, settings: Any, hparams: PersonalizationHyperParams
) -> Iterator[None]:
    """One algorithm's modules start with empty caches and ask us for statistics and context sentences.

    The names are replaced in the host's modules in memory; ``isolation.untouched`` around this puts them back.

    Args:
        package: the algorithm's, e.g. "easyeditor.models.memit".
        model, tokenizer: what is about to be edited.
        settings: the host's hyper-parameter object; its ``layers`` and ``mom2_adjustment`` are read.
        hparams: ours; ``mom2_*``, ``stats_dir`` and ``seed`` say which statistics.
    """
    served = {
        "layer_stats": _statistics(model, tokenizer, settings, hparams),
        "generate_fast": _sampler(model, tokenizer, hparams.seed),
    }
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{package}.") or name.startswith("easyeditor.models.rome."):
            for cache, empty in EMPTY.items():
                if cache in vars(module):
                    setattr(module, cache, empty)
            for cache in KEYED:
                if cache in vars(module):
                    setattr(module, cache, type(vars(module)[cache])())
            for function, ours in served.items():
                if function in vars(module):
                    setattr(module, function, ours)
            if "AdaLoraConfig" in vars(module):
                # PEFT insists on a length for the schedule of ranks, which the host's training loop never steps.
                setattr(module, "AdaLoraConfig", partial(vars(module)["AdaLoraConfig"], total_step=1))  # noqa: B010
    yield


@dataclass(frozen=True, slots=True)
class _Moment:
    """Answers ``stat.mom2.moment()`` as the host's running statistics do."""

    value: Tensor

    @property
    def mom2(self) -> _Moment:
        return self

    def moment(self) -> Tensor:
        return self.value


def _statistics(model: nn.Module, tokenizer: Any, settings: Any, hparams: Any) -> Callable[..., _Moment]:
    """The host's ``layer_stats`` by means of our cache; computed of the model as it is now."""
    moments: dict[int, Tensor] = {}
    if getattr(settings, "mom2_adjustment", False):
        layers = list(settings.layers)
        moments = second_moments(model, tokenizer, layers, hparams.replace(layers=layers))

    def layer_stats(_model: Any, _tokenizer: Any, layer_name: str, *args: Any, **kwargs: Any) -> _Moment:
        return _Moment(moments[int(re.findall(r"\d+", layer_name)[0])])

    return layer_stats


_sampled: WeakKeyDictionary[nn.Module, dict[Any, list[str]]] = WeakKeyDictionary()


def _sampler(model: Any, tokenizer: Any, seed: int) -> Callable[..., list[str]]:
    """The host's ``generate_fast`` by means of the model's own ``generate``; the same sentences for the same model."""

    def generate_fast(
        _model: Any,
        _tokenizer: Any,
        prompts: Sequence[str],
        n_gen_per_prompt: int = 1,
        top_k: int = 5,
        max_out_len: int = 200,
        **kwargs: Any,
    ) -> list[str]:
        known = _sampled.setdefault(model, {})
        key = (tuple(prompts), n_gen_per_prompt, top_k, max_out_len, seed)
        if key not in known:
            starts = [encode_text(tokenizer, prompt) for prompt in prompts for _ in range(n_gen_per_prompt)]
            tokens = max(1, max_out_len - len(starts[0].ids))
            rows = sample(model, tokenizer, starts, tokens, seed=seed, top_k=top_k)
            texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in rows]
            known[key] = [re.sub(r"[{}\n]", " ", text) for text in texts]
        return list(known[key])

    return generate_fast
