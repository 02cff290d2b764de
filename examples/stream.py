"""Print an answer as it comes. Leaving the block stops it; what was shown stays readable."""

import hybrid


def main() -> None:
    with hybrid.Client() as client, client.stream("Name three colours.", max_tokens=40) as stream:
        for event in stream:
            if isinstance(event, hybrid.RouteDecided):
                print(f"[{event.decision.route}]")
            elif isinstance(event, hybrid.TextDelta):
                print(event.text, end="", flush=True)
        print()
        reply = stream.final()
    print(f"{reply.usage.output} tokens, {reply.timing.decode_tps:.0f} per second, ended by {reply.finish_reason}")


if __name__ == "__main__":
    main()
