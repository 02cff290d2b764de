"""A decision in words for a person: route, score, reasons, what would change it; and what would be sent, time and cost.

Pure text. Nothing here holds prompt or answer text, and a probability is named one only where it was calibrated.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hybrid.cli.render import KEPT, ON_DEVICE, PRIVATE_CLOUD, kept, size
from hybrid.cli.terminal import Screen, safe
from hybrid.routing.wording import beside, noun
from hybrid.wire.types import Route

if TYPE_CHECKING:
    from hybrid.estimate import Estimate
    from hybrid.preview import Piece, Preview, WouldSend
    from hybrid.routing.decision import Decision

INDENT = 12
NO_BREAK = "\u00a0"  # a space that no line is broken at
MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
Row = tuple[str, str]


def decision_text(decision: "Decision", screen: Screen) -> str:
    """Give a whole decision for people: route, score, every reason, what would change it, what was looked at."""
    return _table([*_head(decision, screen), *_looked_at(decision.to_dict()["signals"])], screen)


def preview_text(preview: "Preview", screen: Screen) -> str:
    """Give the same before anything is generated: with what would be sent, and what each route would take."""
    decision = preview.decision
    rows = [
        *_head(decision, screen),
        *_sending(preview.would_send),
        *_taking(preview.estimates),
        *_looked_at(decision.to_dict()["signals"]),
    ]
    return _table(rows, screen)


def _table(rows: list[Row], screen: Screen) -> str:
    """Put names in one column and texts, broken at spaces, in the other."""
    lines = []
    for name, text in rows:
        painted = screen.paint(f"{name:<{INDENT}}", "dim") if name else " " * INDENT
        wrapped = text if name == "route" else screen.wrap(safe(text), indent=INDENT)
        lines.append(painted + wrapped.replace(NO_BREAK, " "))
    return "\n".join(lines)


def _head(decision: "Decision", screen: Screen) -> Iterator[Row]:
    glyph, word, colour = KEPT if kept(decision) else PRIVATE_CLOUD if decision.route != Route.ON_DEVICE else ON_DEVICE
    yield "route", screen.paint(f"{glyph} {word}", colour)
    relation = "≥" if decision.score >= decision.threshold else "<"
    score, threshold = beside(decision.score, decision.threshold), beside(decision.threshold, decision.score)
    yield "score", f"{score} {relation} {threshold} (higher asks for the larger model)"
    for i, reason in enumerate(decision.reasons):
        yield ("" if i else "because"), f"{reason.text}  [{reason.layer}:{NO_BREAK}{reason.code}]"
    other = decision.counterfactual
    yield "otherwise", other.text if other else "only one route is configured"


# --- before anything is generated -------------------------------------------------------------------------------------


def _sending(send: "WouldSend") -> Iterator[Row]:
    """Say what leaves, or what would if the private cloud answered; names, kinds and sizes."""
    if send.held_by:
        what = "your question" if send.held_by == "prompt" else send.held_by
        yield "would send", f"nothing: {what} may not leave the device"
        return
    if not send.node:
        yield "would send", "nothing: no private cloud is set up"
        return
    yield "would send", _first_line(send)
    for piece in send.segments:
        yield "", f"  {_piece(piece)}"
    if send.withheld:
        yield "", f"  kept back: {', '.join(_piece(piece) for piece in send.withheld)}"


def _first_line(send: "WouldSend") -> str:
    what = f"{size(send.bytes_plain)}, at most {size(send.bytes_wire)} sealed, to {send.node} once it is verified"
    if send.leaves:
        return what
    return f"nothing while the device answers; the private cloud would get {what}"


def _piece(piece: "Piece") -> str:
    return f"{piece.source} ({piece.kind}, {size(piece.bytes)})"


def _taking(estimates: "tuple[Estimate, ...]") -> Iterator[Row]:
    for each in estimates:
        away = each.route is Route.PRIVATE_CLOUD
        money = (
            ""
            if not away
            else f", costs {each.money:g}"
            if each.money is not None
            else ", cost unknown: no price is set"
        )
        yield ("in cloud" if away else "on device"), f"{_seconds(each)}{money}"


def _seconds(estimate: "Estimate") -> str:
    low, high = estimate.seconds_low, estimate.seconds_high
    if low is None or high is None:
        return "time unknown: not measured on this machine yet"
    return f"about {_span(low)}" if low == high else f"{_span(low)} to {_span(high)}"


def _span(seconds: float) -> str:
    if seconds < MINUTE_S:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004
    for unit, length, least in (("min", MINUTE_S, HOUR_S), ("h", HOUR_S, DAY_S)):
        if seconds < least:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / DAY_S:.0f} days"


# --- what was looked at -----------------------------------------------------------------------------------------------


def _looked_at(signals: dict[str, Any]) -> Iterator[Row]:
    yield "privacy", _privacy(signals["privacy"])
    yield from _judgement(signals)
    yield "price", "; ".join(_price(side, signals) for side in ("device", "cloud"))
    if signals["budget"]:
        yield "budget", _budget(signals["budget"])
    yield "machine", _machine(signals)
    yield "decided by", f"{signals['model']}, {signals['versions']['policy']}, {signals['versions']['table']}"


def _privacy(privacy: dict[str, Any]) -> str:
    found = f", found: {', '.join(privacy['types'])}" if privacy["types"] else ""
    if privacy["max_route"] == Route.PRIVATE_CLOUD:
        return "nothing keeps it on the device" + found
    return f"limited to the device by {privacy['source'] or 'a check'} ({privacy['by'].replace('_', ' ')}){found}"


def _judgement(signals: dict[str, Any]) -> Iterator[Row]:
    """Say what moved the score, against a usual mix of requests."""
    if signals["top"]:
        yield "judged by", f"{_parts(signals['top'])} (against a usual mix)"
    parts = []
    if signals["gain"] is not None:
        parts.append(f"the larger model adds {round(signals['gain'], 2) + 0.0:+.2f} of quality")
    if signals["p_ok"] is not None and signals["calibrated"]:
        parts.append(f"the device is right in {100 * signals['p_ok']:.0f} of 100 such")
    elif signals["p_ok"] is not None:
        parts.append("how often this device is right is not calibrated yet")
    if signals["novelty"]:
        parts.append(f"{100 * signals['novelty']:.0f} % of its words are new")
    if parts:
        yield "expected", "; ".join(parts)


def _parts(top: list[list[Any]]) -> str:
    """Add up what goes by one name."""
    sums: dict[str, float] = {}
    for name, part in top:
        sums[noun(name)] = sums.get(noun(name), 0.0) + part
    return ", ".join(f"{name} {part:+.2f}" for name, part in sums.items())


def _price(side: str, signals: dict[str, Any]) -> str:
    terms = ", ".join(f"{name} {_number(value)}" for name, value in signals["terms"][side].items())
    return f"{side} {_number(signals['price'][side])}" + (f" ({terms})" if terms else "")


def _budget(budget: dict[str, Any]) -> str:
    share = f", {100 * budget['share']:.0f} % may go" if budget["share"] is not None else ""
    used = f", {100 * budget['used']:.0f} % went" if budget["used"] is not None else ""
    return f"asks for a score of {_number(budget['threshold'])}{share}{used}"


def _machine(signals: dict[str, Any]) -> str:
    battery = "no battery" if signals["battery"] is None else f"battery {100 * signals['battery']:.0f} %"
    network = "no network" if signals["offline"] else "online"
    tokens = f"{'' if signals['tokens_counted'] else 'about '}{signals['needed_tokens']:,} tokens to read"
    age = signals["evidence_age_s"]
    evidence = "" if age is None else f", node's evidence {_span(age)} old"
    return f"{battery}, heat {signals['thermal']}, memory {signals['memory']}, {network}; {tokens}{evidence}"


def _number(value: float) -> str:
    return f"{value:.2f}"
