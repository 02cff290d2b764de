"""One deployment as its operator and its users meet it: every process true, every step a command of docs/trust.md.

The tests share it and run in order: what is put into the log stays there, so the worst comes last.
"""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hybrid.cli.findings import NUMBERS, number_of
from hybrid.cloud import GrpcTransport
from hybrid.directory import DirectoryCache
from hybrid.errors import AttestationError
from hybrid.settings import as_timeout
from hybrid.trust.policy import Policy
from hybrid.trust.toml import parse_trust
from hybrid.trust.verify import Verifier
from hybrid.wire.codec import DirectoryReply, decode_directory_reply, encode_directory_reply, split_parts
from hybrid.wire.directory import Directory, Leaf
from hybrid.wire.entries import DirectoryEntry, sign
from pcc_server.tlog.key_files import read_signer
from pcc_server.tlog.log import Log
from tests.e2e.deployment import Hostile, hostile
from tests.e2e.operated import DEPLOYMENT, Site, User, at_once, directory_reply, statuses

pytestmark = pytest.mark.linux

WORDS = "tpm2, NOT private from the operator"
TRIAL = "trial.example.com"
UNAVAILABLE = 4  # exit code of hybrid


@dataclass
class Deployed:
    """The site, its two nodes, the router's address, what it showed first, and one user's answer."""

    site: Site
    nodes: list[dict[str, Any]]
    address: str
    first: bytes
    user: User
    answer: dict[str, Any]

    def someone(self, name: str, **changed: str) -> User:
        """Another user. changed: what is different in their trust file."""
        return User(self.site.folder / name, self.site.trust(**{"endpoint": self.address, **changed}))

    @property
    def policy(self) -> Policy:
        """What the trust file says, for clients in this process."""
        return parse_trust(self.site.trust(self.address)).deployments[DEPLOYMENT]

    def renew(self, node: int) -> bytes:
        """Have a node change its keys, as its operator may at any time; returns the directory of before."""
        before = directory_reply(self.address)
        self.site.pcc("keys", "--admin", self.nodes[node]["admin"], "rotate")
        return before

    def shown_after(self, before: bytes) -> bytes:
        """Wait for the directory that follows one."""
        for _ in range(60):
            if (after := directory_reply(self.address)) != before:
                return after
            time.sleep(0.5)
        raise AssertionError("the router published nothing new")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with contextlib.ExitStack() as stack:
        site = Site(tmp_path_factory.mktemp("site"), stack)
        site.make_keys()
        site.start_witnesses()
        tpms = [site.machine(), site.machine()]
        for tpm in tpms:
            site.enrol(tpm)
        options = site.options(tpms[0])
        assert (site.release("release", *options), site.model(*options)) == (0, 1)
        site.checkpoint()
        starts = [lambda tpm=tpm: site.node(site.options(tpm, "--admin", "127.0.0.1:0")) for tpm in tpms]
        nodes = at_once(starts)  # type: ignore[arg-type] # a default argument has no place in a Callable
        address = site.route([node["listen"] for node in nodes])
        user = User(site.folder / "user", site.trust(address))
        asked = user.hybrid("ask", "--private-cloud", "--node", DEPLOYMENT, "--max-tokens", "3", "--json", "hello you")
        assert asked.returncode == 0, asked.stderr
        yield Deployed(site, nodes, address, directory_reply(address), user, json.loads(asked.stdout))


@contextlib.contextmanager
def showing(reply: bytes, address: str) -> Iterator[str]:
    """A way to a router, whose log files it hands on, that shows a directory of its own choice."""

    async def never(way: Hostile, request: bytes, context: Any) -> AsyncIterator[bytes]:
        raise AssertionError("nothing may be sealed")
        yield b""

    with hostile([address], never, directory=lambda _: split_parts(reply)) as way:
        yield way.address
        assert way.requests == []


def made_for_one(shown: bytes, key: Path) -> tuple[DirectoryReply, Directory, bytes]:
    """Make another directory of the same epoch and number, with one node left out, signed by the true key."""
    reply = decode_directory_reply(shown)
    directory = Directory.decode(reply.directory)
    special = replace(directory, nodes=directory.nodes[:1], raw=b"")
    special = Directory.decode(special.encode())
    said = DirectoryEntry(
        deployment=special.deployment, epoch=special.epoch, seq=special.seq, directory_id=special.id, nodes=1
    )
    return reply, special, sign(said, read_signer(key))


# --- as it should be ------------------------------------------------------------------------------


def test_every_numbered_check_passes_or_says_why_it_does_not_apply(deployed: Deployed) -> None:
    code, facts = deployed.someone("a").verify(deployed.address)
    assert (code, facts["ok"], facts["tier"], facts["tier_words"]) == (0, True, 1, WORDS), facts["error"]
    assert len(facts["nodes"]) == 2
    assert facts["dropped"] == []
    for node in facts["nodes"]:
        checks = [*facts["checks"], *node["checks"]]
        assert {number_of(check["name"]) for check in checks} - {None} == set(NUMBERS.values()) == set(range(1, 31))
        skipped = {check["name"]: check["detail"] for check in checks if check["status"] != "pass"}
        assert set(skipped) == {"snp.*", "policy.require", "firmware.log"}, skipped
        assert all(skipped.values())
        assert (node["tier"], node["tier_words"], node["release"]) == (1, WORDS, "hybrid-pcc 0.1.0")


def test_people_read_the_tier_and_are_never_told_more_than_it_gives(deployed: Deployed) -> None:
    shown = deployed.user.hybrid("verify", DEPLOYMENT)  # by name: the trust file knows where it is
    assert shown.returncode == 0
    assert shown.stdout.splitlines()[-1] == f"✓ verified  tier 1 {WORDS}"
    assert "private from the operator" not in shown.stdout.replace("NOT private from the operator", "")


def test_an_answer_says_where_it_came_from_and_leaves_a_receipt(deployed: Deployed) -> None:
    assert deployed.answer["route"] == "private_cloud"
    assert deployed.answer["text"].startswith("fake engine: token 1")
    assert (deployed.answer["egress"]["tier"], deployed.answer["egress"]["tier_words"]) == (1, WORDS)
    code, facts = deployed.user.verify(deployed.answer["egress"]["receipt_id"])
    assert (code, facts["verdict"]) == (0, "verified"), facts


def test_what_the_node_prints_about_itself_is_what_its_evidence_shows(deployed: Deployed) -> None:
    said = json.loads(deployed.site.pcc("attest", "show", deployed.nodes[0]["admin"], "--json"))
    release = (deployed.site.folder / "release.toml").read_text()
    assert said["config_digest"] in release
    assert said["tpm2.pcr_4"] in release
    assert said["tpm2.ak_name"] in deployed.site.ak_names
    deployed.site.pcc("attest", "verify", deployed.nodes[0]["admin"])


def test_the_monitor_finds_nothing_wrong(deployed: Deployed) -> None:
    assert "1 directory, 1 model, 1 release" in deployed.site.monitor("early")
    assert "as hashed" in deployed.site.pcc("log", "verify", "log")


# --- nodes that are not what they should be --------------------------------------------------------


def test_an_honest_node_does_not_start_with_options_that_its_release_does_not_list(deployed: Deployed) -> None:
    options = deployed.site.options(deployed.site.tpms[0], "--max-new", "64")
    said = deployed.site.pcc("serve", *options, code=2)
    assert "does not list this node's configuration" in said


def test_each_wrong_node_is_left_out_by_the_check_that_names_what_is_wrong(deployed: Deployed) -> None:
    """Another deployment in the same log: one good node and one of each kind beside it."""
    site = deployed.site
    good, changed, foreign, revoked, stranger = (site.machine() for _ in range(5))
    for tpm in (good, changed, foreign, revoked):
        site.enrol(tpm)
    site.release("foreign", *site.options(foreign), key="other")
    taken_back = site.release("revoked", *site.options(revoked))
    site.checkpoint()
    site.pcc("log", "revoke", "log", str(taken_back), "--key", "release.key", "--reason", "vulnerability")
    site.checkpoint()

    def node(tpm: Any, *more: str, release: str = "release", rogue: bool = False) -> str:
        options = site.options(tpm, *more, release=release, deployment=TRIAL)
        return str(site.node(options, rogue=rogue)["listen"])

    addresses = at_once(
        [
            lambda: node(good),
            lambda: node(changed, "--max-new", "64", rogue=True),
            lambda: node(foreign, release="foreign"),
            lambda: node(revoked, release="revoked"),
            lambda: node(stranger),
        ]
    )
    address = site.route([f"{addresses[0]}=10", *addresses[1:]], TRIAL)
    user = deployed.someone("trial", endpoint=address, deployment=TRIAL)
    user.verify(address)  # reads the log's newest entries, in which the revocation is
    code, facts = user.verify(address)
    assert code == 0, facts["error"]
    assert len(facts["nodes"]) == 1
    assert sorted(dropped["check"] for dropped in facts["dropped"]) == [
        "config.known",
        "release.signed",
        "release.valid",
        "tpm2.ak-trusted",
    ]
    assert {dropped["got"] for dropped in facts["dropped"]} >= {"one that was revoked"}


# --- a log that is not what it should be -----------------------------------------------------------


def test_a_checkpoint_without_the_quorum_fails_log_quorum(deployed: Deployed) -> None:
    reply = decode_directory_reply(deployed.first)
    with showing(deployed.first, deployed.address) as address:
        code, facts = deployed.someone("q", endpoint=address).verify(address)
        assert code == 0, facts["error"]  # the way itself is no reason to fail
    lines = reply.checkpoint.splitlines(keepends=True)
    for name in (b"w1.example/w", b"w2.example/w"):
        one = b"".join(line for line in lines if name not in line)
        assert one != reply.checkpoint
        bent = encode_directory_reply(directory=reply.directory, leaf=reply.leaf, checkpoint=one)
        with showing(bent, deployed.address) as address:
            assert deployed.someone(f"q{name[:2].decode()}", endpoint=address).failed_check(address) == "log.quorum"


def test_a_log_rolled_back_fails_and_the_held_directory_stays_in_use(deployed: Deployed) -> None:
    deployed.renew(0)
    user = deployed.someone("rolled")
    (code, facts), tier = at_once([lambda: user.verify(deployed.address), lambda: _by_nonce(deployed)])
    assert code == 0, facts["error"]  # though the node's evidence was newer than its listing, for a moment
    assert tier == 1
    newer = deployed.shown_after(deployed.first)
    with showing(deployed.first, deployed.address) as address:
        user.trust_file.write_text(deployed.site.trust(address))
        assert user.failed_check(address) == "log.rollback"
    asyncio.run(_held_over_a_rollback(deployed, newer))


def _by_nonce(deployed: Deployed) -> int:
    """A client that takes nothing but evidence over its own nonce; returns the tier it found."""
    policy = replace(deployed.policy, freshness="nonce")

    async def once() -> int:
        transport = GrpcTransport(deployed.address, as_timeout(30.0))
        try:
            return (await DirectoryCache(transport, Verifier(policy)).current()).nodes[0].tier
        finally:
            await transport.close()

    return asyncio.run(once())


async def _held_over_a_rollback(deployed: Deployed, newer: bytes) -> None:
    """A client that goes on for as long as its directory is good, and never back."""
    shown, ahead = [newer], [0.0]

    async def never(way: Hostile, request: bytes, context: Any) -> AsyncIterator[bytes]:
        raise AssertionError("nothing may be sealed")
        yield b""

    with hostile([deployed.address], never, directory=lambda _: split_parts(shown[0])) as way:
        transport = GrpcTransport(way.address, as_timeout(30.0))
        cache = DirectoryCache(transport, Verifier(deployed.policy), now=lambda: time.time() + ahead[0])
        try:
            held = await cache.current()
            shown[0] = deployed.first
            ahead[0] = (held.epoch + 1) * held.epoch_s + 90 + 60 - time.time()  # when every client looks again
            assert await cache.current() is held
            with pytest.raises(AttestationError) as raised:
                await cache.current(fresh=True)
            assert raised.value.check == "log.rollback"
            assert cache.held is held
        finally:
            await cache.close()
            await transport.close()


def test_a_directory_that_is_not_logged_fails_directory_logged(deployed: Deployed) -> None:
    reply, special, entry = made_for_one(directory_reply(deployed.address), deployed.site.folder / "directory.key")
    true = Leaf.decode(reply.leaf)
    leaf = replace(true, entry=entry).encode()
    forged = encode_directory_reply(directory=special.encode(), leaf=leaf, checkpoint=reply.checkpoint)
    with showing(forged, deployed.address) as address:
        assert deployed.someone("unlogged", endpoint=address).failed_check(address) == "directory.logged"


def test_a_directory_made_for_one_client_is_found_through_the_log_by_everybody(deployed: Deployed) -> None:
    site = deployed.site
    site.monitor("tail")
    reply, special, entry = made_for_one(directory_reply(deployed.address), site.folder / "directory.key")
    (site.folder / "special.note").write_bytes(entry)
    index = int(site.pcc("log", "add", "log", "special.note"))
    site.checkpoint()
    before = deployed.renew(1)
    log = Log.read(site.folder / "log", site.public["log"])
    leaf, note = log.leaf(index).encode(), log.note()
    forged = encode_directory_reply(directory=special.encode(), leaf=leaf, checkpoint=note)
    with showing(forged, deployed.address) as address:
        victim = deployed.someone("victim", endpoint=address)
        assert victim.failed_check(address) == "directory.unique"
    told = site.monitor("tail", code=1)
    assert f"two directories for {DEPLOYMENT}, epoch {special.epoch}, seq {special.seq}" in told
    deployed.shown_after(before)
    assert deployed.someone("bystander").failed_check(deployed.address) == "directory.unique"
    assert hashlib.sha256(reply.directory).digest() != hashlib.sha256(special.encode()).digest()


# --- afterwards -----------------------------------------------------------------------------------


def test_the_receipt_holds_when_nothing_runs_any_more_and_only_under_ones_own_trust(deployed: Deployed) -> None:
    site, receipt = deployed.site, next((deployed.user.state / "receipts").iterdir())
    site.stop()
    assert all(process.poll() is not None for process in site.processes)
    assert deployed.user.hybrid("verify", deployed.address).returncode == UNAVAILABLE
    code, facts = deployed.user.verify(deployed.answer["egress"]["receipt_id"])
    assert (code, facts["verdict"], facts["tier_words"]) == (0, "verified", WORDS)
    others: Sequence[dict[str, str]] = (
        {"release": site.public["other"]},
        {"log": site.public["other"]},
        {"deployment": TRIAL},
    )
    for number, changed in enumerate(others):
        code, facts = deployed.someone(f"other{number}", **changed).verify(str(receipt))
        assert (code, facts["verdict"]) == (1, "self-described"), facts
    assert statuses(facts["checks"])["receipt.signature"] == "pass"
