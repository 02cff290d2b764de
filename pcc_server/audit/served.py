"""What the node says it runs, against what its settings and its disk say: configuration, caches, weights, engine."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from hybrid.wire.errors import WireError
from hybrid.wire.evidence import Bundle, Statement
from pcc_server.cli_keys import AdminClient
from pcc_server.config import Settings, config_digest, is_loopback, split_address
from pcc_server.errors import StartFailure
from pcc_server.events import Program

from .node import Node
from .processes import listening_of
from .report import Check, Found, Row, State, Unseen, aside, good, wrong

_SHOWN = 16  # hexadecimal digits of a digest

CONFIG = Check(
    "config_digest",
    "the running node attests the configuration that its settings give",
    "clients are told of another configuration than the one that was audited here",
)
CACHES = Check(
    "caches",
    "nothing kept between requests, or salted by each client",
    "one caller's waiting time tells what another has asked",
)
WEIGHTS = Check(
    "weights",
    "every file hashes to the manifest, and the node attests that manifest",
    "another model answers than the one clients were shown",
)
ENGINE = Check(
    "engine", "an engine inside the sandbox, or one set up to keep nothing", "an engine keeps what it is sent"
)
TEST_SWITCHES = Check("test_switches", "none", "the node misbehaves on purpose")

Publish = Callable[[], Statement]


def rows(node: Node) -> Iterator[Row]:
    """Compare."""
    publish = _Published(node)
    yield CONFIG.look(lambda: configuration(node, publish))
    yield CACHES.look(lambda: caches(node))
    yield WEIGHTS.look(lambda: weights(node.settings, publish))
    yield from engine(node.settings)
    yield TEST_SWITCHES.look(lambda: Found(not node.settings.fault, node.settings.fault or "none"))


class _Published:
    """What the node publishes, asked once."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._told: Statement | str | None = None

    def __call__(self) -> Statement:
        if self._told is None:
            try:
                self._told = statement(self._node)
            except Unseen as why:
                self._told = str(why)
        if isinstance(self._told, str):
            raise Unseen(self._told)
        return self._told


def statement(node: Node) -> Statement:
    """Return what the running node says about itself: by its admin port, or its own port without TLS. Raises Unseen."""
    node.pid(Program.GATEWAY)
    settings = node.settings
    if settings.admin and split_address(settings.admin)[1]:
        return _by_admin(settings)
    if settings.tls_cert:
        raise Unseen("ask the node itself with --admin HOST:PORT, its admin port")
    from .caller import Caller

    for address in _addresses(node):
        with Caller(address) as caller, contextlib.suppress(Unseen):
            return caller.bundle().statement
    raise Unseen("no port of the node shows its directory")


def _addresses(node: Node) -> list[str]:
    """Return where it may listen: a port that was left to the kernel is among the gateway's sockets."""
    if split_address(node.settings.listen)[1]:
        return [node.settings.listen]
    return listening_of(node, Program.GATEWAY)


def _by_admin(settings: Settings) -> Statement:
    token = Path(settings.admin_token) if settings.admin_token else None
    try:
        bundle = Bundle.decode(_admin(settings, token).read("GET", "/evidence"))
        bundle.verify_signature()
    except StartFailure as failure:
        raise Unseen(f"the node does not show its evidence: {failure.message}") from None
    except WireError:
        raise Unseen("the evidence at the admin port cannot be read") from None
    return bundle.statement


def _admin(settings: Settings, token: Path | None) -> AdminClient:
    """Return the way to this machine's admin port, which is TLS, with the node's certificate, off loopback alone."""
    host, port = split_address(settings.admin)
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host)  # noqa: S104 - looked up, not bound
    ca = "" if is_loopback(host) else settings.tls_cert
    return AdminClient(f"{here}:{port}" if here else settings.admin, token, ca, own=bool(ca))


def configuration(node: Node, publish: Publish) -> Found:
    """Compare the digest in the evidence with that of the settings."""
    wanted, said = config_digest(node.settings), publish().config_digest
    if wanted == said:
        return good(f"{said.hex()[:_SHOWN]}…")
    seen = "" if node.environ is not None else "; its environment cannot be read: name the file with --config"
    return wrong(f"it attests {said.hex()[:_SHOWN]}…, the settings give {wanted.hex()[:_SHOWN]}…{seen}")


def caches(node: Node) -> Found:
    """Look at the prefix cache; a tokenizer that keeps words is refused by the worker itself."""
    node.pid(Program.WORKER)
    kept = node.settings.prefix_cache
    return good("off" if kept == "off" else "prefix cache salted: a client finds only what it left itself")


def weights(settings: Settings, publish: Publish) -> Found:
    """Hash the model's files again."""
    if settings.engine != "mlx":
        return aside(f"the {settings.engine} engine has no weights that this node measures, and attests so")
    from pcc_server.engines.mlx import weigh

    try:
        digest = weigh(settings)
    except StartFailure as failure:
        return wrong(failure.message)
    said = publish().models[0].manifest
    return Found(digest == said, f"{digest.hex()[:_SHOWN]}… on the disk, {said.hex()[:_SHOWN]}… attested")


def engine(settings: Settings) -> Iterator[Row]:
    """Every setting of an engine of others, asked of the engine."""
    if settings.engine != "openai":
        yield ENGINE.row(State.NOT_APPLICABLE, f"{settings.engine} runs inside the worker")
        return
    from pcc_server.engines.openai_checks import engine_settings

    try:
        checks = engine_settings(settings)
    except StartFailure as failure:
        yield ENGINE.row(State.NOT_PROVEN, failure.message)
        return
    states = {True: State.OK, False: State.RED, None: State.NOT_PROVEN}
    for check in checks:
        yield Check(check.name, check.want, check.consequence).row(states[check.held], check.got)
