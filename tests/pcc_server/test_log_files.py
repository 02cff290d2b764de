"""A node with a log serves its files, names its checkpoint and release; evidence over nonces comes in turns."""

import asyncio
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from hybrid.wire import codec
from hybrid.wire.attest import MAX_NONCES, AttestReply, nonce_binding
from hybrid.wire.checkpoint import checkpoint_digest
from hybrid.wire.entries import ModelEntryNote, sign
from hybrid.wire.errors import Malformed
from hybrid.wire.evidence import NO_LOG
from hybrid.wire.merkle import leaf_hash
from hybrid.wire.note import NoteSigner
from hybrid.wire.release import ReleaseEntry
from pcc_server.config import Settings, config_digest
from pcc_server.errors import Limit, StartFailure
from pcc_server.log_files import LogFolder, read_event_log
from pcc_server.tlog.key_files import make_key
from pcc_server.tlog.log import Log
from pcc_server.turns import Turns
from tests.pcc_server.node_client import COMMAND, Node
from tests.pcc_server.router_client import ManyClient, node_id, published, routed

EPOCH_S = 6


def release_of(settings: Settings, signer: NoteSigner) -> bytes:
    entry = ReleaseEntry(
        name="hybrid-pcc",
        version="0.1.0",
        source_commit="0" * 40,
        artefacts={},
        sbom="0" * 64,
        measurements={"sev-snp": (), "tpm2": ()},
        configs={"test": config_digest(settings).hex()},
        issued=1_800_000_000,
        expires=1_800_086_400,
    )
    return sign(entry, signer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with one release and a model; the keys and entries lie beside it."""
    place = tmp_path_factory.mktemp("deployment")
    log = Log.init(place / "log", "localhost/log")
    make_key(place / "directory.key", "localhost/directory")
    settings = Settings(engine="fake", model="fake", epoch_s=EPOCH_S, log=str(place / "log"))
    release = release_of(settings, NoteSigner.generate("publisher.example/release"))
    (place / "release").write_bytes(release)
    model = ModelEntryNote(model_id="fake", manifest=fake_manifest(), licence="none", context=8192, issued=1)
    log.append([release, sign(model, NoteSigner.generate("publisher.example/models"))])
    log.checkpoint()
    return place / "log"


def fake_manifest() -> bytes:
    with Node() as node, ManyClient(node) as client:
        return client.newest().nodes[0].bundle.statement.models[0].manifest


@pytest.fixture(scope="module")
def node(folder: Path) -> Iterator[Node]:
    release = str(folder.parent / "release")
    with Node("--log", str(folder), "--release", release, "--epoch-s", str(EPOCH_S)) as running:
        yield running


def log_file(client: ManyClient, path: str) -> bytes:
    return client.fetch("Log.File", codec.encode_log_path(path))


# --- files -----------------------------------------------------------------------------------------


def test_the_files_of_the_log_are_served_as_they_lie_there(node: Node, folder: Path) -> None:
    with ManyClient(node) as client:
        for path in ("checkpoint", "tile/0/000.p/2", "tile/entries/000.p/2"):
            assert log_file(client, path) == (folder / path).read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../log.private/key",
        "tile/../../log.private/key",
        "tile/entries/../../../log.private/key",
        "tile/0/000.p/../../../../log.private/key",
        "./checkpoint",
        "checkpoint/",
        "checkpoint\0",
        "history/000000000000-1",
        "tile/0/001",
        "tile/00/000.p/2",
        "tile/0/000.p/02",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile",
    ],
)
def test_no_other_path_leads_anywhere(node: Node, folder: Path, path: str) -> None:
    assert (folder.parent / "log.private" / "key").exists()  # the control: there is something to steal
    with ManyClient(node) as client:
        with pytest.raises(grpc.RpcError) as raised:
            log_file(client, path)
        assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED")
    with pytest.raises(Malformed):
        LogFolder(folder).read(path)


def test_a_node_without_a_log_serves_no_file() -> None:
    with Node() as plain, ManyClient(plain) as client:
        with pytest.raises(grpc.RpcError) as raised:
            log_file(client, "checkpoint")
        assert raised.value.details() == "MALFORMED"
        assert client.newest().nodes[0].bundle.statement.checkpoint_digest == NO_LOG


# --- the statement ---------------------------------------------------------------------------------


def test_the_statement_names_release_and_checkpoint_and_the_directory_holds_it(node: Node, folder: Path) -> None:
    with ManyClient(node) as client:
        reply, directory = client.reply(), client.newest()
        statement = directory.nodes[0].bundle.statement
        assert statement.release_leaf == leaf_hash((folder.parent / "release").read_bytes())
        assert statement.checkpoint_digest == checkpoint_digest(directory.checkpoints[0])
        assert directory.checkpoints == (reply.checkpoint,)


def test_a_new_checkpoint_is_named_from_the_next_epoch_on(folder: Path) -> None:
    """Not at once: a directory makes a checkpoint, which would make a bundle, which would make a directory."""
    log = Log.open(folder)
    with Node("--log", str(folder), "--epoch-s", str(EPOCH_S)) as node, ManyClient(node) as client:
        before = client.newest()
        log.append([release_of(Settings(epoch_s=EPOCH_S, engine="fake"), NoteSigner.generate("x/release"))])
        note = log.checkpoint()
        after = published(client, lambda found: found.checkpoints == (note,), 3 * EPOCH_S)
        assert after.epoch > before.epoch
        assert all(one.seq == 0 for one in (before, after))


def test_a_router_adds_the_leaves_of_what_its_nodes_run(node: Node, folder: Path) -> None:
    key = str(folder.parent / "directory.key")
    options = ("--log", str(folder), "--directory-key", key, "--epoch-s", str(EPOCH_S))
    with routed([node], *options) as client:
        directory = client.newest()
        statement = directory.nodes[0].bundle.statement
        assert statement.checkpoint_digest in {checkpoint_digest(note) for note in directory.checkpoints}
        assert [leaf.index for leaf in directory.leaves] == [0, 1]
        assert leaf_hash(directory.leaves[0].entry) == statement.release_leaf
        assert {leaf.checkpoint_no for leaf in directory.leaves} == {len(directory.checkpoints) - 1}
        assert client.ask_of(list(client.candidates().values()), "hello").text
    Log.open(folder).verify()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--release", "x"), "--release names an entry of a log: add --log DIR"),
        (("--log", "/nowhere"), "holds no log"),
        (("--log", "LOG", "--release", "/nowhere"), "cannot read --release"),
        (("--log", "LOG", "--release", "LOG/checkpoint"), "is no signed RELEASE entry"),
        (("--log", "LOG", "--release", "RELEASE"), "does not list this node's configuration"),  # epochs of 300 s
        (("--attester", "tpm2"), "add --release FILE and --log DIR"),
        (("--event-log", "/nowhere"), "cannot read --event-log"),
    ],
)
def test_options_that_do_not_fit_say_what_to_do(folder: Path, options: Sequence[str], says: str) -> None:
    named = [word.replace("LOG", str(folder)).replace("RELEASE", str(folder.parent / "release")) for word in options]
    words = [*COMMAND, "serve", "--engine", "fake", "--listen", "127.0.0.1:0", *named]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, says in done.stderr) == (2, True), done.stderr


def test_a_folder_without_a_checkpoint_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(StartFailure, match="pcc-server log init"):
        LogFolder(tmp_path)


# --- evidence over a nonce -------------------------------------------------------------------------


def test_evidence_covers_the_nonce_and_the_bundle_that_is_listed(node: Node) -> None:
    with ManyClient(node) as client:
        nonce = os.urandom(32)
        reply = client.attest(node_id(node), nonce)
        assert nonce in reply.nonces
        assert [item.item for item in reply.items] == [b""]  # tier 0: nothing signs the binding, and it says so
        bundle = client.newest().nodes[0].bundle.id
        assert nonce_binding(bundle, reply.nonces, (), "software") != nonce_binding(
            bundle, (nonce,) * 2, (), "software"
        )


def test_an_event_log_is_handed_out_whole(tmp_path: Path) -> None:
    data = os.urandom(200_000)
    (tmp_path / "log").write_bytes(data)
    with Node("--event-log", str(tmp_path / "log")) as node, ManyClient(node) as client:
        assert client.fetch("Evidence.EventLog", codec.encode_node_ref(node_id(node))) == data
        with pytest.raises(grpc.RpcError) as raised:
            client.fetch("Evidence.EventLog", codec.encode_node_ref(bytes(32)))
        assert raised.value.details() == "STALE_KEY"


def test_one_address_has_four_nonces_waiting_at_most(node: Node) -> None:
    with ManyClient(node) as client:
        own = node_id(node)
        call: Any = client.channel.unary_stream(codec.METHODS["Evidence.Attest"])
        client.attest(own, os.urandom(32))  # the next turn is a second away
        calls = [call(codec.encode_attest_request(own, os.urandom(32)), timeout=20) for _ in range(9)]
        codes = [outcome(one) for one in calls]
        assert codes.count("OK") == 4
        assert codes.count("LIMIT") == 5


def outcome(call: Iterator[bytes]) -> str:
    try:
        AttestReply.decode(codec.join_parts(list(call)))
    except grpc.RpcError as error:
        return str(error.details())
    return "OK"


def test_nonces_that_wait_together_are_collected_together_and_turns_are_apart() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        batches: list[tuple[float, Sequence[bytes]]] = []

        async def collect(nonces: Sequence[bytes]) -> bytes:
            batches.append((loop.time(), nonces))
            return b"%d" % len(nonces)

        turns = Turns(collect, every_s=0.2)
        assert await turns.take(b"first") == b"1"
        replies = await asyncio.gather(*(turns.take(b"%d" % number) for number in range(5)), turns.take(b"0"))
        assert set(replies) == {b"5"}
        assert batches[1][1] == (b"0", b"1", b"2", b"3", b"4")
        assert batches[1][0] - batches[0][0] >= 0.19

    asyncio.run(main())


def test_more_nonces_than_fit_are_refused_and_a_failure_reaches_everybody() -> None:
    async def main() -> None:
        async def fails(_nonces: Sequence[bytes]) -> bytes:
            raise Malformed("no")

        turns = Turns(fails)
        waiting = [asyncio.create_task(turns.take(b"%d" % number)) for number in range(MAX_NONCES)]
        await asyncio.sleep(0)
        with pytest.raises(Limit):
            await turns.take(b"one more")
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, Malformed) for result in results)

    asyncio.run(main())


def test_an_event_log_without_end_is_not_read_to_it() -> None:
    with pytest.raises(StartFailure, match="longer than"):
        read_event_log("/dev/zero")
