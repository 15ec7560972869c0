"""Task utility: metrics on a common higher-is-better scale, and their minimum (Worst) and mean (Macro).

A metric that the data leave undefined (an AUROC with one class present) is reported as missing with its
reason, never as a number.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np

from relif_core.errors import DivergenceError, InputError
from relif_core.tensors.clinical import Task


@dataclass(frozen=True)
class TaskUtility:
    """Utility of one task.

    Attributes:
        score: In [0, 1], enters Worst and Macro; None where undefined.
        metrics: Raw numbers to print, in their own units, undefined ones left out.
        missing: Why the score is undefined, or what it leaves out.
    """

    score: float | None
    metrics: dict[str, float]
    missing: str = ""


@dataclass(frozen=True)
class Utility:
    """Utility of a model on one split; Worst and Macro run over the tasks whose score is defined."""

    tasks: dict[str, TaskUtility]

    @property
    def worst(self) -> float:
        """The smallest task score: min over tasks; NaN where no task has one."""
        return min(self._scores(), default=math.nan)

    @property
    def macro(self) -> float:
        """The mean task score; NaN where no task has one."""
        scores = self._scores()
        return sum(scores) / len(scores) if scores else math.nan

    def _scores(self) -> list[float]:
        return [task.score for task in self.tasks.values() if task.score is not None]

    def as_json(self) -> dict[str, object]:
        """Return plain values; undefined numbers are None."""
        return {
            "worst": None if math.isnan(self.worst) else self.worst,
            "macro": None if math.isnan(self.macro) else self.macro,
            "tasks": {
                name: {"score": task.score, "metrics": task.metrics, "missing": task.missing}
                for name, task in self.tasks.items()
            },
        }


def task_utility(task: Task, labels: np.ndarray, predictions: np.ndarray) -> TaskUtility:
    """Return the utility of a clinical task.

    Binary: AUROC; multilabel: mean AUROC over the labels that have both classes; binned: (κ + 1) / 2 with
    Cohen's linear-weighted κ (Cohen 1968) of the most probable class.

    Args:
        task: The task, whose kind decides the measure.
        labels: [n], multilabel [n, classes], one row per labelled stay or hour.
        predictions: [n, classes]: probabilities, for binned tasks any class scores.

    Raises:
        InputError: Labels and predictions differ in number.
        DivergenceError: A prediction is not finite.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if len(labels) != len(predictions):
        raise InputError(f"task {task.name!r}: {len(labels)} labels for {len(predictions)} predictions")
    if not len(labels):
        return TaskUtility(None, {}, "no labelled sample")
    if not np.isfinite(predictions).all():
        raise DivergenceError(f"task {task.name!r}: predictions hold NaN or infinity; the model has diverged")
    if task.kind == "binary":
        return _binary(labels, predictions.reshape(len(labels)))
    if task.kind == "multilabel":
        return _multilabel(labels, predictions)
    return _binned(labels, predictions.argmax(1), task.classes)


def linear_weighted_kappa(labels: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Return Cohen's linear-weighted κ; NaN where chance agreement is perfect.

    Args:
        labels: Classes [n] in 0..classes-1.
        predicted: Classes [n] in 0..classes-1.
        classes: Their number.
    """
    from sklearn.metrics import cohen_kappa_score

    with warnings.catch_warnings():
        # One class on both sides makes κ 0/0; the NaN is the answer and its caller names the reason.
        warnings.simplefilter("ignore")
        return float(cohen_kappa_score(labels, predicted, weights="linear", labels=np.arange(classes)))


def _binary(labels: np.ndarray, scores: np.ndarray) -> TaskUtility:
    from sklearn.metrics import average_precision_score, roc_auc_score

    prevalence = float(labels.mean())
    if prevalence in (0.0, 1.0):
        return TaskUtility(None, {"prevalence": prevalence}, f"only class {int(prevalence)} is present")
    area = float(roc_auc_score(labels, scores))
    return TaskUtility(
        area,
        {"auroc": area, "auprc": float(average_precision_score(labels, scores)), "prevalence": prevalence},
    )


def _multilabel(labels: np.ndarray, scores: np.ndarray) -> TaskUtility:
    columns = [_binary(labels[:, index], scores[:, index]) for index in range(labels.shape[1])]
    defined = [column for column in columns if column.score is not None]
    if not defined:
        return TaskUtility(None, {}, "every label has only one class present")
    metrics = {
        "macro_auroc": float(np.mean([column.metrics["auroc"] for column in defined])),
        "macro_auprc": float(np.mean([column.metrics["auprc"] for column in defined])),
        "labels_scored": float(len(defined)),
    }
    absent = len(columns) - len(defined)
    return TaskUtility(
        metrics["macro_auroc"], metrics, f"{absent} labels with one class left out" if absent else ""
    )


def _binned(labels: np.ndarray, predicted: np.ndarray, classes: int) -> TaskUtility:
    accuracy = float((labels == predicted).mean())
    kappa = linear_weighted_kappa(labels, predicted, classes)
    if math.isnan(kappa):
        return TaskUtility(
            None, {"accuracy": accuracy}, "labels and predictions hold one and the same class only"
        )
    return TaskUtility((kappa + 1) / 2, {"linear_weighted_kappa": kappa, "accuracy": accuracy})
