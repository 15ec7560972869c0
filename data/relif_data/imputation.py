"""Filling the gaps of hourly values: last value carried forward, else a normal value."""

import numpy as np


def forward_fill(
    values: np.ndarray, observed: np.ndarray, offsets: np.ndarray, normal: np.ndarray
) -> np.ndarray:
    """Return ``values`` with unobserved cells at the stay's last observed value, or the channel's normal one.

    ``values`` and ``observed`` have shape [rows, channels], stay ``i`` owns rows ``offsets[i]:offsets[i +
    1]`` in time order, and ``normal`` has shape [channels]. Row ``r`` of the result depends on rows ``0..r``
    of its own stay only, so no value moves back in time or from one stay to the next.
    """
    rows = len(values)
    first = np.repeat(offsets[:-1], np.diff(offsets))
    position = np.arange(rows)
    filled = np.empty(values.shape, dtype=np.float32)
    for channel in range(values.shape[1]):
        last = np.maximum.accumulate(np.where(observed[:, channel] != 0, position, -1))
        seen = last >= first
        filled[:, channel] = np.where(seen, values[np.maximum(last, 0), channel], normal[channel])
    return filled
