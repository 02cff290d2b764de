"""The budget: a ceiling that holds on traffic nobody foresaw, and that nobody has to use up."""

import math
import random
from collections.abc import Callable, Iterator

import pytest

from hybrid.routing.budget import Budget, from_state, priced, realised, step, threshold, to_state
from hybrid.routing.layers import MAX_THRESHOLD

FLOOR = 0.75  # F(need) at neutral prices
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
SEEDS = range(8)
SETTLED, WINDOW = 200, 500  # C11
ALLOWED = 0.03  # Q6

Traffic = Callable[[random.Random], float]


def assistant(rng: random.Random) -> float:
    """A score of everyday requests: 2 in 100 would be worth the node."""
    return 0.76 if rng.random() < 0.02 else 0.7 * rng.random()


def hard(rng: random.Random) -> float:
    """A score of hard requests, most of them above the floor, in no shape the controller knows."""
    return rng.betavariate(9, 1.8)


def mixed(rng: random.Random) -> float:
    return hard(rng) if rng.random() < 0.75 else assistant(rng)


def run(budget: Budget, scores: Iterator[float], count: int) -> tuple[Budget, list[bool]]:
    """Send ``count`` requests by score and budget, as `decide` does; return what went."""
    went = []
    for score in (next(scores) for _ in range(count)):
        went.append(score >= max(FLOOR, threshold(budget)))
        budget = step(budget, score=score, floor=FLOOR, sent=went[-1])
    return budget, went


def stream(traffic: Traffic, seed: int) -> Iterator[float]:
    rng = random.Random(seed)  # noqa: S311 - simulated traffic
    while True:
        yield traffic(rng)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("traffic", [hard, mixed])
def test_where_demand_exceeds_it_the_realised_share_is_the_budget(share: float, traffic: Traffic) -> None:
    for seed in SEEDS:
        scores = stream(traffic, seed)
        budget, _ = run(Budget(share=share), scores, SETTLED)
        _, went = run(budget, scores, WINDOW)
        assert abs(sum(went) / WINDOW - share) <= ALLOWED, seed


@pytest.mark.parametrize("share", SHARES)
def test_it_holds_again_after_traffic_jumps_from_everyday_to_hard_requests(share: float) -> None:
    for seed in SEEDS:
        budget, quiet = run(Budget(share=share), stream(assistant, seed), 2000)
        scores = stream(hard, seed)
        budget, _ = run(budget, scores, SETTLED)
        _, went = run(budget, scores, WINDOW)
        assert sum(quiet) / len(quiet) < share
        assert abs(sum(went) / WINDOW - share) <= ALLOWED, seed


def test_a_threshold_fixed_on_one_mix_is_off_on_another_so_that_the_check_above_means_something() -> None:
    rng = random.Random(1)  # noqa: S311 - simulated traffic
    for share in SHARES[:3]:
        fixed = sorted(mixed(rng) for _ in range(4000))[round(4000 * (1 - share))]
        went = [hard(rng) >= max(FLOOR, fixed) for _ in range(4000)]
        assert abs(sum(went) / len(went) - share) > ALLOWED


def test_everyday_traffic_does_not_use_the_budget_up() -> None:
    for seed in SEEDS:
        budget, went = run(Budget(share=0.2), stream(assistant, seed), 3000)
        assert sum(went) / len(went) < 0.04
        assert threshold(budget) > FLOOR - 0.05  # it did not wind up: the next hard request meets a settled threshold


def test_without_the_guard_against_wind_up_the_threshold_would_fall_for_nothing() -> None:
    t = 0.8
    for score in (next(scores) for scores in [stream(assistant, 1)] for _ in range(3000)):
        t = min(MAX_THRESHOLD, max(0.0, t + 0.02 * ((score >= max(FLOOR, t)) - 0.2)))
    assert t < 0.1


def test_it_starts_at_one_less_its_share_and_moves_by_the_published_step() -> None:
    budget = Budget(share=0.2)
    assert threshold(budget) == 0.8
    assert threshold(step(budget, score=0.9, floor=FLOOR)) == pytest.approx(0.8 + 0.02 * 0.8)
    assert threshold(step(budget, score=0.1, floor=FLOOR)) == pytest.approx(0.8 - 0.02 * 0.2)
    assert step(budget, score=0.1, floor=0.9) is budget  # it does not bind, so it learns nothing
    assert step(budget, score=0.95, floor=0.9).t == pytest.approx(0.816)  # but it counts what went


def test_what_happened_counts_and_not_what_the_score_says() -> None:
    assert step(Budget(share=0.2), score=0.9, floor=FLOOR, sent=False).t == pytest.approx(0.796)


def test_its_threshold_stays_within_what_a_score_can_be_compared_with() -> None:
    all_of_it, none_of_it = Budget(share=1.0), Budget(share=0.0)
    for _ in range(200):
        all_of_it = step(all_of_it, score=0.0, floor=0.0, sent=True)
        none_of_it = step(none_of_it, score=1.0, floor=0.0, sent=True)
    assert threshold(all_of_it) == 0.0
    assert threshold(none_of_it) == MAX_THRESHOLD


def test_money_becomes_a_share_by_what_requests_cost() -> None:
    monthly = Budget(money_per_month=3.0)
    assert priced(monthly, mean_cost=0.01, per_month=1000).share == pytest.approx(0.3)
    assert priced(monthly, mean_cost=0.001, per_month=1000).share == 1.0
    assert priced(Budget(share=0.2), mean_cost=0.01, per_month=1000).share == 0.2
    assert priced(Budget(money_per_month=0.0), mean_cost=None, per_month=0).share == 0.0


def test_money_limits_nothing_before_anything_has_cost() -> None:
    unknown = priced(Budget(money_per_month=3.0), mean_cost=None, per_month=1000)
    assert unknown.share is None
    assert threshold(unknown) == 0.0
    assert step(unknown, score=1.0, floor=0.5) is unknown


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"share": -0.1},
        {"share": 1.1},
        {"share": math.nan},
        {"money_per_month": -1.0},
        {"money_per_month": math.inf},
        {"share": 0.2, "t": 1.02},
        {"share": 0.2, "t": math.nan},
    ],
    ids=str,
)
def test_a_budget_that_means_nothing_is_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="budget"):
        Budget(**given)


def test_before_it_has_moved_nothing_is_kept_so_that_another_share_starts_anew() -> None:
    at_rest = step(Budget(share=0.2), score=0.1, floor=0.9)
    assert threshold(from_state(Budget(share=0.5), to_state(at_rest))) == 0.5
    unknown = step(Budget(money_per_month=3.0), score=0.9, floor=FLOOR)  # no cost is known yet
    later = priced(from_state(Budget(money_per_month=3.0), to_state(unknown)), mean_cost=0.01, per_month=1000)
    assert threshold(later) == pytest.approx(0.7)


def test_its_state_is_one_number() -> None:
    budget = step(Budget(share=0.2), score=0.9, floor=FLOOR)
    assert to_state(budget) == "0.816"
    assert from_state(Budget(share=0.2), "0.816") == budget


@pytest.mark.parametrize("state", [None, "", "x", "null", "true", "[1]", "2.0", "-1", "NaN", "Infinity", '{"t": 0.5}'])
def test_a_state_that_means_nothing_starts_anew(state: str | None) -> None:
    assert threshold(from_state(Budget(share=0.2, t=0.5), state)) == 0.8


def test_the_realised_share_is_of_the_last_requests() -> None:
    assert realised([]) is None
    assert realised([True, False, False, False]) == 0.25
    assert realised([True] * 100 + [False] * 500) == 0.0
