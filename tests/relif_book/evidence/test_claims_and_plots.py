"""Many methods side by side: crossings, ranks, sweeps and verdicts on claims, on runs of a moment."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from relif_book.evidence import measured
from relif_book.evidence.claims import ENDPOINTS, Evidence
from relif_book.evidence.ledger import judge_all
from relif_book.evidence.publishing import publish, read_published
from relif_book.evidence.results import (
    ResultSet,
    certified_pairs,
    method_rows,
    result_set,
    tolerance_rows,
)
from relif_book.figures.method_plots import (
    crossings,
    draw_crossings,
    draw_mean_curves,
    draw_sweep_traces,
    draw_worst_against_bias,
    mean_curves,
)
from relif_book.figures.style import colour_of, new_figure
from relif_core.errors import InputError
from relif_core.methods import title_of
from relif_core.studies.grid import (
    COMPONENTS,
    HYBRIDS,
    STEP_SIZE_SWEEP,
    STUDIES,
    TARGET_SWEEP,
    grid,
    run_study,
)
from relif_data import prepare

METHODS = ("erm", "relif", "relif_step_size_1", "pcgrad_as_released", "uncertainty+relif")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> ResultSet:
    folder = tmp_path_factory.mktemp("methods")
    data = prepare("synthetic_icu", None, folder / "tensors", stays=100, seed=2)
    summary = run_study(
        grid(METHODS, [0, 1], model={"hidden": 8, "head_width": 8},
             training={"epochs": 2, "batch_size": 16, "learning_rate": 3e-3}, controller={"warmup": 2}),
        data, folder / "records",
    )  # fmt: skip
    assert not summary.failed
    return result_set("tiny", summary.records)


def test_studies_hold_every_page_of_the_clinical_comparison() -> None:
    methods = STUDIES["clinical"].methods
    assert len(methods) == len(set(methods)) == 31
    assert set(COMPONENTS + HYBRIDS + STEP_SIZE_SWEEP + TARGET_SWEEP) <= set(methods)
    assert [title_of(name) for name in TARGET_SWEEP][1:3] == ["ReLiF, ρ* = 0.1", "ReLiF, η = 0.1"]


def test_crossings_are_where_mean_curves_meet(results: ResultSet) -> None:
    curves = mean_curves(results)
    for a, b, delta, bias in crossings(results, least=0.0):
        there = [np.interp(delta, results.curve_tolerances, curves[name]) for name in (a, b)]
        assert there == pytest.approx([bias, bias], abs=1e-9)


def test_ranks_and_tables(results: ResultSet) -> None:
    fixed = results.ranks("bias")
    assert sorted(fixed.values()) == [1, 2, 3, 4, 5]
    rows = method_rows(results, "worst", "ranks")
    assert [int(str(row["Rank, own → fixed δ"])[-1]) for row in rows] == [fixed[name] for name in METHODS]
    assert list(tolerance_rows(results, (0.1, 0.275))[0]) == ["Method", "δ = 0.1", "δ = 0.275"]
    with pytest.raises(InputError, match=r"multiples of 0\.005"):
        tolerance_rows(results, (0.1234,))
    certified, pairs = certified_pairs(results)
    assert 0 <= certified <= pairs == 10


def test_a_statement_and_its_opposite_cannot_both_hold(results: ResultSet) -> None:
    opposite = {"supported": "contradicted", "contradicted": "supported", "inconclusive": "inconclusive"}
    evidence = Evidence(results)
    for a, b in (("erm", "relif"), ("relif", "pcgrad_as_released")):
        assert evidence.bias_below(a, b).state == opposite[evidence.bias_below(b, a).state]
        assert evidence.worst_above(a, b).state == opposite[evidence.worst_above(b, a).state]


def test_every_endpoint_is_read_from_a_published_study(
    results: ResultSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A packed study gives the differences and errors that its runs gave, matched pairs included."""
    publish(results.records, tmp_path, "study", exploratory=True)
    again = result_set("again", *read_published(tmp_path))
    for endpoint in ENDPOINTS[:3]:
        before, after = (
            Evidence(found, endpoint).bias_below("relif", "erm").difference for found in (results, again)
        )
        assert before is not None
        assert after is not None
        assert after.known
        assert after.estimate == pytest.approx(before.estimate, abs=1e-6)
        assert after.error == pytest.approx(before.error, rel=1e-3)
        assert Evidence(again, endpoint).worst_above("relif", "erm").difference.known  # type: ignore[union-attr]
    # Tiny models of two epochs are seldom within 0.01, and the epochs' grid holds no calibrated tolerance.
    monkeypatch.setattr(measured, "MATCHED_WORST", 1.0)
    coarse = [replace(found, reference=replace(found.reference, tolerance=0.3)) for found in (results, again)]
    read = [Evidence(found, ENDPOINTS[3]).bias_below("relif", "erm").difference for found in coarse]
    assert read[0].estimate == pytest.approx(read[1].estimate, abs=1e-3)  # type: ignore[union-attr]


def test_claims_without_their_methods_are_not_asked(results: ResultSet) -> None:
    assert judge_all([results]) == []


def test_figures_draw_every_kind_of_method(results: ResultSet) -> None:
    figure, axes = new_figure(columns=2)
    draw_worst_against_bias(axes[0], results)
    draw_mean_curves(axes[1], results)
    draw_crossings(axes[1], results)
    draw_sweep_traces(axes[1], results.narrowed(STEP_SIZE_SWEEP), "weight", "step_size")
    figure.draw_without_rendering()
    assert colour_of("relif_step_size_1") not in (colour_of("relif"), colour_of("erm"))


@pytest.mark.parametrize(
    ("keep", "validation", "test"), [("all", 5, 5), ("test", 1, 5), ("aggregates", 0, 0)]
)
def test_what_is_published_of_the_pools(
    results: ResultSet, tmp_path: Path, keep: str, validation: int, test: int
) -> None:
    records = [record for record in results.records if record.seed == 0]
    publish(records, tmp_path, keep, exploratory=True)  # type: ignore[arg-type]
    found, reference, table = read_published(tmp_path)
    for split, count in (("validation", validation), ("test", test)):
        assert (
            sum(any(name.startswith(f"score/{split}/") for name in record.arrays) for record in found)
            == count
        )
    again = result_set("again", found, reference, table)
    before = result_set("before", records)
    assert again.values("relif", "bias") == pytest.approx(before.values("relif", "bias"))
