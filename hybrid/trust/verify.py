"""The numbered checks that turn a listed node into one that may be sealed to. SPEC section 12.

1-4 log, 5-9 directory, 10-15 bundle, 16-19 evidence, 20-26 software, 27-29 verdict. What this version can't check
is reported as ``skip`` with the reason; evidence it can't check is refused, never passed over.
The caller's part: stop using a node after ``valid_until`` (``Exchange.start`` refuses it) and verify anew.
"""

import hmac
from dataclasses import InitVar, dataclass, field

from hybrid.errors import AttestationError, ConfigurationError
from hybrid.wire.codec import DirectoryReply
from hybrid.wire.directory import Directory, DirectoryEntry, ListedNode, UnreadableNode, open_entry
from hybrid.wire.encoding import digest
from hybrid.wire.errors import SignatureFailure, WireError
from hybrid.wire.evidence import ModelEntry
from hybrid.wire.keys import Identity, KeyConfig

from .bundle import check_bundle
from .checks import Check, Findings, attestation_error
from .clock import outside, usable_key
from .policy import Policy, parse_signer

NO_LOG = "the trust policy names no log"
LOG_CHECKS = ("log.note", "log.quorum", "log.clock", "log.rollback", "log.consistency")

_ONLY_HERE = object()

Failure = tuple[ListedNode | UnreadableNode, AttestationError]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedNode:
    """One node, serving one model, that passed every required check and may be sealed to until ``valid_until``.

    Made by ``Verifier.verify`` alone: the private token keeps it from being made elsewhere by accident.
    tier: 0 software .. 3; tier_words: what that means to a person.  times: Unix seconds.
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
    checks: tuple[Check, ...] = field(repr=False)
    weight: int
    verified_at: float
    valid_until: float
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
class DroppedNode:
    """A listed node that is not used, and the check that says why. node_id: empty when the bundle didn't decode."""

    node_id: bytes
    weight: int
    check: str
    expected: str
    got: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedDirectory:
    """What a deployment says it consists of, as far as it verified. ``nodes`` has one entry per node and model."""

    directory_id: bytes
    deployment: str
    epoch: int
    epoch_s: int
    seq: int
    nodes: tuple[VerifiedNode, ...]
    checks: tuple[Check, ...]
    dropped: tuple[DroppedNode, ...]
    valid_until: float


class Verifier:
    """Runs the checks of SPEC 12 under one trust policy. Holds no state between calls."""

    def __init__(self, policy: Policy) -> None:
        """Raise ConfigurationError when the policy names nobody who may sign the directory."""
        if not policy.directory_signers:
            raise ConfigurationError(
                "the trust policy names no directory signer, so no node can be trusted",
                hint="pass the key the node prints at start: Policy.pinned(key), or --node-key KEY",
            )
        self.policy = policy
        self._signers = tuple(parse_signer(key) for key in policy.directory_signers)

    def verify(
        self, reply: DirectoryReply, *, peer_is_loopback: bool, now: float, held: VerifiedDirectory | None = None
    ) -> VerifiedDirectory:
        """Run every check over one directory reply; ``held`` is the directory in use, if any.

        peer_is_loopback: the connected address is this machine, or a Unix socket.  now: Unix seconds.
        Raises AttestationError naming the first required check that failed.
        """
        findings = Findings()
        findings.skipped(NO_LOG, *LOG_CHECKS)
        directory = self._signed(reply, findings)
        findings.skipped(NO_LOG, "directory.logged")
        self._current(directory, findings, now, held)
        self._unique(directory, findings, held)
        verified, dropped = self._nodes(directory, findings, now, peer_is_loopback=peer_is_loopback)
        return VerifiedDirectory(
            directory_id=directory.id,
            deployment=directory.deployment,
            epoch=directory.epoch,
            epoch_s=directory.epoch_s,
            seq=directory.seq,
            nodes=verified,
            checks=findings.all(),
            dropped=dropped,
            valid_until=_ends(directory),
        )

    def _signed(self, reply: DirectoryReply, findings: Findings) -> Directory:
        entry = self._entry(reply.leaf, findings)
        name = "directory.signature"
        if not hmac.compare_digest(digest("directory", reply.directory), entry.directory_id):
            raise findings.failed(name, expected="the directory that was signed", got="another one")
        try:
            directory = Directory.decode(reply.directory)
        except WireError:
            raise findings.failed(name, expected="a well-formed directory", got="malformed bytes") from None
        self._agree(entry, directory, findings)
        findings.passed(name, f"signed for {directory.deployment}, epoch {directory.epoch}, seq {directory.seq}")
        return directory

    def _entry(self, leaf: bytes, findings: Findings) -> DirectoryEntry:
        name = "directory.signature"
        for signer in self._signers:
            try:
                return open_entry(leaf, signer)
            except SignatureFailure:
                continue
            except WireError:
                raise findings.failed(name, expected="a signed directory entry", got="malformed bytes") from None
        trusted = " or ".join("+".join(key.split("+")[:2]) for key in self.policy.directory_signers)
        raise findings.failed(name, expected=f"an entry signed by {trusted}", got="one that key did not sign")

    def _agree(self, entry: DirectoryEntry, directory: Directory, findings: Findings) -> None:
        name = "directory.signature"
        said = (entry.deployment, entry.epoch, entry.seq, entry.nodes)
        listed = len(directory.nodes) + len(directory.unreadable)
        if said != (directory.deployment, directory.epoch, directory.seq, listed):
            raise findings.failed(name, expected="entry and directory to agree", got="two that differ")
        wanted = self.policy.deployment
        if wanted is not None and directory.deployment != wanted:
            raise findings.failed(name, expected=f"the deployment {wanted}", got=directory.deployment)

    def _current(self, directory: Directory, findings: Findings, now: float, held: VerifiedDirectory | None) -> None:
        name = "directory.current"
        off = outside(now, directory.epoch * directory.epoch_s, _ends(directory))
        if off:
            raise findings.failed(name, expected="a directory of this time", got=off)
        if held is not None and (directory.epoch, directory.seq) < (held.epoch, held.seq):
            raise findings.failed(name, expected="nothing older than the one in use", got="an older directory")
        findings.passed(name, f"until {_ends(directory)}")

    def _unique(self, directory: Directory, findings: Findings, held: VerifiedDirectory | None) -> None:
        name = "directory.unique"
        same = held is not None and (directory.epoch, directory.seq) == (held.epoch, held.seq)
        if same and held is not None and not hmac.compare_digest(directory.id, held.directory_id):
            raise findings.failed(name, expected="one directory per epoch and number", got="a second one")
        findings.skipped(NO_LOG, name)

    def _nodes(
        self, directory: Directory, findings: Findings, now: float, *, peer_is_loopback: bool
    ) -> tuple[tuple[VerifiedNode, ...], tuple[DroppedNode, ...]]:
        verified: list[VerifiedNode] = []
        errors: list[Failure] = [(listed, _unreadable(listed, findings)) for listed in directory.unreadable]
        for listed in directory.nodes:
            own = Findings(findings.all())
            try:
                verified += self._node(directory, listed, own, now, peer_is_loopback=peer_is_loopback)
            except AttestationError as error:
                errors.append((listed, error))
        if not verified:
            raise errors[0][1]  # nothing is left to use: the first node's own check says more than a share would
        _intact(directory, errors, findings)
        return tuple(verified), tuple(_dropped(listed, error) for listed, error in errors)

    def _node(
        self, directory: Directory, listed: ListedNode, findings: Findings, now: float, *, peer_is_loopback: bool
    ) -> list[VerifiedNode]:
        findings.passed("directory.intact", "judged over all nodes")
        bundle = listed.bundle
        facts = check_bundle(directory, bundle, self.policy, findings, now=now, peer_is_loopback=peer_is_loopback)
        statement = bundle.statement
        return [
            VerifiedNode(
                identity=statement.identity,
                keys=statement.keys,
                bundle_id=bundle.id,
                directory_id=directory.id,
                deployment=statement.deployment,
                model=model,
                tier=facts.tier,
                tier_words=facts.tier_words,
                measurement=facts.measurement,
                checks=findings.all(),
                weight=listed.weight,
                verified_at=now,
                valid_until=float(min(statement.not_after, _ends(directory))),
                token=_ONLY_HERE,
            )
            for model in statement.models
        ]


def _ends(directory: Directory) -> int:
    """Return when a directory stops serving, Unix seconds: two epochs after its start (SPEC 4)."""
    return (directory.epoch + 2) * directory.epoch_s


OWN_FLOORS = ("release.", "config.", "model.", "tier.")  # checks 20 to 29: this client's own, no sign of stuffing


def _unreadable(listed: UnreadableNode, findings: Findings) -> AttestationError:
    return Findings(findings.all()).failed("bundle.format", expected="a bundle of this version", got=listed.reason)


def _intact(directory: Directory, errors: list[Failure], findings: Findings) -> None:
    total = sum(node.weight for node in directory.nodes) + sum(node.weight for node in directory.unreadable)
    broken = sum(listed.weight for listed, error in errors if not error.check.startswith(OWN_FLOORS))
    if 2 * broken >= total:
        got = f"{broken} of {total} failing"
        raise findings.failed("directory.intact", expected="less than half the weight to fail", got=got)
    findings.passed("directory.intact", f"{total - broken} of {total} by weight")


def _dropped(listed: ListedNode | UnreadableNode, error: AttestationError) -> DroppedNode:
    return DroppedNode(
        node_id=listed.bundle.statement.identity.node_id if isinstance(listed, ListedNode) else b"",
        weight=listed.weight,
        check=error.check,
        expected=error.expected,
        got=error.got,
    )
