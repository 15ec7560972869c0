"""The simulator: a consistent truth, a calibrated oracle, labels that follow from it and can be learnt."""

import itertools
import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from relif_core.errors import DataError, InputError
from relif_core.tensors.clinical import ClinicalTensors, check_tensors
from relif_data import synthetic_icu
from relif_data.labels import LENGTH_OF_STAY_DAYS
from relif_data.synthetic_icu import (
    CHANNELS,
    COLUMN,
    LONGEST_STAY_HOURS,
    MORTALITY_HOUR,
    PHENOTYPES,
    death_hazard,
    discharge_hazard,
    mortality_oracle,
    prepare,
    simulate,
)


@pytest.fixture(scope="module")
def large() -> synthetic_icu.SimulatedCohort:
    return simulate(6000, 48, seed=3)


@pytest.fixture(scope="module")
def tensors(tmp_path_factory) -> ClinicalTensors:
    return check_tensors(prepare(None, tmp_path_factory.mktemp("icu") / "tensors"))


def test_the_oracle_is_calibrated_and_separates(large):
    oracle = mortality_oracle(large)
    reached = large.rows_per_stay >= MORTALITY_HOUR
    np.testing.assert_array_equal(np.isnan(oracle), ~reached)
    probability, died = oracle[reached], large.died[reached]
    assert ((probability >= 0) & (probability <= 1)).all()
    assert roc_auc_score(died, probability) > 0.9
    # In every fifth of the stays deaths agree with the sum of probabilities within four standard deviations.
    for part in np.array_split(np.argsort(probability), 5):
        expected, spread = (
            probability[part].sum(),
            np.sqrt((probability[part] * (1 - probability[part])).sum()),
        )
        assert abs(died[part].sum() - expected) < 4 * spread + 1


def test_the_oracle_equals_simulating_one_state_onwards():
    rng = np.random.default_rng(0)
    for severity, baseline in ((1.0, 0.0), (2.5, 1.5), (3.2, 0.2)):
        state = np.full(20_000, severity)
        deaths = 0
        while len(state):
            dies = rng.random(len(state)) < death_hazard(state)
            leaves = rng.random(len(state)) < discharge_hazard(state)
            deaths += int(dies.sum())
            state = state[~(dies | leaves)]
            shock = rng.random(len(state)) < synthetic_icu.SHOCK_RATE
            jump = shock * rng.normal(synthetic_icu.SHOCK_MEAN, synthetic_icu.SHOCK_SPREAD, len(state))
            state = (
                state
                + synthetic_icu.REVERSION * (baseline - state)
                + synthetic_icu.NOISE * rng.normal(size=len(state))
                + jump
            )
        exact = synthetic_icu._death_probability(np.array([severity]), np.array([baseline]))[0]
        assert deaths / 20_000 == pytest.approx(exact, abs=0.015)


def test_hazards_are_probabilities_and_monotone():
    severity = np.linspace(-8, 12, 500)
    assert (np.diff(death_hazard(severity)) >= 0).all()
    assert (np.diff(discharge_hazard(severity)) <= 0).all()
    for hazard in (death_hazard, discharge_hazard):
        assert ((hazard(severity) >= 0) & (hazard(severity) <= 1)).all()


def test_the_cohort_is_consistent(large):
    rows = large.rows_per_stay
    assert (rows == np.minimum(np.floor(large.length_hours), 48)).all()
    assert (large.length_hours >= 1).all()
    assert len(large.severity) == len(large.readings) == rows.sum()
    assert len(np.unique(large.stays)) == 6000
    people, count = np.unique(large.subjects, return_counts=True)
    assert count.max() == 2
    assert (count == 2).sum() == 600
    again = people[count == 2]
    first = np.flatnonzero(np.isin(large.subjects, again))[:600]
    assert not large.died[first].any()
    second = np.array([np.flatnonzero(large.subjects == large.subjects[stay])[1] for stay in first[:50]])
    np.testing.assert_array_equal(large.factors[second], large.factors[first[:50]])
    np.testing.assert_array_equal(large.sex[second], large.sex[first[:50]])
    assert 0.15 < large.died.mean() < 0.3
    assert 0.7 < (rows == 48).mean() < 0.95


def test_readings_are_possible_and_rounded(large):
    for index, channel in enumerate(CHANNELS):
        column = large.readings[:, index].astype(float)
        column = column[~np.isnan(column)]
        assert len(column) > 1000
        assert column.min() >= channel.low - 1e-6, channel.name
        assert column.max() <= channel.high + 1e-6, channel.name
        np.testing.assert_allclose(column, np.round(column, channel.decimals), atol=1e-4)
        if channel.categories:
            assert set(np.unique(column)) <= set(channel.categories)


def test_related_channels_agree(large):
    parts = [
        COLUMN[f"Glasgow coma scale {part}"] for part in ("eye opening", "verbal response", "motor response")
    ]
    total = large.readings[:, COLUMN["Glasgow coma scale total"]]
    seen = ~np.isnan(total)
    np.testing.assert_array_equal(large.readings[seen][:, parts].sum(axis=1), total[seen])
    assert np.isnan(large.readings[~seen][:, parts]).all()
    pressure = large.readings[
        :, [COLUMN[f"{kind} blood pressure"] for kind in ("Diastolic", "Mean", "Systolic")]
    ]
    pressure = pressure[~np.isnan(pressure).any(axis=1)]
    assert (np.diff(pressure, axis=1) >= 0).all()


def test_missingness_is_informative(large):
    observed = ~np.isnan(large.readings)
    sick = large.severity > np.quantile(large.severity, 0.8)
    well = large.severity < np.quantile(large.severity, 0.2)
    for name in ("pH", "Glucose", "Fraction inspired oxygen", "Temperature"):
        assert observed[sick, COLUMN[name]].mean() > 1.5 * observed[well, COLUMN[name]].mean()
    ward = np.repeat(large.ward, large.rows_per_stay)
    share = [observed[ward == code, COLUMN["Glucose"]].mean() for code in range(3)]
    assert share == sorted(share)


def test_labels_follow_from_the_truth(tensors):
    cohort = simulate()
    arrays = tensors.arrays
    assert tensors.manifest["synthetic"] is True
    rng = np.random.default_rng(0)
    for stay in rng.choice(600, 60, replace=False):
        start, end = cohort.offsets[stay], cohort.offsets[stay + 1]
        assert arrays["labels/mortality"][stay] == cohort.died[stay]
        assert arrays["masks/mortality"][stay] == (end - start >= 48)
        for row in range(start, end):
            hour = row - start + 1
            assert cohort.hour[row] == hour
            remaining = cohort.length_hours[stay] - hour
            assert remaining >= 0
            dying = bool(cohort.died[stay]) and remaining <= 24
            assert arrays["labels/decompensation"][row] == dying
            assert arrays["labels/los"][row] == sum(remaining / 24 >= day for day in LENGTH_OF_STAY_DAYS)
            assert arrays["masks/los"][row] == arrays["masks/decompensation"][row] == (hour >= 5)
    assert (arrays["masks/phenotypes"] == 1).all()
    prevalence = simulate(6000).phenotypes.mean(axis=0)
    assert len(prevalence) == len(PHENOTYPES) == 25
    assert prevalence.min() > 0.02
    assert prevalence.max() < 0.6


def test_values_are_filled_readings_with_one_column_per_category(tensors):
    cohort = simulate()
    observed = ~np.isnan(cohort.readings)
    np.testing.assert_array_equal(tensors.arrays["observed"], observed)
    first = 0
    for index, channel in enumerate(tensors.channels):
        columns = tensors.arrays["values"][:, first : first + len(channel.columns)]
        first += len(channel.columns)
        seen = observed[:, index]
        if CHANNELS[index].categories:
            assert (columns.sum(axis=1) == 1).all()
            decoded = np.array(CHANNELS[index].categories)[columns.argmax(axis=1)]
            np.testing.assert_array_equal(decoded[seen], cohort.readings[seen, index])
        else:
            np.testing.assert_array_equal(columns[seen, 0], cohort.readings[seen, index])
            unseen_start = ~seen[cohort.offsets[:-1]]
            assert (columns[cohort.offsets[:-1]][unseen_start] == np.float32(channel.normal)).all()
    assert first == len(tensors.columns) == 42


def test_splits_keep_subjects_together(tensors):
    arrays = tensors.arrays
    parts = [set(arrays["subjects"][arrays["split"] == code]) for code in range(3)]
    assert all(not (one & two) for one, two in itertools.combinations(parts, 2))
    share = np.array([len(part) for part in parts]) / sum(len(part) for part in parts)
    np.testing.assert_allclose(share, [0.6, 0.2, 0.2], atol=0.01)


def test_the_same_options_give_the_same_bytes_and_another_seed_other_stays(tensors, tmp_path):
    again = prepare(None, tmp_path / "again")
    for path in tensors.folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(tensors.folder)).read_bytes(), path.name
    other = ClinicalTensors.open(prepare(None, tmp_path / "other", seed=1))
    assert other.fingerprint != tensors.fingerprint
    assert other.manifest["options"] == {"stays": 600, "hours": 48, "seed": 1}


@pytest.mark.parametrize("seed", [0, 1])
def test_a_plain_linear_model_of_the_inputs_beats_080_where_the_oracle_has_085(tmp_path, seed):
    tensors = ClinicalTensors.open(prepare(None, tmp_path / "out", seed=seed))
    arrays = tensors.arrays
    stays = np.flatnonzero(arrays["masks/mortality"])
    starts = arrays["offsets"][stays]
    rows = starts[:, None] + np.arange(MORTALITY_HOUR)
    features = np.concatenate(
        [
            arrays["values"][rows].mean(axis=1),
            arrays["values"][rows[:, -8:]].mean(axis=1),
            arrays["observed"][rows].mean(axis=1),
        ],
        axis=1,
    )
    died, split = arrays["labels/mortality"][stays], arrays["split"][stays]
    scaled = StandardScaler().fit(features[split == 0]).transform(features)
    model = LogisticRegression(C=0.003, max_iter=500).fit(scaled[split == 0], died[split == 0])
    score = model.decision_function(scaled)
    held_out = split > 0
    assert roc_auc_score(died[held_out], mortality_oracle(simulate(seed=seed))[stays][held_out]) > 0.85
    assert roc_auc_score(died[held_out], score[held_out]) > 0.8


def test_the_whole_stay_can_be_recorded():
    cohort = simulate(60, None, seed=2)
    np.testing.assert_array_equal(
        cohort.rows_per_stay, np.minimum(np.floor(cohort.length_hours), LONGEST_STAY_HOURS)
    )
    assert cohort.rows_per_stay.max() > 48


def test_small_and_large_cohorts_are_made_in_time(tmp_path):
    start = time.process_time()
    prepare(None, tmp_path / "quick")
    assert time.process_time() - start < 3
    start = time.process_time()
    assert simulate(20_000, 48).readings.shape[1] == 17
    assert time.process_time() - start < 10


def test_options_out_of_range_and_foreign_targets_are_refused(tmp_path):
    with pytest.raises(InputError, match="stays=9"):
        simulate(9)
    with pytest.raises(InputError, match="hours=47"):
        simulate(20, 47)
    with pytest.raises(InputError, match="stays='many'"):
        simulate("many")  # as a shell option would arrive
    with pytest.raises(InputError, match="seed=-1"):
        simulate(20, seed=-1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file.txt").write_text("keep me")
    with pytest.raises(DataError, match="no tensor folder"):
        prepare(None, tmp_path / "mine", stays=20)
    assert (tmp_path / "mine/file.txt").read_text() == "keep me"


def test_ten_stays_are_enough_and_progress_is_told(tmp_path):
    told: list[str] = []
    tensors = ClinicalTensors.open(prepare(None, tmp_path / "out", stays=10, progress=told.append))
    assert len(tensors.arrays["stays"]) == 10
    assert told[0] == "simulating 10 stays"
