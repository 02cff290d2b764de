"""Build the wheel, install it beside a user's own ``device.py``, and show what it holds.

The foreign file must be named in the error and never run (house rule: a user may own that name).
"""

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"hybrid", "device", "pcc_server"}
PROBE = """
import hybrid
from hybrid.errors import ConfigurationError
try:
    hybrid.ask("hello there", policy="only_on_device")
except ConfigurationError as error:
    print(f"refused: {error}")
"""


def build(out: Path) -> Path:
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", out, ROOT], check=True)
    return next(out.glob("*.whl"))


def tops(wheel: Path) -> set[str]:
    names = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    return {name for name in names if not name.endswith(".dist-info")}


def foreign_device(wheel: Path, folder: Path) -> str:
    """Run the probe in a folder that holds a foreign device.py, with the wheel's files and our dependencies."""
    site = folder / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (folder / "device.py").write_text("print('FOREIGN CODE RAN')\n")
    (folder / "probe.py").write_text(PROBE)
    venv.create(folder / "env", with_pip=False)
    purelib = subprocess.run(
        [sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    lines = f"{site}\n{purelib}\n"
    next((folder / "env").glob("lib/python*/site-packages")).joinpath("probe.pth").write_text(lines)
    command = [folder / "env/bin/python", "probe.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False).stdout


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        if tops(wheel) != PACKAGES:
            print(f"the wheel holds {sorted(tops(wheel))}, wanted {sorted(PACKAGES)}", file=sys.stderr)
            return 1
        said = foreign_device(wheel, folder)
    if "FOREIGN" in said or not said.startswith("refused") or "device.py" not in said:
        print(f"a foreign device.py was not refused by name: {said!r}", file=sys.stderr)
        return 1
    print("wheel: three packages, a foreign device.py is refused by name and not run")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
