"""When a failed attempt may be made again, sealed anew. SPEC section 10.

AttestationError and IntegrityError are in no row: they are never retried.
"""

from .errors import (
    APIConnectionError,
    APITimeoutError,
    HybridError,
    KeyExpiredError,
    OverloadedError,
    RateLimitError,
    ServerError,
)

BACKOFF_S = (0.2, 0.8)  # before the second and the third attempt, where the node asked for nothing else
MAX_RETRY_AFTER_S = 30.0  # a hint is unauthenticated: it may not park a client for longer
TRANSIENT = (OverloadedError, RateLimitError, APIConnectionError)
EARLY_PHASES = ("connect", "attest")
TRANSIENT_RETRIES = 2


class Retries:
    """The attempts of one request, counted by kind."""

    def __init__(self, max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._used: dict[str, int] = {}
        self.made = 0

    def after(self, error: HybridError, *, started: bool, shown: bool) -> float | None:
        """Return the seconds to wait before the next attempt, None when there may be none.

        started: the reply's head had come.  shown: text of it had been given out.
        """
        kind, limit = _rule(error, started=started, shown=shown)
        if self._used.get(kind, 0) >= limit or self.made + 1 >= self._max_attempts:
            return None
        self._used[kind] = self._used.get(kind, 0) + 1
        self.made += 1
        if kind == "key":
            return 0.0
        return min(error.retry_after or BACKOFF_S[self.made - 1], MAX_RETRY_AFTER_S)


def _rule(error: HybridError, *, started: bool, shown: bool) -> tuple[str, int]:
    """Name the kind of a failure and how many further attempts that kind allows."""
    if isinstance(error, KeyExpiredError):
        return "key", 0 if started else 1
    if isinstance(error, ServerError):
        return "fault", 0 if started else 1
    early = isinstance(error, APITimeoutError) and error.phase in EARLY_PHASES
    if early or isinstance(error, TRANSIENT):
        return "transient", 0 if shown else TRANSIENT_RETRIES
    return "none", 0
