import pytest

from device.fit import SOFT, f32_bytes, fits, kv_bytes, prefix_bytes, shape_of

STARTER = {
    "model_type": "llama",
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
LLAMA_3B = {
    "hidden_size": 3072,
    "num_hidden_layers": 28,
    "intermediate_size": 8192,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}
GB = 1_000_000_000


def test_the_starter_has_the_published_number_of_weights() -> None:
    assert shape_of(STARTER).params == 134_515_008
    assert f32_bytes(134_515_008, 0) == 538_060_032


def test_llama_3b_has_the_published_number_of_weights() -> None:
    assert shape_of(LLAMA_3B).params == 3_212_749_824


def test_the_cache_costs_what_was_measured() -> None:
    assert shape_of(STARTER).kv_token_bytes(4) == 46_080
    assert shape_of(STARTER).kv_token_bytes(2) == 23_040
    assert shape_of(LLAMA_3B).kv_token_bytes(2) == 114_688


def test_a_mixture_of_experts_is_not_counted_but_estimated_from_its_files() -> None:
    assert shape_of({**STARTER, "num_experts": 8}).params == 0
    assert f32_bytes(0, 4_500) == 4 * 8_000


def test_the_cache_is_a_rectangle_in_steps_of_256() -> None:
    assert kv_bytes(rows=3, tokens=257, kv_token_bytes=10) == 3 * 512 * 10


def _fit(room: float, *, context: int = 4096, force: bool = False) -> str:
    shape = shape_of(LLAMA_3B)
    return fits(
        model_id="llama-3.2-3b-4bit",
        weights_bytes=1_810_000_000,
        kv_token_bytes=shape.kv_token_bytes(2),
        context_tokens=context,
        room_bytes=int(room * GB),
        force=force,
    ).verdict


@pytest.mark.parametrize("room", [round(0.25 * step, 2) for step in range(2, 32)])
def test_a_model_loads_exactly_where_its_need_is_under_the_mark(room: float) -> None:
    need = 1.81 + 4096 * 114_688 / GB + 512 * 130_000 / GB + 0.5
    assert _fit(room) == ("fits" if need <= SOFT * room else "refused")


def test_force_passes_the_soft_mark_but_not_the_hard_one() -> None:
    assert _fit(3.2) == "refused"
    assert _fit(3.2, force=True) == "forced"
    assert _fit(2.9, force=True) == "refused"


def test_a_refusal_shows_the_arithmetic_and_what_would_fit() -> None:
    shape = shape_of(LLAMA_3B)
    answer = fits(
        model_id="llama-3.2-3b-4bit",
        weights_bytes=1_810_000_000,
        kv_token_bytes=shape.kv_token_bytes(2),
        context_tokens=4096,
        room_bytes=3_200_000_000,
    )
    assert answer.text == (
        "llama-3.2-3b-4bit: weights 1.81 + cache 0.47 (4,096 tokens x 112 KiB) + work 0.07 + reserve 0.50 = 2.85 GB; "
        "limit 2.72 GB (85% of the 3.20 free). Fits with context 2,816."
    )
    assert _fit(3.2, context=2816) == "fits"
    assert _fit(3.2, context=2816 + 256) == "refused"


def test_a_model_that_never_fits_says_so() -> None:
    answer = fits(model_id="m", weights_bytes=9 * GB, kv_token_bytes=1000, context_tokens=4096, room_bytes=GB)
    assert answer.text.endswith("Does not fit with any context; choose a smaller model.")


def test_kept_context_gets_a_tenth_of_what_the_weights_leave() -> None:
    assert prefix_bytes(room_bytes=10 * GB, weights_bytes=2 * GB) == pytest.approx(0.65 * GB)
    assert prefix_bytes(room_bytes=GB, weights_bytes=2 * GB) == 0
