"""Random choices as functions of what they are for: the same on every machine, in every process, in any order."""

from __future__ import annotations

import hashlib
import json
import struct

_FIRST = 64
"""Numbers made at once: enough for most captions."""


class HashRng:
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

    def randint(self, count: int) -> int:
        """Return a number from 0 to `count` - 1, all equally likely."""
        return self._take(1)[0] * count >> 64

    def bernoulli(self, probability: float, count: int) -> list[bool]:
        """Return `count` answers, True with a probability in [0, 1]; 0 never and 1 always."""
        least = int(probability * 2.0**64)
        return [number < least for number in self._take(count)]

    def permutation(self, count: int) -> list[int]:
        """Return the numbers from 0 to `count` - 1 in an order of which all are equally likely."""
        return sorted(range(count), key=self._take(count).__getitem__)

    def _take(self, count: int) -> tuple[int, ...]:
        begin, self._used = self._used, self._used + count
        if self._used > len(self._numbers):
            # A longer digest begins with the shorter one.
            made = max(2 * self._used, _FIRST)
            self._numbers = struct.unpack(f"<{made}Q", self._bits.digest(8 * made))
        return self._numbers[begin : self._used]
