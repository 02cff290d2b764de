"""Scenes the command line is tested in: real client, routing, gate and sealing; scripted engines, a node in memory."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hybrid.cli.door import Doors
from hybrid.client import Client
from hybrid.errors import HybridError
from hybrid.own_node import OwnNode
from hybrid.testing import FakeEngine, MemoryTransport, Wait
from hybrid.wire.errors import ErrorCode, SealedCode

COMPLEX = "Make a step-by-step plan to organise a birthday party for ten children: invitations, food, games and budget."
SLOW = [step for i in range(1, 201) for step in (f"word{i} ", Wait(0.05))]


@dataclass
class Scene:
    """A device and, maybe, a node."""

    device: FakeEngine = field(default_factory=lambda: FakeEngine(["Paris is the capital.\n"]))
    node: MemoryTransport | None = None

    @property
    def doors(self) -> Doors:
        return Doors(client=self.client, own_node=lambda _: OwnNode.start(engine="fake"))

    def client(self, **given: Any) -> Client:
        given |= {"engine": self.device, "max_retries": 0}
        if self.node is not None:
            given |= {"node": None, "transport": self.node, "trust": self.node.policy}
        return Client(**given)


def node_scene(fault: str | HybridError | ErrorCode | SealedCode | None = None) -> Scene:
    answer = FakeEngine(["A plan in four steps."], model_id="fake-node")
    return Scene(node=MemoryTransport(answer, fault=fault))


SCENES: dict[str, Callable[[], Scene]] = {
    "device": Scene,
    "slow": lambda: Scene(device=FakeEngine([SLOW])),
    "slow-node": lambda: Scene(node=MemoryTransport(FakeEngine([SLOW], model_id="fake-node"))),
    "narrow": lambda: Scene(device=FakeEngine(["never"], context_size=8)),
    "escapes": lambda: Scene(device=FakeEngine(["red \x1b[31m bell \x07 end"])),
    "talk": lambda: Scene(device=FakeEngine(["First.", "Second.", "Third.", "Fourth."])),
    "broken": lambda: Scene(device=FakeEngine([["some text ", RuntimeError("canary-in-the-error")]])),
    "node": node_scene,
    "own-node": Scene,
    **{name: lambda name=name: node_scene(name) for name in ("cut_stream", "flip_bit", "other_key", "no_directory")},
    **{str(code).lower(): lambda code=code: node_scene(code) for code in ErrorCode},
    "context-length": lambda: node_scene(SealedCode.CONTEXT_LENGTH),
}


if __name__ == "__main__":  # a real process: tests/cli/scenes.py SCENE WORDS...
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    from hybrid.cli import main

    main(sys.argv[2:], prog_name="hybrid", obj=None if sys.argv[1] == "real" else SCENES[sys.argv[1]]().doors)
