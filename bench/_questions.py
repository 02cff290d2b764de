"""Questions of our own whose answer a machine can check, easy and hard mixed; no rows of any benchmark.

They are for recording what a local model's numbers look like when it is right and when it is wrong.

    python bench/_questions.py ROWS.jsonl 600        then hybrid eval record --data ROWS.jsonl --out OUT.jsonl
"""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

PEOPLE = [
    "Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jonas", "Katya", "Leon",
    "Maria", "Nadia", "Oscar", "Paula",
]  # fmt: skip
TOWNS = [
    "Lisbon", "Oslo", "Vienna", "Dublin", "Prague", "Turin", "Ghent", "Bergen", "Porto", "Graz", "Malmo",
    "Leeds", "Lyon", "Basel", "Riga", "Split",
]  # fmt: skip
TRADES = [
    "baker", "nurse", "pilot", "teacher", "welder", "lawyer", "gardener", "chemist", "tailor", "plumber",
    "painter", "librarian",
]  # fmt: skip
THINGS = [
    "bicycle", "telescope", "violin", "tent", "kettle", "camera", "ladder", "sofa", "compass", "lantern",
    "canoe", "typewriter",
]  # fmt: skip
COLOURS = ["red", "blue", "green", "yellow", "black", "white", "orange", "purple", "brown", "grey"]
FESTIVALS = ["harvest", "lantern", "river", "kite", "bread", "music", "winter", "glass"]
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo", "Peru": "Lima",
    "Kenya": "Nairobi", "Norway": "Oslo", "Cuba": "Havana", "Poland": "Warsaw", "Greece": "Athens", "Chile": "Santiago",
    "Mongolia": "Ulaanbaatar", "Bhutan": "Thimphu", "Malawi": "Lilongwe", "Oman": "Muscat", "Latvia": "Riga",
    "Uruguay": "Montevideo", "Nepal": "Kathmandu", "Ghana": "Accra", "Iceland": "Reykjavik", "Belize": "Belmopan",
    "Tonga": "Nukualofa", "Slovenia": "Ljubljana", "Senegal": "Dakar", "Laos": "Vientiane", "Fiji": "Suva",
    "Canada": "Ottawa", "Australia": "Canberra", "Turkey": "Ankara", "Brazil": "Brasilia", "Myanmar": "Naypyidaw",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "early": "late", "full": "empty", "rough": "smooth", "shallow": "deep",
    "scarce": "plenty", "ancient": "modern", "generous": "stingy", "transparent": "opaque", "victory": "defeat",
}  # fmt: skip
Row = tuple[str, str, str]  # context, question, answer


def rows(count: int, *, seed: int = 0) -> list[dict[str, str]]:
    """Return rows {id, context, question, answer}; as many of each kind as possible, the same for the same seed."""
    rng = random.Random(seed)  # noqa: S311 - a draw of questions
    made = []
    for n in range(count):
        make = KINDS[n % len(KINDS)]
        context, question, answer = make(rng)
        made.append({
            "id": f"{make.__name__.strip('_')}/{n}", "context": context, "question": question, "answer": answer,
        })  # fmt: skip
    return made


def _one_of_many(rng: random.Random) -> Row:
    """Ask for one fact among one to eight of the same shape."""
    names = rng.sample(PEOPLE, rng.randint(1, 8))
    facts = {name: (rng.choice(TOWNS), rng.choice(TRADES), str(rng.randint(19, 88))) for name in names}
    text = " ".join(f"{n} lives in {t}, works as a {j} and is {a} years old." for n, (t, j, a) in facts.items())
    who, what = rng.choice(names), rng.randrange(3)
    asked = (f"Where does {who} live?", f"What does {who} work as?", f"How old is {who}?")[what]
    return text, asked, facts[who][what]


def _two_steps(rng: random.Random) -> Row:
    """Ask for a fact by way of another one."""
    names = rng.sample(PEOPLE, rng.randint(2, 5))
    things = rng.sample(THINGS, len(names))
    towns = rng.sample(TOWNS, len(names))
    text = " ".join(f"{n} owns the {t}. {n} comes from {c}." for n, t, c in zip(names, things, towns, strict=True))
    at = rng.randrange(len(names))
    return text, f"Which town does the owner of the {things[at]} come from?", towns[at]


def _festival(rng: random.Random) -> Row:
    """Ask about a paragraph of a town's festival, in running text."""
    town, feast, colour = rng.choice(TOWNS), rng.choice(FESTIVALS), rng.choice(COLOURS)
    first, second = rng.sample(range(1790, 1990), 2)
    founder, critic = rng.sample(PEOPLE, 2)
    text = (
        f"The {feast} festival of {town} was first held in {min(first, second)}, on the initiative of {founder}, "
        f"although {critic} argued for years that the money would be better spent on the harbour. After a long pause "
        f"it returned in {max(first, second)}, and ever since then visitors have been asked to wear something {colour} "
        f"on the last of its {rng.randint(3, 9)} days."
    )
    asked = (
        ("In which year was the festival first held?", str(min(first, second))),
        ("In which year did the festival return?", str(max(first, second))),
        ("On whose initiative was it first held?", founder),
        ("Who argued against spending the money on it?", critic),
        ("What colour do visitors wear on the last day?", colour),
        ("Which festival does the text describe?", feast),
    )
    return text, *rng.choice(asked)


def _sum(rng: random.Random) -> Row:
    """Ask for a sum, a difference or a product of one to three digits."""
    a, b = (rng.randint(1, 10 ** rng.randint(1, 3) - 1) for _ in range(2))
    sign, value = rng.choice((("+", a + b), ("-", a - b), ("*", a * b)))
    return "", f"What is {a} {sign} {b}?", str(value)


def _capital(rng: random.Random) -> Row:
    """Ask for a capital, well known or not."""
    country = rng.choice(sorted(CAPITALS))
    return "", f"What is the capital of {country}?", CAPITALS[country]


def _opposite(rng: random.Random) -> Row:
    """Ask for the opposite of a word."""
    word = rng.choice(sorted(OPPOSITES))
    return "", f"What is the opposite of '{word}'? Answer with one word.", OPPOSITES[word]


def _copy(rng: random.Random) -> Row:
    """Ask for the n-th word of a list."""
    words = rng.sample(THINGS + COLOURS + TRADES, rng.randint(2, 9))
    at = rng.randrange(len(words))
    place = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"][at]
    return f"List: {', '.join(words)}.", f"Which is the {place} word of the list?", words[at]


KINDS: tuple[Callable[[random.Random], Row], ...] = (
    _one_of_many, _festival, _two_steps, _sum, _festival, _capital, _one_of_many, _copy, _festival, _opposite,
)  # fmt: skip

if __name__ == "__main__":
    lines = (json.dumps(row) + "\n" for row in rows(int(sys.argv[2])))
    Path(sys.argv[1]).write_text("".join(lines), encoding="utf-8")
