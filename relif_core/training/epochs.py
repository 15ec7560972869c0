"""What every epoch leaves beside its losses: the audit on a fixed grid of tolerances, raw and calibrated.

Validation is read after every evaluated epoch, test after every fifth, the selected and the last one. Of
dense tasks the raw scores' quantiles are kept, so that any calibration can be put on them later: a run need
not know its own while it trains. Nothing here steers training.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from relif_core.audit import bias_curve
from relif_core.calibration import temperatures_of
from relif_core.problems.base import Evaluation

#: The tolerances of the curves: 0 to 1 in steps of 0.05, the paper's 0.275 and PhysioNet 2012's 0.627.
#: Between two of them Bias is convex with slope −VR, so the stored points bound it from both sides.
TOLERANCES = tuple(sorted({*(round(0.05 * step, 2) for step in range(21)), 0.275, 0.627}))
#: Test is read after every so many epochs.
TEST_EVERY = 5
#: The levels of the quantiles that stand for a pool of raw scores: the middles of 64 equal parts.
LEVELS = (np.arange(64) + 0.5) / 64


class EpochAudits:
    """The readings of a run so far, as lists of numbers per split and quantity for the checkpoint."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        self.readings: dict[str, dict[str, list[Any]]] = {"validation": {}, "test": {}}

    def add(
        self, split: str, epoch: int, evaluation: Evaluation, temperatures: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Read one epoch of a split once; return the temperatures.

        Args:
            split: "validation" or "test".
            epoch: From 1.
            evaluation: Of the split at this epoch.
            temperatures: By task; None: fitted here.
        """
        fitted = temperatures_of(evaluation.logits) if temperatures is None else dict(temperatures)
        rows = self.readings[split]
        if epoch not in rows.get("epoch", []):
            row = {"epoch": epoch, **self._reading(evaluation, fitted)}
            for name, value in row.items():
                rows.setdefault(name, []).append(value)
        return fitted

    def _reading(self, evaluation: Evaluation, temperatures: Mapping[str, float]) -> dict[str, Any]:
        utility = evaluation.utility
        found: dict[str, Any] = {
            "worst": utility.worst,
            "macro": utility.macro,
            "scores": np.array([utility.tasks[task].score for task in self.tasks], dtype=float).tolist(),
            "temperature": [temperatures.get(task, np.nan) for task in self.tasks],
        }
        pools = {"": evaluation.scores}
        if temperatures:
            pools["calibrated_"] = calibrated_scores(evaluation, temperatures)
        for prefix, scores in pools.items():
            filled = {task: own for task, own in scores.items() if len(own)}
            for name, of in (("mean", np.mean), ("spread", np.std)):
                found[prefix + name] = [
                    float(of(filled[task])) if task in filled else np.nan for task in self.tasks
                ]
            # Scores whose scale is set at the end of training have no curve before, but a place in the list.
            curve = bias_curve(filled, TOLERANCES) if len(filled) > 1 and evaluation.on_scale else None
            for kind in ("bias", "violation_rate"):
                missing = [np.nan] * len(TOLERANCES)
                found[prefix + kind] = missing if curve is None else getattr(curve, kind).tolist()
        for task, raw in evaluation.raw.items():
            kept = np.quantile(raw, LEVELS, method="inverted_cdf") if len(raw) else LEVELS * np.nan
            found[f"raw/{task}"] = kept.tolist()
        return found

    def arrays(self, quantiles: Mapping[str, Sequence[float]] | None = None) -> dict[str, np.ndarray]:
        """Return ``epoch/<split>/<quantity>`` [epochs, ...] float32, ascending, and ``epoch/tolerances``.

        Args:
            quantiles: Task name to the (q10, q90) that scale raw scores: an epoch that had no scale yet gets
                its means, spreads and curves from the kept quantiles. Each stands for 1/64 of a pool, so that
                a score moves by 1/128 in the mean at most, and Bias by 1/64.
        """
        found = {"epoch/tolerances": np.array(TOLERANCES)}
        for rows in self.readings.values() if quantiles else ():
            for place, curve in enumerate(rows.get("bias", [])):
                if np.isnan(curve).all():
                    self._fill(rows, place, quantiles or {})
        for split, rows in self.readings.items():
            order = np.argsort(rows.get("epoch", []))
            for name, values in rows.items():
                read = np.array(values, dtype=np.int32 if name == "epoch" else np.float32)[order]
                if not name.endswith(("bias", "violation_rate")) or not np.isnan(read).all():
                    found[f"epoch/{split}/{name}"] = read
        return found

    def _fill(
        self, rows: Mapping[str, list[Any]], place: int, quantiles: Mapping[str, Sequence[float]]
    ) -> None:
        pools = {}
        for number, task in enumerate(self.tasks):
            raw = np.array(rows[f"raw/{task}"][place], dtype=np.float64)
            low, high = quantiles.get(task, (0.0, 1.0))
            if not np.isnan(raw).any():
                pools[task] = np.clip((raw - low) / (high - low), 0, 1)
                rows["mean"][place][number] = float(pools[task].mean())
                rows["spread"][place][number] = float(pools[task].std())
        if len(pools) > 1:
            curve = bias_curve(pools, TOLERANCES)
            for kind in ("bias", "violation_rate"):
                rows[kind][place] = getattr(curve, kind).tolist()


def calibrated_scores(evaluation: Evaluation, temperatures: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Return the audit pools of an evaluation after one temperature per task.

    Args:
        evaluation: Of a split.
        temperatures: Of every task with logits.
    """
    return {task: found.scores(temperatures[task]) for task, found in evaluation.logits.items()}
