"""Shared conventions: filling never looks ahead, splits keep subjects whole, classes start at bounds."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_data.labels import (
    AGE_BANDS,
    LENGTH_OF_STAY_CLASSES,
    LENGTH_OF_STAY_DAYS,
    age_band,
    forward_fill,
    length_of_stay_class,
    split_by_subject,
)


def fill_slowly(
    values: np.ndarray, observed: np.ndarray, offsets: np.ndarray, normal: np.ndarray
) -> np.ndarray:
    filled = np.empty(values.shape, dtype=np.float32)
    for start, end in itertools.pairwise(offsets):
        current = normal.astype(np.float32).copy()
        for row in range(start, end):
            for channel in range(values.shape[1]):
                if observed[row, channel]:
                    current[channel] = values[row, channel]
                filled[row, channel] = current[channel]
    return filled


@st.composite
def ragged(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    channels = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = rng.normal(size=(offsets[-1], channels)).astype(np.float32)
    observed = rng.random(values.shape) < draw(st.sampled_from([0.0, 0.2, 0.7, 1.0]))
    values[~observed] = np.nan
    return values, observed, offsets, rng.normal(size=channels)


@settings(max_examples=100, deadline=None)
@given(ragged())
def test_forward_fill_equals_the_loop_over_rows(case):
    np.testing.assert_array_equal(forward_fill(*case), fill_slowly(*case))


@settings(max_examples=50, deadline=None)
@given(ragged(), st.integers(0, 2**32 - 1))
def test_forward_fill_ignores_everything_later_and_every_other_stay(case, seed):
    values, observed, offsets, normal = case
    rng = np.random.default_rng(seed)
    stay = int(rng.integers(0, len(offsets) - 1))
    row = int(rng.integers(offsets[stay], offsets[stay + 1]))
    kept = np.zeros(len(values), dtype=bool)
    kept[offsets[stay] : row + 1] = True
    scrambled, seen = values.copy(), observed.copy()
    scrambled[~kept] = rng.normal(size=scrambled[~kept].shape)
    seen[~kept] = rng.random(seen[~kept].shape) < 0.5
    before = forward_fill(values, observed, offsets, normal)
    after = forward_fill(scrambled, seen, offsets, normal)
    np.testing.assert_array_equal(before[kept], after[kept])


def test_forward_fill_by_hand():
    nan = np.nan
    values = np.array([[nan, 5], [1, nan], [nan, nan], [nan, nan], [2, nan]], dtype=np.float32)
    filled = forward_fill(values, ~np.isnan(values), np.array([0, 3, 5]), np.array([-1.0, -2.0]))
    np.testing.assert_array_equal(filled, [[-1, 5], [1, 5], [1, 5], [-1, -2], [2, -2]])


def test_length_of_stay_classes_start_at_their_bounds():
    days = [0, 0.99, 1, 1.5, 2, 7.99, 8, 13.99, 14, 400]
    np.testing.assert_array_equal(length_of_stay_class(np.array(days)), [0, 0, 1, 1, 2, 7, 8, 8, 9, 9])
    assert len(LENGTH_OF_STAY_CLASSES) == len(LENGTH_OF_STAY_DAYS) + 1


def test_age_bands_start_at_their_bounds():
    np.testing.assert_array_equal(
        age_band(np.array([0, 44.9, 45, 64, 65, 79, 80, 300])), [0, 0, 1, 1, 2, 2, 3, 3]
    )
    assert len(AGE_BANDS) == 4


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_split_keeps_subjects_together_whatever_the_order(seed):
    rng = np.random.default_rng(seed)
    subjects = rng.integers(0, 120, 300)
    split = split_by_subject(subjects, 0.2, 0.25, seed)
    count = len(np.unique(subjects))
    per_subject = {subject: set(split[subjects == subject]) for subject in subjects}
    assert all(len(codes) == 1 for codes in per_subject.values())
    sizes = np.bincount([next(iter(codes)) for codes in per_subject.values()], minlength=3)
    assert sizes.tolist() == [
        count - round(0.2 * count) - round(0.25 * count),
        round(0.2 * count),
        round(0.25 * count),
    ]
    order = rng.permutation(300)
    np.testing.assert_array_equal(split_by_subject(subjects[order], 0.2, 0.25, seed), split[order])
