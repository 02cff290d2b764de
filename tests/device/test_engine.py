import asyncio
import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device.engine import MLXEngine
from device.errors import BadRequest, ContextOverflow, EngineClosed
from device.options import EngineOptions
from hybrid.wire.types import Chunk, Engine, FinishReason, GenerateRequest

from .conftest import SYSTEM
from .support import PROMPTS, Reference, ask, ask_all, collect, request

pytestmark = pytest.mark.mlx


@pytest.fixture(scope="module")
def reference(tiny: Path) -> Reference:
    return Reference(tiny)


def test_greedy_answers_equal_a_plain_loop_over_the_model(engine: MLXEngine, reference: Reference) -> None:
    for prompt in PROMPTS:
        ids = engine._framer.ids(request(prompt))
        assert ask(engine, prompt, partition=prompt).text == reference.text(reference.tokens(ids, 24))


def test_a_reference_one_position_off_is_noticed(engine: MLXEngine, reference: Reference) -> None:
    ids = engine._framer.ids(request(PROMPTS[0]))
    assert ask(engine, PROMPTS[0]).text != reference.text(reference.tokens(ids[1:], 24))


def test_the_engine_is_what_the_wire_protocol_asks_for(engine: MLXEngine) -> None:
    as_protocol: Engine = engine
    assert as_protocol.model_id == "tiny"
    assert as_protocol.context_size == 4096


def test_a_batch_gives_the_same_text_as_each_request_alone(engine: MLXEngine) -> None:
    wanted = [request(prompt, max_tokens=12 + at) for at, prompt in enumerate(PROMPTS[:8])]
    alone = [ask_all(engine, [one])[0].text for one in wanted]
    assert [answer.text for answer in ask_all(engine, wanted)] == alone


def test_seeded_sampling_is_the_same_alone_and_in_a_batch(engine: MLXEngine) -> None:
    wanted = [request(p, seed=5, temperature=0.9, top_p=0.95, repetition_penalty=1.1) for p in PROMPTS[:4]]
    alone = [ask_all(engine, [one])[0].text for one in wanted]
    assert [answer.text for answer in ask_all(engine, wanted)] == alone


def test_another_seed_gives_another_answer(engine: MLXEngine) -> None:
    texts = {ask(engine, "seven", seed=seed, temperature=1.0).text for seed in range(4)}
    assert len(texts) == 4


def test_a_drawn_seed_is_reported_and_repeats_the_answer(engine: MLXEngine) -> None:
    first = ask(engine, "seven", temperature=1.0)
    assert first.last.params is not None
    again = ask(engine, "seven", temperature=1.0, seed=first.last.params["seed"])
    assert again.text == first.text


def test_chunk_counts_add_up_to_the_usage_of_the_last_chunk(engine: MLXEngine) -> None:
    answer = ask(engine, "quick fox")
    assert answer.last.usage is not None
    assert sum(chunk.tokens for chunk in answer.chunks) == answer.last.usage.output == 24
    assert [chunk.finish_reason for chunk in answer.chunks[:-1]] == [None] * (len(answer.chunks) - 1)


def test_the_last_chunk_accounts_for_the_reply(engine: MLXEngine) -> None:
    answer = ask(engine, "quick fox", stop=("zzz",))
    last = answer.last
    assert last.finish_reason is FinishReason.LENGTH
    assert last.usage is not None
    assert last.usage.input == len(engine._framer.ids(request("quick fox")))
    assert last.timing is not None
    assert min(last.timing.prefill_s, last.timing.decode_s, last.timing.decode_tps) > 0
    assert last.params == {
        "max_tokens": 24,
        "temperature": "0.0",
        "top_p": "1.0",
        "repetition_penalty": "1.0",
        "stop": '["zzz"]',
    }


def test_signals_are_those_of_the_plain_model(engine: MLXEngine, reference: Reference) -> None:
    import math

    answer = ask(engine, "quick fox", temperature=1.3, seed=1, max_tokens=1)
    ids = engine._framer.ids(request("quick fox"))
    scores = reference.model(reference.core.array([ids]))[0, -1].tolist()
    top, total = sorted(scores, reverse=True), sum(math.exp(score) for score in scores)
    shares = [math.exp(score) / total for score in scores]
    signals = answer.last.signals
    assert signals is not None
    assert signals.margin_first == pytest.approx(top[0] - top[1], abs=1e-4)
    assert signals.entropy_first == pytest.approx(-sum(share * math.log(share) for share in shares), abs=1e-4)
    assert min(abs(signals.lp_first - math.log(share)) for share in shares) < 1e-4  # type: ignore[operator]


def test_signals_are_the_model_s_own_also_where_a_penalty_changes_its_scores(
    engine: MLXEngine, reference: Reference
) -> None:
    ids = engine._framer.ids(request("quick fox"))
    answer = ask(engine, "quick fox", repetition_penalty=1.8, max_tokens=24)
    written, lps = [], []
    core, penalty = reference.core, _penalty(1.8)
    for _ in range(24):
        scores = reference.model(core.array([ids + written]))[:, -1, :]
        own, changed = _normal(core, scores), _normal(core, penalty(core.array(ids + written), scores))
        token = int(core.argmax(changed, axis=-1).item())
        lps.append((float(own[0, token].item()), float(changed[0, token].item())))
        written.append(token)
    signals = answer.last.signals
    assert signals is not None
    assert answer.text == reference.text(written)
    assert signals.lp_first == pytest.approx(lps[0][0], abs=1e-3)
    assert signals.lp_min == pytest.approx(min(own for own, _ in lps), abs=1e-3)
    assert abs(min(own for own, _ in lps) - min(changed for _, changed in lps)) > 0.01  # or it would prove nothing


def _normal(core: Any, scores: Any) -> Any:
    return scores - core.logsumexp(scores, axis=-1, keepdims=True)


def _penalty(by: float) -> Callable[[Any, Any], Any]:
    from mlx_lm.sample_utils import make_repetition_penalty

    made: Callable[[Any, Any], Any] = make_repetition_penalty(by, 20)
    return made


@pytest.mark.parametrize("length", [1, 3, 31, 32, 40])
def test_signals_come_early_enough_for_a_look_at_the_start(engine: MLXEngine, length: int) -> None:
    async def chunks() -> list[Chunk]:
        return [chunk async for chunk in engine.generate(request("quick fox", max_tokens=length))]

    known = [chunk.signals for chunk in asyncio.run(chunks()) if chunk.signals]
    assert known[-1].lp_min is not None
    assert known[0].margin_first == known[-1].margin_first
    assert known[0].entropy_first is not None
    if length > 32:
        assert len(known) > 1  # not at the end alone


def test_a_stop_string_ends_the_answer_and_is_not_shown(engine: MLXEngine) -> None:
    whole = ask(engine, "quick fox").text
    stop = whole[6:9]
    answer = ask(engine, "quick fox", stop=(stop,))
    assert answer.text == whole[: whole.index(stop)]
    assert answer.last.finish_reason is FinishReason.STOP
    assert engine.status().running == 0


def test_the_end_token_ends_the_answer_and_is_not_counted(
    make_tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from device import loader

    folder = make_tiny()
    third = Reference(folder)
    opened = MLXEngine.open(folder, model_id="tiny")
    ids = opened._framer.ids(request("lazy dog"))
    asyncio.run(opened.close())
    tokens = third.tokens(ids, 24)
    end = next(token for token in tokens[2:] if token not in tokens[:2])
    monkeypatch.setattr(loader, "_stop_ids", lambda *_: [end])
    opened = MLXEngine.open(folder, model_id="tiny")
    answer = ask(opened, "lazy dog")
    asyncio.run(opened.close())
    assert answer.last.finish_reason is FinishReason.STOP
    assert answer.last.usage is not None
    assert answer.last.usage.output == tokens.index(end)
    assert answer.text == third.text(tokens[: tokens.index(end)])


def test_a_second_turn_reuses_the_first_and_says_the_same_as_a_cold_one(engine: MLXEngine) -> None:
    first = ask(engine, "quick fox", partition="a").text
    warm = ask(engine, "quick fox", first, "and then", partition="a")
    cold = ask(engine, "quick fox", first, "and then", partition="b")
    assert warm.text == cold.text
    assert warm.last.usage is not None
    assert cold.last.usage is not None
    assert warm.last.usage.cached_input > 20
    assert cold.last.usage.cached_input == 0


def test_the_same_prompt_again_leaves_one_token_to_feed(engine: MLXEngine) -> None:
    first = ask(engine, "quick fox")
    again = ask(engine, "quick fox")
    assert again.text == first.text
    assert again.last.usage is not None
    assert again.last.usage.cached_input == again.last.usage.input - 1


def test_a_released_partition_is_forgotten(engine: MLXEngine) -> None:
    ask(engine, "quick fox", partition="a")
    engine.release("a")
    again = ask(engine, "quick fox", partition="a")
    assert again.last.usage is not None
    assert again.last.usage.cached_input == 0


def test_a_stateless_engine_keeps_nothing_and_sends_no_signals(tiny: Path) -> None:
    opened = MLXEngine.open(tiny, model_id="tiny", options=EngineOptions(stateless=True))
    answers = [ask(opened, "quick fox") for _ in range(2)]
    assert opened.status().cached_bytes == 0
    asyncio.run(opened.close())
    assert [a.last.usage.cached_input for a in answers if a.last.usage] == [0, 0]
    assert [a.last.signals for a in answers] == [None, None]


def test_a_stateless_engine_with_a_prefix_cache_keeps_for_named_partitions_until_they_are_old(tiny: Path) -> None:
    import time

    options = EngineOptions(stateless=True, prefix_cache=True, prefix_age_s=300)
    opened = MLXEngine.open(tiny, model_id="tiny", options=options)
    cached = [ask(opened, "quick fox", partition=name).last.usage for name in ("a", "a", "b", "", "")]
    assert [usage.cached_input > 0 for usage in cached if usage] == [False, True, False, False, False]
    assert opened.status().cached_bytes > 0
    opened._core._prefix._now = lambda: time.monotonic() + 301
    opened.release("somebody")  # any message: the thread then looks again when to wake up
    until = time.monotonic() + 20
    while opened.status().cached_bytes:
        assert time.monotonic() < until
        time.sleep(0.05)
    asyncio.run(opened.close())


def test_a_prompt_up_to_the_limit_is_answered_from_all_of_it(make_tiny: Callable[..., Path]) -> None:
    opened = MLXEngine.open(make_tiny(context_tokens=400), model_id="tiny")
    prompt = "head " + "x" * 300 + " middle " + "y" * 20 + " tail"
    ids = opened._framer.ids(request(prompt))
    answer = ask(opened, prompt, max_tokens=500)
    folder = opened._core._folder
    asyncio.run(opened.close())
    reference = Reference(folder)
    assert answer.text == reference.text(reference.tokens(ids, 400 - len(ids)))
    for cut in (ids[1:], ids[:100] + ids[110:], ids[:-1]):
        assert reference.tokens(cut, 24) != reference.tokens(ids, 24)
    assert answer.last.finish_reason is FinishReason.LENGTH
    assert answer.last.params is not None
    assert answer.last.params["max_tokens"] == 400 - len(ids)


def test_a_prompt_beyond_the_limit_is_refused_before_it_is_read(engine: MLXEngine) -> None:
    wanted = request("x y " * 3000)
    needed = asyncio.run(engine.count_tokens(wanted)) + 1
    with pytest.raises(ContextOverflow) as caught:
        asyncio.run(collect(engine, wanted))
    assert (caught.value.limit, caught.value.needed) == (4096, needed)
    assert engine.status().running == 0


def test_options_can_only_narrow_the_context(tiny: Path) -> None:
    opened = MLXEngine.open(tiny, model_id="tiny", options=EngineOptions(context_tokens=100_000))
    size = opened.context_size
    asyncio.run(opened.close())
    assert size == 4096
    with pytest.raises(BadRequest):
        MLXEngine.open(tiny, model_id="tiny", options=EngineOptions(context_tokens=0))


def test_the_default_system_text_is_framed_but_never_doubled(engine: MLXEngine) -> None:
    decode = engine._tokenizer.decode
    assert decode(engine._framer.ids(request("hello"))).count(SYSTEM) == 1


def test_progress_reaches_the_reader_while_a_long_prompt_is_read(engine: MLXEngine) -> None:
    answer = ask(engine, "x y " * 800, max_tokens=1)
    assert answer.last.usage is not None
    seen = [chunk.progress for chunk in answer.chunks if chunk.progress]
    assert seen
    assert [total for _, total in seen] == [answer.last.usage.input] * len(seen)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})


def test_a_closed_engine_says_so(tiny: Path) -> None:
    opened = MLXEngine.open(tiny, model_id="tiny")
    asyncio.run(opened.close())
    asyncio.run(opened.close())
    with pytest.raises(EngineClosed):
        ask(opened, "quick fox")
    assert opened.status().state == "closed"


def test_closing_ends_a_running_answer_with_an_error(tiny: Path) -> None:
    opened = MLXEngine.open(tiny, model_id="tiny")

    async def run() -> None:
        stream = opened.generate(request("quick fox", max_tokens=4000))
        await anext(stream)
        await opened.close()
        async for _ in stream:
            pass

    with pytest.raises(EngineClosed):
        asyncio.run(run())


@pytest.mark.linux
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_is_told_that_its_engine_is_gone(engine: MLXEngine) -> None:
    child = os.fork()
    if child == 0:
        try:
            engine._check_open()
        except EngineClosed:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_mlx_objects_are_refused_to_other_threads(engine: MLXEngine) -> None:
    with pytest.raises(RuntimeError, match="outside the engine's thread"):
        engine._core._guard.check()


def test_a_folder_that_is_not_as_listed_does_not_open(make_tiny: Callable[..., Path]) -> None:
    from device.errors import ModelDamaged

    folder = make_tiny()
    (folder / "extra.py").write_text("print('never')")
    with pytest.raises(ModelDamaged, match=r"extra\.py"):
        MLXEngine.open(folder, model_id="tiny")


def test_a_model_too_large_is_refused_before_its_weights_are_opened(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from device import loader
    from device.errors import DoesNotFit

    opened: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).endswith(".safetensors"):
            opened.append(str(arguments[0]))

    sys.addaudithook(watch)
    (tiny / "model.safetensors").open("rb").close()
    assert opened  # the hook sees what it is there to see
    opened.clear()
    monkeypatch.setattr(loader, "room_bytes", lambda **_: 100_000_000)
    with pytest.raises(DoesNotFit, match=r"= 0\.\d\d GB; limit 0\.09 GB \(85% of the 0\.10 free\)"):
        MLXEngine.open(tiny, model_id="tiny")
    assert opened == []


def test_packed_weights_answer_like_their_own_f32_copy(make_tiny: Callable[..., Path]) -> None:
    folder = make_tiny(bits=8)
    opened = MLXEngine.open(folder, model_id="tiny")
    status, answer = opened.status(), ask(opened, "quick fox")
    ids = opened._framer.ids(request("quick fox"))
    asyncio.run(opened.close())
    assert status.weights == ("f32" if status.path.startswith("cpu") else "packed")
    reference = Reference(folder)
    assert answer.text == reference.text(reference.tokens(ids, 24))


@pytest.mark.linux
def test_the_thread_ends_without_needing_python_again(tiny: Path) -> None:
    """A thread that wants the interpreter's lock after its last Python line aborts a process that is ending.

    Whether it gets the lock before us is a race it loses one time in three, hence the many rounds.
    """
    holding = ctypes.PyDLL(None)  # calls through it keep the interpreter's lock
    interval = sys.getswitchinterval()
    sys.setswitchinterval(100.0)  # nobody may even ask for the lock in between
    try:
        stuck = [_waits_for_python(tiny, holding) for _ in range(24)]
    finally:
        sys.setswitchinterval(interval)
    assert stuck == [False] * 24


def _waits_for_python(tiny: Path, holding: ctypes.PyDLL) -> bool:
    opened = MLXEngine.open(tiny, model_id="tiny")
    task = f"/proc/self/task/{opened._core._thread.native_id}".encode()
    opened._core.stop()
    for _ in range(100):
        if holding.access(task, 0) != 0:
            return False
        holding.usleep(5_000)
    return True


FRESH = """
import asyncio, sys
from pathlib import Path
from device.engine import MLXEngine
from hybrid.wire.types import GenerateRequest, Message, Role, Sampling
engine = MLXEngine.open(Path(sys.argv[1]), model_id="tiny")
message = Message(role=Role.USER, content="quick fox")
async def main():
    async for chunk in engine.generate(GenerateRequest(messages=(message,), sampling=Sampling(max_tokens=4000))):
        if chunk.tokens:
            return
asyncio.run(main())
"""


def test_a_fresh_process_answers_and_ends_cleanly_in_mid_answer(tiny: Path) -> None:
    command = [sys.executable, "-c", FRESH, str(tiny)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")


def test_a_prompt_that_was_counted_is_not_framed_again(engine: MLXEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    real, framed = engine._framer, []

    class Framer:
        def ids(self, wanted: GenerateRequest) -> list[int]:
            framed.append(wanted)
            return real.ids(wanted)

    monkeypatch.setattr(engine, "_framer", Framer())

    async def run(wanted: GenerateRequest, *, count: bool) -> str:
        if count:
            assert await engine.count_tokens(wanted) == len(real.ids(wanted))
        return (await collect(engine, wanted)).text

    said = {asyncio.run(run(request("seven"), count=count)) for count in (True, False)}
    assert len(said) == 1
    assert len(framed) == 2
    framed.clear()
    assert len(engine._counted) == 0
