"""What EasyEdit's methods would fetch or make badly by themselves: second moments, and random context sentences.

The host would download Wikipedia for statistics, and its own sampler writes wrong text on transformers 5. Both are
served here, per model, and only for the time of one edit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...hparams import PersonalizationHyperParams
from ...modeling.layout import get_module
from ...modeling.tokens import collate, encode_text, pad_token_id
from .host_tokenizer import mask
from .loading import Host

# Caches that the host keys by nothing or by a name that all models in memory share, and what empty means.
EMPTY = {"CONTEXT_TEMPLATES_CACHE": None, "P_loaded": False, "cache_c_new": False, "WISEload": True}
KEYED = ("COV_CACHE", "inv_mom2_cache", "edit_history", "merge_group_edit_history")


@contextmanager
def provided(
    host: Host, package: str, model: nn.Module, tokenizer: Any, hparams: PersonalizationHyperParams
) -> Iterator[None]:
    """One algorithm's modules start with empty caches and ask us for statistics and context sentences.

    The names are replaced in the host's modules in memory; ``isolation.untouched`` around this puts them back.
    """
    served = {"layer_stats": _statistics(model, tokenizer, hparams), "generate_fast": _sampler(model, tokenizer)}
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
                module.AdaLoraConfig = partial(module.AdaLoraConfig, total_step=1)
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


def _statistics(model: nn.Module, tokenizer: Any, hparams: PersonalizationHyperParams) -> Callable[..., _Moment]:
    def layer_stats(_model: Any, _tok: Any, layer_name: str, *args: Any, **kwargs: Any) -> _Moment:
        d = get_module(model, layer_name).weight.shape
        g = torch.Generator().manual_seed(0)
        n = d[0] if model.config.model_type == "gpt2" else d[1]
        x = torch.randn(3 * n, n, generator=g)
        return _Moment(x.T @ x / (3 * n))

    return layer_stats


_sampled: WeakKeyDictionary[nn.Module, dict[Any, list[str]]] = WeakKeyDictionary()


def _sampler(model: Any, tokenizer: Any) -> Callable[..., list[str]]:
    """The host's ``generate_fast`` by means of the model's own ``generate``; the same sentences for the same model."""

    def generate_fast(
        _model: Any,
        _tok: Any,
        prompts: Sequence[str],
        n_gen_per_prompt: int = 1,
        top_k: int = 5,
        max_out_len: int = 200,
        **kwargs: Any,
    ) -> list[str]:
        known = _sampled.setdefault(model, {})
        key = (tuple(prompts), n_gen_per_prompt, top_k, max_out_len)
        if key not in known:
            rows = [encode_text(tokenizer, prompt) for prompt in prompts for _ in range(n_gen_per_prompt)]
            batch = collate(rows, tokenizer, side="left", device=next(model.parameters()).device)
            ids = model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                do_sample=True,
                top_k=top_k,
                max_new_tokens=max(1, max_out_len - min(len(row.ids) for row in rows)),
                pad_token_id=pad_token_id(tokenizer),
            )
            texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
            known[key] = [mask(text.replace("\n", " ")) for text in texts]
        return list(known[key])

    return generate_fast
