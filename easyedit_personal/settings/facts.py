"""What settings must know of a model, read from its configuration: no weights are loaded for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..hparams import PersonalizationHyperParams, shipped_yaml


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model's family (transformers' ``model_type``) and its number of decoder layers."""

    family: str
    n_layers: int

    def __str__(self) -> str:
        return f"{self.family}, {self.n_layers} layers"


def shipped_facts(name: str) -> ModelFacts | None:
    """Of a model whose settings are shipped under its name; None where none are, or they do not say."""
    path = shipped_yaml().get(name)
    made = PersonalizationHyperParams.from_hparams(path).made_for if path else None
    return ModelFacts(made.family, made.n_layers) if made and made.family and made.n_layers else None


def read_facts(model: Any, *, download: bool = True) -> ModelFacts | None:
    """Facts about any model that ``load_model`` takes.

    Args:
        model: a known name, a folder, a GGUF file, a hub id, or a (model, tokenizer) pair.
        download: ask the hub for the configuration; else a hub id that is not in the cache has no facts.

    Raises:
        ModelError: there is no such model, or its configuration cannot be read.
    """
    if isinstance(model, (tuple, list)):
        from ..modeling.wrappers import unwrapped

        return _of_config(getattr(unwrapped(model[0]), "config", None), type(model[0]).__name__)
    name = str(model)
    if name in shipped_yaml():
        return shipped_facts(name)
    if is_gguf(name):
        return _of_gguf(Path(name).expanduser())
    folder = Path(name).expanduser()
    if folder.is_dir() or name.startswith((".", "/", "~")):
        return _of_folder(folder)
    return _of_hub(name, download)


def is_gguf(name: str) -> bool:
    """Whether a model's name is that of a GGUF file."""
    return name.casefold().endswith(".gguf")


def _of_folder(folder: Path) -> ModelFacts:
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"There is no model in {str(folder)!r}.",
            needed="a folder with config.json, weights (safetensors) and tokenizer files",
            cause="it holds no config.json" if folder.is_dir() else "the folder does not exist",
        )
    return _of_config(_read_config(str(folder)), str(folder))


def _of_hub(name: str, download: bool) -> ModelFacts | None:
    from ..modeling.hub import hub_status

    reachable = download and hub_status(name) is not None  # transformers would try again for a minute
    try:
        return _of_config(_read_config(name, local_files_only=not reachable), name)
    except ModelError:
        if download:
            raise
        return None


def _read_config(source: str, **options: Any) -> Any:
    import transformers

    from ..modeling.pretrained import unloadable

    try:
        return transformers.AutoConfig.from_pretrained(source, trust_remote_code=False, **options)
    except Exception as error:  # a dozen kinds, as in ``pretrained``
        raise unloadable(source, error) from error


def _of_config(config: Any, name: str) -> ModelFacts:
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    n_layers = getattr(text, "num_hidden_layers", None)
    if not isinstance(n_layers, int) or n_layers < 1:
        raise ModelError(
            f"The configuration of {name!r} does not say how many layers there are.",
            got=type(config).__name__,
            needed="num_hidden_layers",
            cause="not a decoder-only language model",
        )
    return ModelFacts(str(getattr(config, "model_type", "")) or name, n_layers)


def _of_gguf(path: Path) -> ModelFacts:
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    from ..modeling.pretrained import unloadable

    if not path.is_file():
        raise ModelError(f"There is no GGUF file {str(path)!r}.", needed="a path that exists")
    try:
        config = load_gguf_checkpoint(str(path), return_tensors=False)["config"]
        return ModelFacts(str(config["model_type"]), int(config["num_hidden_layers"]))
    except Exception as error:  # the reader's own kinds, KeyError, ImportError
        raise unloadable(path, error, "a complete GGUF file of an architecture that transformers reads") from error
