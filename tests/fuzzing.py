"""Runs a check on seeded random cases for a time, and mutates valid input. A failure names the seed that repeats it."""

import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

SECONDS: Final = float(os.environ.get("FUZZ_SECONDS", "120"))
"""For all parts together; `make fuzz` divides them."""

SEED: Final = os.environ.get("FUZZ_SEED")
"""The one case to repeat."""


def fuzz(check: Callable[[random.Random], None], seconds: float) -> int:
    """Run `check` with one generator a case until the time is over; the number of cases."""
    if SEED is not None:
        _try(check, int(SEED))
        return 1
    end = time.monotonic() + seconds
    first = seed = random.SystemRandom().getrandbits(48)
    while time.monotonic() < end:
        _try(check, seed)
        seed += 1
    print(f"{seed - first} cases from seed {first}")
    return seed - first


def _try(check: Callable[[random.Random], None], seed: int) -> None:
    try:
        check(random.Random(seed))
    except BaseException as error:
        error.add_note(f"repeat this case: make fuzz FUZZ_SEED={seed}")
        raise


def mutated(rng: random.Random, data: bytes, pieces: Sequence[bytes]) -> bytes:
    """`data` after a few random edits: pieces put in or in place of bytes, spans cut or repeated, bits turned."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        begin = rng.randint(0, len(data))
        end = min(len(data), begin + rng.choice((0, 1, 1, 2, 4, 16)))
        match rng.randrange(5):
            case 0:
                middle = rng.choice(pieces)
            case 1:
                middle = b""
            case 2:
                middle = data[begin:end] * 2
            case 3:
                middle = bytes(byte ^ (1 << rng.randrange(8)) for byte in data[begin:end])
            case _:
                middle = rng.randbytes(rng.randrange(3))
        data = data[:begin] + middle + data[end:]
    return data
