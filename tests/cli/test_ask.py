import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hybrid.cli import main
from tests.cli.scenes import COMPLEX, SCENES, Scene, node_scene

ALWAYS = ("text", "route", "model", "finish_reason", "request_id", "decision", "usage", "timing", "egress")
SIX = {"route", "score", "threshold", "reasons", "signals", "counterfactual"}


def invoke(scene: Scene, *words: str, piped: str | bytes | None = None) -> Result:
    return CliRunner().invoke(main, [*words], input=piped, obj=scene.doors)


def test_json_is_one_object_with_every_promised_key() -> None:
    result = invoke(Scene(), "ask", "--json", "What is the capital of France?")
    value = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert set(ALWAYS) <= set(value)
    assert (value["route"], value["egress"], set(value["decision"])) == ("on_device", None, SIX)


def test_json_of_a_hand_over_says_what_left() -> None:
    egress = json.loads(invoke(node_scene(), "ask", "--json", COMPLEX).stdout)["egress"]
    assert egress["bytes_wire"] > egress["bytes_plain"] > len(COMPLEX)
    assert [s["source"] for s in egress["segments"]] == ["prompt"]


def test_a_failure_under_json_keeps_the_partial_text_and_its_exit_code() -> None:
    result = invoke(node_scene("cut_stream"), "ask", "--json", "--private-cloud", "A question")
    value = json.loads(result.stdout)
    assert result.exit_code == value["error"]["exit_code"] == 1
    assert value["error"]["type"] == "IntegrityError"
    assert value["partial"].startswith("A plan")
    assert "text" not in value


def test_jsonl_is_one_event_a_line_and_ends_with_done_or_error() -> None:
    good = [json.loads(line) for line in invoke(Scene(), "ask", "--jsonl", "Hello you").stdout.splitlines()]
    assert (good[0]["event"], good[-1]["event"]) == ("route_decided", "done")
    assert "".join(e["text"] for e in good if e["event"] == "text_delta") == good[-1]["reply"]["text"]
    bad = invoke(node_scene("cut_stream"), "ask", "--jsonl", "--private-cloud", "Hello you").stdout.splitlines()
    assert json.loads(bad[-1])["event"] == "error"


@pytest.mark.parametrize("fault", ["cut_stream", "flip_bit"])
def test_a_cut_or_forged_answer_is_never_completed_from_elsewhere(fault: str) -> None:
    scene = node_scene(fault)
    result = invoke(scene, "ask", COMPLEX)
    assert result.exit_code == 1
    assert scene.device.requests == []
    assert result.stdout.startswith("A plan")


def test_a_failed_verification_sends_nothing_and_the_device_answers_flagged() -> None:
    scene = node_scene("other_key")
    assert scene.node is not None
    result = invoke(scene, "ask", COMPLEX)
    assert (result.exit_code, scene.node.sealed) == (0, [])
    assert "attestation failed" in result.stderr  # also without a terminal and without -v
    control = node_scene()
    assert control.node is not None
    invoke(control, "ask", COMPLEX)
    assert len(control.node.sealed) == 1


def test_a_question_labelled_by_max_route_never_reaches_the_node() -> None:
    scene = node_scene()
    assert scene.node is not None
    for words in (["--max-route", "on_device"], ["-f", "-", "--max-route", "on_device"], ["-f", "mail.eml"]):
        result = invoke(scene, "ask", *words, COMPLEX, piped="canary text\n")
        assert result.exit_code == 0
    assert scene.node.sealed == []
    invoke(scene, "ask", COMPLEX, piped="open text\n")
    assert any("open text" in m.content for m in scene.node.requests[-1].messages)


def test_piped_text_comes_before_the_words_with_a_blank_line_between() -> None:
    scene = Scene()
    invoke(scene, "ask", "And this?", piped="The piped text.\n")
    assert scene.device.requests[-1].messages[-1].content == "The piped text.\n\nAnd this?"


def test_files_folders_and_globs_come_before_the_words_in_a_stable_order(own_world: Path) -> None:
    (own_world / "d").mkdir()
    for name in ("b.txt", "a.txt", ".hidden"):
        (own_world / "d" / name).write_text(name)
    for given in ("d", "d/*.txt"):
        scene = Scene()
        invoke(scene, "ask", "-f", given, "What?")
        assert scene.device.requests[-1].messages[-1].content == "a.txt\n\nb.txt\n\nWhat?"


def test_system_seed_tokens_and_temperature_reach_the_engine() -> None:
    scene = Scene()
    words = ("-s", "Be brief.", "--seed", "7", "--max-tokens", "3", "--temperature", "0.5")
    invoke(scene, "ask", *words, "Hello you")
    request = scene.device.requests[-1]
    assert request.messages[0].content == "Be brief."
    assert (request.sampling.seed, request.sampling.max_tokens, request.sampling.temperature) == (7, 3, 0.5)


def test_a_single_word_that_is_no_command_is_never_sent_to_a_model() -> None:
    scene = Scene()
    assert invoke(scene, "hello").exit_code == 2
    assert scene.device.requests == []
    assert invoke(scene, "hello you").exit_code == 0
    assert len(scene.device.requests) == 1


@pytest.mark.parametrize(("words", "piped"), [((), None), (("  ",), None), ((), " \n")])
def test_an_empty_prompt_is_refused(words: tuple[str, ...], piped: str | None) -> None:
    scene = Scene()
    result = invoke(scene, "ask", *words, piped=piped)
    assert (result.exit_code, scene.device.requests) == (2, [])
    assert "empty" in result.stderr


def test_input_that_is_not_utf8_is_refused_by_offset_without_quoting_it() -> None:
    result = invoke(Scene(), "ask", "What?", piped=b"canary\xff\n")
    assert result.exit_code == 2
    assert "byte 6" in result.stderr
    assert "canary" not in result.output


def test_an_argument_that_is_not_utf8_is_refused_too() -> None:
    result = invoke(Scene(), "ask", "caf\udce9 now")
    assert result.exit_code == 2
    assert "byte 3" in result.stderr


def test_a_two_megabyte_prompt_overflows_with_limit_and_need_and_sends_nothing() -> None:
    for words in ((), ("--private-cloud",)):
        scene = node_scene()
        assert scene.node is not None
        result = invoke(scene, "ask", *words, piped="word " * 400_000)
        assert (result.exit_code, scene.node.sealed) == (6, [])
        assert "tokens" in result.stderr


def test_a_defect_shows_neither_its_text_nor_a_traceback() -> None:
    result = invoke(SCENES["broken"](), "ask", "A question")
    assert result.exit_code == 1
    assert "canary" not in result.output
    assert "Traceback" not in result.output
    assert "RuntimeError" in result.stderr


def test_a_defect_shows_its_traceback_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_DEBUG", "1")
    assert "Traceback" in invoke(SCENES["broken"](), "ask", "A question").stderr
