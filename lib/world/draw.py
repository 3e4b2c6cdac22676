"""Fast seeded choices for the writers of the world.

A numpy generator is slow when it is asked for one number at a time; a million words need about a million choices.
So numbers are drawn in blocks and handed out one by one, in an order that the seed alone decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")
BLOCK = 8192


class Draw:
    """Choices from one seeded generator.

    Parameters
    ----------
    rng : np.random.Generator
        Where the randomness comes from; read in blocks, so it should not be used elsewhere at the same time.

    Examples
    --------
    >>> draw = Draw(np.random.default_rng(0))
    >>> draw.pick(["oak", "elm", "ash"]) in {"oak", "elm", "ash"}
    True
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._block: list[float] = []

    def uniform(self) -> float:
        """Return a number in [0, 1)."""
        if not self._block:
            self._block = self._rng.random(BLOCK).tolist()
        return self._block.pop()

    def below(self, n: int) -> int:
        """Return an integer from 0 to `n` - 1."""
        return int(self.uniform() * n)

    def between(self, low: int, high: int) -> int:
        """Return an integer from `low` to `high`, both included."""
        return low + self.below(high - low + 1)

    def chance(self, probability: float) -> bool:
        """Return true with this probability."""
        return self.uniform() < probability

    def pick(self, items: Sequence[T]) -> T:
        """Return one of the items, each as likely."""
        return items[int(self.uniform() * len(items))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """Return all items in a random order."""
        return self.sample(items, len(items))

    def sample(self, items: Sequence[T], k: int) -> list[T]:
        """Return `k` different items in a random order.

        Raises
        ------
        ValueError
            If there are fewer than `k` items.

        >>> sorted(Draw(np.random.default_rng(0)).sample([1, 2, 3], 3))
        [1, 2, 3]
        """
        if k > len(items):
            raise ValueError(f"cannot draw {k} different items from {len(items)}; give more items or draw fewer")
        pool = list(items)
        for i in range(k):
            j = i + self.below(len(pool) - i)
            pool[i], pool[j] = pool[j], pool[i]
        return pool[:k]
