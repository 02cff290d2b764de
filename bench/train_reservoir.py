"""Write ``hybrid/routing/weights/reservoir-1.json``: rows of numbers against forgetting, the same bytes every time.

Rows are drawn by the hash of their id from the files that may ship as weights without conditions (ORIGINS.md): the
labelled pairs but llmrouter in equal parts, and as many assistant utterances. Counts, buckets and labels; no text.

    python bench/train_reservoir.py [--check]
"""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from _sets import Row, assistant, pairs

from hybrid.routing.features import extract
from hybrid.routing.reservoir import ASSISTANT, FeatureRow, Labelled, Reservoir

FILE = Path(__file__).resolve().parent.parent / "hybrid/routing/weights/reservoir-1.json"
PART = 200
SETS = ("mmlu", "mmlu_pro", "crux")
SOURCES = ("routellm_mmlu", "mmlu_pro_multi_model", "mmlu_pro_after", "zeroeval_crux", "clinc150", "banking77", "hwu64")


def drawn(rows: Sequence[Row], count: int) -> list[Row]:
    """Return so many rows, those whose ids hash lowest."""
    return sorted(rows, key=lambda r: hashlib.sha256(f"reservoir|{r.id}".encode()).digest())[:count]


def labelled(name: str, row: Row) -> Labelled:
    after = {k: float(v) for k, v in row.after.items()} if row.after else None
    features = FeatureRow.of(extract(row.prompt))
    return Labelled(set=name, row=features, weak=float(row.weak), strong=float(row.strong), after=after)


def build() -> bytes:
    hard = pairs()
    rows = [labelled(name, row) for name in SETS for row in drawn(hard[name], PART)]
    easy = [labelled(ASSISTANT, row) for row in drawn(assistant(), PART * len(SETS))]
    return Reservoir((*rows, *easy), SOURCES).to_bytes()


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the reservoir of the router.")
    parser.add_argument("--check", action="store_true", help="only say whether the file is what would be written")
    data = build()
    if parser.parse_args().check:
        same = FILE.exists() and FILE.read_bytes() == data
        print("the reservoir is up to date" if same else "the reservoir differs: python bench/train_reservoir.py")
        return 0 if same else 1
    FILE.write_bytes(data)
    print(f"{FILE.name}: {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
