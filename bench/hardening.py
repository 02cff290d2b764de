"""What hardening and scrubbing cost: the node as it is against the same node without them (node design P5).

The baseline, ``_unhardened.py``, has neither the sandbox nor the allocator that overwrites what is freed; both nodes
are asked in turn by the same sealed clients, and that each is what it should be is looked up in /proc first. Rows:
messages a second of 16 streams on the fake engine, one token a message, where 25 % may be lost; tokens a second of one
and of eight streams on the starter, where 5 % may be.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil
from _crowd import Crowd, Outcome
from _rows import row

from hybrid.own_node import OWN_COMMAND, OwnNode

BARE = (sys.executable, "-P", str(Path(__file__).with_name("_unhardened.py")))
STREAMS = 16
EIGHT = 8
NEEDED = {"messages": 0.75, "decode": 0.95}
PROMPT = "Tell me a long story about a lighthouse keeper and a storm."

Ask = Callable[[str], float]


def confined(node: OwnNode) -> set[bool]:
    """Return whether its children have a system call filter."""
    children = psutil.Process(node.pid).children()
    return {"Seccomp:\t2" in Path(f"/proc/{child.pid}/status").read_text() for child in children}


async def streams(address: str, count: int, tokens: int, text: str) -> tuple[list[Outcome], float]:
    """Run so many streams at once; returns what came, and in how many seconds."""
    async with Crowd(address, streams=count) as crowd:
        ready = [crowd.seal(tokens=tokens, text=text) for _ in range(count)]
        begun = time.perf_counter()
        outcomes = await asyncio.gather(*(crowd.ask(one) for one in ready))
        took_s = time.perf_counter() - begun
    assert all(outcome.served for outcome in outcomes), outcomes[0]
    return outcomes, took_s


def messages(address: str, tokens: int) -> float:
    """Messages a second of 16 streams; the fake engine answers as fast as it is read."""
    outcomes, took_s = asyncio.run(streams(address, STREAMS, tokens, ""))
    return sum(len(outcome.tokens_at) for outcome in outcomes) / took_s


def decode(address: str, count: int, tokens: int) -> float:
    """Tokens a second of so many streams together, from the first token of any to the last of all."""
    outcomes, _ = asyncio.run(streams(address, count, tokens, PROMPT))
    times = sorted(at for one in outcomes for at in one.tokens_at)
    return (len(times) - 1) / (times[-1] - times[0])


def compare(name: str, start: Callable[[tuple[str, ...]], OwnNode], asks: dict[str, Ask], rounds: int) -> None:
    """Start both nodes, ask both in turn, and print a row for each way to ask."""
    with ExitStack() as stack:
        nodes = {kind: stack.enter_context(start(words)) for kind, words in (("ours", OWN_COMMAND), ("bare", BARE))}
        assert {kind: confined(node) for kind, node in nodes.items()} == {"ours": {True}, "bare": {False}}
        for what, ask in asks.items():
            figures: dict[str, list[float]] = {"ours": [], "bare": []}
            for at in range(rounds + 1):  # the first one warms up
                for kind in ("ours", "bare")[:: 1 if at % 2 else -1]:
                    figures[kind].append(ask(nodes[kind].address))
            told(f"hardening.{name}{what}", figures["ours"][1:], figures["bare"][1:], NEEDED[name])


def told(name: str, ours: Sequence[float], bare: Sequence[float], needed: float) -> None:
    """Print one row."""
    unit = "messages/s" if "messages" in name else "tok/s"
    row(name, ours=ours, baseline=bare, unit=unit, needed=needed, baseline_name="no sandbox, no scrubbing")


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=2_000, help="of each stream of the fake engine")
    parser.add_argument("--model", default="starter", help="a catalogue id or a folder; empty: the fake engine only")
    parser.add_argument("--model-tokens", type=int, default=64)
    given = parser.parse_args()
    fake = ("--batch", "1", "--max-new", str(given.tokens))
    compare(
        "messages",
        lambda words: OwnNode.start(engine="fake", options=fake, command=words),
        {"": lambda address: messages(address, given.tokens)},
        given.rounds,
    )
    if given.model:
        many = ("--max-running", str(EIGHT))
        compare(
            "decode",
            lambda words: OwnNode.start(model=given.model, options=many, command=words),
            {
                f".{count}": lambda address, count=count: decode(address, count, given.model_tokens)
                for count in (1, EIGHT)
            },
            given.rounds,
        )


if __name__ == "__main__":
    main()
