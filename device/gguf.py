"""A 4-bit GGUF file to an MLX model folder, once, in its own 4 bits: nothing is dequantised, nothing is re-quantised.

Knows the Llama, Qwen2 and Qwen3 layouts. What it does not know it refuses by name, since a guess gives fluent junk.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .errors import ModelDamaged
from .gguf_file import GGUF, Tensor, read
from .gguf_tensors import BITS, GROUP, Piece, pieces, write_safetensors
from .gguf_tokenizer import stop_ids, tokenizer_files
from .manifest import canonical_json

CONVERTER = "gguf/1"  # raise it whenever the bytes written for the same input change

_PERMUTED = frozenset({"llama"})  # llama.cpp's converter interleaves q and k rows of these
_ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3"})
_TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FREQS = "rope_freqs.weight"


def convert(path: Path, folder: Path, *, report: Callable[[int, int], None] | None = None) -> tuple[int, ...]:
    """Write the MLX folder of the GGUF file at ``path`` into the existing, empty ``folder``.

    report: told bytes done and bytes in all.
    Returns the ids that end a turn. Raises ModelDamaged naming what cannot be converted.
    """
    gguf = read(path)
    try:
        return _written(gguf, folder, report)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ModelDamaged(path.name, f"its metadata make no model ({type(error).__name__})") from error


def _written(gguf: GGUF, folder: Path, report: Callable[[int, int], None] | None) -> tuple[int, ...]:
    names = {
        tensor.name: _mlx_name(gguf, tensor.name) for tensor in gguf.tensors.values() if tensor.name != _ROPE_FREQS
    }
    config = _config(gguf, names)
    parts = list(_parts(gguf, names, report))
    write_safetensors(folder / "model.safetensors", parts)
    for name, value in {**tokenizer_files(gguf), "config.json": config}.items():
        (folder / name).write_bytes(canonical_json(value))
    template = gguf.need("tokenizer.chat_template")
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8", newline="")
    _accept_tokenizer(folder / "tokenizer.json")
    return tuple(stop_ids(gguf))


def _parts(gguf: GGUF, names: dict[str, str], report: Callable[[int, int], None] | None) -> Iterator[Piece]:
    total, done = sum(tensor.size for tensor in gguf.tensors.values()), 0
    for tensor in gguf.tensors.values():
        if tensor.name in names:
            yield from pieces(gguf, tensor, names[tensor.name], _heads(gguf, tensor))
        done += tensor.size
        if report:
            report(done, total)


def _heads(gguf: GGUF, tensor: Tensor) -> int | None:
    """Heads whose rows are interleaved in this tensor, or None."""
    if gguf.need("general.architecture") not in _PERMUTED:
        return None
    if ".attn_q." in tensor.name:
        return int(_key(gguf, "attention.head_count"))
    return int(_key(gguf, "attention.head_count_kv")) if ".attn_k." in tensor.name else None


def _mlx_name(gguf: GGUF, name: str) -> str:
    if name in _TOP:
        return _TOP[name]
    if name == "output.weight":
        return "lm_head.weight"
    match name.split("."):
        case ["blk", layer, part, ("weight" | "bias") as leaf] if layer.isdecimal() and part in _LAYER:
            return f"model.layers.{layer}.{_LAYER[part]}.{leaf}"
    raise ModelDamaged(gguf.path.name, f"tensor {name} has no place in the layouts known here")


def _key(gguf: GGUF, name: str) -> Any:
    return gguf.need(f"{gguf.need('general.architecture')}.{name}")


def _config(gguf: GGUF, names: dict[str, str]) -> dict[str, Any]:
    architecture = gguf.need("general.architecture")
    if architecture not in _ARCHITECTURES or gguf.metadata.get(f"{architecture}.expert_count"):
        raise ModelDamaged(gguf.path.name, f"architecture {architecture!r} is not known here")
    heads, width = _key(gguf, "attention.head_count"), _key(gguf, "embedding_length")
    head_dim = gguf.metadata.get(f"{architecture}.attention.key_length", width // heads)
    base = _shortest(gguf.metadata.get(f"{architecture}.rope.freq_base", 10000.0))
    return {
        "model_type": architecture,
        "hidden_size": width,
        "num_hidden_layers": _key(gguf, "block_count"),
        "intermediate_size": _key(gguf, "feed_forward_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": gguf.metadata.get(f"{architecture}.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rms_norm_eps": _shortest(_key(gguf, "attention.layer_norm_rms_epsilon")),
        "vocab_size": len(gguf.need("tokenizer.ggml.tokens")),
        "max_position_embeddings": _key(gguf, "context_length"),
        "rope_theta": base,
        "rope_scaling": _rope_scaling(gguf, architecture, base, head_dim),
        "attention_bias": "blk.0.attn_q.bias" in gguf.tensors,
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "torch_dtype": "float16",
        "eos_token_id": stop_ids(gguf),
        "bos_token_id": gguf.metadata.get("tokenizer.ggml.bos_token_id"),
        "quantization": _quantization(gguf, names),
    }


def _shortest(value: float) -> float:
    """Return the shortest decimal that is this 32-bit float: 1e-05 rather than 9.999999747378752e-06."""
    import numpy as np

    return float(str(np.float32(value)))


def _quantization(gguf: GGUF, names: dict[str, str]) -> dict[str, Any]:
    """Bits differ from tensor to tensor in one file, so every module gets an entry of its own."""
    entries: dict[str, Any] = {"group_size": GROUP, "bits": 4, "mode": "affine"}
    for name, target in names.items():
        bits = BITS.get(gguf.tensors[name].kind)
        if bits is not None:
            entries[target.removesuffix(".weight")] = {"group_size": GROUP, "bits": bits, "mode": "affine"}
    return entries


def _rope_scaling(gguf: GGUF, architecture: str, base: float, head_dim: int) -> dict[str, Any] | None:
    """Turn Llama 3.1's tensor of frequency factors into the parameters it was made from, and prove that it was."""
    if gguf.metadata.get(f"{architecture}.rope.scaling.type", "none") != "none":
        raise ModelDamaged(gguf.path.name, "its way of scaling positions is not known here")
    if _ROPE_FREQS not in gguf.tensors:
        return None
    import numpy as np

    tensor = gguf.tensors[_ROPE_FREQS]
    stored = np.memmap(gguf.path, dtype="<f4", mode="r", offset=tensor.start, shape=tensor.shape)
    scaling = {"factor": float(stored.max()), "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 8192
    if not np.allclose(stored, _llama3_factors(scaling, base, head_dim), rtol=1e-3):
        raise ModelDamaged(gguf.path.name, f"tensor {_ROPE_FREQS} does not follow Llama 3.1's rule")
    return {"rope_type": "llama3", **scaling}


def _llama3_factors(scaling: dict[str, float], base: float, head_dim: int) -> Any:
    """Frequency factors of Llama 3.1. Source: generate_extra_tensors of LlamaModel in convert_hf_to_gguf.py."""
    import numpy as np

    lengths = 2 * np.pi * base ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    smooth = np.clip((scaling["original_max_position_embeddings"] / lengths - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / scaling["factor"] + smooth)


def _accept_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ModelDamaged(path.name, "the vocabulary in the file makes no tokenizer") from error
