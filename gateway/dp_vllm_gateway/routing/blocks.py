"""A prompt's text as a chain of block hashes: two prompts share as many as their beginnings are alike.

After the block hashes of vLLM's prefix cache, but over bytes: the gateway has no tokenizer.
"""

from typing import Final

import xxhash

BLOCK_BYTES: Final = 1024
"""About 256 tokens, which an engine reads within one step (`load.STEP_SECONDS`): finer would decide nothing."""

MOST_BLOCKS: Final = 4096
"""Beyond a million tokens prompts are not told apart; hashing must not hold up the others' streams."""


def blocks_of(text: bytes, seed: bytes = b"") -> list[int]:
    """Hashes of the text's full blocks, each over all before it too. Nothing is shared under another seed."""
    digest = xxhash.xxh3_64_intdigest
    end = min(len(text), MOST_BLOCKS * BLOCK_BYTES)
    value = digest(seed)
    chain = []
    for start in range(0, end - BLOCK_BYTES + 1, BLOCK_BYTES):
        value = digest(text[start : start + BLOCK_BYTES], value)
        chain.append(value)
    return chain
