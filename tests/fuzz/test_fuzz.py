"""Every parser of bytes from outside, under hypothesis for a short budget; ``tests/fuzz/run.py`` runs for longer.

Only typed errors may come out. The targets and their corpus are ``tests/fuzz/targets.py``.
"""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hybrid.wire.encoding import Reader
from tests.fuzz.mutator import mutate
from tests.fuzz.targets import TYPED, Target, targets

RUN = Path(__file__).parent / "run.py"
EXAMPLES = 60


@pytest.mark.parametrize("name", targets())
def test_the_corpus_is_accepted(name: str) -> None:
    target = targets()[name]
    assert target.seeds
    assert all(target.attempt(seed) for seed in target.seeds), "a seed that is refused teaches a fuzzer nothing"


@pytest.mark.parametrize("name", targets())
def test_hostile_bytes_raise_typed_errors_only(name: str) -> None:
    target = targets()[name]

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(st.one_of(st.binary(max_size=200), st.integers(0, 2**32).map(lambda seed: _mutant(target, seed))))
    @example(b"")
    def attempt(data: bytes) -> None:
        target.attempt(data)

    attempt()


def _mutant(target: Target, seed: int) -> bytes:
    return mutate(random.Random(seed), target.seeds)  # noqa: S311 - reproducible noise, not a secret


FOUND = {  # what once came through as an untyped error
    "a number where the paravisor's JSON has text": (
        "paravisor",
        b'{"keys":[{"kid":"HCLAkPub","kty":"RSA","e":65537,"n":"x"}]}',
    ),
    "a number of 5,000 digits in a trust file": ("trust_file", b"version = " + b"1" * 5000),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once_is_refused(name: str) -> None:
    target, data = FOUND[name]
    assert not targets()[target].attempt(data)


def test_a_parser_that_lets_an_untyped_error_out_is_caught() -> None:
    """Positive control: the engine finds an IndexError behind a length byte, and the error comes through."""

    def careless(data: bytes) -> object:
        count = Reader(data).u8()
        return data[1 : count + 1][count - 1]

    target = Target(careless, (b"\x02ab",))
    assert target.attempt(b"\x02ab")
    rng = random.Random(1)  # noqa: S311 - the same
    with pytest.raises(IndexError):
        _many(target, rng)


def _many(target: Target, rng: random.Random) -> None:
    for _ in range(1000):
        target.attempt(mutate(rng, target.seeds))


def test_the_runner_prints_the_executions_it_reached() -> None:
    words = [sys.executable, str(RUN), "--seconds", "0.2", "--target", "header", "--engine", "random"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    name, executions, *_ = done.stdout.splitlines()[1].split()
    assert name == "header"
    assert int(executions.replace(",", "")) > 0


def test_typed_errors_are_the_wires_and_the_policys() -> None:
    assert {kind.__name__ for kind in TYPED} == {"WireError", "AttestationError", "ConfigurationError"}
