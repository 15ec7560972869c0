"""The rule of verdicts: errors at their level, power as stated, and the algebra of all and any."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from relif_book.evidence.judging import (
    LEVEL,
    Part,
    at_least,
    equal,
    fact,
    failing,
    judge,
    lower,
    paired,
    part_power,
    power,
    rank_change,
    seeds_needed,
    unpaired,
)
from relif_core.errors import InputError

probability = st.floats(0, 1)
SUBJECTS = 4000
STUDIES = 1500
#: Three standard errors of a share of 5 % over the simulated studies.
SLACK = 3 * math.sqrt(LEVEL * (1 - LEVEL) / STUDIES)


def studies(true: float, spread: float, seeds: int, subject_error: float, seed: int) -> np.ndarray:
    """Per-seed differences [STUDIES, seeds] of studies that each draw their own test subjects and seeds."""
    generator = np.random.default_rng(seed)
    shared = generator.normal(true, subject_error, (STUDIES, 1))
    return shared + generator.normal(0, spread, (STUDIES, seeds))


@pytest.mark.parametrize("seeds", [3, 7, 30])
@pytest.mark.parametrize("subject_error", [0.0, 0.004])
def test_a_difference_that_is_not_there_is_found_at_the_level(seeds: int, subject_error: float) -> None:
    rows = studies(0.0, 0.008, seeds, subject_error, seed=seeds)
    parts = [lower("a < b", paired(row, subject_error, SUBJECTS)) for row in rows]
    for share in (
        np.mean([part.state == "supported" for part in parts]),
        np.mean([part.state == "contradicted" for part in parts]),
    ):
        assert share <= LEVEL + SLACK
        assert share >= LEVEL - SLACK or seeds < 7


def test_a_difference_at_the_margin_is_called_equal_or_beyond_at_the_level() -> None:
    parts = [equal("a = b", paired(row), 0.006) for row in studies(0.006, 0.008, 30, 0.0, seed=1)]
    assert np.mean([part.state == "supported" for part in parts]) <= LEVEL + SLACK
    assert np.mean([part.state == "contradicted" for part in parts]) <= LEVEL + SLACK


@pytest.mark.parametrize("seeds", [3, 10])
def test_a_claim_of_many_null_parts_errs_at_most_at_the_level(seeds: int) -> None:
    """Six parts, none true or false: Holm keeps contradictions at the level, support next to never comes."""
    rows = [studies(0.0, 0.008, seeds, 0.002, seed=part) for part in range(6)]
    verdicts = [
        judge([lower("", paired(row, 0.002, SUBJECTS)) for row in claim]) for claim in zip(*rows, strict=True)
    ]
    assert verdicts.count("contradicted") / STUDIES <= LEVEL + SLACK
    assert verdicts.count("supported") / STUDIES <= 0.002


def test_rank_changes_of_methods_that_do_not_differ_are_found_at_the_level() -> None:
    """Fixed audits differ clearly, raw audits not at all."""
    raw, fixed = (
        studies(0.0, 0.008, 7, 0.0, seed=3),
        studies(-0.05, 0.008, 7, 0.0, seed=4),
    )
    changes = [rank_change("", paired(a), paired(b)) for a, b in zip(raw, fixed, strict=True)]
    assert np.mean([part.state == "supported" for part in changes]) <= LEVEL + SLACK
    assert rank_change("", paired([0.1, 0.11]), paired([-0.1, -0.11])).state == "supported"
    assert rank_change("", paired([-0.1, -0.11]), paired([-0.1, -0.11])).state == "contradicted"


@pytest.mark.parametrize(
    ("kind", "effect", "margin", "seeds"), [("lower", -0.005, 0.0, 20), ("equal", 0.001, 0.006, 30)]
)
def test_power_is_the_share_of_simulated_studies_that_find_the_effect(
    kind: str, effect: float, margin: float, seeds: int
) -> None:
    make = lower if kind == "lower" else equal
    rows = studies(effect, 0.008, seeds, 0.001, seed=5)
    share = np.mean([make("", paired(row, 0.001, SUBJECTS), margin).state == "supported" for row in rows])
    assert share == pytest.approx(power(kind, effect, 0.008, seeds, 0.001, margin), abs=0.03)
    assert share > 0.7


def test_seeds_of_the_equivalence_test_are_those_of_the_textbook() -> None:
    """A margin of 0.003 at a paired spread of 0.009 to 0.010 needs 79 to 97 seeds, 0.006 about 25."""
    assert seeds_needed(lambda n: power("equal", 0, 0.010, n, margin=0.003)) == 97
    assert seeds_needed(lambda n: power("equal", 0, 0.009, n, margin=0.003)) == 79
    assert seeds_needed(lambda n: power("equal", 0, 0.010, n, margin=0.006)) == 26


@pytest.mark.parametrize(("margin", "seeds"), [(0.01, 1380), (0.02, 152), (0.02, 10_000)])
def test_an_equality_far_inside_its_margin_has_all_power(margin: float, seeds: int) -> None:
    assert power("equal", 0, 0.006, seeds, 0.0002, margin) == pytest.approx(1)
    assert power("lower", -margin, 0.006, seeds, 0.0002) == pytest.approx(1)
    for effect in (3 * margin, -3 * margin):
        assert power("equal", effect, 0.006, seeds, 0.0002, margin) == pytest.approx(0)


def test_too_few_subjects_are_not_mended_by_seeds() -> None:
    part = lower("a < b", paired([-0.01, 0.0, -0.005], subject_error=0.02, subjects=150))
    assert part_power(part)[1] is None
    assert part_power(lower("a < b", paired([-0.01, 0.0, -0.005])))[1] == 8


def test_the_power_of_a_part_is_of_its_own_number_of_subjects() -> None:
    """With seven seeds the subjects' degrees count: 12 subjects show less than 4,000."""
    seeds = [-0.004, -0.006, -0.005, -0.0055, -0.0045, -0.005, -0.005]
    few, many = (lower("a < b", paired(seeds, subject_error=0.002, subjects=n)) for n in (12, 4000))
    for part, subjects in ((few, 12), (many, 4000)):
        spread = part.difference.spread  # type: ignore[union-attr]
        expected = power("lower", -0.005, spread, 7, 0.002, subjects=subjects)
        assert part_power(part)[0] == pytest.approx(expected)
    assert part_power(few)[0] < part_power(many)[0] - 0.01


def test_equal_seeds_give_the_t_tests_of_the_library() -> None:
    first, second = [0.1, 0.3, 0.25, 0.2], [0.2, 0.31, 0.4]
    assert unpaired(first, second).below(0) == pytest.approx(
        stats.ttest_ind(first, second, equal_var=False, alternative="less").pvalue
    )
    assert paired(first).below(0.3) == pytest.approx(stats.ttest_1samp(first, 0.3, alternative="less").pvalue)


def test_the_error_adds_seeds_and_subjects_by_hand() -> None:
    """s² = 8 over 8 seeds, SE_subject 1: error √2, degrees 4 / (1/7 + 1/100); at 2 seeds: one."""
    found = paired([7**0.5] * 4 + [-(7**0.5)] * 4, subject_error=1.0, subjects=101)
    assert found.error == pytest.approx(2**0.5)
    assert found.freedom == pytest.approx(4 / (1 / 7 + 1 / 100))
    assert paired([0.0, 1.0], subject_error=1.0, subjects=101).freedom == pytest.approx(1)


@given(st.lists(st.tuples(probability, probability), min_size=1, max_size=8), st.data())
def test_all_is_the_largest_any_is_bonferroni_and_both_mirror_each_other(
    pairs: list[tuple[float, float]], data: st.DataObject
) -> None:
    parts = [Part("", *pair) for pair in pairs]
    m = len(parts)
    whole, some = at_least(m, "", parts), at_least(1, "", parts)
    assert whole.p_for == max(part.p_for for part in parts)
    assert whole.p_against == min(1, m * min(part.p_against for part in parts))
    assert some.p_for == min(1, m * min(part.p_for for part in parts))
    assert some.p_against == max(part.p_against for part in parts)
    count = data.draw(st.integers(1, m))
    mirrored = at_least(m - count + 1, "", [Part("", part.p_against, part.p_for) for part in parts])
    assert (at_least(count, "", parts).p_for, at_least(count, "", parts).p_against) == (
        mirrored.p_against,
        mirrored.p_for,
    )


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=12), st.floats(0, 0.5), st.floats(0, 1))
def test_no_part_holds_and_fails_at_once(values: list[float], margin: float, subject_error: float) -> None:
    found = paired(values, subject_error, SUBJECTS)
    for part in (lower("", found, margin), equal("", found, margin)):
        assert 0 <= part.p_for <= 1
        assert 0 <= part.p_against <= 1
        assert part.p_for + part.p_against >= 1 - 1e-9 or found.error == 0


def test_holm_names_the_parts_that_fail() -> None:
    parts = [Part("a", 1, 0.001), Part("b", 1, 0.02), Part("c", 1, 0.04), Part("d", 0.01, 0.9)]
    assert [part.text for part in failing(parts)] == ["a"]
    assert judge(parts) == "contradicted"
    assert judge([fact("counted", True), parts[3]]) == "supported"
    assert judge([fact("counted", False), parts[3]]) == "contradicted"


def test_one_seed_and_impossible_counts_are_refused() -> None:
    with pytest.raises(InputError, match="one seed shows no spread between seeds"):
        paired([0.1])
    with pytest.raises(InputError, match="at least 3 of 1 parts cannot be asked"):
        at_least(3, "too many", [fact("x", True)])
