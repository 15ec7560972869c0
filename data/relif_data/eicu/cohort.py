"""Who is in the cohort, who they are, and how they end: the `patient` and `hospital` tables of eICU."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from relif_core.errors import DataError
from relif_core.files import read_json
from relif_core.tensors.clinical import Group
from relif_data.eicu.channels import STAY
from relif_data.eicu.targets import Target
from relif_data.labels import ADULT_AGE_BANDS, age_band, refuse_unknown_levels, split_by_subject
from relif_data.simulated_tables import MARKS
from relif_data.tables import Table, refuse_lost

PATIENT_COLUMNS = (
    *("patientunitstayid", "patienthealthsystemstayid", "uniquepid", "gender", "age", "ethnicity"),
    *("hospitalid", "unittype", "unitvisitnumber", "unitstaytype", "unitdischargeoffset"),
    *("unitdischargestatus", "hospitaldischargeoffset", "hospitaldischargestatus", "admissionheight"),
    "admissionweight",
)
HOSPITAL_COLUMNS = ("hospitalid", "region", "numbedscategory", "teachingstatus")

NUMBERS = (
    *("unitdischargeoffset", "hospitaldischargeoffset", "unitvisitnumber"),
    *("admissionheight", "admissionweight", "age"),
)
DIED = {"alive": False, "expired": True}
AGE_BANDS = (*ADULT_AGE_BANDS, "unknown")
SEXES = ("female", "male", "other or unknown")
ETHNICITIES = ("African American", "Asian", "Caucasian", "Hispanic", "Native American", "other or unknown")
MOST_LEVELS = 255
#: No unit stay lasts ten years; each hour of one takes space.
LONGEST_DAYS = 3_660

# sha256 of the sorted stay ids (little-endian int64) of the openly licensed demo, version 2.0.
DEMO_STAYS = "ba26ba002694edce6de5e24a2e5940bbd458e7ea5a671d396bc73103508ec936"


@dataclass(frozen=True)
class Patients:
    """The `patient` table as typed columns, one row per unit stay, plus the counts of unreadable cells.

    ``frame`` columns: stay, subject (rank of the patient identifier among all in the table), hospital_stay,
    minutes (length of the unit stay), hospital_minutes (admission to the unit until the end of the hospital
    stay), age (89 and below as stated, "> 89" as 90), visit, died_unit, died_hospital (null where unknown),
    death_minutes (null where no death), and the texts gender, ethnicity, hospital, unit_type, stay_type, and
    height, weight on admission.
    """

    frame: pl.DataFrame
    notes: tuple[str, ...]

    @property
    def is_open_demo(self) -> bool:
        """Whether these are the stays of the openly licensed demo."""
        ids = np.sort(self.frame["stay"].to_numpy()).astype("<i8")
        return hashlib.sha256(ids.tobytes()).hexdigest() == DEMO_STAYS


def read_patients(table: Table) -> Patients:
    """Read the `patient` table.

    Raises:
        DataError: A stay id is missing, no number, or there twice; above the ceiling a cell that must be a
            number is none, or a status is neither Alive nor Expired.
    """
    text = table.read({**dict.fromkeys(PATIENT_COLUMNS, pl.String), STAY: pl.Int64})
    table.refuse_repeats(text, STAY)
    notes = []

    def refuse(column: str, lost: int, words: str) -> None:
        rest = f"cells of {column} are {words}; export the column as it is delivered"
        refuse_lost(f"{table.path}:", lost, table.rows, rest)

    text = text.with_columns(age=pl.col("age").str.replace(r"^>\s*89$", "90"))
    numbers = text.select(pl.col(*NUMBERS).cast(pl.Float64, strict=False))
    for column in NUMBERS:
        unreadable = numbers[column].null_count() - text[column].null_count()
        refuse(column, unreadable, "no number")
        if unreadable:
            notes.append(f"patient: {unreadable} cells of {column} are no numbers and count as unknown.")
    column, most = "unitdischargeoffset", 1440 * LONGEST_DAYS
    endless = ~numbers[column].is_between(-most, most)
    if lost := int(endless.sum()):
        words = f"over {LONGEST_DAYS:,} days or no finite number"
        refuse(column, lost, words)
        numbers = numbers.with_columns(pl.when(~endless.fill_null(True)).then(column).alias(column))
        notes.append(f"patient: {lost} cells of {column} are {words}, and count as unknown.")
    died = {}
    for column in ("unitdischargestatus", "hospitaldischargestatus"):
        status = text[column].str.to_lowercase()
        died[column] = status.replace_strict(DIED, default=None, return_dtype=pl.Boolean)
        refuse(column, died[column].null_count() - status.null_count(), "neither Alive nor Expired")
    frame = pl.DataFrame(
        {
            "stay": text[STAY],
            "subject": text["uniquepid"].rank("dense").cast(pl.Int64),
            "hospital_stay": text["patienthealthsystemstayid"],
            "minutes": numbers["unitdischargeoffset"].round().cast(pl.Int64, strict=False),
            "hospital_minutes": numbers["hospitaldischargeoffset"].round().cast(pl.Int64, strict=False),
            "age": numbers["age"].fill_nan(None),
            "visit": numbers["unitvisitnumber"],
            "died_unit": died["unitdischargestatus"],
            "died_hospital": died["hospitaldischargestatus"],
            "gender": text["gender"],
            "ethnicity": text["ethnicity"],
            "hospital": _whole(text["hospitalid"]),
            "unit_type": text["unittype"],
            "stay_type": text["unitstaytype"],
            "height": numbers["admissionheight"],
            "weight": numbers["admissionweight"],
        }
    ).with_columns(
        death_minutes=pl.when("died_unit").then("minutes").when("died_hospital").then("hospital_minutes")
    )
    return Patients(frame, tuple(notes))


def _whole(ids: pl.Series) -> pl.Series:
    """Ids without the ``.0`` of a column of floats."""
    return ids.str.replace(r"\.0+$", "")


def terms_of(folder: Path, patients: Patients) -> dict[str, Any]:
    """Return data set, title, licence, output policy and whether simulated, by the ``folder`` of `patient`.

    Raises:
        DataError: The simulator's mark is damaged.
    """
    title, policy, synthetic = "eICU Collaborative Research Database", "person", False
    mark = folder / MARKS["eicu"]
    try:
        synthetic = mark.is_file() and bool(read_json(mark).get("synthetic"))
    except (DataError, AttributeError) as error:
        raise DataError(f"{mark} is damaged ({error}); write the simulated tables again") from error
    if synthetic:
        title, licence = "Simulated tables in the layout of eICU", "Apache-2.0 (simulated, no patient data)"
    elif patients.is_open_demo:
        title, licence = f"{title} Demo 2.0", "Open Database License 1.0 (eICU demo 2.0)"
    else:
        licence, policy = "PhysioNet Credentialed Health Data License 1.5.0", "aggregate"
    names = ("dataset", "title", "licence", "output_policy", "synthetic")
    return dict(zip(names, ("eicu", title, licence, policy, synthetic), strict=True))


def contents_of(
    frame: pl.DataFrame, found: list[Target], hospital: Table | None, shares: tuple[float, float], seed: int
) -> tuple[dict[str, Any], list[str]]:
    """Return ids, groups, labels and split of a cohort, for ``ClinicalContents``, and notes on the groups.

    ``shares`` are those of validation and test patients.
    """
    groups, codes, notes = groups_of(frame, hospital)
    subjects = frame["subject"].to_numpy()
    contents = {
        "tasks": [target.task for target in found],
        "labels": {target.task.name: target.labels for target in found},
        "label_masks": {target.task.name: target.mask for target in found},
        "stays": frame["stay"].to_numpy(),
        "subjects": subjects,
        "split": split_by_subject(subjects, *shares, seed),
        "groups": groups,
        "group_codes": codes,
    }
    return contents, notes


def groups_of(
    frame: pl.DataFrame, hospital_table: Table | None
) -> tuple[list[Group], dict[str, np.ndarray], list[str]]:
    """Return the audit groups of a cohort, their codes per stay, and notes.

    Sex, age band, ethnicity, unit type and hospital come from `patient`; region, size and teaching status
    from the `hospital` table where it exists. Codes are 8 bits wide: a group of more than 255 levels is left
    out, and a note says so.

    Raises:
        DataError: A hospital stands twice in its table, or the table lacks those of many stays.
    """
    notes: list[str] = []
    groups: list[Group] = []
    codes: dict[str, np.ndarray] = {}

    def add(name: str, title: str, levels: tuple[str, ...], code: np.ndarray) -> None:
        if len(levels) > MOST_LEVELS:
            notes.append(f"{title}: {len(levels)} levels, over {MOST_LEVELS}, and so no group here.")
            return
        groups.append(Group(name, title, levels))
        codes[name] = code.astype(np.uint8)

    for column, names in (("gender", (*SEXES[:2], "other", "unknown")), ("ethnicity", ETHNICITIES)):
        given = frame[column].str.to_lowercase().drop_nulls()
        words = [level.lower() for level in (*names, "other/unknown")]
        strange = int((~given.is_in(words)).sum())
        refuse_unknown_levels("table patient", column, strange, names, frame.height)
    sex = frame["gender"].str.to_lowercase().replace_strict({"female": 0, "male": 1}, default=2)
    add("sex", "Sex", SEXES, sex.to_numpy())
    age = frame["age"].fill_null(float("nan")).to_numpy()
    band = np.where(np.isnan(age), AGE_BANDS.index("unknown"), age_band(age))
    add("age_band", "Age in years", AGE_BANDS, band)
    known = {name.lower(): index for index, name in enumerate(ETHNICITIES[:-1])}
    ethnicity = frame["ethnicity"].str.to_lowercase().replace_strict(known, default=len(ETHNICITIES) - 1)
    add("ethnicity", "Ethnicity", ETHNICITIES, ethnicity.to_numpy())
    add("unit_type", "Type of intensive care unit", *_levels(frame["unit_type"]))
    add("hospital", "Hospital", *_levels(frame["hospital"]))
    if hospital_table is None:
        notes.append(
            "Table hospital is missing: the groups hospital region, hospital beds and teaching status are"
            " lost."
        )
        return groups, codes, notes
    hospitals = hospital_table.read(dict.fromkeys(HOSPITAL_COLUMNS, pl.String))
    hospitals = hospitals.with_columns(hospitalid=_whole(hospitals["hospitalid"]))
    if hospitals["hospitalid"].n_unique() != hospitals.height:
        raise DataError(f"{hospital_table.path}: a hospitalid occurs more than once in table hospital")
    joined = frame.select("hospital").join(
        hospitals, left_on="hospital", right_on="hospitalid", how="left", maintain_order="left"
    )
    absent = frame["hospital"].drop_nulls().is_in(hospitals["hospitalid"].drop_nulls().implode()).not_()
    refuse_lost(
        f"{hospital_table.path}: it lacks the hospitalid of",
        int(absent.sum()),
        frame.height,
        "stays; take it from the release of table patient, or leave it out",
    )
    add("hospital_region", "Region of the hospital", *_levels(joined["region"]))
    add("hospital_beds", "Beds of the hospital", *_levels(joined["numbedscategory"]))
    teaching = joined["teachingstatus"].str.to_lowercase()
    teaching = teaching.replace({"t": "true", "f": "false", "1": "true", "0": "false"})
    named = teaching.replace_strict({"true": "teaching", "false": "not teaching"}, default=None)
    add("hospital_teaching", "Teaching hospital", *_levels(named))
    return groups, codes, notes


def _levels(column: pl.Series) -> tuple[tuple[str, ...], np.ndarray]:
    """Return a text column's sorted levels ("unknown" last, where needed) and the code of each row."""
    present = column.drop_nulls().unique().to_list()
    levels = sorted(
        present, key=lambda text: (not text.isdecimal(), int(text) if text.isdecimal() else 0, text)
    )
    if column.null_count():  # What a source calls unknown is no second level.
        levels = [*(level for level in levels if level != "unknown"), "unknown"]
    code = {level: index for index, level in enumerate(levels)}
    return tuple(levels), column.fill_null("unknown").replace_strict(code, return_dtype=pl.Int64).to_numpy()
