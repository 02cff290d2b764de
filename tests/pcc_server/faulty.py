"""Stands in for the interpreter of a node's worker: a test build that fails on request and hands over its keys.

``faulty.py HOW -P -s -B -m pcc_server.worker …``; HOW is any of ``faults``, ``keys`` and ``words``, with commas.
With ``faults`` a request's ``max_tokens`` says what is to fail (``FAULTS``). With ``keys`` every epoch key is said on
stderr, in hex. With ``words`` the tokenizer goes on keeping the words it has seen.
"""

import runpy
import sys
from collections.abc import Callable
from typing import Any

FAULTS = {"processor 1": 41, "processor 4": 42, "sampler": 43, "step": 44, "frame": 45}
KEY = "KEY "


def fail_on_request() -> None:
    """Raise in the middle of a request, with its own content in the error: the worst an engine can do."""
    from device import engine, prompt, sampling

    choose, whole_step, make, frame = (
        sampling.Chooser._choose,
        sampling.Chooser.__call__,
        sampling.processors,
        prompt.Framer.ids,
    )

    def raising_choose(self: Any, scores: Any) -> Any:
        if self._sampling.max_tokens == FAULTS["sampler"] and self._position == 2:
            raise ValueError(f"scores {scores.tolist()[0][:100]}")
        return choose(self, scores)

    def raising_step(self: Any, scores: Any) -> Any:
        if self._sampling.max_tokens == FAULTS["step"] and self._position == 2:
            raise ValueError(f"scores {scores.tolist()[0][:100]}")
        return whole_step(self, scores)

    def raising_processors(asked: Any) -> list[Any]:
        wanted = {FAULTS["processor 1"]: 1, FAULTS["processor 4"]: 4}.get(asked.max_tokens)
        return [*make(asked), sampling.Guarded(_raising_at(wanted))] if wanted else make(asked)

    def raising_frame(self: Any, request: Any) -> Any:
        if request.sampling.max_tokens == FAULTS["frame"]:
            raise RuntimeError(request.messages[-1].content)
        return frame(self, request)

    sampling.Chooser._choose, sampling.Chooser.__call__ = raising_choose, raising_step  # type: ignore[method-assign]
    engine.processors, prompt.Framer.ids = raising_processors, raising_frame  # type: ignore[attr-defined, method-assign]


def _raising_at(step: int) -> Callable[[Any, Any], Any]:
    calls = 0

    def process(tokens: Any, scores: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls >= step:
            raise ValueError(f"ids {tokens.tolist()}")
        return scores

    return process


def hand_over_keys() -> None:
    from hybrid.wire import keys

    make = keys.EpochKey.__init__

    def telling(self: Any, mlkem: Any, x25519: Any, **named: Any) -> None:
        make(self, mlkem, x25519, **named)
        words = (self.config.key_id, x25519.private_bytes_raw(), mlkem.private_bytes_raw())
        sys.stderr.write(KEY + " ".join(word.hex() for word in words) + "\n")

    keys.EpochKey.__init__ = telling  # type: ignore[method-assign]


def keep_words() -> None:
    from device import loader

    loader.keep_no_words = lambda _tokenizer: None


BUILDS = {"faults": fail_on_request, "keys": hand_over_keys, "words": keep_words}

if __name__ == "__main__":
    how, *words = sys.argv[1:]
    module = words[words.index("-m") + 1]
    sys.argv = words[words.index("-m") + 1 :]
    if module.endswith("worker"):
        for name in how.split(","):
            BUILDS[name]()
    runpy.run_module(module, run_name="__main__", alter_sys=True)
