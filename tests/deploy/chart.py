"""The chart, rendered by render.go: Go's template engine with Debian's sprig, as helm has them."""

import os
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from pcc_server.config import Settings
from pcc_server.settings_file import effective, from_file

HERE = Path(__file__).parent
CHART = HERE.parents[1] / "deploy" / "helm" / "hybrid-pcc"
GO_LIBRARIES = Path("/usr/share/gocode")

NEED_GO = pytest.mark.skipif(
    not (shutil.which("go") and (GO_LIBRARIES / "src/github.com/Masterminds/sprig").is_dir()),
    reason="the Debian packages golang-go, golang-github-masterminds-sprig-dev, golang-gopkg-yaml.v3-dev are missing",
)


@cache
def renderer(folder: Path) -> Path:
    """Build it once."""
    program = folder / "render"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GO_LIBRARIES), "GOCACHE": str(folder / "cache")}
    subprocess.run(["go", "build", "-o", program, HERE / "render.go"], env=environment, check=True, timeout=120)
    return program


def run(program: Path, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    words = [program, CHART, "pcc", "prod"]
    return subprocess.run(words, input=yaml.safe_dump(values), capture_output=True, text=True, check=False, timeout=30)


def manifests(program: Path, values: dict[str, Any]) -> list[dict[str, Any]]:
    done = run(program, values)
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def settings_from(text: str) -> Settings:
    """What the node makes of a settings file."""
    return effective(from_file(tomllib.loads(text), "node.toml"), store="/models").settings
