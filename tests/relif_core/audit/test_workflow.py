"""Ruler, audit and verdict: one score map, comparisons under one ruler only, nothing files cannot hold."""

import json
from typing import Any

import jsonschema
import matplotlib as mpl
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.audit import (
    CARD_SCHEMA,
    Audit,
    AuditResult,
    HistogramSketch,
    InfluenceSums,
    MappedScores,
    Ruler,
    ScoreMap,
    audit,
    calibrate,
    compare,
    conformal_tolerance,
    lipschitz_limit,
    reference_distances,
    similar_pair_audit,
    similar_pairs,
    workflow,
)
from relif_core.audit.uncertainty import combined_error
from relif_core.audit.workflow import holm
from relif_core.errors import ComparabilityError, InputError, RecordError

GENERATOR = np.random.default_rng(0)
ROWS = 120
IDS = np.arange(ROWS) // 2
SEXES = np.where(IDS % 2 == 0, "F", "M")


def outputs(shift: float = 0.0) -> dict[str, Any]:
    latent = np.repeat(GENERATOR.normal(size=ROWS // 2), 2)
    return {
        "mortality": latent - 1 + shift,
        "stay": GENERATOR.normal(size=(ROWS, 5)),
        "depth": np.exp(latent + shift),
        "patient": IDS,
        "sex": SEXES,
    }


REFERENCE = outputs()
SCORES = ScoreMap(mortality="sigmoid", stay="max_softmax", depth=("quantile", 0.1, 0.9)).fit(REFERENCE)
EMBEDDINGS = GENERATOR.normal(size=(ROWS, 4))
RULER = calibrate(EMBEDDINGS, SCORES, subject=IDS, alpha=0.4, matchings=30, reference="ERM, validation")


def measured(name: str, shift: float = 0.0, ruler: Ruler = RULER) -> Audit:
    found = outputs(shift)
    return Audit(
        ruler.scores(found), ruler, subject="patient", group="sex", name=name, dataset="d", split="test"
    )


FIRST, SECOND, THIRD = measured("a"), measured("b", 0.5), measured("c", 1.0)


def test_rules_are_those_of_their_formulas() -> None:
    found = SCORES.scores(REFERENCE)
    low, high = np.quantile(REFERENCE["depth"], [0.1, 0.9])
    softmax = np.exp(REFERENCE["stay"]) / np.exp(REFERENCE["stay"]).sum(axis=1, keepdims=True)
    assert found["mortality"] == pytest.approx(1 / (1 + np.exp(-REFERENCE["mortality"])))
    assert found["stay"] == pytest.approx(softmax.max(axis=1))
    assert found["depth"] == pytest.approx(np.clip((REFERENCE["depth"] - low) / (high - low), 0, 1))
    assert ScoreMap(p="max_sigmoid").scores({"p": [[-1.0, 2.0]]})["p"] == pytest.approx(
        [1 / (1 + np.exp(-2))]
    )
    assert isinstance(found, MappedScores)
    assert list(found.rest) == ["patient", "sex"]


@settings(max_examples=50, deadline=None)
@given(logits=st.lists(st.lists(st.floats(-1e308, 1e308), min_size=3, max_size=3), min_size=1, max_size=20))
def test_scores_of_any_finite_logits_lie_in_the_unit_interval(logits: list[list[float]]) -> None:
    with np.errstate(over="ignore"):
        for rule in ("max_softmax", "max_sigmoid"):
            found = ScoreMap(a=rule).scores({"a": logits})["a"]
            assert ((found >= 0) & (found <= 1)).all()


def test_the_map_is_fitted_on_the_reference_and_applied_to_others() -> None:
    other = outputs(2.0)
    assert not np.allclose(
        SCORES.scores(other)["depth"],
        ScoreMap(depth=("quantile", 0.1, 0.9)).fit(other).scores(other)["depth"],
    )
    with pytest.raises(InputError, match="task 'depth': the score map is not fitted"):
        ScoreMap(depth=("quantile", 0.1, 0.9)).scores(other)


def test_an_infinite_logit_is_certain_and_in_the_pool() -> None:
    logits = [[np.inf, 0.0], [-np.inf, 0.0], [np.inf, np.inf], [0.0, 0.0], [np.nan, 0.0]]
    found = ScoreMap(a="max_softmax").scores({"a": logits})["a"]
    assert found.tolist() == [1.0, 1.0, 0.5, 0.5, None]


@pytest.mark.parametrize(
    ("rule", "shape", "needs"),
    [("max_softmax", (3, 1), r"\[n, K\], K at least 2"), ("max_sigmoid", (3, 0), r"\[n, K\]$")],
)
def test_one_class_alone_has_no_softmax_and_no_class_no_score(
    rule: str, shape: tuple[int, int], needs: str
) -> None:
    """The softmax would be 1 for every sample."""
    with pytest.raises(InputError, match=f"{rule} needs {needs}"):
        ScoreMap(a=rule).scores({"a": np.zeros(shape)})
    with pytest.raises(InputError, match="max_softmax needs"):
        ScoreMap(a=("max_softmax", "los")).scores({"los": np.zeros(3), "los_1": np.zeros(3)})


@pytest.mark.parametrize("kind", [dict, pd.DataFrame, pl.DataFrame])
def test_the_order_of_columns_does_not_matter(kind: Any) -> None:
    scores = {task: np.random.default_rng(4).random(20) for task in "ab"}
    ruler = calibrate(EMBEDDINGS, ScoreMap(b="identity", a="identity"), alpha=0.6, matchings=2)
    first, second = (Audit(kind({task: scores[task] for task in order}), ruler) for order in ("ab", "ba"))
    assert first.result == second.result
    assert first.result.tasks == ("b", "a")
    assert first.compare(second)[0].comparison.difference == 0


def test_groups_of_integers_are_named_by_integers() -> None:
    found = Audit(RULER.scores(REFERENCE), RULER, subject="patient", group=IDS % 2)
    assert found.group_difference(0, 1) == found.group_difference("0", "1")


def test_nested_json_without_end_is_no_file_of_ours() -> None:
    for kind in (Ruler, Audit, AuditResult, HistogramSketch, InfluenceSums):
        with pytest.raises(RecordError):
            kind.from_json("[" * 200_000)
    with pytest.raises(RecordError, match="schema 'relif-ruler/2', this version reads 'relif-ruler/1'"):
        Ruler.from_json(RULER.to_json().replace("relif-ruler/1", "relif-ruler/2"))


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_frames_give_the_same_audit(library: Any) -> None:
    raw = outputs()
    table = library.DataFrame(
        {"patient": raw["patient"], "sex": raw["sex"], "mortality": raw["mortality"], "depth": raw["depth"],
         **{f"los_{k}": raw["stay"][:, k] for k in range(5)}}
    )  # fmt: skip
    rules = ScoreMap(mortality="sigmoid", stay=("max_softmax", "los_*"), depth=("quantile", 0.1, 0.9))
    ruler = calibrate(EMBEDDINGS, rules.fit(table), subject=IDS, alpha=0.4, matchings=2)
    found = Audit(ruler.scores(table), ruler, subject="patient", group="sex")
    plain = ruler.scores({**{name: table[name] for name in table.columns}})
    again = Audit({task: plain[task] for task in plain}, ruler, subject=IDS, group=SEXES)
    assert found.result == again.result
    frame = library.DataFrame(
        {**{task: np.asarray(plain[task]) for task in plain}, "patient": IDS, "sex": SEXES}
    )
    assert Audit(frame, ruler, subject="patient", group="sex").result == found.result


@pytest.mark.parametrize("library", [pd, pl], ids=["pandas", "polars"])
def test_a_row_of_a_frame_is_a_subject(library: Any) -> None:
    """As of the function ``audit``: what one row's scores have in common is no spread."""
    drawn = np.random.default_rng(3).random(40)
    frame = library.DataFrame({"a": drawn, "b": np.append(drawn[1:], np.nan)})
    ruler = calibrate(EMBEDDINGS, ScoreMap(a="identity", b="identity"), alpha=0.6, matchings=2)
    expected = audit(frame, ruler.tolerance)
    for scores in (frame, ruler.scores(frame)):
        found = Audit(scores, ruler).result
        assert (found.clustered_by, found.clusters) == ("subject", 40)
        assert (found.bias_se, found.samples) == (expected.bias_se, {"a": 40, "b": 39})
    apart = Audit(ruler.scores({"a": drawn, "b": drawn}), ruler).result
    assert (apart.clustered_by, apart.clusters) == ("sample", 80)


def test_an_output_of_nan_is_in_no_pool() -> None:
    raw = outputs()
    raw["mortality"][[3, 5]] = np.nan
    result = Audit(RULER.scores(raw), RULER, subject="patient").result
    assert result.samples == {"mortality": ROWS - 2, "stay": ROWS, "depth": ROWS}


def test_the_tolerance_is_that_of_its_seed_and_the_spread_that_of_all() -> None:
    every = [conformal_tolerance(reference_distances(EMBEDDINGS, IDS, seed), 0.4) for seed in range(30)]
    assert RULER.tolerance == every[0]
    assert RULER.spread == pytest.approx(
        {
            "low": min(every),
            "median": np.median(every),
            "high": max(every),
            "deviation": np.std(every, ddof=1),
        }
    )
    assert RULER.pairs == 30


def test_a_ruler_survives_json_and_betrays_changes() -> None:
    found = Ruler.from_json(RULER.to_json())
    assert found.sha256 == RULER.sha256
    assert found.scores(REFERENCE)["depth"].tolist() == RULER.scores(REFERENCE)["depth"].tolist()
    content = json.loads(RULER.to_json())
    content["tolerance"] /= 2
    with pytest.raises(RecordError, match="changed after it was made"):
        Ruler.from_json(json.dumps(content))
    with pytest.raises(RecordError, match="this is no ruler"):
        Ruler.from_json("{}")


def test_comparisons_are_those_of_the_audits_and_adjusted_together() -> None:
    found = FIRST.compare(SECOND, THIRD)
    assert [one.comparison for one in found] == [
        compare(FIRST.result, other.result) for other in (SECOND, THIRD)
    ]
    assert [one.adjusted_p_value for one in found] == holm([one.comparison.p_value for one in found])
    plain = FIRST.compare(SECOND, THIRD, adjust="none")
    assert [one.adjusted_p_value for one in plain] == [one.comparison.p_value for one in found]
    # A level of 1 − p is where the interval touches 0.
    exact = compare(FIRST.result, THIRD.result, 1 - found[1].comparison.p_value)
    assert min(np.abs(exact.interval)) == pytest.approx(0, abs=1e-6)


def test_another_ruler_or_map_is_refused() -> None:
    for other in (
        calibrate(EMBEDDINGS, SCORES, subject=IDS, alpha=0.4, matchings=30, seed=1),
        calibrate(EMBEDDINGS, SCORES.fit(outputs(1.0)), subject=IDS, alpha=0.4, matchings=30),
    ):
        with pytest.raises(ComparabilityError, match="different rulers"):
            FIRST.compare(measured("other", ruler=other))


def test_difference_of_groups_is_that_of_independent_subjects() -> None:
    found = FIRST.group_difference("F", "M")
    women, men = FIRST.result.groups["F"], FIRST.result.groups["M"]
    assert found.difference == women.bias - men.bias
    assert found.standard_error == pytest.approx(np.hypot(women.bias_se, men.bias_se), rel=1e-12)
    with pytest.raises(InputError, match="group 'X' was not audited; there are F, M"):
        FIRST.group_difference("F", "X")


def grouped(subjects: Any, groups: Any) -> Audit:
    generator = np.random.default_rng(6)
    ruler = calibrate(EMBEDDINGS, ScoreMap(a="identity", b="identity"), subject=IDS, alpha=0.9, matchings=2)
    scores = {task: generator.random(len(subjects)) for task in "ab"}
    return Audit(scores, ruler, subject=subjects, group=groups)


@pytest.mark.parametrize(
    ("subjects", "groups", "freedom"),
    [
        (np.repeat(np.arange(4), 2), np.tile(["F", "M"], 4), 3),  # the same four people in both
        (np.arange(8), np.tile(["F", "M"], 4), 6),  # four people each
        ([0, 0, 1, 1, 2, 3, 4, 5], np.tile(["F", "M"], 4), 4.5),  # two of four in both
        # The same people, one with most of the samples: two or so in effect, not six.
        ([0] * 12 + [1, 2, 3] * 2, ["F", "M"] * 9, (1 / (4 / 9 + 3 / 81)) - 1),
    ],
    ids=["both", "apart", "half", "unequal"],
)
def test_people_in_both_groups_are_one_unit_each(
    subjects: Any, groups: Any, freedom: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Degrees of freedom allowed to the difference; its influences may leave fewer."""
    allowed = []

    def noted(scaled: np.ndarray, most: float) -> tuple[float, float]:
        allowed.append(most)
        return combined_error(scaled, most)

    monkeypatch.setattr(workflow, "combined_error", noted)
    found = grouped(np.array(subjects), np.array(groups)).group_difference("F", "M")
    assert allowed == pytest.approx([freedom] * 2)
    assert found.interval[0] < found.difference < found.interval[1]


def test_a_summary_counts_samples_without_subjects_as_they_are() -> None:
    generator = np.random.default_rng(1)
    apart = Audit({task: generator.random(8) for task in "ab"}, grouped(np.arange(8), np.arange(8) % 2).ruler)
    assert "from 16 independent samples (16.0 effective)" in apart.summary()
    assert "from 16 independent samples (16.0 effective)" in Audit.from_json(apart.to_json()).summary()
    of_people = grouped(np.arange(8), np.arange(8) % 2)
    assert "from 8 independent subjects (8.0 effective)" in of_people.summary()
    scores = {"a": generator.random(8), "b": generator.random(8)}
    weighted = Audit(scores, of_people.ruler, weight=np.array([1.0] * 4 + [0.0] * 4))
    assert "from 8 independent samples (4.0 effective)" in weighted.summary()


def test_a_single_unit_has_no_interval_in_any_text() -> None:
    alone = Audit({"a": [0.1], "b": [0.9]}, grouped(np.arange(8), np.arange(8) % 2).ruler)
    state, lines = alone.check(bias_below=0.5)
    assert state == "undecided"
    for text in (alone.summary(), *lines):
        assert "(no interval: a single independent unit)" in text
        assert "nan" not in text


def test_a_task_may_have_any_name() -> None:
    rules = ScoreMap(**{"self": "identity", "tasks": "identity"})
    ruler = calibrate(EMBEDDINGS, rules, alpha=0.4, matchings=1)
    outputs = {"self": [0.1, 0.9], "tasks": [0.2, 0.3]}
    assert Audit(ruler.scores(outputs), ruler).result.tasks == ("self", "tasks")


def test_certificate_needs_both_models_own_tolerances() -> None:
    pairs = list(FIRST.result.tolerances)
    far, near = (dict.fromkeys(pairs, RULER.tolerance - shift) for shift in (0.2, 0.0))
    assert not FIRST.certificate(SECOND, {"a": far, "b": far}).certified
    assert FIRST.certificate(SECOND, {"a": near, "b": near}).certified
    with pytest.raises(InputError, match="a: induced tolerances are missing"):
        FIRST.certificate(SECOND)


def test_similar_pairs_are_those_of_the_function() -> None:
    inputs = {task: EMBEDDINGS for task in SCORES.rules}
    scores = dict(RULER.scores(REFERENCE))
    ids = {task: IDS for task in scores}
    pairs = similar_pairs(inputs, subjects=ids, k=3)
    limits = lipschitz_limit(scores, pairs, 0.3)
    found = Audit(RULER.scores(REFERENCE), RULER, subject="patient").similar_pairs(
        EMBEDDINGS, k=3, lipschitz=limits
    )
    assert found == similar_pair_audit(scores, pairs, limits)
    weight = np.arange(1.0, 1 + len(IDS))
    weighted = Audit(RULER.scores(REFERENCE), RULER, subject="patient", weight=weight)
    wanted = similar_pair_audit(scores, pairs, limits, weights=dict.fromkeys(scores, weight))
    assert weighted.similar_pairs(EMBEDDINGS, k=3, lipschitz=limits) == wanted != found


def test_a_file_holds_results_and_no_scores() -> None:
    text = FIRST.to_json(include_influences=True)
    found = Audit.from_json(text)
    assert found.result == FIRST.result
    assert found.compare(SECOND)[0].comparison == FIRST.compare(SECOND)[0].comparison
    assert found.curve().bias.tolist() == FIRST.curve().bias.tolist()
    assert found.summary() == FIRST.summary()
    assert 'influences": null' in FIRST.to_json()
    with pytest.raises(InputError, match="need the scores"):
        found.induce({})


def test_card_shows_ruler_curve_groups_and_date() -> None:
    card = FIRST.card(utility={"Worst": 0.8})
    jsonschema.validate(json.loads(json.dumps(card)), CARD_SCHEMA)
    assert card["tolerance"]["ruler"]["sha256"] == RULER.sha256
    assert card["results"]["per_pair"][0]["bias"]["interval"] == list(
        FIRST.result.per_pair[0].bias_interval()
    )
    assert card["made"]["date"]
    page = card._repr_html_()
    assert "<svg" in page
    assert "<title>Bias falls from" in page
    assert "Group F" in page


def test_table_and_plot() -> None:
    mpl.use("Agg")
    rows = FIRST.table()
    assert [row["of"] for row in rows] == ["all", "pair", "pair", "pair", "group", "group"]
    assert rows[0]["bias"] == FIRST.result.bias
    assert len(FIRST.curve().plot().lines) == 2
    mpl.pyplot.close("all")


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_controls_as_bonferroni_does_and_is_no_weaker(values: list[float]) -> None:
    adjusted = holm(values)
    for own, value in zip(adjusted, values, strict=True):
        assert value <= own <= min(1.0, len(values) * value)
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ScoreMap(a="cube"), "score rule 'cube' is unknown"),
        (lambda: ScoreMap(a=("quantile", 0.9, 0.1)), "quantiles must rise"),
        (lambda: ScoreMap(a=("quantile", 0.1)), "quantile takes two numbers"),
        (lambda: ScoreMap(a=("sigmoid", "x*")), "sigmoid takes no argument"),
        (lambda: ScoreMap(a="sigmoid").scores({"b": [0.1]}), "outputs have no 'a'; they have b"),
        (lambda: ScoreMap(a="max_softmax").scores({"a": [0.1]}), r"max_softmax needs \[n, K\]"),
        (lambda: ScoreMap(a="sigmoid").scores({"a": ["x"]}), "must be numbers"),
        (lambda: ScoreMap(a=("quantile", 0.1, 0.9)).fit({"a": [1.0, 1.0]}), "coincide at 1"),
        (lambda: calibrate(EMBEDDINGS, {}, subject=IDS), "must be a fitted ScoreMap"),
        (lambda: calibrate(EMBEDDINGS, SCORES, subject=IDS, weight=IDS), "calibration takes no weights"),
        (lambda: calibrate(EMBEDDINGS, ScoreMap(a=("quantile", 0.1, 0.9))), "is not fitted"),
        (
            lambda: calibrate(EMBEDDINGS, SCORES, subject=IDS[1:]),
            "embeddings have 120 rows, and there are 119 subjects",
        ),
        (lambda: calibrate(EMBEDDINGS, SCORES, alpha=10), "alpha must lie between 0 and 1"),
        (lambda: Audit({}, 0.2), "ruler must be a Ruler"),
        (lambda: Audit({"depth": [0.1]}, RULER), "scores lack the ruler's tasks mortality, stay"),
        (lambda: Audit(RULER.scores(REFERENCE), RULER, subject="person"), "subject 'person' is no column"),
        (lambda: FIRST.compare(), "compare needs other audits"),
        (lambda: FIRST.check(), "needs a limit"),
        *(
            (lambda limit=limit: FIRST.check(bias_below=limit), "needs a limit")
            for limit in (True, "0.1", [1])
        ),
        (lambda: FIRST.certificate("b"), "another audit is needed, not a str"),
        (
            lambda: FIRST.certificate(measured("a", 0.5), {"a": {("mortality", "stay"): 0.2}}),
            "both audits are named 'a'.* name them apart",
        ),
        (lambda: FIRST.group_difference(["F"], "M"), "was not audited; there are F, M"),
        (lambda: FIRST.card(utility={1: 0.5}), "utility must have names of text, got 1"),
        (lambda: ScoreMap(a=()), "score rule None is unknown"),
        (lambda: ScoreMap(a=("quantile", 0.1, 0.9)).fit({"a": [np.nan, np.inf]}), "hold no finite number"),
        (
            lambda: ScoreMap(a=("max_softmax", "a*")).scores({"a0": [0.1, 0.2], "a1": [0.1]}),
            r"outputs of 'a1' have shape \(1,\), those before them \(2,\)",
        ),
        (lambda: calibrate(EMBEDDINGS, SCORES, reference=object()), "reference must be text"),
        (
            lambda: Audit(RULER.scores(REFERENCE), RULER).check(bias_below=0.1, worst_group=True),
            "no groups were audited",
        ),
    ],
)
def test_bad_input_is_named(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_the_workflow_is_the_plain_audit_with_the_rulers_tolerance() -> None:
    scores = dict(RULER.scores(REFERENCE))
    plain = audit(scores, RULER.tolerance, subjects=dict.fromkeys(scores, IDS))
    found = Audit(RULER.scores(REFERENCE), RULER, subject="patient").result
    assert (found.bias, found.bias_se, found.pool_fingerprint) == (
        plain.bias,
        plain.bias_se,
        plain.pool_fingerprint,
    )
