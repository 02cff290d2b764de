"""The person's word on handing over: asked once per session and node, on a terminal, when it is first needed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybrid.cli.render import size, tier
from hybrid.cli.terminal import CLEAR_LINE, Screen, safe, talk

if TYPE_CHECKING:
    from hybrid.cli.lines import Lines
    from hybrid.config import Config
    from hybrid.gate import HandoffPlan


@dataclass(slots=True, kw_only=True)
class Consent:
    """What the person said. granted None: not asked yet; the first hand-over asks and the answer holds."""

    lines: "Lines"
    screen: Screen
    granted: bool | None = None

    def __call__(self, plan: "HandoffPlan") -> bool:
        """Answer the gate, asking the person first where that has not happened yet."""
        if self.granted is None:
            names = ", ".join(dict.fromkeys(safe(segment.source) for segment in plan.segments)) or "the question"
            talk(CLEAR_LINE if self.screen.live else "", end="")
            talk(f"To be handed over, sealed: {names}; {size(plan.bytes_plain)}, to {safe(plan.node)}")
            talk(f"The node is {safe(tier(plan.tier, plan.tier_words))}; its model is {safe(plan.model)}.")
            self.granted = self.lines.ask("Allow this node for the rest of the session?")
        return self.granted

    def ask_again(self) -> None:
        """Forget a no: who asks for the node after saying no to it wants to be asked."""
        self.granted = self.granted or None


def consent_of(settings: "Config", lines: "Lines", screen: Screen, *, conversation: bool) -> "Consent | str":
    """Return what answers the gate: a person where one can be asked and has to be, else what is configured.

    conversation: the first hand-over of a chat asks on a terminal even where configuring the node was consent enough
    for a single question.
    """
    asks = settings.on_handoff == "ask" or (conversation and settings.on_handoff == "always")
    return Consent(lines=lines, screen=screen) if asks and lines.typed else settings.on_handoff
