"""Many pools in one order: sorted once, ranked once per tolerance, whatever the number of pairs."""

from collections.abc import Mapping

import numpy as np

from relif_core.audit.exact import cross
from relif_core.audit.pools import Pair, Pool
from relif_core.audit.sorting import sorted_with_order

_WORD = np.uint64(1)


class Ranks:
    """The pools of all tasks, each sorted, and where each score's reach ends in the order of all of them.

    With p the number of all scores z with z − x ≤ δ, the scores y of one pool with y − x ≤ δ are those among
    the first p of the common order: a bit per score and pool, and a count per 64 of them, tell their number
    without a search.

    Args:
        scores: Task name to scores [n].

    Attributes:
        pools: Task name to the scores in ascending order.
        orders: Task name to each sorted score's place in ``scores``.
    """

    def __init__(self, scores: Mapping[str, np.ndarray]) -> None:
        values = np.concatenate(list(scores.values()), dtype=np.float64)
        values += 0.0
        self._values, order = sorted_with_order(values)
        sizes = [len(own) for own in scores.values()]
        starts = np.cumsum([0, *sizes[:-1]])
        kind = np.uint8 if len(sizes) <= 256 else np.uint16
        task = np.repeat(np.arange(len(sizes), dtype=kind), sizes)[order]
        places = np.split(np.argsort(task, kind="stable"), starts[1:])
        self._places = dict(zip(scores, places, strict=True))
        self.orders = {
            name: order[place] - start for name, place, start in zip(scores, places, starts, strict=True)
        }
        self.pools = {name: Pool(self._values[place]) for name, place in self._places.items()}
        bits = np.zeros((len(sizes), -(-(len(values) + 1) // 64) * 64), dtype=bool)
        bits[task, np.arange(len(values))] = True
        words = np.packbits(bits, axis=1, bitorder="little").view("<u8")
        before = np.cumsum(np.bitwise_count(words), axis=1, dtype=np.int64)
        before -= np.bitwise_count(words)
        self._words = dict(zip(scores, zip(words, before, strict=True), strict=True))
        self._tolerance: float | None = None
        self._reached: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def within(self, pair: Pair, tolerance: float) -> np.ndarray:
        """Return for each x of the first pool how many scores of the second lie up to x + δ."""
        if tolerance != self._tolerance:
            reached = np.empty(len(self._values), dtype=np.int64)
            cross(self._values, self._values, tolerance, reached, None)
            self._tolerance = tolerance
            self._reached = {
                task: (ends >> 6, (_WORD << (ends & 63).astype(np.uint64)) - _WORD)
                for task, ends in ((task, reached[place]) for task, place in self._places.items())
            }
        place, mask = self._reached[pair[0]]
        words, before = self._words[pair[1]]
        mask = words.take(place) & mask
        return before.take(place) + np.bitwise_count(mask)
