"""The directory in use and the draw: what is fetched when, what is refused, and that nobody can foretell the nodes."""

import asyncio
import itertools
import random
from collections.abc import Callable

import pytest

from hybrid.bias import chi_square_tail, judge
from hybrid.directory import DirectoryCache, choose
from hybrid.errors import AttestationError, ConfigurationError, OverloadedError, RemoteError
from hybrid.trust.verify import VerifiedNode, Verifier
from tests.sdk.grpc_node import GrpcNode
from tests.trust.maker import NOW, DirectTransport, FakeWorker, Maker, live

MAKER = Maker()
NODES = MAKER.verified().nodes
DRAWS = 10_000
ENOUGH_P = 0.001  # SPEC's own bound for a draw that fits


class Clock:
    def __init__(self, at: float) -> None:
        self.at = at

    def __call__(self) -> float:
        return self.at


def cached(worker: FakeWorker, clock: Clock) -> DirectoryCache:
    verifier = Verifier(worker.maker.policy())
    return DirectoryCache(DirectTransport(worker), verifier, now=clock, rng=random.Random(1))  # noqa: S311 - a test repeats itself


def test_a_directory_is_fetched_once_and_kept() -> None:
    worker, clock = FakeWorker(MAKER), Clock(NOW)
    cache = cached(worker, clock)

    async def twice() -> None:
        assert await cache.current() is await cache.current()

    asyncio.run(twice())
    assert worker.directories == 1


def test_many_requests_at_once_fetch_one_directory() -> None:
    worker, clock = FakeWorker(MAKER), Clock(NOW)
    cache = cached(worker, clock)

    async def many() -> None:
        await asyncio.gather(*(cache.sample() for _ in range(20)))

    asyncio.run(many())
    assert worker.directories == 1
    assert cache.shares.counts[NODES[0].node_id.hex()].offered == 20


def test_a_held_directory_is_refreshed_when_due_and_kept_when_that_fails() -> None:
    worker, clock = FakeWorker(MAKER), Clock(NOW)
    cache = cached(worker, clock)

    async def later() -> None:
        first = await cache.current()
        clock.at = NOW + 200 + 90 + 61  # (e+1)T + 90 s and all of the jitter
        second = await cache.current()
        assert second.seq > first.seq
        cache._transport = DirectTransport(FakeWorker(MAKER))  # a lagging mirror: it starts counting again
        clock.at += 31
        assert await cache.current() is second

    asyncio.run(later())
    assert worker.directories == 2


def test_a_directory_signed_by_somebody_else_is_never_worked_around() -> None:
    worker, clock = FakeWorker(MAKER), Clock(NOW)
    cache = cached(worker, clock)

    async def swapped() -> None:
        await cache.current()
        cache._transport = DirectTransport(FakeWorker(Maker()))
        await cache.current(fresh=True)

    with pytest.raises(AttestationError) as caught:
        asyncio.run(swapped())
    assert caught.value.check == "directory.signature"


def test_a_directory_that_has_ended_is_not_held() -> None:
    clock = Clock(NOW)
    cache = cached(FakeWorker(MAKER), clock)
    asyncio.run(cache.current())
    assert cache.held is not None
    clock.at = cache.held.valid_until + 1
    assert cache.held is None


def test_a_model_nobody_serves_is_named_with_those_that_are() -> None:
    cache = cached(FakeWorker(MAKER), Clock(NOW))
    with pytest.raises(ConfigurationError) as caught:
        asyncio.run(cache.sample(model_id="elsewhere"))
    assert "fake" in caught.value.hint


def test_eight_failures_in_one_epoch_close_the_route_until_the_next() -> None:
    clock = Clock(NOW)
    cache = cached(FakeWorker(MAKER), clock)

    async def run() -> None:
        nodes = await cache.sample()
        for _ in range(7):
            cache.failed(nodes)
        assert await cache.sample()
        cache.failed(nodes)
        with pytest.raises(RemoteError):
            await cache.sample()
        clock.at = NOW + 200  # the next epoch
        assert await cache.sample()

    asyncio.run(run())


def test_a_node_past_its_own_end_is_never_drawn_and_when_all_are_the_directory_is_fetched_anew() -> None:
    clock = Clock(NOW)
    worker, cache = of_twenty()
    cache._now = clock

    async def run() -> None:
        held = await cache.current()
        ended, *others = held.nodes
        object.__setattr__(ended, "valid_until", NOW - 1)
        met = {node.node_id for _ in range(100) for node in await cache.sample()}
        assert met == {node.node_id for node in others}
        assert cache._held is held
        for node in others:
            object.__setattr__(node, "valid_until", NOW - 1)
        assert all(node.key_at(NOW) for node in await cache.sample())
        assert cache._held is not held

    asyncio.run(run())
    assert worker.directories == 0  # of_twenty serves its own


def test_a_further_attempt_draws_no_more_nodes_and_none_weaker() -> None:
    _, cache = of_twenty()

    async def run() -> None:
        one = (await cache.sample())[:1]
        assert len(await cache.sample(like=one)) == 1
        strong = MAKER.verified().nodes[0]
        object.__setattr__(strong, "tier", 2)
        with pytest.raises(OverloadedError, match="tier 2"):
            await cache.sample(like=(strong,))
        mixed = (strong, *one)  # agreed to with its weakest named
        assert len(await cache.sample(like=mixed)) == 2

    asyncio.run(run())


# --- the draw --------------------------------------------------------------------------------------


def listed(weights: list[int]) -> tuple[VerifiedNode, ...]:
    """Verified nodes of these weights, in the directory's order."""
    return MAKER.verified(*(Maker().bundle() for _ in weights), weights=weights).nodes


def of_twenty() -> tuple[FakeWorker, DirectoryCache]:
    """A directory of 20 nodes behind the real verification, and a client that draws from a fixed seed."""
    worker = FakeWorker(MAKER)
    bundles = [Maker().bundle() for _ in range(20)]
    reply = MAKER.reply(*bundles, seq=1)
    transport = DirectTransport(worker)

    async def directory() -> bytes:
        from hybrid.wire.codec import encode_directory_reply

        return encode_directory_reply(directory=reply.directory, leaf=reply.leaf)

    transport.directory = directory  # type: ignore[method-assign]
    rng = random.Random(20)  # noqa: S311 - a test repeats itself
    return worker, DirectoryCache(transport, Verifier(MAKER.policy()), now=lambda: NOW, rng=rng)


def uniform_p(seen: dict[object, int], cells: int) -> float:
    """Chance of counts this uneven when every cell is equally likely."""
    due = sum(seen.values()) / cells
    counts = [*seen.values(), *[0] * (cells - len(seen))]
    return chi_square_tail(sum((got - due) ** 2 / due for got in counts), cells - 1)


async def drawn(cache: DirectoryCache, number: int) -> list[tuple[str, ...]]:
    return [tuple(node.node_id.hex() for node in await cache.sample()) for _ in range(number)]


def test_ten_thousand_requests_to_twenty_nodes_are_spread_evenly_in_every_place() -> None:
    _, cache = of_twenty()
    draws = asyncio.run(drawn(cache, DRAWS))
    assert all(len(set(draw)) == 3 for draw in draws)
    for place in range(3):
        seen: dict[object, int] = {}
        for draw in draws:
            seen[draw[place]] = seen.get(draw[place], 0) + 1
        assert len(seen) == 20
        assert uniform_p(seen, 20) > ENOUGH_P
    assert not any(skew.alarm for skew in judge(cache.shares.counts))


def test_a_draw_that_favours_a_node_is_found_by_the_same_test_and_by_the_alarm() -> None:
    _, cache = of_twenty()
    cache._rng = Favours(random.Random(20))  # type: ignore[assignment]  # noqa: S311 - a test repeats itself
    draws = asyncio.run(drawn(cache, DRAWS))
    seen: dict[object, int] = {}
    for draw in draws:
        seen[draw[0]] = seen.get(draw[0], 0) + 1
    assert uniform_p(seen, 20) < ENOUGH_P
    first, _ = judge(cache.shares.counts)
    assert first.alarm
    assert "drawn first" in first.words


class Favours:
    """Draws the first of the list one time in thirty more often than it should."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choices(self, population: list[VerifiedNode], weights: list[int]) -> list[VerifiedNode]:
        if self._rng.random() < 1 / 30:
            return population[:1]
        return self._rng.choices(population, weights=weights)

    def uniform(self, low: float, high: float) -> float:
        return self._rng.uniform(low, high)


def exact(weights: list[int], *, ordered: bool) -> dict[object, float]:
    """Probability of each triple, or each set of three, drawn one after the other by weight, without replacement."""
    out: dict[object, float] = {}
    total = sum(weights)
    for a, b, c in itertools.permutations(range(len(weights)), 3):
        left = total - weights[a]
        p = weights[a] / total * weights[b] / left * weights[c] / (left - weights[b])
        key: object = (a, b, c) if ordered else frozenset((a, b, c))
        out[key] = out.get(key, 0.0) + p
    return out


def fit(drawn_by: list[int], judged_by: list[int], *, ordered: bool) -> float:
    """Draw by one list of weights, judge by another; returns the p of the fit."""
    nodes = listed(drawn_by)
    place = {node.node_id: n for n, node in enumerate(nodes)}
    rng = random.Random(20)  # noqa: S311 - a test repeats itself
    seen: dict[object, int] = {}
    for _ in range(DRAWS):
        three = tuple(place[node.node_id] for node in choose(nodes, k=3, rng=rng))
        assert len(set(three)) == 3
        key: object = three if ordered else frozenset(three)
        seen[key] = seen.get(key, 0) + 1
    due = exact(judged_by, ordered=ordered)
    statistic = sum((seen.get(key, 0) - DRAWS * p) ** 2 / (DRAWS * p) for key, p in due.items())
    return chi_square_tail(statistic, len(due) - 1)


def test_equal_weights_give_every_ordered_triple_of_eight_nodes_its_share() -> None:
    equal = [1] * 8
    assert len(exact(equal, ordered=True)) == 336
    assert fit(equal, equal, ordered=True) > ENOUGH_P


def test_weights_give_every_set_its_share_and_a_draw_that_ignores_them_is_found() -> None:
    weights = [1, 2, 3, 4, 1, 2, 3, 4]
    assert len(exact(weights, ordered=False)) == 56
    assert fit(weights, weights, ordered=False) > ENOUGH_P
    assert fit([1] * 8, weights, ordered=False) < ENOUGH_P


def test_a_node_that_does_not_verify_is_never_drawn() -> None:
    maker = Maker()
    bad = maker.bundle_signed_by(Maker().identity)
    good = [Maker().bundle() for _ in range(4)]
    verified = maker.verified(bad, *good, weights=[1, 1, 1, 1, 1])
    assert [dropped.check for dropped in verified.dropped] == ["bundle.signature"]
    rng = random.Random(3)  # noqa: S311 - a test repeats itself
    met = {node.node_id for _ in range(200) for node in choose(verified.nodes, k=3, rng=rng)}
    assert met == {bundle.statement.identity.node_id for bundle in good}


def test_a_small_directory_gives_as_many_candidates_as_it_has() -> None:
    assert choose(NODES, k=3, rng=random.Random(1)) == NODES  # noqa: S311 - a test repeats itself


def test_two_clients_ask_with_the_same_bytes_and_are_shown_the_same_bytes() -> None:
    from hybrid.cloud import GrpcTransport

    async def run() -> None:
        worker = FakeWorker(live())
        node = GrpcNode(worker)
        asked: list[bytes] = []
        reply = worker.directory()
        node.get = recording(asked, reply)  # type: ignore[method-assign]
        async with node.serving():
            first, second = GrpcTransport(node.address), GrpcTransport(node.address)
            assert await first.directory() == await second.directory() == reply
            await first.close()
            await second.close()
        assert asked == [b"", b""]

    asyncio.run(run())


def recording(asked: list[bytes], reply: bytes) -> Callable[..., object]:
    from hybrid.wire.codec import split_parts

    async def get(request: bytes, context: object) -> object:
        asked.append(request)
        for part in split_parts(reply):
            yield part

    return get
