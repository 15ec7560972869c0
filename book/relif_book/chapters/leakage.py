"""What label leakage does: same model, labels and test stays, read causally or with later hours."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from relif_book.evidence.audit_table import audit_record
from relif_book.evidence.contrasts import Kind, seed_contrast
from relif_book.evidence.reporting import choose_reference_tolerance
from relif_book.figures.live import rounded
from relif_core.audit import AuditResult
from relif_core.errors import InputError
from relif_core.problems.clinical import ClinicalProblem
from relif_core.problems.utility import task_utility
from relif_core.record import Record
from relif_core.settings import as_json, method_settings
from relif_core.tensors.clinical import ClinicalTensors
from relif_core.training.loop import run
from relif_core.training.outcome import machine
from relif_data.label_reading import READINGS, read_labels_at
from relif_data.labels import length_of_stay_class

FORMAT = "relif-leakage-1"
#: What a study's summary says of its tensors.
DESCRIBED = ("dataset", "title", "licence", "synthetic", "fingerprint")
#: What is compared between readings.
CONTRASTED: tuple[Kind, ...] = ("bias", "violation_rate")
#: Hours after the label at which an input is cut, to see how much its length gives away.
HOURS_AFTER = (0, 6, 12, 24, 48, 72, 96, 144)


def leakage_study(
    tensors: ClinicalTensors,
    hour: int,
    folder: Path,
    *,
    tasks: Sequence[str] | None = None,
    readings: Sequence[str] = tuple(READINGS),
    methods: Sequence[str] = ("erm", "relif"),
    seeds: Sequence[int] = (0, 1, 2),
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Train every method and seed under every reading and compare what comes out.

    The tolerance is calibrated once, on validation data of the causal ERM run with the lowest seed, and held
    for every reading.

    Args:
        tensors: The data.
        hour: At which labels stand.
        folder: Of the records; finished ones are kept.
        tasks: As of ``read_labels_at``.
        readings: Keys of ``READINGS``, the causal one among them.
        methods: ERM among them.
        seeds: Of the runs.
        settings: Changes of the settings.
        device: "cpu" or "cuda".
        progress: Called with a line of text per run.

    Returns:
        Aggregates only: ``runs`` (test utility, Bias, violation rate, mean induced tolerance) and
            ``contrasts``:
        each reading minus the causal one, with an interval over test subjects, the same in all readings.

    Raises:
        InputError: The causal reading or ERM is missing.
    """
    if "causal" not in readings or "erm" not in methods:
        raise InputError(
            "the comparison needs the reading 'causal' and the method 'erm': they set the tolerance"
        )
    report = progress or (lambda message: None)
    changes = dict(settings or {})
    records: dict[tuple[str, str, int], Record] = {}
    maximum_hours = method_settings("erm", **changes).training.maximum_hours
    for reading in readings:
        view = read_labels_at(tensors, hour, reading, tasks=tasks)
        problem = ClinicalProblem(view, device, maximum_hours)
        for method, seed in itertools.product(methods, seeds):
            place = Path(folder) / reading / f"{method}-seed{seed}"
            chosen = method_settings(method, **changes, seed=seed)
            records[reading, method, seed] = run(chosen, problem, place)
            report(f"{reading}, {method}, seed {seed}")
    first = records["causal", "erm", min(seeds)]
    reference = choose_reference_tolerance(first)
    audits = {name: audit_record(record, reference.tolerance) for name, record in records.items()}
    made = machine(problem.device, first.settings.training.precision)
    del made["source"]
    return {
        "format": FORMAT,
        **{name: tensors.manifest[name] for name in DESCRIBED},
        "hour": hour,
        "tasks": {task.name: task.title for task in tensors.tasks},
        "reread": list(view.manifest["options"]["label_reading"]["tasks"]),
        "test_labels": {task: len(scores) for task, scores in first.scores().items()},
        "length_alone": [
            {"hours_after": after, "scores": utility_of_length(tensors, hour, maximum_hours=hour + after)}
            for after in HOURS_AFTER
        ],
        "settings": as_json(method_settings(methods[0], **changes)),
        "reference": asdict(reference),
        "runs": [_run_row(name, records[name], audits[name]) for name in records],
        "contrasts": [
            _contrast(method, reading, seeds, records, audits)
            for reading, method in itertools.product(readings, methods)
            if reading != "causal"
        ],
        "made": {
            "began": min(record.content["made"]["began"] for record in records.values()),
            "training_seconds": round(
                sum(record.content["made"]["training_seconds"] for record in records.values()), 1
            ),
            **made,
        },
    }


def utility_of_length(
    tensors: ClinicalTensors, hour: int, *, maximum_hours: int | None = None
) -> dict[str, float | None]:
    """Return per hourly task the test utility of knowing only how long the stay goes on.

    An input that runs on to the end of the stay has that length, so this much is given away before a model
    looks at any value: a length of stay is read off, a binary task is ranked by how soon the input ends. In
    the causal reading every input has the same length and the rule is blind.

    Args:
        tensors: The data.
        hour: At which labels stand.
        maximum_hours: Longer stays are cut, as in training.
    """
    view = read_labels_at(tensors, hour)
    rows = np.diff(tensors.arrays["offsets"])
    rows = rows if maximum_hours is None else np.minimum(rows, maximum_hours)
    stays = view.stays_of("test")
    found = {}
    for task, before in zip(view.tasks, tensors.tasks, strict=True):
        if before.level != "hourly":
            continue
        chosen = stays[view.arrays[f"masks/{task.name}"][stays] == 1]
        after = rows[chosen] - hour
        if task.kind == "binned":
            predictions = np.eye(task.classes)[length_of_stay_class(np.maximum(after, 0) / 24)]
        else:
            predictions = -after[:, None].astype(np.float64)
        found[task.name] = task_utility(task, view.arrays[f"labels/{task.name}"][chosen], predictions).score
    return found


def _run_row(name: tuple[str, str, int], record: Record, found: AuditResult) -> dict[str, Any]:
    reading, method, seed = name
    utility = record.result["utility"]["test"]
    induced = record.induced_tolerances()
    return {
        "reading": reading,
        "method": method,
        "seed": seed,
        "key": record.key,
        "epochs": record.result["epochs"],
        "best_epoch": record.result["best_epoch"],
        "worst": utility["worst"],
        "macro": utility["macro"],
        "scores": {task: item["score"] for task, item in utility["tasks"].items()},
        **rounded(
            {
                "bias": found.bias,
                "violation_rate": found.violation_rate,
                "raw_bias": audit_record(record, induced).bias,
                "induced_tolerance": float(np.mean(list(induced.values()))),
            }
        ),
    }


def _contrast(
    method: str,
    reading: str,
    seeds: Sequence[int],
    records: Mapping[tuple[str, str, int], Record],
    audits: Mapping[tuple[str, str, int], AuditResult],
) -> dict[str, Any]:
    """Return a method's reading minus the causal one, seed by seed, with intervals over subjects, seeds held.

    A seed whose Worst or Macro is undefined in either reading is left out of that one.
    """
    before, after = ([(kind, method, seed) for seed in seeds] for kind in ("causal", reading))
    contrast: dict[str, Any] = {"method": method, "reading": reading}
    for kind in CONTRASTED:
        found = seed_contrast([audits[name] for name in before], [audits[name] for name in after], kind)
        contrast[kind], contrast[f"{kind}_interval"] = rounded(found)
    utilities = {name: record.result["utility"]["test"] for name, record in records.items()}
    for quantity in ("worst", "macro"):
        values = [
            (utilities[a][quantity], utilities[b][quantity]) for a, b in zip(before, after, strict=True)
        ]
        contrast[quantity] = [b - a for a, b in values if a is not None and b is not None]
    return contrast
