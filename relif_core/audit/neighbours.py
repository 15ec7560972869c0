"""Exact k nearest neighbours on NumPy alone: block by block, without an n × n array."""

import numpy as np

_BLOCK = 1024


def nearest_neighbours(inputs: np.ndarray, codes: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return every sample's k nearest samples of other subjects, nearest first, ties by the lower index.

    Samples are sorted along their first principal axis and cut into blocks. One float32 matrix product gives
    all squared distances between two blocks up to a rounding that is bounded; what may be nearer than the
    k-th neighbour found so far, that bound allowed for, is measured again in float64 from the inputs
    themselves. Two blocks further apart along the axis than every k-th neighbour found so far are left out.
    Results do not depend on the order of work.

    Args:
        inputs: [n, D] finite float64.
        codes: [n] subject codes, integers.
        k: Number of neighbours, at least 1.

    Returns:
        Indices [n, k] int64 and Euclidean distances [n, k] float64; −1 and infinity where fewer than k
        samples belong to other subjects.
    """
    n, width = inputs.shape
    centred = inputs - inputs.mean(axis=0)
    extent = float(np.abs(centred).max(initial=0.0)) or 1.0
    centred /= extent
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1] if width else np.zeros(0)
    along = centred @ axis
    order = np.argsort(along, kind="stable")
    along, codes, points = along[order], codes[order], inputs[order]
    small = centred[order].astype(np.float32)
    norms = np.einsum("nd,nd->n", small, small)
    ones = np.ones((n, 1), dtype=np.float32)
    left = np.hstack([-2 * small, norms[:, None], ones])
    right = np.hstack([small, ones, norms[:, None]])
    found = _Nearest(points, order, codes, k, extent)
    blocks = [slice(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK)]
    largest = [float(norms[block].max()) for block in blocks]
    rounding = (width + 4) * 2.0**-22
    pairs = [(i, i) for i in range(len(blocks))]
    pairs += [(i, i + apart) for apart in range(1, len(blocks)) for i in range(len(blocks) - apart)]
    for i, j in pairs:
        rows, columns = blocks[i], blocks[j]
        slack = rounding * (largest[i] + largest[j])
        gap = max(0.0, along[columns.start] - along[rows.stop - 1])
        reach = found.reach[rows].max(), found.reach[columns].max()
        if gap * gap > max(reach) + slack:
            continue
        near = left[rows] @ right[columns].T
        if i == j:
            near[codes[rows][:, None] == codes[columns]] = np.inf
            if near.shape[1] > k:
                found.reach[rows] = np.partition(near, k - 1, axis=1)[:, k - 1] + slack
        near_row = near <= _bound(found.reach[rows], slack)[:, None]
        row, column = np.divmod(np.flatnonzero(near_row), near.shape[1])
        found.add(row + rows.start, column + columns.start)
        if i != j:
            near_column = near <= _bound(found.reach[columns], slack)
            row, column = np.divmod(np.flatnonzero(near_column), near.shape[1])
            found.add(column + columns.start, row + rows.start)
    back = np.empty(n, dtype=np.int64)
    back[order] = np.arange(n)
    return found.indices[back], np.sqrt(found.squares[back])


def _bound(reach: np.ndarray, slack: float) -> np.ndarray:
    """Return float32 numbers that no reach plus slack exceeds."""
    return np.nextafter((reach + slack).astype(np.float32), np.float32(np.inf))


class _Nearest:
    """The nearest found so far, in sorted order: ``squares`` [n, k] are squared distances.

    ``reach`` [n] is an upper bound of the k-th in the scaled units of the search.
    """

    def __init__(
        self, points: np.ndarray, names: np.ndarray, codes: np.ndarray, k: int, extent: float
    ) -> None:
        self.indices = np.full((len(points), k), -1, dtype=np.int64)
        self.squares = np.full((len(points), k), np.inf)
        self.reach = np.full(len(points), np.inf)
        self._points, self._names, self._codes, self._extent = points, names, codes, extent

    def add(self, row: np.ndarray, column: np.ndarray) -> None:
        """Take candidates (row, column), positions in sorted order that were not offered before."""
        other = self._codes[row] != self._codes[column]
        row, column = row[other], column[other]
        if not len(row):
            return
        k = self.indices.shape[1]
        difference = self._points[row] - self._points[column]
        square = np.einsum("nd,nd->n", difference, difference)
        affected = np.unique(row)
        rows = np.concatenate([np.repeat(affected, k), row])
        squares = np.concatenate([self.squares[affected].ravel(), square])
        names = np.concatenate([self.indices[affected].ravel(), self._names[column]])
        order = np.lexsort((names, squares, rows))
        starts = np.searchsorted(rows[order], affected)
        kept = order[starts[:, None] + np.arange(k)]
        self.indices[affected], self.squares[affected] = names[kept], squares[kept]
        self.reach[affected] = np.minimum(self.reach[affected], squares[kept[:, -1]] / self._extent**2)
