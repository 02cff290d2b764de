"""Fuzz the parsers of bytes from outside: ``python tests/fuzz/run.py --seconds 60 [--target T] [--engine atheris]``.

One line a target: executions reached, seconds, findings. Exit status 1 with a reproducer file for each finding.
"""

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

_BATCH = 200  # executions between two looks at the clock
_DONE = re.compile(r"Done (\d+) (?:runs )?in (\d+) second")
_LAST = re.compile(r"^#(\d+)\s", re.MULTILINE)
_MAX_BYTES = 65_536


def main(argv: Sequence[str]) -> int:
    """Run one target or all of them; returns 1 when one of them let an untyped error out."""
    options = _parser().parse_args(argv)
    if options.child:
        return _atheris_child(options.child, options.corpus, options.seconds)
    from tests.fuzz.targets import targets

    names = [options.target] if options.target else list(targets())
    say(f"{'target':<24}{'executions':>12}{'seconds':>9}  findings ({options.engine}, seed {options.seed})")
    engine = {"random": _random, "atheris": _atheris}[options.engine]
    found = 0
    for name in names:
        executions, seconds, finding = engine(name, options)
        say(f"{name:<24}{executions:>12,}{seconds:>9.1f}  {finding or 'none'}")
        found += bool(finding)
    return 1 if found else 0


def say(line: str) -> None:
    """Print one line at once, for whoever waits for it."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="for each target (default 10)")
    parser.add_argument("--target", help="one target instead of all")
    parser.add_argument("--engine", choices=("random", "atheris"), default="random")
    parser.add_argument("--seed", type=int, default=1, help="of the engine `random`")
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()), help="where reproducers go")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--corpus", help=argparse.SUPPRESS)
    return parser


Result = tuple[int, float, str]


def _random(name: str, options: argparse.Namespace) -> Result:
    from tests.fuzz.mutator import mutate
    from tests.fuzz.targets import targets

    target, rng = targets()[name], random.Random(options.seed)  # noqa: S311 - reproducible noise, not a secret
    start, executions = time.monotonic(), 0
    while time.monotonic() - start < options.seconds:
        for _ in range(_BATCH):
            data = mutate(rng, target.seeds)
            executions += 1
            try:
                target.attempt(data)
            except Exception:  # noqa: BLE001 - every untyped error is a finding
                return executions, time.monotonic() - start, _keep(name, data, options.keep)
    return executions, time.monotonic() - start, ""


def _keep(name: str, data: bytes, folder: Path) -> str:
    path = folder / f"fuzz-{name}-{len(data)}.bin"
    path.write_bytes(data)
    traceback.print_exc()
    return str(path)


def _atheris(name: str, options: argparse.Namespace) -> Result:
    """Run libFuzzer in a child: it ends its process, and instruments what the child imports."""
    from tests.fuzz.targets import targets

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(targets()[name].seeds):
            (Path(corpus) / f"seed{number}").write_bytes(seed)
        child = [sys.executable, __file__, "--child", name, "--corpus", corpus, "--seconds", str(options.seconds)]
        start = time.monotonic()
        done = subprocess.run(child, capture_output=True, text=True, check=False, cwd=options.keep)
        seconds = time.monotonic() - start
    said = done.stderr + done.stdout
    reached = _DONE.search(said)
    executions = int(reached[1]) if reached else max(map(int, _LAST.findall(said)), default=0)
    if done.returncode:
        sys.stderr.write(said[-4000:])
    return executions, seconds, f"see above (status {done.returncode})" if done.returncode else ""


def _atheris_child(name: str, corpus: str, seconds: float) -> int:
    import atheris

    with atheris.instrument_imports(include=["hybrid"]):
        from tests.fuzz.targets import targets
    target = targets()[name]

    def one(data: bytes) -> None:
        target.attempt(data)

    limits = [f"-max_total_time={max(1, round(seconds))}", f"-max_len={_MAX_BYTES}", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *limits, corpus], one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
