"""The forms in which a secret may lie in memory: what ``scan`` is given to look for."""

import struct
from collections.abc import Sequence

WINDOW_BYTES = 8  # a shorter piece of a secret says too little, and is too often there by chance
RUN_IDS = 6  # so many token ids in a row belong to one text


def needles_of(text: str = "", ids: Sequence[int] = (), key: bytes = b"") -> dict[str, bytes]:
    """Return name -> bytes for a text, its token ids and a key; each may be missing.

    text: random characters, at least 8 bytes: words of a language lie in every vocabulary.  It is looked for whole in
    UTF-8, -16 and -32 and as every 8-byte window of its UTF-8 form.  ids: looked for as every run of 6, packed as u32
    and as i64.  key: looked for whole.
    """
    return _of_text(text) | _of_ids(ids) | ({"key": key} if key else {})


def _of_text(text: str) -> dict[str, bytes]:
    raw = text.encode()
    if not raw:
        return {}
    whole = {"utf-8": raw, "utf-16": text.encode("utf-16-le"), "utf-32": text.encode("utf-32-le")}
    return whole | {f"window {at}": raw[at : at + WINDOW_BYTES] for at in range(len(raw) - WINDOW_BYTES + 1)}


def _of_ids(ids: Sequence[int]) -> dict[str, bytes]:
    runs = {at: ids[at : at + RUN_IDS] for at in range(len(ids) - RUN_IDS + 1)}
    return {
        f"ids {name} {at}": struct.pack(f"<{RUN_IDS}{form}", *run)
        for at, run in runs.items()
        for name, form in (("u32", "I"), ("i64", "q"))
    }
