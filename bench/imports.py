"""CPU time of ``import hybrid`` and ``hybrid --help``, beside a bare interpreter, in one run.

Each figure is user + system time of a whole child process, the median of alternating runs.
"""

import resource
import subprocess
import sys
from pathlib import Path

from _rows import row

RUNS = 11
HYBRID = Path(sys.executable).with_name("hybrid")
COMMANDS = {
    "bare": [sys.executable, "-c", "pass"],
    "import hybrid": [sys.executable, "-c", "import hybrid"],
    "hybrid --help": [str(HYBRID), "--help"],
}
LIMIT_MS = {"import hybrid": 150, "hybrid --help": 200}


def cpu_ms(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def main() -> None:
    for command in COMMANDS.values():
        cpu_ms(command)  # bytecode and page cache
    samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        for name, command in COMMANDS.items():
            samples[name].append(cpu_ms(command))
    for name, limit in LIMIT_MS.items():
        note = {"limit": limit, "baseline_name": "python -c pass"}
        row(name, ours=samples[name], baseline=samples["bare"], unit="ms CPU", smaller_is_better=True, **note)


if __name__ == "__main__":
    main()
