"""Every vector, ours and others': it comes out as it says, and a flipped byte changes the outcome (SPEC 18)."""

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid.conformance.cases import TEXT, Case, Values, own_cases
from hybrid.conformance.foreign import SUITES, THEIRS, foreign_cases
from hybrid.conformance.outcomes import KINDS, outcome_of
from hybrid.conformance.runner import disagreement, here

OWN = {f"{case.suite}: {case.name}": case for case in own_cases()}
ACCEPTED = {name: case for name, case in OWN.items() if case.accepts}
GENERATOR = Path(__file__).parents[2] / ".ci" / "vectors.py"


@pytest.mark.parametrize("name", OWN)
def test_a_vector_of_ours_comes_out_as_it_says(name: str) -> None:
    assert disagreement(OWN[name], here(OWN[name])) == ""


@pytest.mark.parametrize("name", ACCEPTED)
def test_one_flipped_byte_in_any_field_of_a_positive_vector_fails(name: str) -> None:
    case = ACCEPTED[name]
    for field, changed in _flips(case.given):
        if _judged(case, field):
            assert outcome_of(case.kind, changed) != ("success", case.output), field


def test_vectors_have_names_of_their_own_and_flippable_bytes() -> None:
    listed = [(case.suite, case.name) for case in own_cases()]
    assert len(set(listed)) == len(listed)
    bare = [name for name, case in ACCEPTED.items() if not list(_flips(case.given))]
    assert all(OWN[name].kind in {"tile_path", "log_policy", "trust_file", "merkle_tree"} for name in bare), bare


def test_every_section_with_bytes_has_vectors_and_most_have_negative_ones() -> None:
    sections = {case.section for case in OWN.values()}
    assert {"1", "2", "3", "4", "5", "6", "7", "8", "9", "13", "16"} <= sections
    assert len(OWN) - len(ACCEPTED) >= len(ACCEPTED)


def test_every_kind_of_case_has_one_that_is_accepted_and_one_that_is_not() -> None:
    cases = [*OWN.values(), *foreign_cases()]
    computing = {"cat", "expand", "hkdf", "epoch_key", "binding", "body_seal", "key_package_info", "reply_secrets"}
    computing |= {"frames", "merkle_tree", "checkpoint_digest"}
    assert {case.kind for case in cases if case.accepts} == set(KINDS)
    assert {case.kind for case in cases if not case.accepts} == set(KINDS) - computing


def test_the_vectors_are_what_the_generator_makes() -> None:
    done = subprocess.run([sys.executable, str(GENERATOR), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("suite", SUITES)
def test_every_vector_of_others_comes_out_as_it_says(suite: str) -> None:
    assert (THEIRS / suite).is_dir(), f"the vectors of others are not beside this checkout: ../shared/vectors/{suite}"
    cases = list(SUITES[suite](THEIRS / suite))
    assert cases
    assert [f"{case.name}: {got}" for case in cases if (got := disagreement(case, here(case)))] == []


COUNTS = {  # accepts and rejects that others' files hold, by ORIGINS.md and protocol B3
    "c2sp-chunked-encryption": (10, 25),
    "rfc6962-merkle": (7, 98),
    "tcg-event-log": (7, 14),
}


@pytest.mark.parametrize("suite", COUNTS)
def test_no_case_of_others_is_left_out(suite: str) -> None:
    cases = list(SUITES[suite](THEIRS / suite))
    accepts = sum(case.accepts for case in cases)
    assert (accepts, len(cases) - accepts) == COUNTS[suite]


@pytest.mark.parametrize(
    "suite", sorted(SUITES.keys() - {"tcg-event-log"})
)  # a log is proved by a quote, never by itself
def test_one_flipped_byte_in_a_positive_vector_of_others_fails(suite: str) -> None:
    for case in SUITES[suite](THEIRS / suite):
        for field, changed in _flips(case.given) if case.accepts else ():
            if _judged(case, field):
                assert outcome_of(case.kind, changed) != ("success", case.output), f"{case.name}: {field}"


def _judged(case: Case, field: str) -> bool:
    """Whether a field decides the outcome.

    A proof reads some hashes of a tile, any tree adds to the empty one, and one of the candidates answers.
    """
    if field.startswith("tiles") and case.kind != "tile_root":
        return False
    if case.kind == "reply" and field.startswith(("secrets.", "candidates.")):
        return int(field.split(".")[1]) == int(case.given["messages"][0]["head"][:2], 16)
    return not (field == "root" and case.given.get("old_size") == 0)


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


def test_the_flip_finds_a_case_that_ignores_a_field() -> None:
    """Positive control: a kind that looks at one of two fields survives a flip of the other."""
    given = {"label": "ek", "items": ["6162"], "unused": "00"}
    whole = outcome_of("cat", given)
    same = [field for field, changed in _flips(given) if outcome_of("cat", changed) == whole]
    assert same == ["unused"]


def test_an_untyped_error_is_a_disagreement() -> None:
    """Positive control: a case whose input makes this library fail otherwise than by its own errors is not passed."""
    broken = Case(suite="s", name="n", section="1", kind="cat", given={}, expect="malformed")
    assert disagreement(broken, here(broken)) == "untyped_error: KeyError"
