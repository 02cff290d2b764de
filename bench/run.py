"""Run every benchmark of this folder, one after another, and keep their JSON lines; ``train_*.py`` write weights.

``-k WORD`` narrows by file name. Lines go to stdout and to bench/results.jsonl.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OWN = {"run.py"}


def scripts(word: str) -> list[Path]:
    files = sorted(HERE.glob("[a-z]*.py"))
    return [f for f in files if f.name not in OWN and not f.name.startswith("train_") and word in f.name]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-k", default="", help="only scripts whose name holds this word")
    chosen = scripts(parser.parse_args().k)
    failed = 0
    with (HERE / "results.jsonl").open("w") as out:
        for script in chosen:
            print(f"# {script.name}", file=sys.stderr)
            with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=HERE) as run:
                for line in run.stdout or ():
                    print(line, end="", flush=True)
                    out.write(line)
            failed += run.returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
