"""An engine of others, scripted: ``scripted_engine.py KIND [--flag …]`` prints its port and then what it is asked.

It speaks raw HTTP/1.1, so that it can do everything wrong. A prompt that holds ``fault:NAME`` is answered with that
misbehaviour; every other one with numbered words. It keeps context by ``cache_salt`` as vLLM does, in whole words, and
takes ``--word-s`` seconds to read a word that is not kept.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

MODEL = "scripted/model-1"
CONTEXT = 4096
WORDS = 20
SSE = "text/event-stream; charset=utf-8"
Writer = asyncio.StreamWriter


def event(value: Any) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value)
    return f"data: {text}\n\n".encode()


def delta(text: Any = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None, **more}
    return event({"id": "x", "object": "chat.completion.chunk", "choices": [choice]})


def usage(**more: Any) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, **more}})


FINISH = delta(finish_reason="stop")
DONE = event("[DONE]")
GOOD = delta("one ") + delta("two")


class Engine:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.kind: str = arguments.kind
        self.on = frozenset(arguments.on)
        self.delay_s: float = arguments.delay_s
        self.word_s: float = arguments.word_s
        self.kept: dict[str, list[list[str]]] = {}

    def say(self, **what: Any) -> None:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()

    # --- HTTP --------------------------------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split(" ", 2)
            sizes = [line.split(":")[1] for line in head.split("\r\n") if line.lower().startswith("content-length")]
            body = json.loads(await reader.readexactly(int(sizes[0]))) if sizes else None
            await self.route(method, target, body, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.say(cancelled=True)
        finally:
            writer.close()

    async def route(self, method: str, target: str, body: Any, reader: asyncio.StreamReader, writer: Writer) -> None:
        self.say(path=target)
        if target == "/v1/chat/completions":
            await self.chat(body, reader, writer)
            return
        status, value = self.small(method, target, body)
        data = json.dumps(value).encode()
        writer.write(head_of(status, "application/json", f"Content-Length: {len(data)}") + data)
        await writer.drain()

    def small(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        text = json.dumps(body.get("messages", "")) if isinstance(body, dict) else ""
        if "fault:count" in text:
            return 200, {"count": 10**30 if "huge" in text else -1, "prompt": 7, "tokens": None}
        answers: dict[str, Callable[[], Any]] = {
            "/health": dict,
            "/v1/models": self.models,
            "/version": lambda: {"version": "0.8.5" if "old" in self.on else "0.11.0"},
            "/api/version": lambda: {"version": "0.12.0"},
            "/server_info": self.server_info,
            "/props": lambda: {"default_generation_settings": {"n_ctx": CONTEXT}},
            "/tokenize": lambda: {"count": self.count(body), "tokens": [1] * self.count(body)},
            "/apply-template": lambda: {"prompt": " ".join(m["content"] for m in body["messages"])},
            "/extras/tokenize/count": lambda: {"count": len(body["input"].split())},
        }
        mine = (
            {
                "vllm": {"/version", "/tokenize"},
                "sglang": {"/server_info"},
                "llama.cpp": {"/props", "/tokenize", "/apply-template"},
                "llama-cpp-python": {"/extras/tokenize/count"},
                "ollama": {"/api/version"},
            }[self.kind]
            | {"/health", "/v1/models"}
            | self.on
        )
        if target == "/props" and method == "POST" and "/props-post" not in self.on:
            return 501, {}
        if target in self.on and target not in answers:
            return 200, {}
        return (200, answers[target]()) if target in mine and target in answers else (404, {})

    def models(self) -> dict[str, Any]:
        rows = [{"id": MODEL, "max_model_len": CONTEXT}]
        return {"data": rows + ([{"id": "another"}] if "two-models" in self.on else [])}

    def server_info(self) -> dict[str, Any]:
        return {"disable_radix_cache": "radix-off" in self.on, "log_requests": "logs" in self.on}

    @staticmethod
    def count(body: dict[str, Any]) -> int:
        text = body.get("content") or " ".join(message["content"] for message in body["messages"])
        return len(text.split())

    # --- answers -----------------------------------------------------------------------------------

    async def chat(self, body: Any, reader: asyncio.StreamReader, writer: Writer) -> None:
        prompt = " ".join(message["content"] for message in body["messages"])
        self.say(asked={key: value for key, value in body.items() if key != "messages"}, words=len(prompt.split()))
        if "fault:" in prompt:
            fault = prompt.partition("fault:")[2].split()[0]
            await FAULTS[fault](Chat(writer, prompt))
            return
        gone = asyncio.ensure_future(reader.read(1))  # an end of file: nobody wants the answer any more
        work = asyncio.ensure_future(self.answer(body, prompt.split(), writer))
        await asyncio.wait([gone, work], return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            self.say(cancelled=True)
        gone.cancel()

    async def answer(self, body: Any, words: list[str], writer: Writer) -> None:
        cached = self.look_up(body, words)
        await asyncio.sleep(self.word_s * (len(words) - cached))
        out = Chat(writer, "")
        await out.start()
        given = min(WORDS if "long" not in words else 4000, body["max_tokens"])
        await out.send(delta(None, delta={"role": "assistant", "content": ""}))
        await out.send(delta(None, delta={"reasoning_content": "secret thoughts"}))
        for number in range(given):
            await asyncio.sleep(self.delay_s)
            await out.send(delta(f"word{number} "))
        await out.send(delta(finish_reason="length" if given == body["max_tokens"] else "stop"))
        counts: dict[str, Any] = {"prompt_tokens": len(words), "completion_tokens": given}
        if "no-counters" not in self.on:
            counts["prompt_tokens_details"] = {"cached_tokens": cached}
        if self.kind != "llama-cpp-python":
            await out.send(event({"choices": [], "usage": counts}))
        await out.send(DONE)
        await out.end()

    def look_up(self, body: Any, words: list[str]) -> int:
        """How many words are kept under the request's salt; keeps them all."""
        if "cache-off" in self.on or (body.get("cache_prompt") is False and "ignores-cache_prompt" not in self.on):
            return 0
        salt = "" if "ignores-salts" in self.on else body.get("cache_salt", "")
        kept = self.kept.setdefault(salt, [])
        best = max((common(words, other) for other in kept), default=0)
        kept.append(words)
        return best


def common(one: list[str], other: list[str]) -> int:
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def head_of(status: int, kind: str, *more: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status} X", f"Content-Type: {kind}", *more, "Connection: close", "", "")).encode()


class Chat:
    """One streamed reply."""

    def __init__(self, writer: Writer, prompt: str) -> None:
        self.writer = writer
        self.prompt = prompt

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def start(self, status: int = 200, kind: str = SSE, *more: str) -> None:
        await self.raw(head_of(status, kind, "Transfer-Encoding: chunked", *more))

    async def send(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")


Fault = Callable[[Chat], Awaitable[None]]
FAULTS: dict[str, Fault] = {}


def streamed(*pieces: bytes, status: int = 200, kind: str = SSE, more: tuple[str, ...] = ()) -> Fault:
    """A whole, well-framed reply with this body. ``PROMPT`` in it becomes the prompt."""

    async def run(chat: Chat) -> None:
        await chat.start(status, kind, *more)
        for piece in pieces:
            await chat.send(piece.replace(b"PROMPT", chat.prompt.encode()))
        await chat.end()

    return run


def plain(head: bytes, body: bytes = b"") -> Fault:
    async def run(chat: Chat) -> None:
        await chat.raw(head + body.replace(b"PROMPT", chat.prompt.encode()))

    return run


async def _never_ends(chat: Chat) -> None:
    await chat.start()
    while True:
        await chat.send(delta("on and "))


async def _empty_for_ever(chat: Chat) -> None:
    await chat.start()
    while True:
        await chat.send(delta(""))


async def _comments_for_ever(chat: Chat) -> None:
    await chat.start()
    while True:
        await chat.send(b": still here\n\n")
        await asyncio.sleep(0.01)


async def _silence(_: Chat) -> None:
    await asyncio.sleep(60)


async def _slow(chat: Chat) -> None:
    for byte in head_of(200, SSE, "Transfer-Encoding: chunked") + b"fff\r\n" + GOOD:
        await chat.raw(bytes((byte,)))
        await asyncio.sleep(0.05)


async def _stalls(chat: Chat) -> None:
    await chat.start()
    await chat.send(GOOD)
    await asyncio.sleep(60)


async def _header_flood(chat: Chat) -> None:
    await chat.raw(b"HTTP/1.1 200 OK\r\n")
    while True:
        await chat.raw(b"X-Prompt: " + chat.prompt.encode() + b"\r\n")


async def _informational_flood(chat: Chat) -> None:
    while True:
        await chat.raw(b"HTTP/1.1 103 Early Hints\r\n\r\n")


async def _reset(chat: Chat) -> None:
    await chat.start()
    await chat.send(GOOD)
    chat.writer.transport.abort()


FAULTS.update(
    truncated_chunk=plain(head_of(200, SSE, "Transfer-Encoding: chunked"), b"ffff\r\n" + GOOD),
    bad_chunk_size=plain(head_of(200, SSE, "Transfer-Encoding: chunked"), b"zz\r\n" + GOOD),
    early_close=plain(head_of(200, SSE), GOOD),
    reset=_reset,
    no_done=streamed(GOOD, FINISH, usage()),
    no_finish=streamed(GOOD, usage(), DONE),
    no_usage=streamed(GOOD, FINISH, DONE),
    empty=streamed(),
    only_done=streamed(DONE),
    half_event=streamed(GOOD, FINISH, usage(), b"data: [DONE]\n"),
    giant_line=streamed(b"data: " + b"PROMPT" + b"x" * 1_000_000 + b"\n\n"),
    many_lines=streamed(b"data: x\n" * 10_000),
    giant_text=streamed(delta("x" * 20_000), FINISH, usage(), DONE),
    never_ends=_never_ends,
    empty_for_ever=_empty_for_ever,
    not_json=streamed(event("PROMPT"), DONE),
    json_array=streamed(event([1, 2]), DONE),
    deep_json=streamed(b"data: " + b"[" * 100_000 + b"\n\n"),
    huge_number=streamed(b'data: {"choices": [], "x": ' + b"9" * 20_000 + b"}\n\n"),
    nan=streamed(event('{"choices": [], "usage": {"prompt_tokens": NaN}}'), FINISH, DONE),
    choices_object=streamed(event({"choices": {"0": 1}}), DONE),
    two_choices=streamed(event({"choices": [{"delta": {}}, {"delta": {}}]}), DONE),
    other_index=streamed(event({"choices": [{"index": 3, "delta": {"content": "x"}}]}), DONE),
    delta_string=streamed(event({"choices": [{"delta": "PROMPT"}]}), DONE),
    text_number=streamed(delta(7), FINISH, usage(), DONE),
    text_list=streamed(delta([{"type": "text", "text": "PROMPT"}]), FINISH, usage(), DONE),
    half_pair=streamed(b'data: {"choices": [{"delta": {"content": "\\ud800"}}]}\n\n', FINISH, usage(), DONE),
    not_utf8=streamed(b'data: {"choices": [{"delta": {"content": "\xff\xfe"}}]}\n\n', FINISH, usage(), DONE),
    usage_negative=streamed(GOOD, FINISH, usage(prompt_tokens=-5), DONE),
    usage_fraction=streamed(GOOD, FINISH, usage(prompt_tokens=1.5), DONE),
    usage_true=streamed(GOOD, FINISH, usage(completion_tokens=True), DONE),
    usage_words=streamed(GOOD, FINISH, usage(completion_tokens="PROMPT"), DONE),
    usage_huge=streamed(GOOD, FINISH, usage(prompt_tokens=2**63), DONE),
    usage_too_many=streamed(GOOD, FINISH, usage(completion_tokens=1_000_000), DONE),
    cached_above=streamed(GOOD, FINISH, usage(prompt_tokens_details={"cached_tokens": 99}), DONE),
    text_after_end=streamed(GOOD, FINISH, delta("PROMPT"), usage(), DONE),
    abort=streamed(GOOD, delta(finish_reason="abort"), usage(), DONE),
    finish_number=streamed(GOOD, delta(finish_reason=1), usage(), DONE),
    tools=streamed(delta(None, delta={"tool_calls": [{"function": {"name": "PROMPT"}}]}), DONE),
    error_event=streamed(b"event: error\ndata: PROMPT\n\n"),
    error_field=streamed(b"error: PROMPT\n\n"),
    error_data=streamed(event({"error": {"message": "PROMPT", "code": 500}}), DONE),
    error_busy=streamed(GOOD, event({"error": {"message": "PROMPT", "code": 503}}), DONE),
    html=streamed(b"<p>PROMPT</p>", kind="text/html"),
    whole_json=streamed(b'{"choices": [{"message": {"content": "PROMPT"}}]}', kind="application/json"),
    gzip=streamed(GOOD, FINISH, usage(), DONE, more=("Content-Encoding: gzip",)),
    redirect=streamed(b"PROMPT", status=302, more=("Location: http://127.0.0.1:1/PROMPT",)),
    no_content=plain(head_of(204, SSE)),
    http_400=streamed(b'{"message": "PROMPT"}', status=400, kind="application/json"),
    http_404=streamed(b"PROMPT", status=404),
    http_429=streamed(b"PROMPT", status=429, more=("Retry-After: PROMPT",)),
    http_500=streamed(b"PROMPT", status=500),
    http_503=streamed(b"PROMPT", status=503),
    http_999=plain(b"HTTP/1.1 999 PROMPT\r\n\r\n"),
    not_http=plain(b"", b"PROMPT PROMPT\r\n\r\n"),
    http2=plain(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    header_flood=_header_flood,
    giant_header=plain(b"HTTP/1.1 200 OK\r\nX: ", b"PROMPT" + b"x" * 500_000),
    split_header=plain(b"HTTP/1.1 200 OK\r\nX: a\r\n\x00bad\r\n: \r\n\r\n"),
    informational_flood=_informational_flood,
    two_lengths=plain(head_of(200, SSE, "Content-Length: 5", "Content-Length: 9"), GOOD),
    length_above=plain(head_of(200, SSE, "Content-Length: 999999"), GOOD + FINISH),
    length_below=plain(head_of(200, SSE, f"Content-Length: {len(GOOD)}"), GOOD + FINISH + usage() + DONE),
    silence=_silence,
    slow=_slow,
    stalls=_stalls,
    comments_for_ever=_comments_for_ever,
)
WAITING = ("silence", "slow", "stalls", "comments_for_ever")  # these end by patience alone


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--uds", default="")
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--word-s", type=float, default=0.0)
    parser.add_argument("on", nargs="*", default=[])
    arguments = parser.parse_args()
    engine = Engine(arguments)
    if arguments.uds:
        server = await asyncio.start_unix_server(engine.serve, arguments.uds)
        engine.say(port=0)
    else:
        server = await asyncio.start_server(engine.serve, arguments.host, 0)
        engine.say(port=server.sockets[0].getsockname()[1])
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
