"""A real router in front of real nodes: one directory, the client's order, nothing decided that is the client's."""

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import grpc
import pytest

from hybrid.wire import codec
from hybrid.wire.checkpoint import open_checkpoint
from hybrid.wire.cosignature import CosignatureSigner, CosignatureVerifier
from hybrid.wire.directory import Directory, Leaf
from hybrid.wire.entries import DirectoryEntry, open_entry
from hybrid.wire.errors import Malformed, SignatureFailure, TruncatedStream
from hybrid.wire.evidence import SOFTWARE
from hybrid.wire.merkle import check_inclusion, leaf_hash
from hybrid.wire.note import Note, NoteSigner, NoteVerifier
from pcc_server.announce import MAX_SEQ
from pcc_server.composer import Composer
from pcc_server.ledger import LogLedger
from pcc_server.listing import Listing, Rules
from pcc_server.route_config import NodePlace
from pcc_server.tlog.key_files import make_key, read_signer
from pcc_server.tlog.log import Log
from pcc_server.tlog.witness import Server, Witness
from tests.pcc_server.node_client import COMMAND, Node, collect, kill, until
from tests.pcc_server.router_client import ManyClient, Router, node_id, published, routed

CANARY = "cerulean-zebra-7731"


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Node()) for _ in range(3)]


@pytest.fixture(scope="module")
def router(nodes: list[Node]) -> Iterator[Router]:
    with Router(nodes) as running:
        yield running


def listed(directory: Directory) -> set[bytes]:
    return {node.bundle.statement.identity.node_id for node in directory.nodes}


def served(node: Node) -> int:
    return len(node.events("request"))


def served_more(node: Node, before: int) -> bool:
    return served(node) == before + 1


# --- the directory ---------------------------------------------------------------------------------


def test_one_directory_lists_every_node_and_everybody_gets_the_same_bytes(nodes: list[Node], router: Router) -> None:
    with ManyClient(router) as one, ManyClient(router) as two:
        assert one.reply() == two.reply()
        assert set(one.candidates()) == {node_id(node) for node in nodes}
        assert len(one.candidates()) == len(nodes)


def test_weights_stand_in_the_directory(nodes: list[Node]) -> None:
    with routed([], "--node", f"{nodes[0].address}=7", "--node", nodes[1].address) as client:
        weights = {node.bundle.statement.identity.node_id: node.weight for node in client.newest().nodes}
        assert weights == {node_id(nodes[0]): 7, node_id(nodes[1]): 1}


def test_a_node_that_comes_back_is_listed_under_its_new_keys_with_a_raised_sequence_number() -> None:
    with Node() as stays, Node() as goes, routed([stays, goes]) as client:
        before = client.newest()
        goes.stop()
        with Node("--listen", goes.address) as back:
            wanted = {node_id(stays), node_id(back)}
            after = published(client, lambda found: listed(found) == wanted)
            assert (after.epoch, after.seq) > (before.epoch, before.seq)


def test_a_new_epoch_is_published_as_soon_as_every_node_has_renewed() -> None:
    with (
        Node("--epoch-s", "6") as one,
        Node("--epoch-s", "6") as two,
        routed([one, two], "--epoch-s", "6") as client,
    ):
        first = client.newest()
        second = published(client, lambda found: found.epoch > first.epoch)
        assert all(node.bundle.statement.keys[0].epoch == second.epoch for node in second.nodes)
        assert client.ask_of(list(client.candidates().values()), "after the turn").text


@pytest.mark.parametrize("options", [("--deployment", "other.example"), ("--epoch-s", "200")])
def test_nodes_of_another_kind_are_not_listed(nodes: list[Node], options: tuple[str, ...]) -> None:
    with Node(*options) as stranger, routed([nodes[0], stranger]) as client:
        assert set(client.candidates()) == {node_id(nodes[0])}
        assert client.node.events("node_left_out")


def test_a_node_under_two_names_is_listed_once(nodes: list[Node]) -> None:
    with routed(nodes[:1], "--node", nodes[0].address.replace("127.0.0.1", "localhost")) as client:
        assert [node.bundle.statement.identity.node_id for node in client.newest().nodes] == [node_id(nodes[0])]


def test_tier_0_on_another_machine_is_listed_only_where_that_was_allowed(nodes: list[Node]) -> None:
    with ManyClient(nodes[0]) as client:
        data = codec.join_parts(list(client._get(b"", timeout=10)))
    far = NodePlace(address="192.0.2.1:443")
    with pytest.raises(Malformed, match="tier 0"):
        Rules(deployment="localhost", epoch_s=300).read(far, data)
    assert Rules(deployment="localhost", epoch_s=300, allow_software=True).read(far, data).place is far


def test_a_node_whose_bundle_is_not_signed_by_itself_is_not_listed(nodes: list[Node]) -> None:
    with ManyClient(nodes[0]) as client:
        reply = client.reply()
    directory = bytearray(reply.directory)
    directory[-1] ^= 1  # inside the second signature
    data = codec.encode_directory_reply(directory=bytes(directory), leaf=reply.leaf)
    with pytest.raises(SignatureFailure):
        Rules(deployment="localhost", epoch_s=300).read(NodePlace(address="127.0.0.1:1"), data)


def test_before_any_node_answers_the_router_says_busy() -> None:
    with Router([], "--node", "127.0.0.1:1", "--listen", "127.0.0.1:0", wait=False) as router:
        until(lambda: router.events("node_left_out"), 20)
        assert not router.ready


# --- requests --------------------------------------------------------------------------------------


def test_the_client_s_order_decides(nodes: list[Node], router: Router) -> None:
    with ManyClient(router) as client:
        known = client.candidates()
        for first in nodes:
            before = served(first)
            order = [known[node_id(first)], *(known[node_id(n)] for n in nodes if n is not first)]
            answer = client.ask_of(order, "who answers?")
            assert answer.head[0] == 0
            assert answer.receipt is not None
            assert answer.receipt.node_id == node_id(first)
            until(partial(served_more, first, before))


def test_a_dead_candidate_is_passed_over_once_and_the_next_one_answers() -> None:
    with Node() as alive, Node() as dead, routed([dead, alive]) as client:
        known = client.candidates()
        order = [known[node_id(dead)], known[node_id(alive)]]
        kill(dead.launcher)
        answer = client.ask_of(order, "still there?")
        assert (answer.head[0], answer.text[:4]) == (1, "fake")
        until(lambda: served(alive) == 1)
        assert client.node.events("handed_over") == [{"event": "handed_over", "position": 0, "code": "BUSY"}]


@pytest.mark.parametrize("fault", ["stale_key", "overload", "die_before_head"])
def test_a_refusal_before_the_head_leads_to_the_next(fault: str) -> None:
    with Node("--fault", fault) as bad, Node() as good, routed([bad, good]) as client:
        known = client.candidates()
        assert client.ask_of([known[node_id(bad)], known[node_id(good)]], "hello").head[0] == 1


@pytest.mark.parametrize(("fault", "code"), [("rate_limit", "LIMIT"), ("replay", "REPLAY")])
def test_any_other_refusal_ends_the_request(fault: str, code: str) -> None:
    with Node("--fault", fault) as bad, Node() as good, routed([bad, good]) as client:
        known = client.candidates()
        sealed, _ = client.seal_to([known[node_id(bad)], known[node_id(good)]], "hello")
        _, details, trailers = client.refused(client.encode(sealed))
        assert details == code
        hint = dict(trailers).get("retry-after-ms")
        assert 160 <= int(hint) <= 240 if code == "LIMIT" else hint is None  # the node's, as it spread it
        assert served(good) == 0


def test_a_request_that_does_not_open_is_rejected_and_tried_nowhere_else(nodes: list[Node], router: Router) -> None:
    with ManyClient(router) as client:
        known = client.candidates()
        sealed, _ = client.seal_to([known[node_id(nodes[0])], known[node_id(nodes[1])]], "hello")
        spoilt = sealed.key_packages[0][:-1] + bytes((sealed.key_packages[0][-1] ^ 1,))
        before = served(nodes[1])
        data = codec.encode_invoke_request(sealed.header, sealed.body, (spoilt, sealed.key_packages[1]))
        assert client.refused(data)[1] == "REJECTED"
        assert served(nodes[1]) == before


def test_after_the_head_nobody_else_is_asked() -> None:
    with Node("--fault", "die_midstream") as dies, Node() as other, routed([dies, other]) as client:
        known = client.candidates()
        sealed, opener = client.seal_to([known[node_id(dies)], known[node_id(other)]], "x" * 100)
        seen: list[bytes] = []

        def kept() -> Iterator[bytes]:
            try:
                for message in client.send(client.encode(sealed)):
                    seen.append(message)
                    yield message
            except grpc.RpcError:
                return

        with pytest.raises(TruncatedStream):
            collect(kept(), opener)
        assert len(seen) > 1
        assert served(other) == 0


def test_when_all_refuse_a_stale_key_is_told_before_any_other_code() -> None:
    """With a new directory the client finds the node that took the place of the one it sealed to."""
    with (
        Node("--fault", "overload") as one,
        Node("--fault", "stale_key") as two,
        routed([one, two]) as client,
    ):
        known = client.candidates()
        for order, code in (((one, two), "STALE_KEY"), ((two, one), "STALE_KEY"), ((one,), "BUSY")):
            sealed, _ = client.seal_to([known[node_id(node)] for node in order], "hello")
            assert client.refused(client.encode(sealed))[1] == code


def test_a_candidate_that_is_not_listed_is_a_stale_key(nodes: list[Node], router: Router) -> None:
    with Node() as stranger, ManyClient(router) as client, ManyClient(stranger) as beside:
        (unlisted,) = beside.candidates().values()
        sealed, _ = client.seal_to([unlisted], "hello")
        assert client.refused(client.encode(sealed))[1] == "STALE_KEY"
        known = client.candidates()
        assert client.ask_of([unlisted, known[node_id(nodes[0])]], "hello").head[0] == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda sealed: (sealed.header, sealed.body, sealed.key_packages[:1], 0),
        lambda sealed: (sealed.header, sealed.body, sealed.key_packages, 1),
        lambda sealed: (sealed.header[:-1], sealed.body, sealed.key_packages, 0),
        lambda sealed: (sealed.header, b"", sealed.key_packages, 0),
    ],
)
def test_what_no_client_sends_is_malformed(
    router: Router, spoil: Callable[..., tuple[bytes, bytes, tuple[bytes, ...], int]]
) -> None:
    with ManyClient(router) as client:
        sealed, _ = client.seal_to(list(client.candidates().values()), "hello")
        header, body, packages, index = spoil(sealed)
        assert client.refused(codec.encode_invoke_request(header, body, packages, index=index))[1] == "MALFORMED"


def test_a_caller_that_goes_away_takes_its_request_with_it() -> None:
    with Node("--fake-delay-ms", "60000") as slow, routed([slow]) as client:
        sealed, _ = client.seal_to(list(client.candidates().values()), "hello")
        call = client.send(client.encode(sealed))
        next(call)
        call.cancel()
        until(lambda: slow.events("cancelled"))


def test_the_router_says_and_keeps_nothing_of_a_request(nodes: list[Node]) -> None:
    with routed(nodes) as client:
        for _ in range(5):
            assert client.ask_of(list(client.candidates().values()), CANARY).text
        found = [
            path
            for fd in Path(f"/proc/{client.node.launcher}/fd").iterdir()
            if (path := str(fd.readlink())).startswith("/")
        ]
        assert not [path for path in found if not path.startswith(("/dev/", "/proc/"))]
        assert CANARY not in client.node.words()
    assert not any(word in client.node.words() for word in ("token 1", "hello"))


def test_sigterm_lets_what_runs_finish() -> None:
    with Node("--fake-delay-ms", "200") as node, routed([node]) as client:
        sealed, opener = client.seal_to(list(client.candidates().values()), "hello")
        call = client.send(client.encode(sealed))
        first = next(call)
        client.node.process.terminate()
        until(lambda: client.node.events("draining"))

        def whole() -> Iterator[bytes]:
            yield first
            yield from call

        assert collect(whole(), opener).receipt is not None
        assert client.node.process.wait(10) == 0


# --- access ----------------------------------------------------------------------------------------


def test_the_router_asks_for_the_key_and_does_not_pass_it_on(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    made = subprocess.run([*COMMAND, "access", "add", str(keys), "me"], capture_output=True, text=True, check=True)
    token = made.stdout.strip().encode()
    asked = ("--access", "keys", "--access-keys", str(keys))
    with (
        Node("--access", "router") as one,
        Node("--access", "router") as two,
        routed([one, two], *asked) as client,
    ):
        order = list(client.candidates().values())
        assert client.ask_of(order, "with a key", token=token).text
        assert client.ask_of(order[:1], "to one node", token=token).text
        for wrong in (b"", b"pcc_" + b"A" * 43):
            sealed, _ = client.seal_to(order, "hello", token=wrong)
            assert client.refused(client.encode_with(sealed, wrong))[:2] == (
                grpc.StatusCode.UNAUTHENTICATED,
                "TOKEN",
            )
        sealed, _ = client.seal_to(order, "hello", token=b"another")  # N26: the key of another request
        assert client.refused(client.encode_with(sealed, token))[1] == "TOKEN"
        assert not one.events("refused")
        assert not two.events("refused")


# --- evidence over a nonce -------------------------------------------------------------------------


def test_evidence_over_a_nonce_comes_from_the_node_it_names(nodes: list[Node], router: Router) -> None:
    with ManyClient(router) as client:
        nonce = os.urandom(32)
        reply = client.attest(node_id(nodes[1]), nonce)
        assert nonce in reply.nonces
        assert [item.format for item in reply.items] == [SOFTWARE]
        assert client.fetch("Evidence.EventLog", codec.encode_node_ref(node_id(nodes[1]))) == b""
        with pytest.raises(grpc.RpcError) as raised:
            client.attest(bytes(32), nonce)
        assert raised.value.details() == "STALE_KEY"


# --- the log ---------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> tuple[Log, Path, NoteVerifier]:
    """A log, its folder, and the public half of the directory signer's key beside it."""
    made = Log.init(tmp_path / "log", "localhost/log")
    signer = make_key(tmp_path / "directory.key", "localhost/directory")
    return made, tmp_path / "log", NoteVerifier.parse(signer.vkey)


def test_every_directory_is_in_the_log_before_anybody_gets_it(log: tuple[Log, Path, NoteVerifier]) -> None:
    made, folder, signer = log
    key = str(folder.parent / "directory.key")
    with (
        Node("--log", str(folder)) as node,
        routed([node], "--log", str(folder), "--directory-key", key) as client,
    ):
        reply = client.reply()
        entry = check_logged(reply, NoteVerifier.parse(made.vkey), signer)
        directory = Directory.decode(reply.directory)
        assert (entry.directory_id, entry.seq) == (directory.id, 0)
        assert client.fetch("Log.File", codec.encode_log_path("checkpoint")) == reply.checkpoint
        assert client.ask_of(list(client.candidates().values()), "hello").text
    assert made.verify().appended == 1


def check_logged(reply: codec.DirectoryReply, log_key: NoteVerifier, signer: NoteVerifier) -> DirectoryEntry:
    """As a client does: the checkpoint is the log's, the entry is under it."""
    checkpoint = open_checkpoint(reply.checkpoint, log_key)
    leaf = Leaf.decode(reply.leaf)
    check_inclusion(
        leaf=leaf_hash(leaf.entry), index=leaf.index, size=checkpoint.size, proof=leaf.hashes, root=checkpoint.root
    )
    entry = open_entry(leaf.entry, signer)
    assert isinstance(entry, DirectoryEntry)
    return entry


def test_witnesses_cosign_what_is_served_and_a_silent_one_stops_nothing(
    log: tuple[Log, Path, NoteVerifier], tmp_path: Path
) -> None:
    made, folder, signer = log
    cosigner = CosignatureSigner.generate("witness.example/w1", "ml-dsa-44")
    cosigning = Witness(tmp_path / "witness", cosigner, [NoteVerifier.parse(made.vkey)])
    silent = f"{CosignatureSigner.generate('witness.example/w2', 'ml-dsa-44').vkey} http://127.0.0.1:1"
    key = str(folder.parent / "directory.key")
    with ExitStack() as stack:
        server = stack.enter_context(Server(("127.0.0.1", 0), cosigning))
        stack.callback(server.shutdown)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asked = ("--witness", f"{cosigner.vkey} {server.url}", "--witness", silent)
        node = stack.enter_context(Node("--log", str(folder)))
        client = stack.enter_context(routed([node], "--log", str(folder), "--directory-key", key, *asked))
        reply = client.reply()
        check_logged(reply, NoteVerifier.parse(made.vkey), signer)
        assert CosignatureVerifier.parse(cosigner.vkey).time(Note.parse(reply.checkpoint))
        assert until(lambda: client.node.events("witness_silent"))[0]["witnesses"] == 1


def test_a_router_that_starts_again_never_uses_a_sequence_number_twice(log: tuple[Log, Path, NoteVerifier]) -> None:
    made, folder, signer = log
    options = ("--log", str(folder), "--directory-key", str(folder.parent / "directory.key"))
    said: list[tuple[int, int]] = []
    with Node("--epoch-s", "900") as node:
        for _ in range(3):
            with routed([node], *options, "--epoch-s", "900") as client:
                said.append((client.newest().epoch, client.newest().seq))
    assert len(set(said)) == len(said)
    assert said == sorted(said)
    entries = [open_entry(entry, signer) for entry in made.entries(0, made.size)]
    assert [(entry.epoch, entry.seq) for entry in entries if isinstance(entry, DirectoryEntry)] == said


def test_an_epoch_has_sixteen_directories_at_most(log: tuple[Log, Path, NoteVerifier]) -> None:
    """The seventeenth start in an epoch publishes nothing: its directory would be one too many."""
    made, folder, verifier = log
    signer = read_signer(folder.parent / "directory.key")
    ledger = LogLedger(made, (), verifier)
    composer = Composer(deployment="localhost", epoch_s=900, signer=signer, ledger=ledger)
    assert composer.may_publish(7)
    with Node("--epoch-s", "900") as node, ManyClient(node) as client:
        listing = listing_of(node, client)
        for seq in range(MAX_SEQ + 1):
            assert composer.may_publish(listing.epoch)
            assert composer.compose([listing], listing.epoch).seq == seq
        assert not composer.may_publish(listing.epoch)
        again = Composer(deployment="localhost", epoch_s=900, signer=signer, ledger=LogLedger(made, (), verifier))
        assert not again.may_publish(listing.epoch)
        assert again.may_publish(listing.epoch + 1)


def test_a_router_without_a_log_goes_on_where_its_last_run_ended() -> None:
    """Its directory key may be the old one, and clients call two directories under one number a contradiction."""
    signer = NoteSigner.generate("localhost/directory")
    with Node("--epoch-s", "900") as node, ManyClient(node) as client:
        listing = listing_of(node, client)

        def seqs(after_s: float, count: int) -> list[int]:
            def now() -> float:
                return listing.epoch * 900 + after_s

            run = Composer(deployment="localhost", epoch_s=900, signer=signer, now=now)
            return [run.compose([listing], listing.epoch).seq for _ in range(count)]

        assert seqs(-1.0, 2) == [0, 1]  # composed for an epoch that is about to begin
        assert seqs(5.0, 3) == [5, 6, 7]
        assert seqs(9.0, 1) == [9]


def listing_of(node: Node, client: ManyClient) -> Listing:
    data = codec.join_parts(list(client._get(b"", timeout=10)))
    return Rules(deployment="localhost", epoch_s=900).read(NodePlace(address=node.address), data)


# --- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--listen", "0.0.0.0:0"), "--tls-cert and --tls-key are required"),
        (("--node", "127.0.0.1:1"), "named twice"),
        (("--node", "192.0.2.1:443"), "--node-ca FILE is required"),
        (("--node", "127.0.0.1:2=0"), "weight of 1 to 1000"),
        (("--node", "127.0.0.1"), "--node takes HOST:PORT"),
        (("--log", "/nowhere"), "--log needs --directory-key"),
        (("--witness", "x http://127.0.0.1:1"), "--witness needs --log"),
        (("--access", "keys"), "--access-keys FILE go together"),
        (("--access", "keys", "--access-keys", "/nowhere"), "cannot read the file of access keys"),
        (("--directory-key", "/nowhere"), "--directory-key"),
        (("--deployment", "NO"), "lower-case DNS name"),
        (("--epoch-s", "0"), "--epoch-s must lie between"),
    ],
)
def test_options_that_do_not_fit_say_what_to_do(options: tuple[str, ...], says: str) -> None:
    done = subprocess.run(
        [*COMMAND, "route", "--listen", "127.0.0.1:0", "--node", "127.0.0.1:1", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
