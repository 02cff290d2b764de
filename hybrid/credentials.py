"""Secrets and certificates that a caller names by a file: read and looked at before anything is sent."""

import os
from pathlib import Path

from .errors import ConfigurationError

OTHERS_READ = 0o077
GROUP_GIVES = 0o037  # of somebody else's file: it was given to us through its group, as Kubernetes gives secrets
DER = b"\x30"  # how a certificate begins that is not PEM


def read_token(path: Path | None) -> bytes:
    """Return the access key a file holds, without its line end; empty without a file.

    Raises ConfigurationError for a file that can't be read, is empty, or that others may read.
    """
    if path is None:
        return b""
    try:
        found = path.stat()
        token = path.read_bytes().strip()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or type(error).__name__}") from None
    ours = found.st_uid == os.geteuid()
    if found.st_mode & (OTHERS_READ if ours else GROUP_GIVES):
        how = f"chmod {'600' if ours else '640'} {path}"
        raise ConfigurationError(f"{path} holds an access key and may be read by others", hint=how)
    if not token:
        raise ConfigurationError(f"{path} holds no access key")
    return token


def read_roots(given: bytes | Path | None) -> bytes | None:
    """Return the PEM of an authority's certificates, as bytes or from a file; None where none is named.

    Raises ConfigurationError for a file that can't be read and for what holds no certificate.
    """
    if given is None or isinstance(given, bytes):
        return _checked_roots(given, "node_ca")
    try:
        return _checked_roots(given.read_bytes(), str(given))
    except OSError as error:
        raise ConfigurationError(f"{given} cannot be read: {error.strerror or type(error).__name__}") from None


def _checked_roots(pem: bytes | None, where: str) -> bytes | None:
    from .peers import tls_context

    if pem is None:
        return None
    if pem.startswith(DER):
        how = "openssl x509 -inform DER -in FILE -out ca.pem makes one"
        raise ConfigurationError(f"{where} is a certificate in DER form, and PEM is needed", hint=how)
    try:
        tls_context(pem)
    except ConfigurationError:
        how = "give the certificate of the authority that signed the node's, in PEM form, such as ca.crt"
        raise ConfigurationError(f"{where} holds no certificate", hint=how) from None
    return pem
