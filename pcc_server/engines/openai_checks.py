"""Whether an engine of others is set up so that a node may stand before it (node design 3.11, X10).

Each check asks the engine itself. ``engine_settings`` is what ``audit`` shows; a start refuses what does not hold.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from hybrid.wire.types import GenerateRequest, Message, Role, Sampling
from pcc_server.config import Settings
from pcc_server.dial import listener
from pcc_server.dialled import Dial, direct
from pcc_server.engine_check import Check
from pcc_server.errors import StartFailure

from .http import OK, Ask, EngineFailure, Patience, fetch
from .openai import OpenAIEngine, Served
from .openai_kinds import KINDS
from .openai_serves import POLL_S, served, wait_ready

CLOSED = frozenset({401, 403, 404, 405, 501})  # what an endpoint that is off answers
SALTED_SINCE = (0, 9)  # vLLM: the release that repaired CVE-2025-46570
PROBE_WORDS = 64  # some 400 tokens: several blocks of any engine's cache
TOKENS_PER_WORD = 16  # more than eight hexadecimal digits ever take
PROBE_TOKENS = 1

_PLAINTEXT = "prompts of others could be read or kept past the node"


def engine_settings(settings: Settings) -> list[Check]:
    """Return every check of the engine the settings name, for ``audit``: it dials by itself. Raises StartFailure."""
    return [listener(settings), *asyncio.run(_alone(settings, direct(settings)))]


async def _alone(settings: Settings, dial: Dial) -> list[Check]:
    kind = KINDS[settings.engine_kind]
    await wait_ready(kind, dial, patience_s=POLL_S)
    return await checks(settings, dial, await served(settings, dial))


async def checks(settings: Settings, dial: Dial, model: Served) -> list[Check]:
    """Ask a ready engine for its settings. Raises StartFailure when it stops answering meanwhile."""
    look = _Look(settings.engine_kind, dial, model)
    try:
        return [check for found in _LOOKS[settings.engine_kind] for check in await found(look)]
    except EngineFailure:
        raise StartFailure("the engine stopped answering while its settings were looked at") from None


def refuse_unsafe(found: list[Check], settings: Settings) -> None:
    """Refuse an engine with a setting that does not hold. Raises StartFailure that names the first of them."""
    failed = [check for check in found if check.held is False]
    if failed and settings.protect != "available":
        check = failed[0]
        raise StartFailure(f"{check.name}: wanted {check.want}, found {check.got}: {check.consequence}")


class _Look:
    """One engine, asked."""

    def __init__(self, kind: str, dial: Dial, model: Served) -> None:
        self.kind = kind
        self._dial = dial
        self.engine = OpenAIEngine(KINDS[kind], model, dial)
        self.model = model

    async def get(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status, and the object it answers with; empty for anything else."""
        status, value = await fetch(self._dial, Ask(path=path), Patience())
        return status, value if isinstance(value, dict) else {}

    async def closed(self, name: str, path: str, *, post: bool = False) -> Check:
        """Check that an endpoint is off."""
        status, _ = await fetch(self._dial, Ask(path=path, body={} if post else None), Patience())
        return Check(name=name, held=status in CLOSED, want="off", got=f"{path}: {status}", consequence=_PLAINTEXT)

    async def cached(self, text: str, more: dict[str, Any]) -> int:
        """Ask one question and return how much of it came from the engine's cache."""
        request = GenerateRequest(
            messages=(Message(role=Role.USER, content=text),), sampling=Sampling(max_tokens=PROBE_TOKENS)
        )
        body = {**self.engine.body(request, PROBE_TOKENS, ""), **more}
        return (await self.engine.usage(body, PROBE_TOKENS)).cached_input


async def _is_vllm(look: _Look) -> list[Check]:
    _, value = await look.get("/version")
    version = str(value.get("version", ""))
    known = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    check = Check(
        name="engine.kind",
        held=known >= SALTED_SINCE,
        want="vLLM 0.9 or newer",
        got=_shown(version) or "no /version",
        consequence="older ones take no cache_salt: one caller's waiting time tells what another has asked",
    )
    return [
        check,
        await look.closed("engine.development", "/server_info"),
        _unseen("engine.request_log", "vLLM started without --enable-log-requests"),
        _unseen("engine.statistics", "VLLM_NO_USAGE_STATS=1"),
    ]


async def _is_sglang(look: _Look) -> list[Check]:
    status, info = await look.get("/server_info")
    if status != OK:
        status, info = await look.get("/get_server_info")
    kind = _kind(look, status == OK and "disable_radix_cache" in info, "SGLang")
    logs = info.get("log_requests")
    quiet = Check(
        name="engine.request_log",
        held=logs is False,
        want="--log-requests not given",
        got=f"log_requests: {_shown(str(logs))}",
        consequence="the engine would write prompts into its log",
    )
    if info.get("disable_radix_cache") is True:
        return [kind, quiet, _cache(held=True, got="--disable-radix-cache")]
    probed = await _prefix(look)
    return [kind, quiet, *(_cache(held=False, got=check.got) if check.held is None else check for check in probed)]


async def _is_llama_cpp(look: _Look) -> list[Check]:
    status, props = await look.get("/props")
    return [
        _kind(look, status == OK and "default_generation_settings" in props, "llama-server"),
        await look.closed("engine.slots", "/slots"),
        await look.closed("engine.slot_files", "/slots/0?action=none", post=True),
        await look.closed("engine.metrics", "/metrics"),
        await look.closed("engine.properties", "/props", post=True),
        await look.closed("engine.tools", "/tools"),
        await look.closed("engine.proxy", "/cors-proxy"),
        _unseen("engine.request_log", "--log-disable"),
        _unseen("engine.kept_prompts", "--cache-ram 0"),
    ]


async def _is_llama_cpp_python(look: _Look) -> list[Check]:
    status, _ = await fetch(look._dial, Ask(path="/extras/tokenize/count", body={"input": "a"}), Patience())  # noqa: SLF001
    shared = "it reuses what the last request left, and has no switch"
    return [_kind(look, status == OK, "llama-cpp-python's server"), _cache(held=False, got=shared)]


async def _is_ollama(look: _Look) -> list[Check]:
    status, value = await look.get("/api/version")
    shared = "it reuses what an earlier request left, and has no switch; nothing else can be looked at"
    return [_kind(look, status == OK and "version" in value, "Ollama"), _cache(held=False, got=shared)]


async def _prefix(look: _Look) -> list[Check]:
    """Ask the same long question under two names: the same name must hit, where counters are shown; none other may."""
    text = " ".join(secrets.token_hex(4) for _ in range(min(PROBE_WORDS, look.model.context // TOKENS_PER_WORD)))
    name = {"cache_salt": secrets.token_hex(32)} if KINDS[look.kind].salted else {"cache_prompt": True}
    await look.cached(text, name)
    control = await look.cached(text, name)
    others = [await look.cached(text, {}) for _ in range(2)]
    if any(others):
        got = f"{max(others)} tokens of one request's context were used for another's"
        return [_cache(held=False, got=got)]
    if not control:
        return [_cache(held=None, got="no request hits, or no hits are shown")]
    return [_cache(held=True, got=f"{control} tokens hit under the same name, none under another")]


def _cache(*, held: bool | None, got: str) -> Check:
    return Check(
        name="engine.prefix_cache",
        held=held,
        want="nothing shared between requests",
        got=got,
        consequence="one caller's waiting time tells what another has asked",
    )


def _unseen(name: str, want: str) -> Check:
    """Name what an operator has to see to: the engine tells nobody."""
    return Check(name=name, held=None, want=want, got="the engine does not tell", consequence=_PLAINTEXT)


def _kind(look: _Look, held: bool, name: str) -> Check:
    return Check(
        name="engine.kind",
        held=held,
        want=name,
        got=name if held else f"something that answers differently; engine.kind is {look.kind}",
        consequence="what this node knows about its settings does not hold",
    )


def _shown(text: str) -> str:
    """Cut what an engine says of itself to what may stand in a sentence."""
    return "".join(c for c in text[:32] if c.isascii() and (c.isalnum() or c in ".-+_"))


_LOOKS: dict[str, tuple[Callable[[_Look], Awaitable[list[Check]]], ...]] = {
    "vllm": (_is_vllm, _prefix),
    "sglang": (_is_sglang,),
    "llama.cpp": (_is_llama_cpp, _prefix),
    "llama-cpp-python": (_is_llama_cpp_python,),
    "ollama": (_is_ollama,),
}
