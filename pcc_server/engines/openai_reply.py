"""One event of a streamed chat reply, read strictly. Whatever does not fit is the engine's failure, without its words.

Reasoning fields are left out: they are no part of the answer. Tool calls fail: no request of ours offers tools.
"""

from dataclasses import dataclass, field
from typing import Any

from hybrid.wire.types import FinishReason, Usage

from .http import EngineFailure, read_json

MAX_TEXT_CHARS = 8_192  # of one event; three bytes of UTF-8 each stay well below one sealed message
MAX_COUNT = 2**31 - 1
_STATUSES = range(400, 600)
_FINISHED = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one event says."""

    text: str = field(default="", repr=False)
    finish: FinishReason | None = None
    usage: Usage | None = None


def read_delta(data: str) -> Delta:
    """Read one event. Raises EngineFailure with the status an engine names in place of an answer."""
    event = _dict(read_json(data))
    if event.get("error") is not None:
        raise EngineFailure(_status(event["error"]))
    choices = event.get("choices", [])
    if not isinstance(choices, list) or len(choices) > 1:
        raise EngineFailure
    usage = read_usage(event["usage"]) if event.get("usage") is not None else None
    if not choices:
        return Delta(usage=usage)
    choice = _dict(choices[0])
    if choice.get("index", 0) != 0:
        raise EngineFailure
    return Delta(text=_text(_dict(choice.get("delta") or {})), finish=_finish(choice.get("finish_reason")), usage=usage)


def read_usage(value: Any) -> Usage:
    """Read token counts. Raises EngineFailure for counts that cannot be."""
    usage = _dict(value)
    details = _dict(usage.get("prompt_tokens_details") or {})
    prompt, cached = _count(usage.get("prompt_tokens", 0)), _count(details.get("cached_tokens") or 0)
    if cached > prompt:
        raise EngineFailure
    return Usage(input=prompt, cached_input=cached, output=_count(usage.get("completion_tokens", 0)))


def _text(delta: dict[str, Any]) -> str:
    text = delta.get("content")
    if delta.get("tool_calls") or delta.get("function_call"):
        raise EngineFailure
    if text is None:
        return ""
    if not isinstance(text, str) or len(text) > MAX_TEXT_CHARS:
        raise EngineFailure
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        raise EngineFailure from None
    return text


def _finish(reason: Any) -> FinishReason | None:
    if reason is None:
        return None
    if not isinstance(reason, str) or reason not in _FINISHED:  # "abort" among them: the answer is not whole
        raise EngineFailure
    return _FINISHED[reason]


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise EngineFailure
    return value


def _status(error: Any) -> int:
    code = error.get("code") if isinstance(error, dict) else None
    return code if type(code) is int and code in _STATUSES else 0


def _dict(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EngineFailure
    return value
