"""What the gateway decides without a key: steps 1 and 2 of SPEC 7, token, load. It repeats them; the worker rules."""

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass

from hybrid.wire.codec import InvokeRequest
from hybrid.wire.envelope import RequestOpener
from hybrid.wire.errors import Malformed, StaleKey
from hybrid.wire.header import Header, token_digest

from .errors import TokenRefused
from .link import OpenStream
from .publication import Publication


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A request that may go to the worker. deadline_ms: of its header."""

    index: int
    deadline_ms: int
    key_package: bytes

    def opening(self, request: InvokeRequest, left_ms: int, tenant: int = 0) -> OpenStream:
        """Return the record for the link. tenant: whose request it is, as ``access`` numbers them."""
        return OpenStream(left_ms, self.index, request.header, request.body, self.key_package, tenant)


def admit(
    request: InvokeRequest, publication: Publication, *, access: str = "open", now: Callable[[], float] = time.time
) -> Admitted:
    """Check a request as far as that takes no private key. access: of the node's settings; its keys are judged apart.

    Raises Malformed, TokenRefused, StaleKey.
    """
    if _is_routed(request, access):
        header, index = Header.decode(request.header), request.index
    else:
        header = client_header(request)
        index = _own_index(header, publication)
    key_package = request.key_packages[0 if len(request.key_packages) == 1 else index]
    opener = RequestOpener(header=request.header, body=request.body, key_package=key_package, index=index)
    if header.model_id != publication.model_id:
        raise Malformed("the model is not served here")
    if not any(row.opens <= now() <= row.closes and row.names(opener.entry) for row in publication.accepted):
        raise StaleKey
    return Admitted(index=index, deadline_ms=header.deadline_ms, key_package=key_package)


def client_header(request: InvokeRequest) -> Header:
    """Check what comes from a client itself: one key package per candidate, and the token the header was sealed with.

    Raises Malformed, TokenRefused.
    """
    header = Header.decode(request.header)
    if len(request.key_packages) != len(header.candidates) or request.index:
        raise Malformed("a client sends one key package per candidate and no index")
    if not hmac.compare_digest(token_digest(header.rid, request.token), header.token_digest):
        raise TokenRefused
    return header


def _is_routed(request: InvokeRequest, access: str) -> bool:
    """Tell whether a router sent this: one key package, no token. Raises TokenRefused where the other is expected."""
    one_of_many = len(request.key_packages) == 1 and len(Header.decode(request.header).candidates) > 1
    if access == "keys" and one_of_many:
        raise TokenRefused
    if access == "router" and len(request.key_packages) > 1:
        raise TokenRefused
    return one_of_many or access == "router"


def _own_index(header: Header, publication: Publication) -> int:
    """Find the first candidate that is this node. Raises StaleKey when none is."""
    own = {row.node_id for row in publication.accepted}
    for index, candidate in enumerate(header.candidates):
        if candidate.node_id in own:
            return index
    raise StaleKey
