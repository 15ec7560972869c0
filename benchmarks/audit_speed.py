"""Exact audit against sorting its pools: ``nice python -m benchmarks.audit_speed [SAMPLES]``.

Both are timed in turn in one process, best of five, in processor time (neither uses more than one thread);
the reference is ``np.sort`` of both pools in the dtype given. Every audit returns Bias, violation rate and
both standard errors of all n² pairs. Memory is the peak that NumPy allocates during the audit beyond its
inputs, as a multiple of the size of the two pools. Where numba is installed, everything is measured once more
with the compiled passes, already loaded. The table's name tells the processor's vectors, for sorting depends
on them more than the audit does.
"""

import importlib.util
import os
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.machine import machine, vector_width
from relif_core.audit import audit, bias_curve, compiled

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


def against_sorting(samples: int, passes: str) -> list[str]:
    """Return the rows of the first table: two pools, with and without subject ids."""
    generator = np.random.default_rng(0)
    lines = []
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
                    f"| {passes} | {size:,} | {np.dtype(dtype).name} | {kind} | {sorting * 1e3:.1f} |"
                    f" {auditing * 1e3:.1f} | {auditing / sorting:.2f} | {peak:.1f} |"
                )
                print(lines[-1], flush=True)
    return lines


def other_shapes(samples: int, passes: str) -> list[str]:
    """Return the second table's rows: a curve, many tasks, many groups, each beside one audit."""
    generator = np.random.default_rng(1)
    scores = {"a": generator.random(samples), "b": generator.beta(2, 5, samples)}
    groups = {task: generator.integers(0, 5000, samples) for task in scores}
    tasks = {f"task {k}": generator.random(samples // 50) for k in range(50)}
    lines = []
    for name, call, one in (
        (
            "11-point curve",
            lambda: bias_curve(scores, np.linspace(0, 1, 11)),
            lambda: audit(scores, TOLERANCE),
        ),
        ("5,000 groups", lambda: audit(scores, TOLERANCE, groups=groups), lambda: audit(scores, TOLERANCE)),
        (f"50 tasks x {samples // 50:,}", lambda: audit(tasks, TOLERANCE), lambda: audit(scores, TOLERANCE)),
    ):
        whole, single = best_of(3, call, one)
        lines.append(f"| {passes} | {name} | {whole * 1e3:.0f} | {single * 1e3:.0f} | {whole / single:.1f} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Print the tables and write them beside this script's other results."""
    samples = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    first, second = against_sorting(samples, "NumPy"), other_shapes(samples, "NumPy")
    if importlib.util.find_spec("numba"):
        compiled.load()
        audit({"a": [0.1, 0.9], "b": [0.5]}, TOLERANCE)
        bias_curve({"a": [0.1, 0.9], "b": [0.5]}, [TOLERANCE])
        first += against_sorting(samples, "numba")
        second += other_shapes(samples, "numba")
    text = "\n".join(
        [
            "# Exact audit against sorting\n",
            (
                "Made by `nice python -m benchmarks.audit_speed`. Processor time; a ratio of 1 is what"
                " sorting alone takes."
            ),
            f"{samples:,} samples per pool are {samples**2:.0e} pairs.\n",
            (
                "| passes | samples per pool | scores | subject ids | np.sort of both, ms | exact audit, ms |"
                " ratio | peak memory / pools |"
            ),
            "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: |",
            *first,
            f"\nOther shapes, beside one audit of two pools of {samples:,} (float64, no ids):\n",
            "| passes | what | ms | one audit, ms | ratio |",
            "| --- | --- | ---: | ---: | ---: |",
            *second,
            f"\n{machine()}; load average {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores.\n",
        ]
    )
    name = f"audit_speed_{vector_width().lower().replace('-', '')}.md"
    (Path(__file__).parent / "results" / name).write_text(text)


if __name__ == "__main__":
    main()
