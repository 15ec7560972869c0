"""Audit scores from a file: a table with one row per sample and one column per task."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from relif_core.errors import InputError

if TYPE_CHECKING:
    import polars

Scores = dict[str, np.ndarray]


def read_score_table(
    path: Path, tasks: Sequence[str] = (), subject: str | None = None, group: str | None = None
) -> tuple[Scores, Scores, Scores | None]:
    """Read a CSV or Parquet table of audit scores.

    One row is one sample; an empty cell means that the sample is not in that task's pool. ``tasks`` are the score columns (all
    columns but ``subject`` and ``group`` if none are named). Returns scores, subject ids and group labels, each task → array [n];
    the ids are row numbers where no ``subject`` is named, because the scores of one row belong to one subject, and the labels
    None where no ``group`` is. Raises ``InputError`` for a missing file or column, a column that is
    not numeric, and a missing subject or group.
    """
    table = _read(Path(path))
    for wanted in (*tasks, *(name for name in (subject, group) if name is not None)):
        if wanted not in table.columns:
            raise InputError(f"{path} has no column {wanted!r}; it has {', '.join(table.columns)}")
    names = list(tasks) or [column for column in table.columns if column not in (subject, group)]
    scores: Scores = {}
    rows: Scores = {}
    labels: dict[str, Scores] = {name: {} for name in (subject, group) if name is not None}
    for task in names:
        column = table.get_column(task)
        if not column.dtype.is_numeric():
            raise InputError(
                f"{path}: column {task!r} is {column.dtype}, not a score; name the score columns with --task, "
                "and ids with --subject or --group"
            )
        held = column.is_not_null()
        scores[task] = column.filter(held).to_numpy()
        rows[task] = np.flatnonzero(held.to_numpy())
        for name, found in labels.items():
            values = table.get_column(name).filter(held)
            if values.null_count():
                raise InputError(
                    f"{path}: column {name!r} is empty in {values.null_count()} rows scored for {task!r}"
                )
            found[task] = values.to_numpy()
    return scores, labels.get(subject or "", rows), labels.get(group or "")


def _read(path: Path) -> "polars.DataFrame":
    import polars

    if not path.is_file():
        raise InputError(f"{path} is no file; name a CSV or Parquet table of scores")
    try:
        if path.suffix == ".parquet":
            return polars.read_parquet(path)
        return polars.read_csv(path, infer_schema_length=None)
    except (polars.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{path} cannot be read as a table: {error}") from error
