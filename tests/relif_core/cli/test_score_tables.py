"""A table of scores ends as the same audit whatever file it came in, and nothing is audited by accident."""

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from relif_core.audit import audit
from relif_core.cli.score_tables import read_score_table, read_table
from relif_core.errors import InputError

GENERATOR = np.random.default_rng(0)
FRAME = pl.DataFrame(
    {
        "patient": [f"p{k // 2:03}" for k in range(60)],
        "mortality": GENERATOR.random(60),
        "los": [None if k % 7 == 0 else value for k, value in enumerate(GENERATOR.random(60))],
        "sex": ["F" if k % 3 else "M" for k in range(60)],
    }
)
TASKS = ("mortality", "los")


def audited(path: Path | str, **columns: str):
    table = read_score_table(path, subject="patient", group="sex", **columns)
    return audit(table.scores, 0.2, subjects=table.subjects, groups=table.groups)


def expected():
    kept = {task: FRAME.filter(pl.col(task).is_not_null()) for task in TASKS}
    return audit(
        {task: frame[task] for task, frame in kept.items()},
        0.2,
        subjects={task: frame["patient"] for task, frame in kept.items()},
        groups={task: frame["sex"] for task, frame in kept.items()},
    )


def long() -> pl.DataFrame:
    return FRAME.unpivot(on=list(TASKS), index=["patient", "sex"], variable_name="task", value_name="score")


WRITERS = {
    "wide.csv": lambda path: FRAME.write_csv(path),
    "wide.CSV": lambda path: FRAME.write_csv(path),
    "wide.tsv": lambda path: FRAME.write_csv(path, separator="\t"),
    "semicolons.csv": lambda path: FRAME.write_csv(path, separator=";"),
    "tabs.csv": lambda path: FRAME.write_csv(path, separator="\t"),
    "NA.csv": lambda path: FRAME.write_csv(path, null_value="NA"),
    "nan.csv": lambda path: FRAME.write_csv(path, null_value="nan"),
    "bom.csv": lambda path: FRAME.write_csv(path, include_bom=True),
    "spaces.csv": lambda path: path.write_text(FRAME.write_csv().replace(",", " , ")),
    "wide.parquet": lambda path: FRAME.write_parquet(path),
    "nan.parquet": lambda path: FRAME.with_columns(pl.col("los").fill_null(float("nan"))).write_parquet(path),
    "wide.jsonl": lambda path: FRAME.write_ndjson(path),
    "long.csv": lambda path: long().write_csv(path),
    "long.parquet": lambda path: long().write_parquet(path),
    "index.csv": lambda path: FRAME.with_row_index("").write_csv(path),
    "bom.jsonl": lambda path: path.write_bytes(b"\xef\xbb\xbf" + FRAME.write_ndjson().encode()),
    "label.csv": lambda path: FRAME.with_columns(label=pl.Series([k % 2 for k in range(60)])).write_csv(path),
    "scores[1].csv": lambda path: FRAME.write_csv(path),
    "scores*.parquet": lambda path: FRAME.write_parquet(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_of_a_table_gives_the_same_audit(tmp_path: Path, name: str) -> None:
    # What a pattern would match as well.
    for other in ("scores1.csv", "scores2.parquet"):
        (tmp_path / other).write_bytes(b"a,b\n0.5,0.5\n0.5,0.5\n")
    WRITERS[name](tmp_path / name)
    assert audited(tmp_path / name) == expected()


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(FRAME.write_csv().encode()))
    monkeypatch.setattr("sys.stdin", stream)
    assert audited("-") == expected()


def test_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    FRAME.sample(fraction=1, shuffle=True, seed=1).write_csv(tmp_path / "shuffled.csv")
    found, wanted = audited(tmp_path / "shuffled.csv"), expected()
    assert found.bias == pytest.approx(wanted.bias, abs=1e-14)
    assert found.bias_se == pytest.approx(wanted.bias_se, rel=1e-12)
    assert found.pool_fingerprint == wanted.pool_fingerprint


def test_without_a_subject_the_row_is_one(tmp_path: Path) -> None:
    FRAME.select(TASKS).write_csv(tmp_path / "scores.csv")
    table = read_score_table(tmp_path / "scores.csv")
    assert table.subjects is not None
    assert table.subjects["los"].tolist() == [k for k in range(60) if k % 7]
    assert audit(table.scores, 0.2, subjects=table.subjects).clusters == 60


def test_what_is_taken_and_what_is_left_is_said(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    FRAME.select(TASKS).with_row_index("row").with_columns(label=pl.lit(1)).write_csv(path)
    table = read_score_table(path)
    assert list(table.scores) == ["mortality", "los"]
    assert table.notes == [
        "scores: mortality, los",
        (
            "not taken for scores: 'row' (row numbers), 'label' (only 0 and 1, a label?); name score columns"
            " with --task"
        ),
    ]
    named = read_score_table(path, ["mortality", "label"])
    assert list(named.scores) == ["mortality", "label"]
    assert named.notes == []


def test_ids_with_leading_zeros_stay_text(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("id,a,b\n007,0.1,0.2\n7,0.3,0.4\n")
    table = read_score_table(tmp_path / "s.csv", subject="id")
    assert table.subjects is not None
    assert table.subjects["a"].tolist() == ["007", "7"]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("s.csv", "id,a,a,b\n0,.7,.7,.1\n", {}, "s.csv has two columns 'a'; rename one"),
        ("s.csv", "a,b\n", {}, "s.csv has no rows"),
        ("s.csv", "", {}, "s.csv"),
        ("s.csv", "a,b\n0.1,high\n", {}, "column 'b' is String, not a score"),
        (
            "s.csv",
            "a,b\n.1,.2\n,.2\n.1,.2\n.1,O.5\n",
            {},
            "not a score (cells that are no numbers: 1, first in row 4)",
        ),
        ("s.csv", "id,a\n007,.2\n", {}, "column 'id' is String, not a score; name the score columns"),
        ("s.csv", "a,b\n0.1,0.2\n", {"subject": "id"}, "has no column 'id'; it has a, b"),
        (
            "s.csv",
            "id,a,b\n1,0.1,0.2\n,0.3,0.4\n",
            {"subject": "id"},
            "column 'id' is empty in 1 rows scored for 'a'",
        ),
        ("s.csv", "id,a,b\n1,0.1,0.2\nNA,0.3,0.4\n", {"group": "id"}, "column 'id' is empty in 1 rows"),
        ("s.csv", "a,label\n0.1,1\n0.2,0\n", {}, "fewer than two score columns; left out 'label'"),
        ("s.csv", "task,score\nx,0.1\n,0.2\n", {}, "column 'task' is empty in 1 rows"),
        (
            "s.csv",
            "task,score\nx,0.1\ny,0.2\n",
            {"tasks": ["z"]},
            "column 'task' never says 'z'; it has x, y",
        ),
        ("s.xlsx", "a,b\n0.1,0.2\n", {}, "a table of kind .xlsx is not read; use .csv, .tsv, .parquet"),
        ("s", "a,b\n0.1,0.2\n", {}, "a table of kind without an ending is not read"),
        ("s.parquet", "a,b\n0.1,0.2\n", {}, "s.parquet cannot be read as a table"),
        ("s.csv", "a,b\r0.1,0.2\r", {}, "s.csv"),
        (
            "s.csv",
            "id,a,b\n7,0.5,0.25\n8,0.12",
            {},
            "s.csv: row 2 has 2 of 3 cells; is the file whole?",
        ),
        (
            "s.csv",
            "id,a,b\n7,.5,.5\n8,.1\n\n9,.5,.5\n",
            {},
            "s.csv: row 2 has 2 of 3 cells; is the file whole?",
        ),
        ("s.csv", '"id","a","b"\n"x, y",.5\n"z",.5,.5\n', {}, "s.csv: row 1 has 2 of 3 cells"),
        ("s.csv", "id,a,b\nNULL,.5,.5\nNULL,.1,.5\n", {"subject": "id"}, "column 'id' is empty in 2 rows"),
        ("s.csv", "a,b,c\n.5,.5,\n.1,.5,\n", {}, "column 'c' is empty; leave it out"),
        ("s.jsonl", "{", {}, "s.jsonl cannot be read as a table"),
        ("s.csv", b"a,b\xff\n0.1,0.2\n", {}, "s.csv cannot be read as a table"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: str | bytes, options: dict, message: str
) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as caught:
        read_score_table(tmp_path / name, **options)
    assert message in str(caught.value)


def test_names_in_quotes_may_hold_separators(tmp_path: Path) -> None:
    path = tmp_path / "quoted.csv"
    path.write_text('id,"risk, death","risk; stay; all; of; it"\n7,0.5,0.25\n8,0.125,1\n')
    table = read_score_table(path, subject="id")
    assert list(table.scores) == ["risk, death", "risk; stay; all; of; it"]
    assert table.scores["risk, death"].tolist() == [0.5, 0.125]


def test_whole_numbers_beyond_64_bits_are_ids_that_differ(tmp_path: Path) -> None:
    ids = [str(10**24 + k) for k in (0, 0, 1)]
    rows = [f"{one},0.{k}5,0.5" for k, one in enumerate(ids)]
    (tmp_path / "ids.csv").write_text("\n".join(["id,a,b", *rows]))
    lines = [f'{{"id":{one},"a":0.5,"b":0.25}}' for one in ids]
    (tmp_path / "ids.jsonl").write_text("\n".join(lines))
    for name in ("ids.csv", "ids.jsonl"):
        table = read_score_table(tmp_path / name, ["a", "b"], "id")
        assert table.subjects is not None
        assert table.subjects["a"].tolist() == ids


def test_decimals_are_scores(tmp_path: Path) -> None:
    pl.DataFrame({"a": [0.5, 0.25, None], "b": [0.125, 1.0, 0.5]}).cast(pl.Decimal(8, 6)).write_parquet(
        tmp_path / "decimals.parquet"
    )
    found = read_score_table(tmp_path / "decimals.parquet").scores
    assert [own.tolist() for own in found.values()] == [[0.5, 0.25], [0.125, 1.0, 0.5]]


def test_standard_input_that_is_closed_or_used_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream in (None, io.TextIOWrapper(io.BytesIO(b""))):
        monkeypatch.setattr("sys.stdin", stream)
        with pytest.raises(InputError, match="standard input holds nothing, or was read before"):
            read_table("-")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file; name a table of scores"):
        read_score_table(tmp_path / "absent.csv")


@pytest.mark.parametrize("blank", ["", "\n", "\r\n", "\ufeff\n"])
def test_a_table_without_header_is_refused_and_not_repeated(tmp_path: Path, blank: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(blank + "Zoe-7391,0.25,0.5\np2,0.75,0.5\n")
    with pytest.raises(
        InputError, match="2 of the 3 names in its first line are numbers or run on"
    ) as refused:
        read_table(path)
    assert "Zoe" not in str(refused.value)
    path.write_text(blank + "0,1\n0.25,0.5\n")
    assert read_table(path).columns == ["0", "1"]


@pytest.mark.parametrize("head", ['"id,a,b\nZoe-7391",', 'id,a,"b\nZoe-7391"'])
def test_a_header_over_two_lines_is_refused_and_not_repeated(tmp_path: Path, head: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(head + "0.25,0.5\np2,0.75,0.5\n")
    with pytest.raises(InputError, match=r"names in its first line are numbers or run on") as refused:
        read_table(path)
    assert "Zoe" not in str(refused.value)


def test_cells_and_lines_in_quotes_leave_a_row_whole(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(b'"id","a","b"\r\n"x, y",.5,.25\r\n\r\n"two\r\nlines",.125,\r\n  \r\n')
    table = read_score_table(path, subject="id")
    assert table.scores["a"].tolist() == [0.5, 0.125]
    assert table.scores["b"].tolist() == [0.25]


def test_the_names_of_categories_are_not_repeated(tmp_path: Path) -> None:
    people = pl.Series(["Zoe-7391", "p2"], dtype=pl.Enum(["Zoe-7391", "p2"]))
    pl.DataFrame({"id": people, "a": [0.5, 0.25], "b": [0.5, 1]}).write_parquet(tmp_path / "scores.parquet")
    with pytest.raises(InputError, match="column 'id' is Enum, not a score") as refused:
        read_score_table(tmp_path / "scores.parquet")
    assert "Zoe" not in str(refused.value)
