"""eICU from raw tables: values and labels against slow per-stay computations, no leakage, named faults."""

import csv
import gzip
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from relif_core.errors import DataError, InputError
from relif_core.tensors.clinical import ClinicalTensors, check_tensors
from relif_data import tables as tables_module
from relif_data.eicu import grid as grid_module
from relif_data.eicu import prepare
from tests.relif_data.handmade import Row, Tables, lab, nurse, patient, pressure, small_tables, write_tables

BOUNDS = (1, 2, 3, 4, 5, 6, 7, 8, 14)


def made(tmp_path: Path, tables: Tables, name: str = "out", **options: Any) -> ClinicalTensors:
    source = write_tables(tmp_path / f"{name}_source", tables)
    return check_tensors(prepare(source, tmp_path / name, **options))


def cell(tensors: ClinicalTensors, stay: int, hour: int, channel: str) -> tuple[float, int]:
    """Value and mask of one cell."""
    place = int(np.flatnonzero(tensors.arrays["stays"] == stay)[0])
    column = [item.name for item in tensors.channels].index(channel)
    row = tensors.arrays["offsets"][place] + hour
    return float(tensors.arrays["values"][row, column]), int(tensors.arrays["observed"][row, column])


def test_whole_numbers_written_as_floats_are_read(tmp_path: Path) -> None:
    """Ids and offsets such as 12.0 give the same arrays; offsets with fractions are refused and counted."""
    expected = made(tmp_path, small_tables(), "expected")
    tables = small_tables()
    for row in tables["vitalAperiodic"]:
        row.update({key: f"{row[key]}.0" for key in ("patientunitstayid", "observationoffset")})
    for row in tables["patient"]:
        row.update({key: f"{row[key]}.0" for key in ("patientunitstayid", "unitdischargeoffset")})
    found = made(tmp_path, tables, "found")
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array, err_msg=name)
    tables["vitalAperiodic"] += [pressure(1, 60, 120) | {"observationoffset": "01:00"} for _ in range(11)]
    with pytest.raises(DataError, match=r"11 of 19 rows .* observationoffset that is no whole number"):
        made(tmp_path, tables, "lost")


def test_offsets_in_seconds_are_refused(tmp_path: Path) -> None:
    """Rows of monitors outside their stay may be few, or up to half of the table; also before it."""
    tables = small_tables()
    tables["vitalAperiodic"] += [pressure(1, 60 * 60 * hour, 120) for hour in range(10, 20)]
    made(tmp_path, tables, "few")
    tables["vitalAperiodic"] += [pressure(1, 60 * 60 * hour, 120) for hour in range(20, 40)]
    with pytest.raises(DataError, match=r"30 of 38 rows .* observationoffset outside their stay"):
        made(tmp_path, tables, "most")
    tables["vitalAperiodic"] = [pressure(1, -minute, 120) for minute in range(1, 12)]
    with pytest.raises(DataError, match="11 of 11 rows of the cohort have a observationoffset outside"):
        made(tmp_path, tables, "negative")


def test_the_last_value_of_an_hour_counts_and_gaps_carry_forward(tmp_path: Path) -> None:
    tables = small_tables()
    tables["vitalAperiodic"] += [
        pressure(1, 130, 90),
        pressure(1, 179, 95),
        pressure(1, 121, 200),
        pressure(1, -1, 50),
        pressure(1, 3000, 60),
    ]
    tensors = made(tmp_path, tables)
    systolic = "Systolic blood pressure"
    assert cell(tensors, 1, 0, systolic) == (111, 1)
    assert cell(tensors, 1, 1, systolic) == (111, 0)
    assert cell(tensors, 1, 2, systolic) == (95, 1)
    assert cell(tensors, 1, 49, systolic) == (95, 0)
    assert cell(tensors, 2, 2, systolic) == (112, 0)
    rows = np.diff(tensors.arrays["offsets"])
    assert set(rows) == {50}, "3,000 minutes are 50 hours; the value at minute 3,000 lies after the stay"
    assert "2 rows before admission or after the end" in " ".join(tensors.manifest["notes"])


def test_each_table_is_read_with_its_units(tmp_path: Path) -> None:
    tables = small_tables()
    tables["nurseCharting"] = [
        nurse(1, 5, "Temperature", "Temperature (F)", "98.6"),
        nurse(1, 65, "Temperature", "Temperature (C)", "38.5"),
        nurse(1, 10, "Glasgow coma score", "Motor", "5"),
        nurse(1, 10, "Glasgow coma score", "GCS Total", "Unable to score due to medication"),
        nurse(1, 70, "Score (Glasgow Coma Scale)", "Value", "12"),
        nurse(1, 12, " HEART RATE ", "heart rate", "88"),
        nurse(1, 12, "Pain", "Value", "3"),
    ]
    tables["lab"] = [
        lab(1, 20, "glucose", "150", "mg/dL"),
        lab(1, 80, "bedside glucose", "10", "mmol/L"),
        lab(1, 140, "glucose", "99", "furlong"),
        lab(1, 30, "pH", "7.31", ""),
        lab(1, 30, "FiO2", "40", "%"),
    ]
    tables["respiratoryCharting"] = [
        {
            "patientunitstayid": 1,
            "respchartoffset": minute,
            "respcharttypecat": "respFlowSettings",
            "respchartvaluelabel": "FiO2",
            "respchartvalue": value,
        }
        for minute, value in ((61, "50%"), (121, "0.6"), (181, "2"))
    ]
    tables["nurseAssessment"] = [
        {
            "patientunitstayid": 1,
            "nurseassessoffset": minute,
            "celllabel": "Capillary Refill",
            "cellattribute": "Capillary Refill",
            "cellattributevalue": value,
        }
        for minute, value in ((1, "> 2 seconds"), (2, "hands"), (61, "normal"), (121, "pink"))
    ]
    tables["intakeOutput"] = [
        {
            "patientunitstayid": 1,
            "intakeoutputoffset": 60,
            "celllabel": "Bodyweight (lb)",
            "cellvaluenumeric": "200",
        }
    ]
    tables["physicalExam"] = [
        {
            "patientunitstayid": 1,
            "physicalexamoffset": 15,
            "physicalexampath": (
                "notes/Progress Notes/Physical Exam/Physical Exam/Neurologic/GCS/Eyes Score/3"
            ),
            "physicalexamvalue": "3",
        }
    ]
    tensors = made(tmp_path, tables)
    expected = {
        ("Temperature", 0): 37.0,
        ("Temperature", 1): 38.5,
        ("Glascow coma scale motor response", 0): 5,
        ("Glascow coma scale total", 1): 12,
        ("Glascow coma scale eye opening", 0): 3,
        ("Heart Rate", 0): 88,
        ("Glucose", 0): 150,
        ("Glucose", 1): 180.156,
        ("pH", 0): 7.31,
        ("Fraction inspired oxygen", 0): 0.4,
        ("Fraction inspired oxygen", 1): 0.5,
        ("Fraction inspired oxygen", 2): 0.6,
        ("Capillary refill rate", 0): 1,
        ("Capillary refill rate", 1): 0,
        ("Weight", 0): 70,
        ("Weight", 1): 200 * 0.45359237,
        ("Height", 0): 170,
    }
    for (channel, hour), value in expected.items():
        found, observed = cell(tensors, 1, hour, channel)
        assert found == pytest.approx(value, rel=1e-6), channel
        assert observed == 1, channel
    assert cell(tensors, 1, 0, "Glascow coma scale total") == (15, 0)
    assert cell(tensors, 1, 2, "Glucose")[1] == 0
    assert cell(tensors, 1, 3, "Fraction inspired oxygen")[1] == 0
    assert cell(tensors, 1, 2, "Capillary refill rate") == (0, 0)
    notes = " ".join(tensors.manifest["notes"])
    assert "1 in an unknown unit: 'furlong' (1)" in notes
    assert "nurseCharting: 7 rows; 5 values used" in notes
    assert "1 values that are no number" in notes


def test_at_one_minute_the_more_trusted_table_wins_then_the_greatest_value(tmp_path: Path) -> None:
    tables = small_tables()
    name = ("Non-Invasive BP", "Non-Invasive BP Systolic")
    tables["nurseCharting"] = [
        nurse(1, 30, *name, "100"),
        nurse(1, 30, *name, "99"),
        nurse(2, 29, *name, "100"),
    ]
    tensors = made(tmp_path, tables)
    assert cell(tensors, 1, 0, "Systolic blood pressure") == (100, 1)
    assert cell(tensors, 2, 0, "Systolic blood pressure") == (112, 1)


def test_cohort_rules_are_applied_in_order_and_counted(tmp_path: Path) -> None:
    tables = small_tables()
    extra = [
        patient(20, uniquepid=""),
        patient(21, unitdischargeoffset="soon"),
        patient(22, age="17"),
        patient(23, age=""),
        patient(24, unitstaytype="stepdown/other"),
        patient(25, patienthealthsystemstayid=501, unitvisitnumber=2),
        patient(26, unitdischargeoffset=299),
        patient(27),
    ]
    for index, row in enumerate(extra[2:]):
        row["uniquepid"] = f"003-{index}"
    extra[5]["uniquepid"] = "002-1"
    extra.append(patient(28, age="NaN", uniquepid="003-6"))
    tables["patient"] += extra
    tables["vitalAperiodic"] += [pressure(stay, 10, 120) for stay in range(20, 27)]
    tensors = made(tmp_path, tables)
    assert [step["removed"] for step in tensors.manifest["cohort"]] == [0, 2, 3, 1, 1, 1, 1]
    assert tensors.manifest["cohort"][0]["stays"] == 17
    assert tensors.manifest["cohort"][0]["subjects"] == 13, "an unknown patient is no subject"
    assert tensors.arrays["stays"].tolist() == list(range(1, 9))
    ages = dict(zip(tensors.arrays["stays"], tensors.arrays["groups/age_band"], strict=True))
    assert ages[3] == 3, "an age of > 89 belongs to the oldest band"
    assert "1 cells of unitdischargeoffset are no numbers" in " ".join(tensors.manifest["notes"])


def test_labels_are_facts_at_their_hour(tmp_path: Path) -> None:
    tables = small_tables()
    ends = {
        2: {
            "unitdischargestatus": "Expired",
            "hospitaldischargestatus": "Expired",
            "unitdischargeoffset": 2890,
        },
        3: {"hospitaldischargestatus": "Expired", "hospitaldischargeoffset": 3600},
        4: {"hospitaldischargestatus": ""},
        5: {"unitdischargestatus": "Expired"},
        6: {"unitdischargeoffset": 2879},
        7: {"unitdischargeoffset": 14 * 1440 + 600},
    }
    for row in tables["patient"]:
        row.update(ends.get(row["patientunitstayid"], {}))
    tables["diagnosis"] = [
        {"patientunitstayid": 1, "diagnosisstring": "cardiovascular|shock", "diagnosisoffset": 3},
        {"patientunitstayid": 1, "diagnosisstring": "renal|failure", "diagnosisoffset": 3},
        {"patientunitstayid": 2, "diagnosisstring": "astral|projection", "diagnosisoffset": 3},
    ]
    tensors = made(tmp_path, tables, decompensation=True, diagnosis_groups=True)
    arrays, offsets = tensors.arrays, tensors.arrays["offsets"]
    assert arrays["masks/mortality"].tolist() == [1, 1, 1, 0, 0, 0, 1, 1]
    assert arrays["labels/mortality"][arrays["masks/mortality"] == 1].tolist() == [0, 1, 1, 0, 0]

    def of(stay: int, name: str) -> list[int | None]:
        rows = slice(offsets[stay - 1], offsets[stay])
        pairs = zip(arrays[f"labels/{name}"][rows], arrays[f"masks/{name}"][rows], strict=True)
        return [int(label) if mask else None for label, mask in pairs]

    # 3,000 minutes: at hour 26 exactly 1,440 minutes remain, which is the class from one day on.
    assert of(1, "los") == [None] * 4 + [1] * (26 - 4) + [0] * (50 - 26)
    assert of(7, "los")[4:12] == [9] * 6 + [8] * 2
    # Stay 2 dies at minute 2,890; at hour 24 more than 24 hours are left, at hour 25 fewer.
    assert of(2, "decompensation") == [None] * 4 + [0] * 20 + [1] * 24 + [None]
    # Stay 3 dies in the hospital at hour 60: positive after hour 36.
    assert of(3, "decompensation") == [None] * 4 + [0] * 32 + [1] * 14
    assert set(of(4, "decompensation")) == set(of(5, "decompensation")) == {None}
    assert arrays["masks/diagnosis_groups"].tolist() == [1] + [0] * 7
    names = next(task for task in tensors.tasks if task.name == "diagnosis_groups").class_names
    assert {names[index] for index in np.flatnonzero(arrays["labels/diagnosis_groups"][0])} == {
        "cardiovascular",
        "renal",
    }


def test_unit_mortality_and_earlier_hour_on_request(tmp_path: Path) -> None:
    tables = small_tables()
    tables["patient"][0].update(unitdischargestatus="Expired", hospitaldischargestatus="Expired")
    tables["patient"][1].update(hospitaldischargestatus="Expired")
    tensors = made(tmp_path, tables, mortality="unit", mortality_hours=24, maximum_hours=30)
    assert tensors.arrays["labels/mortality"].tolist() == [1] + [0] * 7
    assert tensors.tasks[0].horizon_hours == 24
    assert set(np.diff(tensors.arrays["offsets"])) == {30}
    assert tensors.arrays["labels/los"][29] == 0, "1,200 of 3,000 minutes remain at hour 30"
    assert tensors.arrays["labels/los"][25] == 1, "1,440 of 3,000 minutes remain at hour 26"


def random_tables(seed: int, stays: int = 14) -> Tables:
    """Stays of 5 to 60 hours with events before, within and after."""
    rng = random.Random(seed)
    tables: Tables = {
        "patient": [],
        "vitalAperiodic": [],
        "nurseCharting": [],
        "lab": [],
        "vitalPeriodic": [],
    }
    for stay in rng.sample(range(1000, 9000), stays):
        length = rng.randrange(300, 3600)
        dead = rng.random() < 0.3
        tables["patient"].append(
            patient(
                stay,
                uniquepid=f"004-{stay % 9}",
                unitdischargeoffset=length,
                hospitaldischargeoffset=length + rng.randrange(0, 3000),
                hospitaldischargestatus="Expired" if dead else "Alive",
                gender=rng.choice(["Female", "Male", ""]),
            )
        )
        tables["vitalAperiodic"].append(pressure(stay, 0, 120))
        for _ in range(rng.randrange(10, 60)):
            minute = rng.randrange(-100, length + 200)
            tables["vitalAperiodic"].append(
                pressure(stay, minute, rng.randrange(60, 200), rng.choice(["", 60, 71]))
            )
            tables["nurseCharting"].append(
                nurse(stay, minute, "Heart Rate", "Heart Rate", rng.choice(["80", "91.5", "n/a", "0", ""]))
            )
            tables["lab"].append(lab(stay, minute, "glucose", rng.choice(["90", "120", ">600"]), "mg/dL"))
            tables["vitalPeriodic"].append(
                {
                    "patientunitstayid": stay,
                    "observationoffset": minute,
                    "temperature": rng.choice(["", "36.9", "99.1"]),
                    "sao2": rng.choice(["", "97", "98", "0"]),
                    "heartrate": rng.choice(["", "75", "76"]),
                    "respiration": "",
                    "systemicsystolic": rng.choice(["", "101"]),
                    "systemicdiastolic": "",
                    "systemicmean": "",
                }
            )
    return tables


def slow_cells(
    tables: dict[str, Iterable[Row]], lengths: dict[int, int]
) -> dict[tuple[int, str], dict[int, tuple[int, int, float]]]:
    """Return per stay and channel hour -> the winning (minute, trust, value), event by event."""
    cells: dict[tuple[int, str], dict[int, tuple[int, int, float]]] = {}

    def offer(stay: int, minute: int, channel: str, text: str, trust: int, low: float, high: float) -> None:
        text = text.strip().removesuffix("%").strip()
        try:
            value = float(text)
        except ValueError:
            return
        if channel == "Temperature" and value >= 79:
            value = (value - 32) * 5 / 9
        if channel == "Fraction inspired oxygen" and value > 1:
            value /= 100
        if not low <= value <= high or not 0 <= minute < lengths[stay]:
            return
        hours = cells.setdefault((stay, channel), {})
        hours[minute // 60] = max(hours.get(minute // 60, (-1, 0, 0.0)), (minute, trust, value))

    wide = {
        "vitalPeriodic": (
            1,
            {
                "heartrate": ("Heart Rate", 1, 350),
                "sao2": ("Oxygen saturation", 20, 100),
                "temperature": ("Temperature", 25, 45),
                "systemicsystolic": ("Systolic blood pressure", 1, 350),
            },
        ),
        "vitalAperiodic": (
            2,
            {
                "noninvasivesystolic": ("Systolic blood pressure", 1, 350),
                "noninvasivediastolic": ("Diastolic blood pressure", 1, 300),
                "noninvasivemean": ("Mean blood pressure", 1, 350),
            },
        ),
    }
    for table, (trust, columns) in wide.items():
        for row in tables.get(table, ()):
            stay = int(row["patientunitstayid"])
            if stay in lengths:
                for column, (channel, low, high) in columns.items():
                    offer(stay, int(row["observationoffset"]), channel, str(row[column]), trust, low, high)
    breathing = {
        "FiO2": ("Fraction inspired oxygen", 0.21, 1),
        "FIO2 (%)": ("Fraction inspired oxygen", 0.21, 1),
        "O2 Percentage": ("Fraction inspired oxygen", 0.21, 1),
        "Set Fraction of Inspired Oxygen (FIO2)": ("Fraction inspired oxygen", 0.21, 1),
        "RR (patient)": ("Respiratory rate", 1, 120),
        "Total RR": ("Respiratory rate", 1, 120),
        "SaO2": ("Oxygen saturation", 20, 100),
        "Adult Con Pt/Vent SpO2": ("Oxygen saturation", 20, 100),
        "NIV Pt/Vent SpO2_5": ("Oxygen saturation", 20, 100),
    }
    for row in tables.get("respiratoryCharting", ()):
        stay = int(row["patientunitstayid"])
        if stay in lengths and row["respchartvaluelabel"] in breathing:
            channel, low, high = breathing[row["respchartvaluelabel"]]
            offer(stay, int(row["respchartoffset"]), channel, row["respchartvalue"], 3, low, high)
    for row in tables.get("lab", ()):
        stay = int(row["patientunitstayid"])
        if stay in lengths and row["labname"] == "glucose":
            offer(stay, int(row["labresultoffset"]), "Glucose", row["labresult"], 4, 1, 2500)
    for row in tables.get("nurseCharting", ()):
        stay = int(row["patientunitstayid"])
        if stay in lengths and row["nursingchartcelltypevallabel"] == "Heart Rate":
            offer(stay, int(row["nursingchartoffset"]), "Heart Rate", row["nursingchartvalue"], 5, 1, 350)
    return cells


def assert_equal_to_slow(
    tensors: ClinicalTensors,
    cells: dict[tuple[int, str], dict[int, tuple[int, int, float]]],
    lengths: dict[int, int],
    channels: Iterable[str],
) -> None:
    names = [item.name for item in tensors.channels]
    normal = {item.name: item.normal for item in tensors.channels}
    stays = tensors.arrays["stays"].tolist()
    compared = 0
    for stay, length in lengths.items():
        place = stays.index(stay)
        first, last = tensors.arrays["offsets"][place : place + 2]
        assert last - first == math.ceil(length / 60)
        for channel in channels:
            hours = cells.get((stay, channel), {})
            value = normal[channel]
            for hour in range(last - first):
                if hour in hours:
                    value = hours[hour][2]
                assert tensors.arrays["observed"][first + hour, names.index(channel)] == (hour in hours)
                assert tensors.arrays["values"][first + hour, names.index(channel)] == np.float32(value)
                compared += 1
        for hour in range(last - first):
            left = length - 60 * (hour + 1)
            labelled = hour + 1 >= 5 and left >= 0
            assert tensors.arrays["masks/los"][first + hour] == labelled
            if labelled:
                assert tensors.arrays["labels/los"][first + hour] == sum(left >= 1440 * day for day in BOUNDS)
    assert compared


@pytest.mark.parametrize("seed", range(3))
def test_synthetic_tables_equal_a_slow_computation_per_stay(tmp_path: Path, seed: int) -> None:
    tables = random_tables(seed)
    tensors = made(tmp_path, tables)
    lengths = {row["patientunitstayid"]: row["unitdischargeoffset"] for row in tables["patient"]}
    channels = (
        "Heart Rate",
        "Oxygen saturation",
        "Temperature",
        "Systolic blood pressure",
        "Diastolic blood pressure",
        "Glucose",
    )
    assert_equal_to_slow(tensors, slow_cells(dict(tables), lengths), lengths, channels)


@pytest.fixture(scope="session")
def demo(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ClinicalTensors]:
    """The raw tables of the real demo and their tensors."""
    source = data_folder / "eicu_demo"
    if not (source / "tables").is_dir():
        pytest.skip("the eICU demo is absent from RELIF_DATA")
    target = prepare(
        source,
        tmp_path_factory.mktemp("eicu") / "tables",
        layout="tables",
        decompensation=True,
        diagnosis_groups=True,
    )
    return source, check_tensors(target)


def test_demo_tables_equal_a_slow_computation_per_stay(demo: tuple[Path, ClinicalTensors]) -> None:
    source, tensors = demo
    chosen = set(random.Random(5).sample(tensors.arrays["stays"].tolist(), 40))
    with gzip.open(source / "tables" / "patient.csv.gz", "rt") as file:
        lengths = {
            int(row["patientunitstayid"]): int(row["unitdischargeoffset"])
            for row in csv.DictReader(file)
            if int(row["patientunitstayid"]) in chosen
        }

    def rows(table: str) -> Iterator[Row]:
        with gzip.open(source / "tables" / f"{table}.csv.gz", "rt") as file:
            reader = csv.reader(file)
            header = next(reader)
            place = header.index("patientunitstayid")
            wanted = {str(stay) for stay in chosen}
            for line in reader:
                if line[place] in wanted:
                    yield dict(zip(header, line, strict=True))

    cells = slow_cells({name: rows(name) for name in ("vitalAperiodic", "respiratoryCharting")}, lengths)
    channels = (
        "Systolic blood pressure",
        "Diastolic blood pressure",
        "Mean blood pressure",
        "Fraction inspired oxygen",
        "Respiratory rate",
        "Oxygen saturation",
    )
    assert_equal_to_slow(tensors, cells, lengths, channels)


def test_demo_counts_and_the_tables_that_its_copy_lacks(demo: tuple[Path, ClinicalTensors]) -> None:
    _, tensors = demo
    steps = [(step["removed"], step["stays"], step["subjects"]) for step in tensors.manifest["cohort"]]
    assert steps == [
        (0, 2520, 1841),
        (0, 2520, 1841),
        (8, 2512, 1834),
        (278, 2234, 1787),
        (134, 2100, 1787),
        (96, 2004, 1710),
        (5, 1999, 1707),
    ]
    notes = " ".join(tensors.manifest["notes"])
    assert "Table vitalPeriodic is missing; lost: Heart Rate, Temperature" in notes
    assert "Table lab is missing; lost: Glucose, pH" in notes
    assert "Channels without any value, left out: Glucose, Heart Rate, Temperature, pH." in notes
    assert len(tensors.channels) == 13
    assert tensors.manifest["output_policy"] == "person"
    assert "Open Database" in tensors.manifest["licence"]
    assert (tensors.arrays["observed"].sum(axis=0) > 0).all(), "no channel is silently empty"


def cut_tables(tables: Tables, hour: int, seed: int) -> Tables:
    """Scramble every event at or after an hour: drop some, change the others, and add more."""
    rng = random.Random(seed)
    times = {
        "vitalAperiodic": "observationoffset",
        "vitalPeriodic": "observationoffset",
        "nurseCharting": "nursingchartoffset",
        "lab": "labresultoffset",
    }
    result: Tables = {"patient": tables["patient"]}
    for name, time in times.items():
        kept = []
        for row in tables[name]:
            if row[time] < 60 * hour:
                kept.append(row)
            elif rng.random() < 0.6:
                change = {
                    "noninvasivesystolic": 77,
                    "heartrate": 133,
                    "nursingchartvalue": "44",
                    "labresult": "555",
                }
                kept += [row | {key: value for key, value in change.items() if key in row}] * rng.randrange(
                    1, 3
                )
        rng.shuffle(kept)
        result[name] = kept
    return result


@pytest.mark.parametrize(("seed", "hour"), [(0, 1), (1, 5), (2, 6), (3, 24), (4, 48)])
def test_nothing_at_or_after_a_labels_time_reaches_its_input(tmp_path: Path, seed: int, hour: int) -> None:
    tables = random_tables(seed)
    before = made(tmp_path, tables, "before", decompensation=True)
    after = made(tmp_path, cut_tables(tables, hour, seed), "after", decompensation=True)
    assert [channel.name for channel in before.channels] == [channel.name for channel in after.channels]
    place = np.arange(len(before.arrays["values"])) - np.repeat(
        before.arrays["offsets"][:-1], np.diff(before.arrays["offsets"])
    )
    past = place < hour  # a label at `hour` stands in row hour - 1 and reads rows up to it
    for name in ("values", "observed"):
        np.testing.assert_array_equal(before.arrays[name][past], after.arrays[name][past])
    assert (before.arrays["values"][~past] != after.arrays["values"][~past]).any()
    for name in before.arrays:
        if name.startswith(("labels", "masks", "split", "offsets", "groups")):
            np.testing.assert_array_equal(before.arrays[name], after.arrays[name])


def test_patients_not_stays_are_split(tmp_path: Path) -> None:
    tensors = made(tmp_path, random_tables(7, stays=60), validation_fraction=0.3, test_fraction=0.3)
    subjects, split = tensors.arrays["subjects"], tensors.arrays["split"]
    assert all(len(set(split[subjects == subject])) == 1 for subject in set(subjects))
    assert set(split) == {0, 1, 2}
    assert len(set(subjects)) < len(subjects)


def test_packing_case_order_and_block_size_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = random_tables(3)
    reference = made(tmp_path, tables)
    monkeypatch.setattr(tables_module, "BLOCK_BYTES", 700)
    monkeypatch.setattr(grid_module, "BLOCK_ROWS", 64)
    shuffled = {name: random.Random(1).sample(rows, len(rows)) for name, rows in tables.items()}
    source = write_tables(tmp_path / "other", shuffled, packed=False, upper=True)
    other = check_tensors(prepare(source, tmp_path / "plain"))
    assert other.fingerprint == reference.fingerprint


def test_a_folder_named_tables_and_quoted_cells_are_read(tmp_path: Path) -> None:
    tables = small_tables()
    tables["nurseCharting"] = [
        nurse(1, 3, "Heart Rate", "Heart Rate", 'about "80",\nperhaps'),
        nurse(1, 61, "Heart Rate", "Heart Rate", "81"),
    ]
    write_tables(tmp_path / "source" / "tables", tables)
    tensors = check_tensors(prepare(tmp_path / "source", tmp_path / "out"))
    assert cell(tensors, 1, 0, "Heart Rate") == (86, 0)
    assert cell(tensors, 1, 1, "Heart Rate") == (81, 1)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()).decode()).encode()))


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (lambda folder: truncate(folder / "vitalAperiodic.csv.gz"), r"vitalAperiodic.*truncated"),
    "corrupt": (
        lambda folder: corrupt(folder / "vitalAperiodic.csv.gz"),
        r"vitalAperiodic.*(damaged|number|missing)",
    ),
    "empty file": (lambda folder: (folder / "vitalAperiodic.csv.gz").write_bytes(b"") and None, r"empty"),
    "missing column": (
        lambda folder: edit(
            folder / "vitalAperiodic.csv.gz", lambda text: text.replace("noninvasivemean", "mean", 1)
        ),
        r"vitalAperiodic.csv.gz: column NONINVASIVEMEAN missing",
    ),
    "missing patient column": (
        lambda folder: edit(folder / "patient.csv.gz", lambda text: text.replace("uniquepid", "pid", 1)),
        r"patient.csv.gz: column UNIQUEPID missing",
    ),
    "column twice": (
        lambda folder: edit(
            folder / "vitalAperiodic.csv.gz",
            lambda text: text.replace("noninvasivemean", "noninvasivesystolic", 1),
        ),
        r"column NONINVASIVESYSTOLIC stands there twice|NONINVASIVEMEAN missing",
    ),
    "stay twice": (
        lambda folder: edit(folder / "patient.csv.gz", lambda text: text + text.splitlines()[1] + "\n"),
        r"1 PATIENTUNITSTAYID stand in more than one row",
    ),
    "stay no number": (
        lambda folder: edit(folder / "patient.csv.gz", lambda text: text.replace("\n1,", "\nfirst,", 1)),
        r"1 cells of column PATIENTUNITSTAYID are no number .first: data row 1",
    ),
    "one hospital stay": (
        lambda folder: edit(
            folder / "patient.csv.gz", lambda text: re.sub(r"(?m)^(\d),\d+", r"\1,nan", text)
        ),
        r"patienthealthsystemstayid of 8 of 8 unit stays belongs to several patients",
    ),
    "no patient": (lambda folder: (folder / "patient.csv.gz").unlink(), r"no file for patient; copy"),
    "no measurements": (
        lambda folder: (folder / "vitalAperiodic.csv.gz").unlink(),
        r"no table of measurements",
    ),
    "table twice": (
        lambda folder: (folder / "PATIENT.csv").write_text("x\n") and None,
        r"PATIENT.csv is not the content of patient.csv.gz",
    ),
    "open quote": (
        lambda folder: edit(folder / "vitalAperiodic.csv.gz", lambda text: text + '1,2,"3,,\n'),
        r"vitalAperiodic.csv.gz cannot be read",
    ),
    "all children": (
        lambda folder: edit(
            folder / "patient.csv.gz", lambda text: text.replace(",60,", ",6,").replace("> 89", "9")
        ),
        r"no stay is left after the cohort rule 'age known",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_and_leave_nothing_behind(tmp_path: Path, fault: str) -> None:
    source = write_tables(tmp_path / "source", small_tables())
    damage, message = FAULTS[fault]
    damage(source)
    with pytest.raises(DataError, match=message):
        prepare(source, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_plain_file_cut_in_a_line_is_refused(tmp_path: Path) -> None:
    source = write_tables(tmp_path / "source", small_tables(), packed=False)
    path = source / "vitalAperiodic.csv"
    path.write_bytes(path.read_bytes().rstrip()[:-3])
    with pytest.raises(DataError, match=r"ends in the middle of a row \(3 of 5 fields\)"):
        prepare(source, tmp_path / "out")


def test_a_quote_that_is_never_closed_is_refused_before_memory_fills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_tables(tmp_path / "source", small_tables())
    edit(source / "vitalAperiodic.csv.gz", lambda text: text + '1,2,"3,,\n' + "1,2,3,4,5\n" * 1000)
    monkeypatch.setattr(tables_module, "BLOCK_BYTES", 4000)
    monkeypatch.setattr(tables_module, "LONGEST_RECORD", 1000)
    with pytest.raises(
        DataError, match=r"vitalAperiodic.csv.gz: a line or quoted cell is longer than 1000 bytes"
    ):
        prepare(source, tmp_path / "out")


def test_unreadable_cells_are_counted(tmp_path: Path) -> None:
    tables = small_tables()
    tables["vitalAperiodic"] += [
        pressure(1, "noon", 100),  # type: ignore[arg-type]
        pressure(1, 60, "high"),
        pressure(1, 61, "9999"),
        pressure(1, 62, "nan"),
        pressure(99, 60, 100),
    ]
    notes = " ".join(made(tmp_path, tables).manifest["notes"])
    assert (
        "vitalAperiodic: 13 rows; 8 values used; left out: 1 rows of stays outside the cohort; 0 rows before"
        " admission or after the end; 1 rows without readable stay or time; 2 values that are no number; 1"
        " out of range." in notes
    )


def test_another_sources_target_is_refused_and_kept(tmp_path: Path) -> None:
    source = write_tables(tmp_path / "source", small_tables())
    target = prepare(source, tmp_path / "out")
    before = ClinicalTensors.open(target).fingerprint
    assert check_tensors(prepare(source, target)).fingerprint == before, (
        "the same source may be prepared again"
    )
    tables = small_tables()
    tables["vitalAperiodic"][0]["noninvasivesystolic"] = 99
    with pytest.raises(DataError, match="other source files"):
        prepare(write_tables(tmp_path / "second", tables), target)
    assert check_tensors(target).fingerprint == before
    row = {"hospitalid": 7, "region": "South", "numbedscategory": "<100", "teachingstatus": "t"}
    more = prepare(
        write_tables(tmp_path / "more", small_tables() | {"hospital": [row]}), tmp_path / "more-out"
    )
    (tmp_path / "more" / "hospital.csv.gz").unlink()
    told: list[str] = []
    with pytest.raises(DataError, match="other source files"):
        prepare(tmp_path / "more", more, progress=told.append)
    assert not told, "refused before a table is read"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="no tensor folder"):
        prepare(source, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_missing_diagnosis_table_is_named(tmp_path: Path) -> None:
    source = write_tables(tmp_path / "source", small_tables())
    with pytest.raises(DataError, match="no file for diagnosis; copy"):
        prepare(source, tmp_path / "out", diagnosis_groups=True)


def test_full_data_give_aggregates_only_and_lost_groups_are_named(tmp_path: Path) -> None:
    said: list[str] = []
    source = write_tables(tmp_path / "source", small_tables())
    tensors = check_tensors(prepare(source, tmp_path / "out", progress=said.append))
    assert tensors.manifest["output_policy"] == "aggregate"
    assert "Credentialed" in tensors.manifest["licence"]
    assert any("Table hospital is missing" in note for note in tensors.manifest["notes"])
    assert any("vitalAperiodic: 8 rows, 8 values" in message for message in said)
    assert any("Table lab is missing; lost: " in message for message in said)


def test_more_hospitals_than_codes_are_left_out_by_name(tmp_path: Path) -> None:
    tables: Tables = {
        "patient": [patient(stay, hospitalid=stay, uniquepid=f"005-{stay}") for stay in range(1, 301)],
        "vitalAperiodic": [pressure(stay, 1, 120) for stay in range(1, 301)],
        "hospital": [
            {
                "hospitalid": stay,
                "numbedscategory": "<100",
                "teachingstatus": "f",
                "region": ("South", "")[stay % 2],
            }
            for stay in range(1, 301)
        ],
    }
    tensors = made(tmp_path, tables)
    names = [group.name for group in tensors.groups]
    assert "hospital" not in names
    assert "Hospital: 300 levels, over 255, and so no group here." in tensors.manifest["notes"]
    region = next(group for group in tensors.groups if group.name == "hospital_region")
    assert region.levels == ("South", "unknown")
    assert tensors.arrays["groups/hospital_region"][:2].tolist() == [1, 0]
    for name, column in (("unit_type", "unittype"), ("hospital_region", "region")):
        for stay, row in enumerate(tables["patient" if name == "unit_type" else "hospital"]):
            row[column] = f"level {stay}"
        assert name not in [group.name for group in made(tmp_path, tables, name).groups]


def test_a_level_called_unknown_is_the_unknown_one(tmp_path: Path) -> None:
    tables = small_tables()
    for row, unit in zip(tables["patient"], ["unknown", "MICU", "", *["zzz"] * 5], strict=True):
        row["unittype"] = unit
    tensors = made(tmp_path, tables)
    group = next(group for group in tensors.groups if group.name == "unit_type")
    assert group.levels == ("MICU", "zzz", "unknown")
    assert tensors.arrays["groups/unit_type"].tolist() == [2, 0, 2, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("minutes", ["inf", "nan", "1e15", "-inf"])
def test_a_stay_without_end_is_left_out(tmp_path: Path, minutes: str) -> None:
    """A discharge that is endless or ten years away counts as unknown; many of them are an error."""
    tables = small_tables()
    tables["patient"] = [patient(stay, uniquepid=f"002-{stay}") for stay in range(1, 21)]
    tables["patient"][4]["unitdischargeoffset"] = minutes
    tables["vitalAperiodic"] = [pressure(stay, 30, 110) for stay in range(1, 21)]
    tensors = made(tmp_path, tables)
    assert 5 not in tensors.arrays["stays"]
    assert len(tensors.arrays["stays"]) == 19
    assert any(
        "1 cells of unitdischargeoffset are over 3,660 days" in note for note in tensors.manifest["notes"]
    )
    for row in tables["patient"][:11]:
        row["unitdischargeoffset"] = minutes
    with pytest.raises(DataError, match="11 of 20 cells of unitdischargeoffset are over 3,660 days"):
        made(tmp_path, tables, "many")


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "parquet"},
        {"mortality": "ever"},
        {"mortality_hours": 0},
        {"first_label_hour": 0},
        {"maximum_hours": 24},
        {"maximum_hours": 72.5},
        {"seed": -1},
        {"validation_fraction": float("nan")},
        {"validation_fraction": 0.6, "test_fraction": 0.5},
        {"test_fraction": 0.0},
    ],
)
def test_options_out_of_range_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    source = write_tables(tmp_path / "source", small_tables())
    with pytest.raises(InputError):
        prepare(source, tmp_path / "out", **options)


def test_a_source_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        prepare(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(
    ("column", "cell", "words"),
    [
        ("hospitaldischargestatus", "Dead", "20 of 20 cells of hospitaldischargestatus are neither"),
        ("unitdischargestatus", "1", "20 of 20 cells of unitdischargestatus are neither"),
        ("unitdischargeoffset", "3,000", "20 of 20 cells of unitdischargeoffset are no number"),
        ("age", "60 years", "20 of 20 cells of age are no number"),
        ("admissionheight", "1.70", "20 of 20 admissionheights are out of range"),
        ("hospitalid", "8", "lacks the hospitalid of 20 of 20 stays"),
        ("patientunitstayid", None, "none of 20 rows belongs to a stay of the cohort"),
    ],
)
def test_columns_that_lost_their_meaning_are_refused(
    tmp_path: Path, column: str, cell: str | None, words: str
) -> None:
    """Outcomes, numbers and ids that most rows do not state are an error; ids of floats are read."""
    tables = small_tables()
    tables["patient"] = [patient(stay, uniquepid=f"002-{stay}", hospitalid="7.0") for stay in range(1, 21)]
    tables["vitalAperiodic"] = [pressure(stay, 30, 110) for stay in range(1, 21)]
    hospital = {"hospitalid": "7", "region": "South", "numbedscategory": "<100", "teachingstatus": "1"}
    tables["hospital"] = [hospital]
    assert made(tmp_path, tables, "whole").groups[-1].levels == ("teaching",)
    for row in tables["patient"]:
        row[column] = cell or row[column] + 100
    with pytest.raises(DataError, match=words):
        made(tmp_path, tables, "altered")
