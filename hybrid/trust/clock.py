"""Epochs, tolerance and what to tell somebody whose clock is off. SPEC section 9."""

from collections.abc import Sequence
from datetime import UTC, datetime
from math import ceil

from hybrid.wire.constants import CLOCK_TOLERANCE_S
from hybrid.wire.keys import KeyConfig


def utc(seconds: float) -> str:
    """Return Unix seconds as people read them; beyond the year 9999 as the number."""
    try:
        return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def outside(now: float, start: float, end: float) -> str:
    """Say how far ``now`` lies outside [start, end] beyond the tolerance; empty when it is inside. Unix seconds."""
    if now < start - CLOCK_TOLERANCE_S:
        return f"this device's clock is at least {ceil(start - now)} s slow, or the node's is fast"
    if now > end + CLOCK_TOLERANCE_S:
        return f"this device's clock is {ceil(now - end)} s ahead, or the deployment has stopped publishing"
    return ""


def usable_key(keys: Sequence[KeyConfig], now: float) -> KeyConfig | None:
    """Return the key whose epoch contains ``now``, else the nearest at most 90 s away, else None (SPEC 9)."""
    nearest = min(keys, key=lambda key: _distance(key, now))
    return nearest if _distance(nearest, now) <= CLOCK_TOLERANCE_S else None


def _distance(key: KeyConfig, now: float) -> float:
    start = key.epoch * key.epoch_s
    end = start + key.epoch_s
    if start <= now < end:
        return 0.0
    # the end itself belongs to the next epoch, so it must not tie with the epoch that contains it
    return start - now if now < start else max(now - end, 1e-6)
