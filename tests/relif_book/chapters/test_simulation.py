"""The simulated cohorts behave as their formulas say."""

import numpy as np
import pytest

from relif_book.chapters.simulation import SIMULATED_TASKS, simulated_method, simulated_patients
from relif_core.errors import InputError


def test_the_same_seed_gives_the_same_cohort():
    first, second = (simulated_method(simulated_patients(np.random.default_rng(3), 50)) for _ in range(2))
    for task in SIMULATED_TASKS:
        np.testing.assert_array_equal(first.scores[task], second.scores[task])
        np.testing.assert_array_equal(first.subjects[task], second.subjects[task])


def test_scores_subjects_and_embeddings_are_aligned_and_in_range():
    cohort = simulated_method(simulated_patients(np.random.default_rng(0), 40, label_share=0.1))
    for task in SIMULATED_TASKS:
        scores = cohort.scores[task]
        assert len(scores) == len(cohort.subjects[task]) == len(cohort.embeddings[task]) >= 5
        assert np.all((scores > 0) & (scores < 1))
        assert len(np.unique(cohort.subjects[task])) == len(scores)


def test_severities_have_the_asked_correlation():
    patients = simulated_patients(np.random.default_rng(1), 20_000)
    correlation = np.corrcoef(patients.severity.T)
    np.testing.assert_allclose(correlation[~np.eye(4, dtype=bool)], 0.6, atol=0.02)
    np.testing.assert_allclose(patients.severity.var(axis=0), 1.0, atol=0.05)


def test_separation_moves_embeddings_and_no_score():
    patients = simulated_patients(np.random.default_rng(2), 60)
    near, far = (simulated_method(patients, separation=value) for value in (0.2, 2.0))
    for task in SIMULATED_TASKS:
        np.testing.assert_array_equal(near.scores[task], far.scores[task])
        assert np.ptp(far.embeddings[task]) > np.ptp(near.embeddings[task])


def test_a_score_follows_its_formula():
    patients = simulated_patients(np.random.default_rng(4), 10, label_share=1.0)
    cohort = simulated_method(patients, sharpness=2.0, shift=0.5)
    logit = 2.0 * (patients.centre[1] + patients.spread[1] * patients.severity[3, 1]) + 0.5
    assert cohort.scores["decompensation"][3] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-12)


@pytest.mark.parametrize("options", [{"patients": 4}, {"label_share": 0.0}], ids=str)
def test_bad_sizes_are_named(options):
    with pytest.raises(InputError, match=next(iter(options))):
        simulated_patients(np.random.default_rng(0), **options)
