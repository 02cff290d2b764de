"""Ask who would answer, without asking: nothing is sent, no model is loaded, no socket is opened."""

import hybrid

QUESTIONS = (
    "What is the capital of France?",
    "Plan a move for five people step by step: compare three offers, compute the costs of each and justify the order.",
)


def main() -> None:
    with hybrid.Client() as client:
        for question in QUESTIONS:
            decision = client.explain(question)
            print(f"{decision.route}: score {decision.score:.2f}, threshold {decision.threshold:.2f}")
            for reason in decision.reasons:
                print(f"  {reason.code}: {reason.text}")
            if decision.counterfactual:
                print(f"  {decision.counterfactual.text}")


if __name__ == "__main__":
    main()
