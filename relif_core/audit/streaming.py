"""Histograms of score files larger than memory (Polars), and of folders of them on many machines (Ray)."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relif_core.audit.door import refuse_cells_as_names
from relif_core.audit.pools import FEW_ULP, checked_tasks
from relif_core.audit.sketch import BINS, HistogramSketch, checked_bins
from relif_core.errors import DataError, InputError, listed

if TYPE_CHECKING:
    import polars

KINDS = (".parquet", ".csv", ".csv.gz", ".csv.zst")
_ATTEMPTS = 3
_UNDER_WAY = 64


def sketch_file(
    path: str | Path,
    tasks: Sequence[str],
    bins: int = BINS,
    *,
    score_definition: str | None = None,
    weight: str | None = None,
) -> HistogramSketch:
    """Count the scores of a Parquet or CSV file of any length, in memory that does not grow with it.

    Args:
        path: One row per sample, one column per task; a sample with an empty cell is in no pool of that task.
        tasks: The score columns, at least two; ``weight`` is none of them.
        bins: As for :meth:`.HistogramSketch.of`.
        score_definition: As for :meth:`.HistogramSketch.of`.
        weight: The column of sample weights, if there is one; on one scale in all files.

    Raises:
        InputError: A missing file or column, a column that is no number, fewer than two tasks.
        DataError: Scores that are NaN or outside [0, 1] (a few units in the last place beyond count as 0 or
            1), weights of scores that are missing, negative or not finite, or a task without any.
    """
    import polars

    checked_bins(bins)
    path = Path(path)
    tasks = checked_tasks(tasks)
    try:
        named = tasks if weight is None else checked_tasks([*tasks, weight])
        table = _scan(path, named)
        schema = table.collect_schema()
        for name in named:
            if f"{name}_duplicated_0" in schema:  # what Polars makes of a second column of the name
                raise InputError(f"{path} has two columns {name!r}; rename one")
            if name not in schema:
                raise InputError(f"{path} has no column {name!r}; it has {listed(schema)}")
            if not schema[name].is_numeric():
                kind = "score" if name in tasks else "weight"
                raise InputError(f"{path}: column {name!r} is {schema[name]}, not a {kind}")
        cells = [_cells(table, task, schema[task], bins, weight) for task in tasks]
        # A row of more cells than names shows only where all columns are read.
        whole = polars.QueryOptFlags(projection_pushdown=path.suffix.lower() == ".parquet")
        found = polars.collect_all(cells, engine="streaming", optimizations=whole)
    except (polars.exceptions.PolarsError, OSError) as error:
        # Other libraries' words may quote cells.
        mend = "is it whole, and what its ending says, and every score a number or an empty cell?"
        reason = str(error) if isinstance(error, OSError) else mend
        raise InputError(f"{path} cannot be read as a table of scores: {reason}") from error
    counts, weights = {}, {}
    kinds = "NaN", "outside [0, 1]", f"beside a {weight!r} that is missing, negative or not finite"
    for task, frame in zip(tasks, found, strict=True):
        numbers = np.zeros(bins + len(kinds), dtype=np.int64)
        numbers[frame["cell"].to_numpy()] = frame["number"].to_numpy()
        counts[task] = numbers[:bins]
        for wrong, kind in zip(numbers[bins:].tolist(), kinds, strict=True):
            if wrong:
                raise DataError(
                    f"{path}: {wrong} of {numbers.sum()} scores of {task!r} are {kind}; leave the score's"
                    " cell empty, or map or mend the values first"
                )
        if not numbers.any():
            without = "empty" if weight is None else f"empty where {weight!r} is above 0"
            raise DataError(f"{path}: column {task!r} is {without}; leave the task or the file out")
        weights[task] = np.zeros((2, bins + 1))
        if weight is not None:
            weights[task][:, frame["cell"].to_numpy()] = frame["mass", "square"].to_numpy().T
    return HistogramSketch(counts, dict.fromkeys(counts, 0), score_definition, weights if weight else None)


def _scan(path: Path, named: Sequence[str]) -> "polars.LazyFrame":
    import polars

    if not path.is_file():
        raise InputError(f"{path} is no file; name a Parquet or CSV table of scores")
    if not path.name.lower().endswith(KINDS):
        raise InputError(f"{path}: a table of this kind is not read; use {', '.join(KINDS)}")
    if path.suffix.lower() == ".parquet":
        return polars.scan_parquet(path, glob=False)
    names = polars.scan_csv(path, glob=False, infer_schema=False, encoding="utf8-lossy").collect_schema()
    refuse_cells_as_names(path, list(names))
    kinds = {name: polars.Float64 for name in named if name in names}
    return polars.scan_csv(
        path, glob=False, infer_schema=False, encoding="utf8-lossy", schema_overrides=kinds
    )


def _cells(
    table: "polars.LazyFrame", task: str, kind: "polars.DataType", bins: int, weight: str | None
) -> "polars.LazyFrame":
    """Count and weigh the task's scores per cell.

    NaN goes to cell ``bins``, what lies outside [0, 1] to the next, a weight that is none to the one after.
    """
    import polars

    score = polars.col(task) if kind.is_float() else polars.col(task).cast(polars.Float64)
    slack = FEW_ULP * float(np.finfo(np.float32 if kind == polars.Float32 else np.float64).eps)
    inside = (score * bins).floor().clip(0, bins - 1)
    cell = (
        polars.when(score.is_nan())
        .then(bins)
        .when((score < -slack) | (score > 1 + slack))
        .then(bins + 1)
        .otherwise(inside)
    )
    own = polars.lit(1.0) if weight is None else polars.col(weight).cast(polars.Float64)
    if weight is not None:
        wrong = (cell < bins) & ~(own.is_finite() & (own >= 0)).fill_null(False)
        cell = polars.when(wrong).then(bins + 2).when((own > 0) | (cell >= bins)).then(cell)
    mass = polars.col("mass")
    sums = [] if weight is None else [mass.sum(), (mass**2).sum().alias("square")]
    return (
        table.select(cell.cast(polars.UInt32).alias("cell"), own.alias("mass"))
        .drop_nulls("cell")
        .group_by("cell")
        .agg(polars.len().alias("number"), *sums)
    )


def sketch_folder(
    folder: str | Path,
    tasks: Sequence[str],
    bins: int = BINS,
    *,
    score_definition: str | None = None,
    address: str = "local",
    weight: str | None = None,
) -> HistogramSketch:
    """Count the scores of a folder of Parquet files, one Ray task per file, on every machine of a cluster.

    The machines need this package and the folder under the same path. A task whose machine dies starts again.

    Args:
        folder: Its ``*.parquet`` files, each as for :func:`sketch_file`, are the table.
        tasks: As for :func:`sketch_file`.
        bins: As for :func:`sketch_file`.
        score_definition: As for :func:`sketch_file`.
        address: The cluster ("auto": the one that runs here); "local" starts one on this machine and ends it.
            A cluster that this process is connected to already is used as it is.
        weight: As for :func:`sketch_file`.

    Raises:
        InputError: Ray is missing, no cluster answers, no file in the folder; and as :func:`sketch_file`.
        DataError: As :func:`sketch_file`, or a file that took several workers with it.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError("folders of scores need the package ray; install it (pip install ray)") from error
    waiting = sorted((p for p in Path(folder).glob("*") if p.suffix.lower() == ".parquet"), reverse=True)
    if not waiting:
        raise InputError(f"{folder} holds no .parquet file; name the folder of the score files")
    own = not ray.is_initialized()
    if own:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError) as error:
            raise InputError(f"no Ray cluster answers at {address!r}: {error}") from error
    task: Any = ray.remote(num_cpus=1, max_retries=_ATTEMPTS - 1)(sketch_file)
    pending: dict[Any, Path] = {}
    merged: HistogramSketch | None = None
    try:
        while waiting or pending:
            while waiting and len(pending) < _UNDER_WAY:
                path = waiting.pop()
                part = task.remote(path, tasks, bins, score_definition=score_definition, weight=weight)
                pending[part] = path
            for reference in ray.wait(list(pending))[0]:
                path = pending.pop(reference)
                try:
                    part = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except ray.exceptions.RayError as error:
                    raise DataError(f"{path}: its worker died {_ATTEMPTS} times: {error}") from error
                merged = part if merged is None else merged + part
    finally:
        if own:
            ray.shutdown()
    assert merged is not None
    return merged
