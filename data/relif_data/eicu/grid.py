"""The hourly grid: which value of a channel counts in an hour of a stay; memory does not grow with events.

Every cell holds one 64-bit key made of (minute of the hour, trust of the table, value), most significant
first, and a new event replaces a cell by the greater key. So the last minute wins, then the more trusted
table, then the greatest value, whatever the order of the rows, and tables can be streamed in any order.
"""

from collections.abc import Callable, Iterator

import numpy as np

from relif_core.tensors.folder import release
from relif_data.eicu.channels import CHANNELS, INDEX
from relif_data.labels import forward_fill

BLOCK_ROWS = 1 << 19


class HourlyGrid:
    """Keys of all hours of a cohort.

    ``stays`` and ``minutes`` are int64 [stays]: ids in ascending order and lengths of stay. Stay ``i`` has
    ceil(minutes / 60) rows, at least 1 and at most ``maximum_hours``. ``make_keys`` gives the int64 keys of a
    shape from elsewhere than memory, zeros or those of an interrupted reading.
    """

    def __init__(
        self,
        stays: np.ndarray,
        minutes: np.ndarray,
        maximum_hours: int | None = None,
        make_keys: Callable[[tuple[int, int]], np.ndarray] | None = None,
    ) -> None:
        self.stays = stays
        self.minutes = minutes
        rows = np.maximum(-(-minutes // 60), 1)
        if maximum_hours is not None:
            rows = np.minimum(rows, maximum_hours)
        self.end = np.minimum(minutes, 60 * rows)
        self.offsets = np.concatenate([[0], np.cumsum(rows)])
        shape = (int(self.offsets[-1]), len(CHANNELS))
        # Zero pages are only backed by memory once written, so rarely measured tables cost little.
        self.keys = np.zeros(shape, dtype=np.int64) if make_keys is None else make_keys(shape)

    def locate(self, stay: np.ndarray, minute: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return which events are of the cohort, each one's row, and its minutes outside its stay.

        The row is -1 before admission and past the end; the minutes are at most 0 within the stay.
        """
        place = np.minimum(np.searchsorted(self.stays, stay), len(self.stays) - 1)
        known = self.stays[place] == stay
        inside = known & (minute >= 0) & (minute < self.end[place])
        beyond = np.maximum(-minute, minute - self.minutes[place])
        return known, np.where(inside, self.offsets[place] + minute // 60, -1), beyond

    def put(self, channel: str, row: np.ndarray, minute: np.ndarray, value: np.ndarray, trust: int) -> None:
        """Offer values (not negative) of a channel at rows; ``trust`` is 1 for the least trusted table."""
        bits = value.astype(np.float32).view(np.uint32).astype(np.int64)
        key = ((minute % 60) << 40) | (trust << 32) | bits
        np.maximum.at(self.keys.reshape(-1), row * len(CHANNELS) + INDEX[channel], key)

    def blocks(self) -> Iterator[slice]:
        """Yield slices of stays that hold about ``BLOCK_ROWS`` rows each."""
        start = 0
        while start < len(self.stays):
            stop = int(np.searchsorted(self.offsets, self.offsets[start] + BLOCK_ROWS, side="right")) - 1
            stop = min(max(stop, start + 1), len(self.stays))
            yield slice(start, stop)
            start = stop

    def measured(self) -> np.ndarray:
        """Return which channels each stay has at least one value of, bool [stays, channels]."""
        result = np.empty((len(self.stays), len(CHANNELS)), dtype=bool)
        for block in self.blocks():
            first = self.offsets[block.start]
            cells = self.keys[first : self.offsets[block.stop]] > 0
            result[block] = np.logical_or.reduceat(cells, self.offsets[block] - first, axis=0)
        return result

    def flush(self) -> None:
        """Bring the keys to disk, where they lie in a file."""
        if isinstance(self.keys, np.memmap):
            self.keys.flush()

    def finish(
        self, kept: np.ndarray, channels: np.ndarray, make: Callable[..., np.ndarray]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return values (gaps filled), observed and offsets of some stays and channels; free the keys.

        Args:
            kept: bool [stays].
            channels: int [channels].
            make: Makes both arrays by ``make(name, type, shape)``: values float32 [rows, channels], observed
                uint8.
        """
        rows = np.diff(self.offsets)
        offsets = np.concatenate([[0], np.cumsum(rows[kept])])
        shape = (int(offsets[-1]), len(channels))
        values, observed = make("values", np.float32, shape), make("observed", np.uint8, shape)
        normal = np.array([CHANNELS[channel].normal for channel in channels])
        done = 0
        for block in self.blocks():
            cells = self.keys[self.offsets[block.start] : self.offsets[block.stop]]
            keys = cells[np.repeat(kept[block], rows[block])][:, channels]
            seen = keys > 0
            raw = (keys & 0xFFFFFFFF).astype(np.uint32).view(np.float32)
            local = np.concatenate([[0], np.cumsum(rows[block][kept[block]])])
            values[done : done + len(keys)] = forward_fill(raw, seen, local, normal)
            observed[done : done + len(keys)] = seen
            done += len(keys)
            release(self.keys, values, observed)
        self.keys = np.zeros((0, len(CHANNELS)), dtype=np.int64)
        return values, observed, offsets
