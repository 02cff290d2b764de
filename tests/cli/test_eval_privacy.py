"""``hybrid eval privacy``: one line per row, offsets of the original, a wrong row named by its line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hybrid.cli import main


def rows(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def run(data: Path, out: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["eval", "privacy", "--data", str(data), "--out", str(out), *more])


def read(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_spans_types_and_verdict_of_each_row(tmp_path: Path) -> None:
    texts = ["pay 4111 1111 1111 1111 😀 a@b.org", "hello", "ping 10.0.0.1"]
    data = rows(tmp_path / "rows", *(json.dumps({"id": n, "text": t}) for n, t in enumerate(texts)))
    assert run(data, tmp_path / "out").exit_code == 0
    first = [{"start": 4, "end": 23, "type": "CREDIT_CARD"}, {"start": 26, "end": 33, "type": "EMAIL_ADDRESS"}]
    assert read(tmp_path / "out") == [
        {"id": 0, "private": True, "spans": first},
        {"id": 1, "private": False, "spans": []},
        {"id": 2, "private": False, "spans": [{"start": 5, "end": 13, "type": "IP_ADDRESS"}]},
    ]  # fmt: skip


def test_the_result_holds_none_of_the_text(tmp_path: Path) -> None:
    data = rows(tmp_path / "rows", json.dumps({"id": "a", "text": "zanzibar, mail a@zanzibar.org"}))
    result = run(data, tmp_path / "out")
    assert "zanzibar" not in result.output + (tmp_path / "out").read_text()


def test_strict_finds_names_too(tmp_path: Path) -> None:
    data = rows(tmp_path / "rows", json.dumps({"id": 1, "text": "Dr. Ann Lee called"}))
    run(data, tmp_path / "plain")
    run(data, tmp_path / "strict", "--strict")
    assert [row["private"] for name in ("plain", "strict") for row in read(tmp_path / name)] == [False, True]


BAD = [
    '{"id": 1}',
    '{"text": "x"}',
    '{"id": 1, "text": 5}',
    '["x"]',
    "zanzibar",
    '{"id": [], "text": "x"}',
    "[" * 100_000,
]


@pytest.mark.parametrize("bad", BAD, ids=lambda b: b[:12])
def test_a_wrong_row_ends_it_with_2_and_names_its_line_only(tmp_path: Path, bad: str) -> None:
    good = json.dumps({"id": 1, "text": "hello"})
    result = run(rows(tmp_path / "rows", good, "", bad, good), tmp_path / "out")
    assert result.exit_code == 2
    assert "line 3" in result.stderr
    assert "zanzibar" not in result.output


def test_bytes_that_are_no_text_are_a_wrong_row(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(b'{"id": 1, "text": "\xff"}\n')
    result = run(tmp_path / "rows", tmp_path / "out")
    assert (result.exit_code, "line 1" in result.stderr) == (2, True)


def test_half_of_a_pair_is_read_like_any_text(tmp_path: Path) -> None:
    data = rows(tmp_path / "rows", r'{"id": "\ud800", "text": "\ud800 a@b.org"}')
    assert run(data, tmp_path / "out").exit_code == 0
    assert read(tmp_path / "out")[0]["private"] is True


def test_data_are_never_written_over(tmp_path: Path) -> None:
    data = rows(tmp_path / "rows", json.dumps({"id": 1, "text": "hello"}))
    assert run(data, data).exit_code == 2
    assert "hello" in data.read_text()


def test_a_missing_file_is_said_in_a_sentence(tmp_path: Path) -> None:
    result = run(tmp_path / "nowhere", tmp_path / "out")
    assert (result.exit_code, "Traceback" in result.output) == (2, False)
    assert "nowhere cannot be read: No such file or directory" in result.stderr


def test_it_runs_offline_with_an_empty_home_and_loads_no_model(tmp_path: Path) -> None:
    data = rows(tmp_path / "rows", json.dumps({"id": 1, "text": "a@b.org"}))
    code = (
        "import sys; from hybrid.cli import main;"
        " main(['eval', 'privacy', '--data', sys.argv[1], '--out', sys.argv[2]], standalone_mode=False);"
        " assert not {'mlx', 'grpc', 'numpy', 'torch'} & set(sys.modules)"
    )
    env = {"HOME": str(tmp_path / "home"), "HYBRID_OFFLINE": "1", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code, str(data), str(tmp_path / "out")],
        env=env,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "out")[0]["private"] is True
