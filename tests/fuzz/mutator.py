"""A small byte mutator for the engine that needs nothing installed; atheris brings its own."""

import random

_INTERESTING = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
_LONGEST = 1 << 16


def mutate(rng: random.Random, seeds: tuple[bytes, ...]) -> bytes:
    """Return a valid input with one to four edits, or now and then pure noise."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.randrange(256))
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 4)):
        _edit(rng, data, seeds)
    return bytes(data[:_LONGEST])


def _edit(rng: random.Random, data: bytearray, seeds: tuple[bytes, ...]) -> None:
    at = rng.randrange(len(data) + 1)
    kind = rng.randrange(6)
    if kind == 0 and at < len(data):
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1 and at < len(data):
        data[at] = rng.choice(_INTERESTING)
    elif kind == 2:
        data[at:at] = rng.randbytes(rng.randint(1, 8))
    elif kind == 3:
        del data[at : at + rng.randint(1, 16)]
    elif kind == 4:
        del data[at:]
    else:
        other = rng.choice(seeds)
        start = rng.randrange(len(other) + 1)
        data[at : at + rng.randint(0, 32)] = other[start : start + rng.randint(1, 64)]
