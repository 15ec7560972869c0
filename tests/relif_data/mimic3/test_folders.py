"""The benchmark's output folders and simulated raw tables, both taken down the whole road."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from relif_core.errors import DataError, InputError
from relif_core.tensors.clinical import ClinicalTensors, check_tensors
from relif_data import prepare as prepare_by_name
from relif_data.mimic3 import prepare
from relif_data.simulated_tables import write_raw
from relif_data.synthetic_icu import CHANNELS, SimulatedCohort, simulate
from tests.relif_data.mimic3.benchmark_tables import benchmark_tables

TEST_SUBJECTS = (10_003, 10_004, 10_011)


@pytest.fixture(scope="module")
def cohort() -> SimulatedCohort:
    """A small simulated cohort with all its hours."""
    return simulate(30, None, seed=4)


@pytest.fixture(scope="module")
def raw(cohort: SimulatedCohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort as MIMIC-III tables."""
    return write_raw(cohort, tmp_path_factory.mktemp("simulated") / "raw", "mimic3", upper_case=True)


@pytest.fixture(scope="module")
def tensors(raw: Path) -> ClinicalTensors:
    """The tensors made from the raw tables, in benchmark mode."""
    subjects = raw.parent / "test.csv"
    subjects.write_text("\n".join(str(subject) for subject in TEST_SUBJECTS))
    return check_tensors(
        prepare(raw, raw.parent / "tensors", compatibility="benchmark", test_subjects=subjects)
    )


@pytest.fixture(scope="module")
def folders(raw: Path) -> Path:
    """The benchmark's task folders of the same tables, written by its layout."""
    root = raw.parent / "benchmark"
    tables = benchmark_tables(raw)
    stays = tables["stays"].select(
        "icustay_id",
        "los_hours",
        split=pl.when(pl.col("subject_id").is_in(TEST_SUBJECTS))
        .then(pl.lit("test"))
        .otherwise(pl.lit("train")),
        stay=pl.format("{}_episode{}_timeseries.csv", "subject_id", "episode"),
    )
    names = {
        "in-hospital-mortality": "ihm",
        "decompensation": "decomp",
        "length-of-stay": "los",
        "phenotyping": "pheno",
        "multitask": "multitask",
    }
    for task, short in names.items():
        labels = tables[f"labels_{short}"].join(stays, on="icustay_id")
        for split in ("train", "test"):
            folder = root / task / split
            folder.mkdir(parents=True)
            _listed(labels.filter(pl.col("split") == split), short).write_csv(folder / "listfile.csv")
            for stay, icustay, length in (
                labels.filter(pl.col("split") == split)
                .select("stay", "icustay_id", "los_hours")
                .unique()
                .iter_rows()
            ):
                limit = min(length, 48.0) if short == "ihm" else length
                events = tables["events"].filter(
                    (pl.col("icustay_id") == icustay) & pl.col("hours").is_between(-1e-6, limit + 1e-6)
                )
                events.drop("icustay_id").rename({"hours": "Hours"}).write_csv(folder / stay)
    return root


def _listed(labels: pl.DataFrame, task: str) -> pl.DataFrame:
    """A task's labels as the benchmark's list file states them."""
    rest = pl.all().exclude("icustay_id", "los_hours", "split", "stay", "period_length", "bucket", "y_true")
    if task == "ihm":
        return labels.select("stay", "y_true")
    if task in ("decomp", "los"):
        return labels.select("stay", "period_length", "y_true")
    if task == "pheno":
        return labels.select("stay", "period_length", rest)

    def joined(*columns: str) -> pl.Expr:
        return pl.concat_str(
            [pl.col(column).cast(pl.List(pl.String)).list.join(";") for column in columns], separator=";"
        )

    return labels.select(
        pl.col("stay").alias("filename"),
        pl.col("period_length").alias("length of stay"),
        pl.format("{};{};{}", "ihm_pos", "ihm_mask", "ihm_label").alias(
            "in-hospital mortality task (pos;mask;label)"
        ),
        joined("los_mask", "los_label").alias("length of stay task (masks;labels)"),
        joined("pheno_label").alias("phenotyping task (labels)"),
        joined("decomp_mask", "decomp_label").alias("decompensation task (masks;labels)"),
    )


def test_simulated_readings_survive_the_road(cohort: SimulatedCohort, tensors: ClinicalTensors) -> None:
    """Every simulated reading is found in its hour and channel, and nothing else is observed."""
    assert tensors.manifest["synthetic"]
    offsets, seen = tensors.arrays["offsets"], ~np.isnan(cohort.readings)
    place = {stay: index for index, stay in enumerate(tensors.arrays["stays"])}
    first = np.array([offsets[place[stay]] for stay in cohort.stays])
    rows = np.repeat(first, cohort.rows_per_stay) + cohort.hour - 1
    observed = tensors.arrays["observed"]
    np.testing.assert_array_equal(observed[rows], seen)
    assert observed.sum() == seen.sum()
    names = [channel.name for channel in CHANNELS]
    for name in ("Heart Rate", "Temperature", "pH", "Weight", "Fraction inspired oxygen"):
        reading = cohort.readings[:, names.index(name)]
        value = tensors.arrays["values"][rows, tensors.columns.index(name)]
        there = ~np.isnan(reading)
        np.testing.assert_allclose(value[there], reading[there], rtol=1e-6)
    eye = cohort.readings[:, names.index("Glasgow coma scale eye opening")]
    column = tensors.columns.index("Glascow coma scale eye opening->4 Spontaneously")
    assert (tensors.arrays["values"][rows, column][eye == 4] == 1).all()


def test_simulated_labels_survive_the_road(cohort: SimulatedCohort, tensors: ClinicalTensors) -> None:
    """Deaths, phenotypes and their subjects are those of the simulator."""
    place = {stay: index for index, stay in enumerate(cohort.stays)}
    order = [place[stay] for stay in tensors.arrays["stays"]]
    np.testing.assert_array_equal(tensors.arrays["labels/mortality"], cohort.died[order])
    np.testing.assert_array_equal(tensors.arrays["labels/phenotypes"], cohort.phenotypes[order])
    np.testing.assert_array_equal(tensors.arrays["subjects"], cohort.subjects[order])


def test_layouts_of_the_source_do_not_matter(
    cohort: SimulatedCohort, tensors: ClinicalTensors, tmp_path: Path
) -> None:
    """Lower-case names and headers in plain files give the same tensors as upper case in gzip."""
    plain = write_raw(cohort, tmp_path / "raw", "mimic3", compress=False)
    subjects = tmp_path / "test.csv"
    subjects.write_text("\n".join(str(subject) for subject in TEST_SUBJECTS))
    options = {"compatibility": "benchmark", "test_subjects": subjects}
    again = check_tensors(prepare_by_name("mimic3", plain, tmp_path / "tensors", **options))
    assert again.fingerprint == tensors.fingerprint


@pytest.mark.parametrize("alone", [None, "multitask"])
def test_benchmark_folders_equal_the_raw_tables(
    folders: Path, tensors: ClinicalTensors, tmp_path: Path, alone: str | None
) -> None:
    """All task folders, or the multitask folder alone: inputs, labels and masks of the raw tables."""
    root = folders
    if alone:
        root = tmp_path / "alone"
        root.mkdir()
        (root / alone).symlink_to(folders / alone)
    read = check_tensors(prepare(root, tmp_path / "tensors"))
    assert [task.name for task in read.tasks] == [task.name for task in tensors.tasks]
    for name in ("values", "observed", "offsets", "subjects"):
        np.testing.assert_array_equal(read.arrays[name], tensors.arrays[name])
    np.testing.assert_array_equal(read.arrays["split"] == 2, tensors.arrays["split"] == 2)
    assert (read.arrays["split"] == 1).any()
    for task in read.tasks:
        mask = tensors.arrays[f"masks/{task.name}"] == 1
        np.testing.assert_array_equal(read.arrays[f"masks/{task.name}"] == 1, mask)
        np.testing.assert_array_equal(
            read.arrays[f"labels/{task.name}"][mask], tensors.arrays[f"labels/{task.name}"][mask]
        )


def test_the_benchmarks_validation_list_is_used(folders: Path, tmp_path: Path) -> None:
    """Where val_listfile.csv exists its subjects are the validation split."""
    root = tmp_path / "folders"
    task = root / "in-hospital-mortality"
    task.mkdir(parents=True)
    for split in ("train", "test"):
        (task / split).symlink_to(folders / "in-hospital-mortality" / split)
    listed = pl.read_csv(task / "train" / "listfile.csv")
    listed.head(3).write_csv(task / "val_listfile.csv")
    listed.tail(-3).write_csv(task / "train_listfile.csv")
    read = check_tensors(prepare(root, tmp_path / "tensors"))
    assert {name.split("_")[0] for name in listed["stay"].head(3)} == {
        str(subject) for subject in read.arrays["subjects"][read.arrays["split"] == 1]
    }
    assert np.diff(read.arrays["offsets"]).tolist() == [48] * len(read.arrays["stays"])


def test_faulty_folders_are_named(folders: Path, tmp_path: Path) -> None:
    """A missing time series and a subject in two splits are errors that name them."""
    root = tmp_path / "folders"
    task = root / "in-hospital-mortality"
    (task / "train").mkdir(parents=True)
    (task / "test").symlink_to(folders / "in-hospital-mortality" / "test")
    (task / "train" / "listfile.csv").write_text("stay,y_true\n1_episode1_timeseries.csv,0\n")
    with pytest.raises(DataError, match=r"train: 1 of \d+ files that a list names are missing"):
        prepare(root, tmp_path / "tensors")
    (task / "train" / "listfile.csv").write_text("stay,y_true\n10003_episode9_timeseries.csv,0\n")
    with pytest.raises(DataError, match="1 subjects stand in more than one split"):
        prepare(root, tmp_path / "tensors")
    for name in ("nobody.csv", f"{'9' * 25}_episode1_timeseries.csv", f"1_episode{'9' * 17}_timeseries.csv"):
        (task / "train" / "listfile.csv").write_text(f"stay,y_true\n{name},0\n")
        with pytest.raises(DataError, match="1 rows of the lists name no"):
            prepare(root, tmp_path / "tensors")


@pytest.mark.parametrize("length", ["inf", "NaN", "1e12", "-1"])
def test_a_stay_without_end_is_refused(folders: Path, tmp_path: Path, length: str) -> None:
    """A list that states no length of a stay, or one over a year, asks for no memory."""
    shutil.copytree(folders / "phenotyping", tmp_path / "folders" / "phenotyping")
    path = tmp_path / "folders" / "phenotyping" / "train" / "listfile.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    lines[1][lines[0].index("period_length")] = length
    path.write_text("".join(",".join(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=r"no length, or one over 366 days, for 1 of \d+ stays"):
        prepare(tmp_path / "folders", tmp_path / "tensors")


@pytest.mark.parametrize("label", ["", "NaN", "2"])
def test_a_missing_label_is_not_a_survivor(folders: Path, tmp_path: Path, label: str) -> None:
    """A label that is empty, NaN or of no class is an error with task, count and row, never label 0."""
    task = tmp_path / "folders" / "in-hospital-mortality"
    for split in ("train", "test"):
        (task / split).mkdir(parents=True)
        for file in (folders / "in-hospital-mortality" / split).iterdir():
            (task / split / file.name).write_bytes(file.read_bytes())
    path = task / "train" / "listfile.csv"
    lines = path.read_text().splitlines()
    lines[2] = lines[2].rpartition(",")[0] + f",{label}"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        DataError, match=r"in-hospital-mortality: 1 of \d+ labels are missing .* \(first: row 2 of"
    ):
        prepare(task.parent, tmp_path / "tensors")


@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("phenotyping", lambda lines: [*lines, lines[1][:-1] + "01"[lines[1][-1] == "0"]], "2 rows of its"),
        (
            "decompensation",
            lambda lines: [*lines, lines[1][:-1] + "01"[lines[1][-1] == "0"]],
            "2 rows of its",
        ),
        (
            "decompensation",
            lambda lines: [lines[0] + ",more", *(f"{line},1" for line in lines[1:])],
            "a list has",
        ),
        (
            "decompensation",
            lambda lines: [lines[0] + ",file", *(f"{line},1" for line in lines[1:])],
            "a list has",
        ),
    ],
)
def test_lists_that_contradict_each_other_are_refused(
    folders: Path, tmp_path: Path, task: str, change: Callable[[list[str]], list[str]], message: str
) -> None:
    """Two labels of one stay or hour, and lists of different columns; a row that is there twice is one."""
    shutil.copytree(folders / task, tmp_path / "folders" / task)
    path = tmp_path / "folders" / task / "train" / "listfile.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]))
    prepare(path.parents[2], tmp_path / "tensors")
    path.write_text("\n".join(change(lines)))
    with pytest.raises(DataError, match=message):
        prepare(path.parents[2], tmp_path / "tensors")


def test_a_damaged_series_of_the_test_part_is_not_laid_at_another_door(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "phenotyping", tmp_path / "folders" / "phenotyping")
    path = next((tmp_path / "folders" / "phenotyping" / "test").glob("*_timeseries.csv"))
    path.write_text(path.read_text().replace("Hours", "Minutes", 1))
    with pytest.raises(DataError, match=r"folders: a time series is damaged, or has other columns"):
        prepare(tmp_path / "folders", tmp_path / "tensors")


def test_options_of_the_other_kind_of_source_are_refused(folders: Path, raw: Path, tmp_path: Path) -> None:
    """What a source fixes cannot be asked of it: the refusal names the option and writes nothing."""
    with pytest.raises(InputError, match=r"compatibility, test_share: .* task folders"):
        prepare(folders, tmp_path / "tensors", compatibility="benchmark", test_share=0.3)
    with pytest.raises(InputError, match=r"output_policy: the licence file"):
        prepare(raw, tmp_path / "tensors", output_policy="person")
    assert list(tmp_path.iterdir()) == []
