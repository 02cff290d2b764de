"""Epoch keys on the grid, their end on two clocks, the replay set, the publication."""

import asyncio
import gc
import weakref
from dataclasses import dataclass, replace

import pytest

from hybrid.wire import codec
from hybrid.wire.directory import Directory, Leaf
from hybrid.wire.entries import DirectoryEntry, open_entry
from hybrid.wire.errors import Malformed, Replay, SignatureFailure, StaleKey
from hybrid.wire.evidence import ModelEntry
from hybrid.wire.header import CandidateRef
from hybrid.wire.note import NoteSigner, NoteVerifier
from pcc_server.entry import IDENTITY_LIFE_S, Entry, Served
from pcc_server.errors import Limit
from pcc_server.keys import KeyRing
from pcc_server.publication import Publication
from pcc_server.replay import ReplaySet

T = 300
START = 1_800_000_000  # the beginning of an epoch


@dataclass
class Clocks:
    """A wall clock somebody may set, and one that only goes on."""

    wall: float = START
    boot: float = 5_000.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.boot += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def ring(clocks: Clocks) -> KeyRing:
    return KeyRing(T, now=lambda: clocks.wall, boot=lambda: clocks.boot)


@pytest.fixture
def entry(clocks: Clocks, ring: KeyRing) -> Entry:
    model = ModelEntry(model_id="m", manifest=bytes(32), context_tokens=100, max_output_tokens=10)
    served = Served(deployment="localhost", model=model, config_digest=bytes(32))
    return Entry(served, ring, boot=lambda: clocks.boot)


def publish(entry: Entry) -> Publication:
    return asyncio.run(entry.publish(T))


def refs(publication: Publication) -> list[CandidateRef]:
    return [CandidateRef(node_id=a.node_id, ek_id=a.ek_id, bundle_id=a.bundle_id) for a in publication.accepted]


def test_two_keys_live_this_epoch_s_and_the_next_one_s(ring: KeyRing) -> None:
    assert [live.epoch for live in ring.current()] == [START // T, START // T + 1]


def test_at_the_boundary_the_next_key_is_made_and_the_old_one_stays_for_ninety_seconds(
    ring: KeyRing, clocks: Clocks
) -> None:
    clocks.pass_(T)
    assert ring.advance()
    assert [live.epoch - START // T for live in ring.accepted()] == [0, 1, 2]
    clocks.pass_(89)
    assert not ring.advance()
    clocks.pass_(2)
    assert ring.advance()
    assert [live.epoch - START // T for live in ring.accepted()] == [1, 2]


def test_a_key_is_accepted_from_ninety_seconds_before_its_epoch_until_ninety_after(
    ring: KeyRing, entry: Entry, clocks: Clocks
) -> None:
    _, following = refs(publish(entry))
    for passed, accepted in ((0, False), (T - 91, False), (T - 89, True), (2 * T + 89, True), (2 * T + 91, False)):
        clocks.wall, clocks.boot = START + passed, 5_000.0 + passed
        if accepted:
            assert ring.find(following)
        else:
            with pytest.raises(StaleKey):
                ring.find(following)


def test_an_ended_key_is_gone_from_memory(ring: KeyRing, clocks: Clocks) -> None:
    ended = weakref.ref(ring.current()[0].key)
    clocks.pass_(T + 91)
    ring.advance()
    gc.collect()
    assert ended() is None


def test_a_wall_clock_set_back_prolongs_no_key(ring: KeyRing, entry: Entry, clocks: Clocks) -> None:
    now, _ = refs(publish(entry))
    clocks.pass_(T + 91)
    clocks.wall = START + 10
    with pytest.raises(StaleKey):
        ring.find(now)
    ring.advance()
    with pytest.raises(StaleKey):
        ring.find(now)
    publish(entry)
    assert ring.current()[0].epoch == START // T  # a fresh key of that epoch serves whoever asks now


def test_a_suspend_prolongs_no_key(ring: KeyRing, entry: Entry, clocks: Clocks) -> None:
    """The boot clock counts it even where the wall clock was not yet corrected."""
    now, _ = refs(publish(entry))
    clocks.boot += T + 91
    with pytest.raises(StaleKey):
        ring.find(now)


@pytest.mark.parametrize("field", ["node_id", "ek_id", "bundle_id"])
def test_a_request_must_name_node_key_and_bundle_as_published(ring: KeyRing, entry: Entry, field: str) -> None:
    now, _ = refs(publish(entry))
    assert ring.find(now)
    wrong = replace(now, **{field: bytes(len(getattr(now, field)))})
    with pytest.raises(StaleKey):
        ring.find(wrong)


def test_a_bundle_of_the_last_epoch_still_names_the_key_it_published(
    ring: KeyRing, entry: Entry, clocks: Clocks
) -> None:
    _, following = refs(publish(entry))
    clocks.pass_(T)
    ring.advance()
    publish(entry)
    assert ring.find(following)


def test_the_identity_is_renewed_within_a_day_and_the_old_one_still_answers(
    ring: KeyRing, entry: Entry, clocks: Clocks
) -> None:
    clocks.pass_(IDENTITY_LIFE_S - 3 * T)
    ring.advance()
    before = refs(publish(entry))
    clocks.pass_(2 * T)
    ring.advance()
    after = refs(publish(entry))
    assert before[-1].node_id not in {ref.node_id for ref in after if ref.bundle_id != before[-1].bundle_id}
    assert ring.find(before[-1])


def test_the_directory_is_signed_and_holds_for_two_epochs(entry: Entry) -> None:
    publication = Publication.decode(publish(entry).encode())
    reply = codec.decode_directory_reply(publication.reply)
    directory = Directory.decode(reply.directory)
    said = Leaf.decode(reply.leaf).entry
    opened = open_entry(said, NoteVerifier.parse(entry.node_key))
    assert isinstance(opened, DirectoryEntry)
    assert (opened.directory_id, opened.seq) == (directory.id, 0)
    bundle = directory.nodes[0].bundle
    bundle.verify_signature()
    assert (bundle.statement.not_before, bundle.statement.not_after) == (START, START + 2 * T)
    assert [key.epoch for key in bundle.statement.keys] == [START // T, START // T + 1]
    with pytest.raises(SignatureFailure):  # the control: another key's signature is not accepted
        open_entry(said, NoteVerifier.parse(NoteSigner.generate("localhost/directory").vkey))


def test_a_publication_with_a_byte_too_many_is_malformed(entry: Entry) -> None:
    with pytest.raises(Malformed):
        Publication.decode(publish(entry).encode() + b"\0")


def test_a_request_is_claimed_once() -> None:
    seen = ReplaySet()
    seen.claim(bytes(32))
    with pytest.raises(Replay):
        seen.claim(bytes(32))
    seen.claim(b"\1" + bytes(31))
    assert len(seen) == 2


def test_a_full_set_refuses_and_never_forgets() -> None:
    seen = ReplaySet(capacity=2)
    for number in range(2):
        seen.claim(bytes((number,)) * 32)
    with pytest.raises(Limit):
        seen.claim(b"\2" * 32)
    with pytest.raises(Replay):
        seen.claim(bytes(32))
