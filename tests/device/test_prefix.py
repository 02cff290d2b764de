from collections.abc import Sequence
from typing import Any

from device.prefix import MIN_REUSE, PrefixCache, common


class Layer:
    """A cache of one layer: it knows how many ids it holds."""

    def __init__(self, size: int) -> None:
        self.size = size

    @property
    def nbytes(self) -> int:
        return self.size * 10


def _cut(cache: Sequence[Any], surplus: int) -> list[Any]:
    return [Layer(layer.size - surplus) for layer in cache]


def _uncuttable(cache: Sequence[Any], surplus: int) -> list[Any] | None:
    return None if surplus else list(cache)


def _ids(length: int, first: int = 0) -> list[int]:
    return [first, *range(1, length)]


def _keeping(limit: int = 10_000) -> PrefixCache:
    return PrefixCache(limit, cut=_cut)


def test_the_longest_common_prefix_is_served_and_cut_to_length() -> None:
    kept = _keeping()
    kept.put("a", _ids(30), [Layer(30)])
    length, cache = kept.take("a", [*_ids(20), 99, 98])
    assert length == 20
    assert cache is not None
    assert cache[0].size == 20


def test_a_kept_conversation_is_not_changed_by_serving_a_branch_of_it() -> None:
    kept = _keeping()
    kept.put("a", _ids(30), [Layer(30)])
    kept.take("a", [*_ids(20), 99])
    length, cache = kept.take("a", [*_ids(30), 99])
    assert length == 30
    assert cache is not None
    assert cache[0].size == 30


def test_partitions_never_share() -> None:
    kept = _keeping()
    kept.put("a", _ids(30), [Layer(30)])
    assert kept.take("b", _ids(40)) == (0, None)
    assert kept.take("a", _ids(40))[0] == 30  # the control: the same ids are served to their own partition


def test_one_id_is_always_left_to_feed() -> None:
    kept = _keeping()
    kept.put("a", _ids(30), [Layer(30)])
    assert kept.take("a", _ids(30))[0] == 29


def test_a_few_shared_ids_are_not_worth_a_copy() -> None:
    kept = _keeping()
    kept.put("a", _ids(30), [Layer(30)])
    assert kept.take("a", [*_ids(MIN_REUSE - 1), 99, 98]) == (0, None)


def test_a_longer_conversation_replaces_the_one_it_continues() -> None:
    kept = _keeping()
    kept.put("a", _ids(30), [Layer(30)])
    kept.put("a", _ids(40), [Layer(40)])
    assert kept.nbytes == 400


def test_the_limit_drops_the_least_recently_used_of_all_partitions() -> None:
    kept = _keeping(700)
    kept.put("a", _ids(30, 1), [Layer(30)])
    kept.put("b", _ids(30, 2), [Layer(30)])
    kept.take("a", [*_ids(30, 1), 5])
    kept.put("c", _ids(30, 3), [Layer(30)])
    assert kept.nbytes == 600
    assert kept.take("b", [*_ids(30, 2), 5]) == (0, None)
    assert kept.take("a", [*_ids(30, 1), 5])[0] == 30


def test_what_is_larger_than_the_limit_is_not_kept() -> None:
    kept = _keeping(0)
    kept.put("a", _ids(30), [Layer(30)])
    assert kept.nbytes == 0


def test_a_cache_that_cannot_be_trimmed_serves_only_what_continues_it() -> None:
    kept = PrefixCache(10_000, cut=_uncuttable)
    kept.put("a", _ids(30), [Layer(30)])
    assert kept.take("a", [*_ids(20), 99]) == (0, None)
    assert kept.take("a", [*_ids(30), 99])[0] == 30


def test_release_forgets_one_partition_and_clear_all() -> None:
    kept = _keeping()
    kept.put("a", _ids(30), [Layer(30)])
    kept.put("b", _ids(30), [Layer(30)])
    kept.release("a")
    assert kept.take("a", _ids(40)) == (0, None)
    assert kept.nbytes == 300
    kept.clear()
    assert kept.nbytes == 0


def test_common_counts_leading_ids() -> None:
    assert common([1, 2, 3], [1, 2, 4]) == 2
    assert common([1, 2], [1, 2, 3]) == 2
    assert common([], [1]) == 0


def test_what_has_no_name_is_not_kept() -> None:
    kept = _keeping()
    kept.put("", _ids(30), [Layer(30)])
    assert kept.nbytes == 0


def test_nothing_is_kept_beyond_its_age_and_a_new_turn_begins_a_new_one() -> None:
    clock = [0.0]
    kept = PrefixCache(10_000, cut=_cut, age_s=300, now=lambda: clock[0])
    kept.put("a", _ids(30), [Layer(30)])
    assert kept.forget_old() == 300
    clock[0] = 200.0
    kept.put("b", _ids(30), [Layer(30)])
    clock[0] = 299.0
    assert kept.take("a", _ids(40))[0] == 30
    clock[0] = 300.0
    assert kept.take("a", _ids(40)) == (0, None)
    assert kept.forget_old() == 200
    clock[0] = 500.0
    assert kept.forget_old() is None
    assert kept.nbytes == 0
