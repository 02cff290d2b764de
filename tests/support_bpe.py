"""Byte-level BPE written out by hand, over a vocabulary and its merges: an independent check of a tokenizer.json.

Cutting, merging and the handling of special tokens are its own; it uses nothing of the tokenizers library.
"""

import json
from itertools import pairwise
from pathlib import Path

import regex

from tests.support_gguf import byte_alphabet

# openai/gpt-2, encoder.py; SmolLM cuts off every digit before that.
_GPT2 = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
_DIGIT = regex.compile(r"(\p{N})")


class HandBPE:
    """``encode`` with special tokens recognised, as SmolLM's own tokenizer does it."""

    def __init__(self, tokenizer: Path) -> None:
        value = json.loads(tokenizer.read_text(encoding="utf-8"))
        self.ids: dict[str, int] = value["model"]["vocab"]
        self.ranks = {tuple(merge): rank for rank, merge in enumerate(value["model"]["merges"])}
        special = sorted((token["content"] for token in value["added_tokens"]), key=len, reverse=True)
        self.special = regex.compile("(" + "|".join(map(regex.escape, special)) + ")")
        self.bytes = byte_alphabet()

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``."""
        ids: list[int] = []
        for index, part in enumerate(self.special.split(text)):
            ids += [self.ids[part]] if index % 2 else self._plain(part)
        return ids

    def _plain(self, text: str) -> list[int]:
        pieces = [piece for part in _DIGIT.split(text) if part for piece in _GPT2.findall(part)]
        return [self.ids[token] for piece in pieces for token in self._merged(piece)]

    def _merged(self, piece: str) -> list[str]:
        parts = [self.bytes[byte] for byte in piece.encode()]
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if best not in self.ranks:
                break
            parts = _joined(parts, best)
        return parts


def _joined(parts: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    index = 0
    while index < len(parts):
        width = 2 if tuple(parts[index : index + 2]) == pair else 1
        out.append("".join(parts[index : index + width]))
        index += width
    return out
