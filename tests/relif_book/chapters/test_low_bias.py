"""The numbers of the theorem pages equal an independent recomputation, and do what the theorems say."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from relif_book.chapters.low_bias import (
    attainable,
    calibration_floor,
    clipping_loss,
    coarsened,
    coupling_interval,
    explained_share,
    own_calibrated,
    perfect_scores,
    rank_normalised,
    rescaled,
    spread_and_mismatch,
    stay_pairs,
)
from relif_book.evidence.publishing import read_published
from relif_core.audit import audit, lipschitz_limit, similar_pair_audit
from relif_core.errors import RecordError
from relif_core.record import Record

RECORDS = Path(__file__).resolve().parents[3] / "data" / "records"


@pytest.fixture(scope="module")
def clinical():
    return read_published(RECORDS / "physionet2012_methods")


@pytest.fixture(scope="module")
def dense():
    return read_published(Path(__file__).parents[1] / "nyuv2_revision_1")


def recomputed(scores, tolerance: float) -> float:
    """Return Bias as B = ∫_δ^1 P(|X − Y| > t) dt, exact between the gaps' ends.

    Written as E(X − Y − δ)₊ + E(Y − X − δ)₊ with E(X − z)₊ from the sorted scores, without the audit.
    """

    def above(first: np.ndarray, second: np.ndarray) -> float:
        x = np.sort(first.astype(np.float64))
        tail = np.concatenate([np.cumsum(x[::-1])[::-1], [0.0]])
        ends = second.astype(np.float64) + tolerance
        start = np.searchsorted(x, ends, side="right")
        return float(np.mean(tail[start] - ends * (len(x) - start)) / len(x))

    pairs = list(itertools.combinations(scores, 2))
    return sum(above(scores[i], scores[j]) + above(scores[j], scores[i]) for i, j in pairs) / len(pairs)


def test_every_kept_run_has_the_bias_that_the_pages_show(clinical, dense) -> None:
    for records, reference, table in (clinical, dense, read_published(RECORDS / "nyuv2")):
        assert [record.key for record in records] == table.keys
        for record, written in zip(records, table.bias, strict=True):
            scores = record.scores()
            independent = recomputed(scores, reference.tolerance)
            assert audit(scores, reference.tolerance).bias == pytest.approx(independent, abs=1e-6)
            assert written == pytest.approx(independent, abs=1e-6)
            assert spread_and_mismatch(scores, reference.tolerance).sum() == pytest.approx(
                independent, abs=1e-6
            )


def test_coarsening_by_hand_and_to_the_ends(clinical) -> None:
    coarse = coarsened({"a": np.array([0.1, 0.9, 0.3, 0.5]), "b": np.array([0.2])}, 2)
    np.testing.assert_allclose(coarse["a"], [0.2, 0.7, 0.2, 0.7])
    np.testing.assert_allclose(coarse["b"], [0.2])
    record = clinical[0][0]
    for task, values in coarsened(record.scores(), 10**9).items():
        np.testing.assert_array_equal(values, record.scores()[task].astype(float))


def test_the_perfect_predictor_has_the_base_rates_and_the_bias_that_they_give(clinical) -> None:
    records, reference, _ = clinical
    perfect = perfect_scores(records[0])
    stays = np.load(RECORDS / "physionet2012_inputs" / "inputs.npz")
    deaths = int((stays["label/mortality"][stays["split"] == 2] == 1).sum())
    assert perfect["mortality"].sum() == deaths
    assert all((perfect[task] == 1).all() for task in ("los", "saps", "sofa"))
    share = 1 - deaths / len(perfect["mortality"])
    assert audit(perfect, reference.tolerance).bias == pytest.approx(
        share * (1 - reference.tolerance) / 2, abs=1e-12
    )
    assert calibration_floor(records[0], 0.0) > calibration_floor(records[0], 0.3) > 0


def test_coupling_interval_holds_the_observed_and_the_independent_value(clinical) -> None:
    records, reference, _ = clinical
    for record in records[:: len(records) // 10]:
        found = coupling_interval(record, reference.tolerance)
        assert found["low"] <= min(found["same"], found["independent"])
        assert max(found["same"], found["independent"]) <= found["high"]


@pytest.mark.parametrize("task", ["a", "b"])
def test_coupling_refuses_a_subject_with_several_samples(task: str) -> None:
    pools = {"a": np.array([0.1, 0.2, 0.3]), "b": np.array([0.4, 0.5, 0.6])}
    subjects = {name: np.array([1, 2, 2 if name == task else 3]) for name in pools}
    record = SimpleNamespace(key="k", scores=lambda split: pools, subjects=lambda split: subjects)
    with pytest.raises(RecordError, match="several samples of a task"):
        coupling_interval(record, 0.1)


def scaled_record(record: Record, factors: dict[str, float]) -> Record:
    """Return a dense record with raw scores, of a model whose decoder maps are multiplied by factors."""
    generator = np.random.default_rng(0)
    arrays = dict(record.arrays)
    for task, factor in factors.items():
        low, high = record.result["score_calibration"]["quantiles"][task]
        for split in ("validation", "test"):
            raw = factor * generator.lognormal(
                np.log((low + high) / 2), 0.4, len(arrays[f"score/{split}/{task}"])
            )
            arrays[f"raw/{split}/{task}"] = raw
            arrays[f"score/{split}/{task}"] = np.clip((raw - low) / (high - low), 0, 1).astype(np.float32)
    return Record(record.content, arrays)


def test_rescaling_equals_the_scores_of_the_rescaled_model_and_own_quantiles_do_not_move(dense) -> None:
    kept = dense[0][0]
    one = scaled_record(kept, {"depth": 1.0, "normals": 1.0})
    other = scaled_record(kept, {"depth": 0.6, "normals": 2.5})
    moved = rescaled(one, {"depth": 0.6, "normals": 2.5})
    for task, values in other.scores().items():
        np.testing.assert_allclose(moved[task], values, atol=1e-6)
        np.testing.assert_allclose(own_calibrated(one)[task], own_calibrated(other)[task], atol=1e-6)
    assert audit(other.scores(), 0.4).bias != pytest.approx(audit(one.scores(), 0.4).bias, abs=1e-3)


@pytest.mark.parametrize("factors", [{"depth": 0.6, "normals": 2.5}, {"depth": 1.0, "normals": 0.3}])
def test_clipping_hides_no_more_than_is_said(dense, factors) -> None:
    """The Bias of rescaled scores from norms and from clipped scores alone."""
    whole = scaled_record(dense[0][0], {"depth": 1.0, "normals": 1.0})
    bare = Record(whole.content, {n: a for n, a in whole.arrays.items() if not n.startswith("raw/")})
    hidden = clipping_loss(bare, factors)
    for tolerance in (0.05, 0.2, 0.4):
        true, shown = (audit(rescaled(record, factors), tolerance).bias for record in (whole, bare))
        assert 0 < abs(true - shown) <= hidden
    assert clipping_loss(whole, factors) == clipping_loss(bare, dict.fromkeys(factors, 1.0)) == 0


def test_the_corners_are_reached_in_the_limit(dense) -> None:
    record = scaled_record(dense[0][0], {"depth": 1.0, "normals": 1.0})
    for limit, factor in ((0.0, 1e-6), (np.inf, 1e6)):
        for task in ("depth", "normals"):
            np.testing.assert_array_equal(
                rescaled(record, {task: limit})[task], rescaled(record, {task: factor})[task]
            )
    low, high = attainable(dense[0][0], 0.4, np.array([-1.0, 2.0]))
    both = audit(rescaled(dense[0][0], {"depth": 0.0, "normals": 0.0}), 0.4).bias
    assert 0 <= low <= both < audit(dense[0][0].scores(), 0.4).bias < high <= 2 / 3 * 0.6
    assert attainable(record, 0.4, np.array([0.0, 0.5])) == (0.0, 0.5)


def test_own_quantiles_are_refused_where_clipping_hides_them(dense) -> None:
    by_method = {record.method: record for record in dense[0]}
    assert own_calibrated(by_method["cats_as_released"]) is None
    erm = by_method["erm"]
    assert audit(own_calibrated(erm), 0.4).bias == pytest.approx(audit(erm.scores(), 0.4).bias, abs=1e-4)


def test_ranks_of_any_two_models_tie() -> None:
    generator = np.random.default_rng(0)
    scores = {"a": generator.random(2000) ** 3, "b": generator.beta(2, 5, 2000)}
    assert audit(rank_normalised(scores), 0.4).bias == pytest.approx(0.6**3 / 3, abs=1e-3)
    np.testing.assert_allclose(rank_normalised({"a": np.array([0.5, 0.1, 0.5])})["a"], [2 / 3, 1 / 6, 2 / 3])


def test_explained_share_by_hand() -> None:
    x = np.array([[0.0], [1.0], [2.0], [3.0]])
    assert explained_share(x, 2 * x[:, 0] + 1) == pytest.approx(1)
    assert explained_share(np.array([[1.0], [-1.0], [-1.0], [1.0]]), x[:, 0]) == pytest.approx(0)


def test_uncertainty_with_and_without_weight_decay_are_the_same_clinical_runs(clinical) -> None:
    """The step multiplies weights by 1 − 1e-3 · 1e-5, in float32 1: a row of the differences page."""
    assert np.float32(1 - 1e-3 * 1e-5) == 1
    by_run = {(record.method, record.seed): record for record in clinical[0]}
    seeds = [seed for method, seed in by_run if method == "uncertainty_as_released"]
    assert seeds
    for seed in seeds:
        plain, decayed = by_run["uncertainty", seed], by_run["uncertainty_as_released", seed]
        assert plain.arrays.keys() == decayed.arrays.keys()
        for name, array in plain.arrays.items():
            np.testing.assert_array_equal(array, decayed.arrays[name])


def test_similar_pairs_read_each_stay_with_its_own_inputs(clinical) -> None:
    records, reference, _ = clinical
    record = next(record for record in records if record.key == reference.record)
    stays = dict(np.load(RECORDS / "physionet2012_inputs" / "inputs.npz"))
    limits = lipschitz_limit(record.scores("validation"), stay_pairs(record, stays, 5, "validation"))
    found = similar_pair_audit(record.scores(), stay_pairs(record, stays, 5), limits)
    assert 0.05 < found.share < 0.3
    order = np.random.default_rng(0).permutation(len(stays["subject"]))
    shuffled = {name: array[order] if array.ndim else array for name, array in stays.items()}
    again = similar_pair_audit(record.scores(), stay_pairs(record, shuffled, 5), limits)
    assert again.excess == pytest.approx(found.excess, abs=1e-12)
    others = {**stays, "subject": stays["subject"] + 1}
    with pytest.raises(RecordError, match="inputs are of other stays"):
        stay_pairs(record, others, 5)
