"""Keys, and the behaviours of the cryptography library that the protocol leans on (SPEC 2)."""

import hashlib
import hmac

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from hybrid.wire.constants import KEY_PACKAGE_BYTES, SUITE
from hybrid.wire.encoding import cat
from hybrid.wire.errors import BadVersion, Malformed, Rejected, SignatureFailure
from hybrid.wire.keys import EpochKey, Identity, IdentityKey, KeyConfig, hpke_suite

SEED = bytes(range(32))
KEY = EpochKey.from_seed(SEED, 7, 300)
PLAIN = b"\x01" * 65


def test_a_sealed_package_has_1201_bytes_and_opens() -> None:
    package = KEY.config.encrypt(PLAIN, b"info")
    assert len(package) == KEY_PACKAGE_BYTES == 1201
    assert KEY.decrypt(package, b"info") == PLAIN


@pytest.mark.parametrize("length", [0, 1, 1120, 1200, 1202])
def test_a_package_of_another_length_is_rejected(length: int) -> None:
    with pytest.raises(Rejected):
        KEY.decrypt((KEY.config.encrypt(PLAIN, b"info") + b"\0")[:length], b"info")


def test_wrong_info_and_wrong_key_are_rejected_alike() -> None:
    package = KEY.config.encrypt(PLAIN, b"info")
    for key, info in ((KEY, b"Info"), (EpochKey.generate(7, 300), b"info")):
        with pytest.raises(Rejected) as caught:
            key.decrypt(package, info)
        assert str(caught.value) == ""


def test_the_library_gives_one_error_for_wrong_key_wrong_info_and_short_input() -> None:
    package = KEY.config.encrypt(PLAIN, b"info")
    for sealed, info in ((package, b"Info"), (package[:-1], b"info"), (package[:40], b"info"), (b"", b"info")):
        with pytest.raises(InvalidTag):
            hpke_suite().decrypt(sealed, KEY._private, info)


def _xwing_shared_secret(encapsulated: bytes) -> bytes:
    """Decapsulate by hand: draft-connolly-cfrg-xwing-kem, sections 5.2 and 5.4."""
    expanded = hashlib.shake_256(SEED).digest(96)
    mlkem, x25519 = (
        MLKEM768PrivateKey.from_seed_bytes(expanded[:64]),
        X25519PrivateKey.from_private_bytes(expanded[64:]),
    )
    first = mlkem.decapsulate(encapsulated[:1088])
    second = x25519.exchange(X25519PublicKey.from_public_bytes(encapsulated[1088:]))
    public = x25519.public_key().public_bytes_raw()
    return hashlib.sha3_256(first + second + encapsulated[1088:] + public + b"\\.//^\\").digest()


def _hpke_key_and_nonce(shared: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Run the base mode key schedule by hand: RFC 9180, section 5.1, with the registered ids of our suite."""
    suite = b"HPKE" + SUITE[:6]

    def extract(salt: bytes, label: bytes, ikm: bytes) -> bytes:
        return hmac.digest(salt or bytes(32), b"HPKE-v1" + suite + label + ikm, hashlib.sha256)

    def expand(prk: bytes, label: bytes, context: bytes, length: int) -> bytes:
        labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + context
        return HKDFExpand(algorithm=SHA256(), length=length, info=labelled).derive(prk)

    context = b"\0" + extract(b"", b"psk_id_hash", b"") + extract(b"", b"info_hash", info)
    secret = extract(shared, b"secret", b"")
    return expand(secret, b"key", context, 32), expand(secret, b"base_nonce", context, 12)


def test_a_package_opens_with_x_wing_and_rfc_9180_done_by_hand() -> None:
    package = KEY.config.encrypt(PLAIN, b"info")
    key, nonce = _hpke_key_and_nonce(_xwing_shared_secret(package[:1120]), b"info")
    assert AESGCM(key).decrypt(nonce, package[1120:], b"") == PLAIN


def test_key_configuration_and_identity_have_the_protocols_lengths() -> None:
    assert (len(KEY.config.encode()), len(KEY.config.key_id)) == (1240, 16)
    identity = IdentityKey.generate()
    assert (len(identity.public.encode()), len(identity.public.node_id)) == (1988, 32)
    assert len(identity.sign("bundle", b"")) == 3373


def test_no_key_passes_under_another_epoch_period_or_suite() -> None:
    config = KEY.config
    ids = {
        KeyConfig(
            suite=suite, epoch=epoch, epoch_s=epoch_s, mlkem_pk=config.mlkem_pk, x25519_pk=config.x25519_pk
        ).key_id
        for suite in (SUITE, bytes(8))
        for epoch in (7, 8)
        for epoch_s in (300, 301)
    }
    assert len(ids) == 8


@pytest.mark.parametrize("x25519_pk", [bytes(32), (1).to_bytes(32, "little")])
def test_a_low_order_x25519_key_takes_no_encryption(x25519_pk: bytes) -> None:
    X25519PublicKey.from_public_bytes(x25519_pk)  # it does import: only sealing finds it
    config = KeyConfig(epoch=7, epoch_s=300, mlkem_pk=KEY.config.mlkem_pk, x25519_pk=x25519_pk)
    with pytest.raises(Malformed):
        config.encrypt(PLAIN, b"")


def test_an_ml_kem_key_that_is_not_reduced_does_not_import() -> None:
    config = KeyConfig(epoch=7, epoch_s=300, mlkem_pk=b"\xff" * 1152 + bytes(32), x25519_pk=KEY.config.x25519_pk)
    with pytest.raises(ValueError, match=r"."):
        MLKEM768PublicKey.from_public_bytes(config.mlkem_pk)
    with pytest.raises(Malformed):
        config.hpke_public_key()


def test_another_suite_is_refused_before_its_keys_are_read() -> None:
    config = KeyConfig(suite=b"\0" * 8, epoch=7, epoch_s=300, mlkem_pk=bytes(1184), x25519_pk=bytes(32))
    with pytest.raises(BadVersion):
        config.encrypt(PLAIN, b"")


def test_both_halves_of_a_signature_must_verify() -> None:
    first, second = IdentityKey.generate(), IdentityKey.generate()
    mine, others = first.sign("bundle", b"m"), second.sign("bundle", b"m")
    first.public.verify("bundle", b"m", mine)  # positive control
    for signature in (mine[:64] + others[64:], others[:64] + mine[64:], others, mine[:-1], b""):
        with pytest.raises(SignatureFailure):
            first.public.verify("bundle", b"m", signature)


def test_a_signature_counts_under_its_label_and_message_alone() -> None:
    key = IdentityKey.generate()
    signature = key.sign("bundle", b"m")
    for label, message in (("receipt", b"m"), ("bundle", b"M")):
        with pytest.raises(SignatureFailure):
            key.public.verify(label, message, signature)


def test_an_identity_whose_keys_do_not_import_verifies_nothing() -> None:
    key = IdentityKey.generate()
    broken = Identity(ed25519_pk=key.public.ed25519_pk, mldsa65_pk=bytes(1952))
    with pytest.raises(SignatureFailure):
        broken.verify("bundle", b"m", key.sign("bundle", b"m"))


def test_ml_dsa_signs_with_an_empty_context() -> None:
    key = IdentityKey.generate()
    signature = key.sign("bundle", b"m")
    key._mldsa65.public_key().verify(signature[64:], cat("sig bundle", b"m"), b"")
