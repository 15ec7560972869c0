"""What a finished run leaves: its record, from the evaluations of the selected and the last weights."""

import math
import platform
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from relif_core import __version__
from relif_core.audit import induced_tolerances
from relif_core.audit.tolerance import reference_distances
from relif_core.problems.base import Evaluation
from relif_core.provenance import command, processor_instructions, processor_name, sources
from relif_core.record import FORMAT, Record
from relif_core.settings import as_json
from relif_core.training.epochs import calibrated_scores

if TYPE_CHECKING:
    from relif_core.training.loop import TrainingLoop

#: Seed of the matching that makes calibration pairs: the same pairs of subjects for every run on a data set.
CALIBRATION_SEED = 0


def machine(device: torch.device, precision: str) -> dict[str, Any]:
    """Describe where and by what a run was made: device, threads, versions, sources, command.

    Args:
        device: Of the run.
        precision: Of its training.
    """
    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else processor_name(),
        "instructions": (
            "sm_{}{}".format(*torch.cuda.get_device_capability(device))
            if on_gpu
            else processor_instructions()
        ),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "relif_core": __version__,
        },
        **sources(),
        "command": command(),
    }


def record_of(loop: "TrainingLoop", key: str, began: float, resumed: bool) -> Record:
    """Evaluate the selected weights and gather the record.

    Args:
        loop: After its last epoch.
        key: Of the run.
        began: ``time.time()`` at its start.
        resumed: Whether it went on from a checkpoint.
    """
    problem, settings = loop.problem, loop.settings
    evaluations = loop.final_evaluations()
    last = evaluations.pop("last")
    arrays: dict[str, np.ndarray] = {}
    tolerances: dict[str, list[dict[str, Any]]] = {}
    for split, evaluation in evaluations.items():
        pools = {task: scores for task, scores in evaluation.scores.items() if len(scores)}
        for task, scores in pools.items():
            arrays[f"score/{split}/{task}"] = scores.astype(np.float32)
            arrays[f"sample/{split}/{task}"] = evaluation.samples[task].astype(np.int32)
            arrays[f"subject/{split}/{task}"] = problem.subjects(evaluation.samples[task])
        arrays |= _outputs("", split, evaluation, loop.best_temperatures)
        arrays |= {f"raw/{split}/{task}": values for task, values in loop.raw_scores(split).items()}
        embeddings = {task: evaluation.embeddings_of(task) for task in pools}
        # A run of one task has no pair of tasks, and nothing to audit.
        several = len(problem.task_names) > 1
        induced = induced_tolerances(embeddings, pools, settings.audit.prototypes) if several else {}
        tolerances[split] = [{"tasks": list(pair), "tolerance": value} for pair, value in induced.items()]
    validation = evaluations["validation"]
    arrays["calibration/distances"] = np.sort(
        reference_distances(validation.embeddings, problem.subjects(validation.order), CALIBRATION_SEED)
    )
    for task, scores in last.scores.items():
        if len(scores):
            arrays[f"last/test/{task}"] = scores.astype(np.float32)
    arrays |= _outputs("last_", "test", last, loop.last_temperatures)
    arrays |= loop.audits.arrays((loop.score_calibration or {}).get("quantiles"))
    # λ and r̄ follow from the rates, which are shares of a few pairs: float32 holds them as they were.
    arrays["trace/violation_rate"] = np.array(loop.trace["violation_rate"], dtype=np.float32)
    content = {
        "format": FORMAT,
        "key": key,
        "settings": as_json(settings),
        "dataset": problem.description,
        "result": {
            "epochs": loop.epoch,
            "best_epoch": loop.best_epoch,
            "utility": {split: evaluation.utility.as_json() for split, evaluation in evaluations.items()},
            "induced_tolerances": tolerances,
            "history": _finite(loop.history),
            "last": {
                "epoch": loop.epoch,
                "utility": {"test": last.utility.as_json()},
                **({"temperatures": loop.last_temperatures} if loop.last_temperatures else {}),
            },
            **({"temperatures": loop.best_temperatures} if loop.best_temperatures else {}),
            # Named only where there is one, so that records of tasks without it keep their digest.
            **({"score_calibration": loop.score_calibration} if loop.score_calibration else {}),
        },
        "made": {
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
            "resumed": resumed,
            "training_seconds": round(loop.seconds, 3),
            **({} if resumed else {"seconds": round(time.time() - began, 3)}),
            **machine(problem.device, settings.training.precision),
            **({"all_sources": loop.sources} if len(loop.sources) > 1 else {}),
        },
    }
    return Record(content, arrays)


def _outputs(
    prefix: str, split: str, evaluation: Evaluation, temperatures: Mapping[str, float]
) -> dict[str, np.ndarray]:
    """Return what a split's audit can be redone from: calibrated scores, logits, and once labels and rows."""
    found: dict[str, np.ndarray] = {}
    for task, scores in calibrated_scores(evaluation, temperatures).items():
        logits = evaluation.logits[task]
        if not len(scores):
            continue
        found[f"{prefix}calibrated/{split}/{task}"] = scores
        # float16 ends there, and of an infinite logit a score would be NaN.
        found[f"{prefix}logit/{split}/{task}"] = np.clip(logits.logits, -65504, 65504).astype(np.float16)
        if not prefix:
            held = np.uint8 if logits.labels.max() < 256 else np.int16
            found[f"label/{split}/{task}"] = logits.labels.astype(held)
            if len(logits.logits) != len(logits.rows):
                found[f"rows/{split}/{task}"] = logits.rows.astype(np.int32)
    return found


def _finite(value: Any) -> Any:
    """Return a value with None for every undefined number: JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
