"""N14 to N18 of SPEC B2: a log that rolls back, forks, lacks witnesses, or shows two people two directories."""

from dataclasses import replace
from typing import Any

import pytest

from hybrid.errors import AttestationError
from hybrid.trust.checks import CheckStatus
from hybrid.trust.log_view import LogContradiction, LogView, Tail
from hybrid.trust.tail import TAIL_ENTRIES
from hybrid.trust.verify import VerifiedDirectory, Verifier
from hybrid.wire.codec import DirectoryReply
from hybrid.wire.cosignature import CosignatureSigner
from hybrid.wire.directory import Leaf
from hybrid.wire.entries import RevokeEntry, entry_digest, sign
from hybrid.wire.note import NoteSigner
from tests.trust.log_maker import NEWEST, ORIGIN, WITNESSED, Cloud, Log
from tests.trust.maker import EPOCH_S, NOW


def refused(cloud: Cloud, reply: DirectoryReply, check: str, **kw: Any) -> AttestationError:
    """Assert that this reply fails exactly this check, after an untouched deployment has passed."""
    control = Cloud()
    assert control.check(control.publish()).nodes
    with pytest.raises(AttestationError) as caught:
        cloud.check(reply, **kw)
    assert caught.value.check == check
    assert caught.value.hint
    assert caught.value.left_device == "no"
    return caught.value


def status(got: VerifiedDirectory, name: str) -> CheckStatus:
    return next(check.status for check in got.nodes[0].checks if check.name == name)


def read_tail(cloud: Cloud, reply: DirectoryReply, tail: Tail | None = None) -> Tail:
    """Read what the verifier asks for, and nothing else, from the log's files."""
    verifier, files = Verifier(cloud.policy()), cloud.log.files()
    wanted = verifier.wanted_tail(reply, tail)
    return verifier.check_tail(reply, tail, {path: files[path] for path in wanted})


def test_an_untouched_deployment_passes_with_a_log_and_says_what_to_store() -> None:
    cloud = Cloud()
    got = cloud.check(cloud.publish())
    assert got.seen is not None
    assert (got.seen.origin, got.seen.size, got.seen.t0) == (ORIGIN, 4, int(NEWEST))
    assert {status(got, f"log.{name}") for name in ("note", "quorum", "clock", "rollback", "consistency")} == {
        CheckStatus.PASS
    }
    assert [node.evidence_t0 for node in got.nodes] == [WITNESSED]


# --- N14 quorum and clock -------------------------------------------------------------------------


@pytest.mark.parametrize("times", [(None, None), (NEWEST, None), (None, NEWEST)])
def test_n14_a_checkpoint_without_its_quorum_is_refused(times: Any) -> None:
    cloud = Cloud()
    refused(cloud, cloud.publish(times=times), "log.quorum")


def test_n14_unknown_and_doubled_witnesses_do_not_count() -> None:
    cloud = Cloud()
    known = cloud.log.witnesses[0]
    stranger = CosignatureSigner.generate("w9.example/w", "ed25519")
    policy = cloud.log.policy()
    cloud.log.witnesses = [known, stranger]
    refused(cloud, cloud.publish(), "log.quorum", log_policy=policy)
    cloud.log.witnesses = [known, known]
    refused(cloud, cloud.publish(at=NEWEST + 1, times=(NEWEST, NEWEST + 1)), "log.quorum", log_policy=policy)


def test_n14_a_checkpoint_inside_the_directory_needs_its_quorum_too() -> None:
    cloud = Cloud(times=(WITNESSED, None))
    refused(cloud, cloud.publish(), "log.quorum")


def test_n14_a_checkpoint_of_the_future_names_the_slow_clock() -> None:
    cloud = Cloud()
    error = refused(cloud, cloud.publish(at=NOW + 91), "log.clock")
    assert error.got == "this device's clock is at least 91 s slow"
    assert cloud.check(cloud.publish(cloud.listed(seq=1), at=NOW + 90)).nodes


@pytest.mark.parametrize("note", [b"", b"no note"])
def test_a_missing_or_malformed_checkpoint_is_refused(note: bytes) -> None:
    cloud = Cloud()
    refused(cloud, replace(cloud.publish(), checkpoint=note), "log.note")


def test_a_checkpoint_of_another_log_is_refused_whatever_its_name() -> None:
    cloud = Cloud()
    policy = cloud.log.policy()
    cloud.log.key = NoteSigner.generate(ORIGIN)
    refused(cloud, cloud.publish(), "log.note", log_policy=policy)
    cloud.log.key = NoteSigner.generate("other.example/log")
    refused(cloud, cloud.publish(cloud.listed(seq=1)), "log.note", log_policy=policy)


# --- N15 rollback ---------------------------------------------------------------------------------


def test_n15_a_smaller_checkpoint_than_the_stored_one_is_refused() -> None:
    cloud = Cloud()
    first = cloud.publish()
    view = cloud.view()
    newer = cloud.check(cloud.publish(cloud.listed(seq=1)))
    refused(cloud, first, "log.rollback", log=replace(view, stored=newer.seen))


def test_n15_a_checkpoint_witnessed_earlier_than_the_stored_one_is_refused() -> None:
    cloud = Cloud()
    stored = cloud.check(cloud.publish(at=NOW - 10)).seen
    refused(cloud, cloud.publish(cloud.listed(seq=1), at=NOW - 20), "log.rollback", log=cloud.view(stored))
    assert cloud.check(cloud.publish(cloud.listed(seq=2), at=NOW - 10), log=cloud.view(stored)).nodes


def test_n15_a_directory_older_than_the_one_in_use_is_refused() -> None:
    cloud = Cloud()
    old = cloud.publish(cloud.listed(seq=1))
    held = cloud.check(cloud.publish(cloud.listed(seq=2)))
    refused(cloud, old, "directory.current", held=held)


# --- N16 consistency ------------------------------------------------------------------------------


def forked(cloud: Cloud) -> Cloud:
    """The same deployment with the same keys, whose log tells another story of the same length."""
    other = replace(cloud, log=Log(key=cloud.log.key, witnesses=cloud.log.witnesses))
    other.log.entries[0] = b"another story"
    other.older = other.log.checkpoint(WITNESSED)
    return other


def test_n16_the_same_size_with_another_root_is_a_contradiction_and_both_notes_are_kept() -> None:
    cloud = Cloud()
    first = cloud.publish()
    stored = cloud.check(first).seen
    fork = forked(cloud)
    second = fork.publish()
    error = refused(fork, second, "log.consistency", log=fork.view(stored))
    assert isinstance(error, LogContradiction)
    assert error.notes == (first.checkpoint, second.checkpoint)
    assert cloud.check(cloud.publish(cloud.listed(seq=1)), log=cloud.view(stored)).nodes


def test_n16_a_fork_that_has_grown_meanwhile_is_found_by_its_tiles() -> None:
    cloud = Cloud()
    first = cloud.publish()
    stored = cloud.check(first).seen
    fork = forked(cloud)
    fork.publish()
    second = fork.publish(fork.listed(seq=1))
    error = refused(fork, second, "log.consistency", log=fork.view(stored))
    assert isinstance(error, LogContradiction)
    assert error.notes == (first.checkpoint, second.checkpoint)


def test_n16_tiles_that_were_tampered_with_are_refused() -> None:
    cloud = Cloud()
    stored = cloud.check(cloud.publish()).seen
    reply = cloud.publish(cloud.listed(seq=1))
    good = cloud.view(stored)
    assert cloud.check(reply, log=good).nodes
    for path in Verifier(cloud.policy()).wanted(reply, stored):
        data = good.tiles[path]
        for at in range(0, len(data), 32):
            bad = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            view = replace(good, tiles={**good.tiles, path: bad})
            error = refused(cloud, reply, "log.consistency", log=view)
            assert not isinstance(error, LogContradiction)  # tiles are nobody's word: a mirror's garbage is no fork
            assert error.got.startswith("tiles that do not belong to this checkpoint")


@pytest.mark.parametrize(("old", "new"), [(255, 300), (256, 300), (257, 600), (512, 600)])
def test_n16_garbage_for_any_tile_is_no_contradiction_and_a_fork_is_one(old: int, new: int) -> None:
    cloud = Cloud()
    while len(cloud.log.entries) < old - 1:
        cloud.log.add(b"filler %d" % len(cloud.log.entries))
    first = cloud.publish()
    stored = cloud.check(first).seen
    fork = forked(cloud)
    for told in (cloud, fork):
        while len(told.log.entries) < new - 1:
            told.log.add(b"filler %d" % len(told.log.entries))
    reply = cloud.publish(cloud.listed(seq=1))
    good = cloud.view(stored)
    wanted = Verifier(cloud.policy()).wanted(reply, stored)
    assert cloud.check(reply, log=replace(good, tiles={path: good.tiles[path] for path in wanted})).nodes
    for path in wanted:
        view = replace(good, tiles={**good.tiles, path: bytes(len(good.tiles[path]))})
        assert not isinstance(refused(cloud, reply, "log.consistency", log=view), LogContradiction)
    second = fork.publish(fork.listed(seq=1))
    assert isinstance(refused(fork, second, "log.consistency", log=fork.view(stored)), LogContradiction)
    honest = refused(fork, second, "log.consistency", log=cloud.view(stored))
    assert not isinstance(honest, LogContradiction)  # the old story's tiles don't lead to the new one


def test_n16_missing_tiles_refuse_and_are_no_contradiction() -> None:
    cloud = Cloud()
    stored = cloud.check(cloud.publish()).seen
    reply = cloud.publish(cloud.listed(seq=1))
    error = refused(cloud, reply, "log.consistency", log=LogView(stored=stored))
    assert not isinstance(error, LogContradiction)


def test_the_verifier_asks_for_exactly_the_tiles_it_needs() -> None:
    cloud = Cloud()
    stored = cloud.check(cloud.publish()).seen
    reply = cloud.publish(cloud.listed(seq=1))
    wanted = Verifier(cloud.policy()).wanted(reply, stored)
    only = {path: cloud.log.files()[path] for path in wanted}
    assert wanted
    assert cloud.check(reply, log=LogView(stored=stored, tiles=only)).nodes


def test_a_checkpoint_inside_the_directory_that_is_no_prefix_of_the_newest_is_refused() -> None:
    cloud = Cloud()
    fork = forked(cloud)
    fork.older = cloud.older  # of the story that was told first
    refused(fork, fork.publish(), "log.consistency")


def test_a_full_tile_stands_in_for_the_partial_one_it_has_replaced() -> None:
    cloud = Cloud()
    stored = cloud.check(cloud.publish()).seen
    reply = cloud.publish(cloud.listed(seq=1))
    while len(cloud.log.entries) < 256:
        cloud.log.add(b"filler")
    full = {path: data for path, data in cloud.log.files().items() if ".p/" not in path}
    assert cloud.check(reply, log=LogView(stored=stored, tiles=full)).nodes


# --- N17 logged -----------------------------------------------------------------------------------


def test_n17_a_directory_that_is_not_in_the_log_is_refused() -> None:
    cloud = Cloud()
    reply = cloud.publish()
    leaf, directory = Leaf.decode(reply.leaf), cloud.listed(seq=1)
    unlogged = sign(directory.entry(), cloud.signer)
    forged = DirectoryReply(
        directory=directory.encode(), leaf=replace(leaf, entry=unlogged).encode(), checkpoint=reply.checkpoint
    )
    refused(cloud, forged, "directory.logged")


def test_n17_the_proof_of_another_epochs_leaf_is_refused() -> None:
    cloud = Cloud()
    earlier = Leaf.decode(cloud.publish(cloud.listed(epoch=cloud.epoch - 1)).leaf)
    reply = cloud.publish()
    own = Leaf.decode(reply.leaf)
    size = len(cloud.log.entries)
    other = cloud.log.leaf(earlier.index, size, own.checkpoint_no)
    swapped = replace(other, entry=own.entry)
    refused(cloud, replace(reply, leaf=swapped.encode()), "directory.logged")
    refused(cloud, replace(reply, leaf=other.encode()), "directory.signature")
    assert cloud.check(reply).nodes


@pytest.mark.parametrize("change", [{"index": 2**63 - 1}, {"index": 0}, {"hashes": ()}])
def test_a_proof_that_does_not_fit_is_refused(change: Any) -> None:
    cloud = Cloud()
    reply = cloud.publish()
    leaf = replace(Leaf.decode(reply.leaf), **change)
    refused(cloud, replace(reply, leaf=leaf.encode()), "directory.logged")


# --- N18 unique -----------------------------------------------------------------------------------


def test_n18_two_directories_of_one_number_are_found_in_the_log_and_both_entries_are_kept() -> None:
    cloud = Cloud()
    mine = cloud.publish()
    theirs = cloud.publish(cloud.listed(weights=[2]))
    with pytest.raises(LogContradiction) as caught:
        read_tail(cloud, theirs)
    assert caught.value.check == "directory.unique"
    assert caught.value.notes == (Leaf.decode(mine.leaf).entry, Leaf.decode(theirs.leaf).entry)


def test_n18_the_tail_of_a_sound_log_passes_and_the_check_says_so() -> None:
    cloud = Cloud()
    reply = cloud.publish()
    assert status(cloud.check(reply), "directory.unique") is CheckStatus.SKIP
    tail = read_tail(cloud, reply)
    assert tail.size == len(cloud.log.entries)
    assert status(cloud.check(reply, log=cloud.view(tail=tail)), "directory.unique") is CheckStatus.PASS


def test_n18_a_directory_other_than_the_one_in_the_tail_is_refused() -> None:
    cloud = Cloud()
    tail = read_tail(cloud, cloud.publish())
    refused(cloud, cloud.publish(cloud.listed(weights=[2])), "directory.unique", log=cloud.view(tail=tail))


def test_n18_a_second_directory_than_the_one_in_use_is_refused_and_both_entries_are_kept() -> None:
    cloud = Cloud()
    mine = cloud.publish()
    theirs = cloud.publish(cloud.listed(weights=[2]))
    error = refused(cloud, theirs, "directory.unique", held=cloud.check(mine, log=None))
    assert isinstance(error, LogContradiction)
    assert error.notes == (Leaf.decode(mine.leaf).entry, Leaf.decode(theirs.leaf).entry)


def test_n18_a_tail_withheld_for_ten_minutes_refuses_tier_two(confidential: Cloud) -> None:
    cloud = confidential
    reply = cloud.publish()
    assert cloud.check(reply, log=cloud.view(behind_since=NOW - 600)).nodes[0].tier == 2
    with pytest.raises(AttestationError) as caught:
        cloud.check(reply, log=cloud.view(behind_since=NOW - 601))
    assert caught.value.check == "directory.unique"
    tail = read_tail(cloud, reply)
    assert cloud.check(reply, log=cloud.view(tail=tail, behind_since=NOW - 601)).nodes


def test_a_tail_withheld_is_no_failure_below_tier_two() -> None:
    cloud = Cloud()
    assert cloud.check(cloud.publish(), log=cloud.view(behind_since=NOW - 6000)).nodes[0].tier == 1


def test_more_than_sixteen_directories_of_an_epoch_are_refused() -> None:
    cloud = Cloud()
    reply = [cloud.publish(cloud.listed(seq=seq)) for seq in range(16)][-1]
    assert read_tail(cloud, reply)
    with pytest.raises(AttestationError) as caught:
        read_tail(cloud, cloud.publish(cloud.listed(seq=16)))
    assert caught.value.check == "directory.unique"


def test_entries_of_other_signers_and_deployments_share_the_log_without_effect() -> None:
    cloud = Cloud()
    entry = cloud.listed(weights=[5]).entry()
    cloud.log.add(sign(entry, NoteSigner.generate(cloud.signer.name)))
    cloud.log.add(sign(replace(entry, deployment="other.example.com"), cloud.signer))
    assert len(read_tail(cloud, cloud.publish()).directories) == 1


def test_two_deployments_share_a_log_without_contradicting_each_other() -> None:
    """Their epochs have the same numbers, and a client of both remembers one tail per log."""
    cloud = Cloud()
    other = Cloud(deployment="other.example.com", log=cloud.log, tpm=cloud.tpm)
    theirs = read_tail(other, other.publish())
    reply = cloud.publish()
    got = cloud.check(reply, log=cloud.view(tail=theirs))
    assert status(got, "directory.unique") is CheckStatus.SKIP
    assert Verifier(cloud.policy()).wanted_tail(reply, theirs) == Verifier(cloud.policy()).wanted_tail(reply, None)
    mine = read_tail(cloud, reply, theirs)
    assert len(mine.directories) == 1
    assert status(cloud.check(reply, log=cloud.view(tail=mine)), "directory.unique") is CheckStatus.PASS


def test_a_tail_that_does_not_hold_the_directorys_own_entry_proves_nothing_about_it() -> None:
    cloud = Cloud()
    reply = cloud.publish()
    tail = read_tail(cloud, reply)
    assert status(cloud.check(reply, log=cloud.view(tail=tail)), "directory.unique") is CheckStatus.PASS
    without = replace(tail, directories={})
    assert status(cloud.check(reply, log=cloud.view(tail=without)), "directory.unique") is CheckStatus.SKIP


@pytest.mark.parametrize("size", [255, 256, 257, 600])
def test_the_tail_is_read_on_from_where_it_was_and_proved_from_what_was_asked_for(size: int) -> None:
    cloud = Cloud()
    tail = read_tail(cloud, cloud.publish())
    while len(cloud.log.entries) < size - 1:
        cloud.log.add(b"filler %d" % len(cloud.log.entries))
    reply = cloud.publish(cloud.listed(seq=1))
    more = read_tail(cloud, reply, tail)
    assert more.size == size
    assert set(more.directories) == {(cloud.epoch, 0), (cloud.epoch, 1)}
    assert Verifier(cloud.policy()).wanted_tail(reply, more) == ()


def test_a_fresh_client_reads_the_newest_entries_only() -> None:
    cloud = Cloud()
    cloud.log.entries += [b"filler %d" % number for number in range(TAIL_ENTRIES + 600)]
    reply = cloud.publish()
    bundles = [path for path in Verifier(cloud.policy()).wanted_tail(reply, None) if "/entries/" in path]
    assert len(bundles) == TAIL_ENTRIES // 256 + 1
    assert read_tail(cloud, reply).directories


def test_every_file_of_the_tail_is_proved() -> None:
    cloud = Cloud()
    cloud.log.entries += [b"filler %d" % number for number in range(600)]
    reply = cloud.publish()
    verifier, files = Verifier(cloud.policy()), cloud.log.files()
    wanted = {path: files[path] for path in verifier.wanted_tail(reply, None)}
    assert verifier.check_tail(reply, None, wanted)
    for path, data in wanted.items():
        for changed in (
            {**wanted, path: data[:-1] + bytes([data[-1] ^ 1])},
            {k: v for k, v in wanted.items() if k != path},
        ):
            with pytest.raises(AttestationError) as caught:
                verifier.check_tail(reply, None, changed)
            assert caught.value.check == "directory.unique"
            assert not isinstance(caught.value, LogContradiction)


def test_a_revocation_found_in_the_tail_ends_the_release() -> None:
    cloud = Cloud()
    entry = cloud.log.entries[cloud.release_at]
    cloud.log.add(
        sign(RevokeEntry(target=entry_digest(entry), reason="vulnerability", issued=int(NOW)), cloud.publisher)
    )
    reply = cloud.publish()
    assert cloud.check(reply).nodes  # not known before the tail was read
    refused(cloud, reply, "release.valid", log=cloud.view(tail=read_tail(cloud, reply)))


def test_a_revocation_by_a_stranger_has_no_effect() -> None:
    cloud = Cloud()
    entry = cloud.log.entries[cloud.release_at]
    note = RevokeEntry(target=entry_digest(entry), reason="vulnerability", issued=int(NOW))
    cloud.log.add(sign(note, NoteSigner.generate(cloud.publisher.name)))
    reply = cloud.publish()
    assert cloud.check(reply, log=cloud.view(tail=read_tail(cloud, reply))).nodes


def test_a_fast_clock_is_told_by_the_log_how_far_it_is_ahead() -> None:
    cloud = Cloud()
    error = refused(cloud, cloud.publish(), "directory.current", now=NOW + 3 * EPOCH_S)
    assert error.got.startswith(f"this clock is {3 * EPOCH_S + 60} s ahead of the log's newest witnessed time")


def test_a_release_under_a_forged_proof_is_refused() -> None:
    cloud = Cloud()
    leaf, *others = cloud.leaves()
    forged = replace(leaf, hashes=(bytes(32), *leaf.hashes[1:]))
    refused(cloud, cloud.publish(cloud.listed(leaves=(forged, *others))), "release.logged")
