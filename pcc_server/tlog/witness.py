"""A witness: it cosigns checkpoints of the logs it knows, each only as a continuation of the last (C2SP tlog-witness).

What it cosigned last is on disk before the answer leaves, so that no crash lets it cosign a fork.
"""

import contextlib
import hashlib
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from hybrid.wire.checkpoint import Checkpoint
from hybrid.wire.constants import MAX_CHECKPOINT_BYTES, MAX_PROOF_HASHES
from hybrid.wire.cosignature import CosignatureSigner
from hybrid.wire.encoding import from_base64
from hybrid.wire.errors import ProofFailure, SignatureFailure, WireError
from hybrid.wire.merkle import EMPTY_ROOT, check_consistency
from hybrid.wire.note import Note, NoteVerifier

from .errors import LogError
from .store import Store

PATH = "/add-checkpoint"
_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})")
_HASH_LINE_BYTES = 45
_MAX_BODY_BYTES = MAX_CHECKPOINT_BYTES + (MAX_PROOF_HASHES + 2) * _HASH_LINE_BYTES
_SOCKET_S = 10.0
_LOCK_S = 5.0  # for another process over the same folder
CONNECTION_S = 60.0  # for all that one connection asks
MAX_CONNECTIONS = 64
_OK, _BAD, _FORBIDDEN, _UNKNOWN, _CONFLICT, _REFUSED, _BROKEN = 200, 400, 403, 404, 409, 422, 500
_LENGTH = re.compile(r"[0-9]{1,7}")
_Request: TypeAlias = socket.socket | tuple[bytes, socket.socket]  # as socketserver has it
_Address: TypeAlias = Any


class Answer(NamedTuple):
    """One HTTP answer."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"


class Refusal(Exception):
    """A submission that gets no cosignature, and the status that says why."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """The body of add-checkpoint, taken apart. old: the size the proof begins at."""

    old: int
    proof: tuple[bytes, ...]
    note: bytes
    parsed: Note
    checkpoint: Checkpoint

    @classmethod
    def parse(cls, body: bytes) -> "Submission":
        """Take a body apart. Raises Refusal with status 400, or 422 for an empty tree that has no empty root."""
        head, gap, note = body.partition(b"\n\n")
        lines = head.decode("latin-1").split("\n")
        old = _OLD.fullmatch(lines[0])
        if not gap or not old or len(lines) - 1 > MAX_PROOF_HASHES:
            raise Refusal(Answer(_BAD))
        try:
            proof = tuple(from_base64(line) for line in lines[1:])
            parsed = Note.parse(note)
        except WireError:
            raise Refusal(Answer(_BAD)) from None
        try:
            checkpoint = Checkpoint.parse_text(parsed.text)
        except WireError:  # an empty tree with another root is refused there, and has a status of its own
            raise Refusal(Answer(_REFUSED if parsed.text.split("\n")[1] == "0" else _BAD)) from None
        return cls(old=int(old[1]), proof=proof, note=note, parsed=parsed, checkpoint=checkpoint)


class Witness:
    """Answers submissions, one at a time. logs: the keys it trusts, by their names."""

    def __init__(
        self,
        folder: Path,
        signer: CosignatureSigner,
        logs: Sequence[NoteVerifier],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Keep what was cosigned in ``folder``. Raises LogError when two keys share a name."""
        self._store = Store(folder)
        self._signer = signer
        self._logs: Mapping[str, NoteVerifier] = {log.name: log for log in logs}
        if len(self._logs) != len(logs):
            raise LogError("two log keys have the same name; a witness keeps one history per log")
        self._now = now
        self._turn = threading.Lock()

    def add_checkpoint(self, body: bytes) -> Answer:
        """Check one submission and cosign it. Status codes as C2SP tlog-witness has them."""
        try:
            submission = Submission.parse(body)
            self._check_signature(submission)
            with self._turn, self._store.locked(_LOCK_S):  # between check and write nothing else may be cosigned
                self._check_continues(submission)
                line = self._signer.cosign(submission.parsed.text, now=self._now)
                self._store.write(_file(submission.checkpoint.origin), submission.note)
        except Refusal as refusal:
            return refusal.answer
        except LogError:  # the disk failed: nothing may leave that is not kept
            return Answer(_BROKEN)
        return Answer(_OK, line.encode("utf-8"))

    def _check_signature(self, submission: Submission) -> None:
        log = self._logs.get(submission.checkpoint.origin)
        if log is None:
            raise Refusal(Answer(_UNKNOWN))
        try:
            log.check(submission.parsed)
        except SignatureFailure:
            raise Refusal(Answer(_FORBIDDEN)) from None

    def _check_continues(self, submission: Submission) -> None:
        last, new = self.last(submission.checkpoint.origin), submission.checkpoint
        if submission.old > new.size:
            raise Refusal(Answer(_BAD))
        if submission.old != last.size:
            raise Refusal(Answer(_CONFLICT, b"%d\n" % last.size, "text/x.tlog.size"))
        try:
            _check_growth(last, new, submission.proof)
        except ProofFailure:
            if (new.size, new.root) != (last.size, last.root):
                self._keep(submission)
            raise Refusal(Answer(_REFUSED)) from None

    def last(self, origin: str) -> Checkpoint:
        """Return what was cosigned last of a log, or the empty tree. Raises LogError for a damaged file."""
        note = self._store.get(_file(origin))
        if note is None:
            return Checkpoint(origin=origin, size=0, root=EMPTY_ROOT)
        try:
            return Checkpoint.parse_text(Note.parse(note).text)
        except WireError:
            raise LogError(f"{self._store.folder / _file(origin)} is damaged; no checkpoint can be cosigned") from None

    def _keep(self, submission: Submission) -> None:
        """Keep a signed checkpoint that does not continue the last, and that one: together they may prove a fork.

        Once for each of the log's own words: signature lines of strangers are anybody's to add.
        """
        digest = hashlib.sha256(submission.parsed.text.encode("utf-8")).hexdigest()[:16]
        if self._store.get(f"refused/{digest}") is not None:
            return
        self._store.write(f"refused/{digest}", submission.note)
        if last := self._store.get(_file(submission.checkpoint.origin)):
            self._store.write(f"refused/{digest}.last", last)


def _check_growth(last: Checkpoint, new: Checkpoint, proof: tuple[bytes, ...]) -> None:
    if not last.size:
        if proof:
            raise ProofFailure("a proof from the empty tree is empty")
        return
    check_consistency(old_size=last.size, old_root=last.root, new_size=new.size, new_root=new.root, proof=proof)


def _file(origin: str) -> str:
    return f"{hashlib.sha256(origin.encode('utf-8')).hexdigest()}.note"


class Server(ThreadingHTTPServer):
    """The witness on a port. It logs nothing; keep-alive is on.

    A silent caller is dropped after ten seconds, any caller after a minute, one too many at once.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], witness: Witness) -> None:
        super().__init__(address, _Handler)
        self.witness = witness
        self._begun: dict[socket.socket, float] = {}

    @property
    def url(self) -> str:
        """The submission prefix."""
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def process_request(self, request: _Request, client_address: _Address) -> None:
        """Take a connection while there is room."""
        assert isinstance(request, socket.socket)  # noqa: S101 - tells the type checker what a TCP server gets
        if len(self._begun) >= MAX_CONNECTIONS:
            self.shutdown_request(request)
            return
        self._begun[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: _Request) -> None:
        """Close a connection."""
        assert isinstance(request, socket.socket)  # noqa: S101 - the same
        self._begun.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut what has lasted too long: a request may also come byte by byte. Called twice a second."""
        for request, begun in list(self._begun.items()):
            if time.monotonic() - begun > CONNECTION_S:
                with contextlib.suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: _Request, client_address: _Address) -> None:
        """Say nothing of a caller that broke off."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SOCKET_S
    server: Server

    def do_POST(self) -> None:
        """Answer add-checkpoint."""
        length = self.headers.get("Content-Length", "")
        if self.path != PATH:
            self._answer(Answer(_UNKNOWN))
        elif not _LENGTH.fullmatch(length) or int(length) > _MAX_BODY_BYTES:
            self._answer(Answer(_BAD))
        else:
            self._answer(self.server.witness.add_checkpoint(self.rfile.read(int(length))))

    def _answer(self, answer: Answer) -> None:
        if answer.status != _OK:
            self.close_connection = True  # what is left of a refused body is not read
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """Say nothing: addresses are nobody's business."""
