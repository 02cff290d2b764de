"""list, pull, doctor and the real client over an empty store; nothing here uses the network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hybrid.cli import COMMANDS, main


def invoke(*words: str, piped: str | None = None) -> Result:
    return CliRunner().invoke(main, [*words], input=piped)


def test_list_shows_the_catalogue_and_what_is_missing() -> None:
    value = json.loads(invoke("list", "--json").stdout)
    starter = next(m for m in value["models"] if m["id"] == "smollm2-135m")
    assert (starter["installed"], value["default"]) == (False, None)
    assert "hybrid pull starter" in invoke("list").stderr


def test_show_and_rm_of_a_model_that_is_not_there_are_unavailable() -> None:
    for command in ("show", "rm"):
        result = invoke("list", command, "starter")
        assert result.exit_code == 4
        assert "hybrid pull" in result.stderr


def test_an_unknown_model_is_refused_with_the_nearest_name() -> None:
    for words in (("pull", "startr"), ("list", "show", "startr"), ("ask", "-m", "startr", "Hello you")):
        result = invoke(*words)
        assert result.exit_code == 2, words
        assert "starter" in result.stderr, words


def test_asking_without_a_model_says_what_to_pull() -> None:
    result = invoke("ask", "Hello you")
    assert result.exit_code == 4
    assert "hybrid pull" in result.stderr
    assert result.stdout == ""


def test_a_label_that_says_device_without_a_model_is_no_route() -> None:
    result = invoke("ask", "-f", "mail.eml", "--node", "127.0.0.1:1", "--node-key", node_key(), "Summarise.")
    assert result.exit_code == 4
    assert "hybrid pull" in result.stderr


def node_key() -> str:
    from hybrid.wire.note import NoteSigner

    return NoteSigner.generate("localhost/directory").vkey


def test_a_node_that_is_not_there_is_unavailable() -> None:
    result = invoke("ask", "--private-cloud", "--node", "127.0.0.1:1", "--node-key", node_key(), "Hello you")
    assert result.exit_code == 4
    assert "127.0.0.1:1" in result.stderr


def test_a_licence_that_must_be_accepted_is_not_accepted_in_silence() -> None:
    result = invoke("pull", "llama-3.2-3b")
    assert result.exit_code in (2, 4)  # 4 where it does not fit this machine
    assert "--yes" in result.stderr or "--force" in result.stderr


def test_a_pull_says_licence_size_and_memory_before_the_first_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    from device import store

    fetched: list[str] = []

    def refuse(job: object) -> str:
        from device.errors import FetchFailed

        fetched.append("asked")
        raise FetchFailed("no network")

    monkeypatch.setitem(store.FETCHES.copy(), "wheel", refuse)
    monkeypatch.setattr(store, "FETCHES", {"wheel": refuse, "hub": refuse})
    monkeypatch.setattr(
        store.Store.__init__, "__kwdefaults__", {**store.Store.__init__.__kwdefaults__, "fetches": store.FETCHES}
    )
    result = invoke("pull", "starter")
    assert (result.exit_code, fetched) == (4, ["asked"])
    assert "licence Apache-2.0" in result.stderr
    assert "will use" in result.stderr
    assert result.stderr.index("will use") < result.stderr.index("no network")


def test_a_folder_that_is_no_model_is_refused(own_world: Path) -> None:
    (own_world / "empty").mkdir()
    result = invoke("pull", "./empty")
    assert result.exit_code in (2, 4)
    assert invoke("pull", "./absent").exit_code == 2


def test_doctor_names_every_check_and_fails_without_a_model() -> None:
    result = invoke("doctor", "--json")
    checks = {c["name"]: c for c in json.loads(result.stdout)["checks"]}
    assert {
        "python",
        "mlx path",
        "store",
        "default model",
        "disk",
        "memory",
        "node packages",
        "readings",
        "receipts",
        "nodes",
        "log",
    } == set(checks)
    assert all(c["what"] and c["why"] for c in checks.values())
    assert checks["default model"]["status"] == "fail"
    assert checks["default model"]["fix"] == "hybrid pull starter"
    assert result.exit_code == 4


def test_doctor_for_people_gives_each_fix_on_a_line() -> None:
    assert "fix: hybrid pull starter" in invoke("doctor").stdout


def test_version_names_protocol_engine_and_model() -> None:
    shown = invoke("--version").stdout
    for word in ("hybrid", "protocol", "engine", "mlx", "model", "measurement"):
        assert word in shown


@pytest.mark.parametrize("words", [["--help"], ["ask", "--help"], ["--version"], ["explain", "Hello you"]])
def test_light_commands_load_no_model_runtime(words: list[str]) -> None:
    code = (
        "import sys; from hybrid.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        "print(sorted({'mlx', 'mlx_lm', 'grpc', 'numpy', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"


def test_the_sentence_in_the_table_is_the_one_of_the_command() -> None:
    for name, (module, sentence) in COMMANDS.items():
        command = __import__(module, fromlist=["command"]).command
        assert command.name == name
        assert command.get_short_help_str(200) == sentence, name
