"""Reply frames (SPEC 8): fixed size, counter nonce, type inside, a final frame that nothing else can pass for.

``FrameCipher`` is the plain counter construction; ``FrameSealer`` and ``FrameOpener`` add padding,
types, reassembly and the transcript.
"""

import hashlib
from collections.abc import Callable, Iterator
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .constants import (
    FRAME_BYTES,
    FRAME_PAYLOAD_BYTES,
    FRAMES_PER_MESSAGE,
    MAX_MESSAGE_BYTES,
    MAX_REPLY_FRAMES,
    RECEIPT_FRAMES,
)
from .encoding import cat
from .errors import DecryptionError, Malformed, Misuse, Oversized, ReplyFull, ReplyOrder, WireError

_CONTINUES = 0x80
_NONCE_BYTES = 12
_HEAD_BYTES = 3
_FINAL_AAD = b"final"
_FILLS = tuple(bytes(count) for count in range(FRAME_PAYLOAD_BYTES + 1))
_LENGTHS = tuple(length.to_bytes(2, "big") for length in range(FRAME_PAYLOAD_BYTES + 1))


class FrameType(IntEnum):
    """The kinds of reply messages."""

    DUMMY = 0x00
    DATA = 0x01
    USAGE = 0x02
    ERROR = 0x03
    RECEIPT = 0x04
    FINAL = 0x7F


_DATA, _RECEIPT = FrameType.DATA, FrameType.RECEIPT


class FrameCipher:
    """AES-GCM with ``base XOR counter`` as nonce and ``final`` as the last message's only AAD.

    One object per direction and reply; the counter moves on with every success.
    """

    __slots__ = ("_base", "_cipher", "counter")

    counter: int

    def __init__(self, key: bytes, base: bytes) -> None:
        """Take a key used for this alone and a 12-byte base nonce."""
        self._cipher = AESGCM(key)
        self._base = int.from_bytes(base, "big")
        self.counter = 0

    def seal(self, plaintext: bytes, *, final: bool = False) -> bytes:
        """Encrypt the next message."""
        sealed = self._cipher.encrypt(self._nonce(), plaintext, _FINAL_AAD if final else None)
        self.counter += 1
        return sealed

    def open(self, sealed: bytes, *, final: bool = False) -> bytes:
        """Decrypt the next message. Raises DecryptionError, whatever was wrong."""
        try:
            plaintext = self._cipher.decrypt(self._nonce(), sealed, _FINAL_AAD if final else None)
        except (InvalidTag, ValueError):
            raise DecryptionError("a reply frame is not the node's next one") from None
        self.counter += 1
        return plaintext

    def _nonce(self) -> bytes:
        return (self._base ^ self.counter).to_bytes(_NONCE_BYTES, "big")

    def __repr__(self) -> str:
        """Show the counter and nothing else."""
        return f"FrameCipher(counter={self.counter}, <secret>)"


class Transcript:
    """SHA-256 over all frame plaintexts before the receipt, salted so that it confirms no guess."""

    __slots__ = ("_hash", "_waiting", "frames")

    frames: int

    def __init__(self, salt: bytes) -> None:
        """Begin with ``cat("transcript"; tsalt)``."""
        self._hash = hashlib.sha256(cat("transcript", salt))
        self._waiting: list[bytes] = []
        self.frames = 0

    def add(self, plaintext: bytes) -> None:
        """Take in one frame's 496 bytes; they are hashed some at a time."""
        self._waiting.append(plaintext)
        self.frames += 1
        if len(self._waiting) == FRAMES_PER_MESSAGE:
            self._update()

    def digest(self) -> bytes:
        """Return the digest so far."""
        self._update()
        return self._hash.digest()

    def _update(self) -> None:
        self._hash.update(b"".join(self._waiting))
        self._waiting.clear()


def pack(kind: int, payload: bytes) -> bytes:
    """Build one frame's 496 bytes: type, length, payload, zeros."""
    length = len(payload)
    return b"%c%b%b%b" % (kind, _LENGTHS[length], payload, _FILLS[FRAME_PAYLOAD_BYTES - length])


def unpack(plaintext: bytes) -> tuple[int, bytes]:
    """Take a frame's type and payload apart. Raises Malformed for a bad length or fill that is not zero."""
    length = plaintext[1] << 8 | plaintext[2]
    if length > FRAME_PAYLOAD_BYTES or not plaintext.endswith(_FILLS[FRAME_PAYLOAD_BYTES - length]):
        raise Malformed("a frame's length or fill is wrong")
    return plaintext[0], plaintext[_HEAD_BYTES : _HEAD_BYTES + length]


class FrameSealer:
    """Turns the messages of one reply into frames. No frame follows the final one.

    ``add`` collects, ``take`` seals what was collected in one go; ``seal`` and ``final`` take it along.
    """

    __slots__ = ("_cipher", "_done", "_waiting", "transcript")

    transcript: Transcript

    def __init__(self, key: bytes, base: bytes, tsalt: bytes) -> None:
        """Take the reply's secrets."""
        self._cipher = FrameCipher(key, base)
        self._done = False
        self._waiting: list[bytes] = []
        self.transcript = Transcript(tsalt)

    @property
    def counter(self) -> int:
        """How many frames there are so far."""
        return self._cipher.counter + len(self._waiting)

    def add(self, kind: FrameType, message: bytes, *, keep_back: int) -> None:
        """Collect one message, as many frames as it needs.

        keep_back: frames that must stay free for what comes later; ReplyFull when they would not.
        """
        size = len(message)
        if self._done:
            raise Misuse("the reply already has its final frame")
        if size > MAX_MESSAGE_BYTES:
            raise Oversized(size, MAX_MESSAGE_BYTES)
        count = 1 if size <= FRAME_PAYLOAD_BYTES else -(-size // FRAME_PAYLOAD_BYTES)
        if self._cipher.counter + len(self._waiting) + count + keep_back > MAX_REPLY_FRAMES:
            raise ReplyFull("the reply has no frames left")
        if count == 1:
            self._waiting.append(pack(kind, message))
        else:
            self._waiting += _pieces(kind, message)

    def take(self) -> bytes:
        """Seal what was collected and add it to the transcript; empty when there is nothing."""
        plaintexts, self._waiting = self._waiting, []
        for plaintext in plaintexts:
            self.transcript.add(plaintext)
        return b"".join(map(self._cipher.seal, plaintexts))

    def seal(self, kind: FrameType, message: bytes, *, keep_back: int) -> bytes:
        """Seal one message, after what was collected. Raises Oversized, ReplyFull, Misuse."""
        self.add(kind, message, keep_back=keep_back)
        return self.take()

    def receipt(self, message: bytes) -> bytes:
        """Seal the receipt, after what was collected. It is the one message that the transcript leaves out."""
        before = self.take()
        self.add(FrameType.RECEIPT, message, keep_back=1)
        plaintexts, self._waiting = self._waiting, []
        return before + b"".join(map(self._cipher.seal, plaintexts))

    def final(self, payload: bytes) -> bytes:
        """Seal the final frame; nothing can follow."""
        if self._done or self._waiting:
            raise Misuse("the reply already has its final frame, or frames that were not taken")
        self._done = True
        return self._cipher.seal(pack(FrameType.FINAL, payload), final=True)


def _pieces(kind: FrameType, message: bytes) -> Iterator[bytes]:
    for at in range(0, len(message), FRAME_PAYLOAD_BYTES):
        end = at + FRAME_PAYLOAD_BYTES
        yield pack(kind | _CONTINUES if end < len(message) else kind, message[at:end])


class FrameOpener:
    """Turns frames back into messages. Its owner closes it at the first error."""

    __slots__ = ("_cipher", "_closed", "_kind", "_parts", "transcript")

    transcript: Transcript

    def __init__(self, key: bytes, base: bytes, tsalt: bytes) -> None:
        """Take the reply's secrets."""
        self._cipher = FrameCipher(key, base)
        self._closed = False
        self._kind: FrameType | None = None  # of the message that continues
        self._parts: list[bytes] = []
        self.transcript = Transcript(tsalt)

    @property
    def counter(self) -> int:
        """How many frames were opened."""
        return self._cipher.counter

    def open(self, frames: bytes, read: Callable[[FrameType, bytes], None]) -> WireError | None:
        """Open the next frames, give every message they complete to ``read``; returns what ended them early, if any.

        What was read is genuine either way. The error is a DecryptionError, Malformed, ReplyOrder or what ``read``
        raised.
        """
        if not frames or len(frames) % FRAME_BYTES:
            return DecryptionError(f"reply frames have {FRAME_BYTES} bytes each")
        try:
            for at in range(0, len(frames), FRAME_BYTES):
                self._open(frames[at : at + FRAME_BYTES], read)
        except WireError as error:
            return error
        return None

    def _open(self, frame: bytes, read: Callable[[FrameType, bytes], None]) -> None:
        if self._closed:
            raise ReplyOrder("the reply has already ended or failed")
        if self._cipher.counter >= MAX_REPLY_FRAMES - 1:
            raise ReplyOrder("a reply has too many frames")
        plaintext = self._cipher.open(frame)
        kind, payload = unpack(plaintext)
        if kind & ~_CONTINUES != _RECEIPT:
            self.transcript.add(plaintext)
        if kind == _DATA and self._kind is None:
            read(_DATA, payload)
        else:
            self._collect(kind, payload, read)

    def final(self, frame: bytes) -> bytes:
        """Open the final frame and return its payload. Raises DecryptionError, Malformed, ReplyOrder."""
        if self._closed:
            raise ReplyOrder("the reply has already ended or failed")
        if len(frame) != FRAME_BYTES:
            raise DecryptionError(f"a reply frame has {FRAME_BYTES} bytes")
        kind, payload = unpack(self._cipher.open(frame, final=True))
        if kind != FrameType.FINAL or self._kind is not None:
            raise ReplyOrder("the final frame came inside a message, or is none")
        return payload

    def close(self) -> None:
        """Open nothing more."""
        self._closed = True

    def _collect(self, kind: int, payload: bytes, read: Callable[[FrameType, bytes], None]) -> None:
        """Take in a frame that is no whole message of data."""
        frame_type = _frame_type(kind & ~_CONTINUES)
        if self._kind not in (None, frame_type):
            raise ReplyOrder("a message was interrupted by another")
        self._parts.append(payload)
        if len(self._parts) * FRAME_PAYLOAD_BYTES >= MAX_MESSAGE_BYTES + FRAME_PAYLOAD_BYTES:
            raise Oversized(len(self._parts) * FRAME_PAYLOAD_BYTES, MAX_MESSAGE_BYTES)
        if kind & _CONTINUES:
            if len(payload) != FRAME_PAYLOAD_BYTES:
                raise Malformed("only a message's last frame may be short")
            self._kind = frame_type
            return
        if self._kind is not None and not payload:
            raise Malformed("a message's last frame is empty")
        read(frame_type, self._complete(frame_type))

    def _complete(self, kind: FrameType) -> bytes:
        message = b"".join(self._parts)
        if len(message) > MAX_MESSAGE_BYTES:
            raise Oversized(len(message), MAX_MESSAGE_BYTES)
        if kind is FrameType.RECEIPT and len(self._parts) != RECEIPT_FRAMES:
            raise Malformed(f"a receipt takes {RECEIPT_FRAMES} frames")
        self._kind, self._parts = None, []
        return message


def _frame_type(kind: int) -> FrameType:
    if kind == FrameType.FINAL or kind not in FrameType._value2member_map_:
        raise Malformed("a frame of an unknown type")
    return FrameType(kind)
