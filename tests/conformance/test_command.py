"""``python -m hybrid.wire.conformance``: counts, exit status, export, and another implementation on stdin."""

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid.conformance.cases import OURS
from hybrid.conformance.foreign import SUITES, THEIRS

DOOR = [sys.executable, "-m", "hybrid.wire.conformance"]
ROOT = Path(__file__).parents[2]


def _run(*words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*DOOR, *words], input=text, capture_output=True, text=True, check=False, cwd=ROOT)


def test_all_suites_run_and_the_counts_are_printed() -> None:
    done = _run()
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["suite", "accepts", "rejects", "wrong"]
    assert {line.split()[0] for line in lines} >= {*SUITES, "log", "attestation", "total"}
    name, accepts, rejects, wrong = lines[-1].split()
    assert (name, wrong) == ("total", "0")
    assert min(int(accepts), int(rejects)) > 100


def test_json_says_the_same_as_the_table() -> None:
    said = json.loads(_run("--json").stdout)
    assert said["disagreements"] == []
    for kind in ("accepts", "rejects"):
        assert said[kind] == sum(suite[kind] for suite in said["suites"])


def test_a_vector_that_lies_is_a_disagreement(tmp_path: Path) -> None:
    document = json.loads((OURS / "encoding.json").read_text("utf-8"))
    document["vectors"][0]["output"]["sha256"] = "00" * 32
    document["vectors"][-1]["expect"] = "success"
    (tmp_path / "encoding.json").write_text(json.dumps(document), "utf-8")
    done = _run("--own", "--vectors", str(tmp_path))
    assert done.returncode == 1
    wrong = [line for line in done.stdout.splitlines() if "expected" in line]
    assert len(wrong) == 2
    assert "success with another output" in wrong[0]


@pytest.mark.parametrize("option", ["--vectors", "--foreign"])
def test_vectors_that_are_absent_are_named_and_never_passed(option: str, tmp_path: Path) -> None:
    done = _run(option, str(tmp_path))
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_the_export_holds_every_case_with_its_answer() -> None:
    lines = [json.loads(line) for line in _run("--export").stdout.splitlines()]
    said = json.loads(_run("--json").stdout)
    assert len(lines) == said["accepts"] + said["rejects"]
    assert all(line.keys() == {"suite", "id", "section", "kind", "input", "expect", "output"} for line in lines)


def test_this_implementation_passes_as_another_one() -> None:
    done = _run("--against", shlex.join([*DOOR, "--serve"]))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


@pytest.mark.parametrize(
    "program",
    [
        'import sys\nfor line in sys.stdin: print(\'{"outcome": "success"}\', flush=True)',
        'import sys\nfor line in sys.stdin: print(\'{"outcome": "malformed"}\', flush=True)',
        "import sys\nfor line in sys.stdin: print('no JSON', flush=True)",
        "pass",
    ],
    ids=["accepts everything", "refuses everything", "talks nonsense", "ends at once"],
)
def test_an_implementation_that_does_not_look_is_found_out(program: str) -> None:
    """Positive control: neither yes to all nor no to all passes."""
    done = _run("--own", "--against", shlex.join([sys.executable, "-c", program]))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_question_does_not_hold_its_answer() -> None:
    answer = "print(json.dumps({'outcome': ' '.join(json.loads(line))}), flush=True)"
    spy = f"import sys, json\nfor line in sys.stdin: {answer}"
    done = _run("--own", "--against", shlex.join([sys.executable, "-c", spy]))
    assert "got suite id section kind input" in done.stdout


def test_a_command_that_does_not_exist_is_named() -> None:
    done = _run("--against", "no-such-implementation")
    assert done.returncode == 2
    assert "no-such-implementation" in done.stderr


def test_the_foreign_vectors_lie_where_the_documents_say() -> None:
    assert ROOT.parent / "shared" / "vectors" == THEIRS
