"""A published record can be made again: same settings, data and device, numbers within a tolerance."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from relif_book.evidence.audit_table import AuditTable, audit_table
from relif_book.evidence.live import SIMULATED
from relif_book.evidence.publishing import device_type, publish, read_published
from relif_core.problems import open_problem
from relif_core.record import Record
from relif_core.settings import REVISION
from relif_core.studies.grid import grid, run_study
from relif_core.tensors.folder import read_manifest
from relif_core.training.loop import TrainingLoop
from relif_data import prepare

ROOT = Path(__file__).resolve().parents[3]
#: On the machine and versions that made a record nothing differs. Another processor or torch build rounds
#: differently, more so in bfloat16, and training carries that on; but rounding must not change a run by more
#: than another seed would. So a number may differ by 0.02, or by twice the standard deviation of its method's
#: published seeds where that is more.
TOLERANCE = 0.02
SEED_SPREADS = 2.0


def numbers(record: Record, bias: float) -> dict[str, float]:
    """What records are compared by: utility, induced tolerances, calibration distances, Bias at δ*."""
    found = {"Bias": bias, "calibration distance": float(np.mean(record.arrays["calibration/distances"]))}
    for split in ("validation", "test"):
        utility = record.result["utility"][split]
        found |= {f"{split} Worst": utility["worst"], f"{split} Macro": utility["macro"]}
        induced = list(record.induced_tolerances(split).values())
        found[f"{split} induced tolerance"] = float(np.mean(induced))
    return found


def disagreements(
    now: Record, before: Record, records: Sequence[Record], tolerance: float, table: AuditTable
) -> list[str]:
    """Name every number of a re-run that lies further from the published one than the tolerance allows."""
    published = [
        numbers(record, table.bias[table.keys.index(record.key)])
        for record in records
        if record.method == before.method
    ]
    old = numbers(before, table.bias[table.keys.index(before.key)])
    new = numbers(now, audit_table([now], tolerance).bias[0])
    found = []
    for name, value in new.items():
        spread = float(np.std([item[name] for item in published], ddof=1)) if len(published) > 1 else 0.0
        allowed = max(TOLERANCE, SEED_SPREADS * spread)
        if not abs(value - old[name]) <= allowed:
            found.append(f"{name}: {value:.4f} now, {old[name]:.4f} published, {allowed:.4f} allowed")
    return found


def test_a_published_record_is_made_again(tmp_path: Path) -> None:
    """The cheapest published run, on simulated stays: equal to the last bit on the same processor."""
    records, reference, table = read_published(ROOT / "data" / "records" / "synthetic_methods")
    before = min(records, key=lambda record: record.content["made"]["training_seconds"])
    assert before.settings.revision == REVISION, "make the simulated runs again: relif study clinical"
    tensors = prepare("synthetic_icu", None, tmp_path / "tensors", **SIMULATED["synthetic_icu"])
    assert read_manifest(tensors)["fingerprint"] == before.content["dataset"]["fingerprint"]
    (now,) = run_study([before.settings], tensors, tmp_path / "runs").records
    assert now.key == before.key
    assert disagreements(now, before, records, reference.tolerance, table) == []


def test_the_first_epochs_of_a_published_run_come_again(data_folder: Path, tmp_path: Path) -> None:
    """This revision's cheapest run on PhysioNet 2012: losses and utilities of two epochs."""
    if not (data_folder / "physionet2012").is_dir():
        pytest.skip("RELIF_DATA holds no folder physionet2012")
    folders = sorted((ROOT / "data" / "records").glob("physionet2012_*/runs.npz"))
    found = [record for path in folders for record in read_published(path.parent)[0]]
    fit = [
        record for record in found if record.settings.revision == REVISION and device_type(record) == "cpu"
    ]
    assert fit, f"no run of revision {REVISION} on PhysioNet 2012 is published"
    before = min(fit, key=lambda record: record.content["made"]["training_seconds"])
    tensors = prepare("physionet2012", data_folder / "physionet2012", tmp_path / "tensors")
    assert read_manifest(tensors)["fingerprint"] == before.content["dataset"]["fingerprint"]
    loop = TrainingLoop(before.settings, open_problem(tensors, "cpu", before.settings))
    history = before.result["history"]
    for epoch in range(2):
        loop.train_epoch()
        loop.select()
        for name in ("losses", "penalty", "worst", "macro"):
            np.testing.assert_allclose(loop.history[name][epoch], history[name][epoch], atol=TOLERANCE)


def test_the_comparison_lets_nothing_pass_but_the_same_run(icu_folder: Path, tmp_path: Path) -> None:
    """Published and made again, a small study is equal to the last bit; other numbers are told apart."""
    runs = grid(
        ["erm"], [0, 1], model={"hidden": 8, "head_width": 8},
        training={"epochs": 1, "batch_size": 32},
    )  # fmt: skip
    publish(run_study(runs, icu_folder, tmp_path / "first").records, tmp_path / "published", exploratory=True)
    records, reference, table = read_published(tmp_path / "published")
    (now,) = run_study(runs[:1], icu_folder, tmp_path / "second").records
    assert now.digest() == records[0].digest()
    assert disagreements(now, records[0], records, reference.tolerance, table) == []
    far = dict(now.arrays) | {"calibration/distances": now.arrays["calibration/distances"] + 2}
    (found,) = disagreements(Record(now.content, far), records[0], records, reference.tolerance, table)
    assert found.startswith("calibration distance")
