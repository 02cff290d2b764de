"""The numbered checks that turn a listed node into one that may be sealed to. SPEC section 12.

1-4 log, 5-9 directory, 10-15 bundle, 16-19 evidence, 20-26 software, 27-29 verdict, 30 the policy's own rule. What
can't be checked is reported as ``skip`` with the reason; evidence that can't be checked is refused, never passed over.
The caller's part: stop using a node after ``valid_until`` (``Exchange.start`` refuses it) and verify anew; fetch
what ``wanted`` names before and ``wanted_tail`` after; store ``seen``; keep the notes of a ``LogContradiction``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field

from hybrid.errors import AttestationError, ConfigurationError
from hybrid.wire.codec import DirectoryReply
from hybrid.wire.directory import Directory, Leaf, ListedNode
from hybrid.wire.errors import WireError
from hybrid.wire.evidence import Bundle, ModelEntry
from hybrid.wire.keys import Identity, KeyConfig
from hybrid.wire.merkle import leaf_hash
from hybrid.wire.note import NoteVerifier

from .bundle import check_bundle
from .checks import Check, Findings, attestation_error
from .clock import usable_key
from .directory import (
    DroppedNode,
    Failure,
    InUse,
    check_current,
    check_intact,
    check_logged,
    check_signature,
    check_unique,
    decode_directory,
    dropped_node,
    ends,
    open_own_leaf,
    stalled,
    unreadable,
)
from .facts import SOFTWARE_TIER, NodeFacts
from .log_checks import check_log, check_newest, older_tiles, wanted_tiles
from .log_view import LogView, NonceProof, Seen, Tail, own_tail
from .policy import Policy, parse_signer
from .proof import NodeProof
from .scene import Scene
from .tail import TailSigners, read_tail, wanted_files

_ONLY_HERE = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedNode:
    """One node, serving one model, that passed every required check and may be sealed to until ``valid_until``.

    Made by ``Verifier`` alone: the private token keeps it from being made elsewhere by accident.
    tier: 0 software .. 3; tier_words: what that means to a person.  times: Unix seconds; evidence_t0: when the
    evidence was made at the earliest, None for software.  release: name and version, empty without one.
    proof: everything received that it was judged by.
    """

    identity: Identity
    keys: tuple[KeyConfig, ...]
    bundle_id: bytes
    directory_id: bytes
    deployment: str
    model: ModelEntry
    tier: int
    tier_words: str
    measurement: str
    evidence_t0: float | None
    release: str
    checks: tuple[Check, ...] = field(repr=False)
    weight: int
    verified_at: float
    valid_until: float
    proof: NodeProof = field(repr=False)
    token: InitVar[object]

    def __post_init__(self, token: object) -> None:
        """Refuse every maker but the verifier. Raises TypeError."""
        if token is not _ONLY_HERE:
            msg = "VerifiedNode is made by Verifier.verify and nowhere else"
            raise TypeError(msg)

    @property
    def node_id(self) -> bytes:
        """The node's name: a digest of its identity keys, 32 bytes."""
        return self.identity.node_id

    @property
    def manifest(self) -> bytes:
        """Digest of the weights, tokenizer and template this node says it serves, 32 bytes."""
        return self.model.manifest

    def key_at(self, now: float) -> KeyConfig:
        """Return the epoch key to seal to at ``now``. Raises AttestationError once the evidence has run out."""
        if now > self.valid_until:
            raise attestation_error("directory.current", expected="evidence still valid", got="evidence that has ended")
        key = usable_key(self.keys, now)
        if key is None:
            raise attestation_error("keys.epoch", expected="a key usable now", got="keys of other epochs only")
        return key


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedDirectory:
    """What a deployment says it consists of, as far as it verified. ``nodes`` has one entry per node and model.

    seen: the checkpoint to store as the newest, None without a log.  t0: when witnesses saw it, Unix seconds.
    """

    directory_id: bytes
    deployment: str
    epoch: int
    epoch_s: int
    seq: int
    nodes: tuple[VerifiedNode, ...]
    checks: tuple[Check, ...]
    dropped: tuple[DroppedNode, ...]
    valid_until: float
    seen: Seen | None = None
    entry: bytes = field(default=b"", repr=False)

    @property
    def t0(self) -> int | None:
        """When witnesses saw the newest checkpoint, in Unix seconds; None where nobody did."""
        return self.seen.t0 if self.seen else None


class Verifier:
    """Runs the checks of SPEC 12 under one trust policy. Holds no state between calls, fetches nothing."""

    def __init__(self, policy: Policy) -> None:
        """Raise ConfigurationError when the policy names nobody who may sign the directory."""
        if not policy.directory_signers:
            raise ConfigurationError(
                "the trust policy names no directory signer, so no node can be trusted",
                hint="pass the key the node prints at start: Policy.pinned(key), or --node-key KEY",
            )
        self.policy = policy
        self._signers = tuple(parse_signer(key) for key in policy.directory_signers)

    def origin(self, reply: DirectoryReply) -> str | None:
        """Return the log a reply's checkpoint is of, to look up what is stored of it; None without or of another."""
        try:
            return self.policy.log_policy.open(reply.checkpoint)[1].name if self.policy.log_policy else None
        except WireError:
            return None

    def wanted(self, reply: DirectoryReply, stored: Seen | None) -> tuple[str, ...]:
        """Name the tiles to fetch for ``LogView.tiles`` before a reply is verified; none without a log."""
        directory = decode_directory(reply.directory)
        if self.policy.log_policy is None or directory is None:
            return ()
        return wanted_tiles(self.policy.log_policy, reply.checkpoint, directory.checkpoints, stored)

    def verify(
        self,
        reply: DirectoryReply,
        *,
        peer_is_loopback: bool,
        now: float,
        held: VerifiedDirectory | None = None,
        log: LogView | None = None,
        nonces: Sequence[NonceProof] = (),
    ) -> VerifiedDirectory:
        """Run every check over one directory reply; ``held`` is the directory in use, if any.

        peer_is_loopback: the connected address is this machine, or a Unix socket.  now: Unix seconds.
        log: what is stored and fetched of the log.  nonces: interactive freshness, per bundle.
        Raises AttestationError naming the first required check that failed.
        """
        view, findings = log or LogView(), Findings()
        decoded = decode_directory(reply.directory)
        older = decoded.checkpoints if decoded else ()
        state = check_log(self.policy.log_policy, reply.checkpoint, older, view=view, findings=findings, now=now)
        directory, own = check_signature(reply, decoded, self._signers, self.policy.deployment, findings)
        view = view.of(directory.deployment)
        check_logged(own, state, findings)
        check_current(directory, _in_use(held), state, findings, now)
        check_unique(directory, own, _in_use(held), (state, view), findings)
        scene = Scene(
            policy=self.policy,
            deployment=directory.deployment,
            epoch_s=directory.epoch_s,
            ends=ends(directory),
            leaves=directory.leaves,
            log=state,
            revoked=view.tail.revoked if view.tail else frozenset(),
            nonces={proof.bundle_id: proof for proof in nonces},
            stalled=stalled(state, view, now),
            peer_is_loopback=peer_is_loopback,
            now=now,
        )
        received = _Received(reply=reply, directory=directory, tiles=older_tiles(state, view))
        nodes, dropped = _nodes(scene, received, findings)
        return VerifiedDirectory(
            directory_id=directory.id,
            deployment=directory.deployment,
            epoch=directory.epoch,
            epoch_s=directory.epoch_s,
            seq=directory.seq,
            nodes=nodes,
            checks=findings.all(),
            dropped=dropped,
            valid_until=min(float(ends(directory)), max(node.valid_until for node in nodes)),
            seen=state.newest.seen() if state else None,
            entry=own.entry,
        )

    def wanted_tail(self, reply: DirectoryReply, tail: Tail | None) -> tuple[str, ...]:
        """Name the files to fetch for ``check_tail``; none without a log, or where that will refuse the reply."""
        policy = self.policy.log_policy
        if policy is None:
            return ()
        try:
            size = policy.open(reply.checkpoint)[0].size
            _, entry = open_own_leaf(reply.leaf, self._signers, Findings())
        except (WireError, AttestationError):
            return ()
        return wanted_files(size, own_tail(tail, entry.deployment))

    def check_tail(self, reply: DirectoryReply, tail: Tail | None, files: Mapping[str, bytes]) -> Tail:
        """Read the log's newest entries up to the checkpoint of a reply; store the result and pass it in ``LogView``.

        Raises AttestationError (``directory.unique``) when entries are missing or not the log's, LogContradiction
        when two directories share a number. ConfigurationError without a log in the trust policy.
        """
        policy, findings = self.policy.log_policy, Findings()
        if policy is None:
            raise ConfigurationError("the trust policy names no log, so there are no entries to read")
        newest = check_newest(policy, reply.checkpoint, findings)
        _, entry = open_own_leaf(reply.leaf, self._signers, findings)
        release = self.policy.release.signers if self.policy.release else ()
        signers = TailSigners(
            deployment=entry.deployment,
            directory=self._signers,
            release=tuple(NoteVerifier.parse(key) for key in release),
        )
        return read_tail(newest, tail, files, signers, findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Received:
    """What came from outside for one verification."""

    reply: DirectoryReply
    directory: Directory
    tiles: Mapping[str, bytes]


def _nodes(
    scene: Scene, received: _Received, findings: Findings
) -> tuple[tuple[VerifiedNode, ...], tuple[DroppedNode, ...]]:
    verified: list[VerifiedNode] = []
    errors: list[Failure] = [(listed, unreadable(listed, findings)) for listed in received.directory.unreadable]
    for listed in received.directory.nodes:
        own = Findings(findings.all())
        own.passed("directory.intact", "judged over all nodes")
        try:
            facts = check_bundle(listed.bundle, scene, own)
        except AttestationError as error:
            errors.append((listed, error))
        else:
            verified += [_node(fact, listed, scene, received, own) for fact in facts]
    if not verified:
        raise errors[0][1]  # nothing is left to use: the first node's own check says more than a share would
    check_intact(received.directory, errors, findings)
    return tuple(verified), tuple(dropped_node(listed, error) for listed, error in errors)


def _in_use(held: VerifiedDirectory | None) -> InUse | None:
    return InUse((held.epoch, held.seq), held.directory_id, held.entry) if held else None


def _node(facts: NodeFacts, listed: ListedNode, scene: Scene, received: _Received, findings: Findings) -> VerifiedNode:
    statement, bundle_id = listed.bundle.statement, listed.bundle.id
    return VerifiedNode(
        identity=statement.identity,
        keys=statement.keys,
        bundle_id=bundle_id,
        directory_id=received.directory.id,
        deployment=statement.deployment,
        model=facts.model,
        tier=facts.tier,
        tier_words=facts.tier_words,
        measurement=facts.measurement,
        evidence_t0=facts.evidence_t0,
        release=facts.release,
        checks=findings.all(),
        weight=listed.weight,
        verified_at=scene.now,
        valid_until=facts.ends,
        proof=_proof(facts, listed.bundle, scene, received),
        token=_ONLY_HERE,
    )


def _proof(facts: NodeFacts, bundle: Bundle, scene: Scene, received: _Received) -> NodeProof:
    return NodeProof(
        bundle=bundle.raw,
        entry=received.reply.leaf,
        leaves=tuple(leaf for leaf in received.directory.leaves if _speaks_of(leaf, bundle, facts)),
        checkpoint=received.reply.checkpoint if scene.log else b"",
        checkpoints=received.directory.checkpoints if scene.log else (),
        tiles=received.tiles,
        nonce=scene.nonces.get(bundle.id),
        peer_is_loopback=scene.peer_is_loopback,
        directory=received.directory.raw if facts.tier == SOFTWARE_TIER else b"",
    )


def _speaks_of(leaf: Leaf, bundle: Bundle, facts: NodeFacts) -> bool:
    """Whether a leaf is the node's release or names the model's manifest: what a receipt must hold."""
    release = leaf_hash(leaf.entry) == bundle.statement.release_leaf
    return release or facts.model.manifest.hex().encode("ascii") in leaf.entry
