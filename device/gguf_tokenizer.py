"""The vocabulary in a GGUF file's metadata, as ``tokenizer.json`` and ``tokenizer_config.json``.

The JSON is written out here rather than by the tokenizers library, so that its bytes, and with them the model's
digest, do not depend on that library's version; the library then has to accept it.
"""

from collections.abc import Mapping
from typing import Any

from .errors import ModelDamaged
from .gguf_file import GGUF

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5  # token types of llama.cpp's llama.h
# Texts that end a turn in the families read here; llama.cpp finds them by text too, since files name only one or two.
_TURN_ENDS = frozenset({"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"})

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _byte_level(*, regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


# tokenizer.ggml.pre -> how text is cut before merging. An unknown name is refused: a guess gives fluent, wrong ids.
_CUTS: Mapping[str, dict[str, Any]] = {
    "smollm": _sequence({"type": "Digits", "individual_digits": True}, _byte_level(regex=True)),
    "gpt-2": _byte_level(regex=True),
    "llama-bpe": _sequence(_split(_LLAMA3), _byte_level(regex=False)),
    "qwen2": _sequence(_split(_QWEN2), _byte_level(regex=False)),
}


def tokenizer_files(gguf: GGUF) -> dict[str, Any]:
    """Return the two files as JSON values, by file name.

    Raises ModelDamaged for a vocabulary that is not byte-level BPE, for an unknown way of cutting text, and for
    lists that do not belong together.
    """
    kind, pre = gguf.need("tokenizer.ggml.model"), gguf.metadata.get("tokenizer.ggml.pre", "")
    if kind != "gpt2" or pre not in _CUTS:
        raise ModelDamaged(gguf.path.name, f"tokenizer {kind!r} with pre-tokenizer {pre!r} is not known")
    return {"tokenizer.json": _tokenizer(gguf, pre), "tokenizer_config.json": _config(gguf)}


def stop_ids(gguf: GGUF) -> list[int]:
    """Every id that ends a turn: the file's eos, eot and eom, and control tokens with a text known to do so."""
    named = [gguf.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    tokens, types = _vocabulary(gguf)
    known = [i for i, text in enumerate(tokens) if types[i] == _CONTROL and text in _TURN_ENDS]
    return list(dict.fromkeys([i for i in named if i is not None] + known))


def _vocabulary(gguf: GGUF) -> tuple[list[str], list[int]]:
    tokens, types = gguf.need("tokenizer.ggml.tokens"), gguf.need("tokenizer.ggml.token_type")
    if len(tokens) != len(types) or len(set(tokens)) != len(tokens):
        raise ModelDamaged(gguf.path.name, "vocabulary and token types do not belong together")
    return tokens, types


def _adds_bos(gguf: GGUF) -> bool:
    # llama.cpp adds one for this family when the flag is missing.
    return bool(gguf.metadata.get("tokenizer.ggml.add_bos_token", gguf.metadata["tokenizer.ggml.pre"] == "llama-bpe"))


def _token(gguf: GGUF, name: str) -> str | None:
    index = gguf.metadata.get(f"tokenizer.ggml.{name}_token_id")
    return None if index is None else str(gguf.need("tokenizer.ggml.tokens")[index])


def _tokenizer(gguf: GGUF, pre: str) -> dict[str, Any]:
    tokens, types = _vocabulary(gguf)
    added = [_added(i, tokens[i], special=types[i] == _CONTROL) for i in range(len(tokens)) if types[i] in (3, 4)]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": pre == "llama-bpe",
        "vocab": {text: i for i, text in enumerate(tokens) if types[i] != _UNUSED},
        "merges": [merge.split(" ") for merge in gguf.need("tokenizer.ggml.merges")],
    }
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": _CUTS[pre],
        "post_processor": _bos(gguf) if _adds_bos(gguf) else _byte_level(regex=True),
        "decoder": _byte_level(regex=True),
        "model": model,
    }


def _added(index: int, text: str, *, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return {"id": index, "content": text, **flags}


def _bos(gguf: GGUF) -> dict[str, Any]:
    text, index = _token(gguf, "bos"), gguf.need("tokenizer.ggml.bos_token_id")
    start, first = {"SpecialToken": {"id": text, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [start, first],
        "pair": [start, first, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {text: {"id": text, "ids": [index], "tokens": [text]}},
    }


def _config(gguf: GGUF) -> dict[str, Any]:
    # The generic class: family classes of transformers rebuild the pre-tokenizer from the family's name.
    names = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    texts = {key: _token(gguf, name) for key, name in names.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": _adds_bos(gguf),
        "clean_up_tokenization_spaces": False,
        "model_max_length": gguf.need(f"{gguf.need('general.architecture')}.context_length"),
        **{key: text for key, text in texts.items() if text is not None},
    }
