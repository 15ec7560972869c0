"""Rows of raw tables against Python's CSV reader."""

import csv
import io
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from relif_data.tables import Table

ROWS = st.lists(st.lists(st.text('a1,"\n', max_size=4), min_size=2, max_size=4), min_size=1, max_size=8)


@given(ROWS, st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
def test_exactly_the_rows_with_the_fields_of_the_header_are_kept(rows: list[list[str]], quoting: int) -> None:
    text = io.StringIO()
    csv.writer(text, quoting=quoting, lineterminator="\n").writerows([*rows, ["a", "b", "c"]])
    table = Table("T", (Path("t.csv"),), ("x", "y", "z"))
    kept, lines = table._regular(Path("t.csv"), text.getvalue().encode(), 2)
    assert list(csv.reader(io.StringIO(kept.decode()))) == [
        row for row in [*rows, ["a", "b", "c"]] if len(row) == 3
    ]
    assert lines == text.getvalue().count("\n")
