"""``audit --canary``: a run through a second node, and what its judges make of leaks that were planted (S1, S2, S5)."""

from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from pcc_server.audit import canary, cores, served
from pcc_server.audit.canary import Harvest, judge_memory, judge_said, judge_written
from pcc_server.audit.report import State, Unseen
from pcc_server.audit.second import private
from pcc_server.config import FAKE_MODEL, Settings, profile
from pcc_server.events import Program
from tests.pcc_server.sandboxes import need_root

pytestmark = pytest.mark.linux

WORD = "qwertzuiopasdfghjk"
SETTINGS = Settings(engine="fake", model=FAKE_MODEL)
CALLS = ['sendto(7<socket:[1]>, "\\0\\0"', "write(2<pipe:[3]>, "]


def harvest() -> Harvest:
    return Harvest(
        said=["{}", "ready"],
        events={"request", "refused", "cancelled", "phase"},
        in_flight={Program.LAUNCHER: 0, Program.GATEWAY: 0, Program.WORKER: 9},
        calls=list(CALLS),
        traced=True,
    )


def test_a_clean_harvest_is_green() -> None:
    found = harvest()
    assert judge_said(found, WORD).held
    assert judge_written(found, WORD, SETTINGS).held
    assert judge_memory(found).held


@pytest.mark.parametrize("text", [f"prompt={WORD}", f"hex {WORD.encode().hex()}", WORD[::-1]])
def test_a_canary_in_what_it_says_is_red(text: str) -> None:
    found = harvest()
    found.said.append(text)
    assert judge_said(found, WORD).held is False


def test_a_way_to_end_that_was_not_gone_proves_nothing() -> None:
    found = harvest()
    found.events.discard("cancelled")
    with pytest.raises(Unseen, match="cancelled"):
        judge_said(found, WORD)


@pytest.mark.parametrize(
    "call", ['openat(AT_FDCWD, "/tmp/x", O_WRONLY|O_CREAT, 0600', 'write(9</var/log/x>, "a"', f'sendto(4, "{WORD}"']
)
def test_a_call_that_writes_or_carries_a_canary_is_red(call: str) -> None:
    found = harvest()
    found.calls = [*CALLS, call]
    assert judge_written(found, WORD, SETTINGS).held is False


def test_to_an_engine_of_others_prompts_go_by_a_socket_on_purpose() -> None:
    found = harvest()
    found.calls = [*CALLS, f'sendto(4, "{WORD}"']
    engine = Settings(engine="openai", engine_kind="vllm", engine_port=8000)
    told = judge_written(found, WORD, engine)
    assert told.held
    assert "prompts go to the engine" in told.got


def test_without_a_trace_that_saw_a_planted_write_nothing_is_proven() -> None:
    blind, untraced = harvest(), harvest()
    blind.traced = False
    untraced.calls, untraced.untraced = None, "strace is not installed"
    for found in (blind, untraced):
        with pytest.raises(Unseen):
            judge_written(found, WORD, SETTINGS)


def test_copies_that_stay_or_stand_in_the_front_are_red_and_a_blind_scan_proves_nothing() -> None:
    left, front, blind = harvest(), harvest(), harvest()
    left.left = {"worker utf-8": 1}
    front.in_flight[Program.GATEWAY] = 1
    blind.in_flight[Program.WORKER] = 0
    assert judge_memory(left).held is False
    assert judge_memory(front).held is False
    with pytest.raises(Unseen, match="did not find"):
        judge_memory(blind)


def test_the_second_node_has_the_same_profile_and_none_of_the_ports_and_devices() -> None:
    own = replace(SETTINGS, listen="127.0.0.1:8443", admin="127.0.0.1:9090", max_new=99, protect="require")
    second = private(own)
    assert profile(second) == profile(own)
    assert (second.listen, second.admin) == ("127.0.0.1:0", "127.0.0.1:0")


def test_a_node_that_does_not_start_leaves_everything_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "row", lambda _: None)
    missing = Settings(engine="mlx", model="/nowhere/model")
    found = [row for row in canary.rows(missing) if row]
    assert [row.state for row in found] == [State.NOT_PROVEN] * 3
    assert "there is no model folder /nowhere/model" in found[0].got


def test_canaries_through_a_real_node_turn_up_nowhere() -> None:
    """Success, overflow, spoiled, no request, replay, cancel and a killed worker; cores last."""
    need_root()
    found = list(canary.rows(SETTINGS))
    assert {row.name: (row.state, row.got) for row in found if row.state is not State.OK} == {}
    assert [row.name for row in found] == ["canary.said", "canary.written", "canary.memory", "canary.cores"]


@pytest.mark.soak
@pytest.mark.model
def test_canaries_through_a_real_model_turn_up_nowhere() -> None:
    need_root()
    found = list(canary.rows(Settings(model="starter", store=_store())))
    assert {row.name: (row.state, row.got) for row in found if row.state is not State.OK} == {}


@pytest.mark.model
def test_a_model_with_one_changed_byte_is_red(tmp_path: Path) -> None:
    from device.store import Store

    folder = Store().get("starter").path
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = bytearray((tmp_path / "tokenizer.json").read_bytes())
    config[-2] ^= 1
    (tmp_path / "tokenizer.json").write_bytes(config)
    found = served.weights(Settings(model=str(tmp_path)), _no_statement)
    assert found.held is False
    assert "tokenizer.json" in found.got
    with pytest.raises(Unseen, match="not asked"):  # the bytes are right: now the node must attest them
        served.weights(Settings(model=str(folder)), _no_statement)


def _no_statement() -> NoReturn:
    raise Unseen("not asked")


def _store() -> str:
    from pcc_server.settings_source import default_store

    return default_store()
