"""Odd arguments and mutated tables: the audit answers, or refuses by name, and loses nothing in silence.

The ordinary suite tries the same inputs ``again`` each time; ``-m slow`` tries thousands of new ones.
"""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relif_core.audit import (
    Audit,
    HistogramSketch,
    audit,
    bias_curve,
    bias_parts,
    compare,
    coupling_bounds,
    same_subject_audit,
    shrunk,
    subject_bootstrap,
)
from relif_core.cli.score_tables import MISSING, read_score_table
from relif_core.errors import InputError

QUIET: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}
#: Stands in ids and groups; no message may repeat it.
PERSON = "Zoe-7391"
FLOATS = st.one_of(st.floats(0, 1), st.floats(), st.sampled_from([-0.0, 1 + 1e-12, np.nan, np.inf, 1e308]))
VALUES = st.one_of(FLOATS, st.none(), st.booleans(), st.integers(), st.text(max_size=3))
CELLS = st.one_of(VALUES, st.just(PERSON))
MAKERS: tuple[Callable[[list[Any]], Any], ...] = (
    lambda cells: cells,
    tuple,
    lambda cells: np.array(cells, dtype=object),
    lambda cells: pd.Series(cells, dtype=object),
    lambda cells: pl.Series(cells, strict=False),
    lambda cells: np.ma.masked_invalid([0.5 if not isinstance(cell, float) else cell for cell in cells]),
    lambda cells: torch.tensor([cell if isinstance(cell, float) else 0.5 for cell in cells]),
    lambda cells: np.float32([cell if isinstance(cell, float) and abs(cell) < 2 else 0.5 for cell in cells]),
    lambda cells: np.array([cells]),
)
SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=6)


@st.composite
def arrays(draw: st.DrawFn, like: st.SearchStrategy[Any] = CELLS) -> Any:
    return draw(st.sampled_from(MAKERS))(draw(st.lists(like, max_size=6)))


@st.composite
def per_task(draw: st.DrawFn, like: st.SearchStrategy[Any]) -> Any:
    """What is said per task: of the tasks, of others, or no mapping at all."""
    names = draw(st.lists(st.sampled_from(["a", "b", "c", "", 3]), max_size=3, unique=True))
    return draw(st.one_of(st.fixed_dictionaries(dict.fromkeys(names, like)), like, CELLS))


@st.composite
def arguments(draw: st.DrawFn) -> dict[str, Any]:
    plain = st.fixed_dictionaries({"a": SHARES, "b": SHARES})
    options = {
        "subjects": per_task(arrays()),
        "groups": per_task(arrays()),
        "weights": per_task(arrays(FLOATS)),
    }
    chosen = draw(st.lists(st.sampled_from(sorted(options)), max_size=2, unique=True))
    pair = st.tuples(st.just("a"), st.just("b"))
    tolerance = st.one_of(st.floats(0, 1), VALUES, st.dictionaries(pair, VALUES))
    return {
        "scores": draw(st.one_of(plain, per_task(arrays()), per_task(SHARES))),
        "tolerance": draw(tolerance),
        **{name: draw(options[name]) for name in chosen},
    }


def calls(given_: dict[str, Any]) -> list[Callable[[], Any]]:
    scores, tolerance, subjects = given_["scores"], given_["tolerance"], given_.get("subjects")
    return [
        lambda: audit(**given_),
        lambda: compare(audit(**given_), audit(**given_)),
        lambda: bias_curve(scores, [tolerance]),
        lambda: HistogramSketch.of(scores, 8, weights=given_.get("weights")).audit(tolerance),
        lambda: bias_parts(scores, subjects, tolerance),
        lambda: coupling_bounds(scores, scores, tolerance),
        lambda: same_subject_audit(scores, subjects, tolerance),
        lambda: subject_bootstrap(scores, tolerance, subjects=subjects, replicates=3),
        lambda: shrunk(scores, tolerance, 0.5),
        lambda: Audit(scores, tolerance).summary(),
    ]


def answered_or_refused(call: Callable[[], Any], named: str = "") -> None:
    """``named`` is what a message may repeat: the names of columns."""
    said = "an answer"
    try:
        call()
    except InputError as error:
        said = str(error)
    assert 0 < len(said) < 3000
    assert PERSON not in said or PERSON in named


def odd_arguments(examples: int, again: bool) -> None:
    @settings(max_examples=examples, derandomize=again, **QUIET)
    @given(arguments())
    def endure(given_: dict[str, Any]) -> None:
        for call in calls(given_):
            answered_or_refused(call)

    endure()


TABLE = f"id,a,b,sex\n{PERSON},0.25,0.5,F\np2,0.75,,M\np3,1,0.125,F\np4,0.5,NA,F\n".encode()
BITS = st.one_of(
    st.binary(min_size=1, max_size=3),
    st.sampled_from(
        [b",", b";", b"\t", b"\n", b"\r\n", b'"', b"\0", b"1e400", b"-0.1", b"1.5", b"nan", b"\xff"]
    ),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    content = TABLE
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        until = at + draw(st.integers(0, 6))
        content = content[:at] + draw(st.one_of(st.just(b""), BITS)) + content[until:]
    return content


def told_cells(content: bytes) -> dict[str, int] | None:
    """Cells that hold something, per column, where the csv module reads a table without doubt; else None."""
    try:
        text = content.decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        return None
    if not rows or '"' in text or "\r" in text or any(len(row) != len(rows[0]) for row in rows):
        return None
    return {
        name.strip(): sum(row[place].strip() not in MISSING for row in rows[1:])
        for place, name in enumerate(rows[0])
    }


def mutated_tables(folder: Path, examples: int, again: bool) -> None:
    path = folder / "scores.csv"

    @settings(max_examples=examples, derandomize=again, **QUIET)
    @given(mutated(), st.booleans(), st.booleans())
    def judge(content: bytes, subject: bool, group: bool) -> None:
        path.write_bytes(content)

        def read() -> None:
            table = read_score_table(path, subject="id" if subject else None, group="sex" if group else None)
            expected = told_cells(content)
            for task, pool in table.scores.items() if expected is not None else ():
                assert len(pool) == expected[task]
            audit(table.scores, 0.1, subjects=table.subjects, groups=table.groups)

        answered_or_refused(read, named=str(content.splitlines()[:1]))

    judge()


def test_odd_arguments_are_answered_or_refused_by_name() -> None:
    odd_arguments(100, again=True)


def test_mutated_tables_are_answered_or_refused_by_name(tmp_path: Path) -> None:
    mutated_tables(tmp_path, 150, again=True)


@pytest.mark.slow
def test_thousands_of_odd_arguments_are_answered_or_refused_by_name() -> None:
    odd_arguments(2000, again=False)


@pytest.mark.slow
def test_thousands_of_mutated_tables_are_answered_or_refused_by_name(tmp_path: Path) -> None:
    mutated_tables(tmp_path, 2500, again=False)
