"""Numbers of ``hpcc/1``: what the protocol fixes first, what limits it second (SPEC 2, 6, 8, 15)."""

# --- fixed by the protocol: another value is another protocol ------------------------------------

PROTOCOL = "hpcc/1"
SUITE = bytes.fromhex("647a000100020101")  # SPEC 2: X-Wing, HKDF-SHA-256, AES-256-GCM, body 1, frames 1
HPKE_TAG_BYTES = 16
HPKE_ENC_BYTES = 1120  # SPEC 2: ML-KEM-768 ciphertext and X25519 share
SECRET_BYTES = 32  # SPEC 6: S and every R_i
RID_BYTES = 16
DIGEST_BYTES = 32
KEY_ID_BYTES = 16
KEY_PACKAGE_VERSION = 0x01  # SPEC 6: first byte inside a key package
KEY_PACKAGE_PLAIN_BYTES = 1 + 2 * SECRET_BYTES
KEY_PACKAGE_BYTES = HPKE_ENC_BYTES + KEY_PACKAGE_PLAIN_BYTES + HPKE_TAG_BYTES  # 1,201
SIGNATURE_BYTES = 64 + 3309  # SPEC 1: Ed25519, then ML-DSA-65

BODY_SALT_BYTES = 24  # SPEC 6, c2sp.org/chunked-encryption
BODY_CHUNK_BYTES = 16_384
BODY_BUCKETS = (*(1024 << n for n in range(9)), *range(320 * 1024, 1024 * 1024 + 1, 64 * 1024))  # SPEC 6

HEAD_BYTES = 65  # SPEC 8: index, salt, commitment
FRAME_BYTES = 512  # SPEC 8: every reply frame on the wire
FRAME_PLAIN_BYTES = 496
FRAME_PAYLOAD_BYTES = 493
RECEIPT_FRAMES = 8  # SPEC 8: any receipt takes exactly eight frames
FRAMES_PER_MESSAGE = 16  # SPEC 14: at most so many in one InvokeReply
ENTRY_CHECKPOINT_NO = 255  # SPEC 4: the checkpoint that comes with the directory

DEADLINES_MS = (15_000, 30_000, 60_000, 120_000, 300_000, 600_000)  # SPEC 6: six values tell little
EPOCH_S = 300  # SPEC 9: T by default
EPOCH_MIN_S, EPOCH_MAX_S = 180, 900
CLOCK_TOLERANCE_S = 90  # SPEC 9: the same everywhere

# --- limits: what a decoder refuses before it works ------------------------------------------------

MAX_IDENTIFIER_CHARS = 128
MAX_CANDIDATES = 4
MAX_HEADER_BYTES = 1024
MAX_BODY_PLAIN_BYTES = BODY_BUCKETS[-1]
MAX_MESSAGE_BYTES = 64 * 1024  # SPEC 8: one reassembled reply message
MAX_REPLY_FRAMES = 65_536
FRAMES_KEPT_BACK = 64  # room for usage, error, receipt and final frame once data has taken the rest
MAX_INVOKE_BYTES = 1_310_720  # 1.25 MiB, one message to a node
MAX_TOKEN_BYTES = 1024
MAX_BUNDLE_BYTES = 32 * 1024
MAX_DIRECTORY_BYTES = 4 * 1024 * 1024
MAX_CHECKPOINT_BYTES = 64 * 1024
MAX_ENTRY_BYTES = 16 * 1024
MAX_NOTE_SIGNATURES = 64
MAX_NODES = 64
MAX_CHECKPOINTS = 8
MAX_PROOF_HASHES = 63
MAX_TREE_SIZE = 2**63 - 1  # leaves of a log
MAX_POLICY_CHARS = 256 * 1024  # a C2SP tlog-policy: 64 keys of ML-DSA-44 and room
MAX_POLICY_NAMES = 256  # logs, witnesses and groups together
MAX_RELEASE_S = 180 * 86_400  # SPEC 5: a release entry holds at most so long
MAX_LEAF_BYTES = 2 + MAX_ENTRY_BYTES + 10 + MAX_PROOF_HASHES * DIGEST_BYTES
MAX_WEIGHT = 1000
MAX_STATEMENT_KEYS = 3
MAX_STATEMENT_MODELS = 16
MAX_EVIDENCE_ITEMS = 4
PART_BYTES = 64 * 1024  # SPEC 14: a directory travels in parts of this size
MAX_REPLAY_ENTRIES = 200_000  # SPEC 9: per epoch key; about 13 MB
MAX_SEQS_PER_EPOCH = 16  # SPEC 5: directories of one epoch
MAX_ATTEMPTS = 3  # SPEC 10: per request
MAX_FAILURES_PER_EPOCH = 8
