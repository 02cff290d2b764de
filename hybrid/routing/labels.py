"""Labels: how far each piece of text may travel, and why.

A message is made of segments. Each segment carries the farthest route it may take and the source it came from.
Labels stay outside the request: they are never sent. Whatever is made from several segments carries the strictest
of their labels; text that no segment accounts for stays on the device.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from hybrid.wire.types import Route

from .recognisers.spans import DENY_LIST

PERSONAL_KINDS = frozenset({"mail", "calendar", "contacts", "index"})
"""Kinds of source that stay on the device unless their owner says otherwise."""

OPEN_KINDS = frozenset({"text", "file"})
"""Kinds of source that are not limited unless their owner says so."""

FRAME = "frame"
"""The kind of a program's fixed words around content; recognisers pass them by."""


class LabelReason(StrEnum):
    """Why a segment has its label."""

    TYPED = "typed"
    FRAME = "frame"
    SOURCE = "source"
    DERIVED = "derived"
    UNLABELLED = "unlabelled"
    UNKNOWN_LABEL = "unknown_label"
    RECOGNISED = "recognised"
    PRIVACY_ERROR = "privacy_error"
    PRIVACY_TIMEOUT = "privacy_timeout"
    USER_CLEARED = "user_cleared"


def strictest(routes: Iterable[Route]) -> Route:
    """Return the strictest of some labels; of none at all, the strictest there is."""
    found = tuple(routes)
    return Route.PRIVATE_CLOUD if found and all(r is Route.PRIVATE_CLOUD for r in found) else Route.ON_DEVICE


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A piece of context and the farthest route it may take.

    label: its name as people see it, such as a file name; never a piece of its content.
    max_route: None means the default of its kind: mail, calendar, contacts, index and every unknown kind stay on the
    device, text and other files are not limited.  path: where it was read, for citing.
    """

    label: str
    text: str = field(repr=False)
    max_route: Route | None = None
    kind: str = "text"
    path: str | None = None

    def __post_init__(self) -> None:
        """Refuse a limit that is no route. Raises ValueError."""
        if self.max_route is not None:
            object.__setattr__(self, "max_route", Route(self.max_route))

    @property
    def limit(self) -> Route:
        """The farthest route this source may take, its kind's default included."""
        if self.max_route is not None:
            return self.max_route
        return Route.PRIVATE_CLOUD if self.kind in OPEN_KINDS else Route.ON_DEVICE


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A piece of a message with its label. ``digest`` is the SHA-256 of its text, so the gate can recompute it.

    source: the name people know it by.  kind: one of the kinds of `Source`, or typed, frame, answer.
    types: what detectors found in it.  A ``max_route`` that is no route counts as ``on_device``.
    """

    text: str = field(repr=False)
    max_route: Route
    source: str
    why: LabelReason
    kind: str = "typed"
    types: tuple[str, ...] = ()
    digest: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Compute the digest and settle labels nobody knows."""
        object.__setattr__(self, "digest", hashlib.sha256(self.text.encode("utf-8", "surrogatepass")).digest())
        try:
            object.__setattr__(self, "max_route", Route(self.max_route))
        except ValueError:
            object.__setattr__(self, "max_route", Route.ON_DEVICE)
            object.__setattr__(self, "why", LabelReason.UNKNOWN_LABEL)

    @property
    def may_leave(self) -> bool:
        """Whether its label allows the private cloud."""
        return self.max_route is Route.PRIVATE_CLOUD

    def restricted(self, why: LabelReason, types: tuple[str, ...] = ()) -> "Segment":
        """Return it limited to the device, for a detector's reason. A reason that nobody can clear stays."""
        bound = not self.may_leave and self.why is not LabelReason.RECOGNISED
        all_types = tuple(sorted({*self.types, *types}))
        return replace(self, max_route=Route.ON_DEVICE, why=self.why if bound else why, types=all_types)

    def cleared(self) -> "Segment":
        """Return it as a person let it go. That takes off a recogniser's finding and nothing else; types stay.

        Listed words are no finding that may be wrong: they never leave.
        """
        if self.why is not LabelReason.RECOGNISED or DENY_LIST in self.types:
            return self
        return replace(self, max_route=Route.PRIVATE_CLOUD, why=LabelReason.USER_CLEARED)

    def held_again(self) -> "Segment":
        """Return it as it was before a person let it go, which was for one call."""
        if self.why is not LabelReason.USER_CLEARED:
            return self
        return replace(self, max_route=Route.ON_DEVICE, why=LabelReason.RECOGNISED)


def typed(text: str, *, source: str = "prompt") -> Segment:
    """Label words a person typed: not limited by where they came from."""
    return Segment(text=text, max_route=Route.PRIVATE_CLOUD, source=source, why=LabelReason.TYPED)


def frame(text: str) -> Segment:
    """Label fixed words of a program around content: a heading, a separator, the system text of a template."""
    return Segment(text=text, max_route=Route.PRIVATE_CLOUD, source=FRAME, why=LabelReason.FRAME, kind=FRAME)


def from_source(source: Source) -> Segment:
    """Label the text of a source with the source's limit. No source is a frame, whatever its kind is called."""
    kind = "text" if source.kind == FRAME else source.kind
    return Segment(text=source.text, max_route=source.limit, source=source.label, why=LabelReason.SOURCE, kind=kind)


def unlabelled(text: str) -> Segment:
    """Label text of unknown origin: it stays on the device."""
    return Segment(
        text=text, max_route=Route.ON_DEVICE, source="unlabelled text", why=LabelReason.UNLABELLED, kind="unlabelled"
    )


@dataclass(frozen=True, slots=True)
class Labels:
    """The segments a request is made of, in any order."""

    segments: tuple[Segment, ...] = ()

    def strictest(self) -> Route:
        """Return the strictest label of all segments; of no segments, ``on_device``."""
        return strictest(s.max_route for s in self.segments)

    def binding(self) -> Segment | None:
        """Return the first segment that keeps the whole on the device, if one does."""
        return next((s for s in self.segments if not s.may_leave), None)

    def plus(self, *segments: Segment) -> "Labels":
        """Return these labels with more segments; labels are never taken away."""
        return Labels((*self.segments, *segments))
