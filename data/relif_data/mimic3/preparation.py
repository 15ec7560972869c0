"""The way in, and raw MIMIC-III tables to clinical tensors: the whole road, in bounded memory."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from relif_core.errors import DataError, InputError
from relif_core.files import read_text
from relif_core.tensors.clinical import ClinicalContents, CohortStep, Group, write_tensors
from relif_core.tensors.folder import release
from relif_data.labels import (
    ADULT_AGE_BANDS,
    CohortFlow,
    age_band,
    offsets_of,
    refuse_changed,
    require_integer,
    split_by_subject,
    value_columns,
)
from relif_data.mimic3.benchmark_folders import is_benchmark_folder, prepare_benchmark_folder
from relif_data.mimic3.channels import channels, tensor_channels
from relif_data.mimic3.cleaning import REPAIRS, chosen_repairs, clean
from relif_data.mimic3.cohort import CARE_UNITS, Cohort, find_tables, select_cohort
from relif_data.mimic3.events import EVENT_TABLES, MappedEvents, events_key, refuse_losses, scan_events
from relif_data.mimic3.series import bins_of, hourly_grid, time_series, within_stay
from relif_data.mimic3.tasks import label_stays, phenotype_labels, read_diagnoses, tensor_tasks
from relif_data.resume import Work, refuse_other_sources
from relif_data.tables import Table

BUCKET_ROWS = 1_000_000
_LISTED = re.compile(r'"?(\d{1,18})(?:\.0*)?"?(?:\s*,\s*"?([01])(?:\.0*)?"?)?', re.ASCII)
SEXES = ("unknown", "female", "male", "other")
ETHNICITIES = ("other or unknown", "Asian", "Black", "Hispanic", "White")
GROUPS = (
    Group("sex", "Sex", SEXES),
    Group("age_band", "Age in years", ADULT_AGE_BANDS),
    Group("ethnicity", "Ethnicity", ETHNICITIES),
    Group("care_unit", "Care unit", CARE_UNITS),
)
USABLE = {
    "the admission has diagnosis rows": pl.col("has_diagnoses"),
    "the length of stay is known and above 0": pl.col("los_hours") > 0,
    "an event lies within the stay": pl.col("first_hours").is_not_null(),
}
"""Rules without which no task can be stated, in order."""


@dataclass(frozen=True)
class Extraction:
    """Everything before the hourly grid; events lie on disk, in ``work``."""

    cohort: Cohort
    events: MappedEvents
    diagnoses: pl.DataFrame
    repairs: frozenset[str]
    work: Work


def prepare(
    source: Path | str,
    target: Path | str,
    *,
    compatibility: Literal["repaired", "benchmark"] = "repaired",
    repairs: Iterable[str] | str | None = None,
    train_subjects: Path | None = None,
    validation_subjects: Path | None = None,
    test_subjects: Path | None = None,
    validation_share: float = 0.15,
    test_share: float = 0.15,
    seed: int = 0,
    output_policy: Literal["person", "aggregate"] = "aggregate",
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Turn MIMIC-III tables or the benchmark's task folders into clinical tensors at ``target``; return it.

    An interrupted run over tables is resumed: finished event tables wait in a hidden folder beside
    ``target``. The benchmark's folders come with values, labels and test subjects as they are: they take
    ``validation_share``, ``seed`` and ``output_policy`` only (``benchmark_folders``).

    Args:
        source: Folder of the tables (v1.4 or the demo), or of the task folders.
        target: Folder of the tensors.
        compatibility: "benchmark" reproduces the benchmark's values, "repaired" what ``REPAIRS`` lists.
        repairs: Names single repairs instead.
        train_subjects: File with one id a line, or id and 0/1 (as the benchmark's testset.csv, valset.csv).
        validation_subjects: Likewise.
        test_subjects: Likewise. Parts without a list are drawn by ``seed`` from the subjects in no list, of
            whom the rest is train.
        validation_share: Share of subjects.
        test_share: Share of subjects.
        seed: Of the split.
        output_policy: Of task folders; beside tables the licence file decides it.
        progress: Called with a line of text per step.

    Raises:
        DataError: Damaged or missing tables or lists, or a target that holds something else.
        InputError: Unknown options, or one that the source does not take.
    """
    report = progress or (lambda message: None)
    source, target = Path(source), Path(target)
    require_integer("seed", seed, least=0)
    folders = is_benchmark_folder(source)
    together = validation_share + (0 if folders else test_share)
    if not (validation_share >= 0 and test_share >= 0 and together < 1):
        raise InputError(
            f"validation_share={validation_share}, test_share={test_share}: shares of the subjects, at least"
            " 0 and together below 1"
        )
    if output_policy not in ("person", "aggregate"):
        raise InputError(f"output_policy={output_policy!r}: choose person or aggregate")
    if folders:
        of_tables: dict[str, Any] = {
            "compatibility": compatibility,
            "repairs": repairs,
            "train_subjects": train_subjects,
            "validation_subjects": validation_subjects,
            "test_subjects": test_subjects,
            "test_share": test_share,
        }
        refuse_changed(prepare, of_tables, f"{source} holds the benchmark's task folders, which fix this")
        return prepare_benchmark_folder(source, target, validation_share, seed, output_policy, report)
    of_folders = {"output_policy": output_policy}
    refuse_changed(prepare, of_folders, "the licence file beside raw tables decides this")
    chosen = chosen_repairs(compatibility, repairs)
    # A list that cannot be read is named before hours of reading tables.
    lists = {
        code: (path, read_subject_list(Path(path)))
        for code, path in enumerate((train_subjects, validation_subjects, test_subjects))
        if path is not None
    }
    tables = find_tables(source, chosen)
    refuse_other_sources(target, "mimic3", tables)
    terms = _terms(tables["icustays"].path.parent)
    extraction = extract(tables, chosen, target, report)
    counts = Counter({"short_row": n} if (n := sum(table.ragged for table in tables.values())) else {})
    unread = sum(sum(tables[name].unreadable.values()) for name in EVENT_TABLES if name in tables)
    counts.update({"unreadable_id": unread} if unread else {})
    arrays, stays, steps = _assemble(extraction, counts, report)
    subjects = stays["subject_id"].to_numpy()
    contents = ClinicalContents(
        **terms,
        sources=[file for table in tables.values() for file in table.files],
        channels=tensor_channels(),
        tasks=tensor_tasks(),
        stays=stays["icustay_id"].to_numpy(),
        subjects=subjects,
        split=subject_split(subjects, lists, (validation_share, test_share), seed),
        groups=GROUPS,
        group_codes=_group_codes(stays),
        cohort=(*extraction.cohort.steps, *steps),
        notes=_notes(chosen),
        options={
            "compatibility": compatibility if repairs is None else "chosen repairs",
            "repairs": sorted(chosen),
            "seed": seed,
            "event_rows": dict(extraction.events.rows),
            "validation": {
                name: int(column.sum())
                for name, column in extraction.events.validation.to_dict().items()
                if name != "subject_id"
            },
            "counts": dict(sorted(counts.items())),
        },
        **arrays,
    )
    with extraction.work.last_step(target):
        return write_tensors(target, contents)


def extract(
    tables: dict[str, Table], repairs: frozenset[str], target: Path, report: Callable[[str], None]
) -> Extraction:
    """Select the cohort, read the diagnoses, and pass over the events into a folder beside ``target``."""
    cohort = select_cohort(tables)
    report(f"cohort: {cohort.stays.height} of {cohort.steps[0].stays} stays")
    diagnoses = read_diagnoses(tables, repairs)
    work = Work(target, events_key(cohort), tables)
    events = scan_events(tables, cohort, work, report)
    refuse_losses(tables, cohort, events, repairs, report)
    return Extraction(cohort, events, diagnoses, repairs, work)


def buckets(extraction: Extraction) -> Iterator[tuple[pl.DataFrame, Callable[[], pl.DataFrame]]]:
    """Yield runs of whole subjects' stays, each with what loads its (bounded number of) mapped rows."""
    lazy = pl.scan_parquet(list(extraction.events.files), glob=False)
    per_stay = lazy.group_by("stay").len().collect(engine="streaming")
    stays = extraction.cohort.stays.join(per_stay, on="stay", how="left", maintain_order="left")
    rows = stays.group_by("subject", maintain_order=True).agg(pl.col("len").fill_null(0).sum().cast(pl.Int64))
    bucket = rows.select("subject", bucket=pl.col("len").cum_sum() // BUCKET_ROWS)
    stays = stays.join(bucket, on="subject", maintain_order="left").drop("len")
    for part in stays.partition_by("bucket", maintain_order=True):
        first, last = int(part["stay"][0]), int(part["stay"][-1])
        yield part.drop("bucket"), lazy.filter(pl.col("stay").is_between(first, last)).collect


def with_outcomes(stays: pl.DataFrame, series: pl.DataFrame, extraction: Extraction) -> pl.DataFrame:
    """Add mortality, diagnosis rows and the first charted hour (null without one) to the cohort's columns."""
    first = series.group_by("stay").agg(pl.col("hours").min().alias("first_hours"))
    diagnosed = extraction.diagnoses.select("subject_id", "hadm_id").unique().with_columns(has_diagnoses=True)
    flag = "expire_flag" if "hospital_death" in extraction.repairs else "mortality_inhospital"
    return (
        stays.join(first, on="stay", how="left", maintain_order="left")
        .join(diagnosed, on=["subject_id", "hadm_id"], how="left", maintain_order="left")
        .with_columns(pl.col("has_diagnoses").fill_null(False), mortality=pl.col(flag).cast(pl.Int64))
    )


def _assemble(
    extraction: Extraction, counts: Counter[str], report: Callable[[str], None]
) -> tuple[dict[str, Any], pl.DataFrame, list[CohortStep]]:
    """Build the hourly arrays bucket by bucket in files of the work folder, and the labels beside them."""
    longest = extraction.cohort.stays["los_hours"].fill_null(0.0).fill_nan(0.0).clip(lower_bound=0)
    room = max(int(bins_of(longest.to_numpy()).sum()), 1)
    columns = [column for channel in tensor_channels() for column in channel.columns]
    values = extraction.work.array("values", np.float32, (room, len(columns)))
    observed = extraction.work.array("observed", np.uint8, (room, len(channels())))
    kept, seen, labelled, used = [], [], [], 0
    for stays, load in buckets(extraction):
        series = series_of(load(), stays, extraction.repairs, counts)
        seen.append(with_outcomes(stays, series, extraction))
        present = seen[-1].filter(*USABLE.values())
        bins = bins_of(present["los_hours"].to_numpy())
        series = series.join(present.select("stay"), on="stay", how="semi", maintain_order="left")
        grid = hourly_grid(series, present["stay"].to_numpy(), bins)
        end = used + len(grid.filled)
        values[used:end] = value_columns(grid.filled, [channel.codes for channel in channels()])
        observed[used:end] = grid.observed
        release(values, observed)
        phenotypes = phenotype_labels(present, extraction.diagnoses)
        labelled.append(label_stays(present, phenotypes, bins, extraction.repairs))
        kept.append(present.with_columns(bins=bins))
        used = end
        del grid
        report(f"hourly grid: {used:,} stay-hours")
    flow = CohortFlow(pl.concat(seen), "stays in study", "subject_id")
    for rule, condition in USABLE.items():
        flow.keep(rule, condition)
    stays = pl.concat(kept)
    arrays = {
        "values": values[:used],
        "observed": observed[:used],
        "offsets": offsets_of(stays["bins"].to_numpy()),
        "labels": _joined([part.labels for part in labelled]),
        "label_masks": _joined([part.masks for part in labelled]),
    }
    return arrays, stays, flow.steps[1:]


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def series_of(
    rows: pl.DataFrame, stays: pl.DataFrame, repairs: frozenset[str], counts: Counter[str]
) -> pl.DataFrame:
    """Return the time series of some stays from their mapped rows, within each stay; adds to ``counts``."""
    counted = counts if "numeric_maximum" in repairs else None
    return within_stay(time_series(*clean(rows, repairs, counts), stays, counted), stays)


def subject_split(
    subjects: np.ndarray, lists: Mapping[int, tuple[Path, np.ndarray]], shares: tuple[float, float], seed: int
) -> np.ndarray:
    """Return 0, 1 or 2 (train, validation, test) per stay, by lists where given, the rest drawn by subject.

    ``lists`` gives a part's file and ids. Validation and test, where they have no list, are drawn from the
    subjects in no list by their ``shares`` of these; the others are train.

    Raises:
        DataError: A list names no subject of the data, or two lists share a subject.
    """
    split, taken = np.zeros(len(subjects), dtype=np.uint8), np.zeros(len(subjects), dtype=bool)
    for code, (path, ids) in lists.items():
        chosen = np.isin(subjects, ids)
        if (chosen & taken).any():
            raise DataError(f"{path} shares subjects with another list; each subject belongs to one split")
        if not chosen.any():
            raise DataError(f"{path} names no subject of these tables; is it the list of another data set?")
        split[chosen], taken = code, taken | chosen
    validation, test = (0.0 if code in lists else share for code, share in enumerate(shares, 1))
    split[~taken] = split_by_subject(subjects[~taken], validation, test, seed)
    return split


def read_subject_list(path: Path) -> np.ndarray:
    """Return the subject ids of a list file: one id a line, or id and 0/1, where 1 means listed.

    The first line may be a header.

    Raises:
        DataError: The file is no such list.
    """
    chosen = []
    try:
        lines = read_text(path).removeprefix("\ufeff").splitlines()
    except InputError as error:
        raise DataError(str(error)) from error
    for place, line in enumerate(map(str.strip, lines), 1):
        found = _LISTED.fullmatch(line)
        if found and found[2] != "0":
            chosen.append(int(found[1]))
        elif line and not found and (place > 1 or line.strip('"')[:1].isdigit()):
            raise DataError(
                f"{path} is no subject list (line {place}); write one subject id a line, or subject id and 0"
                " or 1 with a comma"
            )
    return np.array(chosen, dtype=np.int64)


def _group_codes(stays: pl.DataFrame) -> dict[str, np.ndarray]:
    units = {unit: place for place, unit in enumerate(CARE_UNITS)}
    unit = stays["last_careunit"].replace_strict(units, default=len(CARE_UNITS) - 1, return_dtype=pl.UInt8)
    return {
        "sex": stays["gender_code"].to_numpy().astype(np.uint8),
        "age_band": age_band(stays["age"].to_numpy()),
        "ethnicity": stays["ethnicity_code"].to_numpy().astype(np.uint8),
        "care_unit": unit.to_numpy(),
    }


def _notes(repairs: frozenset[str]) -> list[str]:
    base = [
        "Cohort, channels and tasks: Harutyunyan et al., Scientific Data 6:96, 2019.",
        "Ages over 89 are stored as about 300 in MIMIC-III and fall in the highest age band.",
    ]
    if not repairs:
        return [*base, "Values and labels as the published benchmark makes them, its quirks included."]
    return [
        *base,
        *(
            f"Repaired: {REPAIRS[name].quirk}. Instead: {REPAIRS[name].repair}."
            for name in REPAIRS
            if name in repairs
        ),
    ]


def _terms(source: Path) -> dict[str, Any]:
    """Tell the open demo and simulated tables, by the files beside them, from the credentialed data.

    Of several licence files all must be the open one.
    """
    files = [path for path in source.iterdir() if path.is_file() and path.name.lower().startswith("license")]
    texts = [read_text(path, "replace").lower() for path in sorted(files)]
    synthetic, policy = (source / "SYNTHETIC.md").is_file(), "person"
    if synthetic:
        suffix, licence = " (simulated tables)", "Apache-2.0 (simulated tables; no patient data)"
    elif texts and all("open database license" in text for text in texts):
        suffix, licence = " demo", "ODbL-1.0"
    else:
        suffix, licence, policy = "", "PhysioNet Credentialed Health Data License 1.5.0", "aggregate"
    names = ("dataset", "title", "licence", "output_policy", "synthetic")
    return dict(zip(names, ("mimic3", f"MIMIC-III{suffix}", licence, policy, synthetic), strict=True))
