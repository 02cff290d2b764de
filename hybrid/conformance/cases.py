"""One vector as a value: bytes in, an outcome's name and the bytes that must come out. Ours are read here."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Values = dict[str, Any]

SUCCESS = "success"
RANDOMISED = "randomised"  # the generator's own memory, no vectors
OURS = Path(__file__).resolve().parents[2] / "protos" / "vectors"

# Strings are hexadecimal, except under these names.
TEXT = frozenset(
    {
        *("label", "format", "vkey", "deployment", "model_id", "finish", "text", "path", "policy"),
        *("bank", "products", "trust"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One vector. ``kind`` says what to do with ``given``; ``output`` is compared where ``expect`` is ``success``.

    given, output: JSON values; strings are hexadecimal except under the names in ``TEXT``.
    """

    suite: str
    name: str
    section: str
    kind: str
    given: Values = field(repr=False)
    expect: str
    output: Values = field(default_factory=dict, repr=False)

    @property
    def accepts(self) -> bool:
        """Whether an implementation must take this input."""
        return self.expect == SUCCESS

    def question(self) -> Values:
        """Return what an implementation under test is told: everything but the answer."""
        return {"suite": self.suite, "id": self.name, "section": self.section, "kind": self.kind, "input": self.given}

    def record(self) -> Values:
        """Return the whole case as one line of the exported suite."""
        return {**self.question(), "expect": self.expect, "output": self.output}


def own_cases(folder: Path = OURS) -> Iterator[Case]:
    """Yield the vectors of ``protos/vectors``, file by file. Raises FileNotFoundError when there are none."""
    files = sorted(path for path in folder.glob("*.json") if path.stem != RANDOMISED)
    if not files:
        raise FileNotFoundError(f"no vectors in {folder}: they lie in protos/vectors of a checkout")
    for path in files:
        for vector in json.loads(path.read_text("utf-8"))["vectors"]:
            yield own_case(path.stem, vector)


def own_case(suite: str, vector: Mapping[str, Any]) -> Case:
    """Return one entry of a vector file as a case."""
    return Case(
        suite=suite,
        name=vector["name"],
        section=vector["section"],
        kind=vector["kind"],
        given=vector["input"],
        expect=vector["expect"],
        output=vector.get("output", {}),
    )


def from_hex(value: Any, name: str = "") -> Any:
    """Turn hexadecimal strings into bytes, all the way down. Raises ValueError for what is not hexadecimal."""
    if isinstance(value, dict):
        return {key: from_hex(member, key) for key, member in value.items()}
    if isinstance(value, list):
        return [from_hex(member, name) for member in value]
    return bytes.fromhex(value) if isinstance(value, str) and name not in TEXT else value


def to_hex(value: Any) -> Any:
    """Turn bytes into hexadecimal, all the way down."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {key: to_hex(member) for key, member in value.items()}
    return [to_hex(member) for member in value] if isinstance(value, list | tuple) else value
