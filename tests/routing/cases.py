"""Small builders for routing tests: requests with their labels, and one line to decide."""

from hybrid.routing.complexity import Scorer, StructuralScorer
from hybrid.routing.decide import decide
from hybrid.routing.decision import Decision
from hybrid.routing.labels import Labels, Segment, Source, from_source, typed
from hybrid.routing.policy import Mode
from hybrid.routing.signals import Availability, RouteState, Signals
from hybrid.wire.types import GenerateRequest, Message, Role, Route

SIMPLE = "What is the capital of France?"
HARD = "Make a step-by-step plan to organise a birthday party for ten children: invitations, food, games and budget."
SCORER = StructuralScorer()

MAIL = Source(label="doctor.eml", text="The X-ray shows a fracture.", kind="mail")
OPEN_FILE = Source(label="notes.txt", text="Notes for everyone.", kind="file")


def request(*texts: str) -> GenerateRequest:
    """Build a conversation: user and assistant in turn, the user last."""
    roles = (Role.USER, Role.ASSISTANT)
    return GenerateRequest(messages=tuple(Message(role=roles[i % 2], content=t) for i, t in enumerate(texts)))


def one_turn(text: str, *sources: Source) -> tuple[GenerateRequest, Labels]:
    """Build a single turn as the SDK composes it: the sources' texts, then the question."""
    content = "\n\n".join((*(s.text for s in sources), text))
    return request(content), Labels((*(from_source(s) for s in sources), typed(text)))


def route(
    text: str = SIMPLE,
    *sources: Source,
    signals: Signals = Signals(),  # noqa: B008 - frozen
    mode: Mode = Mode.AUTO,
    model: Scorer = SCORER,
    threshold: float | None = None,
) -> Decision:
    """Decide a single turn."""
    return decide(*one_turn(text, *sources), signals, mode, model, threshold=threshold)


def away(route: Route, reason: str, **signals: object) -> Signals:
    """Signals with one route unavailable for a reason."""
    state = Availability(**{str(route): RouteState(available=False, reason=reason)})
    return Signals(availability=state, **signals)  # type: ignore[arg-type]


def kept(text: str, source: str = "doctor.eml") -> Segment:
    """A segment that must stay on the device."""
    return from_source(Source(label=source, text=text, kind="mail"))
