"""Agreement with the public benchmark's outputs on the MIMIC-III demo: cells, labels and counts."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from relif_core.tensors.clinical import ClinicalTensors, check_tensors
from relif_data.mimic3 import prepare
from tests.relif_data.mimic3.benchmark_tables import benchmark_tables


@pytest.fixture(scope="module")
def golden(golden_folder: Path) -> Path:
    """The reference outputs of the demo."""
    return golden_folder / "mimic3_demo"


@pytest.fixture(scope="module")
def demo(data_folder: Path) -> Path:
    """The demo's raw tables."""
    return data_folder / "mimic3_demo"


@pytest.fixture(scope="module")
def tables(demo: Path) -> dict[str, pl.DataFrame]:
    """What this package makes of the demo, in the benchmark's layout."""
    return benchmark_tables(demo)


@pytest.fixture(scope="module")
def tensors(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> ClinicalTensors:
    """The demo's tensors in benchmark mode."""
    return check_tensors(
        prepare(demo, tmp_path_factory.mktemp("mimic3") / "tensors", compatibility="benchmark")
    )


def _agree(ours: pl.DataFrame, reference: pl.DataFrame, keys: list[str]) -> None:
    """Compare the rows that the reference holds: floats to 1e-9, all else exactly."""
    held = reference[keys[0]].unique().implode()
    ours = ours.filter(pl.col(keys[0]).is_in(held)).sort(keys)
    reference = reference.sort(keys)
    assert ours.height == reference.height
    for name in reference.columns:
        mine, theirs = ours[name], reference[name]
        if theirs.dtype.is_float():
            filled = mine.cast(pl.Float64).fill_null(float("nan")).to_numpy()
            expected = theirs.fill_null(float("nan")).to_numpy()
            np.testing.assert_allclose(filled, expected, rtol=1e-9, atol=1e-12, err_msg=name)
        elif theirs.dtype == pl.Datetime("ns"):
            assert mine.eq_missing(theirs.cast(pl.Datetime("us"))).all(), name
        else:
            assert mine.cast(theirs.dtype).eq_missing(theirs).all(), name


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("excluded_stays", ["icustay_id"]),
        ("validation_counts", ["subject_id"]),
        ("events", ["icustay_id", "hours"]),
    ],
)
def test_cohort_and_events_equal_the_benchmark(
    tables: dict[str, pl.DataFrame], golden: Path, name: str, keys: list[str]
) -> None:
    """Excluded stays, validation counts and every event cell are the benchmark's."""
    _agree(tables[name], pl.read_parquet(golden / f"{name}.parquet"), keys)


def test_stays_equal_the_benchmark(tables: dict[str, pl.DataFrame], golden: Path) -> None:
    """All columns of the stay table but the split, which comes from a list of subjects."""
    _agree(tables["stays"], pl.read_parquet(golden / "stays.parquet").drop("split"), ["icustay_id"])


@pytest.mark.parametrize("task", ["ihm", "decomp", "los", "pheno", "multitask"])
def test_labels_equal_the_benchmark(tables: dict[str, pl.DataFrame], golden: Path, task: str) -> None:
    """Every sample and label, and no sample more."""
    reference = pl.read_parquet(golden / f"labels_{task}.parquet").drop("split", "listfile_row")
    stays = pl.read_parquet(golden / "stays.parquet")["icustay_id"].implode()
    ours = tables[f"labels_{task}"].filter(pl.col("icustay_id").is_in(stays)).select(reference.columns)
    keys = ["icustay_id", "period_length"]
    assert ours.sort(keys).equals(reference.sort(keys))


def test_counts_of_the_whole_demo(tables: dict[str, pl.DataFrame]) -> None:
    """The published counts of the whole demo, of which the reference files hold half."""
    totals = tables["validation_counts"].drop("subject_id").sum().row(0)
    assert totals == (747_793, 13_184, 86_481, 45_336, 1_200, 646_928)
    heights = [tables[f"labels_{task}"].height for task in ("ihm", "decomp", "los", "pheno")]
    assert heights == [57, 10_863, 10_941, 113]
    assert tables["stays"].height == 114


@pytest.mark.parametrize("task", ["ihm", "pheno"])
def test_tensors_equal_the_benchmark(tensors: ClinicalTensors, golden: Path, task: str) -> None:
    """All 76 columns of every hour equal the discretised reference in float32, and the labels agree."""
    reference = np.load(golden / f"discretized_{task}.npz", allow_pickle=False)
    inputs = np.concatenate([tensors.arrays["values"], tensors.arrays["observed"]], axis=1)
    names = [*tensors.columns, *(f"mask->{channel.name}" for channel in tensors.channels)]
    assert names == list(reference["header"])
    place = {stay: index for index, stay in enumerate(tensors.arrays["stays"])}
    offsets = tensors.arrays["offsets"]
    label = tensors.arrays["labels/mortality" if task == "ihm" else "labels/phenotypes"]
    for row, stay in enumerate(reference["icustay_id"]):
        index = place[stay]
        ours = inputs[offsets[index] : offsets[index + 1]]
        if task == "ihm":
            expected, ours = reference["X"][row], ours[:48]
        else:
            expected = reference["X"][reference["offsets"][row] : reference["offsets"][row + 1]]
        np.testing.assert_array_equal(ours, expected.astype(np.float32))
        np.testing.assert_array_equal(label[index], reference["y"][row])


def test_hourly_tensor_labels_equal_the_benchmark(tensors: ClinicalTensors, golden: Path) -> None:
    """Labels of hour t live in row t - 1."""
    arrays = tensors.arrays
    first = dict(zip(arrays["stays"], arrays["offsets"][:-1], strict=True))
    held = np.isin(arrays["stays"], pl.read_parquet(golden / "stays.parquet")["icustay_id"].to_numpy())
    rows_held = np.repeat(held, np.diff(arrays["offsets"]))
    for task, file, column in (("decompensation", "decomp", "y_true"), ("los", "los", "bucket")):
        reference = pl.read_parquet(golden / f"labels_{file}.parquet")
        hours = reference["period_length"].to_numpy().astype(np.int64)
        rows = np.array([first[stay] for stay in reference["icustay_id"]]) + hours - 1
        assert arrays[f"masks/{task}"][rows].all()
        assert arrays[f"masks/{task}"][rows_held].sum() == len(rows)
        np.testing.assert_array_equal(arrays[f"labels/{task}"][rows], reference[column].to_numpy())


def test_the_dictionary_repair_changes_nine_labels(demo: Path, tables: dict[str, pl.DataFrame]) -> None:
    """Keeping diagnosis rows that the dictionary lacks changes 9 labels in 8 stays of the whole demo."""
    repaired = benchmark_tables(demo, repairs=["all_diagnosis_codes"])["labels_pheno"]
    before = tables["labels_pheno"].sort("icustay_id").drop("icustay_id", "period_length").to_numpy()
    after = repaired.sort("icustay_id").drop("icustay_id", "period_length").to_numpy()
    changed = before != after
    assert (changed.sum(), changed.any(axis=1).sum()) == (9, 8)
