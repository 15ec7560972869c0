"""Methods with different numbers of seeds, with one, and the dense claims, on made-up records."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from relif_book.evidence import measured
from relif_book.evidence.claims import CLAIMS, HEADLINE, Evidence
from relif_book.evidence.ledger import (
    Judged,
    judge_all,
    matrix_rows,
    part_rows,
    verdict_counts,
)
from relif_book.evidence.results import (
    ResultSet,
    against,
    candidate_rows,
    comparison_rows,
    difference_rows,
    method_rows,
    noise,
    result_set,
    tolerance_rows,
)
from relif_book.figures.method_plots import (
    draw_mean_curves,
    draw_sweep_traces,
    draw_worst_against_bias,
    mean_curves,
)
from relif_book.figures.style import new_figure
from relif_core.errors import InputError, RecordError
from relif_core.record import Record
from relif_core.settings import as_json, dense_changes, method_settings
from relif_core.studies.grid import SEVEN_METHODS, STEP_SIZE_SWEEP

TASKS = ("segmentation", "depth", "normals")


def made_up(
    method: str, seed: int, *, gap: float, worst: float = 0.5, induced: float = 0.3, dense: bool = False
) -> Record:
    """A record whose three tasks' scores lie ``gap`` apart, with noise that a seed's methods share."""
    noise = np.random.default_rng(seed).normal(0, 0.01, (3, 60))
    arrays: dict[str, np.ndarray] = {"calibration/distances": np.linspace(0.1, 0.4, 100)}
    for split, (place, task) in itertools.product(("validation", "test"), enumerate(TASKS)):
        arrays[f"score/{split}/{task}"] = (0.5 + gap * (place - 1) + noise[place]).astype(np.float32)
        arrays[f"subject/{split}/{task}"] = np.arange(60)
    start = method_settings(method).controller.initial
    arrays["trace/weight"] = start * np.exp(np.linspace(0, seed / 10, 200))
    arrays["trace/smoothed_rate"] = np.full(200, gap)
    utility = {
        "worst": worst,
        "macro": worst + 0.1,
        "tasks": {task: {"score": worst + 0.1 * place} for place, task in enumerate(TASKS)},
    }
    pairs = [{"tasks": list(pair), "tolerance": induced} for pair in itertools.combinations(TASKS, 2)]
    dataset = {
        "dataset": "nyuv2" if dense else "synthetic_icu", "title": "Made up", "licence": "none",
        "output_policy": "person", "synthetic": not dense, "fingerprint": "f" * 64,
        "tasks": [{"name": task, "title": task} for task in TASKS],
    }  # fmt: skip
    settings = method_settings(method, **(dense_changes(seed=seed) if dense else {"seed": seed}))
    content = {
        "format": "relif-record-1",
        "key": f"{method}-{seed}-{dense}",
        "settings": as_json(settings),
        "dataset": dataset,
        "result": {
            "utility": {"validation": utility, "test": utility},
            "induced_tolerances": {"validation": pairs, "test": pairs},
        },
        "made": {"device": "none", "began": "2026-01-01T00:00:00Z"},
    }
    return Record(content, arrays)


def nyuv2(seeds: Sequence[int], gaps: Mapping[str, float] | None = None) -> ResultSet:
    """Seven methods: ReLiF leads by 0.01 in Worst with hardly any Bias, unless ``gaps`` says otherwise."""
    return _nyuv2(tuple(seeds), tuple((gaps or {}).items()))


@cache
def _nyuv2(seeds: tuple[int, ...], gaps: tuple[tuple[str, float], ...]) -> ResultSet:
    usual = {method: 0.25 + 0.01 * place for place, method in enumerate(SEVEN_METHODS)} | {"relif": 0.01}
    records = [
        made_up(
            method, seed, gap={**usual, **dict(gaps)}[method], dense=True,
            worst=0.5 + 0.01 * (method == "relif") + 0.002 * seed + 1e-4 * math.sin(seed + len(method)),
        )
        for method in SEVEN_METHODS
        for seed in seeds
    ]  # fmt: skip
    return result_set("made up", records)


@pytest.fixture(scope="module")
def uneven() -> ResultSet:
    """ERM with five seeds, of which the last two have high Bias, ReLiF with three, and PCGrad with one."""
    records = [
        *[made_up("erm", n, gap=0.21 if n < 3 else 0.4, induced=0.2 + 0.01 * n) for n in range(5)],
        *[made_up("relif", seed, gap=0.23, worst=0.52, induced=0.4 + 0.02 * seed) for seed in range(3)],
        made_up("pcgrad", 1, gap=0.24),
    ]  # fmt: skip
    return result_set("uneven", records)


def test_a_comparison_pairs_common_seeds_alone(uneven: ResultSet) -> None:
    even = result_set("even", [r for r in uneven.records if r.seed < 3 and r.method != "pcgrad"])
    assert uneven.seeds("erm", "relif") == [0, 1, 2]
    for kind in ("bias", "violation_rate"):
        expected = even.differences("relif", "erm", kind)
        assert uneven.differences("relif", "erm", kind) == pytest.approx(expected)
        own, expected_ends = (found.interval("relif", kind, base="erm") for found in (uneven, even))
        assert own == pytest.approx(expected_ends)
    assert uneven.certificate("erm", "relif") == even.certificate("erm", "relif")
    (row,) = difference_rows(uneven, [("erm", "relif")], "induced/validation")
    assert row["Induced δ, validation"].values == pytest.approx((0.2, 0.21, 0.22))  # type: ignore[union-attr]
    # Over its own five seeds ERM has the higher Bias, over the common ones the lower.
    assert uneven.mean("erm", "bias") > uneven.mean("relif", "bias")
    assert min(uneven.differences("relif", "erm")) > 0


def test_ranks_and_curves_set_common_seeds_against_each_other(uneven: ResultSet) -> None:
    two = uneven.narrowed(("erm", "relif"))
    assert two.ranks("bias") == {"erm": 1, "relif": 2}
    np.testing.assert_allclose(mean_curves(two)["erm"], two.table.bias_curve[:3].mean(axis=0))
    assert [str(row["δ = 0.1"])[-3:] for row in tolerance_rows(two, (0.1,))] == ["(1)", "(2)"]


def test_tables_say_how_many_seeds_a_row_has(uneven: ResultSet) -> None:
    two = uneven.narrowed(("erm", "relif"))
    assert [row["Seeds"] for row in method_rows(two, "worst", "bias", "interval")] == [5, 3]
    assert [row["Seeds"] for row in tolerance_rows(two, (0.1,))] == [5, 3]
    assert "Seeds" not in method_rows(two.shared, "bias")[0]
    assert "3–5 seeds" in two.head
    assert two.spread == "mean ± standard deviation over each row's 3 to 5 seeds"
    assert two.shared.spread == "mean ± standard deviation over 3 seeds"


def test_a_column_is_the_quantity_of_the_records(uneven: ResultSet) -> None:
    """Mean and deviation over the five seeds of ERM by hand; what no record has makes no column."""
    (erm, *_) = method_rows(uneven, "induced/validation", "calibrated_bias", "weight_end")
    assert str(erm["Induced δ, validation"]) == "0.220 ± 0.016"
    assert "Bias, calibrated" not in erm
    assert str(erm["Last λ"]) == "–"
    assert uneven.lowest("bias") == "erm"
    assert uneven.highest("worst") == "relif"
    assert uneven.values("relif", "weight_end") == pytest.approx([0.1 * math.exp(k / 10) for k in range(3)])


def test_one_seed_shows_no_spread(uneven: ResultSet) -> None:
    (row,) = comparison_rows(uneven, [("erm", "pcgrad")])
    assert row["Seeds lower"] == "0 of 1"
    assert str(row["Bias"]).endswith("(one seed)")
    assert "±" not in f"{row['Bias']}{row['Worst']}"
    assert difference_rows(uneven, against(uneven, "pcgrad"), "seed_interval")[0] == {
        "Comparison": "ERM − PCGrad",
        "95 % interval over seeds": "–",
    }
    with pytest.raises(InputError, match="one seed shows no spread"):
        measured.contrast(uneven, {"erm": 1.0, "pcgrad": -1.0}, "bias")
    part = Evidence(uneven).bias_below("erm", "pcgrad")
    assert (part.text, part.state) == ("Bias of ERM below PCGrad (one seed)", "inconclusive")
    alone = uneven.narrowed(("pcgrad",))
    assert "1 seed" in alone.head
    assert alone.spread == "one seed, so no spread between seeds is known"
    assert math.isnan(noise(uneven.narrowed(("erm", "pcgrad")).shared)["seeds"])


def with_failed(results: ResultSet, *runs: tuple[str, int]) -> ResultSet:
    """The results beside runs that failed."""
    failed = [{"method": method, "seed": seed, "error": "NaN"} for method, seed in runs]
    return replace(results, table=replace(results.table, failed=failed))


def test_a_failed_run_has_the_worst_finite_value_of_the_study(uneven: ResultSet) -> None:
    """ERM and PCGrad have no λ, and a run without a score has no Worst: neither is anybody's worst."""
    content = uneven.runs["pcgrad"][0].content
    result = {**content["result"], "utility": {"test": {"worst": None, "macro": None, "tasks": {}}}}
    blank = Record({**content, "result": result}, uneven.runs["pcgrad"][0].arrays)
    found = with_failed(result_set("", [blank, *uneven.narrowed(("erm", "relif")).records]), ("relif", 9))
    assert measured.seed_values(found, "relif", "weight_end")[9] == pytest.approx(0.1 * math.exp(0.2))
    assert measured.seed_values(found, "relif", "worst")[9] == 0.5
    assert measured.seed_values(found, "relif", "bias")[9] == uneven.wide["bias"].max()


def test_failed_runs_of_other_seeds_are_left_out_with_these_seeds(uneven: ResultSet) -> None:
    found = with_failed(uneven, ("erm", 7), ("relif", 7), ("relif", 1)).of_seeds([0, 1])
    assert [(item["method"], item["seed"]) for item in found.table.failed] == [("relif", 1)]
    assert set(measured.seed_values(found, "erm", "bias")) == {0, 1}


def test_results_without_any_of_the_methods_are_refused(uneven: ResultSet) -> None:
    with pytest.raises(RecordError, match="uneven: no record of gradnorm, cats; there are erm, relif"):
        uneven.narrowed(("gradnorm", "cats"))


@pytest.mark.parametrize(
    ("deaths", "words"),
    [(0, ", 0 deaths: too few to decide"), (None, ", hidden deaths: too"), (49, ", 49 deaths"), (50, "")],
)
def test_few_deaths_are_named_none_among_them(
    uneven: ResultSet, monkeypatch: pytest.MonkeyPatch, deaths: int | None, words: str
) -> None:
    counts = {"name": "mortality", "splits": {"test": {"counts": [100, deaths]}}}
    monkeypatch.setattr(ResultSet, "label_counts", [counts])
    assert f"60 test subjects{words}" in uneven.head
    assert bool(words) == ("deaths" in uneven.head)


def test_pairs_without_records_are_left_out(uneven: ResultSet) -> None:
    assert len(comparison_rows(uneven, [("erm", "relif"), ("erm", "gradnorm"), ("erm", "erm")])) == 1
    (row,) = comparison_rows(uneven, [("erm", "gradnorm")])
    assert "none of these pairs" in str(row["Comparison"])
    assert uneven.values("gradnorm", "bias") == []


def test_the_ruler_table_tells_what_own_tolerances_do(uneven: ResultSet) -> None:
    """At the fixed tolerance ERM (common seeds) has the lower Bias, at its own smaller one the higher."""
    two = uneven.narrowed(("erm", "relif"))
    columns = ("bias", "raw_bias", "order", "certificate", "induced/validation", "seed_interval", "ratio")
    (row,) = difference_rows(two, against(two), *columns)
    assert row["Comparison"] == "ERM − ReLiF"
    assert str(row["Bias"]).startswith("−")
    assert not str(row["Bias, own δ"]).startswith("−")
    assert (row["Order"], row["Certified"]) == ("turned round", "no")
    assert str(row["Induced δ, validation"]) == "−0.210 ± 0.010"
    assert str(row["95 % interval over seeds"]) == "[−0.235, −0.185]"
    assert row["Ratio"] == "0.50"


def test_two_records_of_one_run_are_refused(uneven: ResultSet) -> None:
    twin = Record({**uneven.records[0].content, "key": "other"}, uneven.records[0].arrays)
    with pytest.raises(RecordError, match="erm has two records of seed 0"):
        result_set("twice", [*uneven.records, twin])


def test_labels_beside_lines_never_overlap() -> None:
    seven = nyuv2([0, 1], dict.fromkeys(SEVEN_METHODS, 0.25))
    sweep = result_set(
        "sweep", [made_up(method, 0, gap=0.25) for method in ("erm", *STEP_SIZE_SWEEP)]
    ).narrowed(STEP_SIZE_SWEEP)
    figure, axes = new_figure(rows=2, columns=2, height=3.2)
    draw_mean_curves(axes[0, 0], seven)
    draw_worst_against_bias(axes[0, 1], seven)
    draw_sweep_traces(axes[1, 0], sweep, "weight", "step_size")
    draw_sweep_traces(axes[1, 1], sweep, "smoothed_rate", "step_size")
    figure.draw_without_rendering()
    for panel, count in zip(axes.flat, (7, 7, 5, 5), strict=True):
        assert panel.get_legend() is None
        # Without its leader line the box of an annotation is that of its words.
        words = [text for text in panel.texts if text.get_text() != "preferred"]
        assert len(words) == count
        boxes = [super(type(text), text).get_window_extent() for text in words]
        for first, second in itertools.combinations(boxes, 2):
            assert not first.overlaps(second)
        assert all(figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1 for box in boxes)


DENSE = [claim for claim in CLAIMS if "dense" in claim.kinds]


@pytest.fixture
def known_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """These records keep no logits; let their errors over subjects be none instead of unknown."""
    monkeypatch.setattr(measured, "_subject_error", lambda *_: 0.0)


def judged(results: ResultSet, number: str = "1", study: str = "nyuv2") -> Judged:
    """A claim on a study, by its number."""
    return next(item for item in judge_all([replace(results, study=study)]) if item.claim.number == number)


@pytest.mark.usefixtures("known_errors")
def test_claims_on_dense_prediction_are_judged_by_their_records() -> None:
    assert [claim.number for claim in DENSE] == ["1", "8"]
    results = nyuv2([0, 1, 2])
    for claim in DENSE:
        found = judged(results, claim.number)
        assert found.verdict == "supported", part_rows(found.parts)
        assert found.cell == "supported (3 seeds, planned)"
    half = results.reference.tolerance / 2
    assert sum(f"{half:.3f}" in part.text for part in judged(results).parts) == 6
    # Clinical claims are not asked of images.
    assert {item.claim.number for item in judge_all([replace(results, study="nyuv2")])} == {"1", "8"}


@pytest.mark.usefixtures("known_errors")
def test_a_rival_with_less_bias_contradicts_the_first_claim() -> None:
    found = judged(nyuv2([0, 1, 2], {"fairgrad": 0.0, "relif": 0.3}))
    assert found.verdict == "contradicted"
    states = {part.text: part.state for part in found.parts}
    assert states["Worst of ReLiF above ERM"] == "supported"
    assert [
        text for text, state in states.items() if state == "contradicted" and "times that of FairGrad" in text
    ]


def test_an_unknown_error_over_subjects_decides_nothing() -> None:
    found = judged(nyuv2([0, 1, 2]))
    assert found.verdict == "inconclusive"
    rows = {str(row["Part"]): row for row in part_rows(found.parts)}
    worst = rows["Worst of ReLiF above ERM"]
    assert (worst["95 % interval"], worst["Power"], worst["Verdict"]) == ("–", "–", "inconclusive")
    assert worst["Effect"] == "+0.0100"


def test_one_seed_is_not_testable_and_says_so() -> None:
    found = judged(nyuv2([0]))
    assert found.verdict == "not testable here"
    assert "one seed" in found.cell
    (row, *_) = matrix_rows([found])
    assert row["The paper's data"] == found.cell or "Made up" in row


@pytest.mark.usefixtures("known_errors")
@pytest.mark.parametrize(("bias", "verdict"), [(0.0, "inconclusive"), (0.3, "contradicted")])
def test_parts_about_one_seed_neither_hold_nor_fail(bias: float, verdict: str) -> None:
    """What ERM's three seeds show decides; what one seed of PCGrad shows does not, whatever it is."""
    whole = nyuv2([0, 1, 2], {"relif": bias, "pcgrad": 0.0})
    kept = [record for record in whole.records if record.method != "pcgrad" or record.seed == 0]
    found = judged(result_set("uneven", kept))
    alone = [part for part in found.parts if part.text.endswith("(one seed)")]
    assert found.verdict == verdict, part_rows(found.parts)
    assert len(alone) == 4
    assert {part.state for part in alone} == {"inconclusive"}
    assert found.cell == f"{verdict} (3 seeds, planned)"


def test_without_seven_methods_dense_claims_say_what_is_missing() -> None:
    results = nyuv2([0, 1]).narrowed(("erm", "relif"))
    assert judge_all([replace(results, study="nyuv2")]) == []
    rows = matrix_rows([])
    assert rows[0]["The paper's data"] == "not testable here (NYUv2: no records of its methods)"
    assert rows[1]["The paper's data"] == "not testable here (MIMIC-III: credentialed data)"
    assert len(candidate_rows(results.reference)) == 6


@pytest.mark.usefixtures("known_errors")
def test_the_plans_study_stands_in_the_matrix_and_the_sentences_turn_with_it() -> None:
    older, planned = nyuv2([0, 1, 2], {"fairgrad": 0.0, "relif": 0.3}), nyuv2([3, 4, 5])
    older, planned = replace(older, study="exploratory"), replace(planned, study="nyuv2")
    both = judge_all([older, planned])
    assert verdict_counts(both, "NYUv2") == {"supported": ["1", "8"]}
    assert matrix_rows(both)[0]["The paper's data"] == "supported (3 seeds, planned)"
    assert verdict_counts(judge_all([older]), "NYUv2") == {"contradicted": ["1", "8"]}


@pytest.mark.usefixtures("known_errors")
@pytest.mark.parametrize(("gap", "verdict"), [(0.1, "inconclusive"), (0.4, "contradicted")])
def test_a_claim_some_of_whose_runs_are_to_come_is_never_supported(gap: float, verdict: str) -> None:
    """Claim 5 before the static weights: what is there may contradict it, and cannot support it."""
    usual = {"erm": 0.25, "relif_no_alignment": 0.25, "relif": gap}
    records = [
        made_up(name, seed, gap=each + 1e-3 * seed) for name, each in usual.items() for seed in range(4)
    ]
    found = judged(result_set("first rows", records), "5", "power")
    assert found.verdict == verdict, part_rows(found.parts)
    assert [part.text for part in found.parts if part.difference is None] == [
        f"{what} the mean of five static weights (5 of the weights not run yet)"
        for what in ("Worst of ReLiF above", "Bias of ReLiF below")
    ]
    assert found.seeds == "4 seeds"


def test_a_failed_run_counts_as_the_worst_of_the_study() -> None:
    whole = nyuv2([0, 1, 2])
    records = [record for record in whole.records if (record.method, record.seed) != ("relif", 2)]
    results = result_set("failed", records)
    failed = [{"method": "relif", "seed": 2, "error": "losses are not finite"}]
    results = replace(results, table=replace(results.table, failed=failed))
    bias = measured.seed_values(results, "relif", "bias")
    assert bias[2] == results.table.bias.max()
    assert bias[0] < bias[2]
    worst = measured.seed_values(results, "relif", "worst")
    assert worst[2] == min(results.wide["worst"])
    assert Evidence(results, HEADLINE).bias_below("relif", "erm").difference.seeds == 3  # type: ignore[union-attr]


def test_matched_runs_are_read_at_the_first_epoch_that_reaches_the_lower_best_worst() -> None:
    """ERM reaches 0.60 in its third epoch, ReLiF stops at 0.55: both are read near 0.55, ERM in epoch 2."""
    history = {"erm": [0.50, 0.55, 0.60], "relif": [0.40, 0.45, 0.55]}
    curves = {"erm": [0.01, 0.02, 0.03], "relif": [0.001, 0.002, 0.004]}
    records = []
    for method, seed in itertools.product(history, (0, 1)):
        record = made_up(method, seed, gap=0.21)
        delta = 0.4
        arrays = {
            "epoch/tolerances": np.array([delta, 1.0]),
            "epoch/test/epoch": np.array([1, 2, 3]),
            "epoch/test/bias": np.array([[value + seed / 1e4, 0.0] for value in curves[method]]),
        }
        content = {**record.content, "result": {**record.result, "history": {"worst": history[method]}}}
        records.append(Record(content, {**record.arrays, **arrays}))
    results = result_set("matched", records)
    results = replace(results, reference=replace(results.reference, tolerance=0.4))
    found, counted = measured.matched(results, "relif", "erm")
    assert counted == (2, 2)
    assert found.estimate == pytest.approx(0.004 - 0.02)
    assert found.spread == pytest.approx(0)
    bare = result_set("bare", [made_up(method, seed, gap=0.2) for method in history for seed in (0, 1)])
    with pytest.raises(InputError, match="no audits by epoch"):
        measured.matched(bare, "relif", "erm")
