"""Both routes on this machine, over the four real inputs of ``examples/data``: what ``make demo`` runs.

Fetches the starter, starts a private node on loopback, asks, and shows of each answer what it was made from, who
answered and why. On a terminal it opens the chat afterwards; without one it ends. It asks no question.
"""

import os
import sys
import tomllib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from hybrid import Client, OwnNode, Reply, Source, events
from hybrid.cli import main as hybrid
from hybrid.cli.door import Doors, orderly_exit
from hybrid.cli.failures import guarded
from hybrid.cli.render import Progress, badge, progress_text, tier
from hybrid.cli.terminal import answer, screen_of, talk
from hybrid.config import load

DATA = Path(__file__).parent / "data"
STARTER = "smollm2-135m"
NOTICE = """
Both ends run the starter here, the smallest model there is for this: it shows the machinery, it is not a clever
model. What counts below is who answers, why, and what leaves the device. For a 3B model: hybrid pull smollm3
"""


def show_source(source: Source) -> None:
    """Print the lines an answer was made from: the proof is in them, the sentence is the model's."""
    print(f"\n   made from {Path(source.label).name}, which may travel no farther than {source.limit}:")
    print("\n".join(f"   | {line}" for line in source.text.strip().splitlines()))


def show_handover(reply: Reply, verified: events.NodeVerified | None) -> None:
    """Print what left the device, to whom, and what the node had to prove first."""
    if reply.egress is None:
        return
    left = reply.egress
    print(f"\n   left this device, sealed: {left.bytes_wire:,} bytes for {left.bytes_plain:,} bytes of plain request")
    print(f"   to node {left.node}: {tier(left.tier, left.tier_words)}")
    if verified is not None:
        passed = sum(check.status == "pass" for check in verified.checks)
        skipped = sum(check.status == "skip" for check in verified.checks)
        print(f"   {passed} checks passed before anything was sent; {skipped} are about a log, releases and hardware")
        print("   evidence, which a node started for a demo has none of (hybrid verify HOST shows each)")


def answer_item(client: Client, number: int, item: dict[str, Any]) -> bool:
    """Answer one item, print everything about it; tell whether it took the route it must take."""
    sources = [Source.file(DATA / name) for name in item["files"]]
    print(f"\n{number}. {item['title']}\n   {item['question']}\n")
    wishes = {name: item[name] for name in ("system", "max_tokens", "temperature") if name in item}
    verified = None
    with client.stream(item["prompt"], sources=sources, **wishes) as stream, Progress(screen_of(sys.stderr)) as waiting:
        for event in stream:
            if isinstance(event, events.TextDelta):
                waiting.clear()
                answer(event.text)
            elif isinstance(event, events.Handoff):
                print(f"   {progress_text(event)}\n")
            else:
                waiting.show(progress_text(event))
                verified = event if isinstance(event, events.NodeVerified) else verified
        reply = stream.final()
    print()
    for source in sources if item["show_source"] else ():
        show_source(source)
    show_handover(reply, verified)
    print(f"\n   {badge(reply, screen_of(sys.stdout))}")
    return bool(reply.route == item["route"])


def run_items(client: Client) -> int:
    """Answer every item; 0 when each was answered where it must be."""
    items = tomllib.loads((DATA / "demo.toml").read_text(encoding="utf-8"))["item"]
    right = [answer_item(client, number, item) for number, item in enumerate(items, start=1)]
    print(f"\n{sum(right)} of {len(items)} answered on the route they had to take.")
    return 0 if all(right) else 1


def demo() -> int:
    """Run the demo and return its exit code; what goes wrong is raised."""
    if os.environ.get("ENGINE") == "fake":
        return fake_demo()
    if code := hybrid(["pull", STARTER, "--yes"], standalone_mode=False):
        return int(code)
    models = load().models
    talk("starting a private node on loopback")
    with OwnNode.start(model=STARTER, options=("--store", str(models)) if models else ()) as node:
        print(NOTICE)
        with Client(model=STARTER, models=models, node=node) as client:
            code = run_items(client)
        if code or not sys.stdin.isatty():
            return code
        print("\nNow you. The chat below uses the same node; starting it was the consent to hand over to it.\n")
        lent = Doors(own_node=lambda _: nullcontext(node))
        return int(hybrid(["chat", "--local-node"], standalone_mode=False, obj=lent))


def fake_demo() -> int:
    """Run the same routes without any model: real routing, sealing and node, made-up words at both ends."""
    from hybrid.testing import FakeEngine

    print("\nENGINE=fake: the words of both ends are made up; routes, labels, sealing and node are real.")
    with OwnNode.start(engine="fake") as node, Client(engine=FakeEngine(["made-up words"]), node=node) as client:
        return run_items(client)


if __name__ == "__main__":
    with orderly_exit():
        sys.exit(guarded(demo))
