"""Raw tables made by hand for the tests of the readers: MIMIC-III's and eICU's."""

import csv
import datetime
import gzip
import io
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Tables = dict[str, list[Row]]

PATIENT = {
    "patientunitstayid": 1,
    "patienthealthsystemstayid": 100,
    "gender": "Female",
    "age": "60",
    "ethnicity": "Caucasian",
    "hospitalid": 7,
    "admissionheight": 170,
    "hospitaldischargeoffset": 4000,
    "hospitaldischargestatus": "Alive",
    "unittype": "MICU",
    "unitvisitnumber": 1,
    "unitstaytype": "admit",
    "admissionweight": 70,
    "unitdischargeoffset": 3000,
    "unitdischargestatus": "Alive",
    "uniquepid": "002-1",
}


def patient(stay: int, **changes: Any) -> Row:
    return PATIENT | {"patientunitstayid": stay, "patienthealthsystemstayid": stay + 500} | changes


def pressure(stay: int, minute: int, systolic: Any, diastolic: Any = "", mean: Any = "") -> Row:
    return {
        "patientunitstayid": stay,
        "observationoffset": minute,
        "noninvasivesystolic": systolic,
        "noninvasivediastolic": diastolic,
        "noninvasivemean": mean,
    }


def nurse(stay: int, minute: int, label: str, name: str, value: Any) -> Row:
    return {
        "patientunitstayid": stay,
        "nursingchartoffset": minute,
        "nursingchartcelltypevallabel": label,
        "nursingchartcelltypevalname": name,
        "nursingchartvalue": value,
    }


def lab(stay: int, minute: int, name: str, value: Any, unit: str) -> Row:
    return {
        "patientunitstayid": stay,
        "labresultoffset": minute,
        "labname": name,
        "labresult": value,
        "labmeasurenamesystem": unit,
    }


def small_tables() -> Tables:
    """Eight stays of seven patients: enough for three splits, with one measurement each."""
    stays = [
        patient(stay, uniquepid=f"002-{min(stay, 7)}", age="> 89" if stay == 3 else "60")
        for stay in range(1, 9)
    ]
    return {"patient": stays, "vitalAperiodic": [pressure(stay, 30, 110 + stay) for stay in range(1, 9)]}


def write_tables(folder: Path, tables: Tables, *, packed: bool = True, upper: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        header, _, body = text.getvalue().partition("\r\n")
        content = ((header.upper() if upper else header) + "\n" + body.replace("\r\n", "\n")).encode()
        file = name.upper() if upper else name
        if packed:
            (folder / f"{file}.csv.gz").write_bytes(gzip.compress(content, mtime=0))
        else:
            (folder / f"{file}.csv").write_bytes(content)
    return folder


ADMITTED = datetime.datetime(2150, 3, 1, 10, 0, 0)
COLUMNS = {
    "icustays": (
        "row_id subject_id hadm_id icustay_id dbsource first_careunit last_careunit first_wardid last_wardid"
        " intime outtime los"
    ),
    "admissions": "row_id subject_id hadm_id admittime dischtime deathtime ethnicity hospital_expire_flag",
    "patients": "row_id subject_id gender dob dod",
    "diagnoses_icd": "row_id subject_id hadm_id seq_num icd9_code",
    "d_icd_diagnoses": "row_id icd9_code",
    "chartevents": "row_id subject_id hadm_id icustay_id itemid charttime value valueuom error",
    "labevents": "row_id subject_id hadm_id itemid charttime value valueuom",
    "outputevents": "row_id subject_id hadm_id icustay_id",
}


class RawTables:
    """A small set of tables to which stays and events are added; any row may be edited before writing."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in COLUMNS}
        self.columns = {name: text.split() for name, text in COLUMNS.items()}
        self.add("d_icd_diagnoses", icd9_code="5849")
        self.add("d_icd_diagnoses", icd9_code="V3000")
        # A table without rows is refused; these are of nobody in the cohort.
        self.add("labevents", subject_id=0, itemid=1)
        self.add("outputevents", subject_id=0)

    def add(self, table: str, **values: Any) -> dict[str, Any]:
        """Append a row with the next ROW_ID."""
        row = {"row_id": len(self.rows[table]) + 1, **values}
        self.rows[table].append(row)
        return row

    def stay(
        self,
        stay: int,
        *,
        subject: int | None = None,
        hours: float = 60.0,
        died_at: float | None = None,
        begin: datetime.datetime = ADMITTED,
        age: float = 50.0,
        code: str | None = "5849",
    ) -> None:
        """Add a stay with admission (number 1000 + stay), patient, a diagnosis, a heart rate at hour 0.5."""
        subject, admission = subject or stay, 1000 + stay
        end = begin + datetime.timedelta(hours=hours)
        death = None if died_at is None else begin + datetime.timedelta(hours=died_at)
        self.add(
            "icustays",
            **{"subject_id": subject, "hadm_id": admission, "icustay_id": stay, "dbsource": "carevue"},
            **{"first_careunit": "MICU", "last_careunit": "MICU", "first_wardid": 7, "last_wardid": 7},
            **{"intime": begin, "outtime": end, "los": round(hours / 24, 4)},
        )
        self.add(
            "admissions",
            **{"subject_id": subject, "hadm_id": admission, "admittime": begin - datetime.timedelta(hours=2)},
            **{"dischtime": death or end + datetime.timedelta(days=3), "deathtime": death},
            **{"ethnicity": "WHITE - RUSSIAN", "hospital_expire_flag": int(death is not None)},
        )
        if not any(row["subject_id"] == subject for row in self.rows["patients"]):
            birth = begin - datetime.timedelta(days=365 * age)
            self.add("patients", subject_id=subject, gender="F", dob=birth, dod=death)
        if code is not None:
            self.add("diagnoses_icd", subject_id=subject, hadm_id=admission, seq_num=1, icd9_code=code)
        self.event(stay, 211, 0.5, "80", "bpm")

    def event(
        self,
        stay: int,
        item: int,
        hour: float,
        value: str | None,
        unit: str | None = None,
        *,
        table: str = "chartevents",
        **changes: Any,
    ) -> dict[str, Any]:
        """Add an event of a stay that was added before, ``hour`` hours after its admission."""
        home = next(row for row in self.rows["icustays"] if row["icustay_id"] == stay)
        seconds = round(hour * 3600)
        row = {
            "subject_id": home["subject_id"],
            "hadm_id": home["hadm_id"],
            "icustay_id": stay,
            "itemid": item,
            "charttime": home["intime"] + datetime.timedelta(seconds=seconds),
            "value": value,
            "valueuom": unit,
            **changes,
        }
        return self.add(table, **row)

    def text(self, table: str, *, upper: bool = True) -> bytes:
        """The CSV text of a table."""
        stream = io.StringIO()
        columns = self.columns[table]
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([column.upper() if upper else column for column in columns])
        writer.writerows([row.get(column) for column in columns] for row in self.rows[table])
        return stream.getvalue().encode()

    def write(self, folder: Path, *, upper: bool = True, compress: bool = False) -> Path:
        """Write all tables to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.rows:
            text = self.text(name, upper=upper)
            file = folder / f"{name.upper() if upper else name}.csv"
            if compress:
                file.with_suffix(".csv.gz").write_bytes(gzip.compress(text, 1))
            else:
                file.write_bytes(text)
        return folder
