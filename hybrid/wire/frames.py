"""Reply frames (SPEC 8): fixed size, counter nonce, type inside, a final frame that nothing else can pass for.

``FrameCipher`` is the plain counter construction; ``FrameSealer`` and ``FrameOpener`` add padding,
types, reassembly and the transcript.
"""

import hashlib
from dataclasses import dataclass
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .constants import (
    FRAME_BYTES,
    FRAME_PAYLOAD_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_REPLY_FRAMES,
    RECEIPT_FRAMES,
)
from .encoding import cat
from .errors import DecryptionError, Malformed, Misuse, Oversized, ReplyFull, ReplyOrder

_CONTINUES = 0x80
_NONCE_BYTES = 12
_HEAD_BYTES = 3
_FINAL_AAD = b"final"
_ZEROS = bytes(FRAME_PAYLOAD_BYTES)


class FrameType(IntEnum):
    """The kinds of reply messages."""

    DUMMY = 0x00
    DATA = 0x01
    USAGE = 0x02
    ERROR = 0x03
    RECEIPT = 0x04
    FINAL = 0x7F


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

    __slots__ = ("_hash", "frames")

    frames: int

    def __init__(self, salt: bytes) -> None:
        """Begin with ``cat("transcript"; tsalt)``."""
        self._hash = hashlib.sha256(cat("transcript", salt))
        self.frames = 0

    def add(self, plaintext: bytes) -> None:
        """Take in one frame's 496 bytes."""
        self._hash.update(plaintext)
        self.frames += 1

    def digest(self) -> bytes:
        """Return the digest so far."""
        return self._hash.digest()


def pack(kind: int, payload: bytes) -> bytes:
    """Build one frame's 496 bytes: type, length, payload, zeros."""
    length = len(payload)
    return bytes((kind, length >> 8, length & 0xFF)) + payload + _ZEROS[length:]


def unpack(plaintext: bytes) -> tuple[int, bytes]:
    """Take a frame's type and payload apart. Raises Malformed for a bad length or fill that is not zero."""
    end = _HEAD_BYTES + int.from_bytes(plaintext[1:_HEAD_BYTES], "big")
    if end > len(plaintext) or plaintext[end:] != _ZEROS[: len(plaintext) - end]:
        raise Malformed("a frame's length or fill is wrong")
    return plaintext[0], plaintext[_HEAD_BYTES:end]


class FrameSealer:
    """Turns the messages of one reply into frames. No frame follows the final one."""

    __slots__ = ("_cipher", "_done", "transcript")

    transcript: Transcript

    def __init__(self, key: bytes, base: bytes, tsalt: bytes) -> None:
        """Take the reply's secrets."""
        self._cipher = FrameCipher(key, base)
        self._done = False
        self.transcript = Transcript(tsalt)

    @property
    def counter(self) -> int:
        """How many frames there are so far."""
        return self._cipher.counter

    def seal(self, kind: FrameType, message: bytes, *, keep_back: int) -> bytes:
        """Seal one message into as many frames as it needs.

        keep_back: frames that must stay free for what comes later; ReplyFull when they would not.
        """
        if len(message) > MAX_MESSAGE_BYTES:
            raise Oversized(len(message), MAX_MESSAGE_BYTES)
        pieces = range(0, max(len(message), 1), FRAME_PAYLOAD_BYTES)
        if self._done:
            raise Misuse("the reply already has its final frame")
        if self.counter + len(pieces) + keep_back > MAX_REPLY_FRAMES:
            raise ReplyFull("the reply has no frames left")
        return b"".join(self._seal_one(kind, message, at) for at in pieces)

    def _seal_one(self, kind: FrameType, message: bytes, at: int) -> bytes:
        end = at + FRAME_PAYLOAD_BYTES
        plaintext = pack(kind | _CONTINUES if end < len(message) else kind, message[at:end])
        if kind is not FrameType.RECEIPT:
            self.transcript.add(plaintext)
        return self._cipher.seal(plaintext)

    def final(self, payload: bytes) -> bytes:
        """Seal the final frame; nothing can follow."""
        if self._done:
            raise Misuse("the reply already has its final frame")
        self._done = True
        return self._cipher.seal(pack(FrameType.FINAL, payload), final=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameMessage:
    """One reassembled reply message."""

    kind: FrameType
    payload: bytes


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

    def open(self, frame: bytes) -> FrameMessage | None:
        """Open the next frame; returns a message when it is complete.

        Raises DecryptionError, Malformed, ReplyOrder.
        """
        plaintext = self._open(frame, final=False)
        kind, payload = unpack(plaintext)
        frame_type = _frame_type(kind & ~_CONTINUES)
        if self._kind not in (None, frame_type):
            raise ReplyOrder("a message was interrupted by another")
        if frame_type is not FrameType.RECEIPT:
            self.transcript.add(plaintext)
        return self._collect(frame_type, payload, continues=bool(kind & _CONTINUES))

    def final(self, frame: bytes) -> bytes:
        """Open the final frame and return its payload."""
        plaintext = self._open(frame, final=True)
        kind, payload = unpack(plaintext)
        if kind != FrameType.FINAL or self._kind is not None:
            raise ReplyOrder("the final frame came inside a message, or is none")
        return payload

    def close(self) -> None:
        """Open nothing more."""
        self._closed = True

    def _open(self, frame: bytes, *, final: bool) -> bytes:
        if self._closed:
            raise ReplyOrder("the reply has already ended or failed")
        if len(frame) != FRAME_BYTES:
            raise DecryptionError(f"a reply frame has {FRAME_BYTES} bytes")
        if self.counter + (not final) >= MAX_REPLY_FRAMES:
            raise ReplyOrder("a reply has too many frames")
        return self._cipher.open(frame, final=final)

    def _collect(self, kind: FrameType, payload: bytes, *, continues: bool) -> FrameMessage | None:
        self._parts.append(payload)
        if len(self._parts) * FRAME_PAYLOAD_BYTES >= MAX_MESSAGE_BYTES + FRAME_PAYLOAD_BYTES:
            raise Oversized(len(self._parts) * FRAME_PAYLOAD_BYTES, MAX_MESSAGE_BYTES)
        if continues:
            if len(payload) != FRAME_PAYLOAD_BYTES:
                raise Malformed("only a message's last frame may be short")
            self._kind = kind
            return None
        if self._kind is not None and not payload:
            raise Malformed("a message's last frame is empty")
        return self._complete(kind)

    def _complete(self, kind: FrameType) -> FrameMessage:
        message = b"".join(self._parts)
        if len(message) > MAX_MESSAGE_BYTES:
            raise Oversized(len(message), MAX_MESSAGE_BYTES)
        if kind is FrameType.RECEIPT and len(self._parts) != RECEIPT_FRAMES:
            raise Malformed(f"a receipt takes {RECEIPT_FRAMES} frames")
        self._kind, self._parts = None, []
        return FrameMessage(kind=kind, payload=message)


def _frame_type(kind: int) -> FrameType:
    if kind == FrameType.FINAL or kind not in FrameType._value2member_map_:
        raise Malformed("a frame of an unknown type")
    return FrameType(kind)
