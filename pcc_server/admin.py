"""The operator's port, up in the first second: probes, metrics, drain, and keys and evidence in their public parts.

Probes and metrics are content-free and need no token: a kubelet cannot hold one. They are answered to whoever reaches
the port, off loopback over TLS. Everything else wants loopback, or the token. What changes something is a POST with
``x-pcc-admin: 1``, which no page in a browser can send across origins; without a token the Host must be loopback, so
that no name of somebody else's leads here.
"""

import asyncio
import contextlib
import hmac
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from hybrid.wire.constants import CLOCK_TOLERANCE_S, KEY_ID_BYTES
from hybrid.wire.errors import ErrorCode, Malformed

from . import errors, tls
from .config import Settings, is_loopback, split_address, why_not_bound
from .errors import CONFIG_EXIT, StartFailure
from .events import Phase
from .health import Readiness, Reason
from .link import Operation
from .metrics import CONTENT_TYPE, Metrics
from .progress import Progress
from .publication import Publication, newest_bundle
from .secret_files import remedy
from .upstream import Upstream

MARK = "x-pcc-admin"
MIN_TOKEN_CHARS = 22  # 128 bits in base64
_STATUS = {ErrorCode.STALE_KEY: 404, ErrorCode.LIMIT: 429, ErrorCode.BUSY: 503}
_OK, _ACCEPTED, _REFUSED, _UNAUTHENTICATED, _NOT_READY = 200, 202, 403, 401, 503
_MAX_HEADER_BYTES = 8 * 1024

Handler = Callable[[Request], Awaitable[Response]]


class Inside(Protocol):
    """What the port shows: the gateway."""

    @property
    def worker(self) -> Upstream:
        """What the worker published, and how to ask it."""

    @property
    def health(self) -> Readiness:
        """Whether requests are answered, and why not."""

    @property
    def progress(self) -> Progress:
        """How far the start has got."""

    @property
    def metrics(self) -> Metrics:
        """What was counted."""

    def drain(self) -> None:
        """Begin to end the node, as SIGTERM does."""


class Admin:
    """The handlers. They know what the gateway knows, which is nothing of any request."""

    def __init__(self, inside: Inside, token: str = "") -> None:
        self._inside = inside
        self._worker = inside.worker
        self._token = token

    def app(self) -> Starlette:
        """Return the application."""
        open_ = {"/livez": self.livez, "/readyz": self.readyz, "/startupz": self.startupz, "/metrics": self.metrics}
        routes = [
            *(Route(path, handler, methods=["GET"]) for path, handler in open_.items()),
            Route("/drain", self._guarded(self.drain), methods=["POST"]),
            Route("/keys", self._guarded(self.keys), methods=["GET"]),
            Route("/keys/rotate", self._guarded(self.rotate), methods=["POST"]),
            Route("/keys/revoke", self._guarded(self.revoke), methods=["POST"]),
            Route("/evidence", self._guarded(self.evidence), methods=["GET"]),
        ]
        return Starlette(routes=routes)

    def _guarded(self, handler: Handler) -> Handler:
        async def wrapped(request: Request) -> Response:
            if (status := self._refusal(request)) is not None:
                return _told(status, "REFUSED")
            try:
                return await handler(request)
            except Exception as error:  # noqa: BLE001 - the table in errors.py ends every one of them
                code = errors.refusal(error).code
                return _told(_STATUS.get(code, 400 if code is ErrorCode.MALFORMED else 500), code.value)

        return wrapped

    def _refusal(self, request: Request) -> int | None:
        if self._token:
            given = request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._token.encode()):
                return _UNAUTHENTICATED
        elif not is_loopback(_host(request)):
            return _REFUSED
        if request.method == "POST" and request.headers.get(MARK) != "1":
            return _REFUSED
        return None

    # --- probes and metrics: no token ----------------------------------------------------------------

    async def livez(self, _request: Request) -> Response:
        """GET /livez: 200 as long as this process answers."""
        return JSONResponse({"alive": True})

    async def readyz(self, _request: Request) -> Response:
        """GET /readyz: 200 while requests are answered, else 503 with why not."""
        reasons = sorted(reason.value for reason in self._inside.health.reasons)
        return JSONResponse({"ready": not reasons, "reasons": reasons}, status_code=_NOT_READY if reasons else _OK)

    async def startupz(self, _request: Request) -> Response:
        """GET /startupz: how far the start has got; 503 until the node was ready once."""
        progress = self._inside.progress
        told = {
            "state": self._state(),
            "phase": progress.phase.value,
            "pct": progress.pct,
            "elapsed_s": round(progress.elapsed_s, 1),
            "eta_s": round(progress.eta_s, 1),
        }
        return JSONResponse(told, status_code=_OK if progress.over or progress.starts > 1 else _NOT_READY)

    def _state(self) -> str:
        progress = self._inside.progress
        if Reason.DRAINING in self._inside.health.reasons:
            return "draining"
        if progress.phase is Phase.DEGRADED:
            return "degraded"
        return "started" if progress.over else "starting"

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics: for Prometheus."""
        return Response(self._inside.metrics.expose(self._worker.publication), media_type=CONTENT_TYPE)

    # --- loopback or the token ----------------------------------------------------------------------------------

    async def drain(self, _request: Request) -> Response:
        """POST /drain: end the node as SIGTERM does; answered at once."""
        self._inside.drain()
        return JSONResponse({"draining": True}, status_code=_ACCEPTED)

    async def keys(self, _request: Request) -> Response:
        """GET /keys: the epoch keys that open requests, and which of them the newest bundle lists."""
        return JSONResponse(describe_keys(self._published()))

    async def rotate(self, _request: Request) -> Response:
        """POST /keys/rotate: new keys of this epoch and the next; answered when they are published."""
        await self._worker.call(Operation.ROTATE)
        return JSONResponse(describe_keys(self._published()))

    async def revoke(self, request: Request) -> Response:
        """POST /keys/revoke?key=HEX: destroy one key at once."""
        await self._worker.call(Operation.REVOKE, _key_id(request.query_params.get("key", "")))
        return JSONResponse(describe_keys(self._published()))

    async def evidence(self, _request: Request) -> Response:
        """GET /evidence: the newest bundle's bytes."""
        return Response(newest_bundle(self._published()).raw, media_type="application/octet-stream")

    def _published(self) -> Publication:
        if self._worker.publication is None:
            raise errors.Busy
        return self._worker.publication


def _told(status: int, code: str) -> Response:
    return JSONResponse({"code": code}, status_code=status)


def _host(request: Request) -> str:
    host = request.headers.get("host", "")
    return host.removeprefix("[").partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _key_id(text: str) -> bytes:
    """Read a key's id. Raises Malformed for anything but 32 hexadecimal digits."""
    if len(text) != 2 * KEY_ID_BYTES or not all(char in "0123456789abcdef" for char in text):
        raise Malformed("a key is named by 32 hexadecimal digits")
    return bytes.fromhex(text)


def describe_keys(publication: Publication) -> dict[str, Any]:
    """Return what is public about the keys. Times are unix seconds; ``listed``: in the newest bundle."""
    bundle = newest_bundle(publication)
    listed = {key.key_id for key in bundle.statement.keys}
    epoch_s = bundle.statement.keys[0].epoch_s
    rows = {row.ek_id: row for row in publication.accepted}
    return {
        "node_id": bundle.statement.identity.node_id.hex(),
        "bundle_id": bundle.id.hex(),
        "epoch_s": epoch_s,
        "keys": [
            {
                "id": ek_id.hex(),
                "epoch": (row.opens + CLOCK_TOLERANCE_S) // epoch_s,
                "opens": row.opens,
                "closes": row.closes,
                "listed": ek_id in listed,
            }
            for ek_id, row in rows.items()
        ],
    }


# --- the server --------------------------------------------------------------------------------------


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell when it listens."""
        await super().startup(sockets)
        self.listens.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone: they are the launcher's to answer."""
        yield


def read_token(path: str) -> str:
    """Read the token's file; empty without one. Raises StartFailure with exit code 2."""
    if not path:
        return ""
    try:
        token, found = Path(path).read_text("ascii").strip(), Path(path).stat()
    except (OSError, UnicodeDecodeError):
        raise StartFailure(f"cannot read --admin-token {path}", CONFIG_EXIT) from None
    if len(token) < MIN_TOKEN_CHARS:
        raise StartFailure(
            f"--admin-token {path} holds under {MIN_TOKEN_CHARS} characters; use random ones", CONFIG_EXIT
        )
    if command := remedy(Path(path), found):
        raise StartFailure(f"--admin-token {path} can be read by others; run: {command}", CONFIG_EXIT)
    return token


class AdminPort:
    """A bound port. address: where it listens."""

    def __init__(self, server: _Server, listener: socket.socket, address: str) -> None:
        self._server = server
        self._listener = listener
        self.address = address

    async def start(self) -> None:
        """Return when it listens: from then on it makes no further socket. It serves until the process ends."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        await self._server.listens.wait()

    def reload(self, settings: Settings) -> None:
        """Read the certificate again, for connections to come. What is no valid pair changes nothing."""
        if self._server.config.ssl is not None:
            with contextlib.suppress(OSError, ssl.SSLError):
                self._server.config.ssl.load_cert_chain(settings.tls_cert, settings.tls_key)


def open_admin_port(settings: Settings, inside: Inside) -> AdminPort:
    """Bind the admin port. Raises StartFailure."""
    token = read_token(settings.admin_token)
    host, port = split_address(settings.admin, "--admin")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise StartFailure(f"cannot listen on --admin {settings.admin}: {why_not_bound(error)}") from None
    config = _server_config(Admin(inside, token).app())
    if not is_loopback(host):
        config.load()
        config.ssl = tls.context(settings)
    bound = listener.getsockname()[1]
    return AdminPort(_Server(config), listener, f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}")


def _server_config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
    )
