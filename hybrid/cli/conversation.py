"""One chat: reads, answers, obeys slash commands, until the person leaves."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hybrid.cli.failures import EXIT_INTERRUPTED, report
from hybrid.cli.models import STARTER_ID, STARTER_NOTE
from hybrid.cli.prompt import read_files
from hybrid.cli.render import Progress
from hybrid.cli.slash import Leave, obey
from hybrid.cli.terminal import Screen, talk
from hybrid.cli.turn import Plain, run_turn
from hybrid.errors import HybridError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hybrid.cli.consent import Consent
    from hybrid.cli.lines import Lines
    from hybrid.cli.opening import Opening
    from hybrid.cli.options import Wishes
    from hybrid.conversation import Session
    from hybrid.reply import Reply
    from hybrid.routing.labels import Source
    from hybrid.wire.types import Route

DOUBTS = {
    "doubt": "this answer may be wrong",
    "refusal_local": "the model on this device declined",
    "unparseable": "this answer is not in the form that was asked for",
    "repeat": "this answer goes round in circles",
}
LEAVE_HINT = "Ctrl-C again or Ctrl-D leaves"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The last question, to be asked again.

    recorded: whether it became part of the transcript.  cleared: whose recognised labels a person lifted for it.
    """

    text: str
    sources: "tuple[Source, ...]"
    recorded: bool
    cleared: tuple[str, ...] = ()


class Conversation:
    """A chat and what it holds: the session, files for the next question, the last question."""

    def __init__(
        self, opening: "Opening", lines: "Lines", screen: Screen, wish: "Wishes", consent: "Consent | str"
    ) -> None:
        self.screen = screen
        self.wish = wish
        self.consent = consent
        self.files: list[Source] = list(read_files(wish.files, wish.max_route))
        self.asked: Asked | None = None
        self._opening = opening
        self._lines = lines
        self._session: Session | None = None
        self._noted = False
        self._exit_code = 0

    @property
    def session(self) -> "Session":
        """The conversation, waiting for its client if that is still opening."""
        if self._session is None:
            client = self._opening.client(Progress(self.screen))
            self._session = client.session(system=self.wish.system)
        return self._session

    def run(self) -> int:
        """Read and answer until the person leaves; return the exit code.

        On a terminal it is 0, or 130 after Ctrl-C twice; over a pipe that of the last failure.
        """
        interrupted = False
        while True:
            try:
                line = self._lines.read()
                if line is None:
                    return self._left()
                interrupted = False
                self._guarded(line)
            except Leave:
                return self._left()
            except KeyboardInterrupt:
                if interrupted or not self._lines.typed:
                    talk()
                    return EXIT_INTERRUPTED
                interrupted = True
                talk(f"\n{LEAVE_HINT}")

    def _left(self) -> int:
        if self._lines.typed:
            talk()
            return 0
        return self._exit_code

    def _guarded(self, line: str) -> None:
        try:
            if line.startswith("/"):
                obey(self, line)
            elif line.strip():
                self.answer(line)
        except HybridError as error:
            if self._opening.failed:
                raise
            self._exit_code = report(error)

    def answer(self, text: str, *, sources: "tuple[Source, ...] | None" = None, **how: Any) -> None:
        """Answer one question with the files given for it. Raises HybridError; what had arrived was shown.

        how: policy, person, again and cleared, as a session takes them.
        """
        given = tuple(self.files) if sources is None else sources
        before = len(self.session.messages)
        stream = self.session.stream(text, sources=given, **how, **self.wish.sampling())
        try:
            reply = run_turn(stream, Plain(stream=True), self.screen, verbose=self.wish.verbose)
        finally:
            recorded, cleared = len(self.session.messages) > before, how.get("cleared", ())
            self.asked = Asked(text=text, sources=given, recorded=recorded, cleared=cleared)
        self.files.clear()
        if reply is not None:
            self._hint(reply)
            self._note_starter(reply)
        if self._lines.typed:
            talk()

    def context_size(self, route: "Route") -> int | None:
        """Return the tokens of context on a route; None when its node cannot be asked."""
        try:
            return self._opening.client(Progress(self.screen)).context_size(route)
        except HybridError:
            return None

    def _hint(self, reply: "Reply") -> None:
        """Say which command would help: where an answer is doubted, or something found in the text kept it here."""
        if not self.screen.tty:
            return
        if reply.doubt:
            talk(f"hint: {DOUBTS[reply.doubt]}; /retry cloud asks the private cloud")
        elif _liftable(reply.decision.signals["privacy"]):
            talk("hint: /allow sends it all the same, where the decision would")

    def _note_starter(self, reply: "Reply") -> None:
        chosen = self.wish.model is not None
        if not self._noted and self.screen.tty and reply.model == STARTER_ID and not chosen:
            self._noted = True
            talk(STARTER_NOTE)


def _liftable(privacy: "Mapping[str, Any]") -> bool:
    """Whether a person may lift what keeps a text here: something found in it that is no word of their deny-list."""
    from hybrid.routing.recognisers.spans import DENY_LIST

    return privacy["by"] == "recognised" and DENY_LIST not in privacy["types"]
