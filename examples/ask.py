"""Ask once, and see who answered and why. Needs a model: ``hybrid pull starter``."""

import hybrid


def main() -> None:
    with hybrid.Client() as client:
        reply = client.ask("What is the capital of France?", max_tokens=40)
    print(reply)
    print(f"route: {reply.route}, because: {reply.decision.reasons[0].text}")
    print(f"model: {reply.model}, {reply.usage.output} tokens, {reply.timing.total:.1f} s")
    print("left the device:", reply.egress or "nothing")


if __name__ == "__main__":
    main()
