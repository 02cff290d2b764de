"""What the operator is told: lines to read on a terminal, or one JSON object a line with ``--json``."""

import json
import os
import select
import stat
import sys
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from .config import Settings, is_loopback, split_address
from .route_config import RouteSettings

TIER_WORDS = (
    "tier 0 software, NOT private from the operator",
    "tier 1 tpm2, shows what was booted; NOT private from the operator",
    "tier 2 sev-snp, private from the operator where the evidence verifies",
)
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound


class Notices:
    """Writes to stdout what programs and people wait for, to stderr what goes wrong and what happens.

    as_json: life events as JSON lines. Then a closed stdout means that whoever started the node is gone.
    """

    def __init__(self, *, as_json: bool, out: TextIO = sys.stdout, err: TextIO = sys.stderr) -> None:
        self._json = as_json
        self._out = out
        self._err = err
        self._poll = _pipe_poll(out, 0) if as_json else None
        self._room = _pipe_poll(err, select.POLLOUT)
        self._terminal = _terminal_poll(out)

    def starting(self, settings: Settings) -> None:
        """Say that a model is being loaded; that can take a while."""
        if not self._json and settings.engine == "mlx":
            self._tell(self._err, f"loading {settings.model or 'the default model'} …")

    def unprotected(self, missing: Mapping[str, str]) -> None:
        """Say what the node does without because this machine does not have it: protection -> why."""
        if missing and self._json:
            self._line(event="unprotected", missing=dict(missing))
        elif missing:
            named = "; ".join(f"{name} ({why})" for name, why in sorted(missing.items()))
            self._tell(self._err, f"pcc-server: goes on without {named}")

    def ready(self, settings: Settings, facts: dict[str, Any]) -> None:
        """Say where the node listens, what it is, and what a client types."""
        shown: dict[str, Any] = {
            key: facts[key] for key in ("listen", "node_key", "tier", "engine", "model", "admin") if key in facts
        }
        if self._json:
            self._line(event="ready", **shown)
        else:
            self._tell(self._out, _card(settings, shown))

    def routing(self, settings: RouteSettings, listen: str, node_key: str) -> None:
        """Say where the router listens and what a client types."""
        if self._json:
            self._line(event="ready", listen=listen, node_key=node_key, nodes=len(settings.nodes))
        else:
            self._tell(self._out, _route_card(settings, listen, node_key))

    def draining(self) -> None:
        """Say that no new request is taken."""
        if self._json:
            self._line(event="draining")
        else:
            self._tell(self._err, "finishing what runs; once more stops at once")

    def stopped(self, exit_code: int) -> None:
        """Say the last word, for programs."""
        if self._json:
            self._line(event="stopped", exit_code=exit_code)

    def event(self, line: bytes) -> None:
        """Repeat a child's event."""
        self._tell(self._err, line.decode("ascii"))

    def early(self, lines: Iterable[bytes]) -> None:
        """Show what a child printed before any request existed."""
        for line in lines:
            self._tell(self._err, line.decode("utf-8", "replace"))

    def failure(self, sentence: str) -> None:
        """Say what went wrong, in one sentence, last."""
        self._tell(self._err, f"pcc-server: {sentence}")

    def reader_gone(self) -> bool:
        """Tell whether the program that reads our JSON lines has closed its end of the pipe."""
        return bool(self._poll and self._poll.poll(0))

    def terminal_gone(self) -> bool:
        """Tell whether it was started at a terminal that has been closed since: SIGHUP means that, too."""
        return bool(self._terminal and self._terminal.poll(0))

    def _line(self, **fields: Any) -> None:
        self._tell(self._out, json.dumps(fields, separators=(",", ":")))

    def _tell(self, stream: TextIO, text: str) -> None:
        if stream is self._err and self._room and not self._room.poll(0):
            return  # nobody reads: rather a lost line than a node that waits for a reader
        try:
            print(text, file=stream, flush=True)
        except OSError:  # a closed terminal or pipe stops nobody from serving
            return


def _pipe_poll(stream: TextIO, wanted: int) -> "select.poll | None":
    """Watch a pipe: for its reader's end, and for ``wanted``."""
    try:
        fd = stream.fileno()
        is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
    except (OSError, ValueError):
        return None
    if not is_pipe or not hasattr(select, "poll"):
        return None
    poll = select.poll()
    poll.register(fd, wanted)
    return poll


def _terminal_poll(stream: TextIO) -> "select.poll | None":
    if not hasattr(select, "poll") or not stream.isatty():
        return None
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return poll


def _card(settings: Settings, shown: dict[str, Any]) -> str:
    made_up = " (deterministic words for tests; no model runs)" if shown["engine"] == "fake" else ""
    fault = f"\n  fault   {settings.fault} (for tests)" if settings.fault else ""
    return (
        f"node ready on {shown['listen']}\n"
        f"  engine  {shown['engine']}{made_up}\n"
        f"  model   {shown['model']}\n"
        f"  trust   {TIER_WORDS[shown['tier']]}\n"
        f"  keeps   nothing: no file is written, no content is logged{fault}\n"
        f"{_to_paste(settings, shown['listen'], shown['node_key'])}"
    )


def _route_card(settings: RouteSettings, listen: str, node_key: str) -> str:
    return (
        f"router ready on {listen}\n"
        f"  nodes   {', '.join(node.address for node in settings.nodes)}\n"
        f"  access  {settings.access}\n"
        f"  keeps   nothing: no file but the log is written, no content is seen or logged\n"
        f"{_to_paste(settings, listen, node_key)}"
    )


def _to_paste(settings: Settings | RouteSettings, listen: str, node_key: str) -> str:
    """Return what a client types. A key alone lets no client accept tier 0 from elsewhere, so trust is added there."""
    host, port = split_address(listen)
    token = " --node-token-file FILE" if settings.access == "keys" else ""
    if is_loopback(host):
        return f"In another terminal:\n  hybrid chat --node {listen} --node-key {node_key}{token}"
    address = f"{settings.deployment}:{port}" if host in EVERYWHERE else listen
    software = " --allow-software always" if settings.allow_software else ""
    return (
        f"On a client (with --node-ca FILE where it does not know your authority):\n"
        f"  hybrid trust add {address} --name {settings.deployment} --key {node_key}{software}\n"
        f"  hybrid chat --node {settings.deployment}{token}"
    )
