"""Audits about individuals equal their definition pair by pair, and see what the paper's audit cannot."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.audit import (
    ScoreMap,
    SimilarPairs,
    audit,
    coupling_bounds,
    lipschitz_limit,
    same_subject_audit,
    similar_pair_audit,
    similar_pairs,
)
from relif_core.audit.neighbours import nearest_neighbours
from relif_core.errors import InputError
from tests.relif_core.audit.brute_force import tolerances

SEEDS = st.integers(0, 2**32 - 1)


def sample(seed: int, tasks: int, most: int = 80):
    """Return scores, subjects and inputs of some tasks: ties, repeated subjects, equal inputs among them."""
    generator = np.random.default_rng(seed)
    scores, subjects, inputs = {}, {}, {}
    for task in "abc"[:tasks]:
        size = int(generator.integers(12, most))
        scores[task] = generator.choice([generator.random(size), generator.integers(0, 5, size) / 4])
        subjects[task] = generator.integers(0, size, size)
        subjects[task][:8] = np.arange(8)
        inputs[task] = generator.normal(size=(size, 3))
        if generator.random() < 0.5:
            inputs[task] = np.round(inputs[task])
    return scores, subjects, inputs


def dyadic_error(pairs: list[tuple[int, int]], deviations: np.ndarray) -> float:
    """Return the standard error from all products of deviations whose pairs share a person, one by one."""
    people = len({person for pair in pairs for person in pair})
    ends = np.array(pairs)
    shared = (ends[:, None, :, None] == ends[None, :, None, :]).any(axis=(2, 3))
    variance = deviations @ shared @ deviations
    dyads: dict[frozenset, float] = {}
    for pair, deviation in zip(pairs, deviations, strict=True):
        dyads[frozenset(pair)] = dyads.get(frozenset(pair), 0.0) + deviation
    return np.sqrt(max(variance, sum(value**2 for value in dyads.values())) * people / (people - 1))


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, tolerance=tolerances, tasks=st.integers(2, 3))
def test_same_subject_equals_brute_force(seed: int, tolerance: float, tasks: int) -> None:
    scores, subjects, _ = sample(seed, tasks, most=300)
    result = same_subject_audit(scores, subjects, tolerance)
    for row in result.rows:
        i, j = row.tasks
        common = sorted(set(subjects[i]) & set(subjects[j]))
        gaps = [
            np.abs(scores[i][subjects[i] == person][:, None] - scores[j][subjects[j] == person]).ravel()
            for person in common
        ]
        excess = np.array([np.maximum(gap - tolerance, 0).mean() for gap in gaps])
        share = np.array([(gap > tolerance).mean() for gap in gaps])
        assert (row.subjects, row.pairs) == (len(common), sum(map(len, gaps)))
        assert row.excess == pytest.approx(excess.mean(), abs=1e-12)
        assert row.share == pytest.approx(share.mean(), abs=1e-12)
        assert row.gap == pytest.approx(np.mean([gap.mean() for gap in gaps]), abs=1e-12)
        assert row.excess_se == pytest.approx(excess.std(ddof=1) / np.sqrt(len(common)), abs=1e-12)
        assert row.share_se == pytest.approx(share.std(ddof=1) / np.sqrt(len(common)), abs=1e-12)
    assert result.excess == pytest.approx(np.mean([row.excess for row in result.rows]), abs=1e-15)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, tolerance=tolerances, tasks=st.integers(2, 3), scale=st.floats(1e-3, 1e3))
def test_whole_weights_are_repeated_people(seed: int, tolerance: float, tasks: int, scale: float) -> None:
    """Their errors are the jackknife's that leaves a person out with all copies."""
    scores, subjects, _ = sample(seed, tasks, most=24)
    times = np.random.default_rng(seed).integers(0, 4, 24)
    times[:3] = 1, 2, 3
    copies = {task: times[own] for task, own in subjects.items()}
    found = same_subject_audit(scores, subjects, tolerance, weights={t: scale * w for t, w in copies.items()})
    repeated = {task: np.repeat(values, copies[task]) for task, values in scores.items()}
    origin = {task: np.repeat(own, copies[task]) for task, own in subjects.items()}
    people = {
        task: 10 * own + np.concatenate([np.arange(number) for number in copies[task]])
        for task, own in origin.items()
    }
    plain = same_subject_audit(repeated, people, tolerance)
    for one, other in ((found, plain), *zip(found.rows, plain.rows, strict=True)):
        for name in ("gap", "excess", "share"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-12)
    for row in found.rows:
        common = np.intersect1d(*(origin[task] for task in row.tasks))
        assert row.subjects == len(common)
        without = []
        for person in common:
            rest = [
                {task: part[task][origin[task] != person] for task in row.tasks}
                for part in (repeated, people)
            ]
            without.append(same_subject_audit(*rest, tolerance))
        for name in ("excess", "share"):
            moved = np.array([getattr(row, name) - getattr(one, name) for one in without])
            wanted = np.sqrt((len(common) - 1) / len(common) * np.square(moved).sum())
            assert getattr(row, f"{name}_se") == pytest.approx(wanted, abs=1e-12)
            kish = times[common].sum() ** 2 / np.square(times[common]).sum()
            assert 0 < getattr(row, f"{name}_freedom") <= kish - 1 + 1e-9


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, tolerance=tolerances)
def test_people_and_samples_of_weight_0_change_nothing_and_equal_weights_neither(
    seed: int, tolerance: float
) -> None:
    scores, subjects, _ = sample(seed, 3)
    generator = np.random.default_rng(seed)
    people = generator.gamma(1, size=80) * (generator.random(80) > 0.2)
    people[:4] = 0.5
    weights = {task: people[own] for task, own in subjects.items()}
    for own in weights.values():
        own[8:] *= generator.random(len(own) - 8) > 0.2
    kept = {task: own > 0 for task, own in weights.items()}
    parts = [{task: part[task][kept[task]] for task in part} for part in (scores, subjects, weights)]
    equal = {task: np.full(len(own), 0.3) for task, own in scores.items()}
    for one, other in (
        (
            same_subject_audit(scores, subjects, tolerance, weights=weights),
            same_subject_audit(*parts[:2], tolerance, weights=parts[2]),
        ),
        (
            same_subject_audit(scores, subjects, tolerance, weights=equal),
            same_subject_audit(scores, subjects, tolerance),
        ),
    ):
        for own, its in ((one, other), *zip(one.rows, other.rows, strict=True)):
            assert own.subjects == its.subjects
            for name in ("gap", "excess", "share", "excess_se", "share_se", "excess_freedom"):
                assert getattr(own, name) == pytest.approx(getattr(its, name), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, lipschitz=st.sampled_from([0.0, 0.1, 0.5, 2.0]), k=st.integers(1, 5))
def test_similar_pairs_equal_brute_force(seed: int, lipschitz: float, k: int) -> None:
    scores, subjects, inputs = sample(seed, 2)
    result = similar_pair_audit(scores, similar_pairs(inputs, subjects=subjects, k=k), lipschitz)
    everyone, everything = [], [[], []]
    for row in result.rows:
        (task,) = row.tasks
        pairs, excess, share = [], [], []
        for a, point in enumerate(inputs[task]):
            distance = np.sqrt(np.square(point - inputs[task]).sum(axis=1))
            distance[subjects[task] == subjects[task][a]] = np.inf
            for b in np.argsort(distance, kind="stable")[:k]:
                gap = abs(scores[task][a] - scores[task][b])
                pairs.append((int(subjects[task][a]), int(subjects[task][b])))
                excess.append(max(0.0, gap - lipschitz * distance[b]))
                share.append(float(gap > lipschitz * distance[b]))
        assert row.excess == pytest.approx(np.mean(excess), abs=1e-12)
        assert row.share == pytest.approx(np.mean(share), abs=1e-12)
        for error, terms, total in zip(
            (row.excess_se, row.share_se), (excess, share), everything, strict=True
        ):
            deviations = (np.array(terms) - np.mean(terms)) / len(terms)
            assert error == pytest.approx(dyadic_error(pairs, deviations), abs=1e-12)
            total.append(deviations / 2)
        everyone += pairs
    for error, parts in zip((result.excess_se, result.share_se), everything, strict=True):
        assert error == pytest.approx(dyadic_error(everyone, np.concatenate(parts)), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, kind=st.sampled_from(["normal", "grid", "one point", "outlier"]), k=st.integers(1, 7))
def test_neighbours_are_those_of_all_distances(seed: int, kind: str, k: int) -> None:
    generator = np.random.default_rng(seed)
    size, width = (
        int(generator.integers(1, 400 if kind == "one point" else 2600)),
        int(generator.integers(1, 6)),
    )
    points = generator.normal(size=(size, width))
    points = {"normal": points, "grid": np.round(points), "one point": 0 * points + 3, "outlier": points}[
        kind
    ]
    if kind == "outlier":
        points[1:] *= 1e-9
        points[0] = 1e12
    codes = generator.integers(0, 2 + size // 2, size)
    indices, distances = nearest_neighbours(points, codes, k)
    for a in generator.integers(0, size, 40):
        square = np.einsum("nd,nd->n", points[a] - points, points[a] - points)
        square[codes == codes[a]] = np.inf
        nearest = np.argsort(square, kind="stable")[:k]
        held = np.isfinite(square[nearest])
        assert indices[a][: held.sum()].tolist() == nearest[held].tolist()
        assert (indices[a][held.sum() :] == -1).all()
        np.testing.assert_array_equal(distances[a][: held.sum()], np.sqrt(square[nearest][held]))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, tolerance=tolerances)
def test_order_of_samples_and_names_of_people_do_not_matter(seed: int, tolerance: float) -> None:
    scores, subjects, inputs = sample(seed, 2)
    inputs = {
        task: array + np.random.default_rng(seed).normal(size=array.shape) for task, array in inputs.items()
    }
    generator = np.random.default_rng(seed)
    orders = {task: generator.permutation(len(array)) for task, array in scores.items()}
    names = np.array([f"person {number}" for number in generator.permutation(1000)])
    moved = [{task: part[task][orders[task]] for task in part} for part in (scores, subjects, inputs)]
    renamed = {task: names[array] for task, array in moved[1].items()}
    turn = np.linalg.qr(generator.normal(size=(3, 3)))[0]
    turned = {task: array @ turn + 5.0 for task, array in moved[2].items()}
    for one, other in (
        (same_subject_audit(scores, subjects, tolerance), same_subject_audit(moved[0], renamed, tolerance)),
        (
            similar_pair_audit(scores, similar_pairs(inputs, subjects=subjects), 0.3),
            similar_pair_audit(moved[0], similar_pairs(turned, subjects=renamed), 0.3),
        ),
    ):
        for name in ("gap", "excess", "share", "excess_se", "share_se"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, tolerance=tolerances)
def test_handing_scores_to_other_people_moves_both_audits_and_not_the_papers(
    seed: int, tolerance: float
) -> None:
    """Between the comonotone and the countermonotone hand-out, which attain the bounds."""
    generator = np.random.default_rng(seed)
    first, second = np.sort(generator.random((2, 50)), axis=1)
    subjects = {"a": np.arange(50), "b": np.arange(50)}
    low, high = coupling_bounds(first, second, tolerance)
    fixed = audit({"a": first, "b": second}, tolerance).bias
    for order, bound in (
        (slice(None), low),
        (slice(None, None, -1), high),
        (generator.permutation(50), None),
    ):
        handed = {"a": first, "b": second[order]}
        value = same_subject_audit(handed, subjects, tolerance).excess
        assert low - 1e-12 <= value <= high + 1e-12
        assert bound is None or value == pytest.approx(bound, abs=1e-12)
        assert audit(handed, tolerance).bias == pytest.approx(fixed, abs=1e-12)


def test_worked_by_hand() -> None:
    """Four people on a line at 0, 1, 3, 6: nearest neighbours 1, 0, 1, 3 steps away from them."""
    scores = {"a": [0.0, 0.5, 0.5, 0.6]}
    pairs = similar_pairs({"a": [[0.0], [1.0], [3.0], [6.0]]}, k=1)
    result = similar_pair_audit(scores, pairs, 0.2)
    assert result.excess == pytest.approx((0.3 + 0.3 + 0 + 0) / 4)
    assert result.share == 0.5
    assert lipschitz_limit(scores, pairs, 0.5)["a"] == pytest.approx(0.1 / 3)
    same = same_subject_audit({"a": [0.1, 0.5], "b": [0.7, 0.3]}, {"a": [1, 1], "b": [1, 1]}, 0.3)
    assert same.excess == pytest.approx((0.3 + 0 + 0 + 0) / 4)
    assert same.share == 0.25
    assert np.isnan(same.excess_se)
    scores, subjects = {"a": [0.1, 0.5, 0.9], "b": [0.7, 0.3, 0.2]}, dict.fromkeys("ab", (1, 2, 3))
    same = same_subject_audit(scores, subjects, 0.3, weights=dict.fromkeys("ab", (3, 1, 0)))
    assert (same.excess, same.share) == (pytest.approx((3 * 0.3 + 0) / 4), 0.75)
    assert same.excess_se == pytest.approx(np.sqrt((0.225**2 + 0.075**2) / 2))
    assert (same.subjects, same.excess_freedom) == (2, pytest.approx(4**2 / (3**2 + 1**2) - 1))


def ratio_of(values: np.ndarray, pairs: tuple[np.ndarray, ...]) -> np.ndarray:
    a, b, distance = pairs
    gap = np.abs(values[a] - values[b])
    return np.divide(gap, distance, out=np.where(gap > 0, np.inf, 0.0), where=distance > 0)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, lipschitz=st.floats(0, 1))
def test_whole_weights_repeat_the_sample_whose_neighbour_is_asked_for(seed: int, lipschitz: float) -> None:
    scores, subjects, inputs = sample(seed, 2)
    times = {task: np.random.default_rng(seed).integers(0, 4, len(values)) for task, values in scores.items()}
    pairs = similar_pairs(inputs, subjects=subjects, k=1)
    found = similar_pair_audit(scores, pairs, lipschitz, weights=times)
    for row in found.rows:
        (task,) = row.tasks
        a, b, distance = (np.repeat(part, times[task]) for part in pairs.pairs[task])
        excess = np.maximum(np.abs(scores[task][a] - scores[task][b]) - lipschitz * distance, 0)
        assert row.excess == pytest.approx(excess.mean(), abs=1e-12)
        people = [tuple(own) for own in subjects[task][np.array([a, b])].T]
        assert row.excess_se == pytest.approx(
            dyadic_error(people, (excess - excess.mean()) / len(excess)), abs=1e-12
        )
        ratios = np.repeat(ratio_of(scores[task], pairs.pairs[task]), times[task])
        least = min(one for one in ratios if np.count_nonzero(ratios > one) <= 0.25 * len(ratios))
        own = {task: scores[task]}, pairs, 0.25
        if np.isinf(least):
            with pytest.raises(InputError, match="no L allows for them"):
                lipschitz_limit(*own, weights=times)
        else:
            assert lipschitz_limit(*own, weights=times)[task] == least
    equal = similar_pair_audit(
        scores, pairs, lipschitz, weights={t: np.ones(len(s)) for t, s in scores.items()}
    )
    plain = similar_pair_audit(scores, pairs, lipschitz)
    for name in ("gap", "excess", "share", "excess_se", "share_se", "subjects"):
        assert getattr(equal, name) == pytest.approx(getattr(plain, name), abs=1e-12)


def test_standard_errors_are_those_of_repeated_samples_or_a_little_larger() -> None:
    generator = np.random.default_rng(0)
    found = []
    for _ in range(300):
        inputs = generator.normal(size=(200, 2))
        scores = 1 / (1 + np.exp(-inputs[:, 0] - generator.normal(size=200)))
        result = similar_pair_audit({"a": scores}, similar_pairs({"a": inputs}, k=3), 0.3)
        found.append((result.excess, result.share, result.excess_se, result.share_se))
    estimates, errors = np.array(found)[:, :2], np.array(found)[:, 2:]
    ratio = errors.mean(axis=0) / estimates.std(axis=0, ddof=1)
    assert ((ratio > 0.95) & (ratio < 1.3)).all(), ratio


def test_the_limit_leaves_the_share_that_was_asked_for() -> None:
    generator = np.random.default_rng(1)
    inputs = {"a": generator.normal(size=(500, 4)), "b": generator.normal(size=(400, 4))}
    scores = {task: generator.random(len(array)) for task, array in inputs.items()}
    pairs = similar_pairs(inputs)
    for row in similar_pair_audit(scores, pairs, lipschitz_limit(scores, pairs, 0.2)).rows:
        assert row.share == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.3, 0.4, 0.7])
@pytest.mark.parametrize("number", [10, 20, 70])
def test_the_limit_is_the_least_ratio_that_so_many_lie_above(number: int, alpha: float) -> None:
    """Also where n(1 − α) is a whole number that binary fractions miss."""
    scores = {"a": np.append(np.zeros(number), np.arange(1, number + 1) / number)}
    places = np.arange(number)
    pairs = SimilarPairs({"a": (places, places + number, np.ones(number))}, {"a": np.arange(2 * number)})
    least = min(k for k in range(1, number + 1) if number - k <= number * Fraction(str(alpha)))
    for weights in (None, {"a": np.full(2 * number, 0.3)}):
        assert lipschitz_limit(scores, pairs, alpha, weights=weights)["a"] == least / number


def test_pairs_of_the_rows_that_have_a_score_fit_its_frame() -> None:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"a": generator.random(30)}, index=np.arange(100, 130))
    frame.loc[103, "a"] = np.nan
    held = frame["a"].notna()
    inputs = pd.DataFrame(generator.normal(size=(30, 2)), index=frame.index)[held]
    expected = similar_pair_audit(
        {"a": frame["a"][held].to_numpy()}, similar_pairs({"a": inputs.to_numpy()}), 0.1
    )
    assert similar_pair_audit(frame, similar_pairs({"a": inputs}), 0.1) == expected
    mapped = ScoreMap(a="identity").scores(frame)
    assert similar_pair_audit(mapped, similar_pairs({"a": inputs}), 0.1) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, u, x: same_subject_audit(s, {**u, "b": u["b"] + 1000}, 0.1), "no subject in common"),
        (
            lambda s, u, x: same_subject_audit(s, u, 0.1, weights={"a": [1] * 10, "b": [1] * 9 + [2]}),
            "task 'a': 1 subjects have samples of another weight.*give all samples of a subject one weight",
        ),
        (
            lambda s, u, x: same_subject_audit(s, u, 0.1, weights={"a": [1] * 10}),
            "task 'b': weights are miss",
        ),
        (lambda s, u, x: similar_pair_audit(s, similar_pairs(x), -1.0), "at least 0"),
        (
            lambda s, u, x: similar_pair_audit(s, similar_pairs(x), {"a": 1.0}),
            "task 'b': lipschitz is missing",
        ),
        (lambda s, u, x: similar_pair_audit(s, similar_pairs({"a": x["a"]}), 1.0), "task 'b': no pairs"),
        (
            lambda s, u, x: similar_pair_audit({"a": s["a"][1:]}, similar_pairs(x), 1.0),
            "9 scores, but the pairs are of 10",
        ),
        (lambda s, u, x: similar_pair_audit(s, x, 1.0), "pairs must come from similar_pairs"),
        (lambda s, u, x: similar_pair_audit({}, similar_pairs(x), 1.0), "at least one"),
        (
            lambda s, u, x: similar_pairs({**x, "b": x["b"][:, 0]}),
            "task 'b': inputs must be numbers of shape",
        ),
        (lambda s, u, x: similar_pairs({**x, "a": x["a"] * np.nan}), "not finite"),
        (
            lambda s, u, x: similar_pairs({**x, "b": x["b"] * 1e300}),
            "'b': 9 of 10 inputs are not fin.* beyond",
        ),
        (
            lambda s, u, x: similar_pairs(x, subjects={**u, "b": u["b"][1:]}),
            "task 'b': subjects are misaligned",
        ),
        (lambda s, u, x: similar_pairs(x, k=0), "k must be an integer of at least 1"),
        (lambda s, u, x: similar_pairs(x, k=20), "fewer than 20 samples of other subjects"),
        (lambda s, u, x: lipschitz_limit(s, similar_pairs(x), 1.0), "alpha must lie"),
        (
            lambda s, u, x: lipschitz_limit(s, similar_pairs({t: 0 * v for t, v in x.items()}), 0.1),
            "equal inputs and different",
        ),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    subjects = {"a": np.arange(10), "b": np.arange(10)}
    scores = {"a": np.arange(10) / 10, "b": np.arange(10) / 20}
    inputs = {"a": np.arange(20.0).reshape(10, 2), "b": np.arange(10.0)[:, None]}
    with pytest.raises(InputError, match=message):
        call(scores, subjects, inputs)
