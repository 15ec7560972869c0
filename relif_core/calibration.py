"""Temperature scaling: a positive number per task divides its logits, fitted by validation NLL on labels.

NumPy alone. With β = 1/T the mean NLL of a binary or multilabel task is mean softplus(βz) − yβz, that of a
binned task mean log Σ_k exp(βz_k) − βz_y; both are convex in β, so the root of the derivative is the optimum
(Guo et al., ICML 2017).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

#: Bounds of fitted temperatures: separated validation labels would drive T to 0, noise to infinity.
LOWEST, HIGHEST = 0.01, 100.0


@dataclass(frozen=True, eq=False)
class LabelledLogits:
    """A task's labelled rows.

    Attributes:
        kind: "binary", "multilabel" or "binned".
        logits: [n, classes].
        labels: [n], multilabel [n, classes].
        rows: [pool], each pool sample's number of rows, in pool order: one, except for hourly tasks.
    """

    kind: str
    logits: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    rows: np.ndarray = field(repr=False)

    def scores(self, temperature: float = 1.0) -> np.ndarray:
        """Return the audit scores [pool], float32, of the logits divided by a temperature."""
        values = self.logits.astype(np.float64) / temperature
        if self.kind == "binned":
            values -= values.max(1, keepdims=True)
            confidence = 1 / np.exp(values).sum(1)
        else:
            confidence = _sigmoid(values.max(1))
        if len(confidence) and len(confidence) != len(self.rows):
            starts = np.concatenate([[0], np.cumsum(self.rows)[:-1]])
            confidence = np.add.reduceat(confidence, starts) / self.rows
        return confidence.astype(np.float32)

    def predictions(self) -> np.ndarray:
        """Return probabilities [n, classes]: softmax over the classes of a binned task, else sigmoid."""
        values = self.logits.astype(np.float64)
        if self.kind != "binned":
            return _sigmoid(values)
        weights = np.exp(values - values.max(1, keepdims=True))
        return weights / weights.sum(1, keepdims=True)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # 1 / (1 + ∞) is the 0 that is meant
        return 1 / (1 + np.exp(-values))


def fit_temperature(found: LabelledLogits) -> float:
    """Return the temperature in [``LOWEST``, ``HIGHEST``] of least mean NLL of the labels.

    It is 1 where every temperature has the same: without rows, or with logits that are equal in every row.

    At most a hundred Newton steps in log β inside a bracket that every step narrows, or halves where Newton
    leaves it; the few rows that a classifier separates without an error need more and stay above ``LOWEST``.
    """
    logits = found.logits.astype(np.float64)
    if found.kind == "binned":
        logits = logits - np.take_along_axis(logits, found.labels.astype(np.int64)[:, None], 1)
    else:
        labels = found.labels.reshape(logits.shape).astype(bool)
        logits = np.where(labels, -logits, logits)
    if not logits.any():
        return 1.0

    low, high, point = -np.log(HIGHEST), -np.log(LOWEST), 0.0
    for _ in range(100):
        slope, curvature = _derivatives(found.kind, logits, np.exp(point))
        if slope > 0:
            high = point
        else:
            low = point
        beta = np.exp(point)
        turn = curvature * beta * beta + slope * beta
        step = -slope * beta / turn if turn > 0 else np.inf
        inside = low < point + step < high
        following = point + step if inside else (low + high) / 2
        if abs(following - point) < 1e-9:
            break
        point = following
    return float(np.clip(np.exp(-point), LOWEST, HIGHEST))


def _derivatives(kind: str, logits: np.ndarray, beta: float) -> tuple[float, float]:
    if kind == "binned":
        # Every row holds z_k − z_y: the mean is that of log Σ exp(β(z_k − z_y)).
        shifted = beta * (logits - logits.max(1, keepdims=True))
        share = np.exp(shifted)
        share /= share.sum(1, keepdims=True)
        mean = (share * logits).sum(1)
        return float(mean.mean()), float(((share * np.square(logits)).sum(1) - np.square(mean)).mean())
    # Every entry holds z with the sign that makes softplus(βz) its NLL.
    rising = 1 / (1 + np.exp(-np.clip(beta * logits, -700, 700)))
    return float((rising * logits).mean()), float((rising * (1 - rising) * np.square(logits)).mean())


def temperatures_of(logits: Mapping[str, LabelledLogits]) -> dict[str, float]:
    """Return the fitted temperature of every task."""
    return {task: fit_temperature(found) for task, found in logits.items()}
