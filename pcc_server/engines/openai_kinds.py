"""What differs between engines that speak the OpenAI chat format: fields, endpoints, and what each can promise.

Names as each project documents them. A sampling field is always sent, so that no default of an engine decides.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SEED_LIMIT_32 = 2**32 - 1  # llama.cpp draws its own seed for this number
_PLAIN_WORDS = {"chat_template_kwargs": {"enable_thinking": False}}  # as the engine of our own does


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of engine.

    health: answers 200 when the engine is ready.  penalty: its name for the repetition penalty; empty: it has none.
    fixed: sent with every request.  salted: takes ``cache_salt``.  counts: how it counts a framed prompt; empty: not.
    context: where it says how many tokens it holds; empty: nowhere.  tells_usage: counts of a streamed reply.
    shares: keeps context between requests and cannot be told not to.  seeds: it takes seeds below this.
    """

    health: str
    penalty: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    salted: bool = False
    counts: str = ""
    context: str = ""
    tells_usage: bool = True
    shares: bool = False
    seeds: int = 2**63


KINDS: Mapping[str, Kind] = {
    "vllm": Kind(
        health="/health",
        penalty="repetition_penalty",
        fixed={"top_k": -1, "min_p": 0.0, **_PLAIN_WORDS},
        salted=True,
        counts="vllm",
        context="models",
    ),
    "sglang": Kind(
        health="/health",
        penalty="repetition_penalty",
        fixed={"top_k": -1, "min_p": 0.0, **_PLAIN_WORDS},
        salted=True,
        context="models",
    ),
    "llama.cpp": Kind(
        health="/health",
        penalty="repeat_penalty",
        fixed={"top_k": 0, "min_p": 0.0, "cache_prompt": False, **_PLAIN_WORDS},
        counts="llama.cpp",
        context="props",
        seeds=SEED_LIMIT_32,
    ),
    "llama-cpp-python": Kind(
        health="/v1/models",
        penalty="repeat_penalty",
        fixed={"top_k": 0, "min_p": 0.0},
        counts="llama-cpp-python",
        tells_usage=False,
        shares=True,
        seeds=SEED_LIMIT_32,
    ),
    "ollama": Kind(health="/api/version", shares=True),
}
