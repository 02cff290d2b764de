"""GGUF to an MLX folder: the container, the packing, the row order, the tokenizer, and what is refused."""

import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device.errors import ModelDamaged
from device.gguf import _llama3_factors, convert
from device.gguf_file import read
from device.gguf_tensors import _rows, pieces
from tests.support_bpe import HandBPE
from tests.support_gguf import (
    TEMPLATE,
    byte_alphabet,
    gguf_bytes,
    random_tensor,
    tiny_metadata,
    tiny_tensors,
    write_tiny,
)

IDS = json.loads((Path(__file__).parent / "smollm2_ids.json").read_text(encoding="utf-8"))
VOCABULARY = len(tiny_metadata()["tokenizer.ggml.tokens"])


def converted(tmp_path: Path, **changes: Any) -> Path:
    """Convert the tiny model and return its folder."""
    folder = tmp_path / "out"
    folder.mkdir()
    convert(write_tiny(tmp_path / "tiny.gguf", **changes), folder)
    return folder


def config_of(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    return value


def tensors_of(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Read a safetensors file by hand."""
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    kinds = {"F16": "<f2", "U32": "<u4", "F32": "<f4"}
    arrays = {}
    for name, row in header.items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in row["data_offsets"])
            arrays[name] = np.frombuffer(data[begin:end], kinds[row["dtype"]]).reshape(row["shape"])
    return arrays


# -- the container


def test_a_file_is_read_without_its_weights(tmp_path: Path) -> None:
    gguf = read(write_tiny(tmp_path / "tiny.gguf"))
    assert gguf.metadata["llama.block_count"] == 2
    assert gguf.metadata["tokenizer.ggml.tokens"][:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert gguf.tensors["blk.0.attn_k.weight"].shape == (32, 64)
    assert gguf.tensors["token_embd.weight"].kind == "Q8_0"


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write_tiny(tmp_path / "tiny.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(200), *range(200, len(whole) - 32, 997)]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelDamaged):
            read(cut)


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 9000), value=st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read_but_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.gguf"
    data = bytearray(write_tiny(path).read_bytes())
    data[at] = value
    path.write_bytes(bytes(data))
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    with contextlib.suppress(ModelDamaged):
        convert(path, folder)


@pytest.mark.parametrize(("data", "words"), [(b"GGML" + bytes(40), "not a GGUF"), (b"GGUF" + bytes(40), "version 0")])
def test_another_format_or_version_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(ModelDamaged, match=words):
        read(tmp_path / "x.gguf")


def test_types_that_could_not_be_kept_are_refused_with_the_list_of_tensors(tmp_path: Path) -> None:
    tensors = tiny_tensors(VOCABULARY)
    rng = np.random.default_rng(1)
    tensors["blk.0.ffn_up.weight"] = random_tensor(rng, 12, (96, 256))
    tensors["blk.1.ffn_up.weight"] = random_tensor(rng, 12, (96, 256))
    (tmp_path / "k.gguf").write_bytes(gguf_bytes(tiny_metadata(), tensors))
    with pytest.raises(ModelDamaged, match=r"blk\.0\.ffn_up\.weight \(type 12\), blk\.1\.ffn_up\.weight"):
        read(tmp_path / "k.gguf")


# -- the packing


def ggml_values(kind: int, shape: tuple[int, ...], raw: bytes) -> np.ndarray[Any, Any]:
    """Dequantise as ggml-quants.c does, one block at a time, element by element."""
    size = {2: 18, 3: 20, 8: 34}[kind]
    out = []
    for at in range(0, len(raw), size):
        block = raw[at : at + size]
        scale = float(np.frombuffer(block[:2], "<f2")[0])
        if kind == 8:
            out += [scale * code for code in struct.unpack("32b", block[2:])]
            continue
        low = float(np.frombuffer(block[2:4], "<f2")[0]) if kind == 3 else -8 * scale
        codes = block[4:] if kind == 3 else block[2:]
        out += [scale * (code & 15) + low for code in codes] + [scale * (code >> 4) + low for code in codes]
    return np.array(out).reshape(shape)


def mlx_values(words: np.ndarray[Any, Any], scales: Any, biases: Any, bits: int) -> np.ndarray[Any, Any]:
    """Dequantise as MLX defines it: element i in bits ``bits * i`` upward, groups of 32."""
    codes = np.stack([(words >> (bits * i)) & (2**bits - 1) for i in range(32 // bits)], axis=-1)
    flat = codes.reshape(words.shape[0], -1).astype(np.float64)
    spread = lambda values: np.repeat(values.astype(np.float64), 32, axis=-1)  # noqa: E731
    return flat * spread(scales) + spread(biases)


@pytest.mark.parametrize(("kind", "bits"), [(2, 4), (3, 4), (8, 8)])
def test_packed_weights_stand_for_the_same_numbers(tmp_path: Path, kind: int, bits: int) -> None:
    tensor = random_tensor(np.random.default_rng(3), kind, (6, 96))
    path = tmp_path / "one.gguf"
    path.write_bytes(gguf_bytes({"general.architecture": "llama"}, {"w.weight": tensor}))
    gguf = read(path)
    words, scales, biases = (piece.array for piece in pieces(gguf, gguf.tensors["w.weight"], "w.weight", None))
    assert np.allclose(mlx_values(words, scales, biases, bits), ggml_values(*tensor), rtol=0, atol=1e-9)


@pytest.mark.mlx
@pytest.mark.parametrize("kind", [2, 3, 8])
def test_packing_equals_mlxs_own_reader(tmp_path: Path, kind: int) -> None:
    from device import runtime

    path = write_tiny(tmp_path / "tiny.gguf", kind=kind)
    theirs, gguf = runtime.mlx().load(str(path)), read(path)
    for name in ("blk.0.ffn_down", "token_embd"):
        for piece in pieces(gguf, gguf.tensors[f"{name}.weight"], f"{name}.weight", None):
            assert np.array_equal(np.array(theirs[piece.name]), piece.array), piece.name


def test_every_module_says_how_many_bits_it_has(tmp_path: Path) -> None:
    quantization = config_of(converted(tmp_path))["quantization"]
    assert quantization["model.embed_tokens"]["bits"] == 8
    assert quantization["model.layers.1.mlp.down_proj"] == {"group_size": 32, "bits": 4, "mode": "affine"}
    assert "model.norm" not in quantization


def test_norms_are_kept_in_16_bits(tmp_path: Path) -> None:
    assert tensors_of(converted(tmp_path))["model.layers.0.input_layernorm.weight"].dtype == np.dtype("<f2")


def test_a_norm_that_16_bits_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    tensors = tiny_tensors(VOCABULARY)
    tensors["output_norm.weight"] = (0, (64,), np.full(64, 1e6, "<f4").tobytes())
    (tmp_path / "x.gguf").write_bytes(gguf_bytes(tiny_metadata(), tensors))
    with pytest.raises(ModelDamaged, match=r"output_norm\.weight"):
        convert(tmp_path / "x.gguf", tmp_path)


# -- the row order


def llama_cpp_permute(array: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """``LlamaModel.permute`` of convert_hf_to_gguf.py."""
    return array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


@pytest.mark.parametrize(("heads", "rows"), [(1, 4), (4, 64), (2, 32), (9, 576)])
def test_rows_go_back_to_where_the_converter_took_them_from(heads: int, rows: int) -> None:
    array = np.arange(rows * 3).reshape(rows, 3)
    assert np.array_equal(_rows(llama_cpp_permute(array, heads), heads), array)
    assert rows == 4 or not np.array_equal(llama_cpp_permute(array, heads), array)


def test_queries_and_keys_of_llama_files_are_put_back_by_their_own_heads(tmp_path: Path) -> None:
    ours, gguf = tensors_of(converted(tmp_path)), read(tmp_path / "tiny.gguf")
    for name, heads in (("q", 4), ("k", 2), ("v", None)):
        raw = [p.array for p in pieces(gguf, gguf.tensors[f"blk.0.attn_{name}.weight"], "w.weight", None)]
        for leaf, array in zip(("weight", "scales", "biases"), raw, strict=True):
            got = ours[f"model.layers.0.self_attn.{name}_proj.{leaf}"]
            assert np.array_equal(llama_cpp_permute(got, heads) if heads else got, array)


def test_qwen_files_keep_their_rows(tmp_path: Path) -> None:
    metadata = {key.replace("llama.", "qwen2."): value for key, value in tiny_metadata().items()}
    metadata["general.architecture"], metadata["tokenizer.ggml.pre"] = "qwen2", "qwen2"
    path = tmp_path / "qwen.gguf"
    path.write_bytes(gguf_bytes(metadata, tiny_tensors(VOCABULARY)))
    convert(path, tmp_path)
    gguf = read(path)
    raw = next(pieces(gguf, gguf.tensors["blk.0.attn_q.weight"], "w.weight", None)).array
    assert np.array_equal(tensors_of(tmp_path)["model.layers.0.self_attn.q_proj.weight"], raw)


def logits(folder: Path, ids: list[int], *, packed: bool, traditional: bool = False, swapped: bool = False) -> Any:
    """Return logits in f32. swapped: q and k rows as llama.cpp leaves them; traditional: rotated to match."""
    from device import runtime

    core, utils = runtime.mlx(), runtime.mlx_lm("utils")
    from mlx.utils import tree_map

    model, config = utils.load_model(folder, model_config={"rope_traditional": traditional})
    model.update(tree_map(lambda a: a.astype(core.float32) if a.dtype == core.float16 else a, model.parameters()))
    model = model if packed else utils.dequantize_model(model)
    for layer in model.layers if swapped else ():
        for part, heads in (("q_proj", config["num_attention_heads"]), ("k_proj", config["num_key_value_heads"])):
            module = getattr(layer.self_attn, part)
            module.weight = core.array(llama_cpp_permute(np.array(module.weight), heads))
    return np.array(model(core.array([ids]))[0])


def agreement(a: Any, b: Any) -> float:
    """Correlation of logits over all positions."""
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.mlx
def test_a_converted_folder_loads_and_both_answers_to_the_row_order_agree(tmp_path: Path) -> None:
    folder, ids = converted(tmp_path), list(range(3, 40))
    ours = logits(folder, ids, packed=False)
    assert agreement(logits(folder, ids, packed=True), ours) > 0.9999
    assert np.allclose(logits(folder, ids, packed=False, swapped=True, traditional=True), ours, atol=1e-3)
    assert not np.allclose(logits(folder, ids, packed=False, swapped=True), ours, atol=1e-3)


@pytest.mark.model
def test_the_starters_weights_are_the_files_weights(starter: Path) -> None:
    """Packed against dequantised; the two answers to the row order; and the control: rows left as they were."""
    ids = IDS["chat"]["ids"]
    ours = logits(starter, ids, packed=False)
    assert agreement(logits(starter, ids, packed=True), ours) > 0.9999
    assert np.allclose(logits(starter, ids, packed=False, swapped=True, traditional=True), ours, atol=1e-3)
    assert agreement(logits(starter, ids, packed=False, swapped=True), ours) < 0.8
    assert np.isfinite(ours).all()


# -- the configuration


def test_the_output_layer_is_tied_exactly_when_the_file_has_none(tmp_path: Path) -> None:
    assert config_of(converted(tmp_path))["tie_word_embeddings"] is True
    tensors = tiny_tensors(VOCABULARY)
    tensors["output.weight"] = tensors["token_embd.weight"]
    (tmp_path / "untied.gguf").write_bytes(gguf_bytes(tiny_metadata(), tensors))
    convert(tmp_path / "untied.gguf", tmp_path)
    assert config_of(tmp_path)["tie_word_embeddings"] is False
    assert "lm_head.scales" in tensors_of(tmp_path)


def test_numbers_are_the_shortest_that_mean_the_same(tmp_path: Path) -> None:
    config = config_of(converted(tmp_path))
    assert (config["rms_norm_eps"], config["rope_theta"], config["head_dim"]) == (1e-05, 10000.0, 16)


def rope_file(path: Path, factors: np.ndarray[Any, Any]) -> Path:
    tensors = tiny_tensors(VOCABULARY)
    tensors["rope_freqs.weight"] = (0, factors.shape, factors.astype("<f4").tobytes())
    path.write_bytes(gguf_bytes(tiny_metadata(llama__rope__freq_base=500000.0), tensors))
    return path


def test_llama_3s_frequency_factors_become_its_parameters(tmp_path: Path) -> None:
    wanted = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    factors = _llama3_factors({k: v for k, v in wanted.items() if k != "rope_type"}, 500000.0, 16)  # type: ignore[misc]
    assert factors[0] == 1.0
    convert(rope_file(tmp_path / "x.gguf", factors), tmp_path)
    assert config_of(tmp_path)["rope_scaling"] == wanted


def test_frequency_factors_of_another_rule_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelDamaged, match=r"Llama 3\.1's rule"):
        convert(rope_file(tmp_path / "x.gguf", np.linspace(1, 32, 8)), tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"general__architecture": "mamba"}, "'mamba' is not known"),
        ({"llama__expert_count": 8}, "is not known"),
        ({"llama__rope__scaling__type": "yarn"}, "scaling positions"),
        ({"tokenizer__ggml__pre": "mystery"}, "pre-tokenizer 'mystery' is not known"),
        ({"tokenizer__ggml__pre": None}, "pre-tokenizer '' is not known"),
        ({"tokenizer__ggml__model": "llama"}, "tokenizer 'llama'"),
        ({"tokenizer__chat_template": None}, "lacks the metadata tokenizer.chat_template"),
        ({"llama__block_count": None}, "lacks the metadata llama.block_count"),
        ({"tokenizer__ggml__token_type": [1, 2, 3]}, "do not belong together"),
        ({"tokenizer__ggml__merges": ["q zz"]}, "makes no tokenizer"),
    ],
)
def test_what_is_not_known_is_refused_never_guessed(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelDamaged, match=words):
        converted(tmp_path, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"general__architecture": ["llama"]},
        {"general__alignment": 0},
        {"general__alignment": "32"},
        {"llama__attention__head_count": 0},
        {"llama__attention__head_count": "four"},
        {"llama__attention__head_count": 7},
        {"tokenizer__ggml__token_type": 5},
        {"tokenizer__ggml__eos_token_id": 10**6},
        {"tokenizer__ggml__merges": [1, 2]},
        {"tokenizer__chat_template": 5},
    ],
)
def test_metadata_of_nonsense_are_refused_not_tripped_over(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ModelDamaged, match=r"^tiny\.gguf|tokenizer\.json"):
        converted(tmp_path, **changes)


def test_a_tensor_without_a_place_is_refused_by_name(tmp_path: Path) -> None:
    tensors = {**tiny_tensors(VOCABULARY), "blk.0.mystery.weight": random_tensor(np.random.default_rng(1), 0, (64,))}
    (tmp_path / "x.gguf").write_bytes(gguf_bytes(tiny_metadata(), tensors))
    with pytest.raises(ModelDamaged, match=r"blk\.0\.mystery\.weight"):
        convert(tmp_path / "x.gguf", tmp_path)


# -- the tokenizer


def tokenizer_of(folder: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def ids_of(text: str) -> list[int]:
    """Ids of a text the tiny vocabulary has no merges for."""
    tokens, alphabet = tiny_metadata()["tokenizer.ggml.tokens"], byte_alphabet()
    return [tokens.index(alphabet[byte]) for byte in text.encode()]


def test_merges_bytes_and_special_tokens_are_the_files(tmp_path: Path) -> None:
    tokens, tokenizer = tiny_metadata()["tokenizer.ggml.tokens"], tokenizer_of(converted(tmp_path))
    assert tokenizer.encode("hello hello").ids == [tokens.index("hello"), tokens.index("Ġhello")]
    assert tokenizer.encode("é\x00").ids == ids_of("é\x00")
    assert tokenizer.encode("<|im_start|>x<|im_end|>").ids == [1, *ids_of("x"), 2]
    assert tokenizer.decode(tokenizer.encode("hello é 日本 \n").ids) == "hello é 日本 \n"


def test_every_way_to_end_a_turn_is_a_stop_id(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "x.gguf", tokenizer__ggml__eot_token_id=5)
    assert convert(path, tmp_path) == (2, 5, 0)
    assert config_of(tmp_path)["eos_token_id"] == [2, 5, 0]


@pytest.mark.parametrize("adds", [True, False])
def test_the_flag_for_a_beginning_token_is_honoured(tmp_path: Path, adds: bool) -> None:
    tokenizer = tokenizer_of(converted(tmp_path, tokenizer__ggml__add_bos_token=adds))
    assert tokenizer.encode("x").ids == [1] * adds + ids_of("x")
    assert tokenizer.encode("x", add_special_tokens=False).ids == ids_of("x")


def test_llama_3_takes_whole_words_before_merging_and_cuts_digits_by_three(tmp_path: Path) -> None:
    folder = converted(tmp_path, tokenizer__ggml__pre="llama-bpe")
    assert json.loads((folder / "tokenizer.json").read_bytes())["model"]["ignore_merges"] is True
    cut = [piece for piece, _ in tokenizer_of(folder).pre_tokenizer.pre_tokenize_str("a 12345b")]
    assert cut == ["a", "Ġ", "123", "45", "b"]


@pytest.mark.parametrize("pre", ["smollm", "qwen2"])
def test_smollm_and_qwen_cut_every_digit(tmp_path: Path, pre: str) -> None:
    cut = tokenizer_of(converted(tmp_path, tokenizer__ggml__pre=pre)).pre_tokenizer.pre_tokenize_str("a12")
    assert [piece for piece, _ in cut] == ["a", "1", "2"]


def test_the_chat_template_is_kept_to_the_letter(tmp_path: Path) -> None:
    assert (converted(tmp_path) / "chat_template.jinja").read_text(encoding="utf-8") == TEMPLATE


def test_equal_files_give_equal_folders(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    first, second = (converted(tmp_path / name) for name in "ab")
    assert all((second / path.name).read_bytes() == path.read_bytes() for path in first.iterdir())


@pytest.mark.model
@pytest.mark.parametrize(
    "row", IDS["texts"], ids=lambda row: repr(row["text"][:12]).encode("ascii", "replace").decode()
)
def test_the_starter_cuts_hard_texts_as_an_independent_tokenizer_does(starter: Path, row: dict[str, Any]) -> None:
    assert tokenizer_of(starter).encode(row["text"]).ids == row["ids"]
    assert HandBPE(starter / "tokenizer.json").encode(row["text"]) == row["ids"]


@pytest.mark.model
def test_control_without_the_cut_at_digits_the_ids_differ(starter: Path) -> None:
    from tokenizers import pre_tokenizers

    tokenizer = tokenizer_of(starter)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert any(tokenizer.encode(row["text"]).ids != row["ids"] for row in IDS["texts"])


@pytest.mark.model
def test_the_starters_chat_template_gives_the_stored_ids_with_and_without_its_own_system_text(starter: Path) -> None:
    from device import runtime
    from device.catalog import catalog

    runtime.mlx()
    tokenizer = runtime.mlx_lm("utils").load_tokenizer(starter)
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    system = [{"role": "system", "content": catalog().find("starter").default_system}]
    assert tokenizer.apply_chat_template(asked, add_generation_prompt=True) == IDS["chat"]["ids"]
    assert tokenizer.apply_chat_template(system + asked, add_generation_prompt=True) == IDS["chat"]["ids"]
