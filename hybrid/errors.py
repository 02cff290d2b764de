"""Every error a program can meet, as one tree.

::

    HybridError            .hint .retryable .retry_after .request_id .route .left_device .partial
    |- ConfigurationError  bad option, key or value; unknown model; input that is not UTF-8
    |- UnavailableError    reason + fix: model missing, too little memory, disk full
    |- RoutingError        PolicyError . HandoffDeclined . NoRouteError              nothing was sent
    |- GenerationError     ContextOverflowError . GenerationCancelled . RefusalError
    `- RemoteError
       |- AttestationError   (check, expected, got)                nothing was sent; never retried
       |- KeyExpiredError    sent but unopened; retried once, with fresh keys
       |- IntegrityError     forged, reordered, cut, replayed      never retried with the same bytes
       `- ProtocolError . APIConnectionError . APITimeoutError . NodeAuthError
          OverloadedError . RateLimitError . ServerError

``left_device`` is ``no``, ``ciphertext`` (sealed, never opened as far as the protocol can show) or ``yes``.
Messages are one sentence about what happened; ``hint`` is one sentence about what to do.
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .trust.checks import Check

Left = Literal["no", "ciphertext", "yes"]


class HybridError(Exception):
    """Root of the tree. ``str(error)`` never holds prompt or answer text.

    hint: what to do about it.  retryable: whether the same call may work later.
    retry_after: seconds the other side asked for.  request_id: the reply's id, if there was one.
    route: where the request was going.  partial: text that had arrived before the failure.
    """

    retryable = False
    left_device: Left = "no"
    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        retry_after: float | None = None,
        left_device: Left | None = None,
    ) -> None:
        """Keep what a caller needs to act on; drivers fill in the rest."""
        super().__init__(message)
        self.hint = hint
        self.retry_after = retry_after
        self.request_id: str | None = None
        self.route: str | None = None
        self.partial = ""
        if left_device is not None:
            self.left_device = left_device


class ConfigurationError(HybridError):
    """A bad option, key, value or input. Nothing was sent."""

    exit_code = 2


class UnavailableError(HybridError):
    """Something this call needs is not there. Nothing was sent.

    reason: a stable word such as ``model_not_downloaded``.  hint: a command to paste.
    """

    exit_code = 4

    def __init__(self, message: str, *, reason: str, hint: str = "") -> None:
        """Keep the stable reason beside the sentence."""
        super().__init__(message, hint=hint)
        self.reason = reason


class RoutingError(HybridError):
    """The router could not or may not choose a route. Nothing was sent."""

    exit_code = 3


class PolicyError(RoutingError):
    """A label or mode forbids the route that was asked for. source: what carries the label."""

    def __init__(self, message: str, *, source: str = "", label: str = "", hint: str = "") -> None:
        """Name the source and its label."""
        super().__init__(message, hint=hint)
        self.source = source
        self.label = label


class HandoffDeclined(RoutingError):
    """The person or the consent callback said no. by: who."""

    def __init__(self, message: str, *, by: str, hint: str = "") -> None:
        """Name who declined."""
        super().__init__(message, hint=hint)
        self.by = by


class NoRouteError(RoutingError):
    """No route can answer. per_route: one reason for each."""

    exit_code = 4

    def __init__(self, message: str, *, per_route: dict[str, str], hint: str = "") -> None:
        """Keep one reason for each route."""
        super().__init__(message, hint=hint)
        self.per_route = per_route


class GenerationError(HybridError):
    """The model could not answer this request."""


class ContextOverflowError(GenerationError):
    """The prompt does not fit the model's context. limit, needed: tokens. Never cut silently."""

    exit_code = 6

    def __init__(self, message: str, *, limit: int, needed: int, hint: str = "", left_device: Left = "no") -> None:
        """Keep limit and need."""
        super().__init__(message, hint=hint, left_device=left_device)
        self.limit = limit
        self.needed = needed


class RefusalError(GenerationError):
    """The model or the node's policy refused. by: which."""

    left_device: Left = "yes"

    def __init__(self, message: str, *, by: str, hint: str = "") -> None:
        """Name who refused."""
        super().__init__(message, hint=hint)
        self.by = by


class GenerationCancelled(GenerationError):
    """The caller stopped it; ``partial`` keeps the text so far."""

    exit_code = 130


class RemoteError(HybridError):
    """Something went wrong between this device and the node."""


class AttestationError(RemoteError):
    """The node could not be verified. Nothing was sent; never retried, never bypassed.

    check: the named check of SPEC 12.  expected, got: what it compared.  checks: every result up to it, if known.
    """

    exit_code = 5
    checks: "tuple[Check, ...]" = ()

    def __init__(self, message: str, *, check: str, expected: str = "", got: str = "", hint: str = "") -> None:
        """Keep the named check and what it compared."""
        super().__init__(message, hint=hint)
        self.check = check
        self.expected = expected
        self.got = got


class KeyExpiredError(RemoteError):
    """The node no longer has the key this was sealed to. Retried once, with fresh keys."""

    retryable = True
    left_device: Left = "ciphertext"
    exit_code = 75


class IntegrityError(RemoteError):
    """The reply was forged, reordered, cut or does not match its receipt. ``partial`` is what had been shown."""

    left_device: Left = "yes"


class ProtocolError(RemoteError):
    """The two ends disagree about the protocol, or the node refused the bytes."""

    left_device: Left = "ciphertext"


class APIConnectionError(RemoteError, ConnectionError):
    """The node cannot be reached."""

    retryable = True
    exit_code = 4


class APITimeoutError(RemoteError, TimeoutError):
    """Too slow. phase: connect, attest, first_token, idle or total."""

    retryable = True
    exit_code = 75

    def __init__(self, message: str, *, phase: str, hint: str = "", left_device: Left = "no") -> None:
        """Name the phase that ran out."""
        super().__init__(message, hint=hint, left_device=left_device)
        self.phase = phase


class NodeAuthError(RemoteError):
    """The node refuses this client's credentials."""

    left_device: Left = "ciphertext"
    exit_code = 4


class OverloadedError(RemoteError):
    """The node is full or draining."""

    retryable = True
    left_device: Left = "ciphertext"
    exit_code = 75


class RateLimitError(RemoteError):
    """A limit of the node was reached. scope: which."""

    retryable = True
    left_device: Left = "ciphertext"
    exit_code = 75

    def __init__(self, message: str, *, scope: str, retry_after: float | None = None, hint: str = "") -> None:
        """Name the limit."""
        super().__init__(message, hint=hint, retry_after=retry_after)
        self.scope = scope


class ServerError(RemoteError):
    """A fault in the node."""

    retryable = True
    left_device: Left = "ciphertext"
