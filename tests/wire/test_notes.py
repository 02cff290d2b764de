"""Signed notes, cosignatures and checkpoints: the examples of C2SP, both kinds of witness, and what must not pass."""

import base64
import struct
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

from hybrid.wire.checkpoint import Checkpoint, checkpoint_digest, open_checkpoint
from hybrid.wire.cosignature import CosignatureKind, CosignatureSigner, CosignatureVerifier
from hybrid.wire.encoding import digest
from hybrid.wire.errors import Malformed, NonCanonical, Oversized, SignatureFailure
from hybrid.wire.note import Note, NoteSigner, NoteVerifier, append_signatures
from tests.wire.foreign import TESSERA_KEY, tessera_notes

EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE = (
    "This is an example message.\n\n"
    "\u2014 example.com/foo "
    "Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)
POEM = (
    "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n"
    "\u2014 quasimodo.example/salvatore "
    "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
)
SPEC_CHECKPOINT = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"

LOG = NoteSigner.from_seed("example.com/log", b"\x01" * 32)
LOG_KEY = NoteVerifier.parse(LOG.vkey)
POINT = Checkpoint(origin="example.com/log", size=7, root=b"\x07" * 32)
NOTE = LOG.sign(POINT.encode_text())
KINDS: tuple[CosignatureKind, ...] = ("ed25519", "ml-dsa-44")


# --- notes --------------------------------------------------------------------------------------


def test_the_example_of_signed_note_verifies_and_no_other_words_do() -> None:
    key = NoteVerifier.parse(EXAMPLE_KEY)
    assert key.open(EXAMPLE.encode()) == "This is an example message.\n"
    with pytest.raises(SignatureFailure):
        key.open(EXAMPLE.replace("example message", "example massage").encode())


def test_the_text_ends_at_the_last_blank_line() -> None:
    note = Note.parse(POEM.encode())
    assert note.text.endswith("sole:\n\ned è subito sera.\n")
    assert [line.name for line in note.signatures] == ["quasimodo.example/salvatore"]


def test_what_is_signed_opens_also_with_blank_lines_inside() -> None:
    for text in ("one\n", "one\n\ntwo\n", "one\n\n", "é\u2028\n"):
        assert LOG_KEY.open(LOG.sign(text)) == text


SIGNATURE = EXAMPLE.split("foo ")[1].strip()
LINE = EXAMPLE.splitlines(keepends=True)[2]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text\n",
        b"text\n\n",
        f"text\n{LINE}".encode(),  # no blank line
        EXAMPLE.encode()[:-1],  # no last newline
        EXAMPLE.encode() + b"\n",  # a second blank line: no signature after the last
        EXAMPLE.replace("\u2014", "-").encode(),
        EXAMPLE.replace("\u2014 ", "\u2014").encode(),
        EXAMPLE.replace("message", "mess\tage").encode(),
        EXAMPLE.replace("\n", "\r\n").encode(),
        EXAMPLE.replace("message", "mess\x00age").encode(),
        EXAMPLE.encode().replace(b"message", b"mess\xffage"),
        EXAMPLE.replace("com/foo", "com/f+o").encode(),
        EXAMPLE.replace("com/foo", "com/f\u00a0o").encode(),
        EXAMPLE.replace("example.com/foo ", " ").encode(),
        EXAMPLE.replace(SIGNATURE, "Uw2QOg==").encode(),  # a key id alone
        EXAMPLE.replace(SIGNATURE, "").encode(),
        EXAMPLE.replace(SIGNATURE, SIGNATURE + "!").encode(),
        EXAMPLE.replace(SIGNATURE, SIGNATURE.rstrip("=")).encode(),
        EXAMPLE.replace(SIGNATURE, SIGNATURE[:20] + " " + SIGNATURE[20:]).encode(),
        (EXAMPLE + LINE * 64).encode(),
    ],
)
def test_what_is_no_note_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        Note.parse(data)


def test_a_note_has_one_spelling_of_its_base64_and_a_largest_size() -> None:
    assert SIGNATURE.endswith("QM=")
    spelled = EXAMPLE.replace(SIGNATURE, SIGNATURE[:-2] + "N=")  # two unused bits, not zero
    assert base64.b64decode(SIGNATURE) == base64.b64decode(SIGNATURE[:-2] + "N=", validate=True)
    with pytest.raises(NonCanonical):
        Note.parse(spelled.encode())
    Note.parse((EXAMPLE + LINE * 63).encode())
    with pytest.raises(Oversized):
        Note.parse(b"a" * 65_537)


def test_lines_of_unknown_keys_are_ignored_and_a_known_one_that_fails_refuses_the_note() -> None:
    others = [NoteSigner.generate(name).sign(POINT.encode_text()) for name in ("example.com/log", "other")]
    lines = [note.decode().rpartition("\n\n")[2] for note in others]
    assert LOG_KEY.open(append_signatures(NOTE, lines)) == POINT.encode_text()
    with pytest.raises(SignatureFailure):
        LOG_KEY.open(others[0])  # the same name with another key is another signer
    wrong = LOG.sign("other text\n").decode().rpartition("\n\n")[2]
    with pytest.raises(SignatureFailure):
        LOG_KEY.open(append_signatures(NOTE, [wrong]))


def test_lines_are_appended_once_and_only_if_they_are_lines() -> None:
    line = CosignatureSigner.generate("w").cosign(POINT.encode_text(), now=lambda: 5.0)
    once = append_signatures(NOTE, [line])
    assert once == NOTE + line.encode()
    assert append_signatures(once, [line, line.removesuffix("\n")]) == once
    for broken in ("", "no line", line.replace("\u2014", "-"), f"{line}{line}"):
        with pytest.raises(Malformed):
            append_signatures(NOTE, [broken])
    many = [CosignatureSigner.generate(f"w{number}").cosign(POINT.encode_text()) for number in range(64)]
    with pytest.raises(Malformed):
        append_signatures(NOTE, many)


@pytest.mark.parametrize(
    "vkey",
    [
        EXAMPLE_KEY.replace("530d903a", "530D903A"),
        EXAMPLE_KEY.replace("530d903a", "530d903b"),
        EXAMPLE_KEY.replace("foo+", "fo+"),
        EXAMPLE_KEY[:-1],
        EXAMPLE_KEY.replace("example.com/foo", ""),
        EXAMPLE_KEY.replace("example.com/foo", "exa mple"),
        EXAMPLE_KEY.replace("example.com/foo", "\ud800"),
        "example.com/foo",
        "",
    ],
)
def test_a_key_that_is_not_written_as_itself_is_malformed(vkey: str) -> None:
    for kind in (NoteVerifier, CosignatureVerifier):
        with pytest.raises(Malformed):
            kind.parse(vkey)


# --- cosignatures -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_cosignature_tells_its_time_and_its_key_goes_round(kind: CosignatureKind) -> None:
    signer = CosignatureSigner.from_seed("witness.example/w1", b"\x02" * 32, kind)
    note = append_signatures(NOTE, [signer.cosign(POINT.encode_text(), now=lambda: 1_679_315_147.9)])
    key = CosignatureVerifier.parse(signer.vkey)
    assert (key.vkey, key.name) == (signer.vkey, "witness.example/w1")
    assert key.time(Note.parse(note)) == 1_679_315_147
    assert open_checkpoint(note, LOG_KEY) == POINT
    assert signer.vkey not in repr(signer)


def test_the_signed_messages_are_byte_for_byte_those_of_c2sp() -> None:
    """Built here a second time, from the words of tlog-cosignature."""
    classic = CosignatureSigner.from_seed("witness.example/w1", b"\x02" * 32, "ed25519")
    lattice = CosignatureSigner.from_seed("witness.example/w2", b"\x03" * 32, "ml-dsa-44")
    now = 1_679_315_147

    def signature(signer: CosignatureSigner) -> bytes:
        raw = base64.b64decode(signer.cosign(SPEC_CHECKPOINT, now=lambda: now).split(" ")[2])
        assert raw[4:12] == struct.pack(">Q", now)
        return raw[12:]

    text = f"cosignature/v1\ntime {now}\n{SPEC_CHECKPOINT}"
    Ed25519PublicKey.from_public_bytes(classic.public.raw).verify(signature(classic), text.encode())
    name, origin = b"witness.example/w2", b"example.com/behind-the-sofa"
    message = b"subtree/v1\n\x00" + bytes((len(name),)) + name + struct.pack(">Q", now) + bytes((len(origin),)) + origin
    message += struct.pack(">QQ", 0, 20_852_163) + base64.b64decode("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=")
    MLDSA44PublicKey.from_public_bytes(lattice.public.raw).verify(signature(lattice), message)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cosignature_is_about_one_tree_at_one_time_by_one_witness(kind: CosignatureKind) -> None:
    signer = CosignatureSigner.from_seed("w", b"\x02" * 32, kind)
    key = CosignatureVerifier.parse(signer.vkey)
    line = signer.cosign(POINT.encode_text(), now=lambda: 1000.0)
    raw = base64.b64decode(line.split(" ")[2])

    def with_line(changed: bytes) -> bytes:
        return NOTE + f"\u2014 w {base64.b64encode(changed).decode()}\n".encode()

    assert key.time(Note.parse(with_line(raw))) == 1000
    later = raw[:4] + struct.pack(">Q", 1001) + raw[12:]
    never = raw[:4] + struct.pack(">Q", 2**63) + raw[12:]
    for changed in (later, never, raw[:-1], raw + b"\x00", raw[:-1] + bytes((raw[-1] ^ 1,)), raw[:12]):
        with pytest.raises(SignatureFailure):
            key.time(Note.parse(with_line(changed)))
    for other in (replace(POINT, size=8), replace(POINT, root=b"\x08" * 32), replace(POINT, origin="other")):
        with pytest.raises(SignatureFailure):
            key.time(Note.parse(LOG.sign(other.encode_text()) + line.encode()))
    stranger = CosignatureVerifier.parse(CosignatureSigner.from_seed("w", b"\x03" * 32, kind).vkey)
    with pytest.raises(SignatureFailure):
        stranger.time(Note.parse(with_line(raw)))
    with pytest.raises(SignatureFailure):
        key.time(Note.parse(NOTE))


def test_the_newest_cosignature_counts_and_a_bad_one_beside_it_refuses() -> None:
    signer = CosignatureSigner.generate("w")
    times = iter((5.0, 9.0, 7.0))
    lines = [signer.cosign(POINT.encode_text(), now=lambda: next(times)) for _ in range(3)]
    key = CosignatureVerifier.parse(signer.vkey)
    note = append_signatures(NOTE, lines)
    assert key.time(Note.parse(note)) == 9
    bad = signer.cosign(replace(POINT, size=8).encode_text(), now=lambda: 8.0)
    with pytest.raises(SignatureFailure):
        key.time(Note.parse(append_signatures(note, [bad])))


def test_a_key_of_one_type_is_never_one_of_another() -> None:
    cosigner = CosignatureSigner.from_seed("example.com/log", b"\x01" * 32)
    assert cosigner.public.raw == LOG.public.raw
    assert cosigner.public.id != LOG.public.id
    with pytest.raises(Malformed):
        NoteVerifier.parse(cosigner.vkey)
    with pytest.raises(Malformed):
        CosignatureVerifier.parse(LOG.vkey)
    with pytest.raises(SignatureFailure):
        CosignatureVerifier.parse(cosigner.vkey).time(Note.parse(NOTE))


@pytest.mark.parametrize("text", ["", "no checkpoint\n", "a\n1\nAAAA\n", SPEC_CHECKPOINT[:-1]])
def test_a_witness_signs_nothing_but_checkpoints(text: str) -> None:
    for kind in KINDS:
        with pytest.raises(Malformed):
            CosignatureSigner.generate("w", kind).cosign(text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_time_of_64_bits_is_no_time(kind: CosignatureKind) -> None:
    signer = CosignatureSigner.generate("w", kind)
    signer.cosign(POINT.encode_text(), now=lambda: 2.0**62)
    with pytest.raises(Malformed):
        signer.cosign(POINT.encode_text(), now=lambda: 2.0**63)


# --- checkpoints --------------------------------------------------------------------------------


def test_checkpoints_are_read_as_they_are_written() -> None:
    point = Checkpoint.parse_text(SPEC_CHECKPOINT)
    assert (point.origin, point.size) == ("example.com/behind-the-sofa", 20_852_163)
    assert point.encode_text() == SPEC_CHECKPOINT
    extended = replace(point, extensions=("one", "two"))
    assert Checkpoint.parse_text(extended.encode_text()) == extended
    assert open_checkpoint(NOTE, LOG_KEY) == POINT


ROOT = "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\n1\n",
        f"a\n1\n{ROOT}",
        f"\n1\n{ROOT}\n",
        f"a\n01\n{ROOT}\n",
        f"a\n+1\n{ROOT}\n",
        f"a\n 1\n{ROOT}\n",
        f"a\n-1\n{ROOT}\n",
        f"a\n\u0661\n{ROOT}\n",
        f"a\n1_0\n{ROOT}\n",
        f"a\n9223372036854775808\n{ROOT}\n",
        f"a\n0\n{ROOT}\n",  # the empty tree has one root, and it is another
        "a\n1\nCsUY\n",
        f"a\n1\n{ROOT[:-2]}J=\n",
        f"a\n1\n{ROOT}\n\n",
        f"a\n1\n{ROOT}\n\nextension\n",
    ],
)
def test_a_text_that_is_no_checkpoint_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        Checkpoint.parse_text(text)


@pytest.mark.parametrize(
    "make",
    [
        lambda: replace(POINT, origin="two\nlines"),
        lambda: replace(POINT, origin=""),
        lambda: replace(POINT, root=b"short"),
        lambda: replace(POINT, size=-1),
        lambda: replace(POINT, extensions=("",)),
    ],
)
def test_a_checkpoint_that_would_not_open_is_not_written(make: Callable[[], Checkpoint]) -> None:
    with pytest.raises(Malformed):
        make().encode_text()


def test_a_log_speaks_for_its_own_origin_alone() -> None:
    with pytest.raises(SignatureFailure):
        open_checkpoint(LOG.sign(replace(POINT, origin="example.com/other").encode_text()), LOG_KEY)


def test_the_digest_covers_the_cosignatures() -> None:
    cosigned = append_signatures(NOTE, [CosignatureSigner.generate("w").cosign(POINT.encode_text())])
    assert checkpoint_digest(NOTE) == digest("checkpoint", NOTE)
    assert checkpoint_digest(cosigned) != checkpoint_digest(NOTE)


def test_all_17_checkpoints_of_the_tessera_log_open_and_none_with_a_flipped_bit() -> None:
    key = NoteVerifier.parse(TESSERA_KEY)
    notes = tessera_notes()
    assert len(notes) == 17
    for note in notes.values():
        text = open_checkpoint(note, key).encode_text().encode()
        assert note.startswith(text)
        for at in range(0, len(note), 7):
            with pytest.raises((Malformed, SignatureFailure)):
                open_checkpoint(note[:at] + bytes((note[at] ^ 1,)) + note[at + 1 :], key)
