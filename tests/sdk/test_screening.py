"""From a typed number to a decision: what recognisers find keeps the turn on the device, and appears nowhere."""

import logging
from pathlib import Path

import pytest

from hybrid.client import Client
from hybrid.errors import PolicyError
from tests.support import HARD, Bench

NUMBERS = {
    "4111 1111 1111 1111": "CREDIT_CARD",
    "GB82 WEST 1234 5698 7654 32": "IBAN_CODE",
    "308-63-0237": "US_SSN",
    "zanzibar@mail.de": "EMAIL_ADDRESS",
    "+44 20 7946 0958": "PHONE_NUMBER",
    "93.184.216.34": "IP_ADDRESS",
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789": "SECRET",
    "131052-308T": "NATIONAL_ID",
}


@pytest.mark.parametrize(("value", "name"), NUMBERS.items(), ids=NUMBERS.values())
def test_a_typed_identifier_keeps_a_hard_question_on_the_device_and_only_its_type_is_named(
    value: str, name: str
) -> None:
    bench = Bench()
    with Client(**bench.options()) as client:
        assert client.explain(HARD).route == "private_cloud"
        decision = client.ask(f"{HARD} Use {value} in it.").decision
    assert (decision.route, decision.reasons[0].code) == ("on_device", "recognised")
    assert decision.signals["privacy"]["types"] == [name]
    assert value not in str(decision.to_dict())
    assert bench.node.requests == []


def test_the_value_is_in_no_log_error_or_file(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    value = "4111 1111 1111 1111"
    bench = Bench()
    with caplog.at_level(logging.DEBUG), Client(**bench.options()) as client:
        client.ask(f"{HARD} {value}")
        with pytest.raises(PolicyError) as refused:
            client.ask(f"{HARD} {value}", policy="only_private_cloud")
    said = f"{refused.value} {refused.value.hint} {refused.value!r} {caplog.text}"
    assert "prompt may not leave the device" in said
    for written in (value, value.replace(" ", "")):
        assert written not in said
        assert all(written.encode() not in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert bench.node.requests == []


def test_a_listed_word_keeps_it_here_even_with_detection_off() -> None:
    bench = Bench()
    with Client(**bench.options(detect="off", deny=["Project Blue"])) as client:
        assert client.explain(f"{HARD} a@b.org").route == "private_cloud"
        decision = client.explain(f"{HARD} about project\nblue")
    assert (decision.route, decision.reasons[0].code) == ("on_device", "recognised")


def test_what_a_person_cleared_for_this_call_may_leave() -> None:
    bench = Bench()
    with Client(**bench.options()) as client:
        reply = client.ask(f"{HARD} mail zanzibar@mail.de", cleared=("prompt",))
        assert client.explain(f"{HARD} mail zanzibar@mail.de").route == "on_device"
    assert reply.decision.route == "private_cloud"
    assert "zanzibar@mail.de" in bench.node_read
