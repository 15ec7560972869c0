"""The rules of cohort, cleaning, time series, grid and labels, each on the smallest tables that show it."""

import datetime
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from relif_core.errors import InputError
from relif_core.tensors.clinical import ClinicalTensors, check_tensors
from relif_data.mimic3 import prepare
from relif_data.mimic3.cleaning import REPAIRS, chosen_repairs
from relif_data.mimic3.effects import TOGETHER, repair_effects
from relif_data.mimic3.series import bins_of
from tests.relif_data.mimic3.benchmark_tables import benchmark_tables

FIO2, HEART, TEMPERATURE_F, WEIGHT, HEIGHT = 223835, 211, 678, 763, 226707


def events_of(tables: Any, folder: Path, stay: int = 1, **options: Any) -> pl.DataFrame:
    """Write the tables and return the time series of one stay."""
    made = benchmark_tables(tables.write(folder), **options)
    return made["events"].filter(pl.col("icustay_id") == stay)


def value_of(tables: Any, folder: Path, channel: str, hour: float = 1.0, **options: Any) -> Any:
    """Return one channel's value at one chart time of stay 1; None where there is none."""
    found = events_of(tables, folder, **options).filter((pl.col("hours") - hour).abs() < 1e-9)
    return found[channel].item() if found.height else None


@pytest.mark.parametrize(
    ("item", "value", "unit", "channel", "published", "repaired"),
    [
        (3348, "Brisk", "", "Capillary refill rate", "0.0", "0.0"),
        (3348, "Delayed", "", "Capillary refill rate", "1.0", "1.0"),
        (3348, "Other", "", "Capillary refill rate", None, None),
        (51, "120/80", "mmHg", "Systolic blood pressure", 120.0, 120.0),
        (8368, "120/80", "mmHg", "Diastolic blood pressure", 80.0, 80.0),
        (51, "120/", "mmHg", "Systolic blood pressure", None, None),
        (51, "11647", "mmHg", "Systolic blood pressure", 11647.0, None),
        (52, "-5", "mmHg", "Mean blood pressure", -5.0, None),
        (FIO2, "50", "", "Fraction inspired oxygen", 0.5, 0.5),
        (FIO2, "0.5", "", "Fraction inspired oxygen", 0.005, 0.5),
        (FIO2, "0.5", "torr", "Fraction inspired oxygen", 0.5, 0.5),
        (190, "0.5", "", "Fraction inspired oxygen", None, None),
        (807, ">500", "mg/dL", "Glucose", None, None),
        (807, "NEG", "mg/dL", "Glucose", None, None),
        (807, "91.", "mg/dL", "Glucose", 91.0, 91.0),
        (807, "-91", "mg/dL", "Glucose", None, None),
        (807, "7.1", "mmol/L", "Glucose", 7.1, None),
        (646, "0.98", "%", "Oxygen saturation", 98.0, 98.0),
        (646, "0", "%", "Oxygen saturation", 0.0, 0.0),
        (TEMPERATURE_F, "98.6", "Deg. F", "Temperature", 37.0, 37.0),
        (TEMPERATURE_F, "77", "Deg. F", "Temperature", 77.0, 25.0),
        (TEMPERATURE_F, "37", "Deg. F", "Temperature", 37.0, 37.0),
        (676, "77", "Deg. C", "Temperature", 77.0, None),
        (676, "98.6", "Deg. C", "Temperature", 37.0, 37.0),
        (WEIGHT, "80", "kg", "Weight", 80.0, 80.0),
        (WEIGHT, "100", "lb", "Weight", 45.3592, 45.3592),
        (3581, "100", "", "Weight", 45.3592, 45.3592),
        (3582, "1600", "", "Weight", 45.3592, 45.3592),
        (WEIGHT, "80", "stone", "Weight", 80.0, None),
        (HEIGHT, "70", "Inch", "Height", 178.0, 178.0),
        (1394, "70", "", "Height", 178.0, 178.0),
        (226730, "170.5", "cm", "Height", 170.5, 170.5),
        (184, "None", "", "Glascow coma scale eye opening", "None", "None"),
        (184, "Sideways", "", "Glascow coma scale eye opening", None, None),
        (HEART, "N/A", "bpm", "Heart Rate", None, None),
        (HEART, None, "bpm", "Heart Rate", None, None),
        (9999, "5", "", "Heart Rate", None, None),
    ],
)
def test_cleaning(
    two_stays: Any,
    tmp_path: Path,
    item: int,
    value: str | None,
    unit: str,
    channel: str,
    published: float | str | None,
    repaired: float | str | None,
) -> None:
    """Each channel's rule, as published and as repaired."""
    two_stays.event(1, item, 1.0, value, unit)
    for mode, expected in (("benchmark", published), ("repaired", repaired)):
        found = value_of(two_stays, tmp_path / mode, channel, compatibility=mode)
        assert found == (pytest.approx(expected, rel=1e-12) if isinstance(expected, float) else expected)


@pytest.mark.parametrize("item", [51478, 50831, 51094, 51491])
def test_body_fluids_are_repaired(two_stays: Any, tmp_path: Path, item: int) -> None:
    """Urine and other body fluids enter blood channels only as published."""
    two_stays.event(1, item, 1.0, "6.5", "", table="labevents")
    channel = "Glucose" if item == 51478 else "pH"
    assert value_of(two_stays, tmp_path / "a", channel) == 6.5
    assert value_of(two_stays, tmp_path / "b", channel, repairs="blood_only") is None


@pytest.mark.parametrize(
    ("item", "values", "channel", "published", "repaired"),
    [
        (HEART, ("105", "95"), "Heart Rate", 95.0, 105.0),
        (618, ("9", "15"), "Respiratory rate", 9.0, 15.0),
        (52, ("70", "100"), "Mean blood pressure", 70.0, 100.0),
        (51, ("95", "105"), "Systolic blood pressure", 105.0, 105.0),
        (198, ("9", "15"), "Glascow coma scale total", "9", "15"),
        (
            454,
            ("No response", "6 Obeys Commands"),
            "Glascow coma scale motor response",
            "No response",
            "6 Obeys Commands",
        ),
    ],
)
def test_the_greatest_of_several_values_wins(
    two_stays: Any,
    tmp_path: Path,
    item: int,
    values: tuple[str, str],
    channel: str,
    published: float | str,
    repaired: float | str,
) -> None:
    """As text where the benchmark compares text, as number or score when repaired, in either row order."""
    for place, order in enumerate((values, values[::-1])):
        two_stays.rows["chartevents"] = two_stays.rows["chartevents"][:2]
        for value in order:
            two_stays.event(1, item, 1.0, value)
        assert value_of(two_stays, tmp_path / f"a{place}", channel) == published
        assert value_of(two_stays, tmp_path / f"b{place}", channel, repairs=["numeric_maximum"]) == repaired


def test_flagged_rows_and_lost_admissions(two_stays: Any, tmp_path: Path) -> None:
    """Rows marked as errors, and rows with a stay but no admission id, follow their switches."""
    two_stays.event(1, HEART, 1.0, "99", error="1")
    two_stays.event(1, HEART, 2.0, "98", hadm_id=None)
    for number, (options, expected) in enumerate(
        [({}, [80.0, 99.0]), ({"repairs": "flagged_errors,admission_from_stay"}, [80.0, 98.0])]
    ):
        assert events_of(two_stays, tmp_path / str(number), **options)["Heart Rate"].to_list() == expected


def test_validation_counts(two_stays: Any, tmp_path: Path) -> None:
    """Each row is counted at the first step that it fails; rows of unmapped items count too."""
    two_stays.event(1, HEART, 1.0, "90", icustay_id=None)
    two_stays.event(1, 9999, 1.0, "90", hadm_id=None)
    two_stays.event(1, HEART, 1.0, "90", hadm_id=555)
    two_stays.event(1, HEART, 1.0, "90", icustay_id=556)
    two_stays.event(1, HEART, 1.0, "90", subject_id=557)
    two_stays.add("outputevents", subject_id=1, hadm_id=1001, icustay_id=1)
    counts = benchmark_tables(two_stays.write(tmp_path / "raw"))["validation_counts"]
    assert counts.row(0) == (1, 6, 1, 1, 1, 1, 3)
    assert counts.row(1) == (2, 1, 0, 0, 0, 0, 1)


def test_cohort_rules(raw_tables: Callable[[], Any], tmp_path: Path) -> None:
    """Every rule removes its stay, under its reason, in order; another stay of the admission is kept."""
    tables = raw_tables()
    for stay in range(1, 8):
        tables.stay(stay, age=17.9 if stay == 5 else 50.0)
    icustays = {row["icustay_id"]: row for row in tables.rows["icustays"]}
    icustays[1]["last_wardid"] = 8
    icustays[2]["first_careunit"] = "CCU"
    icustays[3]["hadm_id"] = 424_242
    tables.add("icustays", **{**icustays[4], "row_id": 90, "icustay_id": 40})
    tables.add("icustays", **{**icustays[6], "row_id": 91, "icustay_id": 60, "last_wardid": 9})
    icustays[7]["first_wardid"] = icustays[7]["last_wardid"] = None
    made = benchmark_tables(tables.write(tmp_path / "raw"))
    assert dict(made["excluded_stays"].select("icustay_id", "reason").rows()) == {
        1: "transfer_within_stay",
        2: "transfer_within_stay",
        60: "transfer_within_stay",
        7: "transfer_within_stay",
        3: "no_admission_or_patient",
        4: "multiple_stays_in_admission",
        40: "multiple_stays_in_admission",
        5: "age_below_18",
    }
    assert made["stays"]["icustay_id"].to_list() == [6]


def test_shifted_birth_dates_keep_the_stay(raw_tables: Callable[[], Any], tmp_path: Path) -> None:
    """Patients over 89 are born 300 years before; ages are days / 365 and the highest band takes them."""
    tables = raw_tables()
    tables.stay(1, age=300.0)
    tables.stay(2, age=18.0)
    tables.stay(3, age=44.99)
    tensors = prepared(tables, tmp_path)
    assert [tensors.groups[1].levels[code] for code in tensors.arrays["groups/age_band"]] == [
        "80+",
        "18-44",
        "18-44",
    ]
    assert tensors.arrays["groups/ethnicity"].tolist() == [4, 4, 4]


def test_nobody_is_born_after_the_admission(raw_tables: Callable[[], Any], tmp_path: Path) -> None:
    """An age that nobody knows, a birth after the admission or none, is no age of 18 or more."""
    tables = raw_tables()
    for stay in range(1, 6):
        tables.stay(stay, age=-1.0 if stay == 2 else 50.0)
    tables.rows["patients"][2]["dob"] = None
    assert prepared(tables, tmp_path).arrays["stays"].tolist() == [1, 4, 5]


def test_events_of_an_overlapping_stay_are_shared(raw_tables: Callable[[], Any], tmp_path: Path) -> None:
    """A stay receives its own events whenever charted, and any of the subject's charted while it lasted."""
    tables = raw_tables()
    tables.stay(1, hours=60.0)
    later = tables.rows["icustays"][0]["intime"] + datetime.timedelta(hours=100)
    tables.stay(2, subject=1, hours=30.0, begin=later)
    tables.event(1, HEART, 101.0, "70")
    tables.event(1, HEART, 200.0, "71")
    tables.event(2, HEART, -60.0, "72")
    made = events_of(tables, tmp_path / "raw", 1)
    assert made.select("hours", "Heart Rate").rows() == [
        (0.5, 80.0),
        (40.0, 72.0),
        (101.0, 70.0),
        (200.0, 71.0),
    ]
    second = benchmark_tables(tmp_path / "raw")["events"].filter(pl.col("icustay_id") == 2)
    assert second.select("hours", "Heart Rate").rows() == [(-60.0, 72.0), (0.5, 80.0), (1.0, 70.0)]


def prepared(tables: Any, folder: Path, **options: Any) -> ClinicalTensors:
    """Write the tables, prepare the tensors and check them."""
    return check_tensors(prepare(tables.write(folder / "raw"), folder / "tensors", **options))


def test_bins_hold_the_hour_that_ends_with_them(two_stays: Any, tmp_path: Path) -> None:
    """An event at exactly hour k is in bin k - 1, at admission in bin 0; later values win; gaps fill."""
    two_stays.event(1, HEART, 0.0, "60")
    two_stays.event(1, HEART, 2.0, "62")
    two_stays.event(1, HEART, 2.0 + 1 / 3600, "63")
    two_stays.event(1, HEART, -1.0, "59")
    two_stays.event(1, HEART, 60.5, "99")
    tensors = prepared(two_stays, tmp_path)
    heart = tensors.columns.index("Heart Rate")
    channel = [item.name for item in tensors.channels].index("Heart Rate")
    assert tensors.arrays["values"][:4, heart].tolist() == [80.0, 62.0, 63.0, 63.0]
    assert tensors.arrays["observed"][:4, channel].tolist() == [1, 1, 1, 0]
    assert tensors.arrays["offsets"].tolist() == [0, 60, 114]
    assert not (tensors.arrays["values"] == 99.0).any()
    assert tensors.arrays["values"][0, tensors.columns.index("Glucose")] == 128.0


@pytest.mark.parametrize(
    ("hours", "bins"), [(0.0, 0), (0.0024, 1), (1.0, 1), (1.0024, 2), (47.9999999, 48), (48, 48)]
)
def test_number_of_bins(hours: float, bins: int) -> None:
    """A period is rounded up to whole bins; a whole number gives itself."""
    assert bins_of(np.array([hours]))[0] == bins


def test_labels_of_a_death(two_stays: Any, tmp_path: Path) -> None:
    """Stay 2 dies at hour 50 of 54: mortality, 24 hours of decompensation, no label after death."""
    tensors = prepared(two_stays, tmp_path, compatibility="benchmark")
    arrays, hours = tensors.arrays, np.arange(1, 55)
    rows = slice(60, 114)
    assert arrays["labels/mortality"].tolist() == [0, 1]
    assert arrays["masks/mortality"].tolist() == [1, 1]
    np.testing.assert_array_equal(arrays["masks/decompensation"][rows], (hours >= 5) & (hours <= 50))
    labelled = arrays["masks/decompensation"][rows] == 1
    np.testing.assert_array_equal(
        arrays["labels/decompensation"][rows][labelled], (50 - hours < 24)[labelled]
    )
    np.testing.assert_array_equal(arrays["masks/los"][rows], hours >= 5)
    expected = [min(int((54 - hour) // 24), 9) for hour in hours[4:]]
    assert arrays["labels/los"][rows][4:].tolist() == expected
    assert arrays["labels/phenotypes"][:, 0].tolist() == [1.0, 1.0]
    assert arrays["labels/phenotypes"].sum() == 2


def test_no_length_of_stay_after_death_on_request(two_stays: Any, tmp_path: Path) -> None:
    """Stay 2 dies at hour 50 of 54: with the repair its last label of length of stay stands at hour 50."""
    arrays = prepared(two_stays, tmp_path, repairs="los_after_death").arrays
    np.testing.assert_array_equal(arrays["masks/los"][60:114], [5 <= hour <= 50 for hour in range(1, 55)])
    assert arrays["masks/los"][:60].tolist() == [0] * 4 + [1] * 56


def test_a_late_first_event_delays_the_labels(raw_tables: Callable[[], Any], tmp_path: Path) -> None:
    """Hourly labels begin after the first event; without one in 48 hours there is no mortality label."""
    tables = raw_tables()
    tables.stay(1)
    tables.stay(2)
    tables.rows["chartevents"].clear()
    tables.event(1, HEART, 10.25, "80")
    tables.event(2, HEART, 49.0, "80")
    arrays = prepared(tables, tmp_path).arrays
    assert np.flatnonzero(arrays["masks/los"][:60])[0] == 10
    assert arrays["masks/mortality"].tolist() == [1, 0]


def test_hospital_death_repair(raw_tables: Callable[[], Any], tmp_path: Path) -> None:
    """A death at home on the day of discharge counts as published only, minutes after it as repaired only."""
    tables = raw_tables()
    tables.stay(1)
    tables.stay(2)
    home, late = tables.rows["admissions"]
    tables.rows["patients"][0]["dod"] = home["dischtime"].replace(hour=0)
    late["hospital_expire_flag"] = 1
    late["deathtime"] = late["dischtime"] + datetime.timedelta(minutes=4)
    tables.write(tmp_path / "raw")
    for repairs, expected in (("", [1, 0]), ("hospital_death", [0, 1])):
        target = prepare(
            tmp_path / "raw", tmp_path / f"t{repairs}", compatibility="benchmark", repairs=repairs
        )
        assert check_tensors(target).arrays["labels/mortality"].tolist() == expected


def test_stays_without_labels_are_counted(raw_tables: Callable[[], Any], tmp_path: Path) -> None:
    """No diagnosis, no length of stay and no event are cohort steps with their counts."""
    tables = raw_tables()
    for stay in (1, 2, 3, 4):
        tables.stay(stay, code="NOCODE" if stay == 2 else "5849")
    tables.rows["icustays"][2]["los"] = None
    tables.rows["chartevents"] = [row for row in tables.rows["chartevents"] if row["icustay_id"] != 4]
    tensors = prepared(tables, tmp_path, compatibility="benchmark")
    assert tensors.arrays["stays"].tolist() == [1]
    assert [step["removed"] for step in tensors.manifest["cohort"][-3:]] == [1, 1, 1]


def test_splits_follow_the_lists(raw_tables: Callable[[], Any], tmp_path: Path) -> None:
    """The benchmark's lists decide; without a validation list its part is drawn from the rest."""
    tables = raw_tables()
    for stay in range(1, 21):
        tables.stay(stay)
    raw = tables.write(tmp_path / "raw")
    test, validation = tmp_path / "testset.csv", tmp_path / "valset.csv"
    test.write_text("".join(f"{stay},{int(stay > 15)}\n" for stay in range(1, 21)))
    validation.write_text("".join(f"{stay}\n" for stay in (1, 2, 3)))
    both = check_tensors(
        prepare(raw, tmp_path / "both", test_subjects=test, validation_subjects=validation)
    ).arrays["split"]
    assert both.tolist() == [1] * 3 + [0] * 12 + [2] * 5
    one = check_tensors(prepare(raw, tmp_path / "one", test_subjects=test, seed=3)).arrays["split"]
    assert one[15:].tolist() == [2] * 5
    assert (one[:15] == 1).sum() == round(0.15 * 15)
    seeds = [check_tensors(prepare(raw, tmp_path / f"s{seed}", seed=seed)).arrays["split"] for seed in (0, 1)]
    assert not np.array_equal(*seeds)


@pytest.mark.parametrize(
    ("part", "counts"),
    [("train_subjects", [5 + 11, 2, 2]), ("validation_subjects", [13, 5, 2]), ("test_subjects", [13, 2, 5])],
)
def test_parts_without_a_list_are_drawn(
    raw_tables: Callable[[], Any], tmp_path: Path, part: str, counts: list[int]
) -> None:
    """A list of one part leaves the shares of the others to the subjects that it does not name."""
    tables = raw_tables()
    for stay in range(1, 21):
        tables.stay(stay)
    (tmp_path / "list.csv").write_text("1\n2\n3\n4\n5\n")
    raw = tables.write(tmp_path / "raw")
    split = check_tensors(prepare(raw, tmp_path / "tensors", **{part: tmp_path / "list.csv"})).arrays["split"]
    assert np.bincount(split).tolist() == counts
    assert len(set(split[:5])) == 1


@pytest.mark.parametrize(
    "options", [{"seed": -1}, {"validation_share": float("nan")}, {"output_policy": "Person"}]
)
def test_options_out_of_range_are_refused_before_anything_is_read(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    """Of task folders too, which take these options: a share below 0 once named most subjects."""
    train = tmp_path / "folders" / "phenotyping" / "train"
    train.mkdir(parents=True)
    (train / "listfile.csv").touch()
    for source in (tmp_path / "nothing", tmp_path / "folders"):
        with pytest.raises(InputError, match=next(iter(options))):
            prepare(source, tmp_path / "tensors", **options)


def test_repair_effects_name_and_count(two_stays: Any, tmp_path: Path) -> None:
    """Each repair alone changes just its own cells; together they change all of them."""
    two_stays.event(1, FIO2, 1.5, "0.5")
    two_stays.event(1, HEART, 3.5, "95")
    two_stays.event(1, HEART, 3.5, "105")
    two_stays.add("diagnoses_icd", subject_id=1, hadm_id=1001, seq_num=2, icd9_code="99591")
    table = repair_effects(two_stays.write(tmp_path / "raw"))
    effects = {row["repair"]: row for row in table.iter_rows(named=True)}
    assert set(effects) == {*REPAIRS, TOGETHER}
    assert effects["fio2_scale"]["value_cells"] == 59
    assert effects["fio2_scale"]["events"] == 1
    assert effects["numeric_maximum"]["value_cells"] == 57
    assert effects["all_diagnosis_codes"]["phenotypes_labels"] == 1
    assert effects[TOGETHER]["value_cells"] == 116
    assert effects["blood_only"]["value_cells"] == effects["blood_only"]["mask_cells"] == 0
    assert math.isclose(effects[TOGETHER]["all_cells"], 114 * 17)


def test_choice_of_repairs() -> None:
    """Modes and names are checked; a text with commas is a list of names."""
    assert chosen_repairs("benchmark") == frozenset()
    assert "fio2_set_item" not in chosen_repairs("repaired")
    assert chosen_repairs("repaired", "fio2_scale, blood_only") == {"fio2_scale", "blood_only"}
    with pytest.raises(InputError, match="choose 'repaired' or 'benchmark'"):
        chosen_repairs("fixed")
    with pytest.raises(InputError, match="fio2 unknown"):
        chosen_repairs("repaired", ["fio2"])


def test_the_set_item_is_an_option(two_stays: Any, tmp_path: Path) -> None:
    """Item 190 is read only where asked for."""
    two_stays.event(1, 190, 1.0, "0.5")
    options = {"repairs": "fio2_set_item,fio2_scale"}
    assert value_of(two_stays, tmp_path / "raw", "Fraction inspired oxygen", **options) == 0.5
