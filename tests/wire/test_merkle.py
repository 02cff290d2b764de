"""RFC 6962 trees and proofs: against the RFC's own recursion, and against 105 cases of transparency-dev/merkle."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from hybrid.wire.errors import Misuse, ProofFailure
from hybrid.wire.merkle import (
    check_consistency,
    check_inclusion,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
)
from tests.wire.foreign import hashes, merkle_cases

LEAVES = [leaf_hash(f"entry {number}".encode()) for number in range(40)]


# --- the definitions of RFC 6962, section 2.1, word by word -----------------------------------------


def k_of(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def mth(d: Sequence[bytes]) -> bytes:
    if not d:
        return hashlib.sha256(b"").digest()
    return d[0] if len(d) == 1 else node_hash(mth(d[: k_of(len(d))]), mth(d[k_of(len(d)) :]))


def path(m: int, d: Sequence[bytes]) -> tuple[bytes, ...]:
    if len(d) == 1:
        return ()
    k = k_of(len(d))
    return (*path(m, d[:k]), mth(d[k:])) if m < k else (*path(m - k, d[k:]), mth(d[:k]))


def subproof(m: int, d: Sequence[bytes], *, whole: bool) -> tuple[bytes, ...]:
    if m == len(d):
        return () if whole else (mth(d),)
    k = k_of(len(d))
    if m <= k:
        return (*subproof(m, d[:k], whole=whole), mth(d[k:]))
    return (*subproof(m - k, d[k:], whole=False), mth(d[:k]))


@pytest.mark.parametrize("size", range(41))
def test_roots_and_proofs_are_those_of_the_rfc_and_hold(size: int) -> None:
    tree = LEAVES[:size]
    assert root(tree) == mth(tree)
    for index in range(size):
        proof = inclusion_proof(tree, index)
        assert proof == path(index, tree)
        check_inclusion(leaf=tree[index], index=index, size=size, proof=proof, root=root(tree))
    for old in range(size + 1):
        proof = consistency_proof(tree, old)
        assert proof == (subproof(old, tree, whole=True) if old else ())
        check_consistency(old_size=old, old_root=root(tree[:old]), new_size=size, new_root=root(tree), proof=proof)


def test_a_leaf_and_a_node_with_the_same_bytes_hash_differently() -> None:
    left, right = LEAVES[:2]
    assert leaf_hash(left + right) != node_hash(left, right)
    assert root([]) == hashlib.sha256(b"").digest()


# --- what must not hold -------------------------------------------------------------------------


def changed(proof: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
    """Every proof one hash away: a bit flipped, one missing, one too many, two swapped, one cut short."""
    flipped = [(*proof[:at], bytes((proof[at][0] ^ 1,)) + proof[at][1:], *proof[at + 1 :]) for at in range(len(proof))]
    missing = [(*proof[:at], *proof[at + 1 :]) for at in range(len(proof))]
    added = [(*proof, LEAVES[0]), (LEAVES[0], *proof), (b"", *proof)]
    swapped = [(*proof[:at], proof[at + 1], proof[at], *proof[at + 2 :]) for at in range(len(proof) - 1)]
    return [*flipped, *missing, *added, *swapped, *([(proof[0][:-1], *proof[1:])] if proof else [])]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 13])
def test_an_inclusion_proof_holds_for_its_leaf_index_size_and_root_alone(size: int) -> None:
    tree = LEAVES[:size]
    for index in range(size):
        good: dict[str, Any] = {
            "leaf": tree[index],
            "index": index,
            "size": size,
            "proof": inclusion_proof(tree, index),
            "root": root(tree),
        }
        wrong = [{**good, "proof": proof} for proof in changed(good["proof"])]
        wrong += [{**good, "index": other} for other in range(-1, size + 2) if other != index]
        wrong += [{**good, "leaf": LEAVES[-1]}, {**good, "root": LEAVES[-1]}, {**good, "root": b""}]
        wrong += [{**good, "size": other} for other in (0, index, 2**63, 2**64) if other != size]
        check_inclusion(**good)
        assert all(refused(check_inclusion, case) for case in wrong)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 13])
def test_a_consistency_proof_holds_for_its_two_trees_alone(size: int) -> None:
    tree = LEAVES[:size]
    for old in range(size + 1):
        good: dict[str, Any] = {
            "old_size": old,
            "old_root": root(tree[:old]),
            "new_size": size,
            "new_root": root(tree),
            "proof": consistency_proof(tree, old),
        }
        wrong = [{**good, "proof": proof} for proof in changed(good["proof"])]
        wrong += [{**good, "old_size": -1}, {**good, "old_size": size + 1}, {**good, "new_size": 2**63}]
        wrong += [{**good, "old_root": LEAVES[-1]}, {**good, "old_root": b""}]
        if old:  # anything may be added to the empty tree, so only then is the new root not proved
            wrong.append({**good, "new_root": LEAVES[-1]})
        if 0 < old < size:
            wrong.append({**good, "old_root": LEAVES[-1], "new_root": LEAVES[-1]})
        check_consistency(**good)
        assert all(refused(check_consistency, case) for case in wrong)


def refused(check: Callable[..., None], case: dict[str, Any]) -> bool:
    try:
        check(**case)
    except ProofFailure:
        return True
    raise AssertionError(case)


@pytest.mark.parametrize(
    "make", [lambda: inclusion_proof(LEAVES, 40), lambda: inclusion_proof([], 0), lambda: consistency_proof(LEAVES, 41)]
)
def test_a_proof_about_what_is_not_there_is_misuse(make: Callable[[], object]) -> None:
    with pytest.raises(Misuse):
        make()


# --- cases made by others -----------------------------------------------------------------------


def inclusion(case: dict[str, Any]) -> dict[str, Any]:
    return {
        "leaf": base64.b64decode(case["leafHash"]),
        "index": case["leafIdx"],
        "size": case["treeSize"],
        "proof": hashes(case),
        "root": base64.b64decode(case["root"]),
    }


def consistency(case: dict[str, Any]) -> dict[str, Any]:
    return {
        "old_size": case["size1"],
        "old_root": base64.b64decode(case["root1"]),
        "new_size": case["size2"],
        "new_root": base64.b64decode(case["root2"]),
        "proof": hashes(case),
    }


@pytest.mark.parametrize(
    ("kind", "check", "read", "count"),
    [("inclusion", check_inclusion, inclusion, 52), ("consistency", check_consistency, consistency, 53)],
)
def test_every_case_of_transparency_dev_is_judged_as_they_judge_it(
    kind: str, check: Callable[..., None], read: Callable[[dict[str, Any]], dict[str, Any]], count: int
) -> None:
    cases = merkle_cases(kind)
    good = {name: read(case) for name, case in cases.items() if not case["wantErr"]}
    bad = {name: read(case) for name, case in cases.items() if case["wantErr"]}
    assert (len(good) + len(bad), len(bad)) == (count, 49)
    for case in good.values():
        check(**case)
        assert all(refused(check, {**case, "proof": proof}) for proof in changed(case["proof"]))
    assert all(refused(check, case) for case in bad.values())
