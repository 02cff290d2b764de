"""``hybrid explain``: agrees with ``ask``, says what would be sent, reaches nothing, shows no content, is readable."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid.cli.decided import preview_text
from hybrid.cli.terminal import Screen
from hybrid.routing.labels import Source
from tests.cli.processes import ROOT
from tests.cli.scenes import COMPLEX, Scene, node_scene
from tests.cli.test_ask import SIX, invoke
from tests.cli.test_store_commands import node_key

KEYS = SIX | {"would_send", "estimates"}
CODE = "Write a Python function that merges overlapping intervals, without using sort, in at most 20 lines."
QUESTIONS = {
    "short": ("What is the capital of France?",),
    "long": (COMPLEX,),
    "code": (CODE,),
    "mail": ("-f", "mail.eml", "Compare the two offers."),
    "file": ("-f", "notes.txt", COMPLEX),
    "found": ("My IBAN is DE89370400440532013000, what does DE stand for?",),
    "device": ("--policy", "prefer_on_device", CODE),
    "cloud": ("--policy", "prefer_private_cloud", "hello there"),
    "only": ("--private-cloud", "-s", "Be brief.", "hello there"),
}


def explained(scene: Scene, *words: str) -> dict[str, object]:
    result = invoke(scene, "explain", "--json", *words)
    assert result.exit_code == 0, result.output
    value: dict[str, object] = json.loads(result.stdout)
    return value


@pytest.mark.parametrize("words", QUESTIONS.values(), ids=QUESTIONS)
def test_explain_agrees_with_what_ask_then_does(words: tuple[str, ...]) -> None:
    scene = node_scene()
    assert scene.node is not None
    said = explained(scene, *words)
    assert set(said) == KEYS
    assert (scene.node.contacts, scene.device.requests) == (0, [])
    asked = json.loads(invoke(scene, "ask", "--json", *words).stdout)
    asked["decision"]["signals"].pop("cascade", None)  # what the answer itself has shown since
    assert {key: asked["decision"][key] for key in SIX} == {key: said[key] for key in SIX}
    send, egress = said["would_send"], asked["egress"]
    assert isinstance(send, dict)
    assert send["leaves"] == (egress is not None)
    if egress is not None:
        assert {p["source"] for p in send["segments"]} == {p["source"] for p in egress["segments"]}
        assert (send["bytes_plain"], send["node"]) == (egress["bytes_plain"], egress["node"])
        assert egress["bytes_plain"] < egress["bytes_wire"] <= send["bytes_wire"] * 1.01


def test_what_a_label_keeps_would_not_be_sent() -> None:
    for words, source in ((QUESTIONS["mail"], "mail.eml"), (QUESTIONS["found"], "prompt")):
        send = explained(node_scene(), *words)["would_send"]
        assert isinstance(send, dict)
        assert (send["leaves"], send["held_by"], send["segments"], send["bytes_wire"]) == (False, source, [], 0)


def test_there_is_an_estimate_for_each_route_that_is_set_up_and_it_says_what_it_does_not_know() -> None:
    both, one = explained(node_scene(), "hello there")["estimates"], explained(Scene(), "hello there")["estimates"]
    assert isinstance(both, list)
    assert isinstance(one, list)
    assert [e["route"] for e in both] == ["on_device", "private_cloud"]
    assert [e["route"] for e in one] == ["on_device"]
    assert [e["unknown"] for e in both] == [["seconds"], ["seconds", "money"]]
    assert both[1]["bytes"] > both[0]["bytes"] == 0


def test_no_word_of_a_question_or_a_file_is_shown(own_world: Path) -> None:
    (own_world / "secret.txt").write_text("canary-file")
    (own_world / "secret.eml").write_text("From: a@example.org\nSubject: canary-subject\n\ncanary-mail\n")
    for name in ("secret.txt", "secret.eml"):
        for how in ((), ("--json",)):
            out = invoke(node_scene(), "explain", *how, "-f", name, "-s", "canary-system", "canary-question").output
            assert name in out
            assert "canary" not in out


def shown(width: int, *, colour: bool = False) -> str:
    scene = node_scene()
    screen = Screen(colour=colour, tty=True, live=True, width=width)
    with scene.client(price=0.02, budget=0.2) as client:
        notes = Source(label="notes.txt", text="Some notes. " * 50, kind="file")
        texts = [preview_text(client.preview(q, sources=(notes,)), screen) for q in ("hello there", CODE, COMPLEX)]
    return "\n\n".join(texts)


@pytest.mark.parametrize("width", [80, 100])
def test_every_line_fits_the_screen_and_names_stand_in_one_column(width: int) -> None:
    lines = shown(width).splitlines()
    assert max(map(len, lines)) <= width
    assert all(re.match(r"(\w[\w ]{0,10}| {11}) \S|            .*\S|$", line) for line in lines)
    assert not any(re.search(r"\[\w+:?$", line) for line in lines)  # a code is never torn apart


def test_colour_adds_nothing_but_colour() -> None:
    painted = shown(80, colour=True)
    assert "\x1b[" in painted
    assert re.sub(r"\x1b\[\d+m", "", painted) == shown(80)
    assert "\x1b" not in shown(80)


def test_a_probability_is_shown_only_where_it_is_calibrated() -> None:
    text = shown(100)
    assert "not calibrated" in text
    assert "of 100 such" not in text


WATCHED = """
import sys
seen = []
WATCHED = {"socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.sendmsg", "subprocess.Popen"}
sys.addaudithook(lambda name, args: seen.append(name) if name in WATCHED else None)
from hybrid.cli import main
try:
    main(sys.argv[1:], standalone_mode=False)
except BaseException as error:
    print(type(error).__name__, file=sys.stderr)
loaded = sorted({"mlx", "mlx_lm", "grpc", "numpy"} & set(sys.modules))
print("SEEN", sorted(set(seen)), loaded, file=sys.stderr)
"""


def watched(*words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    child = subprocess.run(
        [sys.executable, "-c", WATCHED, *words], capture_output=True, text=True, env=environment, check=True, timeout=60
    )
    return child.stderr


def test_explaining_opens_no_socket_and_loads_no_model_library() -> None:
    node = ("--node", "127.0.0.1:1", "--node-key", node_key())
    for question in ("hello there", CODE):
        assert "SEEN [] []" in watched("explain", *node, question)
    assert "socket.getaddrinfo" in watched("ask", "--private-cloud", *node, CODE)


def test_before_any_model_is_downloaded_it_says_what_would_be_with_one(own_world: Path) -> None:
    words = [sys.executable, "-m", "hybrid", "explain"]
    env = {"PATH": os.environ["PATH"], "HOME": str(own_world / "nobody"), "HYBRID_OFFLINE": "1"}
    files = [*map(str, own_world.iterdir())]
    done = subprocess.run(
        [*words, "--json", "two"], env=env, cwd=own_world, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert set(said) == KEYS | {"lacks"}
    assert (said["route"], said["lacks"]) == ("on_device", "hybrid pull starter")
    assert "nobody can answer yet" in done.stderr
    assert [*map(str, own_world.iterdir())] == files  # nothing was made
    only = [*words, "--private-cloud", "two"]  # what a model would not help still fails
    assert subprocess.run(only, env=env, cwd=own_world, capture_output=True, check=False).returncode == 4


def test_a_projects_budget_of_money_without_a_price_is_told_with_who_set_it(own_world: Path) -> None:
    (own_world / "hybrid.toml").write_text('budget = "20/month"\n')
    result = invoke(Scene(), "explain", "hello")
    assert result.exit_code == 2
    assert "(set by hybrid.toml in this folder) needs a price" in result.output
    assert "1,000 tokens" in result.output  # what to do
