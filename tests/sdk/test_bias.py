"""The bias alarm: what chance explains is none, a node that answers more than its share is, few numbers say nothing."""

import math
import random
from pathlib import Path

import pytest

from hybrid.bias import NodeCount, chi_square_tail, judge
from hybrid.directory import chances, choose
from hybrid.shares import KEPT_NODES, ShareBook, read_all
from tests.trust.maker import Maker

NODES = Maker().verified(*(Maker().bundle() for _ in range(5)), weights=[1, 1, 2, 3, 3]).nodes


@pytest.mark.parametrize(
    ("x", "freedom", "tail"),
    [(3.841459, 1, 0.05), (5.991465, 2, 0.05), (7.814728, 3, 0.05), (30.14353, 19, 0.05), (45.31475, 20, 0.001)],
)
def test_the_tail_agrees_with_published_quantiles(x: float, freedom: int, tail: float) -> None:
    assert math.isclose(chi_square_tail(x, freedom), tail, rel_tol=1e-5)


def counted(answers: int, *, steered: float = 0.0, seed: int = 5) -> ShareBook:
    """Draw and answer by the client's own rules; the way in between hands some requests to the last node of all."""
    book, rng = ShareBook(), random.Random(seed)  # noqa: S311 - a test repeats itself
    shares = chances(NODES)
    for _ in range(answers):
        drawn = [node.node_id.hex() for node in choose(NODES, k=3, rng=rng)]
        book.drawn(shares, drawn)
        wanted = NODES[0].node_id.hex()
        book.answered(shares, wanted if wanted in drawn and rng.random() < steered else drawn[0])
    return book


def test_honest_answers_raise_no_alarm_in_a_hundred_lives() -> None:
    for seed in range(100):
        assert not any(skew.alarm for skew in judge(counted(300, seed=seed).counts))


def test_a_way_that_prefers_one_candidate_is_found_and_named() -> None:
    drawn, answered = judge(counted(300, steered=1.0).counts)
    assert not drawn.alarm  # the draw is the client's own and stays what it was
    assert answered.alarm
    assert answered.node == NODES[0].node_id.hex()
    assert answered.words.startswith(f"node {answered.node[:8]} answered ")


def test_a_handful_of_answers_says_nothing() -> None:
    for skew in judge(counted(8, steered=1.0).counts):
        assert not skew.alarm
        assert "too few" in skew.words


def test_one_node_alone_has_nothing_to_be_compared_with() -> None:
    drawn, _ = judge({"aa": NodeCount(expected=100, first=100)})
    assert (drawn.p, drawn.alarm) == (1.0, False)


def test_rare_nodes_are_judged_together() -> None:
    rare = {f"{n:02x}": NodeCount(due=1.0, answered=1) for n in range(40)}
    flooded = {**rare, "00": NodeCount(due=1.0, answered=40)}
    assert not judge(rare)[1].alarm
    assert judge(flooded)[1].alarm


def test_counts_survive_the_process_and_hold_nothing_but_numbers(tmp_path: Path) -> None:
    book = ShareBook(tmp_path)
    book.open("pcc.example.com")
    book.counts.update(counted(50).counts)
    book.save()
    again = ShareBook(tmp_path)
    again.open("pcc.example.com")
    assert again.counts == book.counts
    assert read_all(tmp_path) == {"pcc.example.com": book.counts}
    (path,) = (tmp_path / "shares").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_book_never_grows_without_end(tmp_path: Path) -> None:
    book = ShareBook(tmp_path)
    book.open("d")
    book.counts = {f"{n:04x}": NodeCount(expected=float(n)) for n in range(KEPT_NODES + 10)}
    book.save()
    kept = read_all(tmp_path)["d"]
    assert len(kept) == KEPT_NODES
    assert "0000" not in kept  # the least drawn went


def test_a_file_that_is_none_of_ours_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "shares").mkdir()
    path = tmp_path / "shares" / "d.json"
    path.write_text('{"nodes": {"aa": 1}}')
    book = ShareBook(tmp_path)
    for _ in range(2):
        book.open("d")
        book.drawn({"aa": 1.0}, ["aa"])
        book.save()
    assert "d.json" in book.trouble
    assert path.read_text() == '{"nodes": {"aa": 1}}'
    assert book.counts["aa"].offered == 2


def test_what_a_long_run_counts_is_bounded_too() -> None:
    book = ShareBook()
    for n in range(3000):
        book.drawn({f"{n:04}": 1.0}, [f"{n:04}"])
    assert len(book.counts) <= 1024
