"""The planner: its figures for known models, its three answers, and what it predicts beside what is measured."""

import asyncio
import json
import subprocess
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from platformdirs import user_cache_path

from hybrid.wire.types import GenerateRequest, Message, Role, Sampling, Usage
from pcc_server.engines import Load
from pcc_server.plan import (
    MONTH_H,
    Costs,
    Machine,
    Model,
    Traffic,
    beside,
    find_model,
    level,
    most_streams,
    plan,
    prefill_tps,
    step_s,
)
from tests.pcc_server.node_client import COMMAND, Node

# Published architectures (config.json of each), shortened to what the arithmetic needs.
LLAMA_3B = {
    "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128_256, "tie_word_embeddings": True,
}  # fmt: skip
QWEN3_14B = {
    "hidden_size": 5120, "intermediate_size": 17_408, "num_hidden_layers": 40, "num_attention_heads": 40,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "tie_word_embeddings": False,
}  # fmt: skip
QWEN3_30B_A3B = {
    "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "vocab_size": 151_936, "tie_word_embeddings": False,
    "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
}  # fmt: skip
SMOLLM2 = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49_152, "tie_word_embeddings": True,
}  # fmt: skip
MAX = Machine(memory=96e9, bandwidth=546e9, flops=34e12)


def model(config: Mapping[str, Any], **options: Any) -> Model:
    return Model.from_config("a-model", config, **options)


# --- figures ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "weights_gb", "kib_per_token", "gb_at_8k"),
    [(LLAMA_3B, 1.8, 112, 0.94), (QWEN3_14B, 8.3, 160, 1.34), (QWEN3_30B_A3B, 17.2, 96, 0.81)],
    ids=["3B class", "Qwen3-14B", "Qwen3-30B-A3B"],
)
def test_the_table_of_the_design(
    config: Mapping[str, Any], weights_gb: float, kib_per_token: int, gb_at_8k: float
) -> None:
    known = model(config)
    assert round(known.weights_bytes / 1e9, 1) == weights_gb
    assert known.kv_token_bytes == kib_per_token * 1024
    assert round(8192 * known.kv_token_bytes / 1e9, 2) == gb_at_8k


def test_the_starter_in_f32() -> None:
    starter = model(SMOLLM2, f32=True)
    assert starter.shared == 134_515_008
    assert starter.kv_token_bytes == 46_080
    assert 256 * starter.kv_token_bytes == 11_796_480


def test_a_mixture_reads_more_experts_the_more_streams_there_are() -> None:
    mixture, dense = model(QWEN3_30B_A3B), model(QWEN3_14B)
    assert 3.2e9 < mixture.active < 3.5e9  # "A3B"
    assert mixture.read_bytes(1) == pytest.approx(mixture.active * mixture.bytes_per_weight, rel=1e-6)
    assert mixture.read_bytes(1) < mixture.read_bytes(8) < mixture.read_bytes(1_000) <= mixture.weights_bytes + 1
    assert dense.read_bytes(1) == dense.read_bytes(64) == pytest.approx(dense.weights_bytes, rel=1e-6)


# --- three answers ---------------------------------------------------------------------------------------


def test_a_step_is_what_must_be_read_or_computed_whichever_is_more() -> None:
    dense = model(QWEN3_14B)
    assert step_s(dense, MAX, 1, 0) == pytest.approx(dense.weights_bytes / 546e9, rel=1e-3)
    reads = step_s(dense, MAX, 4, 8192) - step_s(dense, MAX, 4, 0)
    assert reads == pytest.approx(4 * 8192 * 163_840 / 546e9)
    weak = Machine(memory=96e9, bandwidth=546e9, flops=1e12)
    assert step_s(dense, weak, 64, 0) == pytest.approx(64 * 2 * dense.active / 1e12)
    assert prefill_tps(dense, MAX) == pytest.approx(34e12 * 0.5 / (2 * dense.active))


def test_more_streams_give_more_altogether_and_less_each() -> None:
    levels = plan(model(QWEN3_14B), MAX, Traffic()).levels
    assert [one.streams for one in levels[:4]] == [1, 2, 4, 8]
    for fewer, more in pairwise(levels):
        assert more.tps >= fewer.tps  # equal once arithmetic is the limit
        assert more.each_tps < fewer.each_tps
        assert more.answer_s > fewer.answer_s
        assert more.people >= fewer.people
    assert [share / levels[0].tps for share in levels[0].planned_tps] == pytest.approx([0.55, 0.80])


def test_as_many_people_as_their_answers_take_time() -> None:
    """One person who asks once an hour, answers of a minute: 60 people keep one stream busy."""
    dense, traffic = model(QWEN3_14B), Traffic(rate=1.0)
    one = level(dense, MAX, traffic, 1)
    assert one.people == int(3600 / one.answer_s)
    assert level(dense, MAX, Traffic(rate=10.0), 1).people == int(360 / one.answer_s)


def test_the_fewest_streams_that_serve_the_people_are_chosen() -> None:
    few, many = (plan(model(QWEN3_14B), MAX, Traffic(people=people)) for people in (3, 60))
    assert few.serves
    assert many.serves
    assert few.streams < many.streams
    crowd = plan(model(QWEN3_14B), MAX, Traffic(people=100_000))
    assert (crowd.fits, crowd.serves, crowd.streams) == (True, False, 0)


def test_contexts_fit_beside_the_weights_up_to_the_soft_mark() -> None:
    dense, traffic = model(QWEN3_14B), Traffic(prompt=8_000, answer=192)
    small = Machine(memory=16e9, bandwidth=100e9, flops=4e12)
    count = most_streams(dense, small, traffic)
    left = 0.85 * 16e9 - dense.weights_bytes - 500e6 - 512 * 130_000
    assert count == int(left // (8192 * 163_840)) == 3
    tight = plan(dense, Machine(memory=9e9, bandwidth=100e9, flops=4e12), traffic)
    assert (tight.fits, tight.serves, tight.levels) == (False, False, ())
    assert "limit" in tight.text


def test_a_million_tokens_cost_what_a_month_costs_over_what_it_gives() -> None:
    costs = Costs(hardware=3_600, months=36, power=100, kwh=0.30, work=50, use=0.5)
    assert costs.month == pytest.approx(100 + 0.1 * MONTH_H * 0.30 + 50)
    assert costs.per_million(100) == pytest.approx(costs.month / (100 * 0.5 * 2.63e6) * 1e6)
    low, high = plan(model(QWEN3_14B), MAX, Traffic(), costs).cost_per_million or (0, 0)
    assert low / high == pytest.approx(0.55 / 0.80)
    assert plan(model(QWEN3_14B), MAX, Traffic(), Costs()).cost_per_million is None


# --- models ----------------------------------------------------------------------------------------------


def test_a_folder_counts_its_files_and_the_catalogue_its_numbers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2))
    (tmp_path / "model.safetensors").write_bytes(bytes(1_000_000))
    found = find_model(str(tmp_path))
    assert found.weights_bytes == pytest.approx(1_000_000, abs=2)
    assert found.kv_token_bytes == 23_040
    known = find_model("starter")
    assert (known.kv_token_bytes, known.shared, known.context_tokens) == (23_040, 134_515_008, 8192)
    assert find_model("starter", f32=True).weights_bytes == 4 * 134_515_008


# --- the command -----------------------------------------------------------------------------------------

SIZES = ("--memory", "27", "--bandwidth", "273", "--flops", "17")


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "plan", *words], capture_output=True, text=True, check=False, timeout=60)


def test_the_command_prints_a_table_and_the_same_as_json() -> None:
    done = command("--model", "starter", *SIZES, "--hardware-cost", "2000", "--kwh", "0.3", "--power", "60")
    assert done.returncode == 0, done.stderr
    assert "fits in 27.0 GB: yes" in done.stdout
    assert "10 people need" in done.stdout
    assert "a million tokens cost" in done.stdout
    told = json.loads(command("--model", "starter", *SIZES, "--json").stdout)
    assert (told["fits"], told["serves"], told["cost_per_million"]) == (True, True, None)
    assert told["levels"][0]["streams"] == 1


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--model", "starter", "--memory", "0.2", "--bandwidth", "9", "--flops", "1"), 4, "fits in 0.2 GB: no"),
        (("--model", "starter", *SIZES, "--people", "1000000"), 4, "too many"),
        (("--model", "no-such-model", *SIZES), 2, "see what there is with: hybrid list"),
        (("--model", "minilm", *SIZES), 2, "answers nothing"),
        (("--model", "starter", *SIZES, "--use", "0"), 2, "--use"),
        (("--model", "starter", "--memory", "0", "--bandwidth", "1", "--flops", "1"), 2, "--memory"),
    ],
)
def test_what_does_not_go_is_said_with_an_exit_code(words: tuple[str, ...], code: int, says: str) -> None:
    done = command(*words)
    assert (done.returncode, says in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr


def test_a_folder_of_no_use_is_said(tmp_path: Path) -> None:
    untold = json.dumps({"num_attention_heads": 4, "num_hidden_layers": 2, "hidden_size": 64})
    for content, says in (("{}", "lacks"), ("no json", "cannot plan with"), (untold, "no number of weights")):
        (tmp_path / "config.json").write_text(content)
        done = command("--model", str(tmp_path), *SIZES)
        assert (done.returncode, says in done.stderr) == (2, True), done.stderr


# --- beside what is measured -----------------------------------------------------------------------------


def test_predicted_and_measured_stand_beside_each_other() -> None:
    load = Load(kv_token_bytes=46_080, memory_bytes=700_000_000)
    assert beside(model(SMOLLM2, f32=True), load) == {
        "kv_predicted": 46_080,
        "kv_measured": 46_080,
        "mb_predicted": 688,
        "mb_measured": 700,
    }


@pytest.mark.mlx
@pytest.mark.model
def test_the_starter_s_real_cache_is_what_was_predicted() -> None:
    """One request of nearly 256 tokens takes one step of the cache: 11.8 MB where numbers have 32 bits.

    Layers grow one after the other, the last one at its 248th token: the answer has to go on after it.
    """
    from pcc_server.config import Settings
    from pcc_server.engines import open_engine

    async def used() -> tuple[Load, int]:
        loaded = open_engine(Settings(model="starter", store=str(user_cache_path("hybrid-pcc") / "models")))
        assert loaded.load is not None
        request = GenerateRequest(
            messages=(Message(role=Role.USER, content="Tell me about the sea. " * 36),),
            sampling=Sampling(max_tokens=8),
        )
        most, usage = 0, None
        async for chunk in loaded.engine.generate(request, partition=""):
            most, usage = max(most, loaded.load().kv_used_bytes), chunk.usage
        last = loaded.load()
        await loaded.engine.close()
        assert usage == Usage(input=247, output=8)
        return last, most

    load, most = asyncio.run(used())
    predicted = model(SMOLLM2, f32=load.kv_token_bytes == 46_080)
    assert load.kv_token_bytes == predicted.kv_token_bytes
    assert most == 256 * predicted.kv_token_bytes


@pytest.mark.mlx
@pytest.mark.model
def test_a_starting_node_tells_what_was_predicted_beside_what_it_measures() -> None:
    with Node("--model", "starter", engine="mlx") as node:
        (told,) = node.events("planned")
    assert told["kv_predicted"] == told["kv_measured"] > 0
    assert 0.5 < told["mb_measured"] / told["mb_predicted"] < 2
