"""What other threads may tell the engine's thread."""

from dataclasses import dataclass

from .live import Live


@dataclass(frozen=True, slots=True)
class Submit:
    """Run this request."""

    live: Live


@dataclass(frozen=True, slots=True)
class Cancel:
    """Its reader has gone."""

    live: Live


@dataclass(frozen=True, slots=True)
class Release:
    """Forget what is kept for a partition."""

    partition: str


@dataclass(frozen=True, slots=True)
class Close:
    """Stop, free everything, end the thread."""


Message = Submit | Cancel | Release | Close
