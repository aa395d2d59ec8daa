"""Random choices as functions of what they are for: the same on every machine, in every process, in any order."""

from __future__ import annotations

import hashlib
import json
import struct

_FIRST = 40
"""Numbers made at once: enough for most captions."""


class Dice:
    """An endless row of 64-bit numbers that depends on nothing but its parts; 1 and "1" differ.

    Neither Python's nor torch's generators: their algorithms may change, and what is encoded must stay found.

    Args:
        purpose: what is decided, so that two decisions over the same thing are independent.
        parts: whatever the choice should depend on: seed, epoch, sample id, number ...
    """

    def __init__(self, purpose: str, *parts: int | str) -> None:
        text = json.dumps([purpose, *parts], ensure_ascii=True, separators=(",", ":"))
        self._bits = hashlib.shake_128(text.encode())
        self._numbers: tuple[int, ...] = ()
        self._used = 0

    def below(self, count: int) -> int:
        """Return a number from 0 to `count` - 1, all equally likely."""
        return self._next() * count >> 64

    def happens(self, probability: float) -> bool:
        """Return True with a probability in [0, 1]; 0 never and 1 always."""
        return (self._next() >> 11) * 2.0**-53 < probability

    def order(self, count: int) -> list[int]:
        """Return the numbers from 0 to `count` - 1 in an order of which all are equally likely."""
        ranks = [self._next() for _ in range(count)]
        return sorted(range(count), key=ranks.__getitem__)

    def _next(self) -> int:
        if self._used == len(self._numbers):
            # A longer digest begins with the shorter one.
            count = 2 * self._used or _FIRST
            self._numbers = struct.unpack(f"<{count}Q", self._bits.digest(8 * count))
        self._used += 1
        return self._numbers[self._used - 1]
