"""Model folders from strangers: weights from safetensors only, no code of theirs, nothing missing in silence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ModelError, listing
from ..progress import progress, working
from .memory import out_of_memory, too_small

NEEDED = "a known name, a local folder, a GGUF file, a hub id that can be reached, or a (model, tokenizer) pair"


def pretrained(
    source: str | Path,
    kind: str = "AutoModelForCausalLM",
    needed: str = NEEDED,
    unused: Sequence[str] = (),
    gguf_file: str | None = None,
    **options: Any,
) -> tuple[nn.Module, Any]:
    """A model in evaluation mode, and its tokenizer.

    Args:
        source: a folder, or a name on the hub.
        kind: which of transformers' Auto classes.
        needed: what would have been right, for messages.
        unused: how names of weights begin that may be missing, since nobody reads what they give.
        gguf_file: name of a GGUF file in the folder ``source``, instead of safetensors.
        options: for its ``from_pretrained``.

    Raises:
        ModelError: files are missing or damaged, weights are missing or of other shapes than the configuration says,
            the architecture needs code from the folder, the hub cannot be reached, or the memory does not suffice.
    """
    import transformers

    # Said aloud: without it, transformers would ask on the terminal whether to run a folder's code.
    safe: dict[str, Any] = {"trust_remote_code": False}
    place = str(source)
    if gguf_file is not None:
        safe["gguf_file"], place = gguf_file, str(Path(source) / gguf_file)
    try:
        with working(f"loading {Path(place).name}"), quiet_transformers():
            model, info = getattr(transformers, kind).from_pretrained(
                str(source), use_safetensors=True, output_loading_info=True, **safe, **options
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(source), **safe)
    except Exception as error:  # a dozen kinds: safetensors' and tokenizers' own, KeyError, TypeError, RuntimeError
        if out_of_memory(error):
            raise too_small("the weights", str(error), place) from None
        raise unloadable(place, error, needed) from error
    lacking = [f"{name}: missing" for name in sorted(info["missing_keys"]) if not name.startswith(tuple(unused))]
    lacking += [f"{name[0]}: of another shape" for name in info["mismatched_keys"]]
    if lacking:
        raise ModelError(
            f"{len(lacking)} weights of the model {place!r} are not in its files; they would be random.\n"
            + listing(lacking),
            cause="files of another model, or an incomplete download",
        )
    if not len(tokenizer):
        raise ModelError(f"The model {place!r} comes without a tokenizer.", needed="tokenizer.json beside it")
    return model.eval(), tokenizer


def unloadable(source: str | Path, error: Exception, needed: str = NEEDED) -> ModelError:
    """Any library's complaint about a model's files as ours."""
    return ModelError(
        f"The model {str(source)!r} cannot be loaded: {(str(error).strip() or repr(error)).splitlines()[0]}",
        needed=needed,
        cause="a misspelt name, no network, or a folder that is incomplete, damaged or of another format",
    )


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without transformers' bars, which are drawn even where there is no terminal; ours are not."""
    from transformers import modeling_gguf_pytorch_utils as gguf_reader
    from transformers.utils import logging

    theirs, shown = gguf_reader.tqdm, logging.is_progress_bar_enabled()
    gguf_reader.tqdm = lambda items, desc="": progress(items, "dequantising", total=len(items))
    logging.disable_progress_bar()
    try:
        yield
    finally:
        gguf_reader.tqdm = theirs
        if shown:
            logging.enable_progress_bar()
