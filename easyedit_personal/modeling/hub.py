"""The Hugging Face hub, or the server that ``HF_ENDPOINT`` names: asked once and briefly before anybody waits for it.

huggingface_hub and transformers try again for a minute where there is no network, and do not say why.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

PATIENCE = 3.0  # seconds; a hub that is slower with one small answer is of no use for hundreds of megabytes
# What transformers needs: neither pickles nor other frameworks' weights.
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def hub_status(repo: str, revision: str = "") -> int | None:
    """The HTTP status with which the hub answers for a repository's ``config.json``; None where it does not answer.

    Waits for ``PATIENCE`` at most, also for a name server that is silent. With ``HF_HUB_OFFLINE`` nobody is asked.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session

    if constants.is_offline_mode():
        return None
    url = hf_hub_url(repo, "config.json", revision=revision or None, endpoint=constants.ENDPOINT)
    found: list[int] = []

    def ask() -> None:
        try:
            answer = get_session().head(url, headers=build_hf_headers(), timeout=PATIENCE, follow_redirects=False)
            found.append(answer.status_code)
        except Exception:  # no route, no such host, no certificate, a proxy that refuses: it cannot be asked
            return

    # In a thread, because no library's time-out covers the look-up of the host's name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE + 0.5)
    return found[0] if found else None


def cached_snapshot(repo: str) -> Path | None:
    """The folder in the hub's own cache that holds a whole model; None where there is none."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repo, "config.json")
    folder = Path(config).parent if isinstance(config, str) else None
    return folder if folder is not None and holds_model(folder) else None


def download_snapshot(repo: str) -> Path:
    """Bring a repository's newest weights and tokenizer into the hub's own cache.

    Raises:
        Exception: whatever huggingface_hub raises, for whoever knows the model's name to explain.
    """
    from huggingface_hub import constants, snapshot_download

    return Path(snapshot_download(repo, allow_patterns=list(WANTED), endpoint=constants.ENDPOINT))


def holds_model(folder: Path) -> bool:
    """Whether a folder holds a configuration and all weights, in one safetensors file or in shards."""
    if not (folder / "config.json").is_file():
        return False
    if (folder / "model.safetensors").is_file():
        return True
    try:
        index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
        shards = set(index["weight_map"].values())
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return False
    return bool(shards) and all((folder / str(shard)).is_file() for shard in shards)
