from pathlib import Path

from click.testing import CliRunner

from hybrid.cli import main
from tests.cli.processes import Terminal
from tests.cli.scenes import COMPLEX, SCENES, node_scene


def test_a_short_conversation_on_a_terminal() -> None:
    with Terminal("talk", "chat") as terminal:
        terminal.wait_for("> ")
        terminal.type("hello there\n")
        terminal.wait_for("First.")
        terminal.wait_for("● on device")
        terminal.type("/why\n")
        terminal.wait_for("otherwise")
        terminal.type('"""one\ntwo"""\n')
        terminal.wait_for("Second.")
        terminal.type("/undo\n")
        terminal.wait_for("taken back")
        terminal.type("/retry\n")
        terminal.wait_for("nothing to ask again")
        terminal.type("/bye\n")
        assert terminal.end() == 0


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on() -> None:
    with Terminal("slow", "chat") as terminal:
        terminal.type("hello\n")
        terminal.wait_for("word3 ")
        terminal.interrupt()
        terminal.wait_for("slot freed")
        terminal.type("/help\n")
        terminal.wait_for("/bye")
        terminal.wait_for("> ")  # a Ctrl-D that comes before the line editor is lost
        terminal.type("\x04")
        assert terminal.end() == 0


def test_ctrl_c_twice_at_the_prompt_leaves() -> None:
    with Terminal("talk", "chat") as terminal:
        terminal.wait_for("> ")
        terminal.interrupt()
        terminal.wait_for("Ctrl-C again or Ctrl-D leaves")
        terminal.interrupt()
        assert terminal.end() == 130


def test_the_first_hand_over_asks_on_a_terminal_and_the_yes_holds() -> None:
    with Terminal("node", "chat") as terminal:
        terminal.wait_for("> ")
        terminal.type(COMPLEX + "\n")
        shown = terminal.wait_for("Allow this node for the rest of the session? [Y/n]")
        assert "NOT private from the operator" in shown
        assert "A plan" not in shown
        terminal.type("y\n")
        terminal.wait_for("A plan in four steps.")
        terminal.wait_for("▲ private cloud")
        terminal.type("/retry\n")
        again = terminal.wait_for("▲ private cloud")
        assert "Allow" not in again
        terminal.type("/bye\n")
        assert terminal.end() == 0


def test_a_no_keeps_the_question_on_the_device_and_says_so() -> None:
    with Terminal("node", "chat") as terminal:
        terminal.wait_for("> ")
        terminal.type(COMPLEX + "\n")
        terminal.wait_for("[Y/n]")
        terminal.type("n\n")
        shown = terminal.wait_for("■ kept on device")
        assert "Paris is the capital." in shown
        terminal.type("/bye\n")
        assert terminal.end() == 0


def test_a_declined_question_was_never_sent() -> None:
    scene = node_scene()
    assert scene.node is not None
    runner = CliRunner(env={"HYBRID_ON_HANDOFF": "never"})
    result = runner.invoke(main, ["ask", COMPLEX], obj=scene.doors)
    assert (result.exit_code, scene.node.sealed) == (0, [])
    control = CliRunner().invoke(main, ["ask", COMPLEX], obj=scene.doors)
    assert (control.exit_code, len(scene.node.sealed)) == (0, 1)


def test_piped_lines_are_questions_and_nothing_asks() -> None:
    scene = node_scene()
    result = CliRunner().invoke(main, ["chat"], input=f"{COMPLEX}\nhello\n", obj=scene.doors)
    assert result.stdout == "A plan in four steps.\nParis is the capital.\n"
    assert result.exit_code == 0


def test_nothing_is_written_unless_saved_and_what_is_saved_goes_on(own_world: Path) -> None:
    before = set(own_world.rglob("*"))
    scene = SCENES["talk"]()
    CliRunner().invoke(main, ["chat"], input="canary-question\n", obj=scene.doors)
    assert set(own_world.rglob("*")) == before
    result = CliRunner().invoke(main, ["chat"], input="canary-question\n/save talk.json\n", obj=SCENES["talk"]().doors)
    assert result.exit_code == 0
    saved = own_world / "talk.json"
    assert saved.stat().st_mode & 0o077 == 0
    assert "canary-question" in saved.read_text()
    later = SCENES["talk"]()
    CliRunner().invoke(main, ["chat"], input="/load talk.json\nand then?\n", obj=later.doors)
    assert later.device.requests[-1].messages[0].content == "canary-question"


def test_a_label_stays_with_the_conversation_after_the_file_was_read() -> None:
    scene = node_scene()
    assert scene.node is not None
    CliRunner().invoke(main, ["chat", "-f", "mail.eml"], input=f"Summarise.\n{COMPLEX}\n", obj=scene.doors)
    sent = [m.content for request in scene.node.requests for m in request.messages]
    assert not any("Offer one" in text for text in sent)


def test_every_slash_command_of_the_help_exists_and_says_something() -> None:
    for command in (
        "/help",
        "/route",
        "/why",
        "/retry",
        "/undo",
        "/clear",
        "/tokens",
        "/files",
        "/system",
        "/save",
        "/load",
    ):
        result = CliRunner().invoke(main, ["chat"], input=f"{command}\n", obj=SCENES["talk"]().doors)
        assert result.stderr.strip(), command
        assert result.stdout == "", command


def test_allow_lifts_what_was_recognised_in_the_last_question_and_nothing_else(own_world: Path) -> None:
    asked = f"{COMPLEX} Write to anna.smith@example.org about it."
    kept, lifted = node_scene(), node_scene()
    for scene, lines in ((kept, asked), (lifted, f"{asked}\n/allow")):
        result = CliRunner().invoke(main, ["chat"], input=f"{lines}\n", obj=scene.doors)
        assert result.stdout.startswith("Paris is the capital.\n")
        assert scene.node is not None
        assert len(scene.node.sealed) == (scene is lifted)
    mail = node_scene()
    CliRunner().invoke(main, ["chat", "-f", "mail.eml"], input=f"{COMPLEX}\n/allow\n", obj=mail.doors)
    assert mail.node is not None
    assert mail.node.sealed == []  # a source's own label can't be lifted


def test_retry_in_the_cloud_is_a_person_s_choice(own_world: Path) -> None:
    scene = node_scene()
    result = CliRunner().invoke(main, ["chat"], input="hello\n/retry cloud\n/why\n", obj=scene.doors)
    assert result.stdout == "Paris is the capital.\nA plan in four steps.\n"
    assert "overridden" in result.stderr


def test_what_a_person_lifted_stays_lifted_when_that_question_is_asked_again(own_world: Path) -> None:
    asked = "Write to anna.smith@example.org about it."

    def sent(*lines: str) -> int:
        scene = node_scene()
        CliRunner().invoke(main, ["chat"], input="\n".join(lines) + "\n", obj=scene.doors)
        assert scene.node is not None
        return len(scene.node.sealed)

    lifted = sent(asked, "/allow")
    assert sent(asked, "/retry cloud") == 0
    assert sent(asked, "/allow", "/retry cloud") == lifted + 1
    assert sent(asked, "/allow", asked, "/retry cloud") == lifted  # the next question is another one
