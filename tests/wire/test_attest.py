"""What ``Evidence.Attest`` carries: one encoding, its limits, and a binding that hangs on every part."""

import pytest

from hybrid.wire.attest import MAX_NONCES, AttestReply, nonce_binding
from hybrid.wire.codec import (
    decode_attest_request,
    decode_log_path,
    decode_node_ref,
    encode_attest_request,
    encode_log_path,
    encode_node_ref,
)
from hybrid.wire.errors import Malformed
from hybrid.wire.evidence import EvidenceItem

NONCES = (bytes(32), b"\x01" * 32)
ITEM = EvidenceItem(format="tpm2", item=b"quote")
REPLY = AttestReply(nonces=NONCES, items=(ITEM,))


def test_a_reply_reads_back_as_it_was_written() -> None:
    assert AttestReply.decode(REPLY.encode()) == REPLY


@pytest.mark.parametrize("cut", range(len(REPLY.encode())))
def test_no_beginning_of_a_reply_is_one(cut: int) -> None:
    with pytest.raises(Malformed):
        AttestReply.decode(REPLY.encode()[:cut])


@pytest.mark.parametrize("number", [0, MAX_NONCES + 1])
def test_a_reply_holds_1_to_256_nonces(number: int) -> None:
    with pytest.raises(Malformed):
        AttestReply(nonces=(bytes(32),) * number, items=(ITEM,)).encode()
    assert AttestReply(nonces=(bytes(32),) * MAX_NONCES, items=(ITEM,)).encode()


def test_every_part_is_in_the_binding() -> None:
    bindings = {
        nonce_binding(bytes(32), NONCES, (), "tpm2"),
        nonce_binding(b"\x01" * 32, NONCES, (), "tpm2"),
        nonce_binding(bytes(32), NONCES[::-1], (), "tpm2"),
        nonce_binding(bytes(32), NONCES[:1], (), "tpm2"),
        nonce_binding(bytes(32), NONCES, (ITEM,), "tpm2"),
        nonce_binding(bytes(32), NONCES, (), "sev-snp"),
    }
    assert len(bindings) == 6
    assert all(len(binding) == 64 for binding in bindings)


def test_requests_read_back_and_refuse_other_lengths() -> None:
    assert decode_log_path(encode_log_path("tile/0/000")) == "tile/0/000"
    assert decode_node_ref(encode_node_ref(bytes(32))) == bytes(32)
    assert decode_attest_request(encode_attest_request(bytes(32), NONCES[1])) == (bytes(32), NONCES[1])
    for data in (encode_node_ref(bytes(31)), encode_attest_request(bytes(32), b""), b"\xff"):
        with pytest.raises(Malformed):
            (decode_node_ref if len(data) == 33 else decode_attest_request)(data)
