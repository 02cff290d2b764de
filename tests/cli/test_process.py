import os
import signal
import subprocess
import time

from tests.cli.processes import PATIENCE_S, Terminal, start

QUESTION = "What is the capital of France?"


def read_until(process: "subprocess.Popen[bytes]", text: bytes) -> bytes:
    assert process.stdout is not None
    got = b""
    while text not in got:
        piece = os.read(process.stdout.fileno(), 4096)
        assert piece, got
        got += piece
    return got


def test_ctrl_c_keeps_the_partial_answer_says_so_and_exits_130() -> None:
    process = start("slow", "ask", QUESTION)
    seen = read_until(process, b"word3 ")
    process.send_signal(signal.SIGINT)
    rest, talk = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert (seen + rest).startswith(b"word1 word2 word3 ")
    assert (seen + rest).endswith(b"\n")
    assert b"word200" not in rest
    assert b"stopped, " in talk
    assert b"slot freed" in talk
    assert b"Traceback" not in talk


def test_ctrl_c_stops_an_answer_that_comes_from_the_node() -> None:
    process = start("slow-node", "ask", "--private-cloud", QUESTION)
    read_until(process, b"word2 ")
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert b"slot freed" in talk


def test_ctrl_c_under_json_prints_the_partial_reply_as_cancelled() -> None:
    process = start("slow", "ask", "--json", QUESTION)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert b'"finish_reason": "cancelled"' in out


def test_a_reader_that_leaves_ends_the_generation_quietly() -> None:
    process = start("slow", "ask", QUESTION)
    read_until(process, b"word2 ")
    assert process.stdout is not None
    process.stdout.close()
    begun = time.monotonic()
    process.wait(PATIENCE_S)
    assert time.monotonic() - begun < 5  # 200 words would take ten seconds
    assert process.returncode == 0
    assert process.stderr is not None
    with process.stderr as talk:
        assert talk.read() == b""


def test_a_full_disk_behind_stdout_is_an_error_not_a_success() -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        process = start("device", "ask", QUESTION, stdout=full)
        _, talk = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert b"No space left" in talk


def test_stdout_holds_the_same_bytes_with_and_without_a_badge_streamed_or_not() -> None:
    variants = [
        ("ask", QUESTION),
        ("ask", "-v", QUESTION),
        ("ask", "--no-stream", QUESTION),
        ("ask", "--color", "always", "-v", QUESTION),
    ]
    outputs = {start("device", *words).communicate(timeout=PATIENCE_S)[0] for words in variants}
    assert outputs == {b"Paris is the capital.\n"}


def test_a_terminal_shows_the_badge_and_a_pipe_gets_the_answer_alone() -> None:
    reader, writer = os.pipe()
    with Terminal("device", "ask", QUESTION, stdout=writer) as terminal:
        os.close(writer)
        terminal.type("\x04")  # nothing typed: stdin is the terminal, so it is not read
        terminal.wait_for("on device")
        assert terminal.end() == 0
    with os.fdopen(reader, "rb") as pipe:
        assert pipe.read() == b"Paris is the capital.\n"


def test_colour_follows_the_terminal_no_color_and_the_option() -> None:
    shown = {}
    for name, term, words in (("xterm", "xterm", ()), ("dumb", "dumb", ()), ("never", "xterm", ("--color", "never"))):
        with Terminal("device", "ask", *words, QUESTION, term=term) as terminal:
            terminal.end()
            shown[name] = terminal.shown
    assert "\x1b[32m● on device" in shown["xterm"]
    assert "\x1b" not in shown["dumb"]
    assert "\x1b[3" not in shown["never"]
    assert all("● on device" in text for text in shown.values())


def test_no_color_switches_colour_off_on_a_terminal_that_has_it() -> None:
    with Terminal("device", "ask", QUESTION, no_color="1") as terminal:
        terminal.end()
        assert "● on device" in terminal.shown
        assert "\x1b[3" not in terminal.shown


def test_control_characters_of_an_answer_never_reach_a_terminal_but_do_reach_a_pipe() -> None:
    with Terminal("escapes", "ask", QUESTION) as terminal:
        terminal.end()
        assert "red \ufffd[31m bell \ufffd end" in terminal.shown
    out, _ = start("escapes", "ask", QUESTION).communicate(timeout=PATIENCE_S)
    assert out == b"red \x1b[31m bell \x07 end\n"


def test_a_closed_stdin_is_no_question_asked() -> None:
    process = start("device", "ask", QUESTION, before=("bash", "-c", 'exec "$@" <&-', "-"))
    out, talk = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (0, b"Paris is the capital.\n"), talk
