"""What sealing costs the node in processor time: for a whole request with its receipt, and for each frame of a reply.

The node's own code on one thread, without network and without a model (node design P4). ``sealing.request`` opens a
request of 16 KiB and answers it with one frame of text, the usage report and the signed receipt; its baseline decodes
and encodes the same protobuf messages in clear, so that what is left is the sealing. ``sealing.frame`` seals 64 chunks
of text; its baseline encrypts as many plaintexts of a frame with bare AES-256-GCM.
"""

import time
from collections.abc import Callable, Iterable

from _rows import row
from crypto import REQUEST, USAGE, Node, answer, begin, seal
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hybrid.wire.codec import decode_request, encode_chunk, encode_request, encode_usage
from hybrid.wire.constants import FRAME_BYTES
from hybrid.wire.envelope import ReplySealer
from hybrid.wire.types import Chunk

ROUNDS = 41
REQUESTS = 20  # of one round: the clock of processor time is coarse
FRAMES = 64
NEEDED = {"sealing.request": 3.0, "sealing.frame": 20.0}
TEXT = Chunk(text="token 123 ", tokens=1)


def cpu_s(works: Iterable[Callable[[], object]]) -> float:
    """Return the processor time of doing all of them, for one."""
    begun, count = time.process_time(), 0
    for work in works:
        work()
        count += 1
    return (time.process_time() - begun) / count


def in_clear(request: bytes) -> None:
    """Do what a node without sealing would do."""
    decode_request(request)
    encode_chunk(TEXT)
    encode_usage(USAGE)


def requests(node: Node, request: bytes) -> tuple[float, float]:
    """Return milliseconds of one request, sealed and in clear."""
    sealed = [seal([node]) for _ in range(REQUESTS)]
    ours = cpu_s(lambda one=one: answer(one, node) for one in sealed)
    return 1e3 * ours, 1e3 * cpu_s([lambda: in_clear(request)] * REQUESTS)


def frames(reply: ReplySealer, bare: AESGCM) -> tuple[float, float]:
    """Return microseconds of one frame, sealed as a reply's and merely encrypted."""
    nonce, plain = bytes(12), bytes(FRAME_BYTES - 16)
    ours = cpu_s([lambda: reply.data(TEXT)] * FRAMES)
    return 1e6 * ours, 1e6 * cpu_s([lambda: bare.encrypt(nonce, plain, None)] * FRAMES)


def main() -> None:
    """Print both rows."""
    node, request, bare = Node(), encode_request(REQUEST), AESGCM(bytes(32))
    told("sealing.request", "ms CPU", lambda: requests(node, request))
    told("sealing.frame", "us CPU", lambda: frames(begin(seal([node]), node), bare))


def told(name: str, unit: str, measure: Callable[[], tuple[float, float]]) -> None:
    """Print one row."""
    pairs = [measure() for _ in range(ROUNDS + 1)][1:]
    ours, baseline = ([pair[at] for pair in pairs] for at in (0, 1))
    row(name, ours=ours, baseline=baseline, unit=unit, smaller_is_better=True, needed=NEEDED[name])


if __name__ == "__main__":
    main()
