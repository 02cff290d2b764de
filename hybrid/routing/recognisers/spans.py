"""What a recogniser reports: where in a text something personal stands, and of which type. Never the text itself."""

from dataclasses import dataclass

DENY_LIST = "DENY_LIST"
"""The type of words a person has listed themselves."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """A place in a text. Offsets count Unicode code points of the original text, ``end`` exclusive.

    private: whether finding it keeps the text on the device; false for a private or documentation IP address.
    """

    start: int
    end: int
    type: str
    private: bool = True
