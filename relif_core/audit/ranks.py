"""Many pools in one order: sorted once, ranked once per tolerance, whatever the number of pairs and parts."""

from collections.abc import Mapping

import numpy as np

from relif_core.audit import compiled
from relif_core.audit.exact import cross
from relif_core.audit.pools import Pair, Pool
from relif_core.audit.sorting import sorting_order, stable_order

_BLOCK = 1 << 14
_WORD = np.uint64(1)


class Ranks:
    """The pools of all tasks, each sorted, and where each score's reach ends in the order of all of them.

    With p the number of all scores z with z − x ≤ δ, the scores y of one pool with y − x ≤ δ are those among
    the first p of the common order: a bit per score and pool, and a count per 64 of them, tell their number
    without a search.

    Args:
        scores: Task name to scores [n].
        parts: Task name to part codes [n], where each part (a group) is audited by itself. Every part has a
            score of every task.

    Attributes:
        pools: Task name to the scores in ascending order, part after part.
        orders: Task name to each sorted score's place in ``scores``.
    """

    def __init__(
        self, scores: Mapping[str, np.ndarray], parts: Mapping[str, np.ndarray] | None = None
    ) -> None:
        values = np.concatenate(list(scores.values()), dtype=np.float64)
        values += 0.0
        order = sorting_order(values)
        self._ends: np.ndarray | None = None
        if parts is not None:
            part = np.concatenate(list(parts.values()))
            order = order[stable_order(part[order])]
            self._ends = np.cumsum(np.bincount(part))
        self._values = values[order]
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
        """Return for each x of the first pool how many scores of the second lie up to x + δ.

        Counted are the scores of x's own part and all of the parts before it.
        """
        if tolerance != self._tolerance:
            reached = self._reach(tolerance)
            self._tolerance = tolerance
            self._reached = {
                task: (ends >> 6, (_WORD << (ends & 63).astype(np.uint64)) - _WORD)
                for task, ends in ((task, reached[place]) for task, place in self._places.items())
            }
        place, mask = self._reached[pair[0]]
        words, before = self._words[pair[1]]
        mask = words.take(place) & mask
        return before.take(place) + np.bitwise_count(mask)

    def _reach(self, tolerance: float) -> np.ndarray:
        """Return for each score how many of all scores, parts before its own included, it reaches."""
        values, size = self._values, len(self._values)
        found = np.empty(size, dtype=np.int64)
        if self._ends is None:
            merge, _ = compiled.loaded() or (cross, None)
            merge(values, values, tolerance, found, None)
            return found
        longest = int(np.diff(self._ends, prepend=0).max())
        last = np.repeat(self._ends, np.diff(self._ends, prepend=0)) - 1
        steps = [1 << k for k in reversed(range(longest.bit_length()))]
        for start in range(0, size, _BLOCK):
            own, limit = values[start : start + _BLOCK], last[start : start + _BLOCK]
            place = np.arange(start, start + len(own))
            for step in steps:
                further = np.minimum(place + step, limit)
                reached = values.take(further) - own <= tolerance
                further -= place
                further *= reached
                place += further
            found[start : start + _BLOCK] = place + 1
        return found
