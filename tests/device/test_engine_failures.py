import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device import engine as engine_module
from device import runtime
from device.engine import MLXEngine
from device.errors import BadRequest, EngineFailed, Overloaded
from device.live import Live
from device.prompt import Framer
from device.sampling import Chooser, Guarded
from hybrid.wire.types import Sampling

from .support import Reference, ask_all, plant_detokenizer, request

pytestmark = pytest.mark.mlx

POISON = 666  # the seed that marks the request which must fail
HEALTHY = [request("quick fox"), request("lazy dog"), request("seven")]
BAD = request("box of jugs", seed=POISON)


class RaisingChooser(Chooser):
    """Raises at the fourth token of the marked request."""

    def _choose(self, scores: Any) -> Any:
        if self._seed == POISON and self._position == 3:
            raise ValueError("planted in the sampler")
        return super()._choose(scores)


class NaNChooser(Chooser):
    """Sees no numbers, as after an overflow in the model."""

    def __call__(self, scores: Any) -> Any:
        return super().__call__(scores * float("nan") if self._seed == POISON else scores)


def _raise(*_: Any) -> Any:
    raise ValueError("planted")


def _processors(sampling: Sampling) -> list[Guarded]:
    return [Guarded(_raise)] if sampling.seed == POISON else []


def _plant_detokenizer(engine: MLXEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_detokenizer(monkeypatch)


def _plant_step_failure(engine: MLXEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the model itself raise while it reads the marked prompt, in the middle of the others' answers."""
    marked = engine._framer.ids(BAD)[:-1]
    kind = type(engine._core._loaded.model)
    real = kind.__call__

    def call(self: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
        if marked in inputs.tolist():
            raise RuntimeError("planted in the model")
        return real(self, inputs, *arguments, **named)

    monkeypatch.setattr(kind, "__call__", call)


def _plant_account_failure(engine: MLXEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise while the marked request's last chunk is made: by then mlx-lm has let go of it."""
    real = Live.params

    def params(self: Live) -> dict[str, str | int]:
        if self.request.sampling.seed == POISON:
            raise ValueError("planted in the account")
        return real(self)

    monkeypatch.setattr(Live, "params", params)


PLANTS: dict[str, Callable[[MLXEngine, pytest.MonkeyPatch], None]] = {
    "sampler": lambda _, patch: patch.setattr(engine_module, "Chooser", RaisingChooser),
    "numbers": lambda _, patch: patch.setattr(engine_module, "Chooser", NaNChooser),
    "processor": lambda _, patch: patch.setattr(engine_module, "processors", _processors),
    "step": _plant_step_failure,
    "account": _plant_account_failure,
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_request_that_fails_fails_alone(engine: MLXEngine, plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [answer.text for answer in ask_all(engine, HEALTHY)]
    PLANTS[plant](engine, monkeypatch)
    for partition in range(4):
        engine.release(f"p{partition}")
    *healthy, failed = ask_all(engine, [*HEALTHY, BAD])
    assert isinstance(failed, EngineFailed)
    assert "planted" not in str(failed)
    assert [answer.text for answer in healthy] == expected
    monkeypatch.undo()
    assert ask_all(engine, [BAD])[0].text
    assert engine.status().running == 0


def test_a_detokeniser_that_raises_fails_its_own_request(engine: MLXEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ask_all(engine, HEALTHY[:1])[0].text
    _plant_detokenizer(engine, monkeypatch)
    healthy, failed = ask_all(engine, [HEALTHY[0], request("seven", stop=("~~~",))])
    assert isinstance(failed, EngineFailed)
    assert healthy.text == expected
    assert engine._core._turns is not None
    assert sum(steps.cache_bytes for steps in engine._core._turns._generators) == 0


def test_repeating_a_failed_step_would_spoil_the_neighbour(engine: MLXEngine, tiny: Path) -> None:
    """The control of this file: what a wrapper that catches and goes on does, and that the comparison sees it."""
    reference = Reference(tiny)
    ids = engine._framer.ids(HEALTHY[0])
    right = reference.tokens(ids, 12)
    generator = runtime.mlx_lm("generate").BatchGenerator(reference.model, prefill_batch_size=1)
    calls = iter(range(100))

    def raising(tokens: Any, scores: Any) -> Any:
        return _raise() if next(calls) == 3 else scores

    first, _ = generator.insert([list(ids), list(ids)], max_tokens=[12, 12], logits_processors=[[], [raising]])
    naive: list[int] = []
    while len(naive) < 12:
        try:
            responses = generator.next()[1]
        except ValueError:
            continue
        naive += [response.token for response in responses if response.uid == first]
    generator.close()
    assert naive != right
    assert naive[:2] == right[:2]


def test_ids_outside_the_vocabulary_are_refused_before_the_model_sees_them(engine: MLXEngine) -> None:
    narrow = Framer(tokenizer=engine._tokenizer, vocabulary=100, today=engine._framer.today)
    engine._framer = narrow
    assert isinstance(ask_all(engine, [HEALTHY[0]])[0], BadRequest)
    assert engine.status().running == 0


def test_a_full_queue_refuses_instead_of_growing(engine: MLXEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("device.turns.WAITING_PER_ROW", 1)
    answers = ask_all(engine, [request("quick fox", max_tokens=60)] * 30)
    refused = [answer for answer in answers if isinstance(answer, Overloaded)]
    assert refused
    assert len({answer.text for answer in answers if not isinstance(answer, Overloaded)}) == 1


def test_a_model_folder_that_cannot_be_loaded_is_a_typed_error(make_tiny: Callable[..., Path]) -> None:
    import json

    from .conftest import write_manifest

    folder = make_tiny()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "no_such_kind"}))
    write_manifest(folder)
    with pytest.raises(EngineFailed, match="no_such_kind"):
        MLXEngine.open(folder, model_id="tiny")


def test_an_engine_dropped_without_close_ends_its_thread(tiny: Path) -> None:
    import gc

    opened = MLXEngine.open(tiny, model_id="tiny")
    thread = opened._core._thread
    asyncio.run(opened.count_tokens(HEALTHY[0]))
    del opened
    gc.collect()
    assert not thread.is_alive()
