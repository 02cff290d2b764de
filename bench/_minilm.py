"""Sentence embeddings by all-MiniLM-L6-v2 (MIT, from the package index), in numpy: a baseline of the router's bench.

384 numbers of length 1 for each text, of which the first 128 tokens count, as when the model was trained: the mean over
the last layer (Reimers and Gurevych 2019, arXiv 1908.10084). Results are kept in the system's temporary folder alone.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HEADS, LAYERS, TOKENS = 12, 6, 128
WIDTH = 384
BATCH_TOKENS = 4096
MODEL = "minilm-l6"


def folder() -> Path | None:
    """Return where the model is installed; None when it is not."""
    from device.errors import DeviceError
    from hybrid import config, local

    try:
        return local.open_store(config.load().models).get(MODEL).path
    except DeviceError:
        return None


def embed(texts: Sequence[str]) -> np.ndarray:
    """Return (texts, 384), from the temporary folder where these very texts were embedded before."""
    where = folder()
    if where is None:
        message = f"the model is not installed: hybrid pull {MODEL}"
        raise FileNotFoundError(message)
    kept = Path(tempfile.gettempdir()) / "hybrid-bench" / f"minilm-{_digest(texts)}.npy"
    if not kept.is_file():
        kept.parent.mkdir(mode=0o700, exist_ok=True)
        np.save(kept, Encoder(where).encode(texts))
    return np.load(kept)


def _digest(texts: Sequence[str]) -> str:
    total = hashlib.sha256()
    for text in texts:
        total.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return total.hexdigest()[:32]


class Encoder:
    """The model in memory."""

    def __init__(self, where: Path) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        self._w = load_file(where / "model.safetensors")
        self._tokenizer = Tokenizer.from_file(str(where / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(TOKENS)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return (texts, 384), rows of length 1."""
        ids = [e.ids for e in self._tokenizer.encode_batch(list(texts))]
        out = np.zeros((len(texts), WIDTH), dtype=np.float32)
        for batch in _batches([len(i) for i in ids]):
            out[batch] = self._batch([ids[n] for n in batch])
        return out

    def _batch(self, ids: Sequence[Sequence[int]]) -> np.ndarray:
        """Run one batch; shorter texts are padded and masked."""
        longest = max(map(len, ids))
        padded = np.array([[*i, *[0] * (longest - len(i))] for i in ids])
        mask = np.arange(longest) < np.array([len(i) for i in ids])[:, None]
        x = self._embeddings(padded)
        for n in range(LAYERS):
            x = self._layer(x, mask, f"encoder.layer.{n}.")
        pooled = (x * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    def _embeddings(self, ids: np.ndarray) -> np.ndarray:
        w = self._w
        x = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.token_type_embeddings.weight"][0]
        return self._norm(x + w["embeddings.position_embeddings.weight"][: ids.shape[1]], "embeddings.LayerNorm")

    def _layer(self, x: np.ndarray, mask: np.ndarray, name: str) -> np.ndarray:
        q, k, v = (_split(self._dense(x, f"{name}attention.self.{part}")) for part in ("query", "key", "value"))
        weights = np.matmul(q, k.transpose(0, 1, 3, 2)) / np.sqrt(np.float32(WIDTH // HEADS))
        weights = _softmax(np.where(mask[:, None, None, :], weights, np.float32(-1e9)))
        seen = np.matmul(weights, v).transpose(0, 2, 1, 3).reshape(x.shape)
        x = self._norm(x + self._dense(seen, f"{name}attention.output.dense"), f"{name}attention.output.LayerNorm")
        wide = _gelu(self._dense(x, f"{name}intermediate.dense"))
        return self._norm(x + self._dense(wide, f"{name}output.dense"), f"{name}output.LayerNorm")

    def _dense(self, x: np.ndarray, name: str) -> np.ndarray:
        flat = x.reshape(-1, x.shape[-1]) @ self._w[f"{name}.weight"].T
        return (flat + self._w[f"{name}.bias"]).reshape(*x.shape[:-1], -1)

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(axis=-1, keepdims=True)
        x /= np.sqrt((x * x).mean(axis=-1, keepdims=True) + 1e-12)
        return x * self._w[f"{name}.weight"] + self._w[f"{name}.bias"]


def _batches(lengths: Sequence[int]) -> Iterator[Any]:
    """Yield row numbers, texts of about one length together."""
    batch: list[int] = []
    for n in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[n] * (len(batch) + 1) > BATCH_TOKENS:
            yield np.array(batch)
            batch = []
        batch.append(n)
    if batch:
        yield np.array(batch)


def _split(x: np.ndarray) -> np.ndarray:
    return x.reshape(*x.shape[:2], HEADS, -1).transpose(0, 2, 1, 3)


def _softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def _gelu(x: np.ndarray) -> np.ndarray:
    """Approximate by tanh, within 0.001 of the exact one (Hendrycks and Gimpel 2016)."""
    return 0.5 * x * (1 + np.tanh(np.float32(0.7978846) * (x + np.float32(0.044715) * x * x * x)))
