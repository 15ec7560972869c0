"""Tables that read well: aligned numbers at a stated precision, captions, headers that sort in the book."""

import html
import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from numbers import Integral
from typing import Any

from relif_core.errors import InputError, listed


@dataclass(frozen=True)
class Seeds:
    """A cell of one value per seed: mean ± standard deviation; a difference is ``signed``."""

    values: tuple[float, ...]
    digits: int = 3
    signed: bool = False

    def __str__(self) -> str:
        if not self.values:
            return MISSING
        text = mean_sd(self.values, self.digits)
        if self.signed:
            text = text.replace("-", "−") + (" (one seed)" if len(self.values) == 1 else "")
        return text


@dataclass(frozen=True)
class Interval:
    """A cell of two ends."""

    low: float
    high: float
    digits: int = 4

    def __str__(self) -> str:
        return f"[{self.low:z.{self.digits}f}, {self.high:z.{self.digits}f}]".replace("-", "−")


Cell = str | float | int | Seeds | Interval | None
MISSING = "–"
"""What a table shows where there is no value."""
#: Quantities of :mod:`relif_book.evidence.frame` as columns: title and decimals.
QUANTITIES: Mapping[str, tuple[str, int]] = {
    "worst": ("Worst", 3),
    "macro": ("Macro", 3),
    "bias": ("Bias", 4),
    "last_bias": ("Bias, last epoch", 4),
    "calibrated_bias": ("Bias, calibrated", 4),
    "raw_bias": ("Bias, own δ", 4),
    "violation_rate": ("Violation rate", 3),
    "induced/validation": ("Induced δ, validation", 3),
    "induced/test": ("Induced δ, test", 3),
    "drift_budget": ("Drift budget, test", 3),
    "weight_end": ("Last λ", 3),
    "rate_end": ("Last r̄", 3),
    "at_minimum": ("At λ_min", 2),
    "at_maximum": ("At λ_max", 2),
    "miou/segmentation": ("mIoU", 3),
    "rmse/depth": ("Depth RMSE, m", 3),
    "mean_angle/normals": ("Normals mean, °", 1),
    "pixel_accuracy/segmentation": ("Pixel accuracy", 3),
    "absolute_error/depth": ("Depth abs. error, m", 3),
    "relative_error/depth": ("Depth rel. error", 3),
    "median_angle/normals": ("Normals median, °", 1),
    "within_11.25/normals": ("within 11.25°", 3),
    "within_22.5/normals": ("within 22.5°", 3),
    "within_30/normals": ("within 30°", 3),
}


def decimals(quantity: str) -> int:
    """Return the decimals of a quantity: those of the first that its name ends as, else three.

    >>> decimals("schedule_bias"), decimals("own_tolerance")
    (4, 3)
    """
    return next((digits for name, (_, digits) in QUANTITIES.items() if quantity.endswith(name)), 3)


#: Cells that begin with a verdict are coloured by it.
VERDICTS = ("supported", "contradicted", "inconclusive", "not testable here")


def shown(quantity: str, value: float) -> str:
    """Return a quantity's value at its :func:`decimals`."""
    return f"{value:.{decimals(quantity)}f}"


def mean_sd(values: Iterable[float], digits: int = 3) -> str:
    """Return "mean ± sample standard deviation" of one or more finite values; a single value stands alone.

    Raises:
        InputError: There are no values, or one is not finite.
    """
    numbers = [float(value) for value in values]
    if not numbers or not all(math.isfinite(number) for number in numbers):
        raise InputError(f"mean ± sd needs finite values, got {numbers}; leave missing runs out and say so")
    mean = f"{statistics.fmean(numbers):z.{digits}f}"
    return mean if len(numbers) == 1 else f"{mean} ± {statistics.stdev(numbers):.{digits}f}"


def format_cell(value: Cell, digits: int = 3) -> str:
    """Return a cell as text: floats at ``digits`` decimals, thousands separators, a dash if missing."""
    if isinstance(value, str | Seeds | Interval):
        return str(value)
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:,}" if isinstance(value, Integral) else f"{value:z.{digits}f}"


def signed(value: float, digits: int = 4) -> str:
    """Return a difference with its sign; what rounds to zero has a plus.

    >>> signed(-0.00213), signed(-0.00001)
    ('−0.0021', '+0.0000')
    """
    return f"{value:+z.{digits}f}".replace("-", "−")


class Table:
    """A small table that renders as accessible HTML in the book and as aligned text elsewhere.

    Args:
        rows: One mapping per row, from column title to value; the first row's order of columns holds.
        caption: One sentence above the table; required, since a screen reader announces the table by it.
        digits: Decimals of floats: one number for all columns, or one per column title.

    Raises:
        InputError: There is no row, no caption, or a row has other columns than the first.
    """

    def __init__(
        self, rows: Sequence[Mapping[str, Cell]], *, caption: str, digits: int | Mapping[str, int] = 3
    ) -> None:
        if not rows or not caption.strip():
            raise InputError("a table needs at least one row and a caption")
        self.columns = list(rows[0])
        for number, row in enumerate(rows):
            if list(row) != self.columns:
                raise InputError(
                    f"row {number} of table '{caption}' has columns {listed(row)}, the first has"
                    f" {listed(self.columns)}"
                )
        self.caption = " ".join(caption.split())
        places = digits if isinstance(digits, Mapping) else dict.fromkeys(self.columns, digits)
        self.cells = [
            [format_cell(row[column], places.get(column, 3)) for column in self.columns] for row in rows
        ]
        self.numeric = [all(map(_reads_as_number, column)) for column in zip(*self.cells, strict=True)]

    def _repr_html_(self) -> str:
        head = "".join(map(_head, self.columns, self.numeric, repeat("col")))
        body = "".join(
            f"<tr>{_head(first, self.numeric[0], 'row')}{''.join(map(_cell, rest, self.numeric[1:]))}</tr>"
            for first, *rest in self.cells
        )
        caption = html.escape(self.caption)
        return (
            f'<div class="relif-table-scroll" role="region" tabindex="0" aria-label="{caption}">'
            f'<table class="relif-table"><caption><span>{caption}</span></caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def __repr__(self) -> str:
        lines = [self.columns, *self.cells]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(
                cell.rjust(width) if numeric else cell.ljust(width)
                for cell, width, numeric in zip(line, widths, self.numeric, strict=True)
            ).rstrip()
            for line in lines
        ]
        return "\n".join([self.caption, *text])


def show_table(
    rows: Sequence[Mapping[str, Cell]] | Table,
    *,
    caption: str = "",
    digits: int | Mapping[str, int] = 3,
    none: str = "",
) -> None:
    """Display a :class:`Table`, or one of these rows; the sentence ``none`` where data may have no row."""
    from IPython.display import display

    if none and not isinstance(rows, Table) and not rows:
        print(none)
        return
    display(rows if isinstance(rows, Table) else Table(rows, caption=caption, digits=digits))


def seed_rows(
    runs: Sequence[Mapping[str, Any]],
    by: Mapping[str, tuple[str, Callable[[Any], Cell]]],
    columns: Mapping[str, str],
) -> list[dict[str, Cell]]:
    """Return one row per group of runs, in the order of their first appearance.

    Args:
        runs: Fields of every run.
        by: Title of a column → the field that it groups by, and what is shown of that field's values.
        columns: Title of a column → the field that it shows over the group's runs.

    Returns:
        The groups' own columns, then mean ± standard deviation of every field; None is left out.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        groups.setdefault(tuple(run[field] for field, _ in by.values()), []).append(run)
    return [
        {title: shown(value) for (title, (_, shown)), value in zip(by.items(), key, strict=True)}
        | {
            title: Seeds(tuple(run[field] for run in own if run[field] is not None), decimals(field))
            for title, field in columns.items()
        }
        for key, own in groups.items()
    ]


def show_folded(title: str, tables: Sequence[Table]) -> None:
    """Display tables under a line, the title, that opens and closes them."""
    from IPython.display import display

    inside = "".join(table._repr_html_() for table in tables)
    fold = f'<details class="relif-fold"><summary>{html.escape(title)}</summary>{inside}</details>'
    display({"text/html": fold, "text/plain": "\n\n".join([title, *map(repr, tables)])}, raw=True)


def _head(text: str, numeric: bool, scope: str) -> str:
    return f'<th scope="{scope}"{_number_class(numeric)}>{html.escape(text)}</th>'


def _cell(text: str, numeric: bool) -> str:
    verdict = next((name for name in VERDICTS if text.startswith(name)), None)
    coloured = f' class="relif-verdict relif-{verdict.split()[0]}"' if verdict else ""
    return f"<td{_number_class(numeric)}{coloured}>{html.escape(text)}</td>"


def _number_class(numeric: bool) -> str:
    return ' class="relif-number"' if numeric else ""


def _reads_as_number(text: str) -> bool:
    first = text.removeprefix("−").removeprefix("-").removeprefix("+")[:1]
    words = re.findall(r"[^\W\d_]{2,}", text)
    return text == MISSING or (first.isdigit() and len(words) < 3) or text in ("inf", "-inf")
