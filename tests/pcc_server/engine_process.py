"""The scripted engine as a process, and the settings of a node that stands before it."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pcc_server.config import Settings
from tests.pcc_server.node_client import until

SCRIPT = Path(__file__).with_name("scripted_engine.py")


class EngineProcess:
    """``with EngineProcess("vllm") as engine``: listens on ``engine.port``; ``engine.said`` is what it was asked."""

    def __init__(self, kind: str, *words: str) -> None:
        self.kind = kind
        self.uds = words[words.index("--uds") + 1] if "--uds" in words else ""
        self._process = subprocess.Popen([sys.executable, str(SCRIPT), kind, *words], stdout=subprocess.PIPE)
        self.said: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self.port: int = until(lambda: self.said, 20)[0]["port"]

    def _listen(self) -> None:
        assert self._process.stdout
        with self._process.stdout as lines:
            self.said.extend(json.loads(line) for line in lines)

    def settings(self, **more: Any) -> Settings:
        where = {"engine_uds": self.uds} if self.uds else {"engine_port": self.port}
        return Settings(**{"engine": "openai", "engine_kind": self.kind, **where, **more})

    def options(self, folder: Path, **tables: dict[str, Any]) -> tuple[str, ...]:
        """Options of a node before this engine: a settings file in ``folder``."""
        where = f'uds = "{self.uds}"' if self.uds else f"port = {self.port}"
        lines = ["[engine]", f'kind = "{self.kind}"', where]
        for table, values in tables.items():
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        path = folder / "node.toml"
        path.write_text("\n".join(lines) + "\n")
        return "--config", str(path)

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies of chat requests, without their messages."""
        return [line["asked"] for line in self.said if "asked" in line]

    @property
    def paths(self) -> list[str]:
        """Whatever was asked for, small things too."""
        return [line["path"] for line in self.said if "path" in line]

    @property
    def cancelled(self) -> int:
        return sum("cancelled" in line for line in self.said)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._thread.join(5)
