"""The few commands of TPM 2.0 that a node needs, in the bytes of TCG "Trusted Platform Module Library, Part 3".

Every number is big-endian. Keys are primary keys from fixed templates: nothing is stored, and a restart gives the
same key. Whoever creates an object flushes it, because without a resource manager three fill the TPM.
"""

import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from .collector import CollectFailure
from .tpm_device import Device

ENDORSEMENT = 0x4000000B
_NULL = 0x40000007
_PASSWORD = struct.pack(">IHBH", 0x40000009, 0, 0, 0)  # the empty password, in a session of its own
_NO_SESSIONS, _SESSIONS = 0x8001, 0x8002

CREATE_PRIMARY = 0x131
POLICY_SECRET = 0x151
ACTIVATE_CREDENTIAL = 0x147
NV_READ = 0x14E
QUOTE = 0x158
FLUSH_CONTEXT = 0x165
NV_READ_PUBLIC = 0x169
START_AUTH_SESSION = 0x176
PCR_READ = 0x17E
PCR_EXTEND = 0x182

SHA256 = 0x000B
DIGEST_BYTES = 32
_PCRS_PER_READ = 8
_NV_BYTES_PER_READ = 512

# Restricted ECC P-256 signing key: fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign;
# no policy, no symmetric algorithm, ECDSA with SHA-256.
AK_TEMPLATE = bytes.fromhex("0023 000b 00050472 0000 0010 0018000b 0003 0010 0000 0000")
_EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")  # PolicySecret(EH)
_EK_HEAD = struct.pack(">HIH", SHA256, 0x000300B2, len(_EK_POLICY)) + _EK_POLICY + bytes.fromhex("000600800043 0010")
# TCG EK Credential Profile, templates L-1 (RSA 2048) and L-2 (ECC P-256)
RSA_EK_TEMPLATE = b"\x00\x01" + _EK_HEAD + bytes.fromhex("0800 00000000 0100") + bytes(256)
ECC_EK_TEMPLATE = b"\x00\x23" + _EK_HEAD + bytes.fromhex("0003 0010 0020") + bytes(32) + b"\x00\x20" + bytes(32)

_AGAIN = frozenset({0x908, 0x90A, 0x920, 0x922})  # yielded, testing, NV rate, retry
_TRIES = 20
_PAUSE_S = 0.1
_FORMAT_ONE = 0x080
_WORDS = {
    0x08B: "no such index",
    0x0A2: "a hierarchy has a password; this program uses the empty one",
    0x08E: "a hierarchy has a password; this program uses the empty one",
    0x100: "it was not started",
    0x902: "its slots are full; use the resource-managed device /dev/tpmrm0",
    0x921: "it is locked after wrong passwords",
}


class TpmError(CollectFailure):
    """The TPM refused a command. code: its response code."""

    def __init__(self, command: int, code: int) -> None:
        base = code & 0x0BF if code & _FORMAT_ONE else code
        words = _WORDS.get(base, "see TPM_RC in TCG Part 2")
        super().__init__(f"the TPM refused command 0x{command:03x} with code 0x{code:03x}: {words}")
        self.code = base


@dataclass(frozen=True, slots=True)
class Quoted:
    """What TPM2_Quote returns: TPMS_ATTEST and TPMT_SIGNATURE."""

    attest: bytes
    signature: bytes


class Key(NamedTuple):
    """A loaded key: its handle and its TPMT_PUBLIC."""

    handle: int
    public: bytes


class Tpm:
    """Commands over one device. Every method raises CollectFailure, TpmError where the TPM itself refuses."""

    def __init__(self, device: Device, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._device = device
        self._sleep = sleep

    # --- keys --------------------------------------------------------------------------------------

    @contextmanager
    def primary(self, template: bytes) -> Iterator[Key]:
        """Create a primary key of the endorsement hierarchy, and flush it at the end."""
        nothing = bytes.fromhex("0004 0000 0000")  # no password, no data of ours
        parameters = nothing + sized(template) + sized(b"") + bytes(4)
        reply = self._run(CREATE_PRIMARY, [ENDORSEMENT], parameters, sessions=[_PASSWORD], handles_back=1)
        (handle,) = reply.handles
        try:
            yield Key(handle, reply.sized())
        finally:
            self.flush(handle)

    def flush(self, handle: int) -> None:
        """Remove a transient object or a session."""
        self._run(FLUSH_CONTEXT, [], struct.pack(">I", handle))

    # --- PCRs --------------------------------------------------------------------------------------

    def read_pcrs(self, indices: Sequence[int]) -> dict[int, bytes]:
        """Read PCRs of the SHA-256 bank, 32 bytes each."""
        values: dict[int, bytes] = {}
        for at in range(0, len(indices), _PCRS_PER_READ):
            some = sorted(indices[at : at + _PCRS_PER_READ])
            reply = self._run(PCR_READ, [], selection(some))
            reply.skip(4)
            if reply.selection() != selection(some):
                raise CollectFailure("the TPM has no SHA-256 bank; switch it on in the firmware's settings")
            reply.skip(4)
            values.update({index: reply.sized() for index in some})
        return values

    def extend(self, pcr: int, digest: bytes) -> None:
        """Extend a PCR's SHA-256 bank by 32 bytes."""
        self._run(PCR_EXTEND, [pcr], struct.pack(">IH", 1, SHA256) + digest, sessions=[_PASSWORD])

    def quote(self, key: int, challenge: bytes, indices: Sequence[int]) -> Quoted:
        """Sign the PCRs and a challenge with a loaded restricted key."""
        parameters = sized(challenge) + b"\x00\x10" + selection(indices)  # scheme null: the key's own
        reply = self._run(QUOTE, [key], parameters, sessions=[_PASSWORD])
        return Quoted(reply.sized(), reply.rest())

    # --- enrolment ---------------------------------------------------------------------------------

    def read_nv(self, index: int) -> bytes | None:
        """Return what an NV index holds, or None when there is no such index."""
        try:
            area = self._run(NV_READ_PUBLIC, [], struct.pack(">I", index)).sized()
        except TpmError as error:
            if error.code == 0x08B:  # noqa: PLR2004 - TPM_RC_HANDLE
                return None
            raise
        size, data = int.from_bytes(area[-2:], "big"), b""
        while len(data) < size:
            span = struct.pack(">HH", min(size - len(data), _NV_BYTES_PER_READ), len(data))
            data += self._run(NV_READ, [index, index], span, sessions=[_PASSWORD]).sized()
        return data

    def activate(self, ak: int, ek: int, blob: bytes, secret: bytes) -> bytes:
        """Return the credential that was sealed to the EK for the AK's Name (TPM2_ActivateCredential)."""
        session = self._endorsement_session()
        try:
            sessions = [_PASSWORD, struct.pack(">IHBH", session, 0, 1, 0)]
            return self._run(ACTIVATE_CREDENTIAL, [ak, ek], sized(blob) + sized(secret), sessions=sessions).sized()
        finally:
            self.flush(session)

    def _endorsement_session(self) -> int:
        start = sized(bytes(16)) + sized(b"") + b"\x01" + struct.pack(">HH", 0x0010, SHA256)  # a policy session
        (session,) = self._run(START_AUTH_SESSION, [_NULL, _NULL], start, handles_back=1).handles
        self._run(POLICY_SECRET, [ENDORSEMENT, session], bytes(6) + bytes(4), sessions=[_PASSWORD])
        return session

    # --- one command -------------------------------------------------------------------------------

    def _run(
        self,
        code: int,
        handles: Sequence[int],
        parameters: bytes,
        *,
        sessions: Sequence[bytes] = (),
        handles_back: int = 0,
    ) -> "_Reply":
        area = b"".join(sessions)
        body = b"".join(struct.pack(">I", handle) for handle in handles)
        body += (struct.pack(">I", len(area)) + area if sessions else b"") + parameters
        tag = _SESSIONS if sessions else _NO_SESSIONS
        response = self._transmit(code, struct.pack(">HII", tag, 10 + len(body), code) + body)
        return _Reply(response[10:], handles=handles_back, sessions=bool(sessions))

    def _transmit(self, code: int, command: bytes) -> bytes:
        for _ in range(_TRIES):
            response = self._device.transmit(command)
            if len(response) < 10 or int.from_bytes(response[2:6], "big") != len(response):  # noqa: PLR2004 - header
                raise CollectFailure("the TPM's answer is cut off")
            answer = int.from_bytes(response[6:10], "big")
            if answer not in _AGAIN:
                break
            self._sleep(_PAUSE_S)
        if answer:
            raise TpmError(code, answer)
        return response


class _Reply:
    """Reads a response's handles, then its parameters."""

    def __init__(self, data: bytes, *, handles: int, sessions: bool) -> None:
        self.handles: tuple[int, ...] = struct.unpack(f">{handles}I", data[: 4 * handles])
        self._data = data[4 * handles :]
        if sessions:
            size = int.from_bytes(self._data[:4], "big")
            self._data = self._data[4 : 4 + size]
        self._at = 0

    def skip(self, count: int) -> bytes:
        self._at += count
        if self._at > len(self._data):
            raise CollectFailure("the TPM's answer is cut off")
        return self._data[self._at - count : self._at]

    def sized(self) -> bytes:
        return self.skip(int.from_bytes(self.skip(2), "big"))

    def selection(self) -> bytes:
        count = self.skip(4)
        return count + (self.skip(6) if any(count) else b"")

    def rest(self) -> bytes:
        return self.skip(len(self._data) - self._at)


def sized(data: bytes) -> bytes:
    """Encode a TPM2B: the length as two bytes, then the bytes."""
    return struct.pack(">H", len(data)) + data


def selection(indices: Sequence[int]) -> bytes:
    """Encode a TPML_PCR_SELECTION of the SHA-256 bank: PCR 0 to 23."""
    bits = sum(1 << index for index in indices)
    return struct.pack(">IHB", 1, SHA256, 3) + bits.to_bytes(3, "little")
