import random

import pytest

from device.decode import StopStrings, TextStream


class Bytes:
    """A detokenizer over raw bytes with mlx-lm's interface: token n is byte n."""

    def __init__(self) -> None:
        self._bytes = b""
        self._shown = 0
        self._text = ""

    def add_token(self, token: int) -> None:
        self._bytes += bytes([token])
        text = self._bytes.decode("utf-8", "replace")
        if not text.endswith("\ufffd"):
            self._text = text

    def finalize(self) -> None:
        self._text = self._bytes.decode("utf-8", "replace")

    @property
    def last_segment(self) -> str:
        segment = self._text[self._shown :]
        self._shown = len(self._text)
        return segment


def _pieces(text: str, stops: tuple[str, ...], sizes: random.Random) -> tuple[str, bool]:
    strings, out, at = StopStrings(stops), "", 0
    while at < len(text) and not strings.hit:
        size = sizes.randint(1, 4)
        out += strings.push(text[at : at + size])
        at += size
    return out + strings.finish(), strings.hit


@pytest.mark.parametrize("seed", range(200))
def test_stop_strings_cut_alike_however_the_text_arrives(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - repeatable cases, no secrets
    text = "".join(chance.choice("ab\n") for _ in range(40))
    stops = tuple("".join(chance.choice("ab\n") for _ in range(chance.randint(1, 5))) for _ in range(3))
    out, hit = _pieces(text, stops, chance)
    assert hit == any(stop in text for stop in stops)
    assert text.startswith(out)
    if hit:
        assert not any(stop in out for stop in stops)
        assert any(text[len(out) :].startswith(stop) for stop in stops)
    else:
        assert out == text


def test_text_that_cannot_begin_a_stop_string_is_not_held_back() -> None:
    strings = StopStrings(("END",))
    assert strings.push("hello E") == "hello "
    assert strings.push("x") == "Ex"


def test_nothing_comes_after_a_stop_string() -> None:
    strings = StopStrings(("END",))
    assert strings.push("oneENDtwo") == "one"
    assert strings.hit
    assert strings.push("three") + strings.finish() == ""


def test_characters_are_shown_whole() -> None:
    stream, data = TextStream(Bytes()), "aé€😀".encode()
    pieces = [stream.push(byte) for byte in data]
    assert "".join(pieces) == "aé€😀"
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_cut_by_the_end_is_left_out() -> None:
    stream = TextStream(Bytes())
    shown = "".join(stream.push(byte) for byte in "ok 😀".encode()[:-1])
    assert shown + stream.finish() == "ok "


def test_the_rest_is_flushed_when_no_stop_string_came_of_it() -> None:
    stream = TextStream(Bytes(), ("END",))
    assert "".join(stream.push(byte) for byte in b"the E") == "the "
    assert stream.finish() == "E"
    assert not stream.stopped
