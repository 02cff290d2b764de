"""A private node of your own on this machine: both routes without a second computer.

``python examples/own_node.py fake`` uses the node's fake engine, which needs no model.
"""

import sys

import hybrid


def main(engine: str = "mlx") -> None:
    with hybrid.OwnNode.start(engine=engine) as node, hybrid.Client(node=node) as client:
        reply = client.ask("Make a step-by-step plan for a birthday party.", policy="only_private_cloud", max_tokens=60)
    print(reply)
    sent = reply.egress
    if sent is None:
        raise SystemExit("a reply of a node without a record of what left")
    print(f"sent {sent.bytes_wire} bytes, sealed, to {sent.node}: tier {sent.tier}, {sent.tier_words}")
    print(f"from: {', '.join(segment.source for segment in sent.segments)}; receipt {sent.receipt_id[:16]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
