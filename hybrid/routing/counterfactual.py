"""What would have had to be different for the other route: searched, applied, and decided again.

Nothing is claimed that was not tried: every change is applied to the facts and the layers run over the result.
First everything that bars the other route is lifted; if that is not enough, the smallest further change is looked for
in the order mode, price, threshold. In the end every change that turns out not to be needed is dropped.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import floor
from typing import Any

from hybrid.wire.types import Route

from .decision import Counterfactual
from .ladders import Ladder, cloud_ladders, device_ladders
from .layers import Facts, choose, narrow
from .policy import Mode
from .signals import MemoryPressure, RouteState, Thermal


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change to the facts: what, from which value, to which, in words, and how it is applied."""

    what: str
    before: str
    after: str
    words: str
    apply: Callable[[Facts], Facts]


def find(facts: Facts, route: Route) -> Counterfactual | None:
    """Return the smallest change that leads to the other route; None when that route is not configured here."""
    target = Route.ON_DEVICE if route is Route.PRIVATE_CLOUD else Route.PRIVATE_CLOUD
    if not facts.signals.availability.of(target).configured:
        return None
    if target is Route.ON_DEVICE:
        facts = replace(facts, drawn=False)  # chance would keep it here too, and explains nothing
    changes = _lifted(facts, target)
    free = _after(facts, changes)
    if not _leads_to(free, target):
        changes.append(next(c for c in _softer(free, target) if _leads_to(c.apply(free), target)))
    changes = _needed(facts, changes, target)
    verb = "stay on the device" if target is Route.ON_DEVICE else "go to the private cloud"
    return Counterfactual(
        route=target,
        change="+".join(c.what for c in changes),
        before="+".join(c.before for c in changes),
        after="+".join(c.after for c in changes),
        text=f"would {verb} " + " and ".join(c.words for c in changes),
    )


def _lifted(facts: Facts, target: Route) -> list[Change]:
    """Lift every bar, each looked at with those before it gone: fewer tokens may mean a lower score."""
    changes: list[Change] = []
    for bar in _BARS:
        if change := bar(facts, target):
            changes.append(change)
            facts = change.apply(facts)
    return changes


def _needed(facts: Facts, changes: list[Change], target: Route) -> list[Change]:
    """Drop the changes without which the rest still leads to the target."""
    for change in tuple(changes):
        rest = [c for c in changes if c is not change]
        if rest and _leads_to(_after(facts, rest), target):
            changes = rest
    return changes


def _after(facts: Facts, changes: Iterable[Change]) -> Facts:
    for change in changes:
        facts = change.apply(facts)
    return facts


def _leads_to(facts: Facts, target: Route) -> bool:
    allowed = narrow(facts)
    return target in allowed and choose(facts, allowed) is target


def _reading(field: str, value: Any) -> Callable[[Facts], Facts]:
    """Return what sets one reading."""
    return lambda facts: replace(facts, signals=replace(facts.signals, **{field: value}))


# --- bars: each one alone keeps the target from being chosen ----------------------------------------------------------


def _label(facts: Facts, target: Route) -> Change | None:
    if facts.block is None or target is Route.ON_DEVICE:
        return None
    words = f"without the {facts.kind} source" if facts.kind else "if its text had a label that lets it leave"
    if facts.block.code == "recognised":
        words = "if a person let go what was found in it"
    return Change(
        what="label",
        before=Route.ON_DEVICE,
        after=Route.PRIVATE_CLOUD,
        words=words,
        apply=lambda f: replace(f, block=None),
    )


def _background(facts: Facts, target: Route) -> Change | None:
    if not facts.signals.background or target is Route.ON_DEVICE:
        return None
    apply = _reading("background", value=False)
    return Change(what="background", before="true", after="false", words="if a person had asked", apply=apply)


def _availability(facts: Facts, target: Route) -> Change | None:
    state = facts.signals.availability.of(target)
    if state.available:
        return None
    words = "if the device model could answer" if target is Route.ON_DEVICE else "if the node could answer"
    there = replace(facts.signals.availability, **{str(target): RouteState()})
    apply = _reading("availability", there)
    return Change(what="availability", before=state.reason, after="available", words=words, apply=apply)


def _offline(facts: Facts, target: Route) -> Change | None:
    if not facts.signals.offline or target is Route.ON_DEVICE:
        return None
    apply = _reading("offline", value=False)
    return Change(what="offline", before="true", after="false", words="with a network", apply=apply)


def _stale(facts: Facts, target: Route) -> Change | None:
    if not facts.signals.evidence_stale or target is Route.ON_DEVICE:
        return None
    age = f"{facts.signals.evidence_age_s:.0f} s"
    apply = _reading("evidence_age_s", None)
    return Change(what="evidence", before=age, after="fresh", words="once the node is verified again", apply=apply)


def _quota_reached(facts: Facts, target: Route) -> Change | None:
    left = facts.signals.quota_left
    if left is None or left > 0 or target is Route.ON_DEVICE:
        return None
    apply = _reading("quota_left", 0.2)
    return Change(what="quota", before="0", after="0.2", words="with 20 % of the quota left", apply=apply)


def _tokens(facts: Facts, target: Route) -> Change | None:
    window = facts.signals.window(target)
    if window is None or facts.needed_tokens <= window:
        return None
    return Change(
        what="tokens",
        before=str(facts.needed_tokens),
        after=str(window),
        words=f"with {window:,} tokens or fewer",
        apply=lambda f: replace(f, needed_tokens=window, score=f.rescore(window)),
    )


def _hot(facts: Facts, target: Route) -> Change | None:
    if facts.signals.thermal != Thermal.CRITICAL or target is Route.PRIVATE_CLOUD:
        return None
    apply = _reading("thermal", Thermal.NOMINAL)
    return Change(what="heat", before=Thermal.CRITICAL, after=Thermal.NOMINAL, words="on a cool device", apply=apply)


def _full(facts: Facts, target: Route) -> Change | None:
    if facts.signals.memory != MemoryPressure.CRITICAL or target is Route.PRIVATE_CLOUD:
        return None
    return Change(
        what="memory",
        before=MemoryPressure.CRITICAL,
        after=MemoryPressure.NORMAL,
        words="with enough free memory",
        apply=_reading("memory", MemoryPressure.NORMAL),
    )


def _budget(facts: Facts, target: Route) -> Change | None:
    """Let through what the budget holds back. Low enough for a fixed threshold as for one with a margin."""
    if facts.budget is None or target is Route.ON_DEVICE:
        return None
    value = max(0.0, _hundredths_below(facts.score.value - max(0.0, facts.margin)))
    if facts.budget <= value:
        return None
    return Change(
        what="budget",
        before=f"{facts.budget:.4g}",
        after=f"{value:.2f}",
        words=f"with a larger budget, one that asks for {value:.2f} or less",
        apply=lambda f: replace(f, budget=value),
    )


def _drawn(facts: Facts, target: Route) -> Change | None:
    if not (facts.drawn and facts.explore) or target is Route.ON_DEVICE:
        return None
    words = "had it not been drawn to learn from"
    return Change(what="explore", before="drawn", after="off", words=words, apply=lambda f: replace(f, drawn=False))


_BARS: tuple[Callable[[Facts, Route], Change | None], ...] = (
    _label,
    _background,
    _availability,
    _offline,
    _stale,
    _quota_reached,
    _tokens,
    _hot,
    _full,
    _budget,
    _drawn,
)


# --- softer changes, in the order they are tried ----------------------------------------------------------------------


def _softer(facts: Facts, target: Route) -> Iterator[Change]:
    if facts.mode is not Mode.AUTO:
        yield _mode(facts, Mode.AUTO)
        yield _mode(facts, Mode.PREFER_ON_DEVICE if target is Route.ON_DEVICE else Mode.PREFER_PRIVATE_CLOUD)
        return
    if facts.fixed_threshold is None:
        yield from _cheaper(facts, target)
    yield _threshold(facts, target)


def _mode(facts: Facts, mode: Mode) -> Change:
    words = f"in mode {mode}"
    return Change(what="mode", before=facts.mode, after=mode, words=words, apply=lambda f: replace(f, mode=mode))


def _threshold(facts: Facts, target: Route) -> Change:
    """Move the threshold just past the score, in hundredths; scores have four decimals."""
    below = _hundredths_below(facts.score.value)
    value = below if target is Route.PRIVATE_CLOUD else round(below + 0.01, 2)
    side = "or lower" if target is Route.PRIVATE_CLOUD else "or higher"
    return Change(
        what="threshold",
        before=f"{facts.threshold:.4g}",
        after=f"{value:.2f}",
        words=f"with a threshold of {value:.2f} {side}",
        apply=lambda f: replace(f, fixed_threshold=value),
    )


def _hundredths_below(score: float) -> float:
    return floor(score * 100 + 1e-9) / 100


def _cheaper(facts: Facts, target: Route) -> Iterator[Change]:
    """Try each reading that costs the target something: the least improvement that flips the route, if any does."""
    ladders = device_ladders(facts.signals) if target is Route.ON_DEVICE else cloud_ladders(facts.signals)
    for ladder in ladders:
        if not ladder.steps:
            continue

        def flips(step: Any, ladder: Ladder = ladder) -> bool:
            return _leads_to(_reading(ladder.field, ladder.value(step))(facts), target)

        if flips(ladder.steps[-1]):  # curves are monotone, so the first step that flips can be bisected
            step = ladder.steps[bisect_left(ladder.steps, 1, key=flips)]
            value = ladder.value(step)
            yield Change(
                what=ladder.what,
                before=_said(getattr(facts.signals, ladder.field)),
                after=_said(value),
                words=ladder.words.format(step),
                apply=_reading(ladder.field, value),
            )


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.4g}" if isinstance(value, float) else str(value)
