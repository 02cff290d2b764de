"""One caller's kept context is no other caller's: by counters in every run, by waiting time in the long form (S8).

The attack is the published one: ask what a victim may have asked, and see whether it goes faster. Its control is the
same node with the salt taken out, on which it must succeed.
"""

import json
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid.wire.types import Chunk
from pcc_server.cache_partition import partition
from tests.pcc_server.engine_process import EngineProcess
from tests.pcc_server.leaks import leaks
from tests.pcc_server.node_client import COMMAND, Client, Node, ask, collect
from tests.pcc_server.worker_build import worker_after

TRIALS = 200
WITHIN = 0.07
TELLS = 0.75  # of the control, also on a busy machine
ENGINES = ["openai", pytest.param("mlx", marks=pytest.mark.model)]
WORDS = {"openai": 200, "mlx": 60}


# A node whose worker puts every request into one partition.
WITHOUT_SALTS = worker_after("from pcc_server import cache_partition; cache_partition.partition = lambda *_: 'shared'")


@contextmanager
def serving(engine: str, folder: Path, *, salted: bool = True) -> Iterator[Node]:
    """A node with its prefix cache on; without salts it is the test build."""
    command = COMMAND if salted else WITHOUT_SALTS
    cache = {"cache": {"prefix": "salted"}}
    if engine == "openai":
        with (
            EngineProcess("vllm", "--word-s", "0.0003") as process,
            Node(*process.options(folder, **cache), engine="openai", command=command) as node,
        ):
            yield node
        return
    path = folder / "node.toml"
    path.write_text('[cache]\nprefix = "salted"\n')
    with Node("--config", str(path), "--model", "starter", engine="mlx", command=command) as node:
        yield node


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - words, not secrets


def prompt(engine: str, rng: random.Random) -> str:
    return " ".join(
        f"{rng.choice(('red', 'blue', 'green', 'old', 'new'))}{rng.randrange(10)}" for _ in range(WORDS[engine])
    )


def asked(client: Client, text: str, salt: bytes) -> tuple[int, float]:
    """Ask for one token; returns the tokens said to come from the cache, and seconds until the first text."""
    request = replace(ask(text, max_tokens=1), cache_salt=salt)
    sealed, opener = client.seal(request)
    begun, first = time.perf_counter(), 0.0

    def timed() -> Iterator[bytes]:
        nonlocal first
        for message in client.send(client.encode(sealed)):
            first = time.perf_counter()  # one token: the last message follows the first words at once
            yield message

    answer = collect(timed(), opener)
    assert any(isinstance(event, Chunk) for event in answer.events)
    return answer.usage.usage.cached_input, first - begun


@pytest.mark.parametrize("engine", ENGINES)
def test_only_the_same_salt_hits(engine: str, tmp_path: Path) -> None:
    with serving(engine, tmp_path) as node, Client(node) as victim, Client(node) as stranger:
        salt, text = secrets.token_bytes(32), prompt(engine, seeded(1))
        assert asked(victim, text, salt)[0] == 0
        assert asked(victim, text, salt)[0] > 0  # control: the cache works, and is told to whom it belongs
        assert asked(victim, text, secrets.token_bytes(32))[0] == 0
        assert asked(victim, text, b"")[0] == 0
        assert asked(victim, text, b"")[0] == 0  # no salt: not even one's own
        assert asked(stranger, text, secrets.token_bytes(16))[0] == 0
        assert asked(stranger, text, salt[:16])[0] == 0
        assert asked(victim, text, salt)[0] > 0  # all this time it was there
        assert not leaks(salt.hex(), *node.stdout, *node.stderr)


@pytest.mark.parametrize("engine", ENGINES)
def test_control_without_the_salt_the_attack_succeeds(engine: str, tmp_path: Path) -> None:
    with serving(engine, tmp_path, salted=False) as node, Client(node) as client:
        text = prompt(engine, seeded(2))
        assert asked(client, text, secrets.token_bytes(32))[0] == 0
        assert asked(client, text, secrets.token_bytes(32))[0] > 0


def test_with_the_cache_off_a_salt_has_no_effect(tmp_path: Path) -> None:
    with (
        EngineProcess("vllm") as process,
        Node(*process.options(tmp_path), engine="openai") as node,
        Client(node) as client,
    ):
        salt = secrets.token_bytes(32)
        assert [asked(client, "the same words", salt)[0] for _ in range(2)] == [0, 0]


def test_the_engine_never_sees_a_callers_salt_and_no_name_twice_without_one(tmp_path: Path) -> None:
    with (
        EngineProcess("vllm") as process,
        Node(*process.options(tmp_path, cache={"prefix": "salted"}), engine="openai") as node,
        Client(node) as client,
    ):
        salt, before = secrets.token_bytes(32), len(process.asked)
        for one in (salt, salt, b"", b""):
            asked(client, "words", one)
        names = [str(body["cache_salt"]) for body in process.asked[before:]]
        assert names[0] == names[1]
        assert len({*names}) == 3
        assert not leaks(salt.hex(), json.dumps(process.said))
    assert {len(name) for name in names} == {64}


def test_a_partition_needs_secret_salt_and_model_together() -> None:
    secret, salt, manifest = bytes(32), bytes(range(32)), bytes(32)
    name = partition(secret, salt, manifest)
    assert len(bytes.fromhex(name)) == 32
    assert name == partition(secret, salt, manifest)
    others = [(b"\1" * 32, salt, manifest), (secret, salt[:16], manifest), (secret, salt, b"\1" * 32)]
    assert len({name, *(partition(*other) for other in others)}) == 4
    assert partition(secret, b"", manifest) == ""


# --- the long form ---------------------------------------------------------------------------------


def auc(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How often a time of ``slow`` is above one of ``fast``; ties count half."""
    above = sum((one > other) + (one == other) / 2 for one in slow for other in fast)
    return above / (len(slow) * len(fast))


def attack(engine: str, client: Client, trials: int) -> tuple[float, float]:
    """The victim asks; then the stranger asks that and something new, in random order, with a salt and without.

    Returns the AUC of new against known prompts for both.
    """
    rng = seeded(3)
    times: dict[tuple[bool, bool], list[float]] = {
        (known, salt): [] for known in (True, False) for salt in (True, False)
    }
    for trial in range(trials):
        if not trial % 20:
            client.refresh()  # a slow model takes longer over all trials than a key lives
        text = prompt(engine, rng)
        asked(client, text, secrets.token_bytes(32))
        probes = [(known, salt) for known in (True, False) for salt in (True, False)]
        rng.shuffle(probes)
        for known, salt in probes:
            one = text if known else prompt(engine, rng)
            times[known, salt].append(asked(client, one, secrets.token_bytes(32) if salt else b"")[1])
    return tuple(auc(times[False, salt], times[True, salt]) for salt in (True, False))  # type: ignore[return-value]


@pytest.mark.soak
@pytest.mark.parametrize("engine", ENGINES)
def test_waiting_tells_nothing(engine: str, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    with serving(engine, tmp_path) as node, Client(node) as client:
        found = attack(engine, client, TRIALS)
        record_property("auc", found)
        assert all(abs(one - 0.5) <= WITHIN for one in found), found


@pytest.mark.soak
@pytest.mark.parametrize("engine", ENGINES)
def test_control_waiting_tells_all_without_the_salt(engine: str, tmp_path: Path) -> None:
    with serving(engine, tmp_path, salted=False) as node, Client(node) as client:
        rng, known, new = seeded(4), [], []
        for _ in range(TRIALS // 5):
            text = prompt(engine, rng)
            asked(client, text, secrets.token_bytes(32))
            known.append(asked(client, text, secrets.token_bytes(32))[1])
            new.append(asked(client, prompt(engine, rng), secrets.token_bytes(32))[1])
        assert auc(new, known) > TELLS
