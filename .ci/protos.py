"""Regenerate the protocol stubs and our vectors; ``--check`` compares instead of writing."""

import filecmp
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = "hybrid/wire/v1/pcc.proto"
STUBS = ("hybrid/wire/v1/pcc_pb2.py", "hybrid/wire/v1/pcc_pb2.pyi")


def generate(out: Path) -> None:
    tool = [sys.executable, "-m", "grpc_tools.protoc", "-I", "protos", f"--python_out={out}", f"--pyi_out={out}", PROTO]
    subprocess.run(tool, cwd=ROOT, check=True)


def stale_stubs() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        return [s for s in STUBS if not filecmp.cmp(ROOT / s, Path(folder) / s, shallow=False)]


def main() -> int:
    check = "--check" in sys.argv
    if check and (stale := stale_stubs()):
        print(f"out of date: {', '.join(stale)}; run make protos", file=sys.stderr)
        return 1
    if not check:
        generate(ROOT)
    vectors = [sys.executable, ".ci/vectors.py", *(["--check"] if check else [])]
    return subprocess.run(vectors, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
