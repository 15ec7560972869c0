"""The paper's claims as parts that records decide, by ``data/analysis_plan.md`` (SPEC sections 12 and 16).

A claim is read at several endpoints: the headline is raw Bias at the selected epoch, as in the paper;
calibrated Bias, the last epoch and matched utility stand beside it, each with a verdict of its own.
"""

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from relif_book.evidence import plan
from relif_book.evidence.dense_results import two_tolerances
from relif_book.evidence.judging import (
    Difference,
    Part,
    at_least,
    equal,
    fact,
    higher,
    lower,
    not_run,
    rank_change,
)
from relif_book.evidence.measured import between_kinds, contrast, matched
from relif_book.evidence.result_set import ResultSet
from relif_book.figures.tables import signed
from relif_core.errors import InputError
from relif_core.methods import title_of
from relif_core.studies.grid import SEVEN_METHODS, STATIC, STEP_SIZE_SWEEP, TARGET_SWEEP

Kind = Literal["clinical", "dense"]
#: Claim 6: the tolerances of Table 6.
FIVE_TOLERANCES = (0.1, 0.2, 0.275, 0.35, 0.5)
#: Claim 4: the methods of the paper's Table 2.
TABLE_2_METHODS = ("relif", "gradnorm", "fairgrad", "uncertainty")
_NAMES = {"violation_rate": "violation rate", "calibrated_bias": "calibrated Bias"}
OTHERS = tuple(method for method in SEVEN_METHODS if method != "relif")


@dataclass(frozen=True)
class Endpoint:
    """Where Bias is read: the start of its kind's name, that of Worst and Macro, or at matched utility."""

    title: str
    bias: str = ""
    utility: str = ""
    matched: bool = False


HEADLINE = Endpoint("selected epoch")
LAST = Endpoint("last epoch", bias="last_", utility="last_")
ENDPOINTS = (
    HEADLINE,
    Endpoint("calibrated", bias="calibrated_"),
    LAST,
    Endpoint("matched utility", matched=True),
)


@dataclass(frozen=True)
class Evidence:
    """One study read at one endpoint, with the statements that claims are made of."""

    results: ResultSet
    endpoint: Endpoint = HEADLINE

    def bias_below(
        self, method: str, other: str, share: float = 1.0, kind: str = "bias", where: str = ""
    ) -> Part:
        """State that Bias (calibrated Bias, the rate) of a method lies below ``share`` times another's."""
        name = _NAMES.get(kind, "Bias")
        beyond = f"{share:g} times that of " if share != 1 else ""
        text = f"{name} of {title_of(method)} below {beyond}{title_of(other)}{where}"
        return self._stated(text, lower, method, other, kind, share)

    def worst_above(self, method: str, other: str, kind: str = "worst") -> Part:
        """State that Worst (or Macro) of a method lies above another's."""
        text = f"{kind.capitalize()} of {title_of(method)} above {title_of(other)}"
        return self._stated(text, higher, method, other, kind)

    def same_utility(self, method: str, other: str, kind: str = "worst") -> Part:
        """State that Worst (or Macro) of two methods agree."""
        return self._same(kind.capitalize(), method, other, kind, plan.SAME_UTILITY)

    def same_bias(self, method: str, other: str, margin: float, kind: str = "bias") -> Part:
        """State that Bias (or calibrated Bias) of two methods agrees."""
        return self._same(_NAMES.get(kind, "Bias"), method, other, kind, margin)

    def contrast(self, weights: Mapping[str, float], kind: str) -> Difference:
        """Return a weighted sum of methods' means of Bias, of a rate, Worst or Macro at this endpoint.

        Raises:
            InputError: At matched utility, of anything but the Bias of two methods.
        """
        utility = kind in ("worst", "macro")
        if self.endpoint.matched and not utility:
            if kind != "bias" or len(weights) != 2:
                raise InputError(
                    "matched utility pairs the Bias of two methods at the reference tolerance, not"
                    f" {kind.replace('_', ' ')} of {len(weights)}"
                )
            (method, _), (other, share) = weights.items()
            return matched(self.results, method, other, -share)[0]
        return contrast(
            self.results, weights, (self.endpoint.utility if utility else self.endpoint.bias) + kind
        )

    def _same(self, name: str, method: str, other: str, kind: str, margin: float) -> Part:
        text = f"{name} of {title_of(method)} and {title_of(other)} within ± {margin:g}"
        return self._stated(text, partial(equal, margin=margin), method, other, kind)

    def _stated(
        self,
        text: str,
        state: Callable[[str, Difference], Part],
        method: str,
        other: str,
        kind: str,
        share: float = 1.0,
    ) -> Part:
        """Make a part; one seed of either method shows no spread, so that part neither holds nor fails."""
        if min(len(self.results.runs[name]) for name in (method, other)) == 1:
            return not_run(f"{text} (one seed)")
        return state(text, self.contrast({method: 1.0, other: -share}, kind))


@dataclass(frozen=True)
class Claim:
    """One claim: the paper's words, short words for the matrix, its data, and its parts.

    Attributes:
        study: The plan's study that decides it.
        needs: Methods without which it cannot be asked.
        kinds: Kinds of data that it is asked of.
        endpoints: Where it reads Bias, the headline first.
    """

    number: str
    text: str
    short: str
    made_on: str
    study: str
    parts: Callable[[Evidence], list[Part]]
    needs: tuple[str, ...]
    kinds: tuple[Kind, ...] = ("clinical",)
    endpoints: tuple[Endpoint, ...] = ENDPOINTS


def _dense_prediction(evidence: Evidence) -> list[Part]:
    parts = [evidence.worst_above("relif", other, kind) for kind in ("worst", "macro") for other in OTHERS]
    alike = [
        at_least(
            2,
            f"Worst and Macro of {title_of(other)} and ReLiF within ± {plan.SAME_UTILITY:g}",
            [evidence.same_utility("relif", other, kind) for kind in ("worst", "macro")],
        )
        for other in OTHERS
    ]
    parts.append(
        at_least(plan.SEVERAL, f"utility differences to at least {plan.SEVERAL} of 6 others are small", alike)
    )
    return parts + _separated(evidence, "bias")


def _separated(evidence: Evidence, kind: str) -> list[Part]:
    """State that ReLiF lies substantially below every other method at both tolerances."""
    return [
        Evidence(at, evidence.endpoint).bias_below(
            "relif", other, plan.SUBSTANTIALLY, kind, f", δ = {at.reference.tolerance:.3f}"
        )
        for at in two_tolerances(evidence.results)
        for other in OTHERS
    ]


def _gradnorm_lowest(evidence: Evidence) -> list[Part]:
    present = [method for method in SEVEN_METHODS if method in evidence.results.runs]
    strongest = [other for other in present if other != "fairgrad"]
    return [
        *[evidence.bias_below("gradnorm", other) for other in present if other != "gradnorm"],
        evidence.worst_above("relif", "gradnorm"),
        *[evidence.worst_above("fairgrad", other) for other in strongest],
        *[evidence.worst_above("fairgrad", other, "macro") for other in strongest],
        evidence.bias_below("relif", "fairgrad"),
    ]


def _highest_worst(evidence: Evidence) -> list[Part]:
    parts = [evidence.worst_above("relif", other) for other in OTHERS]
    below = [evidence.bias_below(other, "relif") for other in OTHERS]
    parts.append(at_least(1, "some other method has lower Bias than ReLiF", below))
    changes = changes_of_order(evidence)
    text = f"at least {plan.SEVERAL} of {len(changes)} pairs change their order between raw and fixed audit"
    return [*parts, at_least(plan.SEVERAL, text, changes)]


def changes_of_order(evidence: Evidence) -> list[Part]:
    """State of every pair of the seven methods that its order changes between own and fixed tolerances."""
    return [_change_of_order(evidence, a, b) for a, b in itertools.combinations(SEVEN_METHODS, 2)]


def _change_of_order(evidence: Evidence, a: str, b: str) -> Part:
    raw, fixed = (
        contrast(evidence.results, {a: 1.0, b: -1.0}, kind)
        for kind in ("raw_bias", evidence.endpoint.bias + "bias")
    )
    ends = f"raw {signed(raw.estimate)}, fixed {signed(fixed.estimate)}"
    return rank_change(f"{title_of(a)} and {title_of(b)} change their order ({ends})", raw, fixed)


def _wide_tolerances(evidence: Evidence) -> list[Part]:
    wider = [
        higher(
            f"induced tolerance of {title_of(a)} above {plan.WIDE:g} times that of {title_of(b)}",
            contrast(evidence.results, {a: 1.0, b: -plan.WIDE}, "induced/validation"),
        )
        for a, b in itertools.permutations(TABLE_2_METHODS, 2)
    ]
    return [at_least(1, f"some mean induced tolerance is {plan.WIDE:g} times another", wider)]


def _components(evidence: Evidence) -> list[Part]:
    return [
        evidence.bias_below("relif", "erm"),
        evidence.same_utility("relif", "erm"),
        evidence.bias_below("relif", "relif_no_alignment"),
        evidence.same_bias("relif_no_alignment", "erm", plan.SIMILAR_RISE),
        *_against_static(evidence),
    ]


def _against_static(evidence: Evidence) -> list[Part]:
    """State that the mean over the static weights has lower Worst and higher Bias than ReLiF."""
    said = (
        "Worst of ReLiF above the mean of five static weights",
        "Bias of ReLiF below the mean of five static weights",
    )
    absent = [method for method in STATIC if method not in evidence.results.runs]
    if absent:
        return [not_run(f"{text} ({len(absent)} of the weights not run yet)") for text in said]
    weights = {"relif": 1.0, **dict.fromkeys(STATIC, -1 / len(STATIC))}
    worst, bias = (evidence.contrast(weights, kind) for kind in ("worst", "bias"))
    return [higher(said[0], worst), lower(said[1], bias)]


def _pattern_over_tolerances(evidence: Evidence) -> list[Part]:
    parts = [
        evidence.bias_below("gradnorm", "relif", kind=f"bias@{delta:g}", where=f", δ = {delta:g}")
        for delta in FIVE_TOLERANCES
    ]
    return [*parts, evidence.worst_above("relif", "gradnorm")]


def _step_and_target(evidence: Evidence) -> list[Part]:
    results, largest = evidence.results, STEP_SIZE_SWEEP[-1]
    sweep = {*STEP_SIZE_SWEEP, *TARGET_SWEEP}
    broken = [item for item in results.table.failed if item["method"] in sweep]
    runs = sum(len(results.runs[method]) for method in sweep)
    worst = evidence.contrast({largest: 1.0, "relif": -1.0}, "worst")
    middle = TARGET_SWEEP[2]
    others = [method for method in TARGET_SWEEP if method != middle]
    ranks = {method: place - 2.0 for place, method in enumerate(TARGET_SWEEP)}
    return [
        fact(f"{runs} of {runs + len(broken)} runs complete", not broken),
        evidence.bias_below("relif", largest),
        lower(
            f"Worst of {title_of(largest)} not above ReLiF by {plan.FAVOURABLE_WORST:g}",
            worst,
            plan.FAVOURABLE_WORST,
        ),
        *[evidence.same_utility(other, middle, kind) for kind in ("worst", "macro") for other in others],
        *[evidence.same_bias(other, middle, plan.SAME_BIAS) for other in others],
        higher(
            "share of steps at λ_min rises with ρ*",
            contrast(results, {method: rank / 10 for method, rank in ranks.items()}, "at_minimum"),
        ),
    ]


def _calibration(evidence: Evidence) -> list[Part]:
    at = evidence.endpoint.bias
    terms = {("erm", f"{at}calibrated_bias"): 1.0, ("erm", f"{at}bias"): -plan.CALIBRATED_SHARE}
    found = between_kinds(evidence.results, terms)
    return [lower(f"calibrated Bias of ERM below {plan.CALIBRATED_SHARE:g} of its raw Bias", found)]


def _confidence(evidence: Evidence) -> list[Part]:
    calibrated = evidence.bias_below("erm", "gradnorm", kind="calibrated_bias")
    return [evidence.bias_below("gradnorm", "erm"), calibrated]


def _full_weight(evidence: Evidence, other: str = "erm") -> list[Part]:
    return [evidence.bias_below("relif_static_1", other, kind=kind) for kind in ("bias", "calibrated_bias")]


#: How every claim is judged: its parts, the methods that it needs, its kinds of data, and its endpoints.
_JUDGED: Mapping[str, tuple[Any, ...]] = {
    "1": (_dense_prediction, SEVEN_METHODS, ("dense",), (HEADLINE,)),
    "2": (_gradnorm_lowest, ("relif", "gradnorm", "fairgrad")),
    "3": (_highest_worst, SEVEN_METHODS),
    "4": (_wide_tolerances, TABLE_2_METHODS, ("clinical",), (HEADLINE,)),
    "5": (_components, ("erm", "relif", "relif_no_alignment")),
    "6": (_pattern_over_tolerances, ("gradnorm", "relif")),
    "7": (_step_and_target, tuple(dict.fromkeys((*STEP_SIZE_SWEEP, *TARGET_SWEEP)))),
    "8": (partial(_separated, kind="violation_rate"), SEVEN_METHODS, ("dense",), (HEADLINE,)),
    "P1": (_calibration, ("erm",), ("clinical",), (HEADLINE, LAST)),
    "P2": (_confidence, ("erm", "gradnorm"), ("clinical",), (HEADLINE, LAST)),
    "P3": (_full_weight, ("erm", "relif_static_1"), ("clinical",), (HEADLINE, LAST)),
    "P4": (
        partial(_full_weight, other="relif"),
        ("relif", "relif_static_1"),
        ("clinical",),
        (HEADLINE, LAST),
    ),
}
_WORDS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
_ALL = [Claim(*words.values(), *_JUDGED[words["number"]]) for words in _WORDS]
#: The paper's eight claims; ``made_on`` is the data of the paper.
CLAIMS = tuple(claim for claim in _ALL if claim.made_on != "ours")
#: The plan's four primary contrasts; a support must hold after Holm over the four.
PRIMARY = tuple(claim for claim in _ALL if claim.made_on == "ours")


def beside_primary(results: ResultSet) -> dict[str, list[Part]]:
    """Return the plan's rows beside the fourth contrast that the records can answer: text → parts."""
    evidence, found = Evidence(results), {}
    if {"relif", "erm"} <= set(results.runs):
        found["ReLiF as released is like plain training"] = [
            evidence.same_bias("relif", "erm", plan.LIKE_PLAIN),
            evidence.same_bias("relif", "erm", plan.LIKE_PLAIN_CALIBRATED, "calibrated_bias"),
        ]
    for method in ("relif_step_size_0.05_target_0.09", "relif_step_size_0.05"):
        if not {method, "relif_static_1"} <= set(results.runs):
            continue
        found[f"{title_of(method)}: higher Bias than static λ = 1, uncalibrated and calibrated"] = (
            _full_weight(evidence, method)
        )
        if method == "relif_step_size_0.05":
            weights = results.values(method, "weight_end")
            floor = results.records[0].settings.controller.minimum * (1 + 1e-9)
            ends = sum(weight <= floor for weight in weights)
            found[f"{title_of(method)}: λ ends at its floor in every run"] = [
                fact(f"{ends} of {len(weights)} runs end at the floor", ends == len(weights))
            ]
    return found


def can_decide(claim: Claim, results: ResultSet) -> bool:
    """Tell whether a claim can be asked of results: they are of its kind and hold its methods."""
    return results.kind in claim.kinds and set(claim.needs) <= set(results.runs)
