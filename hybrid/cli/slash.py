"""The commands inside a chat, by name. Each takes the conversation and the words after the name."""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from hybrid.cli.decided import INDENT, decision_text
from hybrid.cli.prompt import read_files
from hybrid.cli.terminal import safe, talk
from hybrid.errors import ConfigurationError
from hybrid.wire.types import Route

if TYPE_CHECKING:
    from collections.abc import Callable

    from hybrid.cli.conversation import Asked, Conversation

ROUTES = {
    "on-device": Route.ON_DEVICE,
    "device": Route.ON_DEVICE,
    "cloud": Route.PRIVATE_CLOUD,
    "private-cloud": Route.PRIVATE_CLOUD,
}
ONLY = {Route.ON_DEVICE: "only_on_device", Route.PRIVATE_CLOUD: "only_private_cloud"}


class Leave(Exception):
    """The person wants to go."""


@dataclass(frozen=True, slots=True)
class Command:
    """One slash command. takes: what may follow its name, for the help."""

    run: "Callable[[Conversation, str], None]"
    takes: str
    sentence: str


def obey(chat: "Conversation", line: str) -> None:
    """Carry out one line that begins with a slash.

    Raises ConfigurationError for a name that is no command, and whatever the command raises; Leave to end the chat.
    """
    name, _, rest = line.strip().partition(" ")
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1, cutoff=0.7)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else "/help lists the commands; a space before the slash sends it as text"
        )
        raise ConfigurationError(f"no such command: {safe(name)}", hint=hint)
    COMMANDS[name].run(chat, rest.strip())


def _help(chat: "Conversation", rest: str) -> None:
    del chat, rest
    wide = max(len(f"{name} {c.takes}") for name, c in COMMANDS.items())
    talk("\n".join(f"{f'{name} {c.takes}':<{wide}}  {c.sentence}" for name, c in COMMANDS.items()))


def _route(chat: "Conversation", rest: str) -> None:
    if rest and rest != "auto" and rest not in ROUTES:
        raise ConfigurationError(f"no such route: {safe(rest)}", hint="/route takes on-device, cloud or auto")
    if rest:
        chat.session.pin(None if rest == "auto" else ROUTES[rest])
    if ROUTES.get(rest) is Route.PRIVATE_CLOUD and not isinstance(chat.consent, str):
        chat.consent.ask_again()
    pinned = chat.session.pinned
    talk(f"route: {'auto, decided for each question' if pinned is None else f'pinned, {pinned}'}")


def _why(chat: "Conversation", rest: str) -> None:
    del rest
    reply = chat.session.last
    if reply is None:
        raise ConfigurationError("there is no answer yet to explain")
    talk(decision_text(reply.decision, chat.screen))
    for attempt in reply.attempts:
        talk(f"{'tried':<{INDENT}}{attempt.route}: {attempt.error or 'answered'} after {attempt.seconds:.2f} s")


def _retry(chat: "Conversation", rest: str) -> None:
    if rest and rest not in ROUTES:
        raise ConfigurationError(f"no such route: {safe(rest)}", hint="/retry takes cloud or device")
    asked = chat.asked
    if asked is None:
        raise ConfigurationError("there is nothing to ask again")
    more: dict[str, Any] = {"policy": ONLY[ROUTES[rest]], "person": "overridden"} if rest else {}
    _ask_again(chat, asked, again=True, cleared=asked.cleared, **more)


def _allow(chat: "Conversation", rest: str) -> None:
    del rest
    asked = chat.asked
    if asked is None:
        raise ConfigurationError("there is no question to decide again")
    _ask_again(chat, asked, again=False, cleared=("prompt", *(source.label for source in asked.sources)))


def _ask_again(chat: "Conversation", asked: "Asked", **how: Any) -> None:
    """Ask the last question again. again: its answer would not do.  cleared: whose recognised labels are lifted."""
    if asked.recorded:
        chat.session.undo()
    chat.answer(asked.text, sources=asked.sources, **how)


def _undo(chat: "Conversation", rest: str) -> None:
    del rest
    chat.asked = None
    talk("the last question and its answer are taken back" if chat.session.undo() else "there is nothing to take back")


def _clear(chat: "Conversation", rest: str) -> None:
    del rest
    chat.session.clear()
    chat.files.clear()
    chat.asked = None
    talk("forgotten; a new conversation begins")


def _tokens(chat: "Conversation", rest: str) -> None:
    del rest
    reply = chat.session.last
    if reply is None:
        talk("no tokens yet")
        return
    used, usage = reply.usage.input + reply.usage.output, reply.usage
    limit = chat.context_size(reply.route)
    share = f" of {limit:,} ({100 * used / limit:.0f} %)" if limit else ""
    talk(f"{used:,} tokens{share}: {usage.input:,} read ({usage.cached_input:,} from cache), {usage.output:,} written")


def _files(chat: "Conversation", rest: str) -> None:
    if rest:
        chat.files.extend(read_files([rest], chat.wish.max_route))
    if not chat.files:
        talk("no files for the next question; /files FILE adds one")
    for source in chat.files:
        talk(f"{safe(source.label)}  {len(source.text):,} characters, at most {source.limit}")


def _system(chat: "Conversation", rest: str) -> None:
    if rest:
        chat.session.system = rest
        chat.session.clear()
        talk("system text set; a new conversation begins")
        return
    talk(f"system: {safe(chat.session.system) if chat.session.system else 'the model’s own'}")  # noqa: RUF001 - prose


def _save(chat: "Conversation", rest: str) -> None:
    if not rest:
        raise ConfigurationError("/save needs a file name")
    chat.session.save(rest)
    talk(f"saved to {safe(rest)}, readable by you alone; labels are kept")


def _load(chat: "Conversation", rest: str) -> None:
    if not rest:
        raise ConfigurationError("/load needs a file name")
    chat.session.load(rest)
    chat.asked = None
    talk(f"going on with {safe(rest)}, {len(chat.session.messages)} messages")


def _bye(chat: "Conversation", rest: str) -> None:
    del chat, rest
    raise Leave


COMMANDS = {
    "/help": Command(_help, "", "this list"),
    "/route": Command(_route, "on-device|cloud|auto", "send every question to one place, or decide each"),
    "/why": Command(_why, "", "the whole decision behind the last answer, and what would have changed it"),
    "/retry": Command(_retry, "[cloud|device]", "ask the last question again"),
    "/allow": Command(_allow, "", "lift what was recognised in the last question, and decide it again"),
    "/undo": Command(_undo, "", "take back the last question and its answer"),
    "/clear": Command(_clear, "", "forget the conversation"),
    "/tokens": Command(_tokens, "", "how much of the context is used"),
    "/files": Command(_files, "[FILE]", "files for the next question"),
    "/system": Command(_system, "[TEXT]", "show the system text, or set it and begin anew"),
    "/save": Command(_save, "FILE", "write the conversation with its labels"),
    "/load": Command(_load, "FILE", "go on with a saved conversation"),
    "/bye": Command(_bye, "", "leave"),
}
