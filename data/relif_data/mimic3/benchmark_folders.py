"""The public benchmark's own output folders to clinical tensors.

Layout: ``root/<task>/{train,test}/`` with ``<subject>_episode<n>_timeseries.csv`` files and ``listfile.csv``;
optionally ``train_listfile.csv`` and ``val_listfile.csv`` in the task folder, as the benchmark's validation
split writes them.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from relif_core.errors import DataError
from relif_core.files import described
from relif_core.tensors.clinical import ClinicalContents, CohortStep, write_tensors
from relif_data.labels import length_of_stay_class, split_by_subject, value_columns
from relif_data.mimic3.channels import channels, phenotypes, tensor_channels
from relif_data.mimic3.cohort import LONGEST_DAYS
from relif_data.mimic3.series import bins_of, hourly_grid, within_stay
from relif_data.mimic3.tasks import MORTALITY_HOUR, tensor_tasks
from relif_data.tables import READ_ERRORS, unreadable

_PHENOTYPES = range(len(phenotypes()[0]))
_SERIES = r"^(\d{1,15})_episode(\d{1,15})_timeseries\.csv$"
FOLDERS = {
    "phenotypes": "phenotyping",
    "los": "length-of-stay",
    "multitask": "multitask",
    "decompensation": "decompensation",
    "mortality": "in-hospital-mortality",
}
"""Task to folder, in the order in which a stay's series is looked for: the first three hold all of it."""


def is_benchmark_folder(root: Path) -> bool:
    """Say whether a folder holds task folders of the benchmark."""
    return any((Path(root) / name / "train" / "listfile.csv").is_file() for name in FOLDERS.values())


def prepare_benchmark_folder(
    root: Path,
    target: Path,
    validation_share: float,
    seed: int,
    output_policy: str,
    report: Callable[[str], None],
) -> Path:
    """Turn the benchmark's task folders into clinical tensors of the tasks found there; return ``target``.

    The benchmark's train and test subjects are kept; validation subjects come from its ``val_listfile.csv``
    where there is one, else by ``validation_share`` and ``seed`` from the training subjects. Stays are
    numbered 1000 x subject + episode, since the folders do not name them. Options are those of ``prepare``.

    Raises:
        DataError: Missing files, or lists that contradict each other.
    """
    present = [task for task, name in FOLDERS.items() if (root / name).is_dir()]
    report(f"lists: {', '.join(FOLDERS[name] for name in present)}")
    try:
        lists = {task: _read_lists(root / FOLDERS[task]) for task in present}
        samples = _samples(lists, root)
        stays = _stays(lists, samples, root)
    except (pl.exceptions.PolarsError, StopIteration) as error:  # Their text may quote cells.
        raise DataError(
            f"{root}: a list has other columns than the benchmark writes, or cells that are no numbers; make"
            " the folders again"
        ) from error
    report(f"time series of {stays.height} stays")
    series, unreadable_cells = _read_series(stays, root)
    bins = stays["bins"].to_numpy()
    grid = hourly_grid(series, stays["stay"].to_numpy(), bins)
    values = value_columns(grid.filled, [channel.codes for channel in channels()])
    labels, masks = _labels(samples, stays, grid.offsets)
    split = stays["split"].to_numpy().copy()
    if not (split == 1).any():
        train = split == 0
        subjects = stays["subject"].to_numpy()
        split[train] = split_by_subject(subjects[train], validation_share, 0.0, seed)
    digest = hashlib.sha256(values.tobytes() + grid.observed.tobytes())
    sources: list[dict[str, Any]] = [
        described(path) | {"name": str(path.relative_to(root))}
        for task in present
        for path in sorted((root / FOLDERS[task]).glob("**/*listfile.csv"))
    ]
    sources.append(
        {"name": "hourly values of all time series", "sha256": digest.hexdigest(), "bytes": values.nbytes}
    )
    return write_tensors(
        Path(target),
        ClinicalContents(
            dataset="mimic3",
            title="MIMIC-III (benchmark folders)",
            licence="PhysioNet Credentialed Health Data License 1.5.0 (ODbL-1.0 where made from the demo)",
            output_policy="person" if output_policy == "person" else "aggregate",
            synthetic=False,
            sources=sources,
            channels=tensor_channels(),
            tasks=[task for task in tensor_tasks() if task.name in labels],
            cohort=[
                CohortStep("stays in the benchmark's lists", 0, stays.height, stays["subject"].n_unique())
            ],
            notes=[
                "Read from the public benchmark's output folders; groups are not part of them.",
                "Stay ids are 1000 x subject + episode.",
            ],
            options={
                "seed": seed,
                "folders": [FOLDERS[name] for name in present],
                "unreadable_values": unreadable_cells,
            },
            values=values,
            observed=grid.observed,
            offsets=grid.offsets,
            stays=(stays["subject"] * 1000 + stays["episode"]).to_numpy(),
            subjects=stays["subject"].to_numpy(),
            split=split,
            labels=labels,
            label_masks=masks,
        ),
    )


def _read_lists(folder: Path) -> pl.DataFrame:
    """Read a task's lists: ``file``, ``split``, then the list's own columns as text."""
    train, validation = folder / "train_listfile.csv", folder / "val_listfile.csv"
    drawn = train.is_file() and validation.is_file()
    parts = {0: train if drawn else folder / "train" / "listfile.csv", 2: folder / "test" / "listfile.csv"}
    parts |= {1: validation} if drawn else {}
    frames = []
    for code, path in sorted(parts.items()):
        if not path.is_file():
            raise DataError(f"{path} is missing; make the benchmark's folders again or take the task away")
        try:
            frame = pl.read_csv(path, glob=False, infer_schema=False)
        except READ_ERRORS as error:
            raise unreadable(path, error) from error
        place = pl.lit(str(folder / ("test" if code == 2 else "train")))
        frame = frame.rename({frame.columns[0]: "file"})
        frames.append(frame.with_columns(split=pl.lit(code, dtype=pl.UInt8), folder=place))
    return pl.concat(frames).with_columns(
        subject=pl.col("file").str.extract(_SERIES, 1).cast(pl.Int64),
        episode=pl.col("file").str.extract(_SERIES, 2).cast(pl.Int64),
    )


def _samples(lists: dict[str, pl.DataFrame], root: Path) -> dict[str, pl.DataFrame]:
    """Return labels by task: ``file`` with ``label``, with ``hour`` (hourly tasks), or with 25 columns."""
    number = pl.col("y_true").cast(pl.Float64)
    hour = pl.col("period_length").cast(pl.Float64).round(0).cast(pl.Int64)
    samples = _multitask_samples(lists["multitask"]) if "multitask" in lists else {}
    if "mortality" in lists:
        samples["mortality"] = lists["mortality"].select("file", label=number)
    for task in ("decompensation", "los"):
        if task in lists:
            samples[task] = lists[task].select("file", hour=hour, label=number)
    if "phenotypes" in lists:
        codes = {str(place): pl.col(name).cast(pl.UInt8) for place, name in enumerate(phenotypes()[0])}
        samples["phenotypes"] = lists["phenotypes"].select("file", **codes)
    for task, frame in samples.items():
        _refuse_unlabelled(task, frame, root)
    return samples


def _refuse_unlabelled(task: str, frame: pl.DataFrame, root: Path) -> None:
    """Check that rows have a label that the task has, an hour where it is hourly, and none another label."""
    numbers = frame.select(pl.exclude("file").cast(pl.Float64))
    good = pl.all_horizontal(pl.all().is_not_null() & pl.all().is_finite())
    own = pl.all_horizontal(pl.exclude("hour").is_in([0.0, 1.0])) if task != "los" else pl.col("label") >= 0
    bad = numbers.with_columns(good=(good & own).fill_null(False)).with_row_index("place", offset=1)
    bad = bad.filter(~pl.col("good"))
    if bad.height:
        raise DataError(
            f"{root / FOLDERS[task]}: {bad.height:,} of {frame.height:,} labels are missing or no label of"
            f" this task (first: row {bad['place'][0]} of its lists, train before test); make the folder"
            " again, or take these rows out of the list"
        )
    twice = frame.unique().select(pl.struct(pl.col("^(file|hour)$")).is_duplicated().sum()).item()
    if twice:
        raise DataError(
            f"{root / FOLDERS[task]}: {twice:,} rows of its lists give a stay, or an hour of it, different"
            " labels; make the folder again"
        )


def _multitask_samples(frame: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Take the multitask list apart: per stay "pos;mask;label", and "masks;labels" over the hours from 0."""
    starts = {
        "mortality": "in-hospital mortality",
        "los": "length of stay task",
        "phenotypes": "phenotyping",
        "decompensation": "decompensation",
    }
    columns = {
        name: next(column for column in frame.columns if column.startswith(start))
        for name, start in starts.items()
    }
    parts = frame.select("file", **{name: pl.col(column).str.split(";") for name, column in columns.items()})
    dead, phenotype = pl.col("mortality").list, pl.col("phenotypes").list
    samples = {
        "mortality": parts.filter(dead.get(1) == "1").select("file", label=dead.get(2).cast(pl.Float64)),
        "phenotypes": parts.select(
            "file", *(phenotype.get(place).cast(pl.UInt8).alias(str(place)) for place in _PHENOTYPES)
        ),
    }
    for name in ("los", "decompensation"):
        half = pl.col(name).list.len() // 2
        hours = parts.select(
            "file",
            mask=pl.col(name).list.slice(0, half),
            label=pl.col(name).list.slice(half, half),
            hour=pl.int_ranges(0, half.cast(pl.Int64)),
        )
        hours = hours.filter(pl.col("hour").list.len() > 0).explode("mask", "label", "hour")
        samples[name] = hours.filter(pl.col("mask") == "1").select(
            "file", "hour", label=pl.col("label").cast(pl.Float64)
        )
    return samples


def _stays(lists: dict[str, pl.DataFrame], samples: dict[str, pl.DataFrame], root: Path) -> pl.DataFrame:
    """Return a row per stay: subject, episode, split, the file that shows most of it, number of hours."""
    order = {task: place for place, task in enumerate(FOLDERS)}
    everything = pl.concat(
        frame.select("file", "split", "folder", "subject", "episode", place=pl.lit(order[task]))
        for task, frame in lists.items()
    )
    if everything["subject"].null_count():
        raise DataError(
            f"{root}: {everything['subject'].null_count()} rows of the lists name no"
            " <subject>_episode<n>_timeseries.csv; make the folders again"
        )
    mixed = everything.group_by("subject").agg(pl.col("split").n_unique()).filter(pl.col("split") > 1)
    if mixed.height:
        raise DataError(
            f"{root}: {mixed.height} subjects stand in more than one split; make all task folders with the"
            " same lists"
        )
    stays = everything.sort("place").unique("file", keep="first").sort("subject", "episode")
    hours = {
        "phenotypes": (lists, pl.col("period_length").cast(pl.Float64)),
        "multitask": (lists, pl.col("length of stay").cast(pl.Float64)),
        "los": (samples, pl.col("hour") + pl.col("label")),
        "decompensation": (samples, pl.col("hour").cast(pl.Float64)),
        "mortality": (samples, pl.lit(float(MORTALITY_HOUR))),
    }
    lengths = [of[task].select("file", hours=length) for task, (of, length) in hours.items() if task in of]
    longest = pl.concat(lengths).group_by("file").agg(pl.col("hours").max().alias("los_hours"))
    stays = stays.join(longest, on="file", how="left", maintain_order="left")
    endless = ~stays["los_hours"].is_between(0, 24 * LONGEST_DAYS).fill_null(False)
    if endless.any():
        raise DataError(
            f"{root}: the lists state no length, or one over {LONGEST_DAYS} days, for"
            f" {int(endless.sum()):,} of {stays.height:,} stays; make the folders again, or take"
            " these stays out of the lists"
        )
    # L is stated to 6 decimals in the lists; the tolerance of the bins absorbs the rounding.
    return stays.with_columns(bins=bins_of(stays["los_hours"].to_numpy())).with_row_index("stay")


def _read_series(stays: pl.DataFrame, root: Path) -> tuple[pl.DataFrame, int]:
    """Read all time series in one scan; return them in long form, and the number of unreadable cells."""
    paths = (stays["folder"] + "/" + stays["file"]).to_list()
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        raise DataError(
            f"{Path(missing[0]).parent}: {len(missing)} of {len(paths)} files that a list names are missing;"
            " make the folder again"
        )
    names = [channel.name for channel in channels()]
    try:
        wide = (
            pl.scan_csv(paths, glob=False, infer_schema=False, include_file_paths="path")
            .select("path", pl.col("Hours").cast(pl.Float64).alias("hours"), *names)
            .collect(engine="streaming")
        )
    except READ_ERRORS as error:  # Their text may quote cells.
        raise DataError(
            f"{root}: a time series is damaged, or has other columns than the benchmark writes or hours that"
            " are no numbers; make the folders again"
        ) from error
    place = stays.select("stay", path=pl.Series(paths))
    wide = within_stay(wide.join(place, on="path", maintain_order="left"), stays)
    parts, unread = [], 0
    for code, channel in enumerate(channels()):
        text = pl.col(channel.name)
        if channel.categories:
            positions: dict[str, float] = {}
            for position, category in enumerate(channel.categories):
                whole = category.removesuffix(".0")
                spellings = {category, whole, f"{whole}.0"} if whole.isdigit() else {category}
                positions |= dict.fromkeys(spellings, float(position))
            number = text.replace_strict(positions, default=None, return_dtype=pl.Float64)
        else:
            number = text.cast(pl.Float64, strict=False)
        part = wide.filter(text.is_not_null()).select(
            "stay", "hours", channel=pl.lit(code, dtype=pl.UInt8), number=number
        )
        read = part.filter(pl.col("number").is_finite().fill_null(False))
        unread += part.height - read.height
        parts.append(read)
    return pl.concat(parts).sort("stay", "hours", maintain_order=True), unread


def _labels(
    samples: dict[str, pl.DataFrame], stays: pl.DataFrame, offsets: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    labels: dict[str, np.ndarray] = {}
    masks: dict[str, np.ndarray] = {}
    for task, frame in samples.items():
        frame = frame.join(stays.select("file", "stay", "bins"), on="file")
        index = frame["stay"].to_numpy().astype(np.int64)
        if task in ("decompensation", "los"):
            # The label of hour t lives in the row that ends at t.
            hour = frame["hour"].to_numpy()
            if ((hour < 1) | (hour > frame["bins"].to_numpy())).any():
                raise DataError(
                    f"the {FOLDERS[task]} list holds hours outside its stays; make the folders again"
                )
            index = offsets[:-1][index] + hour - 1
        size = int(offsets[-1]) if task in ("decompensation", "los") else stays.height
        mask = np.zeros(size, dtype=np.uint8)
        mask[index] = 1
        if task == "phenotypes":
            labels[task] = np.zeros((size, len(_PHENOTYPES)), dtype=np.uint8)
            labels[task][index] = frame.select(map(str, _PHENOTYPES)).to_numpy()
        else:
            labels[task] = np.zeros(size, dtype=np.int16)
            number = frame["label"].to_numpy()
            labels[task][index] = (
                length_of_stay_class(number / 24.0) if task == "los" else number.astype(np.int16)
            )
        masks[task] = mask
    return labels, masks
