"""What the scheduler relies on in mlx-lm's BatchGenerator, one test for each: none of it is documented there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device import runtime
from device.lane import LaneCache, cut, lanes, plain

from .driving import prompt
from .support import Reference

pytestmark = pytest.mark.mlx

COUNT = 12


@pytest.fixture(scope="module")
def reference(tiny: Path) -> Reference:
    return Reference(tiny)


@pytest.fixture
def generator(reference: Reference) -> Iterator[Any]:
    made = runtime.mlx_lm("generate").BatchGenerator(reference.model, max_tokens=COUNT, prefill_batch_size=1)
    yield made
    made.close()


def _read(reference: Reference, ids: list[int]) -> list[Any]:
    """Read all but the last id by hand, as reading.py does."""
    cache = lanes(reference.model)
    with reference.core.stream(runtime.mlx_lm("generate").generation_stream):
        for at in range(0, len(ids) - 1, 16):
            reference.model(reference.core.array([ids[at : min(at + 16, len(ids) - 1)]]), cache=cache)
            reference.core.eval([layer.state for layer in cache])
    return cache


def _insert(generator: Any, reference: Reference, ids: list[int], **options: Any) -> int:
    caches, known = [_read(reference, ids)], [ids[:-1]]
    (number,) = generator.insert([ids[-1:]], caches=caches, all_tokens=known, **options)
    return int(number)


def _rest(generator: Any, said: dict[int, list[int]], steps: int = 100) -> dict[int, list[int]]:
    for _ in range(steps):
        prompts, answers = generator.next()
        for response in answers:
            said.setdefault(response.uid, []).append(response.token)
        if not prompts and not answers:
            break
    return said


def test_a_cache_read_by_hand_goes_on_as_the_generators_own(generator: Any, reference: Reference) -> None:
    (own,) = generator.insert([prompt(50)])
    said = _rest(generator, {})
    by_hand = _insert(generator, reference, prompt(50))
    said = _rest(generator, said)
    assert said[own] == said[by_hand] == reference.tokens(prompt(50), COUNT)


def test_a_row_that_joins_costs_the_others_no_step(generator: Any, reference: Reference) -> None:
    first = _insert(generator, reference, prompt(30))
    generator.next()
    second = _insert(generator, reference, prompt(40, 9))
    assert [[response.uid for response in generator.next()[1]] for _ in range(2)] == [[first], [first, second]]


def test_a_step_that_reads_a_prompt_also_steps_the_answers_and_reads_no_more_than_it_may(
    generator: Any, reference: Reference
) -> None:
    first = _insert(generator, reference, prompt(30))
    generator.next()
    generator.prefill_step_size = 16
    generator.insert([prompt(200)])
    for done in (16, 32, 48):
        prompts, answers = generator.next()
        assert [response.uid for response in answers] == [first]
        assert [response.progress[0] for response in prompts] == [done]


def test_a_row_taken_out_brings_a_cache_of_prompt_and_answer_and_goes_on_elsewhere(
    generator: Any, reference: Reference
) -> None:
    first, second = _insert(generator, reference, prompt(30)), _insert(generator, reference, prompt(70, 9))
    said = _rest(generator, {}, steps=7)
    cache, ids = generator.remove([second], return_prompt_caches=True)[second]
    assert ids == prompt(70, 9) + said[second]
    assert plain(cache)[0].offset == len(ids)
    shorter = cut(plain(cache), 1)
    other = runtime.mlx_lm("generate").BatchGenerator(reference.model, max_tokens=COUNT, prefill_batch_size=1)
    (number,) = other.insert([ids[-1:]], caches=[lanes(reference.model, shorter)], all_tokens=[ids[:-1]])
    moved = said[second] + _rest(other, {})[number]
    other.close()
    assert moved[:COUNT] == reference.tokens(prompt(70, 9), COUNT)
    assert _rest(generator, said)[first] == reference.tokens(prompt(30), COUNT)


def test_a_removed_row_is_never_heard_of_again_and_its_bytes_are_free(generator: Any, reference: Reference) -> None:
    first, second = _insert(generator, reference, prompt(30)), _insert(generator, reference, prompt(70, 9))
    _rest(generator, {}, steps=4)
    both = generator.prompt_cache_nbytes
    generator.remove([second])
    assert generator.prompt_cache_nbytes <= both / 2
    assert {response.uid for _ in range(3) for response in generator.next()[1]} == {first}
    generator.remove([first])
    assert generator.prompt_cache_nbytes == 0
    assert generator.next() == ([], [])


def test_a_row_not_yet_begun_can_be_taken_out_with_its_cache(generator: Any, reference: Reference) -> None:
    number = _insert(generator, reference, prompt(30))
    cache, ids = generator.remove([number], return_prompt_caches=True)[number]
    assert ids == prompt(30)[:-1]
    assert plain(cache)[0].offset == len(ids)


def test_the_last_response_says_why_and_its_row_is_gone(generator: Any, reference: Reference) -> None:
    number = _insert(generator, reference, prompt(30), max_tokens=[3])
    last = [response for _ in range(4) for response in generator.next()[1]][-1]
    assert (last.uid, last.finish_reason, len(last.all_tokens)) == (number, "length", 33)
    assert last.prompt_cache[0].offset == 33
    assert generator.prompt_cache_nbytes == 0


@pytest.mark.parametrize("wrong", [{"prompts": [[]]}, {"prompts": [[1, 2]], "max_tokens": [0]}])
def test_a_refused_insert_leaves_the_others_as_they_were(
    generator: Any, reference: Reference, wrong: dict[str, Any]
) -> None:
    number = _insert(generator, reference, prompt(30))
    generator.next()
    with pytest.raises(ValueError, match=r"must be > 0|empty prompt"):
        generator.insert(**wrong)
    assert _rest(generator, {})[number] == reference.tokens(prompt(30), COUNT)


def test_each_row_has_its_own_sampler_and_sees_its_own_scores(generator: Any, reference: Reference) -> None:
    shapes: list[tuple[int, ...]] = []

    def sampler(scores: Any) -> Any:
        shapes.append(tuple(scores.shape))
        return reference.core.argmin(scores, axis=-1)

    odd = _insert(generator, reference, prompt(30), samplers=[sampler])
    even = _insert(generator, reference, prompt(30))
    said = _rest(generator, {})
    assert said[even] == reference.tokens(prompt(30), COUNT)
    assert said[odd] != said[even]
    assert {shape[0] for shape in shapes} == {1}


def test_after_a_step_that_raised_the_generator_has_lost_its_rows(generator: Any, reference: Reference) -> None:
    """Why our own table is the truth, and why nothing of such a generator is used again."""

    def raising(tokens: Any, scores: Any) -> Any:
        if tokens.size > 33:
            raise ValueError("planted")
        return scores

    innocent = _insert(generator, reference, prompt(30))
    _insert(generator, reference, prompt(30, 9), logits_processors=[[raising]])
    said: dict[int, list[int]] = {}
    with pytest.raises(ValueError, match="planted"):
        _rest(generator, said)
    for _ in range(COUNT):
        try:
            _rest(generator, said, steps=1)
        except ValueError:
            continue
    assert said[innocent] != reference.tokens(prompt(30), COUNT)


def test_caches_grow_in_whole_steps_whatever_length_they_had(reference: Reference) -> None:
    layer = LaneCache(runtime.mlx_lm("models.cache").KVCache())
    core = reference.core
    for tokens in (68, 68, 68, 68, 1, 500):
        layer.update_and_fetch(core.zeros((1, 2, tokens, 4)), core.zeros((1, 2, tokens, 4)))
        assert layer._rows.keys.shape[2] == -(-layer.size() // 256) * 256


def test_mlx_lms_own_cache_does_not(reference: Reference) -> None:
    """The control: the reason for the test before."""
    layer, core = runtime.mlx_lm("models.cache").KVCache(), reference.core
    for tokens in (300, 300):
        layer.update_and_fetch(core.zeros((1, 2, tokens, 4)), core.zeros((1, 2, tokens, 4)))
    assert layer.keys.shape[2] % 256
