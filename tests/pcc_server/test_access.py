"""Keys for clients: random, stored as hashes, compared in constant time, limited each, judged before decryption."""

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from hybrid.wire import codec
from hybrid.wire.errors import ErrorCode
from pcc_server import cli_access, errors
from pcc_server.access import AccessKey, Anybody, Keys, digest_of, parse_keys
from pcc_server.errors import Limit, StartFailure, TokenRefused
from tests.pcc_server.node_client import COMMAND, Node, collect, until
from tests.pcc_server.router_client import ManyClient

TOKEN = b"pcc_" + b"A" * 43
SIZE = 1096  # of the smallest sealed body


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def key(
    name: str = "one", token: bytes = TOKEN, per_minute: int = 60, at_once: int = 4, tokens: int = 400_000
) -> AccessKey:
    return AccessKey(id=name, digest=digest_of(token), per_minute=per_minute, at_once=at_once, tokens=tokens)


def write(path: Path, *keys: AccessKey) -> Path:
    path.write_text("# a comment\n\n" + "".join(f"{one.encode()}\n" for one in keys))
    return path


# --- the file --------------------------------------------------------------------------------------


def test_a_line_holds_id_hash_and_limits_and_not_the_key() -> None:
    line = key().encode()
    assert parse_keys(line) == (key(),)
    assert TOKEN.decode() not in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("one", "line 1: a key reads"),
        (f"one {'0' * 63} 60/4", "line 1"),
        (f"one {'A' * 64} 60/4", "line 1"),
        (f"ONE {'0' * 64} 60/4", "line 1"),
        (f"one {'0' * 64} 0/4", "limits lie between"),
        (f"one {'0' * 64} 60/0", "limits lie between"),
        (f"one {'0' * 64} 60", "line 1"),
        (f"one {'0' * 64} 60/4/0", "limits lie between"),
        (f"one {'0' * 64} 60/4/999999999", "limits lie between"),
        (f"one {'0' * 64} 60/4 more", "line 1"),
        (f"one {'0' * 64} 60/4\none {'1' * 64} 60/4", "line 2: the id one stands twice"),
    ],
)
def test_a_file_that_is_not_clear_is_refused_by_line(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_keys(text)


def test_a_line_without_tokens_has_the_usual_ones() -> None:
    (read,) = parse_keys(f"one {'0' * 64} 60/4")
    assert read.tokens == key().tokens


def test_a_file_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(StartFailure) as raised:
        Keys(tmp_path / "none")
    assert raised.value.exit_code == errors.CONFIG_EXIT


# --- who is let in ---------------------------------------------------------------------------------


def test_a_holder_is_let_in_and_nobody_else(tmp_path: Path) -> None:
    keys = Keys(write(tmp_path / "keys", key("other", b"x"), key()))
    with keys.enter(TOKEN, size_bytes=SIZE):
        pass
    for wrong in (b"", TOKEN[:-1], TOKEN + b"A", digest_of(TOKEN), digest_of(TOKEN).hex().encode()):
        with pytest.raises(TokenRefused), keys.enter(wrong, size_bytes=SIZE):
            pass


def test_every_key_is_compared_whether_an_earlier_one_fits_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[bytes] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return one == other

    keys = Keys(write(tmp_path / "keys", key(), key("two", b"2"), key("three", b"3")))
    monkeypatch.setattr("pcc_server.access.hmac.compare_digest", compare)
    with keys.enter(TOKEN, size_bytes=SIZE):
        assert len(compared) == 3


def test_each_key_has_limits_of_its_own(tmp_path: Path) -> None:
    clock = Clock()
    keys = Keys(write(tmp_path / "keys", key(per_minute=2, at_once=1), key("other", b"x")), clock=clock)
    with keys.enter(TOKEN, size_bytes=SIZE):
        with pytest.raises(Limit), keys.enter(TOKEN, size_bytes=SIZE):
            pass
        with keys.enter(b"x", size_bytes=SIZE):
            pass
    with keys.enter(TOKEN, size_bytes=SIZE):
        pass
    with pytest.raises(Limit) as raised, keys.enter(TOKEN, size_bytes=SIZE):
        pass
    assert 0 < raised.value.retry_ms <= 30_001
    clock.now += 31
    with keys.enter(TOKEN, size_bytes=SIZE):
        pass


def test_a_long_prompt_pays_for_its_size_and_a_short_one_goes_on(tmp_path: Path) -> None:
    """1,000 tokens a minute: two prompts of 2,000 bytes, then none of that size for half a minute."""
    clock = Clock()
    keys = Keys(write(tmp_path / "keys", key(tokens=1_000), key("other", b"x", tokens=1_000)), clock=clock)
    for _ in range(2):
        with keys.enter(TOKEN, size_bytes=2_000):
            pass
    with pytest.raises(Limit) as raised, keys.enter(TOKEN, size_bytes=2_000):
        pass
    assert 0 < raised.value.retry_ms <= 30_001
    with keys.enter(b"x", size_bytes=2_000):
        pass  # another key's bucket is full
    clock.now += 7
    with keys.enter(TOKEN, size_bytes=400):
        pass  # a short one has enough by now
    clock.now += 61
    with keys.enter(TOKEN, size_bytes=1_000_000):
        pass  # the largest one takes a full bucket, and is not locked out for ever
    with pytest.raises(Limit), keys.enter(TOKEN, size_bytes=400):
        pass


def test_each_key_is_a_tenant_of_its_own_and_stays_it(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "keys"
    keys = Keys(write(path, key(), key("other", b"x")), clock=clock)
    with keys.enter(TOKEN, size_bytes=SIZE) as one, keys.enter(b"x", size_bytes=SIZE) as other:
        assert 0 < one != other > 0
    write(path, key("new", b"new"), key())
    clock.now += 1.1
    with keys.enter(TOKEN, size_bytes=SIZE) as again, keys.enter(b"new", size_bytes=SIZE) as new:
        assert again == one
        assert new not in {0, one, other}
    with Anybody().enter(b"", size_bytes=SIZE) as nobody:
        assert nobody == 0


def test_a_changed_file_counts_within_a_second_and_one_that_breaks_lets_nobody_in(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "keys"
    keys = Keys(write(path, key()), clock=clock)
    write(path, key("new", b"new"))
    clock.now += 1.1
    with pytest.raises(TokenRefused), keys.enter(TOKEN, size_bytes=SIZE):
        pass
    with keys.enter(b"new", size_bytes=SIZE):
        pass
    for broken in ("nonsense", None):
        path.write_text(broken) if broken else path.unlink()
        clock.now += 1.1
        with pytest.raises(TokenRefused), keys.enter(b"new", size_bytes=SIZE):
            pass
        write(path, key("new", b"new"))
        clock.now += 1.1
        with keys.enter(b"new", size_bytes=SIZE):
            pass


def test_a_running_request_still_counts_after_the_file_changed(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "keys"
    keys = Keys(write(path, key(at_once=1)), clock=clock)
    with keys.enter(TOKEN, size_bytes=SIZE):
        write(path, key(at_once=1), key("new", b"new"))
        clock.now += 1.1
        with pytest.raises(Limit), keys.enter(TOKEN, size_bytes=SIZE):
            pass


# --- a node ----------------------------------------------------------------------------------------


def access(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "access", *words], capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access") / "keys"


@pytest.fixture(scope="module")
def token(file: Path) -> bytes:
    return access("add", str(file), "me").stdout.strip().encode()


@pytest.fixture(scope="module")
def guarded(file: Path, token: bytes) -> Iterator[Node]:
    assert token
    with Node("--access", "keys", "--access-keys", str(file)) as running:
        yield running


def refused(client: ManyClient, sealed_with: bytes, sent: bytes) -> tuple[grpc.StatusCode, str]:
    sealed, _ = client.seal_to([client.candidate], "hello", token=sealed_with)
    status, details, _ = client.refused(client.encode_with(sealed, sent))
    return status, details


def test_a_key_opens_the_node_and_nothing_else_does(guarded: Node, token: bytes) -> None:
    with ManyClient(guarded) as client:
        assert client.ask_of([client.candidate], "hello", token=token).text
        worker_refused = len(guarded.events("fault"))
        for sealed_with, sent in ((b"", b""), (TOKEN, TOKEN), (token, b""), (b"", token), (TOKEN, token)):
            assert refused(client, sealed_with, sent) == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN")
        assert len(guarded.events("fault")) == worker_refused


def test_a_request_without_a_key_is_refused_before_anything_is_decrypted(guarded: Node, token: bytes) -> None:
    """The key package is spoilt, so whoever decrypted first would say REJECTED."""
    with ManyClient(guarded) as client:
        for with_key, code in ((b"", ErrorCode.TOKEN), (token, ErrorCode.REJECTED)):
            sealed, _ = client.seal_to([client.candidate], "hello", token=with_key)
            spoilt = sealed.key_packages[0][:-1] + bytes((sealed.key_packages[0][-1] ^ 1,))
            data = codec.encode_invoke_request(sealed.header, sealed.body, (spoilt,), token=with_key)
            assert client.refused(data)[1] == code


def test_the_form_in_which_a_router_sends_is_no_way_around_the_key(guarded: Node) -> None:
    with ManyClient(guarded) as client, Node() as other, ManyClient(other) as beside:
        sealed, opener = client.seal_to([client.candidate, beside.candidate], "hello")
        routed = codec.encode_invoke_request(sealed.header, sealed.body, sealed.key_packages[:1], index=0)
        assert client.refused(routed)[1] == "TOKEN"
        second = codec.encode_invoke_request(sealed.header, sealed.body, sealed.key_packages[1:], index=1)
        assert collect(beside.send(second), opener).text  # the control: an open node takes that form


def test_a_node_behind_a_router_takes_no_request_of_a_client_with_several_packages() -> None:
    with Node("--access", "router") as one, Node() as other, ManyClient(one) as client, ManyClient(other) as beside:
        sealed, _ = client.seal_to([client.candidate, beside.candidate], "hello")
        assert client.refused(client.encode(sealed))[1] == "TOKEN"


def test_a_revoked_key_is_out_within_a_second(guarded: Node, file: Path) -> None:
    made = access("add", str(file), "short-lived").stdout.strip().encode()
    with ManyClient(guarded) as client:
        until(lambda: is_let_in(client, made))
        assert access("revoke", str(file), "short-lived").returncode == 0
        until(lambda: not is_let_in(client, made))


def is_let_in(client: ManyClient, token: bytes) -> bool:
    try:
        return bool(client.ask_of([client.candidate], "hello", token=token).text)
    except grpc.RpcError as error:
        return error.details() != "TOKEN"


def test_neither_key_nor_hash_is_ever_told(guarded: Node, file: Path, token: bytes) -> None:
    with ManyClient(guarded) as client:
        refused(client, TOKEN, TOKEN)
    assert token.decode() not in file.read_text() + guarded.words()
    assert digest_of(token).hex() not in guarded.words()


# --- the command -----------------------------------------------------------------------------------


def test_the_command_makes_lists_and_revokes(tmp_path: Path) -> None:
    path = str(tmp_path / "keys")
    made = access("add", path, "alice", "--per-minute", "7", "--at-once", "2").stdout.strip()
    assert made.startswith("pcc_")
    assert len(made) == 47
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o644  # hashes alone, for a node that is another user
    assert "7/min, 2 at once, 400000 tokens/min" in access("list", path).stdout
    assert access("add", path, "alice").returncode == errors.CONFIG_EXIT
    assert access("revoke", path, "bob").returncode == errors.CONFIG_EXIT
    assert access("revoke", path, "alice").returncode == 0
    assert not access("list", path).stdout
    assert access("add", path, "NO").returncode == errors.CONFIG_EXIT
    assert access("add", path, "x", "--at-once", "0").returncode == errors.CONFIG_EXIT
    assert [file.name for file in tmp_path.iterdir()] == ["keys"]


def test_a_changed_file_keeps_its_mode_and_its_reader(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.fail("this test gives a file away, which needs root")
    file = write(tmp_path / "keys", key("old"))
    file.chmod(0o640)
    os.chown(file, 12345, 54321)
    assert access("revoke", str(file), "old").returncode == 0
    found = file.stat()
    assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (0o640, 12345, 54321)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--access", "keys"), "--access-keys FILE go together"),
        (("--access-keys", "/nowhere"), "--access-keys FILE go together"),
        (("--access", "keys", "--access-keys", "/nowhere"), "cannot read the file of access keys"),
        (
            ("--access", "router", "--listen", "0.0.0.0:0", "--allow-software", "--tls-cert", "x", "--tls-key", "y"),
            "--tls-client-ca FILE",
        ),
    ],
)
def test_options_that_do_not_fit_say_what_to_do(options: tuple[str, ...], says: str) -> None:
    words = [*COMMAND, "serve", "--engine", "fake", *(() if "--listen" in options else ("--listen", "127.0.0.1:0"))]
    done = subprocess.run([*words, *options], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, says in done.stderr) == (errors.CONFIG_EXIT, True), done.stderr


# --- the command -----------------------------------------------------------------------------------


def test_a_key_made_while_another_is_revoked_brings_it_back_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both read the file before either writes it: without a lock the second writer undoes the first."""
    file = write(tmp_path / "keys", key("old"))
    gate = threading.Barrier(2, timeout=0.3)
    read = cli_access.read_keys

    def slow(path: Path) -> tuple[AccessKey, ...]:
        found = read(path)
        with contextlib.suppress(threading.BrokenBarrierError):
            gate.wait()
        return found

    monkeypatch.setattr(cli_access, "read_keys", slow)
    commands = [
        threading.Thread(target=lambda words=words: cli_access.access(words, standalone_mode=False))
        for words in (["revoke", str(file), "old"], ["add", str(file), "new"])
    ]
    for command in commands:
        command.start()
    for command in commands:
        command.join()
    assert [one.id for one in parse_keys(file.read_text())] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]
