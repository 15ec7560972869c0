"""Simulated cohorts as raw tables of MIMIC-III or eICU: the whole road runs without any patient's data.

``write_raw`` writes the tables, ``plant_quirks`` puts quirks of the real MIMIC-III into them in known
numbers, for every repair to find. How a reading stands in a table says ``tables/simulated_tables.toml``.
"""

import gzip
import json
import tomllib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from relif_core.errors import DataError, InputError
from relif_core.files import atomic_file, atomic_folder, write_file
from relif_data.mimic3.channels import phenotypes
from relif_data.mimic3.cleaning import REPAIRS
from relif_data.sources import own_text
from relif_data.synthetic_icu import CHANNELS, COLUMN, SimulatedCohort
from relif_data.tables import TIME_FORMAT

MARKS = {"mimic3": "SYNTHETIC.md", "eicu": "simulated.json"}
"""The file that marks a folder of simulated tables, by layout."""
FIRST_ADMISSION = np.datetime64("2130-01-01T08:00:00")
DAYS_BETWEEN_STAYS = 200
OTHER_CODE = "V3000"
_LAYOUT: dict[str, Any] = tomllib.loads(own_text("tables/simulated_tables.toml"))
_HOSPITALS = 12


def write_raw(
    cohort: SimulatedCohort,
    folder: Path,
    layout: Literal["mimic3", "eicu"],
    *,
    upper_case: bool = False,
    compress: bool = True,
) -> Path:
    """Write a simulated cohort as the raw tables that the reader of a layout takes, and return the folder.

    The folder appears in one step and is marked as simulated; the same cohort gives the same bytes. With
    MIMIC-III a reading of hour r becomes an event within (r, r + 1] hours after admission; with eICU it is
    charted at a minute of that hour, and lengths of stay are rounded up to whole minutes.

    Args:
        cohort: What was simulated.
        folder: Where the tables go.
        layout: Whose tables.
        upper_case: Name files and columns in capitals.
        compress: Write ``.csv.gz``.

    Raises:
        DataError: ``folder`` holds something else, which is left alone.
    """
    folder = Path(folder)
    taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if taken and not (folder / MARKS[layout]).is_file():
        raise DataError(f"{folder} exists and has no {MARKS[layout]}; name a new folder")
    tables = _mimic3_tables(cohort) if layout == "mimic3" else _eicu_tables(cohort)
    note: Any = {"synthetic": True, "stays": len(cohort.stays), "seed": cohort.seed}
    text = "Simulated tables in the layout of MIMIC-III. No row comes from a patient.\n"
    with atomic_folder(folder) as partial:
        for name, frame in tables.items():
            frame = frame.rename(str.upper) if upper_case else frame
            content = frame.write_csv(datetime_format=TIME_FORMAT).encode()
            path = partial / f"{name.upper() if upper_case else name}.csv{'.gz' if compress else ''}"
            write_file(path, gzip.compress(content, 1, mtime=0) if compress else content)
        write_file(partial / MARKS[layout], text if layout == "mimic3" else json.dumps(note))
    return folder


# --- MIMIC-III ----------------------------------------------------------------------------------------------


def _mimic3_tables(cohort: SimulatedCohort) -> dict[str, pl.DataFrame]:
    people, ids = _people(cohort), ("subject_id", "hadm_id", "icustay_id")
    events = _events(cohort, people)
    laboratory = pl.col("itemid").is_in(
        [item["item"] for item in _LAYOUT["mimic3"].values() if item.get("laboratory")]
    )
    ward = pl.col("ward").cast(pl.Int64) + 10
    tables = {
        "icustays": people.select(
            *ids,
            dbsource=pl.lit("carevue"),
            first_careunit="unit",
            last_careunit="unit",
            first_wardid=ward,
            last_wardid=ward,
            intime="intime",
            outtime="outtime",
            los=(pl.col("seconds") / 86_400).round(4),
        ),
        "admissions": people.select(
            *(*ids[:2], "admittime", "dischtime", "deathtime"),
            ethnicity=pl.lit("UNKNOWN/NOT SPECIFIED"),
            hospital_expire_flag=pl.col("died").cast(pl.Int64),
        ),
        "patients": people.sort("intime")
        .group_by("subject_id", maintain_order=True)
        .agg(pl.col("sex", "age", "intime").first(), pl.col("deathtime").drop_nulls().first())
        .select(
            "subject_id",
            gender=pl.when(pl.col("sex") == 0).then(pl.lit("F")).otherwise(pl.lit("M")),
            dob=(
                pl.col("intime") - pl.duration(days=(pl.col("age") * 365).round().cast(pl.Int64))
            ).dt.truncate("1d"),
            dod=pl.col("deathtime").dt.truncate("1d"),
        )
        .sort("subject_id"),
        "diagnoses_icd": _diagnoses(cohort, people),
        "d_icd_diagnoses": pl.DataFrame({"icd9_code": [*phenotypes()[1]["icd9_code"], OTHER_CODE]}),
        "chartevents": events.filter(~laboratory).with_columns(error=pl.lit(None, dtype=pl.Int64)),
        "labevents": events.filter(laboratory).drop("icustay_id"),
        "outputevents": people.select(*ids, charttime="outtime", itemid=pl.lit(40055), value=pl.lit(100)),
    }
    return {name: frame.with_row_index("row_id", offset=1) for name, frame in tables.items()}


def _people(cohort: SimulatedCohort) -> pl.DataFrame:
    """One row per stay with its ids and times; a subject's later stay follows the earlier one."""
    frame = pl.DataFrame(
        {
            "subject_id": cohort.subjects,
            "icustay_id": cohort.stays,
            "hadm_id": cohort.stays - 100_000,
            "seconds": np.maximum(np.round(cohort.length_hours * 3600), 1).astype(np.int64),
            **{name: getattr(cohort, name) for name in ("died", "age", "sex", "ward")},
            "unit": np.array(["MICU", "SICU", "CCU"])[cohort.ward],
        }
    )
    start = pl.lit(FIRST_ADMISSION).cast(pl.Datetime("us")) + pl.duration(
        days=pl.int_range(pl.len()).over("subject_id") * DAYS_BETWEEN_STAYS
    )
    frame = frame.with_columns(intime=start + pl.duration(minutes=pl.col("subject_id") % 1440))
    frame = frame.with_columns(outtime=pl.col("intime") + pl.duration(seconds=pl.col("seconds")))
    return frame.with_columns(
        deathtime=pl.when("died").then("outtime"),
        admittime=pl.col("intime") - pl.duration(hours=1),
        dischtime=pl.when("died").then("outtime").otherwise(pl.col("outtime") + pl.duration(days=2)),
    )


def _diagnoses(cohort: SimulatedCohort, people: pl.DataFrame) -> pl.DataFrame:
    """A code outside the phenotypes for every admission, then the first code of each of its phenotypes."""
    first = phenotypes()[1].group_by("phenotype").agg(pl.col("icd9_code").first()).sort("phenotype")
    stay, phenotype = np.nonzero(cohort.phenotypes)
    ids = people.select("subject_id", "hadm_id")
    coded = ids[stay].with_columns(icd9_code=first["icd9_code"].gather(phenotype))
    rows = pl.concat([ids.with_columns(icd9_code=pl.lit(OTHER_CODE)), coded])
    number = pl.int_range(1, pl.len() + 1).over("hadm_id")
    return rows.sort("subject_id", "hadm_id", maintain_order=True).select(
        "subject_id", "hadm_id", number.alias("seq_num"), "icd9_code"
    )


def _events(cohort: SimulatedCohort, people: pl.DataFrame) -> pl.DataFrame:
    """All readings in the order of their hours, with item, time, text and unit."""
    rng = np.random.default_rng([cohort.seed, 3])
    row, channel = np.nonzero(~np.isnan(cohort.readings))
    stay = np.repeat(np.arange(len(cohort.stays)), cohort.rows_per_stay)[row]
    seconds = (cohort.hour[row] - 1) * 3600 + rng.integers(1, 3601, len(row))
    written = [{"decimals": info.decimals} | _LAYOUT["mimic3"][info.name] for info in CHANNELS]
    readings = zip(channel, cohort.readings[row, channel], strict=True)
    return people[stay].select(
        *("subject_id", "hadm_id", "icustay_id"),
        itemid=pl.Series([item["item"] for item in written], dtype=pl.Int64).gather(channel),
        charttime=pl.col("intime") + pl.duration(seconds=pl.lit(pl.Series(seconds))),
        value=pl.Series([_text(written[code], float(number)) for code, number in readings], dtype=pl.String),
        valueuom=pl.Series([item.get("unit") for item in written], dtype=pl.String).gather(channel),
    )


def _text(item: dict[str, Any], number: float) -> str:
    """What a chart shows for a reading: a word, or a number with so many decimals."""
    if "words" in item:
        return str(item["words"][int(number) - item["least"]])
    return f"{item.get('factor', 1) * number:.{item['decimals']}f}"


# --- quirks of the real MIMIC-III ---------------------------------------------------------------------------

HEART_RATE, GLUCOSE, URINE_GLUCOSE = "211", "50931", "51478"
#: Repair, item, and what its rows become.
_CHANGES: tuple[tuple[str, str, dict[str, str | None]], ...] = (
    ("fio2_scale", "223835", {"VALUE": "0.5"}),
    ("fio2_set_item", "223835", {"ITEMID": "190", "VALUE": "60"}),
    ("fahrenheit", "676", {"ITEMID": "678", "VALUE": "78", "VALUEUOM": "Deg. F"}),
    ("impossible_values", "51", {"VALUE": "11647"}),
    ("flagged_errors", "618", {"VALUE": "3", "ERROR": "1"}),
    ("admission_from_stay", "646", {"HADM_ID": None}),
)


def plant_quirks(folder: Path, *, each: int = 40, seed: int = 0) -> dict[str, int]:
    """Change simulated tables in a folder; return how much per repair.

    Of each quirk ``each`` rows are planted, or as many as the tables hold: event rows, for "numeric_maximum"
    chart times, for "all_diagnosis_codes" diagnosis rows, for "hospital_death" admissions. No row has two.

    Args:
        folder: Of ``write_raw`` with upper case and without compression.
        each: Rows per quirk, at least 1.
        seed: Of the choice of rows.

    Raises:
        DataError: The folder is not simulated.
        InputError: ``each`` is below 1.
    """
    folder = Path(folder)
    if each < 1:
        raise InputError(f"each={each}: plant at least one row of a quirk")
    if not (folder / MARKS["mimic3"]).is_file():
        raise DataError(f"{folder} has no {MARKS['mimic3']}: quirks are planted in simulated tables only")
    rng = np.random.default_rng([seed, 190])
    charts, labs = _read(folder, "CHARTEVENTS"), _read(folder, "LABEVENTS")
    planted: dict[str, int] = {}

    def choose(frame: pl.DataFrame, name: str, wanted: pl.Expr) -> pl.Series:
        """Say which rows get the quirk ``name``: a random draw among the untouched rows that are wanted."""
        chosen = _drawn(rng, frame.select(wanted & ~pl.col("touched")).to_series(), each)
        planted[name] = int(chosen.sum())
        return chosen

    def change(frame: pl.DataFrame, name: str, item: str, to: dict[str, str | None]) -> pl.DataFrame:
        """Overwrite columns of the chosen rows of an item."""
        chosen = choose(frame, name, pl.col("ITEMID") == item)
        cells = (
            pl.when(chosen).then(pl.lit(value, dtype=pl.String)).otherwise(column).alias(column)
            for column, value in to.items()
        )
        return frame.with_columns(*cells, touched=pl.col("touched") | chosen)

    # A second heart rate at the same time whose text is greater and whose number is smaller.
    three_digits = (pl.col("ITEMID") == HEART_RATE) & (pl.col("VALUE").str.len_bytes() == 3)
    chosen = choose(charts, "numeric_maximum", three_digits)
    charts = charts.with_columns(touched=pl.col("touched") | chosen)
    charts = _appended(charts, charts.filter(chosen).with_columns(VALUE=pl.lit("95")))
    for name, item, to in _CHANGES:
        charts = change(charts, name, item, to)
    labs = change(labs, "unknown_units", GLUCOSE, {"VALUE": "7", "VALUEUOM": "mmol/L"})
    chosen = choose(labs, "blood_only", pl.col("ITEMID") == GLUCOSE)
    labs = labs.with_columns(touched=pl.col("touched") | chosen)
    urine = labs.filter(chosen).with_columns(ITEMID=pl.lit(URINE_GLUCOSE), VALUE=pl.lit("1000"))
    _write(folder, "CHARTEVENTS", charts)
    _write(folder, "LABEVENTS", _appended(labs, urine))
    planted["all_diagnosis_codes"] = _forget_a_code(folder)
    planted["hospital_death"] = _die_after_discharge(folder, each, rng)
    planted["los_after_death"] = _end_after_death(folder, each, rng)
    return {name: planted[name] for name in REPAIRS}


def _drawn(rng: np.random.Generator, wanted: pl.Series, each: int) -> pl.Series:
    """Mark ``each`` of the wanted rows, or as many as there are, at random."""
    mask = np.zeros(len(wanted), dtype=bool)
    mask[rng.permutation(np.flatnonzero(wanted.to_numpy()))[:each]] = True
    return pl.Series(mask)


def _forget_a_code(folder: Path) -> int:
    """Remove the most used phenotype code from the dictionary and return the diagnosis rows that carry it."""
    diagnoses, dictionary = _read(folder, "DIAGNOSES_ICD"), _read(folder, "D_ICD_DIAGNOSES")
    # The first diagnosis of every admission is a code outside the phenotypes.
    used = diagnoses.filter(pl.col("SEQ_NUM") != "1")["ICD9_CODE"].value_counts(sort=True)
    if not used.height:
        return 0
    code, rows = used.row(0)
    _write(folder, "D_ICD_DIAGNOSES", dictionary.filter(pl.col("ICD9_CODE") != code))
    return int(rows)


def _die_after_discharge(folder: Path, each: int, rng: np.random.Generator) -> int:
    """Let subjects who went home from their only admission die on the day of discharge, after it."""
    admissions, patients = _read(folder, "ADMISSIONS"), _read(folder, "PATIENTS")
    home = admissions.filter(
        (pl.col("HOSPITAL_EXPIRE_FLAG") == "0") & (pl.len().over("SUBJECT_ID") == 1)
    ).select("SUBJECT_ID", day=pl.col("DISCHTIME").str.slice(0, 10) + " 00:00:00")
    chosen = home[np.sort(rng.permutation(home.height)[:each])]
    patients = patients.join(chosen, on="SUBJECT_ID", how="left", maintain_order="left")
    _write(folder, "PATIENTS", patients.with_columns(DOD=pl.coalesce("day", "DOD")).drop("day"))
    return chosen.height


def _end_after_death(folder: Path, each: int, rng: np.random.Generator) -> int:
    """Let deaths in hospital come two hours before the recorded end of the stay."""
    admissions = _read(folder, "ADMISSIONS")
    chosen = _drawn(rng, admissions["DEATHTIME"].is_not_null(), each)
    earlier = pl.col("DEATHTIME").str.to_datetime(TIME_FORMAT).dt.offset_by("-2h").dt.strftime(TIME_FORMAT)
    death = pl.when(chosen).then(earlier).otherwise("DEATHTIME")
    _write(folder, "ADMISSIONS", admissions.with_columns(DEATHTIME=death))
    return int(chosen.sum())


def _appended(frame: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    ids = pl.int_range(frame.height + 1, frame.height + 1 + rows.height, eager=True).cast(pl.String)
    return pl.concat([frame, rows.with_columns(ROW_ID=ids)])


def _read(folder: Path, table: str) -> pl.DataFrame:
    path = folder / f"{table}.csv"
    if not path.is_file():
        raise DataError(
            f"{path} is missing; write the simulated tables in upper case and without compression"
        )
    return pl.read_csv(path, glob=False, infer_schema_length=0).with_columns(touched=pl.lit(False))


def _write(folder: Path, table: str, frame: pl.DataFrame) -> None:
    with atomic_file(folder / f"{table}.csv") as stream:
        frame.drop("touched").write_csv(stream)


# --- eICU ---------------------------------------------------------------------------------------------------


def _eicu_tables(cohort: SimulatedCohort) -> dict[str, pl.DataFrame]:
    rng = np.random.default_rng([cohort.seed, 2018])
    owner = np.repeat(np.arange(len(cohort.stays)), cohort.rows_per_stay)
    length = np.ceil(cohort.length_hours * 60).astype(np.int64)
    minute = (cohort.hour - 1) * 60 + rng.integers(0, 60, len(owner))
    # The last, incomplete hour ends with the stay.
    minute = np.minimum(minute, length[owner] - 1)
    systems = np.array(["cardiovascular", "pulmonary", "renal", "neurologic", "endocrine"])
    tables = {
        "patient": _eicu_patients(cohort, length),
        "hospital": pl.DataFrame(
            {
                "hospitalid": np.arange(1, _HOSPITALS + 1),
                "numbedscategory": np.resize(["<100", "100 - 249", "250 - 499", ">= 500"], _HOSPITALS),
                "teachingstatus": np.resize(["f", "t", "f"], _HOSPITALS),
                "region": np.resize(["Midwest", "South", "West", "Northeast"], _HOSPITALS),
            }
        ),
        # The organ system of each stay's leading factor, entered an hour after admission.
        "diagnosis": pl.DataFrame(
            {
                "patientunitstayid": cohort.stays,
                "diagnosisoffset": np.full(len(cohort.stays), 60),
                "diagnosisstring": [
                    f"{system}|simulated" for system in systems[cohort.factors.argmax(axis=1)]
                ],
            }
        ),
    }
    times = pl.DataFrame({"patientunitstayid": cohort.stays[owner], "minute": minute})
    for table, layout in _LAYOUT["eicu_wide"].items():
        present = {
            column: pl.Series(cohort.readings[:, COLUMN[name]]).fill_nan(None)
            for column, name in layout["channels"].items()
        }
        nothing = pl.lit(None, dtype=pl.Float32)
        columns = (present.get(column, nothing).alias(column) for column in layout["columns"])
        frame = times.select("patientunitstayid", pl.col("minute").alias("observationoffset"), *columns)
        tables[table] = frame.filter(pl.any_horizontal(pl.col(*layout["columns"]).is_not_null()))
    for table, layout in _LAYOUT["eicu_long"].items():
        parts = []
        for name, texts in layout["channels"].items():
            readings = cohort.readings[:, COLUMN[name]]
            there = np.flatnonzero(~np.isnan(readings))
            labels = (pl.lit(text).alias(label) for label, text in zip(layout["labels"], texts, strict=True))
            charted = _charted(name, readings[there]).alias(layout["value"])
            parts.append(times[there].rename({"minute": layout["time"]}).with_columns(*labels, charted))
        tables[table] = pl.concat(parts).sort("patientunitstayid", layout["time"])
    return tables


def _eicu_patients(cohort: SimulatedCohort, length: np.ndarray) -> pl.DataFrame:
    """One row per stay; the hospital stay begins and ends with the unit stay."""
    status, count = np.where(cohort.died, "Expired", "Alive"), len(cohort.stays)
    height = cohort.readings[cohort.offsets[:-1], COLUMN["Height"]]
    return pl.DataFrame(
        {
            "patientunitstayid": cohort.stays,
            "patienthealthsystemstayid": cohort.stays + 1_000_000,
            "gender": np.where(cohort.sex == 0, "Female", "Male"),
            "age": ["> 89" if age > 89 else str(int(age)) for age in cohort.age],
            "ethnicity": np.resize(["Caucasian", "African American", "Hispanic", "Asian"], count),
            "hospitalid": cohort.subjects % _HOSPITALS + 1,
            "admissionheight": pl.Series(height).fill_nan(None),
            "hospitaldischargeoffset": length,
            "hospitaldischargestatus": status,
            "unittype": np.array(["MICU", "SICU", "Cardiac ICU"])[cohort.ward],
            "unitvisitnumber": np.ones(count, dtype=np.int64),
            "unitstaytype": ["admit"] * count,
            "admissionweight": pl.Series([None] * count, dtype=pl.Float64),
            "unitdischargeoffset": length,
            "unitdischargestatus": status,
            "uniquepid": [f"{subject % 7 + 1:03d}-{subject}" for subject in cohort.subjects],
        }
    )


def _charted(name: str, values: np.ndarray) -> pl.Series:
    """The text that a chart would show, in the unit of the table."""
    if name == "Temperature":
        return pl.Series(np.round(values.astype(np.float64) * 9 / 5 + 32, 1)).cast(pl.String)
    if name == "Fraction inspired oxygen":
        return pl.Series(np.round(values.astype(np.float64) * 100)).cast(pl.Int64).cast(pl.String)
    if name == "Capillary refill rate":
        return pl.Series(np.where(values > 0, "> 2 seconds", "normal"))
    return pl.Series(values).cast(pl.String)
