"""Makes ``protos/vectors/*.json`` with the library itself; ``--check`` compares instead of writing.

Key packages and ML-DSA signatures are randomised inside the library. They are kept in
``randomised.json`` under a digest of what they were made from, so everything else comes out the same.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "protos" / "vectors"
sys.path.insert(0, str(ROOT))

import vector_cases  # noqa: E402 - beside this script, needs the path above


class Kept:
    """Randomised bytes by digest of their inputs; makes what is not there yet."""

    def __init__(self, path: Path) -> None:
        self._known: dict[str, str] = json.loads(path.read_text("utf-8"))["made"] if path.exists() else {}
        self._used: dict[str, str] = {}

    def get(self, make: Any, *inputs: bytes) -> bytes:
        """Return the kept bytes for these inputs, or make them."""
        name = hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in inputs)).hexdigest()
        value: str = self._used.get(name) or self._known.get(name) or make().hex()
        self._used[name] = value
        return bytes.fromhex(value)

    def document(self) -> dict[str, Any]:
        """Return what was used, for ``randomised.json``."""
        about = "key packages and signatures that the library randomises, by digest of their inputs"
        return {"about": about, "made": dict(sorted(self._used.items()))}


def documents() -> dict[str, dict[str, Any]]:
    """All vector files by name."""
    kept = Kept(FOLDER / "randomised.json")
    made = {name: {"protocol": "hpcc/1", "vectors": cases} for name, cases in vector_cases.all_cases(kept.get).items()}
    return {**made, "randomised": kept.document()}


def main() -> int:
    """Write or compare; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    check = parser.parse_args().check
    texts = {f"{name}.json": json.dumps(document, indent=1) + "\n" for name, document in documents().items()}
    present = {path.name: path.read_text("utf-8") for path in FOLDER.glob("*.json")}
    differing = sorted(name for name in texts.keys() | present.keys() if texts.get(name) != present.get(name))
    if check:
        print(f"vectors differ: {', '.join(differing)}" if differing else f"vectors agree: {len(texts)} files")
        return 1 if differing else 0
    for name in differing:
        (FOLDER / name).write_text(texts[name], "utf-8") if name in texts else (FOLDER / name).unlink()
    print(f"vectors written: {', '.join(differing) or 'nothing new'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
