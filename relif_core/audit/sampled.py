"""The sampled protocol: seeded pools and pair draws, in the order of the authors' released implementation."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from relif_core.audit.pools import Pair, task_pairs


@dataclass(frozen=True, eq=False)
class SampledPair:
    """Drawn positions in the two sampled pools and the violations there.

    Attributes:
        first: int64 [pairs].
        second: int64 [pairs].
        violations: float32 [pairs], max(0, |x − y| − δ).
        violated: bool [pairs], |x − y| > δ.
    """

    first: np.ndarray
    second: np.ndarray
    violations: np.ndarray
    violated: np.ndarray


def sampled_pools(
    sizes: Mapping[str, int], pool_size: int, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return per task the sampled pool's positions: all, or ``pool_size`` drawn without replacement."""
    return {
        task: generator.choice(size, pool_size, replace=False) if size > pool_size else np.arange(size)
        for task, size in sizes.items()
    }


def sampled_pairs(
    pools: Mapping[str, np.ndarray],
    tolerances: Mapping[Pair, float],
    pairs: int,
    generator: np.random.Generator,
    weights: Mapping[str, np.ndarray] | None = None,
) -> dict[Pair, SampledPair]:
    """Draw ``pairs`` cross pairs for each task pair and evaluate them in float32.

    ``generator`` is the one that drew the pools; for each pair it draws the positions of the first task, then
    those of the second, uniformly with replacement, or in proportion to ``weights``.
    """
    drawn = {}

    def positions(task: str) -> np.ndarray:
        if weights is None:
            return generator.integers(0, len(pools[task]), pairs)
        return generator.choice(len(pools[task]), pairs, p=weights[task] / weights[task].sum())

    for i, j in task_pairs(list(pools)):
        first, second = positions(i), positions(j)
        gap = np.abs(pools[i][first].astype(np.float32) - pools[j][second].astype(np.float32))
        tolerance = np.float32(tolerances[i, j])
        drawn[i, j] = SampledPair(first, second, np.maximum(gap - tolerance, np.float32(0)), gap > tolerance)
    return drawn
