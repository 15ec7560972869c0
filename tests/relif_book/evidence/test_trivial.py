"""Rows that train nothing: their Bias is that of an audit of their scores, and they turn with the records."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relif_book.evidence.publishing import read_published
from relif_book.evidence.results import ResultSet, method_rows, result_set, tolerance_rows
from relif_book.evidence.trivial import (
    below_constant,
    constant_in_words,
    heated_scores,
    shrinkage,
    trivial_rows,
    with_trivial,
)
from relif_core.audit import audit
from relif_core.audit.marginals import shrunk
from relif_core.problems.dense import TEMPERATURES
from relif_core.record import Record

ROOT = Path(__file__).resolve().parents[3]
DELTA = 0.3


@pytest.fixture(scope="module")
def kept() -> ResultSet:
    folder = ROOT / "data" / "records" / "physionet2012_methods"
    return result_set("kept", *read_published(folder)).narrowed(("erm", "gradnorm", "cats_as_released"))


def test_the_constant_has_the_training_rates_as_its_scores(kept: ResultSet) -> None:
    """440 of 3,200 die; the most frequent classes have 1,064 of 3,151, 862 of 3,043 and 901 of 3,080."""
    scores = {"a": 440 / 3200, "b": 1064 / 3151, "c": 862 / 3043, "d": 901 / 3080}
    constant = trivial_rows(kept)[0]
    expected = audit({task: np.full(3, value) for task, value in scores.items()}, 0.1)
    assert constant.bias(0.1) == pytest.approx(expected.bias)
    assert (constant.title, constant.worst, constant.macro) == ("Constant", 0.5, 0.5)


def _with_counts(kept: ResultSet, **counts: list[int | None]) -> ResultSet:
    """The results where some tasks, multilabel ones, have other label counts in training and test."""
    found = deepcopy(kept.label_counts) or []
    for task in found:
        if task["name"] in counts:
            task["kind"] = "multilabel" if len(counts[task["name"]]) > 2 else task["kind"]
            for part in task["splits"].values():
                part["counts"] = counts[task["name"]]
    other = replace(kept)
    other.__dict__["label_counts"] = found
    return other


def test_a_hidden_count_is_not_guessed(kept: ResultSet) -> None:
    """The open demos hide small counts: neither a rate nor the most frequent class is known without them."""
    for counts in ({"mortality": [None, None]}, {"mortality": [3000, None]}):
        rows = trivial_rows(_with_counts(kept, **counts))
        assert not {"Constant", "Oracle"} & {row.title for row in rows}
    assert "Constant" not in [row.title for row in trivial_rows(_with_counts(kept, los=[900, 60, None, 70]))]


def test_a_constant_for_several_labels_scores_the_largest_prevalence(kept: ResultSet) -> None:
    constant = trivial_rows(_with_counts(kept, los=[200, 1000, 800]))[0]
    scores = [440 / 3200, 1000 / 3151, 862 / 3043, 901 / 3080]
    expected = audit({f"{place}": np.full(3, value) for place, value in enumerate(scores)}, 0.1)
    assert constant.bias is not None
    assert constant.bias(0.1) == pytest.approx(expected.bias)


def test_the_oracle_is_an_audit_of_the_labels(kept: ResultSet) -> None:
    """568 of 4,000 test stays die; every top label has probability 1."""
    deaths = np.zeros(4000)
    deaths[:568] = 1
    expected = audit({"mortality": deaths, **{task: np.ones(50) for task in "abc"}}, DELTA)
    assert trivial_rows(kept)[1].bias(DELTA) == pytest.approx(expected.bias)


def test_shrinking_reaches_the_winner_and_is_an_audit_of_shrunk_scores(kept: ResultSet) -> None:
    row = next(row for row in trivial_rows(kept) if "shrunk" in row.title)
    assert "CATS" in row.title
    delta = kept.reference.tolerance
    assert row.bias(delta) == pytest.approx(kept.mean("cats_as_released", "bias"), abs=1e-9)
    assert row.worst == pytest.approx(kept.mean("erm", "worst"))
    epsilon = float(row.title.partition("ε = ")[2].rstrip(")"))
    erm = [record for record in kept.records if record.method == "erm"]
    audits = [audit(shrunk(record.scores(), epsilon, 0.4), delta).bias for record in erm]
    assert row.bias(delta) == pytest.approx(np.mean(audits), abs=1e-3)


def test_nothing_is_shrunk_where_bias_is_already_lower() -> None:
    assert shrinkage(lambda delta: max(0.0, 0.5 - delta), 0.3, 0.4) == pytest.approx(0, abs=1e-9)


def test_tables_carry_the_rows_beneath_the_methods(kept: ResultSet) -> None:
    rows = with_trivial(kept, method_rows(kept, "worst", "macro", "bias", "ranks"))
    assert [row["Method"] for row in rows[3:5]] == ["Constant", "Oracle"]
    assert all(list(row) == list(rows[0]) for row in rows)
    assert rows[3]["Rank, own → fixed δ"] == "–"
    five = with_trivial(kept, tolerance_rows(kept, (0.1, 0.5)))
    assert five[4]["δ = 0.1"] == f"{trivial_rows(kept)[1].bias(0.1):.4f}"


def _with_low_los(record: Record) -> Record:
    content = deepcopy(dict(record.content))
    content["result"]["utility"]["test"]["tasks"]["los"]["score"] = 0.49
    return replace(record, content=content)


def test_a_method_below_the_constant_is_named(kept: ResultSet) -> None:
    assert below_constant(kept) == {}
    assert constant_in_words(kept).endswith("no method lies below a constant in any task")
    low = tuple(map(_with_low_los, kept.runs["erm"]))
    found = constant_in_words(replace(kept, runs={**kept.runs, "erm": low}))
    assert found.endswith("below a constant in Length of stay: ERM")


def test_dense_erm_takes_the_temperature_that_validation_prefers() -> None:
    kept = result_set("kept", *read_published(Path(__file__).parents[1] / "nyuv2_revision_1"))
    kept = kept.narrowed(("erm", "relif"))
    title = "ERM, temperature-scaled"
    assert title not in [row.title for row in trivial_rows(kept)]  # these records keep no losses
    erm = next(record for record in kept.records if record.method == "erm")
    images = len(erm.scores("test")["segmentation"])
    heated = np.linspace(0.9, 0.2, images)[:, None] * np.array([1.0, 0.5, 0.25])
    losses = np.array([[2.0, 1.0, 1.5], [2.0, 2.5, 2.6]])
    arrays = {"raw/test/segmentation": heated, "raw/validation/segmentation_nll": losses}
    planted = [replace(r, arrays=r.arrays | arrays) if r is erm else r for r in kept.records]
    found = result_set("kept", planted, kept.reference, kept.table)
    row = next(row for row in trivial_rows(found) if row.title == title)
    expected = audit(erm.scores("test") | {"segmentation": heated[:, 1]}, DELTA)
    assert row.bias(DELTA) == expected.bias
    assert row.rate(DELTA) == expected.violation_rate
    assert (
        row.metrics["miou/segmentation"]
        == erm.result["utility"]["test"]["tasks"]["segmentation"]["metrics"]["miou"]
    )
    delta = 0.2996  # which a title rounds to 0.300
    exact = f"{row.bias(delta):.4f}"
    assert exact != f"{row.bias(0.3):.4f}"
    columns = ["Bias", "Bias, δ = 0.300"]
    assert row.cells(columns, delta, [delta]) == dict.fromkeys(columns, exact)
    assert row.cells(columns, delta)["Bias, δ = 0.300"] == f"{row.bias(0.3):.4f}"


def test_the_kept_dense_runs_have_the_row_of_their_temperatures() -> None:
    """At temperature 1 heated scores are the audited ones; the row takes what validation prefers."""
    kept = result_set("kept", *read_published(ROOT / "data" / "records" / "nyuv2"))
    runs = [record for record in kept.records if record.method == "erm"]
    for record in runs:
        column = TEMPERATURES.index(1.0)
        heated = record.arrays["raw/test/segmentation"][:, column]
        np.testing.assert_allclose(heated, record.scores("test")["segmentation"], atol=1e-6)
        losses = record.arrays["raw/validation/segmentation_nll"].mean(axis=0)
        scores = heated_scores(record)
        assert scores is not None
        chosen = record.arrays["raw/test/segmentation"][:, int(np.flatnonzero(losses == losses.min())[0])]
        np.testing.assert_array_equal(scores["segmentation"], chosen)
    row = next(row for row in trivial_rows(kept) if row.title == "ERM, temperature-scaled")
    delta = kept.reference.tolerance
    biases = [audit(heated_scores(record), delta).bias for record in runs]  # type: ignore[arg-type]
    assert row.bias is not None
    assert row.bias(delta) == pytest.approx(np.mean(biases), abs=1e-12)
