"""Keep generated parts of the documents true: help texts, included examples, metrics, the tree.

A generated part stands between ``<!-- begin NAME ARG -->`` and ``<!-- end NAME -->``.
``--check`` compares instead of writing and fails on a difference.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PART = re.compile(r"(<!-- begin (\w+) (.+?) -->\n)(.*?)(<!-- end \2 -->)", re.DOTALL)
WIDTH = 96
BIN = Path(sys.executable).parent


def include(name: str) -> str:
    """Give a file as a fenced block, without its module docstring's first lines."""
    return f"```python\n{(ROOT / name).read_text().rstrip()}\n```\n"


def help_text(command: str) -> str:
    """Give what ``COMMAND --help`` prints, at 100 columns."""
    words = command.split()
    env = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    run = subprocess.run(
        [BIN / words[0], *words[1:], "--help"], env=env, capture_output=True, text=True, check=True, cwd=ROOT
    )
    return f"```text\n{run.stdout.rstrip()}\n```\n"


def first_sentence(file: Path) -> str:
    doc = ast.get_docstring(ast.parse(file.read_text())) or ""
    line = doc.split("\n", 1)[0].rstrip(".")
    return line if len(line) <= WIDTH else line[: WIDTH - 4].rsplit(" ", 1)[0] + " ..."


def tree(package: str) -> str:
    """Give one line a module: its path and its docstring's first line."""
    files = [f for f in sorted((ROOT / package).rglob("*.py")) if "v1" not in f.parts and f.name != "__main__.py"]
    rows = [(str(f.relative_to(ROOT)), first_sentence(f)) for f in files]
    width = max(len(name) for name, _ in rows)
    return "```text\n" + "".join(f"{name:<{width}}  {doc}\n" for name, doc in rows) + "```\n"


def meters(_: str) -> str:
    """Give one row a metric, from the node's own table."""
    sys.path.insert(0, str(ROOT))
    from pcc_server.meters import METERS, PREFIX

    rows = [
        f"| `{PREFIX}{meter.name}` | {meter.shape} | {', '.join(meter.labels)} | {meter.words} |\n"
        for meter in METERS.values()
    ]
    return "| metric | kind | labels | means |\n|---|---|---|---|\n" + "".join(rows)


PARTS = {"include": include, "help": help_text, "meters": meters, "tree": tree}


def render(text: str) -> str:
    return PART.sub(lambda m: m[1] + PARTS[m[2]](m[3]) + m[5], text)


def main() -> int:
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    stale = []
    for document in documents:
        old = document.read_text()
        new = render(old)
        if new != old:
            stale.append(str(document.relative_to(ROOT)))
            if "--check" not in sys.argv:
                document.write_text(new)
    if stale and "--check" in sys.argv:
        print(f"out of date: {', '.join(stale)}; run make docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
