"""Rows for the question "is this work for a larger model at all?", which need no quality labels.

Hard prompts without labels from ``shared/data/complex``, prompts of the labelled sets in chatty words, assistant
utterances in the dress of test questions, and a few requests of each kind written for this project.
"""

import random
from collections.abc import Mapping, Sequence

from _sets import Row, read

HARD, EASY, OPEN_WORK = "hard", "easy", "open work"
UNLABELLED = {"complex/arena_hard_v2.0.jsonl": (OPEN_WORK, 1), "complex/gsm8k_train_questions.jsonl": (HARD, 4)}
"""File, its kind, and of how many rows one is taken."""

DRESSED_HARD, DRESSED_EASY = 300, 1500
OWN_TIMES = 8
"""How often each request written for this project counts: there are few of them."""

BEFORE = (
    "hey, can you help me with this: ",
    "please ",
    "quick question: ",
    "hi! i was wondering, ",
    "could you tell me ",
)
BEHIND = ("", " thanks!", " please", " thank you")
FORMS = (
    "Question: {}",
    "Question: {} Answer yes or no.",
    "{} Answer in one sentence.",
    "Hi there, I hope you are well. {} Thanks a lot!",
    "User: {}\nAnswer:",
    "{}\n\nPlease keep it short, and let me know if anything is unclear.",
)
ASKING = frozenset(("what", "how", "is", "are", "can", "do", "does", "when", "where", "who", "why", "which", "will"))

OWN_EASY = (
    "Summarise this message.",
    "Summarize the email below",
    "Give me a short summary of this note.",
    "hello",
    "good morning",
    "thanks, that helps",
    "ok",
    "yes please",
    "no",
    "What does this letter say?",
    "Translate this to German: see you soon",
    "Is there a meeting on Tuesday?",
    "When is my flight?",
    "Who sent this?",
    "What time does the shop close?",
    "What is the capital of Norway?",
    "What is the currency of Japan?",
    "How many minutes are in two hours?",
    "Who wrote Romeo and Juliet?",
    "How do you spell necessary?",
    "How old is my sister?",
    "Rewrite this more politely.",
    "Fix the spelling in this sentence.",
    "Remind me to water the plants",
    "Do I have anything on Sunday evening?",
    "Reply that I will be ten minutes late.",
    "What is the phone number in this message?",
    "Read me the last message",
    "Name the event on Monday.",
    "tell me a joke",
    "What day is it today?",
    "Where did I park?",
    "Make this shorter.",
    "Is the answer yes or no?",
    "Sum up this letter.",
    "Shorten this e-mail.",
)
OWN_HARD = (
    "Plan a three-day trip to Lisbon for a family of five: transport, meals, sights and a budget of 900 euros.",
    "Write a step-by-step plan to move an office to another town: contracts, people, equipment and dates.",
    "Organise a school fair in several steps: rooms, helpers, food, costs and what to do when it rains.",
    "Compare these three quotes, say how they differ, and recommend one with reasons.",
    "What are the main risks of each plan, how do they compare, and which one should we choose?",
    "Which of the two contracts is better, where do they differ, and what has to be signed by when?",
    "What do the three candidates propose, how do their proposals differ, and what speaks against each?",
    "Explain step by step why the sum of the angles of a triangle is 180 degrees.",
    "Prove that the square root of 2 is irrational and compare two different proofs.",
    "Derive the formula for the volume of a sphere and check it for a radius of 3.",
    "Analyse why our costs rose last year, name the root causes, and outline a plan to bring them down.",
    "Design a database for a small library, justify each table, and discuss the trade-offs.",
    "Debug this: the loop never ends when the list is empty. Explain why and write a corrected function.",
    "Write a detailed essay of 800 words on how railways changed small towns, with pros and cons.",
    "Evaluate three ways of heating an old house: cost, comfort and emissions. Recommend one.",
    "If a train leaves at 9:40 and covers 210 km at 84 km/h with a stop of 12 minutes, when does it arrive?",
    "A tank holds 300 litres, loses 4 litres per hour and gains 9. When is it full if it starts a third full?",
    "Draft a negotiation strategy: our goals, their likely objections, and how to answer each of them.",
    "Work out a weekly training plan for a first marathon, with reasons for each week and what to do after an injury.",
    "Explain how vaccines work, how the kinds differ, and why some need several doses.",
)  # fmt: skip


def gate_rows(sets: Mapping[str, Sequence[Row]], assistant: Sequence[Row], *, seed: int = 0) -> list[tuple[str, Row]]:
    """Return (kind, row) pairs, dressed from these rows and read from the files without labels."""
    rng = random.Random(seed)  # noqa: S311 - a draw of rows
    rows = [
        (kind, _row(r["prompt"], f"{file}/{n}"))
        for file, (kind, step) in UNLABELLED.items()
        for n, r in enumerate(read(file)[::step])
    ]
    for name in sorted(sets):
        drawn = rng.sample(list(sets[name]), min(DRESSED_HARD, len(sets[name])))
        rows += [(HARD, _row(_chatty(r.prompt, rng), r.group)) for r in drawn]
    drawn = rng.sample(list(assistant), min(DRESSED_EASY, len(assistant)))
    rows += [(EASY, _row(rng.choice(FORMS).format(_sentence(r.prompt)), r.group)) for r in drawn]
    own = [(EASY, text) for text in OWN_EASY] + [(OPEN_WORK, text) for text in OWN_HARD]
    return rows + [(kind, _row(text, f"own/{text}")) for kind, text in own] * OWN_TIMES


def _row(text: str, group: str) -> Row:
    return Row(id=group, prompt=text, weak=0.0, strong=0.0, group=group)


def _chatty(text: str, rng: random.Random) -> str:
    return rng.choice(BEFORE) + text[:1].lower() + text[1:] + rng.choice(BEHIND)


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    if text[-1:] in {".", "?", "!"}:
        return text
    return text + ("?" if text.split(None, 1)[0].lower() in ASKING else ".")
