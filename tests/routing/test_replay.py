"""What-if replay: exact routes, and estimates that are right on average and say how sure they are."""

import random
from collections.abc import Callable
from statistics import fmean, stdev

import pytest

from hybrid.routing.log import STEPS, DecisionRecord, Outcome, score_step, threshold_step
from hybrid.routing.policy import Mode
from hybrid.routing.replay import (
    FEWEST,
    METHODS,
    NOT_IDENTIFIABLE,
    TOO_LITTLE,
    Account,
    Estimate,
    Sample,
    on_grid,
    route_under,
    student_95,
    sweep,
    what_if,
)
from hybrid.wire.types import Route

DEVICE, CLOUD = Route.ON_DEVICE, Route.PRIVATE_CLOUD


def row(score: float, threshold: float = 0.75, **fields: object) -> DecisionRecord:
    """One decision under ``auto`` as it would have been kept, answered and not complained about."""
    taken = CLOUD if score >= threshold else DEVICE
    given: dict[str, object] = {
        "id": "row",
        "minute": 0,
        "route": taken,
        "mode": "auto",
        "reasons": ("complex" if taken is CLOUD else "simple",),
        "open": True,
        "eligible": True,
        "length": 4,
        "score": score_step(score),
        "threshold": threshold_step(threshold),
    }
    given |= fields
    given.setdefault("outcome", Outcome(route=given["route"], seconds=1.0 if given["route"] is DEVICE else 2.0))  # type: ignore[arg-type]
    return DecisionRecord(**given)  # type: ignore[arg-type]


def label(score: float) -> DecisionRecord:
    return row(score, route=DEVICE, open=False, reasons=("label", "complex"))


# --- routes -----------------------------------------------------------------------------------------------------------


def test_every_threshold_on_the_grid_is_compared_as_the_exact_score_would_be() -> None:
    rng = random.Random(0)  # noqa: S311 - any scores
    for _ in range(2000):
        score, step = rng.random(), rng.randrange(STEPS + 1)
        exact = CLOUD if score >= step / STEPS else DEVICE
        assert route_under(row(score), threshold=step / STEPS) is exact or (step == STEPS and score == 1.0)


def test_a_threshold_between_two_steps_is_replayed_at_the_nearest() -> None:
    assert [on_grid(t) for t in (0.0, 0.6, 0.74, 1.0, 1.01)] == [0.0, 0.625, 0.75, 1.0, 1.0]
    assert what_if([row(0.5)], threshold=0.6).threshold == 0.625


def test_the_policy_that_ran_changes_nothing() -> None:
    rows = [row(s / 100) for s in range(100)]
    report = what_if(rows, mode=Mode.AUTO)
    assert (report.changed, report.happened) == (0, report.would)
    assert what_if(rows, threshold=0.75).changed == 0


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("reason", ["label", "recognised", "offline", "pinned", "memory_critical", "background"])
def test_no_policy_moves_what_a_label_availability_or_a_person_settled(mode: Mode, reason: str) -> None:
    kept = row(0.99, route=DEVICE, open=False, reasons=(reason, "complex"))
    assert route_under(kept, threshold=0.0, mode=mode) is DEVICE
    assert what_if([kept], threshold=0.0, mode=mode).held == 1


@pytest.mark.parametrize(
    ("mode", "low", "high"),
    [
        (Mode.AUTO, DEVICE, CLOUD),
        (Mode.ONLY_ON_DEVICE, DEVICE, DEVICE),
        (Mode.PREFER_ON_DEVICE, DEVICE, DEVICE),
        (Mode.ONLY_PRIVATE_CLOUD, CLOUD, CLOUD),
        (Mode.PREFER_PRIVATE_CLOUD, CLOUD, CLOUD),
    ],
)
def test_each_mode_routes_as_it_does_when_asked(mode: Mode, low: Route, high: Route) -> None:
    assert (route_under(row(0.2), mode=mode), route_under(row(0.9), mode=mode)) == (low, high)


def test_what_a_mode_alone_settled_another_mode_may_move() -> None:
    local = row(0.9, route=DEVICE, mode="only_on_device", open=False, eligible=False, reasons=("mode", "complex"))
    assert route_under(local, mode=Mode.AUTO) is CLOUD
    assert route_under(local, threshold=0.5) is DEVICE  # its own mode stays, and a threshold means nothing to it


def test_a_mode_of_a_later_version_is_read_as_auto() -> None:
    assert route_under(row(0.9, mode="other"), threshold=0.5) is CLOUD


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_share_bytes_seconds_and_money_stand_beside_what_happened() -> None:
    paid = Outcome(route=CLOUD, seconds=2.0, money=0.01)
    rows = [
        row(0.2),
        row(0.6, length=5),
        row(0.9, length=6, outcome=paid),
        row(0.95, length=None, cascade=3, outcome=paid),
    ]
    report = what_if(rows, threshold=0.5)
    assert (report.n, report.changed) == (4, 1)
    assert (report.happened.share, report.would.share) == (0.5, 0.75)
    mean = (128 + 512 + 2048) / 3
    assert report.happened.bytes == 2048 + round(mean)
    assert report.would.bytes == 512 + 2048 + round(mean)
    assert (report.happened.seconds, report.would.seconds) == (1.5, 1.75)
    assert report.happened.money == pytest.approx(0.02)
    assert report.would.money == pytest.approx(0.03)


def test_what_the_log_cannot_know_is_unknown() -> None:
    local = what_if([row(0.2), row(0.3)], threshold=0.0)
    assert local.would == Account(share=1.0, quality=None, seconds=None, bytes=256, money=None)
    silent = [row(0.2, outcome=Outcome())]
    assert what_if(silent, threshold=0.75).happened.quality is None


def test_an_answer_from_elsewhere_counts_where_it_was_made() -> None:
    fell_back = row(0.9, outcome=Outcome(route=DEVICE, seconds=3.2))
    assert what_if([fell_back, row(0.2)], mode=Mode.AUTO).happened.share == 0.0


def test_an_empty_log_has_no_figures() -> None:
    report = what_if([], threshold=0.5)
    assert (report.n, report.happened.share, report.happened.quality) == (0, 0.0, None)
    assert {e.why for e in report.estimates} == {TOO_LITTLE}
    assert [a.share for _, a in sweep([])] == [0.0] * 17


def test_the_sweep_replays_every_threshold_and_its_share_never_rises() -> None:
    rows = [row(s / 50) for s in range(50)] + [label(0.9)]
    grid = sweep(rows)
    shares = [account.share for _, account in grid]
    assert [t for t, _ in grid] == [s / STEPS for s in range(STEPS + 1)]
    assert shares == sorted(shares, reverse=True)
    assert all(a == what_if(rows, threshold=t, mode=Mode.AUTO).would for t, a in grid)


@pytest.mark.parametrize(
    ("outcome", "quality"),
    [
        (Outcome(route=DEVICE), 1.0),
        (Outcome(), None),
        (Outcome(verdict="good"), None),
        (Outcome(route=DEVICE, reasked=True), 0.0),
        (Outcome(route=DEVICE, regenerated=True), 0.0),
        (Outcome(route=CLOUD, overridden=DEVICE), 0.0),
        (Outcome(route=DEVICE, tool_failed=True), 0.0),
        (Outcome(route=DEVICE, agreed=False), 0.0),
        (Outcome(route=CLOUD, agreed=False), 1.0),
        (Outcome(route=DEVICE, agreed=True), 1.0),
        (Outcome(route=DEVICE, reasked=True, verdict="good"), 1.0),
        (Outcome(route=DEVICE, verdict="bad"), 0.0),
    ],
)
def test_quality_is_what_people_said_and_else_that_nobody_complained(outcome: Outcome, quality: float | None) -> None:
    assert outcome.quality == quality


# --- off-policy estimates against a truth that is known ---------------------------------------------------------------

EXPLORED, BAND = 0.02, 0.08
TARGET = 13 / STEPS  # inside the band above 0.75


def good_here(score: float) -> float:
    """Chance of a good answer of the device."""
    return 1.0 - 0.9 * score * score


def good_there(score: float) -> float:
    return 0.97 - 0.1 * score


def truth(low: float, high: float) -> float:
    """The true mean quality under the target, by integration over uniform scores."""
    scores = [low + (high - low) * (i + 0.5) / 20_000 for i in range(20_000)]
    return sum(good_there(s) if s >= TARGET else good_here(s) for s in scores) / len(scores)


def explored(
    rng: random.Random, low: float, high: float, epsilon: float = EXPLORED
) -> tuple[float, Route, float, bool]:
    """One request as C7 explores: in the band above the threshold, towards the device alone."""
    score = rng.uniform(low, high)
    route, chance = (CLOUD, 1.0) if score >= 0.75 else (DEVICE, 1.0)
    if 0.75 <= score < 0.75 + BAND:
        route, chance = (DEVICE, epsilon) if rng.random() < epsilon else (CLOUD, 1.0 - epsilon)
    return score, route, chance, rng.random() < (good_here if route is DEVICE else good_there)(score)


def simulated(seed: int, count: int, low: float = 0.6, high: float = 0.82, epsilon: float = EXPLORED) -> list[Sample]:
    """One log as the estimators see it, with a model of outcomes that is wrong on purpose."""
    rng, samples = random.Random(seed), []  # noqa: S311 - a simulation
    for _ in range(count):
        score, route, chance, good = explored(rng, low, high, epsilon)
        target = CLOUD if score >= TARGET else DEVICE
        wrong = {DEVICE: 0.9 - 0.3 * score, CLOUD: 0.8}
        samples.append(
            Sample(
                reward=float(good),
                matched=route is target,
                chance=chance if route is target else round(1.0 - chance, 4),
                expected=wrong[target],
            )
        )
    return samples


def naive(samples: list[Sample]) -> Estimate:
    """The control: the plain mean of the rows on which the policy agrees with what happened."""
    rewards = [s.reward for s in samples if s.matched]
    mean = fmean(rewards)
    half = 1.96 * stdev(rewards) / len(rewards) ** 0.5
    return Estimate(method="naive", value=mean, low=mean - half, high=mean + half)


def coverage(method: Callable[[list[Sample]], Estimate], logs: int, count: int) -> tuple[float, float]:
    """Share of intervals that hold the truth, and the mean error."""
    true = truth(0.6, 0.82)
    found = [method(simulated(seed, count)) for seed in range(logs)]
    inside = sum(e.low <= true <= e.high for e in found if e.low is not None and e.high is not None)
    return inside / logs, sum((e.value or 0.0) - true for e in found) / logs


def check_coverage(logs: int, count: int) -> None:
    for name, method in METHODS.items():
        inside, error = coverage(method, logs, count)
        assert 0.92 <= inside, (name, inside)  # noqa: SIM300 - reads as an interval
        assert inside <= 0.975 or name == "ips", (name, inside)  # its interval is wide: it pays for the draws, too
        assert abs(error) < 0.015, (name, error)
    inside, error = coverage(naive, logs, count)
    assert inside < 0.3, "rows that agree with the policy are no sample of all: the check must see that"
    assert error > 0.03


def test_intervals_hold_the_truth_nineteen_times_in_twenty_and_the_plain_mean_does_not() -> None:
    check_coverage(logs=120, count=2000)


@pytest.mark.soak
def test_intervals_hold_the_truth_over_many_logs() -> None:
    check_coverage(logs=600, count=4000)


def records(seed: int, count: int, epsilon: float = EXPLORED) -> list[DecisionRecord]:
    """A simulated log as it would be kept."""
    rng, rows = random.Random(seed), []  # noqa: S311 - a simulation
    for _ in range(count):
        score, route, chance, good = explored(rng, 0.6, 0.82, epsilon)
        outcome = Outcome(route=route, verdict=None if good else "bad")
        rows.append(row(score, route=route, propensity=chance, outcome=outcome))
    return rows


def test_the_estimates_of_a_log_as_it_is_kept_hold_the_truth() -> None:
    report = what_if(records(3, 4000), threshold=TARGET)
    assert report.unsupported == 0
    assert report.explored >= FEWEST
    for estimate in report.estimates:
        assert estimate.low is not None
        assert estimate.high is not None
        assert estimate.low <= truth(0.6, 0.82) <= estimate.high


def test_where_chance_sent_nobody_it_is_not_identifiable() -> None:
    for report in (
        what_if(records(0, 500, epsilon=0.0), threshold=TARGET),  # nothing was explored
        what_if(records(0, 500), threshold=0.5),  # more would have gone out than exploration ever tries
        what_if([*records(0, 500), row(0.95)], threshold=1.0),  # more would have stayed than the band holds
    ):
        assert report.unsupported > 0
        assert {(e.why, e.value, e.low, e.high) for e in report.estimates} == {(NOT_IDENTIFIABLE, None, None, None)}


def test_a_handful_of_explored_requests_is_too_little() -> None:
    report = what_if(records(0, 300), threshold=TARGET)
    assert 0 < report.explored < FEWEST
    assert {(e.why, e.value) for e in report.estimates} == {(TOO_LITTLE, None)}


def test_undoing_exploration_is_identified_by_the_many_it_left_alone() -> None:
    report = what_if(records(0, 1000), threshold=0.75)
    assert report.changed > 0
    assert all(e.value is not None for e in report.estimates)


def test_a_correct_model_makes_the_doubly_robust_interval_the_narrowest() -> None:
    width = {}
    for estimate in what_if(records(3, 4000), threshold=TARGET).estimates:
        assert estimate.low is not None
        assert estimate.high is not None
        width[estimate.method] = estimate.high - estimate.low
    assert width["dr"] < width["ips"]


def test_a_dozen_explored_answers_that_were_all_good_are_no_certainty() -> None:
    good = [Sample(reward=1.0, matched=n < 12, chance=0.02, expected=1.0) for n in range(600)]
    for name in ("snips", "dr"):
        found = METHODS[name](good)
        assert found.low is not None
        assert 0.7 < found.low < 0.95


def test_clipping_widens_the_interval_by_what_it_may_have_cost() -> None:
    samples = simulated(0, 4000, epsilon=0.002)
    assert max(s.weight for s in samples) <= 100
    clipped = METHODS["ips"](samples)
    true = truth(0.6, 0.82)
    assert clipped.low is not None
    assert clipped.high is not None
    assert clipped.low <= true <= clipped.high
    assert clipped.high - clipped.low > 0.4


@pytest.mark.parametrize(("freedom", "quantile"), [(3, 3.182), (5, 2.571), (10, 2.228), (30, 2.042), (1e9, 1.960)])
def test_students_quantile_is_that_of_the_tables(freedom: float, quantile: float) -> None:
    assert student_95(freedom) == pytest.approx(quantile, abs=0.03)
