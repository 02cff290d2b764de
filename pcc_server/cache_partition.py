"""Who may share cached context with whom (node design 3.12)."""

import hashlib
import hmac

SECRET_BYTES = 32  # of the process, drawn at start; a restart forgets every partition
NOTHING_KEPT = ""


def partition(secret: bytes, salt: bytes, manifest: bytes) -> str:
    """Return the name under which an engine may keep a request's context: 64 hex digits, or "" to keep nothing.

    secret: of this process.  salt: from inside the sealed request, 16 to 32 bytes; empty: nothing is kept.
    manifest: digest of the model, 32 bytes.  What a client sends never names a partition by itself.
    """
    if not salt:
        return NOTHING_KEPT
    return hmac.new(secret, salt + manifest, hashlib.sha256).hexdigest()
