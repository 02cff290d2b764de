from datetime import date
from typing import Any

import pytest

from device.errors import BadRequest
from device.prompt import Counted, Framer
from hybrid.wire.types import GenerateRequest, Message, Role

TODAY = date(2026, 3, 1)


class Characters:
    """A tokenizer with one id per character and a template that shows everything it was given."""

    has_chat_template = True

    def apply_chat_template(self, messages: list[dict[str, str]], **given: Any) -> str:
        assert given["tokenize"] is False
        assert given["enable_thinking"] is False
        if messages[-1]["content"] == "refuse":
            raise ValueError(messages[-1]["content"])
        turns = "".join(f"[{m['role']}]{m['content']}" for m in messages)
        return f"{given['date_string']}|{given['strftime_now']('%Y')}|{turns}"

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [ord(character) for character in text]


def _framer(**changes: Any) -> Framer:
    return Framer(**{"tokenizer": Characters(), "vocabulary": 128, "today": TODAY, **changes})


def _framed(framer: Framer, *messages: tuple[Role, str]) -> str:
    request = GenerateRequest(messages=tuple(Message(role=role, content=text) for role, text in messages))
    return "".join(map(chr, framer.ids(request)))


def test_the_default_system_text_is_written_out() -> None:
    assert _framed(_framer(default_system="be kind"), (Role.USER, "hi")).endswith("|[system]be kind[user]hi")


def test_a_system_text_of_the_conversation_wins() -> None:
    framed = _framed(_framer(default_system="be kind"), (Role.SYSTEM, "be short"), (Role.USER, "hi"))
    assert framed.endswith("|[system]be short[user]hi")


def test_without_a_default_nothing_is_added() -> None:
    assert _framed(_framer(), (Role.USER, "hi")).endswith("|[user]hi")


def test_the_date_is_the_one_given_both_ways() -> None:
    assert _framed(_framer(), (Role.USER, "hi")).startswith("01 Mar 2026|2026|")


def test_ids_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(BadRequest):
        _framed(_framer(), (Role.USER, "h€"))


def test_a_template_that_refuses_is_a_bad_request_without_the_text() -> None:
    with pytest.raises(BadRequest) as caught:
        _framed(_framer(), (Role.USER, "refuse"))
    assert caught.value.__cause__ is None
    assert "refuse" not in str(caught.value).replace("refuses", "")


def test_a_framer_never_shows_text() -> None:
    assert "kind" not in repr(_framer(default_system="be kind"))


def _asked(text: str) -> GenerateRequest:
    return GenerateRequest(messages=(Message(role=Role.USER, content=text),))


def test_what_was_counted_is_handed_over_once_to_that_very_request() -> None:
    counted, first, equal = Counted(), _asked("x"), _asked("x")
    counted.keep(first, [1, 2])
    assert counted.take(equal) is None  # another's, however alike
    assert counted.take(first) == [1, 2]
    assert counted.take(first) is None


def test_what_was_counted_goes_with_its_request() -> None:
    counted, request = Counted(), _asked("x")
    counted.keep(request, [1, 2])
    counted.keep(request, [1, 2])
    assert len(counted) == 1
    del request
    assert len(counted) == 0
