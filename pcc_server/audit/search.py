"""Whether a canary stands in anything a node says, in the forms in which it may."""

import base64
import hashlib


def leaks(canary: str, *texts: object) -> list[str]:
    """Return every text that holds the canary: plain, reversed, hex, base64, or as its SHA-256."""
    raw = canary.encode()
    forms = {
        canary,
        canary[::-1],
        raw.hex(),
        base64.b64encode(raw).decode().rstrip("="),
        hashlib.sha256(raw).hexdigest(),
    }
    forms |= {base64.b64encode(b"x" * shift + raw).decode()[4:-4] for shift in (1, 2)}
    said = [str(text) for text in texts]
    return [text for text in said if any(form in text for form in forms)]
