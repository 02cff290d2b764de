"""What would have had to be different for the other route: searched, applied, and decided again.

Nothing is claimed that was not tried: every change is applied to the facts and the layers run over the result.
First everything that bars the other route is lifted, since each bar is necessary; if that is not enough, the smallest
further change is looked for in the order mode, price, threshold.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from typing import Any

from hybrid.wire.types import Route

from .decision import Counterfactual
from .layers import Facts, choose, narrow
from .policy import Mode
from .signals import MemoryPressure, RouteState, Signals, Thermal


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One change to the facts: what, from which value, to which, in words, and the facts after it."""

    what: str
    before: str
    after: str
    words: str
    facts: Facts


def find(facts: Facts, route: Route) -> Counterfactual | None:
    """Return the smallest change that leads to the other route; None when that route is not configured here."""
    target = Route.ON_DEVICE if route is Route.PRIVATE_CLOUD else Route.PRIVATE_CLOUD
    if not facts.signals.availability.of(target).configured:
        return None
    changes: list[Change] = []
    for lift in _BARS:
        change = lift(facts, target)
        if change:
            changes.append(change)
            facts = change.facts
    if not _leads_to(facts, target):
        changes.append(next(c for c in _softer(facts, target) if _leads_to(c.facts, target)))
    verb = "stay on the device" if target is Route.ON_DEVICE else "go to the private cloud"
    return Counterfactual(
        route=target,
        change="+".join(c.what for c in changes),
        before="+".join(c.before for c in changes),
        after="+".join(c.after for c in changes),
        text=f"would {verb} " + " and ".join(c.words for c in changes),
    )


def _leads_to(facts: Facts, target: Route) -> bool:
    allowed = narrow(facts)
    return target in allowed and choose(facts, allowed).route is target


def _with(facts: Facts, **signals: Any) -> Facts:
    return replace(facts, signals=replace(facts.signals, **signals))


# --- bars: each one alone keeps the target from being chosen ----------------------------------------------------------


def _label(facts: Facts, target: Route) -> Change | None:
    if facts.block is None or target is Route.ON_DEVICE:
        return None
    words = f"without the {facts.kind} source" if facts.kind else "if its text had a label that lets it leave"
    after = replace(facts, block=None)
    return Change(what="label", before=Route.ON_DEVICE, after=Route.PRIVATE_CLOUD, words=words, facts=after)


def _background(facts: Facts, target: Route) -> Change | None:
    if not facts.signals.background or target is Route.ON_DEVICE:
        return None
    words, after = "if a person had asked", _with(facts, background=False)
    return Change(what="background", before="true", after="false", words=words, facts=after)


def _availability(facts: Facts, target: Route) -> Change | None:
    state = facts.signals.availability.of(target)
    if state.available:
        return None
    place = "the device model" if target is Route.ON_DEVICE else "the node"
    after = _with(facts, availability=replace(facts.signals.availability, **{str(target): RouteState()}))
    words = f"if {place} could answer"
    return Change(what="availability", before=state.reason, after="available", words=words, facts=after)


def _offline(facts: Facts, target: Route) -> Change | None:
    if not facts.signals.offline or target is Route.ON_DEVICE:
        return None
    return Change(
        what="offline", before="true", after="false", words="with a network", facts=_with(facts, offline=False)
    )


def _quota_reached(facts: Facts, target: Route) -> Change | None:
    left = facts.signals.quota_left
    if left is None or left > 0 or target is Route.ON_DEVICE:
        return None
    words = "with 20 % of the quota left"
    return Change(what="quota", before="0", after="0.2", words=words, facts=_with(facts, quota_left=0.2))


def _tokens(facts: Facts, target: Route) -> Change | None:
    window = facts.signals.window(target)
    if window is None or facts.needed_tokens <= window:
        return None
    after = replace(facts, needed_tokens=window, score=facts.rescore(window))
    words = f"with {window:,} tokens or fewer"
    return Change(what="tokens", before=str(facts.needed_tokens), after=str(window), words=words, facts=after)


def _hot(facts: Facts, target: Route) -> Change | None:
    if facts.signals.thermal != Thermal.CRITICAL or target is Route.PRIVATE_CLOUD:
        return None
    after = _with(facts, thermal=Thermal.NOMINAL)
    return Change(what="heat", before=Thermal.CRITICAL, after=Thermal.NOMINAL, words="on a cool device", facts=after)


def _full(facts: Facts, target: Route) -> Change | None:
    if facts.signals.memory != MemoryPressure.CRITICAL or target is Route.PRIVATE_CLOUD:
        return None
    after = _with(facts, memory=MemoryPressure.NORMAL)
    words = "with enough free memory"
    return Change(what="memory", before=MemoryPressure.CRITICAL, after=MemoryPressure.NORMAL, words=words, facts=after)


_BARS: tuple[Callable[[Facts, Route], Change | None], ...] = (
    _label,
    _background,
    _availability,
    _offline,
    _quota_reached,
    _tokens,
    _hot,
    _full,
)


# --- softer changes, in the order they are tried ----------------------------------------------------------------------


def _softer(facts: Facts, target: Route) -> Iterator[Change]:
    if facts.mode is not Mode.AUTO:
        prefer = Mode.PREFER_ON_DEVICE if target is Route.ON_DEVICE else Mode.PREFER_PRIVATE_CLOUD
        for mode in (Mode.AUTO, prefer):
            words, after = f"in mode {mode}", replace(facts, mode=mode)
            yield Change(what="mode", before=facts.mode, after=mode, words=words, facts=after)
        return
    if facts.fixed_threshold is None:
        yield from _cheaper(facts, target)
    yield _threshold(facts, target)


def _threshold(facts: Facts, target: Route) -> Change:
    """Move the threshold just past the score, in hundredths; scores have four decimals."""
    below = floor(facts.score.value * 100 + 1e-9) / 100
    value = below if target is Route.PRIVATE_CLOUD else round(below + 0.01, 2)
    side = "or lower" if target is Route.PRIVATE_CLOUD else "or higher"
    after = replace(facts, fixed_threshold=value)
    words = f"with a threshold of {value:.2f} {side}"
    return Change(what="threshold", before=f"{facts.threshold:.4g}", after=f"{value:.2f}", words=words, facts=after)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ladder:
    """Ever better values of one reading, from the one next to what it is now to the best that matters."""

    what: str
    field: str
    steps: Sequence[Any]
    value: Callable[[Any], Any] = lambda step: step
    words: str


def _cheaper(facts: Facts, target: Route) -> Iterator[Change]:
    """Try each reading that costs the target something: the least improvement that flips the route, if any does."""
    ladders = _device_ladders(facts.signals) if target is Route.ON_DEVICE else _cloud_ladders(facts.signals)
    for ladder in ladders:
        if not ladder.steps:
            continue

        def flips(step: Any, ladder: _Ladder = ladder) -> bool:
            return _leads_to(_with(facts, **{ladder.field: ladder.value(step)}), target)

        if flips(ladder.steps[-1]):  # curves are monotone, so the first step that flips can be bisected
            step = ladder.steps[bisect_left(ladder.steps, 1, key=flips)]
            value = ladder.value(step)
            yield Change(
                what=ladder.what,
                before=_said(getattr(facts.signals, ladder.field)),
                after=_said(value),
                words=ladder.words.format(step),
                facts=_with(facts, **{ladder.field: value}),
            )


def _said(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.4g}" if isinstance(value, float) else str(value)


def _device_ladders(signals: Signals) -> tuple[_Ladder, ...]:
    heat, strain = tuple(Thermal), tuple(MemoryPressure)
    low = signals.battery is not None and not signals.on_mains
    return (
        _Ladder(
            what="battery",
            field="battery",
            steps=range(ceil(100 * (signals.battery or 0)), 51) if low else (),
            value=_share,
            words="with the battery at {} % or above",
        ),
        _Ladder(
            what="low_power",
            field="low_power",
            steps=(False,) if signals.low_power else (),
            words="without low-power mode",
        ),
        _Ladder(
            what="heat",
            field="thermal",
            steps=heat[: heat.index(signals.thermal)][::-1],
            words="with heat no worse than {}",
        ),
        _Ladder(
            what="memory",
            field="memory",
            steps=strain[: strain.index(signals.memory)][::-1],
            words="with memory pressure no worse than {}",
        ),
        _Ladder(
            what="device_wait",
            field="device_wait_s",
            steps=_down(signals.device_wait_s),
            words="if the device needed {} s or less",
        ),
    )


def _cloud_ladders(signals: Signals) -> tuple[_Ladder, ...]:
    quota = signals.quota_left
    return (
        _Ladder(what="link", field="metered", steps=(False,) if signals.metered else (), words="on an unmetered link"),
        _Ladder(
            what="quota",
            field="quota_left",
            steps=range(ceil(100 * quota), 21) if quota is not None else (),
            value=_share,
            words="with {} % of the quota left",
        ),
        _Ladder(
            what="cost",
            field="cost",
            steps=_down(100 * signals.cost),
            value=_share,
            words="at a cost of {} hundredths of a right answer",
        ),
        _Ladder(
            what="cloud_wait",
            field="cloud_wait_s",
            steps=_down(signals.cloud_wait_s),
            words="if the private cloud needed {} s or less",
        ),
    )


def _share(percent: int) -> float:
    return percent / 100


def _down(value: float | None) -> Sequence[int]:
    """Return the whole numbers below a value, down to 0; beyond 10,000 nothing changes any more."""
    return range(ceil(min(value, 10_000.0)) - 1, -1, -1) if value else ()
