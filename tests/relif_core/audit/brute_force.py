"""All pairs, formed one by one: what the exact protocol has to equal, and score samplers that try it hard."""

import itertools

import numpy as np
from hypothesis import strategies as st

GRID = np.linspace(0, 1, 21)


def all_pairs(scores: dict[str, np.ndarray], tolerances: dict[tuple[str, str], float]) -> tuple[float, float]:
    """Return (Bias, violation rate) from explicit n_i × n_j arrays."""
    bias, rate = [], []
    for i, j in itertools.combinations(scores, 2):
        gap = np.abs(scores[i].astype(np.float64)[:, None] - scores[j].astype(np.float64)[None, :])
        bias.append(np.maximum(gap - tolerances[i, j], 0).mean())
        rate.append((gap > tolerances[i, j]).mean())
    return float(np.mean(bias)), float(np.mean(rate))


@st.composite
def pools(draw: st.DrawFn, least: int = 1, most: int = 300) -> np.ndarray:
    """Draw one pool: continuous, on a grid (ties), constant, in a narrow band, skewed to 0, or of float32."""
    size = draw(st.integers(least, most))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(
        st.sampled_from(["uniform", "grid", "constant", "low", "high", "tiny", "extremes", "float32"])
    )
    if kind == "grid":
        return generator.choice(GRID, size)
    if kind == "constant":
        return np.full(size, draw(st.sampled_from([0.0, -0.0, 0.1, 0.3, 1.0])))
    if kind == "low":
        return generator.uniform(0, 0.2, size)
    if kind == "high":
        return generator.uniform(0.8, 1, size)
    if kind == "tiny":
        return generator.random(size) ** 40
    if kind == "extremes":
        return generator.choice(
            [0.0, -0.0, 5e-324, 1e-300, np.nextafter(0.3, 1), 0.3, np.nextafter(1, 0), 1.0], size
        )
    values = generator.random(size)
    return values.astype(np.float32) if kind == "float32" else values


tolerances = st.one_of(
    st.sampled_from([0.0, 0.05, 0.1, 0.15, 0.2, 0.275, 0.3, 0.5, 1.0, 5e-324]), st.floats(0, 1)
)
