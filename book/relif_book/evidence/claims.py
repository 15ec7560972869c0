"""The paper's claims as statements about records, each with its evidence and a verdict that the numbers decide.

A claim is a list of parts. A part about Bias or violation rate holds or fails where the 95 % interval over test subjects of the
difference of the seeds' means leaves zero to one side and every seed's difference lies on that side too (the interval holds the seeds as
they are, so it alone would call noise of training a finding); a part about Worst or Macro, where the t interval over seeds leaves zero;
else it is undecided. A claim is reproduced where every part holds, not reproduced otherwise, and not testable here where its data or
its methods are missing, or where a method has one seed only: then nothing shows how far seeds vary, and no part is decided.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from relif_book.evidence.dense_results import two_tolerances
from relif_book.evidence.reporting import compare_methods, seed_interval
from relif_book.evidence.results import ResultSet, ranks, title_of
from relif_book.figures.method_plots import crossings
from relif_core.methods import TARGETS
from relif_core.settings import DenseModelSettings
from relif_core.studies.grid import SEVEN_METHODS, STATIC, STEP_SIZE_SWEEP, TARGET_SWEEP

State = Literal["holds", "fails", "undecided"]
Kind = Literal["clinical", "dense"]
#: Claim 1: the largest lead in mean Worst or Macro that we call a small margin. Our choice.
SMALL_MARGIN = 0.02
#: Claim 1: ReLiF is "by far" lowest up to this share of the next lowest mean. Our choice.
BY_FAR = 0.5
#: Claim 4: the largest mean induced tolerance over the smallest from which we say "differ widely". Our choice.
WIDE_RATIO = 1.5
#: Claim 6: the tolerances of Table 6.
FIVE_TOLERANCES = (0.1, 0.2, 0.275, 0.35, 0.5)
#: Claim 7: the largest step of Worst between neighbouring targets that we call gentle. Our choice.
GENTLE = 0.01
#: The paper's data sets that may be published from here, by the name in a record.
OWN_DATA = {"NYUv2": "nyuv2"}


@dataclass(frozen=True)
class Part:
    """One statement with its numbers and whether it holds."""

    text: str
    numbers: str
    state: State


@dataclass(frozen=True)
class Claim:
    """One claim of the paper: its words in short, the data it was made on, the page with the evidence, and its parts.

    ``kinds`` says on which kinds of data the parts are evaluated, ``reason`` why the paper's own data do not decide it here.
    """

    number: int
    text: str
    made_on: str
    page: str
    parts: Callable[[ResultSet], list[Part]]
    needs: tuple[str, ...]
    reason: str
    kinds: tuple[Kind, ...] = ("clinical",)


def verdict(parts: Sequence[Part]) -> str:
    """Return "reproduced" where every part holds, else "not reproduced"."""
    return "reproduced" if all(part.state == "holds" for part in parts) else "not reproduced"


def bias_part(
    results: ResultSet, lower: str, higher: str, kind: Literal["bias", "violation_rate"] = "bias"
) -> Part:
    """State that one method has lower fixed-tolerance Bias (or violation rate) than another."""
    found = compare_methods(results.summaries[higher], results.summaries[lower])
    bias = kind == "bias"
    differences = found.differences if bias else found.rate_differences
    low, high = found.interval if bias else found.rate_interval
    seeds = len(found.seeds)
    below = sum(value < 0 for value in differences)
    above = sum(value > 0 for value in differences)
    return Part(
        f"{title_of(lower)} has lower {'Bias' if bias else 'violation rate'} than {title_of(higher)}",
        f"{_numbers(float(np.mean(differences)), (low, high))}; lower in {below} of {seeds} seeds",
        _state(high < 0 and below == seeds, low > 0 and above == seeds) if seeds > 1 else "undecided",
    )


def worst_part(
    results: ResultSet,
    higher: str,
    lower: str,
    same: bool = False,
    kind: Literal["worst", "macro"] = "worst",
) -> Part:
    """State that one method has higher Worst (or Macro) than another, or (``same``) that they cannot be told apart."""
    found = compare_methods(results.summaries[lower], results.summaries[higher])
    differences = found.worst_differences if kind == "worst" else found.macro_differences
    ends = seed_interval(differences)
    numbers = _numbers(float(np.mean(differences)), ends)
    name = kind.capitalize()
    text = (
        f"{name} of {title_of(higher)} and {title_of(lower)} cannot be told apart"
        if same
        else f"{title_of(higher)} has higher {name} than {title_of(lower)}"
    )
    if ends is None:
        return Part(text, numbers, "undecided")
    low, high = ends
    state = _state(low <= 0 <= high, not low <= 0 <= high) if same else _state(low > 0, high < 0)
    return Part(text, numbers, state)


def all_of(text: str, parts: Sequence[Part]) -> Part:
    """Return one part for several: it holds where all hold, fails where one fails; its numbers are those of every part."""
    states = {part.state for part in parts}
    return Part(
        text,
        "; ".join(f"{part.text.rpartition(' than ')[2]}: {part.numbers}" for part in parts),
        _state(states == {"holds"}, "fails" in states),
    )


def _dense_prediction(results: ResultSet) -> list[Part]:
    narrowed = results.narrowed(SEVEN_METHODS)
    others = [method for method in SEVEN_METHODS if method != "relif"]
    parts = []
    for kind in ("worst", "macro"):
        name = kind.capitalize()
        compared = [worst_part(narrowed, "relif", other, kind=kind) for other in others]
        parts.append(all_of(f"ReLiF has the highest mean {name}", compared))
        parts.append(_small_lead(narrowed, kind))
    for at in two_tolerances(narrowed):
        for kind, name in (("bias", "Bias"), ("violation_rate", "violation rate")):
            where = f"at δ = {at.reference.tolerance:.3f}"
            compared = [bias_part(at, "relif", other, kind) for other in others]  # type: ignore[arg-type]
            parts.append(all_of(f"ReLiF has the lowest {name} {where}", compared))
            parts.append(_far_below(at, kind, f"ReLiF's {name} {where}"))
    return parts


def _small_lead(results: ResultSet, kind: str) -> Part:
    means = _means(results, kind)
    second = max((name for name in means if name != "relif"), key=lambda name: means[name])
    lead = means["relif"] - means[second]
    numbers = f"ReLiF {means['relif']:.4f}, {title_of(second)} {means[second]:.4f}"
    return Part(
        f"ReLiF leads the next in mean {kind.capitalize()} by at most {SMALL_MARGIN}",
        numbers,
        _state(0 < lead <= SMALL_MARGIN, not 0 < lead <= SMALL_MARGIN),
    )


def _far_below(results: ResultSet, kind: str, what: str) -> Part:
    means = _means(results, kind)
    second = min((name for name in means if name != "relif"), key=lambda name: means[name])
    far = means["relif"] <= BY_FAR * means[second]
    numbers = f"ReLiF {means['relif']:.4f}, {title_of(second)} {means[second]:.4f}"
    return Part(f"{what} is at most {BY_FAR} of the next lowest mean", numbers, _state(far, not far))


def _means(results: ResultSet, kind: str) -> dict[str, float]:
    """Mean over the seeds that all methods have."""
    return {
        method: float(np.mean(getattr(summary, kind))) for method, summary in results.shared.summaries.items()
    }


def _gradnorm_between(results: ResultSet) -> list[Part]:
    others = [method for method in SEVEN_METHODS if method != "gradnorm"]
    return [
        *[bias_part(results, "gradnorm", other) for other in others],
        worst_part(results, "relif", "gradnorm"),
        worst_part(results, "fairgrad", "gradnorm"),
        *[
            worst_part(results, "fairgrad", other)
            for other in SEVEN_METHODS
            if other not in ("fairgrad", "gradnorm")
        ],
        bias_part(results, "relif", "fairgrad"),
    ]


def _highest_worst(results: ResultSet) -> list[Part]:
    raw, fixed = (
        ranks(results.narrowed(SEVEN_METHODS), "raw_bias"),
        ranks(results.narrowed(SEVEN_METHODS), "bias"),
    )
    moved = sum(raw[method] != fixed[method] for method in raw)
    lowest = min(fixed, key=lambda method: fixed[method])
    lower = (
        bias_part(results, lowest, "relif")
        if lowest != "relif"
        else Part("ReLiF has not the lowest Bias", "rank 1 of 7", "fails")
    )
    return [
        *[worst_part(results, "relif", other) for other in SEVEN_METHODS if other != "relif"],
        lower,
        Part(
            "several ranks shift from the raw to the fixed audit",
            f"{moved} of {len(raw)} ranks shift",
            _state(moved >= 2, moved < 2),
        ),
    ]


def _tolerances_differ(results: ResultSet) -> list[Part]:
    summaries = results.narrowed(SEVEN_METHODS).summaries
    means = {method: float(np.mean(summary.induced)) for method, summary in summaries.items()}
    between = float(np.std(list(means.values()), ddof=1))
    variances = [np.var(summary.induced, ddof=1) for summary in summaries.values() if len(summary.seeds) > 1]
    within = float(np.sqrt(np.mean(variances))) if variances else math.nan
    smallest, largest = min(means, key=lambda name: means[name]), max(means, key=lambda name: means[name])
    ratio = means[largest] / means[smallest]
    return [
        Part(
            f"the largest mean induced tolerance is at least {WIDE_RATIO} times the smallest",
            f"{title_of(largest)} {means[largest]:.3f}, {title_of(smallest)} {means[smallest]:.3f}: ratio {ratio:.2f}",
            _state(ratio >= WIDE_RATIO, ratio < WIDE_RATIO),
        ),
        Part(
            "methods differ by more than seeds of one method do",
            f"standard deviation {between:.3f} between methods, "
            + (f"{within:.3f} between seeds" if variances else "unknown between seeds (one seed)"),
            _state(between > within, between <= within),
        ),
    ]


def _components(results: ResultSet) -> list[Part]:
    parts = []
    for removed in ("erm", "relif_no_alignment"):
        parts += [bias_part(results, "relif", removed), worst_part(results, "relif", removed, same=True)]
    for static in STATIC:
        parts += [bias_part(results, "relif", static), worst_part(results, "relif", static)]
    return parts


def _order_stays(results: ResultSet) -> list[Part]:
    narrowed = results.narrowed(SEVEN_METHODS)
    tolerances = narrowed.curve_tolerances
    columns = [int(np.argmin(np.abs(tolerances - delta))) for delta in FIVE_TOLERANCES]
    rows = [row for summary in narrowed.summaries.values() for row in summary.rows]
    curves = next(iter(narrowed.summaries.values())).table.bias_curve[rows]
    rises = int((np.diff(curves, axis=1) > 1e-9).sum())
    means = np.array(
        [
            [np.mean(summary.table.bias_curve[summary.rows, column]) for column in columns]
            for summary in narrowed.shared.summaries.values()
        ]
    )
    orders = {tuple(np.argsort(means[:, place])) for place in range(len(columns))}
    crossed = len(crossings(narrowed))
    return [
        Part(
            "Bias falls in δ for every run",
            f"{rises} rises in {curves.size} points of the exact curves",
            _state(rises == 0, rises > 0),
        ),
        Part(
            "the order of the methods is the same at all five tolerances",
            f"{len(orders)} different orders at δ = {', '.join(f'{delta:g}' for delta in FIVE_TOLERANCES)}; {crossed} crossings of mean curves",
            _state(len(orders) == 1, len(orders) > 1),
        ),
    ]


def _step_and_target(results: ResultSet) -> list[Part]:
    largest = STEP_SIZE_SWEEP[-1]
    # A run that failed leaves no record; what was asked of the largest step size is what the rest of its sweep has.
    asked = {seed for method in STEP_SIZE_SWEEP[1:] for seed in results.summaries[method].seeds}
    finished = sum(seed in asked for seed in results.summaries[largest].seeds)
    targets_only = results.narrowed(TARGET_SWEEP).shared.summaries
    worst = [float(np.mean(targets_only[method].worst)) for method in TARGET_SWEEP]
    jump = max(abs(a - b) for a, b in itertools.pairwise(worst))
    touching = [_share_at_minimum(results, method) for method in TARGET_SWEEP]
    rising = all(a <= b for a, b in itertools.pairwise(touching)) and touching[-1] > touching[0]
    targets = sorted((*TARGETS, 0.16))
    return [
        Part(
            "a large step size does not make runs fail",
            f"{finished} of {len(asked)} seeds finished at {title_of(largest)}",
            _state(finished == len(asked), finished < len(asked)),
        ),
        bias_part(results, "relif", largest),
        worst_part(results, "relif", largest),
        Part(
            f"Worst moves by at most {GENTLE} between neighbouring targets",
            f"largest step {jump:.4f}",
            _state(jump <= GENTLE, jump > GENTLE),
        ),
        Part(
            "a larger target holds λ at λ_min more often",
            "; ".join(
                f"ρ* = {target:g}: {share:.0%} of steps"
                for target, share in zip(targets, touching, strict=True)
            ),
            _state(rising, not rising),
        ),
    ]


def _mirror(results: ResultSet) -> list[Part]:
    narrowed = results.narrowed(SEVEN_METHODS)
    parts = []
    for at in two_tolerances(narrowed) if kind_of(results) == "dense" else (narrowed,):
        bias, rate = ranks(at, "bias"), ranks(at, "violation_rate")
        correlation = float(np.corrcoef([[bias[name], rate[name]] for name in bias], rowvar=False)[0, 1])
        parts.append(
            Part(
                f"the methods' order in violation rate is that in Bias at δ = {at.reference.tolerance:.3f}",
                f"rank correlation {correlation:.2f}",
                _state(bias == rate, bias != rate),
            )
        )
    return parts


CREDENTIALED = "needs credentialed data; the pattern is tested on the open sets below"
NO_RECORDS = "the records of NYUv2 that were read are not of all seven methods"
CLAIMS = (
    Claim(1, "ReLiF has the highest mean Worst and Macro, by small margins, and by far the lowest Bias and violation rate at both tolerances", "NYUv2", "Table 1", _dense_prediction, SEVEN_METHODS, NO_RECORDS, ("dense",)),
    Claim(2, "GradNorm has the lowest Bias but lower Worst than ReLiF and FairGrad; FairGrad the best utility; ReLiF lies between", "MIMIC-III", "Table 3", _gradnorm_between, SEVEN_METHODS, CREDENTIALED),
    Claim(3, "ReLiF has the highest Worst, not the lowest Bias; several ranks shift from raw to fixed audit", "eICU", "Table 3", _highest_worst, SEVEN_METHODS, CREDENTIALED),
    Claim(4, "Induced tolerances differ widely between methods", "MIMIC-III", "Table 2", _tolerances_differ, SEVEN_METHODS, CREDENTIALED),
    Claim(5, "Removing the penalty, or its alignment, raises Bias at unchanged Worst; static weights are worse on both", "MIMIC-III", "Table 4", _components, ("erm", "relif", "relif_no_alignment", *STATIC), CREDENTIALED),
    Claim(6, "Bias falls in the tolerance for all methods and their order stays", "MIMIC-III", "Table 6", _order_stays, SEVEN_METHODS, CREDENTIALED),
    Claim(7, "A large step size moves ReLiF to a worse point without failing; the target shifts the trade-off gently, larger targets touching λ_min more often", "MIMIC-III", "Appendix B.3", _step_and_target, (*STEP_SIZE_SWEEP, *TARGET_SWEEP), CREDENTIALED),
    Claim(8, "Violation rate mirrors Bias", "NYUv2", "Table 7", _mirror, SEVEN_METHODS, f"{NO_RECORDS}; the pattern is tested on the open sets below", ("clinical", "dense")),
)  # fmt: skip
"""The paper's eight claims. ``made_on`` is the data of the paper; our runs are smaller, and the clinical data open ones."""


def kind_of(results: ResultSet) -> Kind:
    """Tell clinical results from those of dense prediction."""
    return "dense" if isinstance(results.records[0].settings.model, DenseModelSettings) else "clinical"


def can_decide(claim: Claim, results: ResultSet) -> bool:
    """Tell whether a claim's parts can be evaluated on results: they are of its kind and hold its methods."""
    return kind_of(results) in claim.kinds and set(claim.needs) <= set(results.summaries)


def fewest_seeds(claim: Claim, results: ResultSet) -> int:
    """Return the smallest number of seeds of the methods that a claim is about."""
    return min(len(results.summaries[method].seeds) for method in claim.needs)


def evaluate(claim: Claim, results: ResultSet) -> list[Part]:
    """Return a claim's parts on results; where a method has a single seed all are undecided, whatever the numbers."""
    parts = claim.parts(results)
    if fewest_seeds(claim, results) > 1:
        return parts
    return [replace(part, state="undecided") for part in parts]


def claim_rows(sets: Sequence[ResultSet]) -> list[dict[str, str | int]]:
    """One row per claim and data set: on the paper's own data, then on each open set that has the methods."""
    rows: list[dict[str, str | int]] = []
    for claim in CLAIMS:
        tested = [results for results in sets if can_decide(claim, results)]
        # The paper's own data come first.
        tested.sort(key=lambda results: not _is_own(claim, results))
        if not any(_is_own(claim, results) for results in tested):
            rows.append(_row(claim, f"{claim.made_on} (the paper's)", "not testable here", claim.reason))
        for results in tested:
            parts = evaluate(claim, results)
            title = str(results.dataset["title"])
            if fewest_seeds(claim, results) == 1:
                why = "one seed cannot decide: nothing shows how far seeds vary"
                rows.append(_row(claim, title, "not testable here", why))
                continue
            count = {
                state: sum(part.state == state for part in parts) for state in ("holds", "fails", "undecided")
            }
            whole = "its one part" if len(parts) == 1 else f"{len(parts)} parts"
            tally = f"of {whole} {count['holds']} hold, {count['fails']} fail, {count['undecided']} undecided"
            rows.append(_row(claim, title, verdict(parts), tally))
    return rows


def part_rows(claim: Claim, results: ResultSet) -> list[dict[str, str]]:
    """One row per part of a claim on one data set; none where it cannot be evaluated there."""
    if not can_decide(claim, results):
        return []
    return [
        {"Part": part.text, "Numbers": part.numbers, "State": part.state} for part in evaluate(claim, results)
    ]


def _is_own(claim: Claim, results: ResultSet) -> bool:
    return results.dataset["dataset"] == OWN_DATA.get(claim.made_on)


def _row(claim: Claim, data: str, result: str, detail: str) -> dict[str, str | int]:
    return {
        "Claim": claim.number,
        "Statement": claim.text,
        "Data": data,
        "Verdict": result,
        "Why": detail,
        "Evidence": claim.page,
    }


def _share_at_minimum(results: ResultSet, method: str) -> float:
    """Share of the steps after the warm-up that λ spends at its lower bound, over all seeds."""
    records = [record for record in results.records if record.method == method]
    settings = records[0].settings.controller
    steps = np.concatenate([record.trace("weight")[settings.warmup :] for record in records])
    return float(np.mean(steps <= settings.minimum * (1 + 1e-9))) if len(steps) else math.nan


def _state(holds: bool, fails: bool) -> State:
    return "holds" if holds else "fails" if fails else "undecided"


def _numbers(mean: float, ends: tuple[float, float] | None) -> str:
    shown = f"[{ends[0]:+z.4f}, {ends[1]:+z.4f}]" if ends else "(one seed, no interval)"
    return f"{mean:+z.4f} {shown}".replace("-", "−")
