"""tlog-proof@v1: what is exported can be checked with nothing else, and only for its own entry."""

from dataclasses import replace

import pytest

from hybrid.wire.checkpoint import Checkpoint
from hybrid.wire.encoding import to_base64
from hybrid.wire.errors import Malformed, NonCanonical, Oversized, ProofFailure, SignatureFailure
from hybrid.wire.merkle import inclusion_proof, leaf_hash, root
from hybrid.wire.note import NoteSigner, NoteVerifier
from hybrid.wire.tlog_proof import TlogProof

LOG = NoteSigner.from_seed("example.com/log", b"\x01" * 32)
KEY = NoteVerifier.parse(LOG.vkey)
ENTRIES = [f"entry {number}".encode() for number in range(7)]
LEAVES = [leaf_hash(entry) for entry in ENTRIES]
POINT = Checkpoint(origin="example.com/log", size=7, root=root(LEAVES))
NOTE = LOG.sign(POINT.encode_text())
PROOF = TlogProof(index=5, hashes=inclusion_proof(LEAVES, 5), checkpoint=NOTE)


def test_a_proof_reads_as_c2sp_writes_it() -> None:
    hashes = "".join(f"{to_base64(value)}\n" for value in PROOF.hashes)
    assert PROOF.encode() == f"c2sp.org/tlog-proof@v1\nindex 5\n{hashes}\n".encode() + NOTE
    with_extra = replace(PROOF, extra=b"page-v1.2.1")
    assert with_extra.encode().split(b"\n")[1] == b"extra " + to_base64(b"page-v1.2.1").encode()
    alone = TlogProof(index=0, hashes=(), checkpoint=NOTE)
    for proof in (PROOF, with_extra, alone):
        assert TlogProof.parse(proof.encode()) == proof


@pytest.mark.parametrize("index", range(7))
def test_a_proof_holds_for_its_own_entry_alone(index: int) -> None:
    proof = TlogProof(index=index, hashes=inclusion_proof(LEAVES, index), checkpoint=NOTE)
    assert proof.check(ENTRIES[index], KEY) == POINT
    for other in range(7):
        if other != index:
            with pytest.raises(ProofFailure):
                proof.check(ENTRIES[other], KEY)
            with pytest.raises(ProofFailure):
                replace(proof, index=other).check(ENTRIES[index], KEY)
    with pytest.raises(SignatureFailure):
        proof.check(ENTRIES[index], NoteVerifier.parse(NoteSigner.generate("example.com/log").vkey))
    with pytest.raises(Malformed):
        replace(proof, checkpoint=b"").check(ENTRIES[index], KEY)


def test_no_byte_of_a_proof_may_change() -> None:
    data = PROOF.encode()
    for at in range(len(data)):
        with pytest.raises((Malformed, ProofFailure, SignatureFailure)):
            TlogProof.parse(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]).check(ENTRIES[5], KEY)


HASH = to_base64(bytes(32))


@pytest.mark.parametrize(
    "head",
    [
        "",
        "c2sp.org/tlog-proof@v2\nindex 0",
        "c2sp.org/tlog-proof@v1",
        "c2sp.org/tlog-proof@v1\n",
        f"c2sp.org/tlog-proof@v1\n{HASH}",
        "c2sp.org/tlog-proof@v1\nindex",
        "c2sp.org/tlog-proof@v1\nindex -5",
        "c2sp.org/tlog-proof@v1\nindex 05",
        "c2sp.org/tlog-proof@v1\nindex five",
        "c2sp.org/tlog-proof@v1\nindex 0 ",
        "c2sp.org/tlog-proof@v1\nindex 0\nindex 0",
        "c2sp.org/tlog-proof@v1\nextra !!\nindex 0",
        "c2sp.org/tlog-proof@v1\nextra \nindex 0",
        "c2sp.org/tlog-proof@v1\nextra AAAA\nextra AAAA\nindex 0",
        "c2sp.org/tlog-proof@v1\nindex 0\nextra AAAA",
        "c2sp.org/tlog-proof@v1\nindex 0\n!!",
        f"c2sp.org/tlog-proof@v1\nindex 0\n{to_base64(bytes(64))}",
        f"c2sp.org/tlog-proof@v1\nindex 0\n{HASH} ",
        "c2sp.org/tlog-proof@v1\nindex 0\u00e9",
        "c2sp.org/tlog-proof@v1\nindex 0" + f"\n{HASH}" * 64,
    ],
)
def test_what_is_no_proof_is_malformed(head: str) -> None:
    TlogProof.parse(b"c2sp.org/tlog-proof@v1\nindex 0\n\n" + NOTE)  # control
    with pytest.raises(Malformed):
        TlogProof.parse(f"{head}\n\n".encode() + NOTE)


def test_a_proof_has_an_end_and_one_spelling() -> None:
    with pytest.raises(Oversized):
        TlogProof.parse(bytes(200_000))
    with pytest.raises(NonCanonical):
        TlogProof.parse(f"c2sp.org/tlog-proof@v1\nindex 0\n{HASH[:-2]}B=\n\n".encode() + NOTE)
