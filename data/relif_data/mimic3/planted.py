"""Quirks of real MIMIC-III tables planted in simulated ones in known numbers, for every repair to find."""

from pathlib import Path

import numpy as np
import polars as pl

from relif_core.errors import DataError, InputError
from relif_core.files import atomic_file
from relif_data.mimic3.repairs import REPAIRS
from relif_data.tables import TIME_FORMAT

HEART_RATE, RESPIRATION, SYSTOLIC, SATURATION = "211", "618", "51", "646"
FIO2, FIO2_SET, CELSIUS, FAHRENHEIT, GLUCOSE, URINE_GLUCOSE = "223835", "190", "676", "678", "50931", "51478"


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
    if not (folder / "SYNTHETIC.md").is_file():
        raise DataError(f"{folder} has no SYNTHETIC.md: quirks are planted in simulated tables only")
    rng = np.random.default_rng([seed, 190])
    charts, labs = _read(folder, "CHARTEVENTS"), _read(folder, "LABEVENTS")
    planted: dict[str, int] = {}

    def choose(frame: pl.DataFrame, name: str, wanted: pl.Expr) -> pl.Series:
        """Say which rows get the quirk ``name``: a random draw among the untouched rows that are wanted."""
        rows = np.flatnonzero(frame.select(wanted & ~pl.col("touched")).to_series().to_numpy())
        drawn = rng.permutation(rows)[:each]
        planted[name] = len(drawn)
        mask = np.zeros(frame.height, dtype=bool)
        mask[drawn] = True
        return pl.Series(mask)

    def change(
        frame: pl.DataFrame, name: str, item: str, wanted: pl.Expr | None = None, **to: str | None
    ) -> pl.DataFrame:
        """Overwrite columns of the chosen rows of an item."""
        chosen = choose(
            frame, name, (pl.col("ITEMID") == item) & (pl.lit(True) if wanted is None else wanted)
        )
        return frame.with_columns(
            *(
                pl.when(chosen).then(pl.lit(value, dtype=pl.String)).otherwise(column).alias(column)
                for column, value in to.items()
            ),
            touched=pl.col("touched") | chosen,
        )

    # A second heart rate at the same time whose text is greater and whose number is smaller.
    chosen = choose(
        charts, "numeric_maximum", (pl.col("ITEMID") == HEART_RATE) & (pl.col("VALUE").str.len_bytes() == 3)
    )
    charts = charts.with_columns(touched=pl.col("touched") | chosen)
    charts = _appended(charts, charts.filter(chosen).with_columns(VALUE=pl.lit("95")))
    charts = change(charts, "fio2_scale", FIO2, VALUE="0.5")
    charts = change(charts, "fio2_set_item", FIO2, ITEMID=FIO2_SET, VALUE="60")
    charts = change(charts, "fahrenheit", CELSIUS, ITEMID=FAHRENHEIT, VALUE="78", VALUEUOM="Deg. F")
    charts = change(charts, "impossible_values", SYSTOLIC, VALUE="11647")
    charts = change(charts, "flagged_errors", RESPIRATION, VALUE="3", ERROR="1")
    charts = change(charts, "admission_from_stay", SATURATION, HADM_ID=None)
    labs = change(labs, "unknown_units", GLUCOSE, VALUE="7", VALUEUOM="mmol/L")
    chosen = choose(labs, "blood_only", pl.col("ITEMID") == GLUCOSE)
    urine = labs.filter(chosen).with_columns(
        ITEMID=pl.lit(URINE_GLUCOSE), VALUE=pl.lit("1000"), touched=pl.lit(True)
    )
    labs = _appended(labs.with_columns(touched=pl.col("touched") | chosen), urine)
    _write(folder, "CHARTEVENTS", charts)
    _write(folder, "LABEVENTS", labs)
    planted["all_diagnosis_codes"] = _forget_a_code(folder)
    planted["hospital_death"] = _die_after_discharge(folder, each, rng)
    planted["los_after_death"] = _end_after_death(folder, each, rng)
    return {name: planted[name] for name in REPAIRS}


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
    chosen = np.zeros(admissions.height, dtype=bool)
    chosen[rng.permutation(np.flatnonzero(admissions["DEATHTIME"].is_not_null().to_numpy()))[:each]] = True
    earlier = pl.col("DEATHTIME").str.to_datetime(TIME_FORMAT).dt.offset_by("-2h").dt.strftime(TIME_FORMAT)
    death = pl.when(pl.Series(chosen)).then(earlier).otherwise("DEATHTIME")
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
