"""How busy an engine is, in numbers: what admission reckons with and what gauges show."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """A reading of one engine. Never holds text.

    kv_token_bytes: of the cache, per token.  kv_budget_bytes: what running requests may take.  kv_used_bytes: what they
    take now.  kv_promised_bytes: what they may come to take.  memory_bytes: of this process, of room_bytes.
    prefill_tps: prompt tokens a second.  decode_tps: answer tokens a second of one stream.
    max_rows: requests that may run at once.  rows: answers that run, by length band.  reading: prompts being read.
    waiting: requests not begun.  queued_tokens: prompt tokens still to be read, of both.  rebuilds: since the start.
    """

    kv_token_bytes: int
    kv_budget_bytes: int
    kv_used_bytes: int
    kv_promised_bytes: int
    memory_bytes: int
    room_bytes: int
    prefill_tps: float
    decode_tps: float
    max_rows: int
    rows: tuple[int, ...]
    reading: int
    waiting: int
    queued_tokens: int
    rebuilds: int
