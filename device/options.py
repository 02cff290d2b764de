"""How an engine is opened."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How an engine is opened.

    context_tokens: at most so much context; None is the model's own.  max_rows: requests that run side by side.
    signals: send the model's own numbers along.  stateless: keep nothing between requests (the node).
    force: load past the soft memory mark.
    chunk_tokens: of one prompt in one turn, at most.  max_stall_s: what reading a prompt may hold running answers up.
    prefix_cache: where the engine is stateless, keep the context of named partitions all the same.
    prefix_age_s: kept context is forgotten after so long; None: only when its bytes are needed.
    """

    context_tokens: int | None = None
    max_rows: int = 4
    signals: bool = True
    stateless: bool = False
    force: bool = False
    chunk_tokens: int = 256
    max_stall_s: float = 0.2
    prefix_cache: bool = False
    prefix_age_s: float | None = None

    @property
    def keeps(self) -> bool:
        """Tell whether any context outlives its request."""
        return self.prefix_cache or not self.stateless


DEFAULTS = EngineOptions()
