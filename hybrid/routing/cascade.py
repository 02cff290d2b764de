"""Layer 5: while the device answers, its own numbers say more than the prompt did.

`After` is what is known of an answer, `AfterModel` makes a new expected gain of it and of the prompt's, and `check`
compares that with the decision's threshold. It only ever asks to decide again: a new decision starts from layer 1, with
the same labels. Source: routing design C5.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import atanh, floor, isfinite, log1p, tanh
from types import MappingProxyType
from typing import Any, Self

from hybrid.wire.types import TokenSignals

from .complexity import Score, Scorer
from .decision import Decision
from .symptoms import hedges, refuses, repeated

CHECK_AT = 32
"""Tokens after which an answer is looked at for the first time; it is looked at again at its end."""

HELD_S = 0.5
"""Seconds for which the first tokens of a close call may be held back, `CHECK_AT` of them at most."""

CIRCLES = 0.5
"""Share of repeated 4-grams from which an answer is said to go round in circles."""

NOTHING: Mapping[str, Any] = MappingProxyType({})
UNSCORED = Score(value=0.0, gain=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class After:
    """What is known of an answer of the device, all of it optional; truth values are 0 and 1.

    lp_first, margin_first, entropy_first: of the first token, in nats.  lp_q10, lp_q50, lp_min: quantiles of the
    log-probabilities.  n_tokens, chars: length.  hit_limit: cut at the token limit.  repeat: share of repeated 4-grams.
    parse_ok, schema_ok, tool_ok: readable as what was asked; None where the request has no form.
    refusal, hedge: how it begins.  agree: share of other answers equal to this one; None unless some were taken.
    """

    lp_first: float | None = None
    margin_first: float | None = None
    entropy_first: float | None = None
    lp_q10: float | None = None
    lp_q50: float | None = None
    lp_min: float | None = None
    n_tokens: float | None = None
    chars: float | None = None
    hit_limit: float | None = None
    repeat: float | None = None
    parse_ok: float | None = None
    schema_ok: float | None = None
    tool_ok: float | None = None
    refusal: float | None = None
    hedge: float | None = None
    agree: float | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read a recording: names that are none of these are left out, and values that are no finite number."""
        return cls(**{f.name: _number(values.get(f.name)) for f in fields(cls)})

    @classmethod
    def of(
        cls,
        signals: TokenSignals | None,
        text: str,
        *,
        n_tokens: int,
        hit_limit: bool | None = None,
        validity: Mapping[str, bool] = NOTHING,
    ) -> Self:
        """Gather what an answer shows so far. validity: parse_ok, schema_ok, tool_ok, as far as they can be told."""
        numbers = {f.name: getattr(signals, f.name) for f in fields(TokenSignals)} if signals else {}
        looks = {"repeat": repeated(text), "refusal": refuses(text), "hedge": hedges(text)}
        size = {"n_tokens": n_tokens, "chars": len(text), "hit_limit": hit_limit}
        return cls.from_dict({**numbers, **looks, **validity, **size})

    def to_dict(self) -> dict[str, float]:
        """Return what is known, and nothing of what is not."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    @property
    def unreadable(self) -> bool:
        """Whether it is not what was asked for in form."""
        return 0.0 in (self.parse_ok, self.schema_ok, self.tool_ok)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and isfinite(value) else None


# --- the model --------------------------------------------------------------------------------------------------------

EDGE = 0.98
"""Gains count as no nearer to -1 and 1 than this."""

SPREAD = 3.0
"""Standard scores count as no farther from 0 than this: one odd number decides nothing alone."""


def log_odds(gain: float) -> float:
    """Return the log-odds of (gain + 1) / 2: twice the inverse hyperbolic tangent of the gain."""
    return 2 * atanh(min(EDGE, max(-EDGE, gain)))


KNEE, BEYOND = 0.35, 0.1
"""Log-odds up to which the prompt's gain counts in full, and how much what lies above counts. Once there is an answer,
a hard kind of request is known as one; how hard it looked among its like is mostly noise (APGR of mmlu_pro under group
folds: 0.668 with all of it, 0.685 with this)."""


def prior(gain: float) -> float:
    """Return the log-odds a prompt's gain starts with."""
    odds = log_odds(gain)
    return odds if odds <= KNEE else KNEE + BEYOND * (odds - KNEE)


def shapes(after: After) -> dict[str, float | None]:
    """Return every signal on a scale on which a line makes sense; None where it is not known."""
    raw = after.to_dict()
    shaped: dict[str, float | None] = {f.name: raw.get(f.name) for f in fields(after)}
    for name in ("lp_first", "lp_q10", "lp_q50", "lp_min"):
        shaped[name] = None if name not in raw else log1p(max(0.0, -raw[name]))
    for name in ("n_tokens", "chars", "margin_first"):
        shaped[name] = None if name not in raw else log1p(max(0.0, raw[name]))
    return shaped


@dataclass(frozen=True, slots=True)
class Term:
    """One signal in the sum: weight * standard score where it is known, ``absent`` where it is not."""

    weight: float
    centre: float
    scale: float
    absent: float = 0.0

    def standard(self, shaped: float) -> float:
        """Return a shaped signal as a standard score of the answers it was fitted on."""
        return min(SPREAD, max(-SPREAD, (shaped - self.centre) / self.scale))


@dataclass(frozen=True, slots=True)
class AfterModel:
    """A logistic model of the expected gain, from the prompt's gain and every signal that is known.

    prompt: weight of what the prompt's gain starts with.  terms: by signal.  Knowing nothing changes nothing.
    """

    bias: float
    prompt: float
    terms: Mapping[str, Term] = field(repr=False)

    @classmethod
    def from_weights(cls, weights: Mapping[str, Any], added: Mapping[str, float] = NOTHING) -> Self:
        """Read the ``after`` part of a weights file. added: one user's additions by name, as `parts` names them.

        Raises ValueError for anything else.
        """
        try:
            known = {f.name for f in fields(After)}
            terms = {name: Term(*map(float, numbers)) for name, numbers in weights["terms"].items() if name in known}
            given = [float(weights["bias"]), float(weights["prompt"])]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise ValueError("the cascade's weights are damaged: install the package again") from None
        numbers = [n for t in terms.values() for n in (t.weight, t.centre, t.scale, t.absent)]
        if not all(map(isfinite, (*given, *numbers))) or any(t.scale <= 0 for t in terms.values()):
            raise ValueError("the cascade's weights hold numbers that mean nothing: install the package again")
        own = {n: Term(t.weight + added.get(n, 0.0), t.centre, t.scale, t.absent) for n, t in terms.items()}
        return cls(given[0] + added.get("bias", 0.0), given[1] + added.get("prompt", 0.0), own)

    def parts(self, score: Score, after: After) -> dict[str, float]:
        """Return what each weight is multiplied with: ``bias``, ``prompt``, every known signal in standard scores."""
        shaped = shapes(after)
        known = ((name, term, shaped[name]) for name, term in self.terms.items())
        signals = {name: term.standard(value) for name, term, value in known if value is not None}
        return {"bias": 1.0, "prompt": prior(score.gain or 0.0), **signals}

    def coarse(self, after: After) -> dict[str, int]:
        """Return every known signal in four steps, 0 to 3, of its standard score."""
        known = self.parts(UNSCORED, after)
        return {name: min(3, max(0, floor(known[name] + 2))) for name in self.terms if name in known}

    def gain(self, score: Score, after: After) -> float:
        """Return the expected gain now that this much of an answer is known, in the unit of `Score.gain`."""
        before = score.gain or 0.0
        if after == After():
            return before
        parts = self.parts(score, after)
        total = self.bias + self.prompt * parts["prompt"]
        for name, term in self.terms.items():
            total += term.weight * parts[name] if name in parts else term.absent
        return tanh(total / 2)


def after_model_of(weights: bytes, added: Mapping[str, float] = NOTHING) -> AfterModel:
    """Read the cascade's part of a weights file. Raises ValueError."""
    return AfterModel.from_weights(json.loads(weights).get("after", NOTHING), added)


# --- the check --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """The answer may stand. score: what the request scores now, 0..1."""

    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Decide again, from layer 1. reason: ``doubt``, ``refusal_local``, ``unparseable`` or ``repeat``."""

    reason: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the cascade found in one answer of the device, as people may see it.

    verdict: ``keep``, ``offer`` (a doubt that changed nothing: the answer was shown) or ``escalated`` (the start was
    dropped unseen and the node asked).  reason: empty for ``keep``.  score: what the request scored then, 0..1.
    statistics: every known signal in four steps from 0 to 3 (below, just below, just above, above what is usual).
    """

    verdict: str
    score: float
    reason: str = ""
    statistics: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        statistics = dict(self.statistics)
        return {"verdict": self.verdict, "reason": self.reason, "score": self.score, "statistics": statistics}


def check(decision: Decision, score: Score, after: After, model: AfterModel, scorer: Scorer) -> Keep | Offer:
    """Compare what an answer shows with the threshold it was decided by.

    score: what the prompt alone was given.  A scorer that knows no gain has nothing that could change: keep.
    """
    if score.gain is None:
        return Keep(score=score.value)
    now = round(min(1.0, max(0.0, scorer.rank(model.gain(score, after)))), 6)
    return Offer(reason=_reason(after), score=now) if now >= decision.threshold else Keep(score=now)


def _reason(after: After) -> str:
    if after.refusal:
        return "refusal_local"
    if after.unreadable:
        return "unparseable"
    return "repeat" if (after.repeat or 0.0) >= CIRCLES else "doubt"
