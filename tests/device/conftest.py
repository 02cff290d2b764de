"""Fixtures of the device tests: tiny random Llama models in real folders, and the starter where it is installed."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device.manifest import FileFact, Manifest, list_files, sha256_file

WORDS = "the quick brown fox jumps over a lazy dog while seven wizards box five jugs of liquor"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SYSTEM = "be brief"


def _tokenizer(folder: Path) -> int:
    """Write a byte-level tokenizer with a few merges and two special tokens; return its size."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([WORDS], trainer)
    tokenizer.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return int(tokenizer.get_vocab_size())


def _weights(folder: Path, vocabulary: int, bits: int, layers: int) -> None:
    """Write random weights, wide enough that the likeliest token is rarely a near tie."""
    from device import runtime

    core, llama = runtime.mlx(), runtime.mlx_lm("models.llama")
    from mlx import nn, utils

    config: dict[str, Any] = {
        "model_type": "llama",
        "hidden_size": 64,
        "num_hidden_layers": layers,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "vocab_size": vocabulary,
        "rope_theta": 10000.0,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "eos_token_id": [vocabulary - 1],
    }
    model = llama.Model(llama.ModelArgs.from_dict(config))
    named = utils.tree_flatten(model.parameters())
    keys = core.random.split(core.random.key(7), len(named))
    drawn = [
        (name, value if "norm" in name else core.random.normal(value.shape, scale=0.25, key=key))
        for (name, value), key in zip(named, keys, strict=True)
    ]
    model.load_weights(drawn)
    if bits:
        nn.quantize(model, group_size=32, bits=bits)
        config["quantization"] = {"group_size": 32, "bits": bits}
    core.save_safetensors(str(folder / "model.safetensors"), dict(utils.tree_flatten(model.parameters())))
    (folder / "config.json").write_text(json.dumps(config))


def write_manifest(folder: Path, *, context_tokens: int = 4096, sampling: dict[str, float] | None = None) -> None:
    """Write the manifest of a folder as it is now."""
    files = {
        path: FileFact(size=(folder / path).stat().st_size, sha256=sha256_file(folder / path))
        for path in list_files(folder)
    }
    manifest = Manifest(
        id="tiny",
        role="chat",
        licence="Apache-2.0",
        source="test",
        converter="none",
        context_tokens=context_tokens,
        default_system=SYSTEM,
        sampling=sampling or {},
        files=files,
    )
    (folder / "manifest.json").write_bytes(manifest.encode())


@pytest.fixture(scope="session")
def make_tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a maker of tiny model folders; ``bits`` packs the weights."""

    def make(*, bits: int = 0, layers: int = 2, **manifest: Any) -> Path:
        folder = tmp_path_factory.mktemp("tiny")
        _weights(folder, _tokenizer(folder), bits, layers)
        write_manifest(folder, **manifest)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny(make_tiny: Callable[..., Path]) -> Path:
    """A folder with a random two-layer Llama in f32."""
    return make_tiny()


@pytest.fixture
def engine(tiny: Path) -> Iterator[Any]:
    """An engine over the tiny model, closed afterwards."""
    import asyncio

    from device.engine import MLXEngine

    opened = MLXEngine.open(tiny, model_id="tiny")
    yield opened
    asyncio.run(opened.close())


@pytest.fixture(scope="session")
def starter() -> Path:
    """The starter model's folder; skips where the store lacks it."""
    from device.errors import ModelMissing
    from device.store import Store

    try:
        return Store().get("smollm2-135m").path
    except ModelMissing:
        pytest.skip("the starter model is not in the store: hybrid pull starter")
