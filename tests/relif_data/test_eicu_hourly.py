"""The hourly layout of the eICU demo: alignment, labels and faults, on made-up files and the demo."""

import csv
import gzip
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from relif_core.errors import DataError, InputError
from relif_core.tensors.clinical import ClinicalTensors, check_tensors
from relif_data.eicu import prepare
from relif_data.eicu.hourly import VARIABLES

BOUNDS = (1, 2, 3, 4, 5, 6, 7, 8, 14)
LENGTHS = {11: 400, 12: 1500, 13: 1801, 14: 3000, 15: 12_345, 16: 1440 * 20, 17: 2400, 18: 1860}

HEADER = (
    "PatientUnitStayID",
    "patientHealthSystemStayID",
    "uniquePid",
    "gender",
    "age",
    "ethnicity",
    "hospitalID",
    "unitType",
    "unitVisitNumber",
    "unitStayType",
    "unitDischargeOffset",
    "unitDischargeStatus",
    "hospitalDischargeOffset",
    "hospitalDischargeStatus",
    "admissionHeight",
    "admissionWeight",
)


def write_layout(folder: Path, seed: int = 0) -> Path:
    """Eight stays of seven patients; those of 30 hours and more have a mortality label."""
    generator = np.random.default_rng(seed)
    (folder / "hourly" / "los").mkdir(parents=True)
    (folder / "hourly" / "mortality24").mkdir()
    (folder / "tables").mkdir()
    stay = np.concatenate([np.full(min(minutes // 60 + 1, 169), key) for key, minutes in LENGTHS.items()])
    hour = np.concatenate([np.arange(min(minutes // 60 + 1, 169)) for minutes in LENGTHS.values()])
    values = generator.normal(100, 10, (len(stay), len(VARIABLES)))
    values[generator.random(values.shape) > 0.2] = np.nan
    dyn = pl.DataFrame({"stay_id": stay.astype(np.int32)}).with_columns(
        pl.duration(hours=pl.Series(hour), time_unit="ms").alias("time"),
        *(pl.Series(name, values[:, index]).fill_nan(None) for index, name in enumerate(VARIABLES)),
    )
    floor = np.array([LENGTHS[key] // 60 for key in stay])
    outc = dyn.select("stay_id", "time").with_columns(
        pl.Series("label", np.minimum(floor - hour, 168).astype(np.float64))
    )
    dyn.write_parquet(folder / "hourly" / "los" / "dyn.parquet")
    outc.write_parquet(folder / "hourly" / "los" / "outc.parquet")
    long = [key for key, minutes in LENGTHS.items() if minutes >= 1800]
    early = dyn.filter(pl.col("stay_id").is_in(long) & (pl.col("time") <= pl.duration(hours=24)))
    early.write_parquet(folder / "hourly" / "mortality24" / "dyn.parquet")
    pl.DataFrame(
        {
            "stay_id": pl.Series(long, dtype=pl.Int32),
            "label": pl.Series([key % 2 for key in long], dtype=pl.Int32),
        }
    ).write_parquet(folder / "hourly" / "mortality24" / "outc.parquet")
    with open(folder / "tables" / "patient.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for key, minutes in [*LENGTHS.items(), (19, 60)]:
            died = "Expired" if key % 2 else "Alive"
            identity = (key, key, f"1-{max(key, 12)}", "Male", "> 89", "Asian", 3, "MICU", 1, "admit")
            writer.writerow((*identity, minutes, died, minutes, died, 180, 80))
    return folder


def slow_check(source: Path, tensors: ClinicalTensors, stays: list[int], lengths: dict[int, int]) -> None:
    """Recompute values, masks and labels of stays hour by hour."""
    dyn = pl.read_parquet(source / "hourly" / "los" / "dyn.parquet").filter(pl.col("stay_id").is_in(stays))
    outc = pl.read_parquet(source / "hourly" / "los" / "outc.parquet").filter(pl.col("stay_id").is_in(stays))
    published = {
        (row[0], row[1] // 3_600_000): row[2] for row in outc.with_columns(pl.col("time").cast(int)).rows()
    }
    death = dict(pl.read_parquet(source / "hourly" / "mortality24" / "outc.parquet").rows())
    measured = {
        (row["stay_id"], int(row["time"].total_seconds() // 3600)): row for row in dyn.iter_rows(named=True)
    }
    arrays = tensors.arrays
    uncapped = 0
    for stay in stays:
        place = arrays["stays"].tolist().index(stay)
        first, last = arrays["offsets"][place : place + 2]
        assert last - first == min(math.ceil(lengths[stay] / 60), 169)
        current = [variable[2] for variable in VARIABLES.values()]
        for hour in range(last - first):
            row = measured[stay, hour]
            for column, name in enumerate(VARIABLES):
                assert arrays["observed"][first + hour, column] == (row[name] is not None)
                if row[name] is not None:
                    current[column] = row[name]
            np.testing.assert_array_equal(arrays["values"][first + hour], np.array(current, dtype=np.float32))
            left = lengths[stay] - 60 * (hour + 1)
            assert arrays["masks/los"][first + hour] == (hour + 1 >= 5 and left >= 0)
            if hour + 1 >= 5 and left >= 0:
                label = arrays["labels/los"][first + hour]
                assert label == sum(left >= 1440 * day for day in BOUNDS)
                at_label = published.get((stay, hour + 1))
                if at_label is not None and at_label < 168:
                    # The published label of the next row is the remaining stay at this label's time.
                    assert label == sum(at_label >= 24 * day for day in BOUNDS)
                    uncapped += 1
        assert arrays["masks/mortality"][place] == (stay in death)
        if stay in death:
            assert arrays["labels/mortality"][place] == death[stay]
    assert uncapped


def test_made_up_stays_equal_a_slow_computation(tmp_path: Path) -> None:
    source = write_layout(tmp_path / "source")
    tensors = check_tensors(prepare(source, tmp_path / "out"))
    slow_check(source, tensors, list(LENGTHS), LENGTHS)
    assert [task.name for task in tensors.tasks] == ["mortality", "los"]
    assert tensors.tasks[0].horizon_hours == 24
    assert len(tensors.channels) == 48
    assert [step["stays"] for step in tensors.manifest["cohort"]] == [9, 8, 8]
    # Stays 11 and 12 are of one patient.
    assert len(set(tensors.arrays["split"][:2])) == 1
    assert tensors.arrays["subjects"][0] == tensors.arrays["subjects"][1]


@pytest.mark.parametrize("hour", [5, 24, 30])
def test_nothing_at_or_after_a_labels_time_reaches_its_input(tmp_path: Path, hour: int) -> None:
    source = write_layout(tmp_path / "source")
    before = check_tensors(prepare(source, tmp_path / "before"))
    for task in ("los", "mortality24"):
        path = source / "hourly" / task / "dyn.parquet"
        late = pl.col("time") >= pl.duration(hours=hour)
        frame = pl.read_parquet(path)
        frame.with_columns(
            pl.when(late).then(pl.lit(-7.0 + index)).otherwise(pl.col(name)).alias(name)
            for index, name in enumerate(VARIABLES)
        ).write_parquet(path)
    after = check_tensors(prepare(source, tmp_path / "after"))
    offsets = before.arrays["offsets"]
    past = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets)) < hour
    for name in ("values", "observed"):
        np.testing.assert_array_equal(before.arrays[name][past], after.arrays[name][past])
    assert (before.arrays["values"][~past] != after.arrays["values"][~past]).any()
    for name in ("labels/los", "masks/los", "labels/mortality", "masks/mortality", "split"):
        np.testing.assert_array_equal(before.arrays[name], after.arrays[name])


def rewrite(path: Path, change: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
    change(pl.read_parquet(path)).write_parquet(path)


def changed(**columns: pl.Expr) -> Callable[[Path], None]:
    return lambda path: rewrite(path, lambda frame: frame.with_columns(**columns))


FAULTS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "truncated": (
        "los/dyn",
        lambda path: path.write_bytes(path.read_bytes()[:-100]) and None,
        "dyn.parquet cannot be read",
    ),
    "no file": ("mortality24/outc", lambda path: path.unlink(), "outc.parquet is missing"),
    "column": ("los/dyn", lambda path: rewrite(path, lambda frame: frame.drop("hr")), "lacks column 'hr'"),
    "text": (
        "los/dyn",
        lambda path: rewrite(path, lambda frame: frame.with_columns(pl.col("hr").cast(pl.String))),
        "column 'hr' holds text",
    ),
    "date": ("los/dyn", changed(hr=pl.lit(None).cast(pl.Date)), "column 'hr' holds Date, not numbers"),
    "list": ("los/dyn", changed(hr=pl.concat_list("hr")), r"column 'hr' holds List\(Float64\), not numbers"),
    "category": (
        "los/dyn",
        changed(hr=pl.col("hr").cast(pl.String).cast(pl.Categorical)),
        "column 'hr' holds Categorical, not numbers",
    ),
    "infinite": (
        "los/dyn",
        changed(hr=pl.lit(math.inf)),
        r"\d+ values of column 'hr' are infinite; leave them empty",
    ),
    "no rows": ("los/dyn", lambda path: rewrite(path, lambda frame: frame[:0]), "dyn.parquet holds no rows"),
    "no stay": (
        "los/dyn",
        changed(stay_id=pl.when(pl.col("stay_id") == 11).then(None).otherwise("stay_id")),
        "7 rows have no whole number as stay_id",
    ),
    "half a stay": ("los/dyn", changed(stay_id=pl.col("stay_id") + 0.5), "rows have no whole number as stay"),
    "lengths of others": (
        "los/outc",
        changed(label=pl.col("label") + 30),
        r"(\d+) of \1 labels are not the hours left",
    ),
    "hour twice": (
        "los/dyn",
        lambda path: rewrite(path, lambda frame: pl.concat([frame, frame[:1]])),
        "hour twice",
    ),
    "hour missing": (
        "los/dyn",
        lambda path: rewrite(path, lambda frame: frame[1:]),
        "1 stays lack hours",
    ),
    "half an hour": (
        "los/dyn",
        lambda path: rewrite(
            path, lambda frame: frame.with_columns(pl.col("time") + pl.duration(minutes=30))
        ),
        "no whole hours",
    ),
    "label": (
        "mortality24/outc",
        lambda path: rewrite(path, lambda frame: frame.with_columns(pl.col("label") + 1)),
        "labels other than 0 and 1",
    ),
    "label twice": (
        "mortality24/outc",
        lambda path: rewrite(path, lambda frame: pl.concat([frame, frame[:1]])),
        "more than one label for a stay",
    ),
    "patient": (
        "../tables/patient",
        lambda path: path.with_suffix(".csv").unlink(),
        "no eICU table is there",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(tmp_path: Path, fault: str) -> None:
    source = write_layout(tmp_path / "source")
    name, damage, message = FAULTS[fault]
    damage(source / "hourly" / f"{name}.parquet")
    with pytest.raises(DataError, match=message):
        prepare(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_stays_of_another_release_are_named(data_folder: Path, tmp_path: Path) -> None:
    for name in ("hourly", "tables"):
        shutil.copytree(data_folder / "eicu_demo" / name, tmp_path / "source" / name)
    for path in (tmp_path / "source" / "hourly").rglob("*.parquet"):
        path.chmod(0o644)
        rewrite(path, lambda frame: frame.with_columns(pl.col("stay_id") + 10**7))
    with pytest.raises(
        DataError, match=r"2,267 of 2,267 stays of the hourly files are not in table patient; take"
    ):
        prepare(tmp_path / "source", tmp_path / "out")


def test_labels_as_truth_values_are_labels(tmp_path: Path) -> None:
    source = write_layout(tmp_path / "source")
    before = check_tensors(prepare(source, tmp_path / "before"))
    rewrite(
        source / "hourly" / "mortality24" / "outc.parquet",
        lambda frame: frame.with_columns(pl.col("label").cast(pl.Boolean)),
    )
    after = check_tensors(prepare(source, tmp_path / "after"))
    np.testing.assert_array_equal(after.arrays["labels/mortality"], before.arrays["labels/mortality"])


@pytest.mark.parametrize("kind", [pl.Int16, pl.Float32])
def test_hours_as_small_numbers_are_hours(tmp_path: Path, kind: type[pl.DataType]) -> None:
    source = write_layout(tmp_path / "source")
    before = check_tensors(prepare(source, tmp_path / "before"))
    for path in (source / "hourly").glob("*/dyn.parquet"):
        rewrite(path, lambda frame: frame.with_columns(pl.col("time").dt.total_hours().cast(kind)))
    after = check_tensors(prepare(source, tmp_path / "after"))
    assert after.fingerprint == before.fingerprint


def test_options_of_the_raw_tables_are_refused(tmp_path: Path) -> None:
    source = write_layout(tmp_path / "source")
    with pytest.raises(InputError, match="decompensation"):
        prepare(source, tmp_path / "out", decompensation=True)


def test_the_other_layouts_target_is_refused(tmp_path: Path) -> None:
    source = write_layout(tmp_path / "source")
    target = prepare(source, tmp_path / "out")
    fingerprint = ClinicalTensors.open(target).fingerprint
    shutil.copytree(source, tmp_path / "second")
    rewrite(
        tmp_path / "second" / "hourly" / "los" / "dyn.parquet",
        lambda frame: frame.with_columns(hr=pl.lit(1.0)),
    )
    with pytest.raises(DataError, match="other source files"):
        prepare(tmp_path / "second", target)
    assert check_tensors(target).fingerprint == fingerprint


def test_disagreement_with_the_published_labels_is_reported(tmp_path: Path) -> None:
    source = write_layout(tmp_path / "source")
    rewrite(
        source / "hourly" / "los" / "outc.parquet",
        lambda frame: frame.with_columns(
            pl.when(pl.col("stay_id") == 12)
            .then(pl.col("label") + 1)
            .otherwise(pl.col("label"))
            .alias("label")
        ),
    )
    notes = " ".join(check_tensors(prepare(source, tmp_path / "out")).manifest["notes"])
    rows = sum(min(math.ceil(minutes / 60), 169) for minutes in LENGTHS.values())
    assert f"{rows - 25} of {rows} equal" in notes


def test_the_demo_equals_a_slow_computation_and_its_published_labels(
    data_folder: Path, tmp_path: Path
) -> None:
    source = data_folder / "eicu_demo"
    if not (source / "hourly").is_dir():
        pytest.skip("the hourly eICU demo is absent from RELIF_DATA")
    tensors = check_tensors(prepare(source, tmp_path / "out"))
    with gzip.open(source / "tables" / "patient.csv.gz", "rt") as file:
        rows = {int(row["patientunitstayid"]): row for row in csv.DictReader(file)}
    lengths = {stay: int(row["unitdischargeoffset"]) for stay, row in rows.items()}
    stays = tensors.arrays["stays"].tolist()
    slow_check(source, tensors, random.Random(3).sample(stays, 40), lengths)
    assert len(stays) == 2267
    assert len(tensors.arrays["values"]) == 124_047
    labelled = tensors.arrays["masks/mortality"] == 1
    assert (int(labelled.sum()), int(tensors.arrays["labels/mortality"][labelled].sum())) == (1367, 70)
    assert (
        np.bincount(tensors.arrays["labels/los"][tensors.arrays["masks/los"] == 1], minlength=10) > 0
    ).all()
    notes = " ".join(tensors.manifest["notes"])
    assert "124047 of 124047 equal min(floor(stay) - hour, 168)" in notes
    assert "70 deaths, 4 of them marked alive at hospital discharge" in notes
    people: dict[str, set[int]] = {}
    for stay, part in zip(stays, tensors.arrays["split"], strict=True):
        people.setdefault(rows[stay]["uniquepid"], set()).add(int(part))
    assert all(len(parts) == 1 for parts in people.values())
    assert len(people) == 1751
    levels = {group.name: len(group.levels) for group in tensors.groups}
    assert levels["hospital"] == 185
    assert levels["sex"] == 3


def test_both_layouts_of_the_demo_give_the_same_labels(data_folder: Path, tmp_path: Path) -> None:
    source = data_folder / "eicu_demo"
    if not (source / "hourly").is_dir() or not (source / "tables").is_dir():
        pytest.skip("the eICU demo is absent from RELIF_DATA")
    hourly = check_tensors(prepare(source, tmp_path / "hourly")).arrays
    tables = check_tensors(
        prepare(source, tmp_path / "tables", layout="tables", mortality="unit", mortality_hours=24)
    ).arrays
    common, left, right = np.intersect1d(hourly["stays"], tables["stays"], return_indices=True)
    assert len(common) == 1960
    for one, other in zip(left, right, strict=True):
        first, second = hourly["offsets"][one], tables["offsets"][other]
        rows = min(hourly["offsets"][one + 1] - first, tables["offsets"][other + 1] - second)
        for name in ("labels/los", "masks/los"):
            np.testing.assert_array_equal(
                hourly[name][first : first + rows], tables[name][second : second + rows]
            )
    both = (hourly["masks/mortality"][left] == 1) & (tables["masks/mortality"][right] == 1)
    different = hourly["labels/mortality"][left][both] != tables["labels/mortality"][right][both]
    assert both.sum() > 1000
    assert not different.any()
