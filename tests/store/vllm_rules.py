"""vLLM's rules for LoRA adapter folders, restated as a check, since vLLM itself (CUDA only) cannot run here.

Read in vLLM's sources (vllm/config/lora.py, vllm/lora/peft_helper.py, lora_model.py, utils.py and
plugins/lora_resolvers/filesystem_resolver.py) and in its documentation; stated in our own words. Where versions
differ the strictest rule holds here (early versions refuse rsLoRA, later ones take it).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from safetensors import safe_open

MAX_LORA_RANKS = {1, 8, 16, 32, 64, 128, 256, 320, 512}
REQUIRED = {"r", "lora_alpha", "target_modules"}
DTYPES = {"F32", "F16", "BF16"}  # cast to lora_dtype (float16 or bfloat16) on loading
KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
# Linear layers of the architectures we edit that support LoRA there, packed ones by their parts. The down projection
# (a row-parallel linear layer) is "down_proj" in all of them.
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
SUPPORTED = dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "olmo2"), LINEAR)


def check_vllm(folder: Path, family: str, *, max_lora_rank: int = 16, base_model: str | None = None) -> list[str]:
    """What vLLM would refuse, ignore or get wrong about an adapter; empty when it serves it as it is meant.

    Args:
        folder: the adapter.
        family: ``model_type`` of the base model.
        max_lora_rank: what the server was started with.
        base_model: the served model's name, where adapters are found by the folder resolver.
    """
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    faults = _config_faults(config, max_lora_rank)
    if family not in SUPPORTED:
        return [*faults, f"{family} does not support LoRA in vLLM"]
    if base_model is not None and (config.get("peft_type"), config.get("base_model_name_or_path")) != (
        "LORA",
        base_model,
    ):
        faults.append("the folder resolver passes it over: peft_type or base_model_name_or_path differ")
    return faults + _weight_faults(folder / "adapter_model.safetensors", config, SUPPORTED[family])


def _config_faults(config: dict, max_lora_rank: int) -> list[str]:
    faults = []
    if missing := REQUIRED - config.keys():
        return [f"missing in adapter_config.json: {sorted(missing)}"]
    if max_lora_rank not in MAX_LORA_RANKS:
        faults.append(f"--max-lora-rank {max_lora_rank} is not one of {sorted(MAX_LORA_RANKS)}")
    if config["r"] > max_lora_rank:
        faults.append(f"rank {config['r']} is greater than --max-lora-rank {max_lora_rank}")
    for field in ("modules_to_save", "use_dora", "use_rslora"):
        if config.get(field):
            faults.append(f"{field} is set")
    if config.get("bias", "none") != "none":
        faults.append("bias is not 'none'")
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        faults.append("rank_pattern or alpha_pattern is set; vLLM reads r and lora_alpha only")
    if isinstance(config["target_modules"], str):
        faults.append("target_modules is a pattern")
    return faults


def _weight_faults(path: Path, config: dict, supported: set[str]) -> list[str]:
    faults: list[str] = []
    sides: dict[str, dict[str, list[int]]] = {}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - the handle is no mapping
            match, part = KEY.fullmatch(key), file.get_slice(key)
            if match is None:
                faults.append(f"{key} is no LoRA weight")
                continue
            if part.get_dtype() not in DTYPES:
                faults.append(f"{key} is {part.get_dtype()}")
            sides.setdefault(match["module"], {})[match["side"]] = list(part.get_shape())
    for module, shapes in sides.items():
        if module.rsplit(".", 1)[-1] not in supported:
            faults.append(f"{module} is no module that vLLM adapts")
        if set(shapes) != {"A", "B"}:
            faults.append(f"{module} lacks a factor")
        elif not shapes["A"][0] == shapes["B"][1] == config["r"]:
            faults.append(f"{module} is not of rank {config['r']}: {shapes}")
    if isinstance(config["target_modules"], list) and set(sides) != set(config["target_modules"]):
        faults.append("target_modules and the weights name different modules")
    return faults
