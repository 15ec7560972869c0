"""What every epoch leaves beside its losses: the audit on a fixed grid of tolerances, raw and calibrated.

Validation is read after every epoch, test after every fifth, the selected and the last one. Nothing here
steers training.
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


class EpochAudits:
    """The readings of a run so far, as lists of numbers per split and quantity for the checkpoint."""

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        self.readings: dict[str, dict[str, list[Any]]] = {"validation": {}, "test": {}}

    def add(
        self, split: str, epoch: int, evaluation: Evaluation, temperatures: Mapping[str, float] | None = None
    ) -> dict[str, float]:
        """Read one epoch of a split once; return the temperatures, fitted here unless given."""
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
            "scores": [_number(utility.tasks[task].score) for task in self.tasks],
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
            # Scores whose scale is set at the end of training have no curve before, and keep their place in
            # the list.
            curve = bias_curve(filled, TOLERANCES) if len(filled) > 1 and evaluation.on_scale else None
            for kind in ("bias", "violation_rate"):
                missing = [np.nan] * len(TOLERANCES)
                found[prefix + kind] = missing if curve is None else getattr(curve, kind).tolist()
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """Return ``epoch/<split>/<quantity>`` [epochs, ...] float32, ascending, and ``epoch/tolerances``."""
        found = {"epoch/tolerances": np.array(TOLERANCES)}
        for split, rows in self.readings.items():
            order = np.argsort(rows.get("epoch", []))
            for name, values in rows.items():
                read = np.array(values, dtype=np.int32 if name == "epoch" else np.float32)[order]
                if not name.endswith(("bias", "violation_rate")) or not np.isnan(read).all():
                    found[f"epoch/{split}/{name}"] = read
        return found


def calibrated_scores(evaluation: Evaluation, temperatures: Mapping[str, float]) -> dict[str, np.ndarray]:
    """Return the audit pools of an evaluation after one temperature per task."""
    return {task: found.scores(temperatures[task]) for task, found in evaluation.logits.items()}


def _number(value: float | None) -> float:
    return np.nan if value is None else value
