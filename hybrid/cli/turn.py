"""One answer on its way to the terminal: events in, text on stdout, the rest on stderr, an exit code out."""

import json
from typing import TYPE_CHECKING, Any, Protocol

from hybrid.cli.failures import EXIT_INTERRUPTED
from hybrid.cli.render import Progress, badge, progress_text, warnings_of
from hybrid.cli.terminal import Screen, answer, safe, talk
from hybrid.errors import GenerationCancelled, HybridError
from hybrid.events import Done, Handoff, NodeVerified, Retry, TextDelta, event_to_dict

if TYPE_CHECKING:
    from hybrid.client import Stream
    from hybrid.events import Event
    from hybrid.reply import Reply


class Output(Protocol):
    """How one answer is written to stdout."""

    def event(self, event: "Event") -> None:
        """Write what this event means for stdout."""

    def stopped(self, reply: "Reply | None") -> None:
        """Write what is left to write when the person stopped it; reply is None before the first event."""

    def failed(self, error: HybridError) -> None:
        """Write what is left to write when the answer does not arrive whole."""


class Plain:
    """The answer as text; whole at the end, or piece by piece as it comes. Both give the same bytes."""

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream
        self._text = ""

    def event(self, event: "Event") -> None:
        """Write or keep new text; end the answer with a line break."""
        if isinstance(event, TextDelta):
            self._text += event.text
            if self._stream:
                answer(event.text)
        elif isinstance(event, Handoff) and event.restart and self._text:
            talk("\nnote: the answer begins again")
            self._text = ""
        elif isinstance(event, Done):
            self._end()

    def stopped(self, reply: "Reply | None") -> None:
        """Keep what had arrived readable."""
        del reply
        if self._text:
            self._end()

    def failed(self, error: HybridError) -> None:
        """Keep what had arrived readable."""
        del error
        if self._text:
            self._end()

    def _end(self) -> None:
        if not self._stream:
            answer(self._text)
        if not self._text.endswith("\n"):
            answer("\n")


class Json:
    """One object: the reply, or the error with the partial text."""

    def event(self, event: "Event") -> None:
        """Write the reply when it is whole."""
        if isinstance(event, Done):
            answer(_line(event.reply.to_dict()))

    def stopped(self, reply: "Reply | None") -> None:
        """Write the partial reply; its finish reason is ``cancelled``."""
        if reply is not None:
            answer(_line(reply.to_dict()))

    def failed(self, error: HybridError) -> None:
        """Write the error as an object; it has no key of a reply but the version."""
        answer(_line(error_dict(error)))


class JsonLines:
    """One event a line; a failure is the last one."""

    def event(self, event: "Event") -> None:
        """Write the event."""
        answer(_line(event_to_dict(event)))

    def stopped(self, reply: "Reply | None") -> None:
        """Write the partial reply as the last event; its finish reason is ``cancelled``."""
        if reply is not None:
            answer(_line(event_to_dict(Done(reply=reply))))

    def failed(self, error: HybridError) -> None:
        """Write the error as the last line."""
        answer(_line({"event": "error", **error_dict(error)}))


def error_dict(error: HybridError) -> dict[str, Any]:
    """Return an error as plain values; the text that had arrived is under ``partial``."""
    return {
        "error": {
            "type": type(error).__name__,
            "message": str(error),
            "hint": error.hint,
            "exit_code": error.exit_code,
            "retryable": error.retryable,
            "left_device": error.left_device,
            "request_id": error.request_id,
            "route": error.route,
        },
        "partial": error.partial,
        "schema_version": 1,
    }


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def run_turn(stream: "Stream", output: Output, screen: Screen, *, verbose: bool = False) -> "Reply | None":
    """Follow one stream to its end and return the reply; None when the person stopped it.

    Ctrl-C stops the answer, keeps what had come and says so; a second one interrupts the program. Raises HybridError
    after what had arrived was written.
    """
    progress, tokens = Progress(screen), 0
    try:
        with stream, progress:
            for event in stream:
                tokens += isinstance(event, TextDelta)
                _follow(event, progress, verbose=verbose)
                output.event(event)
    except (KeyboardInterrupt, GenerationCancelled):
        stream.cancel()
        _stopped(stream.reply, output, tokens)
        return None
    except HybridError as error:
        output.failed(error)
        raise
    reply = stream.reply
    if reply is not None and (screen.tty or verbose):
        talk(badge(reply, screen, verbose=verbose))
    return reply


def _stopped(reply: "Reply | None", output: Output, tokens: int) -> None:
    output.stopped(reply)
    if reply is not None:
        tokens = max(tokens, reply.usage.output)
    talk(f"stopped, {tokens} token{'' if tokens == 1 else 's'}, slot freed")


def _follow(event: "Event", progress: Progress, *, verbose: bool) -> None:
    """Say on stderr what an event means; the line goes away before the first word of the answer."""
    if isinstance(event, TextDelta | Done):
        progress.clear()
        return
    for warning in warnings_of(event):
        progress.clear()
        talk(f"warning: {safe(warning)}")
    text = progress_text(event)
    changed_sides = isinstance(event, Handoff) and event.decision is not None
    if changed_sides or (verbose and isinstance(event, NodeVerified | Retry | Handoff)):
        progress.clear()
        talk(text.removeprefix("… "))
    elif text:
        progress.show(text)


def exit_code(reply: "Reply | None") -> int:
    """Return 0 for a whole answer, 130 for one that was stopped."""
    return 0 if reply is not None else EXIT_INTERRUPTED
