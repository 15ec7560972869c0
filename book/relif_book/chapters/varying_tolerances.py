"""Tolerances that follow the subgroup or the hour, beside the fixed one: what trained runs show under each.

Scores and embeddings at hour h are those of the same trained model when it has seen the rows before h and
nothing else. Only stays that reach the last hour take part: all hours and rulers measure the same people.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from relif_book.chapters.leakage import DESCRIBED
from relif_book.evidence.contrasts import seed_contrast, seed_mean
from relif_book.evidence.reporting import ReferenceTolerance
from relif_book.figures.live import rounded
from relif_core.audit import AuditResult, audit, conformal_tolerance, drift_budget, reference_distances
from relif_core.errors import InputError, RecordError, listed
from relif_core.problems.base import Evaluation
from relif_core.problems.clinical import ClinicalProblem
from relif_core.record import Record
from relif_core.settings import ModelSettings
from relif_core.tensors.clinical import SPLITS, ClinicalTensors, Group
from relif_core.training.loop import WEIGHTS
from relif_core.training.outcome import CALIBRATION_SEED, machine
from relif_data.label_reading import read_labels_at

FORMAT = "relif-varying-tolerances-1"
HOURS = (12, 24, 36, 48)


@dataclass(frozen=True)
class _Seen:
    """One run at one hour: what its model says of the validation and of the test stays.

    ``subjects`` [stays of the data set] holds the subject of each.
    """

    subjects: np.ndarray
    validation: Evaluation
    test: Evaluation

    def own_tolerance(self, alpha: float, members: np.ndarray | None = None) -> tuple[float, int]:
        """Return tolerance (theorem B.3) and pairs of the validation stays in ``members`` (None: all)."""
        chosen = np.ones(len(self.validation.order), bool) if members is None else members
        distances = reference_distances(
            self.validation.embeddings[chosen], self.subjects[self.validation.order[chosen]], CALIBRATION_SEED
        )
        return conformal_tolerance(distances, alpha), len(distances)

    def audit(self, tolerance: float, codes: np.ndarray | None = None) -> AuditResult:
        """Audit the test pools exactly; ``codes`` [stays of the data set] are those of a group."""
        samples = self.test.samples
        return audit(
            self.test.scores,
            tolerance,
            subjects={task: self.subjects[own] for task, own in samples.items()},
            groups=None if codes is None else {task: codes[own] for task, own in samples.items()},
        )


def hours_of(tensors: ClinicalTensors) -> tuple[int, ...]:
    """Return those of ``HOURS`` that some stay of the validation and of the test split reaches.

    Raises:
        InputError: There are none.
    """
    lengths = np.diff(tensors.arrays["offsets"])
    longest = min(lengths[tensors.stays_of(split)].max(initial=0) for split in ("validation", "test"))
    if longest < HOURS[0]:
        raise InputError(
            f"stays of {tensors.dataset} end after {longest} hours; the first look is at {HOURS[0]}"
        )
    return tuple(hour for hour in HOURS if hour <= longest)


def varying_tolerances(
    folders: Sequence[Path],
    tensors: ClinicalTensors,
    reference: ReferenceTolerance,
    *,
    hours: Sequence[int] = HOURS,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Audit runs by group and hour, under one fixed tolerance and under varying ones; aggregates only.

    Args:
        folders: Finished runs with their weights, as a study leaves them; every method with the same seeds,
            ERM among them.
        tensors: The data that they were trained on.
        reference: The fixed tolerance δ* and its level α, which every other calibration takes over.
        hours: Hours after which the input is cut, ascending; the last one is that of the subgroup audits.
        device: Where the models are evaluated.
        progress: Called with one line per evaluated run.

    The result holds, as plain values: ``groups``, for every level of every group the numbers of subjects and
    why a level is left out; ``group_audits``, per run and level the audit at δ* and at the level's own
    tolerance, which is calibrated on its own validation pairs; ``group_means``, the same per method, averaged
    over seeds; ``schedule``, the tolerance of each hour, calibrated once on the ERM run with the lowest seed;
    ``hour_audits``, per run and hour the audit at δ*, at the schedule and at the run's own tolerance; and
    ``hour_contrasts``, each method minus ERM under the two shared rulers, paired by seed and subject.

    Raises:
        InputError: Hours that descend, lie beyond a task's horizon or are reached by no stay of a split; no
            ERM run; methods of other seeds.
        RecordError: A folder without record or weights, or a run on other data.
    """
    if not hours or list(hours) != sorted(set(hours)):
        raise InputError(f"hours={listed(hours)}: give the hours once each, in ascending order")
    report = progress or (lambda line: None)
    runs = sorted((_opened(Path(folder), tensors) for folder in folders), key=lambda run: _name(run[0]))
    seeds = _shared_seeds([record for record, _ in runs])
    reached = np.diff(tensors.arrays["offsets"]) >= hours[-1]
    for split in ("validation", "test"):
        if not reached[tensors.stays_of(split)].any():
            raise InputError(f"hours={listed(hours)}: no stay of the {split} split is {hours[-1]} hours long")
    seen: dict[tuple[str, int], dict[int, _Seen]] = {_name(record): {} for record, _ in runs}
    for hour in hours:
        problem = ClinicalProblem(_read_at(tensors, hour, reached), device, maximum_hours=hour)
        for record, weights in runs:
            seen[_name(record)][hour] = _see(problem, record, weights)
            if hour == hours[-1]:
                report(f"{record.method}, seed {record.seed}")
    calibrated = seen["erm", seeds[0]]
    schedule = {hour: calibrated[hour].own_tolerance(reference.alpha) for hour in hours}
    last = {name: by_hour[hours[-1]] for name, by_hour in seen.items()}
    groups, group_audits, group_means = _by_group(tensors, last, reference)
    made = machine(torch.device(device), "float32")
    del made["source"]
    hour_audits, hour_contrasts = _by_hour(seen, schedule, reference, seeds)
    return {
        "format": FORMAT,
        **{name: tensors.manifest[name] for name in DESCRIBED},
        "tasks": {task.name: task.title for task in tensors.tasks},
        "reference": asdict(reference),
        "hours": list(hours),
        "runs": [{"method": record.method, "seed": record.seed, "key": record.key} for record, _ in runs],
        "groups": groups,
        "group_audits": rounded(group_audits),
        "group_means": rounded(group_means),
        "schedule": [
            {"hour": hour, "tolerance": rounded(tolerance), "pairs": pairs}
            for hour, (tolerance, pairs) in schedule.items()
        ],
        "hour_audits": rounded(hour_audits),
        "hour_contrasts": rounded(hour_contrasts),
        "made": made,
    }


def _opened(folder: Path, tensors: ClinicalTensors) -> tuple[Record, Mapping[str, torch.Tensor]]:
    record = Record.load(folder)
    if record.content["dataset"]["fingerprint"] != tensors.fingerprint:
        raise RecordError(f"{folder} was trained on other data than {tensors.folder}; name its own tensors")
    if not (folder / WEIGHTS).is_file():
        raise RecordError(
            f"{folder} holds no {WEIGHTS}: published records carry none; name the folder of the run"
        )
    return record, load_file(folder / WEIGHTS)


def _name(record: Record) -> tuple[str, int]:
    return record.method, record.seed


def _shared_seeds(records: Sequence[Record]) -> list[int]:
    by_method: dict[str, list[int]] = {}
    for record in records:
        by_method.setdefault(record.method, []).append(record.seed)
    if "erm" not in by_method:
        raise InputError("no ERM run among the folders; it sets the tolerance of every hour")
    for method, seeds in by_method.items():
        if seeds != by_method["erm"]:
            raise InputError(
                f"{method} has seeds {seeds}, erm {by_method['erm']}; give both the same, once each"
            )
    return by_method["erm"]


def _read_at(tensors: ClinicalTensors, hour: int, reached: np.ndarray) -> ClinicalTensors:
    """Return a view with one label a stay, read at ``hour`` (a task without horizon keeps its own).

    Stays that have not ``reached`` the last hour are in no split.
    """
    tasks = [task.name for task in tensors.tasks if task.level == "hourly" or task.horizon_hours is not None]
    view = read_labels_at(tensors, hour, tasks=tasks)
    split = np.where(reached, view.arrays["split"], len(SPLITS))
    return replace(view, arrays={**view.arrays, "split": split})


def _see(problem: ClinicalProblem, record: Record, weights: Mapping[str, torch.Tensor]) -> _Seen:
    settings = record.settings.model
    if not isinstance(settings, ModelSettings):
        raise InputError(f"{record.method}, seed {record.seed}: hours exist in clinical runs only")
    model = problem.build_model(settings)
    model.load_state_dict(dict(weights))
    subjects = problem.subjects(np.arange(len(problem.tensors.arrays["split"])))
    return _Seen(subjects, *(problem.evaluate(model, split) for split in ("validation", "test")))


def _by_group(
    tensors: ClinicalTensors, runs: Mapping[tuple[str, int], _Seen], reference: ReferenceTolerance
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the levels of every group, the audit of every run in every level, and their means over seeds."""
    groups, rows, means = [], [], []
    methods = list(dict.fromkeys(method for method, _ in runs))
    for group in tensors.groups:
        codes = np.asarray(tensors.arrays[f"groups/{group.name}"]).astype(np.int64)
        levels = _levels(group, codes, next(iter(runs.values())), reference.alpha)
        groups.append({"name": group.name, "title": group.title, "levels": levels})
        fixed = {name: run.audit(reference.tolerance, codes).groups for name, run in runs.items()}
        for code, level in enumerate(levels):
            if level["left_out"]:
                continue
            own: dict[tuple[str, int], AuditResult] = {}
            for name, run in runs.items():
                tolerance, _ = run.own_tolerance(reference.alpha, codes[run.validation.order] == code)
                own[name] = run.audit(tolerance, codes).groups[str(code)]
                rows.append(
                    {
                        "group": group.name,
                        "level": level["level"],
                        "method": name[0],
                        "seed": name[1],
                        **_estimates("", fixed[name][str(code)]),
                        "own_tolerance": tolerance,
                        "budget": drift_budget(reference.tolerance, own[name].tolerances),
                        **_estimates("own_", own[name]),
                    }
                )
            means += [
                {
                    "group": group.name,
                    "level": level["level"],
                    "method": method,
                    **_mean("", [fixed[name][str(code)] for name in runs if name[0] == method]),
                    **_mean("own_", [own[name] for name in runs if name[0] == method]),
                }
                for method in methods
            ]
    return groups, rows, means


def _levels(group: Group, codes: np.ndarray, run: _Seen, alpha: float) -> list[dict[str, Any]]:
    """Count the subjects per level, leaving out levels with an empty pool or too few pairs to calibrate."""
    needed = math.ceil(1 / alpha) - 1  # the fewest pairs whose calibrated tolerance is one of their distances
    levels = []
    for code, level in enumerate(group.levels):
        counts = {
            split: len(np.unique(run.subjects[found.order[codes[found.order] == code]]))
            for split, found in (("validation", run.validation), ("test", run.test))
        }
        empty = [task for task, own in run.test.samples.items() if not (codes[own] == code).any()]
        reason = ""
        if empty:
            reason = f"no test stay with a label for {listed(empty)}"
        elif counts["validation"] // 2 < needed:
            reason = f"{counts['validation'] // 2} validation pairs, α = {alpha:g} needs {needed}"
        levels.append({"level": level, **counts, "left_out": reason})
    return levels


def _by_hour(
    seen: Mapping[tuple[str, int], Mapping[int, _Seen]],
    schedule: Mapping[int, tuple[float, int]],
    reference: ReferenceTolerance,
    seeds: Sequence[int],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return every run's audits by hour under three rulers, and methods minus ERM under the shared two."""
    rows, contrasts = [], []
    shared: dict[tuple[str, str, int, int], AuditResult] = {}
    for (method, seed), by_hour in seen.items():
        for hour, run in by_hour.items():
            tolerance, _ = run.own_tolerance(reference.alpha)
            fixed = shared["fixed", method, seed, hour] = run.audit(reference.tolerance)
            timed = shared["schedule", method, seed, hour] = run.audit(schedule[hour][0])
            rows.append(
                {
                    "method": method,
                    "seed": seed,
                    "hour": hour,
                    **{name: _known(getattr(run.test.utility, name)) for name in ("worst", "macro")},
                    **_estimates("", fixed),
                    **_estimates("schedule_", timed),
                    "own_tolerance": tolerance,
                    **_estimates("own_", run.audit(tolerance)),
                }
            )
    for method, ruler, hour in itertools.product(
        dict.fromkeys(name for name, _ in seen if name != "erm"), ("fixed", "schedule"), schedule
    ):
        erm, other = ([shared[ruler, name, seed, hour] for seed in seeds] for name in ("erm", method))
        bias, interval = seed_contrast(erm, other, "bias")
        contrasts.append({"method": method, "ruler": ruler, "hour": hour, "bias": bias, "interval": interval})
    return rows, contrasts


def _estimates(prefix: str, found: AuditResult) -> dict[str, float]:
    names = [f"{kind}{ending}" for kind in ("bias", "violation_rate") for ending in ("", "_se")]
    return {f"{prefix}{name}": getattr(found, name) for name in names}


def _mean(prefix: str, audits: Sequence[AuditResult]) -> dict[str, float]:
    return dict(zip((f"{prefix}bias", f"{prefix}bias_se"), seed_mean(audits, "bias"), strict=True))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
