"""Filling the gaps of hourly values: last value carried forward, else a normal value."""

import numpy as np


def forward_fill(
    values: np.ndarray, observed: np.ndarray, offsets: np.ndarray, normal: np.ndarray
) -> np.ndarray:
    """Return values with unobserved cells at the stay's last observed value, or the channel's normal one.

    Row r of a stay depends on its rows 0..r only: no value moves back in time or between stays.

    Args:
        values: [rows, channels] in time order.
        observed: [rows, channels].
        offsets: Stay i owns rows ``offsets[i]:offsets[i + 1]``.
        normal: [channels].
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
