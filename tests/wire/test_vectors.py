"""Every vector of ``protos/vectors``: it comes out as it says, and a flipped byte changes the outcome."""

import copy
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.wire.vector_runner import FOLDER, TEXT, Values, load, outcome

VECTORS = dict(load())
POSITIVE = {name: vector for name, vector in VECTORS.items() if vector["expect"] == "success"}


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_comes_out_as_it_says(name: str) -> None:
    vector = VECTORS[name]
    assert outcome(vector["kind"], vector["input"]) == (vector["expect"], vector.get("output", {}))


@pytest.mark.parametrize("name", POSITIVE)
def test_one_flipped_byte_in_any_field_of_a_positive_vector_fails(name: str) -> None:
    vector = POSITIVE[name]
    flipped = list(_flips(vector["input"]))
    assert flipped
    for field, changed in flipped:
        assert outcome(vector["kind"], changed) != ("success", vector["output"]), field


def test_every_section_with_bytes_has_vectors_and_most_have_negative_ones() -> None:
    sections = {vector["section"] for vector in VECTORS.values()}
    assert {"1", "2", "3", "4", "5", "6", "7", "8", "9", "16"} <= sections
    assert len(VECTORS) - len(POSITIVE) >= len(POSITIVE)


def test_the_vectors_are_what_the_generator_makes() -> None:
    script = FOLDER.parents[1] / ".ci" / "vectors.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _flips(given: Values) -> Iterator[tuple[str, Values]]:
    """Copies of the input, each with one bit of the middle byte of one field flipped."""
    for path in _hex_fields(given, ()):
        changed = copy.deepcopy(given)
        holder: Any = changed
        for step in path[:-1]:
            holder = holder[step]
        data = bytearray.fromhex(holder[path[-1]])
        data[len(data) // 2] ^= 0x01
        holder[path[-1]] = data.hex()
        yield ".".join(map(str, path)), changed


def _hex_fields(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, member in value.items():
            if key not in TEXT:
                yield from _hex_fields(member, (*path, key))
    elif isinstance(value, list):
        for number, member in enumerate(value):
            yield from _hex_fields(member, (*path, number))
    elif isinstance(value, str) and value:
        yield path
