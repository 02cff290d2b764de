"""What was looked at before an engine of others is trusted with prompts, and what was found (node design 3.11)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One setting of the engine: what is wanted, what was found, and what follows where it does not hold.

    held: None where it cannot be seen from here; that is said, and does not stop a start.
    """

    name: str
    held: bool | None
    want: str
    got: str
    consequence: str
