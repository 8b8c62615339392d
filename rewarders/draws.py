"""Chance that is a function of what it is about: the same seed and content give the same draw, anywhere, any time."""

from __future__ import annotations

import hashlib


def uniform(seed: int, *content: object) -> float:
    """A number in [0, 1): uniform and independent over different content."""
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *content):
        data = str(part).encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)  # lengths, so that ("a", "bc") is not ("ab", "c")
    return (int.from_bytes(digest.digest(), "big") >> 11) / 2**53
