"""Writes small GGUF files for tests: the container of version 3 and a two-layer Llama with random weights."""

import struct
from pathlib import Path
from typing import Any

import numpy as np

_BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 8: (32, 34), 12: (256, 144)}
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    odd = [b for b in range(256) if b not in plain]
    return {**{b: chr(b) for b in plain}, **{b: chr(256 + i) for i, b in enumerate(odd)}}


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    return struct.pack("<IIQ", 9, 5, len(value)) + struct.pack(f"<{len(value)}i", *value)


def gguf_bytes(metadata: dict[str, Any], tensors: dict[str, tuple[int, tuple[int, ...], bytes]]) -> bytes:
    """Return a GGUF file. tensors: name -> (ggml type, shape rows first, raw bytes)."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    out += b"".join(_text(key) + _value(value) for key, value in metadata.items())
    body = b""
    for name, (kind, shape, raw) in tensors.items():
        out += _text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        out += struct.pack("<IQ", kind, len(body))
        body += raw + bytes(-len(raw) % 32)
    return out + bytes(-len(out) % 32) + body


def random_tensor(rng: np.random.Generator, kind: int, shape: tuple[int, ...]) -> tuple[int, tuple[int, ...], bytes]:
    """A tensor of small random weights in ggml type ``kind``: 0 F32, 1 F16, 2 Q4_0, 3 Q4_1, 8 Q8_0; others opaque."""
    if kind in (0, 1):
        values = 1 + 0.1 * rng.standard_normal(shape)
        return kind, shape, values.astype("<f4" if kind == 0 else "<f2").tobytes()
    per_block, size = _BLOCKS[kind]
    blocks = int(np.prod(shape)) // per_block
    raw = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
    step = {2: 0.02, 3: 0.02, 8: 0.001, 12: 0.01}[kind]
    raw[:, :2] = np.full((blocks, 1), step, "<f2").view(np.uint8)
    if kind == 3:
        raw[:, 2:4] = np.full((blocks, 1), -7.5 * step, "<f2").view(np.uint8)
    return kind, shape, raw.tobytes()


def tiny_metadata(**changes: Any) -> dict[str, Any]:
    """Metadata of the tiny model; a change of None removes a key (dots written as double underscores)."""
    alphabet = sorted(byte_alphabet().values())
    tokens = [*SPECIAL, *alphabet, "he", "ll", "hell", "hello", "Ġhello"]
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.context_length": 256,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)),
        "tokenizer.ggml.merges": ["h e", "l l", "he ll", "hell o", "Ġ hello"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }
    metadata.update({key.replace("__", "."): value for key, value in changes.items()})
    return {key: value for key, value in metadata.items() if value is not None}


def tiny_tensors(vocabulary: int, *, kind: int = 3, seed: int = 7) -> dict[str, tuple[int, tuple[int, ...], bytes]]:
    """Tensors of the tiny model; linear layers in ``kind``, embeddings in Q8_0, norms in F32."""
    rng = np.random.default_rng(seed)
    shapes = {
        "attn_q": (64, 64),
        "attn_k": (32, 64),
        "attn_v": (32, 64),
        "attn_output": (64, 64),
        "ffn_gate": (96, 64),
        "ffn_up": (96, 64),
        "ffn_down": (64, 96),
    }
    tensors = {"token_embd.weight": random_tensor(rng, 8, (vocabulary, 64))}
    tensors["output_norm.weight"] = random_tensor(rng, 0, (64,))
    for layer in range(2):
        for name, shape in shapes.items():
            tensors[f"blk.{layer}.{name}.weight"] = random_tensor(rng, kind, shape)
        for name in ("attn_norm", "ffn_norm"):
            tensors[f"blk.{layer}.{name}.weight"] = random_tensor(rng, 0, (64,))
    return tensors


def write_tiny(path: Path, *, kind: int = 3, seed: int = 7, **changes: Any) -> Path:
    """Write the tiny model to ``path`` and return it."""
    metadata = tiny_metadata(**changes)
    path.write_bytes(gguf_bytes(metadata, tiny_tensors(len(metadata["tokenizer.ggml.tokens"]), kind=kind, seed=seed)))
    return path
