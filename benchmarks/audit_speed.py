"""Exact audit against sorting its pools: ``python -m benchmarks.audit_speed [SAMPLES]``.

Both are timed in turn in one process, best of five, in processor time (neither uses more than one thread); the reference is ``np.sort`` of both pools in the dtype given. Every
audit returns Bias, violation rate and both standard errors of all n² pairs. Memory is the peak that NumPy allocates
during the audit beyond its inputs, as a multiple of the size of the two pools.
"""

import platform
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from relif_core.audit import audit

TOLERANCE = 0.275


def subjects(kind: str, samples: int, generator: np.random.Generator) -> dict[str, np.ndarray] | None:
    """Return subject ids for both pools: none, the same or differing, dense or sparse integers, or text."""
    if kind == "none":
        return None
    first, second = (generator.integers(0, samples // 2, samples) for _ in range(2))
    if kind == "same":
        return {"a": first, "b": first}
    if kind == "sparse":
        return {"a": first * 5003, "b": second * 5003}
    if kind == "text":
        return {"a": np.char.add("p", first.astype(str)), "b": np.char.add("p", second.astype(str))}
    return {"a": first, "b": second}


def best_of(times: int, first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Return the least processor time in seconds of each of two calls, made alternately."""
    durations: tuple[list[float], list[float]] = ([], [])
    for _ in range(times):
        for call, taken in zip((first, second), durations, strict=True):
            started = time.process_time()
            call()
            taken.append(time.process_time() - started)
    return min(durations[0]), min(durations[1])


def main() -> None:
    """Print the table and write it beside this script's other results."""
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    generator = np.random.default_rng(0)
    lines = [
        "| samples per pool | scores | subject ids | np.sort of both, ms | exact audit, ms | ratio | peak memory / pools |",
        "| ---: | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for size in (samples // 10, samples):
        for dtype in (np.float64, np.float32):
            scores = {
                "a": generator.random(size).astype(dtype),
                "b": generator.beta(2, 5, size).astype(dtype),
            }
            for kind in ("none", "same", "dense", "sparse", "text"):
                ids = subjects(kind, size, generator)
                sorting, auditing = best_of(
                    5,
                    lambda scores=scores: [np.sort(values) for values in scores.values()],
                    lambda scores=scores, ids=ids: audit(scores, TOLERANCE, subjects=ids),
                )
                tracemalloc.start()
                audit(scores, TOLERANCE, subjects=ids)
                peak = tracemalloc.get_traced_memory()[1] / sum(values.nbytes for values in scores.values())
                tracemalloc.stop()
                lines.append(
                    f"| {size:,} | {np.dtype(dtype).name} | {kind} | {sorting * 1e3:.1f} | {auditing * 1e3:.1f} "
                    f"| {auditing / sorting:.2f} | {peak:.1f} |"
                )
                print(lines[-1], flush=True)
    features = [name for name, found in np._core._multiarray_umath.__cpu_features__.items() if found]
    text = (
        "# Exact audit against sorting\n\n"
        "Made by `python -m benchmarks.audit_speed`. Processor time; a ratio of 1 is what sorting alone takes.\n\n"
        + "\n".join(lines)
        + f"\n\nNumPy {np.__version__}, Python {platform.python_version()}, {platform.machine()}, "
        f"{'AVX-512' if 'AVX512_SKX' in features else 'no AVX-512'}.\n"
    )
    (Path(__file__).parent / "results" / "audit_speed.md").write_text(text)


if __name__ == "__main__":
    main()
