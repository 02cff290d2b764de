"""The bars of the routing design, Q8 and Q9, on data made by others and on documents of our own."""

import json
from collections import Counter
from collections.abc import Iterator

import pytest

from hybrid.routing.recognisers.recognise import private, recognise
from tests.routing.documents import DATA, Document, covered, documents, shared

TYPES = ("CREDIT_CARD", "PHONE_NUMBER", "EMAIL_ADDRESS", "IBAN_CODE", "US_SSN", "IP_ADDRESS")
UTTERANCES = ("assistant/clinc150", "assistant/banking77", "assistant/hwu64_train")


def rows(name: str) -> Iterator[dict[str, str]]:
    with shared(f"{name}.jsonl").open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def theirs() -> list[Document]:
    lines = shared("pii/presidio_generated_large.jsonl").read_text(encoding="utf-8").splitlines()
    return [_document(json.loads(line)) for line in lines]


def _document(row: dict[str, list[dict[str, int | str]]]) -> Document:
    gold = [
        (s["start_position"], s["end_position"], s["entity_type"]) for s in row["spans"] if s["entity_type"] in TYPES
    ]
    return Document(str(row["full_text"]), tuple(gold))  # type: ignore[arg-type]


def recall(docs: list[Document]) -> dict[str, float]:
    """Share of gold spans covered to at least 80 % of their characters that are no space; ``all`` over every type."""
    there: Counter[str] = Counter()
    hit: Counter[str] = Counter()
    for doc in docs:
        spans = [(s.start, s.end) for s in recognise(doc.text)]
        for start, end, name in doc.gold:
            there.update((name, "all"))
            hit.update((name, "all") if covered(doc.text, spans, start, end) else ())
    return {name: hit[name] / there[name] for name in there}


def test_identifiers_in_the_documents_of_others_are_found() -> None:
    found = recall(theirs())
    assert set(found) == {*TYPES, "all"}
    assert min(found.values()) >= 0.98, found


def test_identifiers_of_many_countries_are_found_in_our_own_documents() -> None:
    found = recall(documents(1500, seed=20))
    assert set(found) == {*TYPES, "all"}
    assert min(found.values()) >= 0.98, found


def test_a_recogniser_that_is_missing_would_be_noticed() -> None:
    docs = [Document(d.text.replace("@", " at "), d.gold) for d in documents(300, seed=3)]
    assert recall(docs)["EMAIL_ADDRESS"] < 0.5


@pytest.mark.parametrize("name", UTTERANCES)
def test_no_request_to_an_assistant_is_flagged(name: str) -> None:
    flagged = sum(bool(recognise(row["text"])) for row in rows(name))
    assert flagged == 0


def test_hard_prompts_are_rarely_flagged() -> None:
    marks = [private(recognise(row["prompt"])) for row in rows("complex/arena_hard_v2.0")]
    assert sum(marks) <= 0.02 * len(marks)


def test_school_sums_hold_nobodys_numbers() -> None:
    assert not any(recognise(row["prompt"]) for row in rows("complex/gsm8k_train_questions"))


def test_the_data_lie_where_the_documents_say() -> None:
    assert (DATA / "ORIGINS.md").is_file(), "the data of others are not beside this checkout: ../shared/data"
