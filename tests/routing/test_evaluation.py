"""The measures against hand-worked figures, against a literal reading of their definitions, and their properties."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hybrid.routing import evaluation as ev

QUALITY = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[float], list[float], list[float]]:
    """Draw up to 12 rows with many ties, of which the larger model is better on the whole."""
    n = draw(st.integers(1, 12))
    scores = draw(st.lists(st.integers(0, 4).map(float), min_size=n, max_size=n))
    weak = draw(st.lists(QUALITY, min_size=n, max_size=n))
    strong = draw(st.lists(QUALITY, min_size=n, max_size=n))
    if sum(strong) < sum(weak):
        weak, strong = strong, weak
    if sum(strong) == sum(weak):
        weak, strong = [0.0] * n, [1.0] * n
    return scores, weak, strong


def literal(scores: list[float], weak: list[float], strong: list[float]) -> list[float]:
    """Return PGR at all n + 1 cut points, inside a tie by expectation, as the definition says it."""
    n, low, high = len(scores), sum(weak), sum(strong)
    curve = []
    for k in range(n + 1):
        total, left = low, k
        for value in sorted(set(scores), reverse=True):
            tied = [s - w for r, w, s in zip(scores, weak, strong, strict=True) if r == value]
            taken = min(left, len(tied))
            total += taken * sum(tied) / len(tied)
            left -= taken
        curve.append((total - low) / (high - low))
    return curve


def trapezoid(curve: list[float]) -> float:
    return sum((a + b) / 2 for a, b in pairwise(curve)) / (len(curve) - 1)


# Hand-worked: gains of 1, 0, 1, 0 in the order of the scores; PGR 0, 1/2, 1/2, 1, 1; area (1/4 + 1/2 + 3/4 + 1) / 4.
SCORES, WEAK, STRONG = [0.9, 0.8, 0.7, 0.6], [0, 1, 0, 0], [1, 1, 1, 0]


def test_the_curve_and_its_area_as_worked_by_hand() -> None:
    curve = ev.pgr_curve(SCORES, WEAK, STRONG)
    assert curve.shares == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert curve.recovered == pytest.approx([0, 0.5, 0.5, 1, 1])
    assert ev.apgr(SCORES, WEAK, STRONG) == pytest.approx(0.625)
    assert curve.at(0.125) == pytest.approx(0.25)


def test_cpt_is_read_off_the_curve() -> None:
    assert ev.cpt(0.5, SCORES, WEAK, STRONG) == pytest.approx(25)
    assert ev.cpt(0.25, SCORES, WEAK, STRONG) == pytest.approx(12.5)
    assert ev.cpt(0.8, SCORES, WEAK, STRONG) == pytest.approx(50 + 25 * 0.6)
    assert ev.cpt(0.0, SCORES, WEAK, STRONG) == 0
    assert ev.cpt(1.01, SCORES, WEAK, STRONG) == 100


def test_cpt_takes_the_first_share_where_the_curve_falls_again() -> None:
    # gains 1, 1, -1: PGR 0, 1, 2, 1
    assert ev.cpt(1.0, [3, 2, 1], [0, 0, 1], [1, 1, 0]) == pytest.approx(100 / 3)


def test_the_oracle_exceeds_one_where_the_local_model_is_sometimes_the_better_one() -> None:
    # gains 1, 1, -1: PGR 0, 1, 2, 1; area (1/2 + 3/2 + 3/2) / 3
    assert ev.oracle([0, 0, 1], [1, 1, 0]) == pytest.approx(3.5 / 3)
    assert ev.gap_closed(0.75, 1.0) == pytest.approx(0.5)
    assert ev.gap_closed(0.5, 0.5) == 0


def test_equal_scores_count_by_expectation_and_not_by_position() -> None:
    tied = [0.9, 0.5, 0.5, 0.5]
    for weak, strong in (([0, 0, 1, 1], [1, 1, 1, 1]), ([0, 1, 1, 0], [1, 1, 1, 1])):
        # gains 1, then 1/3 three times: PGR 0, 3/6, 4/6, 5/6, 1
        assert ev.apgr(tied, weak, strong) == pytest.approx((1.5 / 3 + 2 / 3 + 2.5 / 3 + 0.5) / 4)


@settings(deadline=None)
@given(rows())
def test_the_figures_are_those_of_the_literal_definition(some: tuple[list[float], list[float], list[float]]) -> None:
    curve, expected = ev.pgr_curve(*some), literal(*some)
    n = len(some[0])
    assert [curve.at(k / n) for k in range(n + 1)] == pytest.approx(expected)
    assert curve.area == pytest.approx(trapezoid(expected))


@settings(deadline=None)
@given(rows())
def test_a_constant_score_is_worth_a_half_exactly(some: tuple[list[float], list[float], list[float]]) -> None:
    _, weak, strong = some
    assert ev.apgr([0.3] * len(weak), weak, strong) == 0.5


@settings(deadline=None)
@given(rows())
def test_reversing_the_order_mirrors_the_figure(some: tuple[list[float], list[float], list[float]]) -> None:
    scores, weak, strong = some
    assert ev.apgr([-s for s in scores], weak, strong) == pytest.approx(1 - ev.apgr(scores, weak, strong))


@settings(deadline=None)
@given(rows())
def test_no_score_does_better_than_the_oracle(some: tuple[list[float], list[float], list[float]]) -> None:
    _, weak, strong = some
    assert ev.apgr(*some) <= ev.oracle(weak, strong) + 1e-9


@settings(deadline=None)
@given(rows(), st.randoms(use_true_random=False))
def test_only_the_order_of_the_scores_counts_and_never_that_of_the_rows(
    some: tuple[list[float], list[float], list[float]], rng: object
) -> None:
    together = list(zip(*some, strict=True))
    rng.shuffle(together)  # type: ignore[attr-defined]
    stretched = [(s**3 + 7, w, t) for s, w, t in together]
    assert ev.apgr(*zip(*stretched, strict=True)) == pytest.approx(ev.apgr(*some))


@settings(deadline=None)
@given(rows())
def test_doubling_the_weight_is_having_the_row_twice(some: tuple[list[float], list[float], list[float]]) -> None:
    twice = [[*column, column[0]] for column in some]
    assume(sum(twice[2]) > sum(twice[1]))
    weights = [2.0] + [1.0] * (len(some[0]) - 1)
    assert ev.apgr(*some, weights=weights) == pytest.approx(ev.apgr(*twice))


def test_what_is_not_defined_is_refused() -> None:
    with pytest.raises(ev.NoGapError, match="no better"):
        ev.apgr([0.1, 0.2], [1, 1], [1, 1])
    with pytest.raises(ev.NoGapError):
        ev.bootstrap([0.1, 0.2], [1, 1], [1, 0])
    with pytest.raises(ValueError, match="one length"):
        ev.apgr([0.1], [0, 0], [1, 1])
    with pytest.raises(ValueError, match="not empty"):
        ev.apgr([], [], [])
    with pytest.raises(ValueError, match="not a number"):
        ev.apgr([0.1, float("nan")], [0, 0], [1, 1])


def test_the_bootstrap_is_that_of_rows_drawn_with_replacement() -> None:
    rng = np.random.default_rng(4)
    scores, weak = rng.random(300).round(2), rng.integers(0, 2, 300)
    strong = np.maximum(weak, rng.integers(0, 2, 300))
    drawn = ev.bootstrap(scores, weak, strong, draws=50, seed=7)
    again = np.random.default_rng(7)
    expected = []
    for _ in range(50):
        rows_ = again.integers(0, 300, 300)
        expected.append(ev.apgr(scores[rows_], weak[rows_], strong[rows_]))
    assert drawn == pytest.approx(expected)
    low, high = ev.interval(drawn)
    assert low < ev.apgr(scores, weak, strong) < high
    assert (low, high) == pytest.approx(tuple(np.quantile(expected, [0.025, 0.975])))


def test_the_interval_holds_the_true_figure_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(60):
        scores = rng.random(400)
        strong = (rng.random(400) < scores).astype(float)  # gain has the chance of the score: APGR 2/3 in the limit
        low, high = ev.interval(ev.bootstrap(scores, np.zeros(400), strong, draws=200, seed=trial))
        inside += low <= 2 / 3 <= high
    assert 51 <= inside <= 60


def test_a_resample_without_a_gap_is_left_out_of_the_interval() -> None:
    drawn = ev.bootstrap([0.9, 0.1], [0, 1], [1, 1], draws=200)
    assert np.isnan(drawn).any()
    assert not np.isnan(ev.interval(drawn)).any()


def test_strata_keep_the_size_of_each_block() -> None:
    # In the first block nothing can be gained, in the second everything: only if the sizes stay is every draw 0.75.
    scores, weak, strong = [0.0] * 5 + [1.0] * 5, [1.0] * 5 + [0.0] * 5, [1.0] * 10
    assert ev.bootstrap(scores, weak, strong, strata=(5, 5), draws=20) == pytest.approx([0.75] * 20)
    assert np.ptp(ev.bootstrap(scores, weak, strong, draws=20)) > 0


HARD = {
    "a": ([0.6] * 40, [0.0, 1.0] * 20, [1.0] * 40),
    "b": ([0.6] * 10, [0.0, 0.0] * 5, [0.0, 1.0] * 5),
}


def test_separating_mixed_traffic_perfectly_and_guessing_inside_is_worth_three_quarters() -> None:
    assert ev.mixed_apgr(HARD, [0.1] * 77) == pytest.approx(0.75)
    assert ev.mixed_apgr(HARD, [0.6] * 77) == pytest.approx(0.5)
    assert ev.mixed_apgr(HARD, [0.9] * 77) == pytest.approx(0.25)


def test_mixed_traffic_is_half_easy_and_the_hard_sets_in_equal_parts() -> None:
    *_, weights, strata = ev.mix(HARD, [0.1] * 77)
    assert strata == [40, 10, 77]
    assert [weights[:40].sum(), weights[40:50].sum(), weights[50:].sum()] == pytest.approx([0.25, 0.25, 0.5])


def test_mixed_traffic_by_weights_is_what_random_draws_have_on_average() -> None:
    rng = np.random.default_rng(1)
    hard = {}
    for name, n in (("a", 90), ("b", 60)):
        strong = rng.integers(0, 2, n)
        hard[name] = (rng.random(n), strong * rng.integers(0, 2, n), strong)
    easy = rng.random(200) * 0.7
    drawn = []
    for _ in range(600):
        picks = {k: rng.permutation(len(v[0]))[:60] for k, v in hard.items()}
        blocks = [tuple(np.asarray(c)[picks[k]] for c in v) for k, v in hard.items()]
        blocks.append((rng.permutation(easy)[:120], np.ones(120), np.ones(120)))
        drawn.append(ev.apgr(*(np.concatenate([b[k] for b in blocks]) for k in range(3))))
    assert ev.mixed_apgr(hard, easy) == pytest.approx(np.mean(drawn), abs=0.005)


def test_ece_as_worked_by_hand() -> None:
    # Bin 0 (0 to 1/15): stated 0.05, observed 1/2.  Bin 14: stated 1.0, observed 1.  Bin 7: stated 0.5, observed 0.
    p, y = [0.05, 0.05, 1.0, 0.5], [1, 0, 1, 0]
    assert ev.ece(p, y) == pytest.approx(0.5 * 0.45 + 0.25 * 0 + 0.25 * 0.5)
    table = ev.reliability(p, y)
    assert table.stated == pytest.approx([0.05, 0.5, 1.0])
    assert table.observed == pytest.approx([0.5, 0, 1])
    assert table.counts == pytest.approx([2, 1, 1])


def test_ece_of_a_perfect_forecast_is_zero_and_of_a_wrong_one_is_one() -> None:
    assert ev.ece([0, 1, 1], [0, 1, 1]) == 0
    assert ev.ece([1, 1], [0, 0]) == 1


@pytest.mark.parametrize(("p", "y"), [([], []), ([0.1], [0, 1]), ([1.2], [1]), ([float("nan")], [1])])
def test_ece_refuses_what_is_no_probability(p: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="p and y"):
        ev.ece(p, y)


def test_the_budget_error_counts_five_hundred_requests_after_two_hundred() -> None:
    sent = [1] * 200 + [1] * 125 + [0] * 375 + [1] * 300
    always = [1] * len(sent)
    assert ev.budget_error(sent, always, 0.2) == pytest.approx(0.05)
    assert ev.budget_error(sent, always, 0.3) == pytest.approx(0.05)


def test_below_the_ceiling_there_is_no_budget_error() -> None:
    few = [0] * 200 + [1] * 5 + [0] * 495
    assert ev.budget_error(few, few, 0.2) == 0
    many = [0] * 200 + [1] * 150 + [0] * 350
    assert ev.budget_error(many, few, 0.2) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="700 requests"):
        ev.budget_error([1], [1], 0.2)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**16))
def test_same_seed_same_intervals(seed: int) -> None:
    one, two = (ev.bootstrap(SCORES * 5, WEAK * 5, STRONG * 5, draws=5, seed=seed) for _ in range(2))
    assert one == pytest.approx(two, nan_ok=True)
