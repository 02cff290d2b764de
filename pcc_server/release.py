"""The RELEASE entry that this node's statement points to (SPEC 3, 5): read once, at start."""

from pathlib import Path

from hybrid.wire.canonical import decode_canonical_json
from hybrid.wire.entries import kind_of
from hybrid.wire.errors import WireError
from hybrid.wire.evidence import NO_LOG
from hybrid.wire.merkle import leaf_hash
from hybrid.wire.note import Note

from .errors import CONFIG_EXIT, StartFailure


def release_leaf(path: str, config_digest: bytes) -> bytes:
    """Return the leaf hash of a signed RELEASE entry, zeros where no file is named.

    Whose signature it carries is for clients to judge. Raises StartFailure with exit code 2 for a file that is no
    such entry, or one that does not list this node's configuration: no client would accept that.
    """
    if not path:
        return NO_LOG
    try:
        entry = Path(path).read_bytes()
        if kind_of(entry) != "release":
            raise StartFailure(f"--release {path} is an entry of another kind", CONFIG_EXIT)
        configs = _configs(entry)
    except OSError as error:
        raise StartFailure(f"cannot read --release {path}: {error.strerror}", CONFIG_EXIT) from None
    except WireError as error:
        raise StartFailure(f"--release {path} is no signed RELEASE entry: {error}", CONFIG_EXIT) from None
    if config_digest.hex() not in configs:
        raise StartFailure(
            f"--release {path} does not list this node's configuration; "
            f"sign a release whose configs hold {config_digest.hex()}, or start with the options it was made for",
            CONFIG_EXIT,
        )
    return leaf_hash(entry)


def _configs(entry: bytes) -> set[str]:
    """Read the digests of the configurations that an entry lists. Raises Malformed."""
    fields = decode_canonical_json(Note.parse(entry).text.split("\n")[1].encode("utf-8"))
    configs = fields.get("configs") if isinstance(fields, dict) else None
    return {str(digest) for digest in configs.values()} if isinstance(configs, dict) else set()
