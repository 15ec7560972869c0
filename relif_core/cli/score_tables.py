"""Audit scores from CSV, TSV, Parquet or JSON lines, wide (a column per task) or long (a row per score)."""

import csv
import io
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from relif_core.audit.door import refuse_cells_as_names
from relif_core.errors import InputError, listed

if TYPE_CHECKING:
    import polars

Scores = dict[str, np.ndarray]
BOM = b"\xef\xbb\xbf"
#: Cells that hold no value.
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "nan", "NaN", "null", "NULL", "Null", "None", "none")
KINDS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
#: Names that writers give to a column of row numbers.
INDEX_NAMES = ("", "index", "Unnamed: 0", "__index_level_0__", "rownames")


@dataclass(frozen=True)
class ScoreTable:
    """A file's scores, subject ids, group labels and weights, task → array; ``notes`` tell what was left."""

    scores: Scores
    subjects: Scores | None
    groups: Scores | None
    weights: Scores | None = None
    notes: list[str] = field(default_factory=list)


def read_score_table(
    path: Path | str,
    tasks: Sequence[str] = (),
    subject: str | None = None,
    group: str | None = None,
    weight: str | None = None,
) -> ScoreTable:
    """Read a table of audit scores.

    Wide: one row is one sample, one column one task; an empty cell, NA, NULL or nan means that the sample is
    not in that task's pool. Long: columns ``task`` and ``score`` instead, one row per score. The notes say
    what was taken and what was left.

    Args:
        path: The file; ``-`` reads CSV from standard input.
        tasks: The score columns; if none, all number columns but those below, row numbers and columns of 0
            and 1 alone, which could be labels.
        subject: Columns; without a subject the row is the subject.
        group: Likewise.
        weight: Likewise.

    Raises:
        InputError: A file that is missing, of an unknown kind or broken, a column that is missing, there
            twice or not numeric, a missing subject, group or weight.
    """
    table = read_table(path)
    roles = {"subject": subject, "group": group, "weight": weight}
    named = {role: name for role, name in roles.items() if name is not None}
    has_both = {"task", "score"} <= set(table.columns)
    for wanted in (*tasks, *named.values()):
        if wanted not in table.columns and not (has_both and wanted in tasks):
            raise no_column(path, wanted, table)
    long = has_both and "score" not in tasks
    if long:
        columns, notes = _long(path, table, tasks, named)
    else:
        names, notes = (list(tasks), []) if tasks else _score_columns(path, table, list(named.values()))
        columns = ((task, _numbers(path, table.get_column(task))) for task in names)
    scores: Scores = {}
    labels: dict[str, Scores] = {role: {} for role in named}
    rows: Scores = {}
    for task, column in columns:
        held = column.is_not_null()
        scores[task] = column.filter(held).to_numpy()
        rows[task] = np.flatnonzero(held.to_numpy())
        for role, name in named.items():
            own = table.get_column(name).filter(held)
            labels[role][task] = _labels(path, own, f"rows scored for {task!r}")
    subjects = labels.get("subject", None if long else rows)
    return ScoreTable(scores, subjects, labels.get("group"), labels.get("weight"), notes)


def _score_columns(
    path: Path | str, table: "polars.DataFrame", taken: list[str]
) -> tuple[list[str], list[str]]:
    """Return the columns that are scores, and what is to be said about the choice."""
    names, left = [], []
    for name in table.columns:
        if name in taken:
            continue
        column = _numbers(path, table.get_column(name)).drop_nulls()
        if name in INDEX_NAMES or (column.dtype.is_integer() and _counts_rows(column)):
            left.append(f"{name!r} (row numbers)")
        elif len(column) and ((column == 0) | (column == 1)).all():
            left.append(f"{name!r} (only 0 and 1, a label?)")
        else:
            names.append(name)
    if len(names) < 2 and left:
        raise InputError(
            f"{path}: fewer than two score columns; left out {listed(left)}. Name the score columns with"
            " --task"
        )
    notes = [f"scores: {listed(names)}"]
    if left:
        notes.append(f"not taken for scores: {listed(left)}; name score columns with --task")
    return names, notes


def _counts_rows(column: "polars.Series") -> bool:
    return len(column) > 2 and bool((column.diff().drop_nulls() == 1).all())


def _long(
    path: Path | str, table: "polars.DataFrame", tasks: Sequence[str], named: Collection[str]
) -> tuple["Iterable[tuple[str, polars.Series]]", list[str]]:
    """Return every task's scores, empty in the rows of others, and what is to be said about a long table."""
    import polars

    score = _numbers(path, table.get_column("score"))
    task_column = table.get_column("task")
    if task_column.null_count():
        raise InputError(f"{path}: column 'task' is empty in {task_column.null_count()} rows")
    found = task_column.cast(str).unique(maintain_order=True).to_list()
    for task in tasks:
        if task not in found:
            raise InputError(f"{path}: column 'task' never says {task!r}; it has {listed(found)}")
    names = list(dict.fromkeys(tasks or found))
    notes = [f"long table: tasks {listed(names)}"]
    if "subject" not in named:
        notes.append("no --subject: every score counts as independent, which intervals may not survive")
    texts, nothing = task_column.cast(str), polars.Series([None], dtype=score.dtype)
    return ((task, score.zip_with(texts == task, nothing)) for task in names), notes


def _numbers(path: Path | str, column: "polars.Series") -> "polars.Series":
    if column.null_count() == len(column):
        raise InputError(f"{path}: column {column.name!r} is empty; leave it out, or name others with --task")
    if not column.dtype.is_numeric():
        kind, where = str(column.dtype.base_type()), ""  # An Enum in full tells its categories: people's ids.
        if kind == "String" and (wrong := _no_numbers(column)):
            where = f" (cells that are no numbers: {len(wrong)}, first in row {wrong[0] + 1})"
        raise InputError(
            f"{path}: column {column.name!r} is {kind}, not a score{where}; name the score columns with"
            " --task, and ids with --subject or --group"
        )
    if column.dtype.is_decimal():
        column = column.cast(float)
    return column.fill_nan(None) if column.dtype.is_float() else column


def _no_numbers(column: "polars.Series") -> list[int]:
    return (column.is_not_null() & column.cast(float, strict=False).is_null()).arg_true().to_list()


def _labels(path: Path | str, column: "polars.Series", where: str) -> np.ndarray:
    if column.dtype.is_float():
        column = column.fill_nan(None)
    if column.null_count():
        raise InputError(f"{path}: column {column.name!r} is empty in {column.null_count()} {where}")
    return column.to_numpy()


def no_column(path: Path | str, name: str, table: "polars.DataFrame") -> InputError:
    """Return the error for a column that a table has not.

    Args:
        path: Of the table.
        name: Of the column, or a pattern.
        table: Its columns are listed.
    """
    return InputError(f"{path} has no column {name!r}; it has {listed(table.columns)}")


def read_table(path: Path | str) -> "polars.DataFrame":
    """Read a whole table by the ending of its name, which is never a pattern; ``-`` is CSV on standard input.

    Raises:
        InputError: A file that is missing, of an unknown kind, broken, or with two columns of one name.
    """
    import polars

    path = Path(path)
    piped = str(path) == "-"
    kind = ".csv" if piped else path.suffix.lower()
    if not piped and not path.is_file():
        raise InputError(
            f"{path} is no file; name a table of scores: {', '.join(KINDS)}, or - for standard input"
        )
    if kind not in KINDS:
        raise InputError(
            f"{path}: a table of kind {kind or 'without an ending'} is not read; use {', '.join(KINDS)}"
        )
    try:
        if kind == ".parquet":
            table = polars.read_parquet(path, glob=False)
        elif kind in (".jsonl", ".ndjson"):
            content = path.read_bytes().removeprefix(BOM)
            table = polars.read_ndjson(io.BytesIO(content), infer_schema_length=None)
        else:
            table = _delimited(path, _standard_input() if piped else path.read_bytes(), kind)
    except (polars.exceptions.PolarsError, csv.Error, OSError, UnicodeDecodeError) as error:
        # Other libraries' words may quote cells.
        reason = str(error) if isinstance(error, OSError) else "is it whole, and what its ending says?"
        raise InputError(f"{path} cannot be read as a table: {reason}") from error
    if table.height == 0:
        raise InputError(f"{path} has no rows")
    wide = [name for name, kind in table.schema.items() if str(kind) in ("Int128", "UInt128")]
    return table.with_columns(polars.col(wide).cast(polars.String))  # ids: no array holds 128 bits


def _standard_input() -> bytes:
    content = sys.stdin.buffer.read() if sys.stdin is not None else b""
    if not content:
        raise InputError("standard input holds nothing, or was read before; - is read once, as CSV")
    return content


def _delimited(path: Path, content: bytes, kind: str) -> "polars.DataFrame":
    """Read CSV or TSV; a header with more semicolons or tabs than commas says which character separates."""
    import polars

    content = content.removeprefix(BOM).lstrip(b"\r\n")
    header = content.split(b"\n", 1)[0].decode().rstrip("\r")
    separator = max("\t,;" if kind == ".tsv" else ",;\t", key=re.sub('"[^"]*"', "", header).count)
    names = [name.strip() for name in next(csv.reader([header], delimiter=separator), [])]
    table = polars.read_csv(io.BytesIO(content), separator=separator, infer_schema=False)
    refuse_cells_as_names(path, table.columns)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path} has two columns {twice!r}; rename one")
    _refuse_short_rows(path, content, separator, len(names))
    table.columns = [name.strip() for name in table.columns]
    cells = polars.all().str.strip_chars()
    table = table.select(polars.when(cells.is_in(MISSING)).then(None).otherwise(cells).name.keep())
    return table.select([_typed(column) for column in table])


def _refuse_short_rows(path: Path, content: bytes, separator: str, cells: int) -> None:
    """Refuse rows with fewer cells than the header: those that they lack would read as empty."""
    text = np.frombuffer(content, dtype=np.uint8)
    quotes, *both = (np.flatnonzero(text == ord(mark)) for mark in ('"', "\n", separator))
    ends, marks = (places[np.searchsorted(quotes, places) % 2 == 0] for places in both)  # not in quotes
    ends = np.append(ends, len(text))
    found = np.diff(np.searchsorted(marks, ends), prepend=0) + 1
    for row in np.flatnonzero(found < cells).tolist():
        if content[ends[row - 1] : ends[row]].strip():
            raise InputError(f"{path}: row {row} has {found[row]} of {cells} cells; is the file whole?")


def _typed(column: "polars.Series") -> "polars.Series":
    """Return a text column as numbers where every cell is one; ids with leading zeros stay text."""
    import polars

    held = column.drop_nulls()
    # Whole numbers that 64 bits do not hold are ids; as floats, neighbours would be one.
    if held.len() == 0 or held.str.contains(r"^[+-]?(0\d|\d{19,}$)").any():
        return column
    for kind in (polars.Int64, polars.Float64):
        try:
            return column.cast(kind)
        except polars.exceptions.InvalidOperationError:
            continue
    return column
