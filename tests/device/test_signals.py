import math
import statistics

import pytest

from device.signals import SignalLog, quantile


def test_the_summary_holds_the_first_token_and_quantiles_of_all() -> None:
    log = SignalLog()
    log.add([-0.5, 1.5, 2.5])
    for at in range(1, 20):
        log.add([-at / 10])
    lps = [-0.5, *(-at / 10 for at in range(1, 20))]
    summary = log.summary()
    assert (summary.lp_first, summary.margin_first, summary.entropy_first) == (-0.5, 1.5, 2.5)
    assert summary.lp_min == -1.9
    assert summary.lp_q50 == pytest.approx(statistics.median(lps))
    assert summary.lp_q10 == pytest.approx(statistics.quantiles(lps, n=10, method="inclusive")[0])


def test_too_few_tokens_leave_quantiles_unsaid() -> None:
    log = SignalLog()
    assert log.summary().lp_first is None
    log.add([-1.0])
    summary = log.summary()
    assert (summary.lp_first, summary.lp_min, summary.lp_q50, summary.lp_q10) == (-1.0, -1.0, None, None)


def test_values_that_are_no_finite_numbers_are_left_out() -> None:
    log = SignalLog()
    log.add([-math.inf, math.inf, math.nan])
    assert log.summary().lp_first is None
    assert log.summary().margin_first is None
    assert log.summary().entropy_first is None


def test_quantiles_interpolate_between_neighbours() -> None:
    assert quantile([0.0, 1.0], 0.5) == 0.5
    assert quantile([3.0], 0.1) == 3.0
