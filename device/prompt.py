"""Messages to token ids through the model's own chat template; pure, given a tokenizer.

Dates and the default system text are fixed here, not left to the template: both would change token counts and
spoil the reuse of cached context from one turn to the next.
"""

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from hybrid.wire.types import GenerateRequest, Message, Role

from .errors import BadRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Framer:
    """Frames requests for one model. Callable from any thread; encoding holds a lock, since tokenizers are not.

    default_system: put first where a conversation brings no system text of its own; empty for none.
    today: the date a template may show, the same for every turn.
    """

    tokenizer: Any = field(repr=False)
    vocabulary: int
    today: date
    default_system: str = field(default="", repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def ids(self, request: GenerateRequest) -> list[int]:
        """Return the framed prompt, ending where the answer begins.

        Raises BadRequest when the template refuses the roles or an id lies outside the vocabulary.
        """
        with self._lock:
            text = self._render(self._with_system(request.messages))
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        if not ids:
            raise BadRequest("the framed prompt is empty")
        if min(ids) < 0 or max(ids) >= self.vocabulary:
            raise BadRequest("the prompt holds a token the model does not know")
        return ids

    def _with_system(self, messages: Sequence[Message]) -> list[dict[str, str]]:
        plain = [{"role": str(message.role), "content": message.content} for message in messages]
        if self.default_system and messages[0].role is not Role.SYSTEM:
            plain.insert(0, {"role": str(Role.SYSTEM), "content": self.default_system})
        return plain

    def _render(self, messages: list[dict[str, str]]) -> str:
        if not self.tokenizer.has_chat_template:
            return "\n".join(message["content"] for message in messages)
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,  # reasoning text has no field of its own yet
                date_string=self.today.strftime("%d %b %Y"),
                strftime_now=self.today.strftime,
            )
        except Exception:  # noqa: BLE001 - a template is a program of the model's maker and may raise anything
            raise BadRequest("the model's chat template refuses these messages") from None
        return text


class Counted:
    """Framed prompts of requests whose tokens were counted: each is kept until it is answered, or its request is gone.

    Looked up by the very object: another's request may read alike, and then shares nothing, not even time.
    """

    def __init__(self) -> None:
        self._kept: dict[int, tuple[weakref.ref[GenerateRequest], list[int]]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, request: GenerateRequest, ids: list[int]) -> None:
        """Remember what a request was framed to."""
        kept, key = self._kept, id(request)
        kept[key] = (weakref.ref(request, lambda _: kept.pop(key, None)), ids)

    def take(self, request: GenerateRequest) -> list[int] | None:
        """Hand over what is remembered of a request, and forget it."""
        _, ids = self._kept.pop(id(request), (None, None))
        return ids
