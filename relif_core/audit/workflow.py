"""From a table of scores to a verdict: one object per audited model, measured with a shared ruler."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from relif_core.audit.card import Card, audit_card, interval_text
from relif_core.audit.comparison import (
    Comparison,
    RankingCertificate,
    compare,
    comparison,
    drift_budget,
    ranking_certificate,
)
from relif_core.audit.door import columns, is_frame, is_number, over_tasks
from relif_core.audit.exact import BiasCurve, bias_curve
from relif_core.audit.individual import IndividualAudit, similar_pair_audit, similar_pairs
from relif_core.audit.plain import Stored, rebuilt
from relif_core.audit.pools import Pair, Pools, aligned, pair_tolerances
from relif_core.audit.protocol import audit
from relif_core.audit.result import KINDS, AuditContext, AuditResult
from relif_core.audit.ruler import MappedScores, Ruler
from relif_core.audit.sketch import BINS, HistogramSketch
from relif_core.audit.sketch_result import InfluenceSums
from relif_core.audit.subject_ids import subject_codes
from relif_core.audit.tolerance import induced_tolerances
from relif_core.audit.uncertainty import checked_level, combined_error
from relif_core.errors import ComparabilityError, InputError, listed

SCHEMA = "relif-audit-file/1"
CURVE_TOLERANCES = np.linspace(0, 1, 51)

Verdict = Literal["pass", "fail", "undecided"]
#: The worst first.
VERDICTS: tuple[Verdict, ...] = ("fail", "undecided", "pass")


@dataclass(frozen=True)
class NamedComparison:
    """One model's audit against another's: a − b by name, with the family's p-values adjusted together."""

    a: str
    b: str
    comparison: Comparison
    adjusted_p_value: float
    adjusted_violation_rate_p_value: float


class Audit(Stored):
    """One model's audit under a ruler: what it found, and everything that may be asked of it.

    Args:
        scores: What ``ruler.scores(outputs)`` returns, a mapping task → scores, or a data frame of scores.
        ruler: Of :func:`calibrate`.
        subject: Ids: the name of a column of the outputs or frame, an array for all tasks, or a mapping task
            → array. Without, a row of a frame (of outputs or scores) is a subject, and a score of a mapping
            an independent sample.
        group: Group labels, given in the same ways.
        weight: Sample weights, given in the same ways.
        name: Of the model.
        dataset: Name and version of the data.
        split: Of the data.
        level: Of all intervals.

    Raises:
        InputError: As :func:`audit`, or a column that the outputs do not have.
    """

    _schemas = (SCHEMA,)
    _damage = "this is no audit file", "make one with `relif audit run`"

    def __init__(
        self,
        scores: Any,
        ruler: Ruler,
        *,
        subject: Any = None,
        group: Any = None,
        weight: Any = None,
        name: str = "model",
        dataset: str | None = None,
        split: str | None = None,
        level: float = 0.95,
    ) -> None:
        if not isinstance(ruler, Ruler):
            raise InputError(f"ruler must be a Ruler of calibrate, not a {type(ruler).__name__}")
        if not isinstance(name, str):
            raise InputError(f"name must be text, got {name!r}")
        self.ruler, self.name, self.level = ruler, name, checked_level(level)
        tasks, rest = _split(scores, ruler)
        if subject is None and (rows := len(scores) if is_frame(scores) else getattr(scores, "rows", 0)):
            subject = np.arange(rows)
        subjects, groups, weights = (
            over_tasks(labels, ruler.score_map.rules, rest, what)
            for labels, what in ((subject, "subject"), (group, "group"), (weight, "weight"))
        )
        self._pools: Pools | None = Pools.of(tasks, ruler.tolerance, subjects, weights)
        self.result = audit(
            self._pools,
            ruler.tolerance,
            groups=groups,
            context=AuditContext(
                dataset=dataset,
                split=split,
                score_definition=ruler.score_definition,
                tolerance_source=ruler.describe(),
            ),
        )
        self._curve: BiasCurve | None = None
        self._induced: dict[Pair, float] | None = None

    def __repr__(self) -> str:
        return self.summary()

    def summary(self) -> str:
        """Return the finding in a few lines: both estimates, their intervals and units, the worst group."""
        result = self.result
        bias, rate = (interval_text(result.interval(kind, self.level)) for kind in KINDS)
        # Each pool of unweighted samples gives a degree of freedom to its mean; other units give one in all.
        apart = result.clustered_by == "sample" and result.freedom == result.clusters - len(result.tasks)
        effective = result.clusters if apart else result.freedom + 1
        lines = [
            (
                f"{self.name}: Bias {result.bias:.4f} ({bias}), violation rate {result.violation_rate:.4f}"
                f" ({rate}) at δ = {self.ruler.tolerance:.4f}"
            ),
            (
                f"{100 * self.level:g} % intervals from {result.clusters:,} independent"
                f" {result.clustered_by}s ({effective:,.1f} effective); {self.ruler.describe()}"
            ),
        ]
        if result.groups:
            worst = max(result.groups, key=lambda label: result.groups[label].bias)
            lines.append(
                f"worst of {len(result.groups)} groups: {worst}, Bias {result.groups[worst].bias:.4f}"
            )
        lines += [f"group {label} left out: {reason}" for label, reason in result.groups_left_out.items()]
        return "\n".join([*lines, *(f"note: {note}" for note in result.notes)])

    def table(self) -> list[dict[str, Any]]:
        """Return one row for the whole, each task pair and each group, as pandas.DataFrame takes it."""
        parts: list[tuple[str, str, Any]] = [("all", "", self.result)]
        parts += [("pair", " – ".join(row.tasks), row) for row in self.result.per_pair]
        parts += [("group", label, part) for label, part in self.result.groups.items()]
        rows = []
        for of, label, part in parts:
            (low, high), (rate_low, rate_high) = (part.interval(kind, self.level) for kind in KINDS)
            rows.append(
                {"of": of, "name": label, "bias": part.bias, "bias_low": low, "bias_high": high,
                 "violation_rate": part.violation_rate, "rate_low": rate_low, "rate_high": rate_high,
                 "subjects": part.clusters}
            )  # fmt: skip
        return rows

    def curve(self) -> BiasCurve:
        """Return exact Bias and violation rate over the tolerances from 0 to 1."""
        if self._curve is None:
            self._curve = bias_curve(self._held("the curve"), CURVE_TOLERANCES)
        return self._curve

    def compare(self, *others: "Audit", adjust: Literal["holm", "none"] = "holm") -> list[NamedComparison]:
        """Return this audit minus each other one, paired by subject, with p-values adjusted for their number.

        Args:
            *others: Audits under the same ruler.
            adjust: "holm", or "none".

        Raises:
            ComparabilityError: Another ruler, score map or pool; the message names what differs.
            InputError: An unknown adjustment, or nothing to compare with.
        """
        if adjust not in ("holm", "none"):
            raise InputError(f"adjust {adjust!r} is unknown; use 'holm' or 'none'")
        if not others or not all(isinstance(other, Audit) for other in others):
            raise InputError("compare needs other audits of this kind")
        for other in others:
            self._same_ruler(other)
        found = [compare(self.result, other.result, self.level) for other in others]
        kinds = ("p_value", "violation_rate_p_value")
        adjusted = [[getattr(one, kind) for one in found] for kind in kinds]
        if adjust == "holm":
            adjusted = [holm(own) for own in adjusted]
        return [
            NamedComparison(self.name, other.name, one, bias, rate)
            for other, one, bias, rate in zip(others, found, *adjusted, strict=True)
        ]

    def group_difference(self, first: str, second: str) -> Comparison:
        """Return the first group minus the second, with the error of subjects who may be in both.

        Args:
            first: Names of groups.
            second: Names of groups.

        Raises:
            InputError: A group that was not audited, or an audit without subjects in memory.
        """
        parts = []
        for label in (str(first), str(second)):
            if label not in self.result.groups:
                why = self.result.groups_left_out.get(label)
                known = listed(self.result.groups) or "none: name the groups when auditing"
                raise InputError(
                    f"group {label!r} was not audited{f': {why}' if why else ''}; there are {known}"
                )
            parts.append(self.result.groups[label])
        a, b = parts
        if a.influences is None or b.influences is None:
            raise InputError(
                "a difference of groups needs the subjects' influences; audit with subjects, or keep them"
            )
        both = {"a": a.influences, "b": b.influences}
        ids, places = subject_codes({name: own.subjects for name, own in both.items()})
        shares = [np.bincount(places[name], own.share, len(ids)) for name, own in both.items()]
        # Who is in both groups is one unit: as many degrees as one group has if the same people are in both.
        alike = float(shares[0] @ shares[1] / np.sqrt((shares[0] @ shares[0]) * (shares[1] @ shares[1])))
        freedom = min(a.freedom + b.freedom - alike * min(a.freedom, b.freedom), len(ids) - 1)
        errors = {}
        for kind in KINDS:
            scaled = np.concatenate([a.influences.scaled(kind), -b.influences.scaled(kind)])
            errors[kind] = combined_error(np.bincount(np.hstack([*places.values()]), scaled), freedom)
        return comparison(a, b, errors, self.level, paired=False)

    def certificate(
        self, other: "Audit", induced: Mapping[str, Mapping[Pair, float]] | None = None
    ) -> RankingCertificate:
        """Tell whether the order of two models survives their own tolerances (theorem B.2).

        Args:
            other: The other model's audit.
            induced: Model name → induced tolerances of both (:func:`induced_tolerances`); without, those
                given to :meth:`induce` before.

        Raises:
            InputError: Induced tolerances that are missing.
        """
        self._same_ruler(other)
        if induced is not None and self.name == other.name and self is not other:
            raise InputError(
                f"both audits are named {self.name!r}, and induced tolerances go by name; name them apart"
            )
        budgets, given = [], induced if isinstance(induced, Mapping) else {}
        for one in (self, other):
            own = one._induced if induced is None else given.get(one.name)
            if own is None:
                raise InputError(
                    f"{one.name}: induced tolerances are missing; pass them by name, or call induce first"
                )
            budgets.append(drift_budget(self.result.tolerances, own))
        return ranking_certificate(self.result.bias, other.result.bias, *budgets)

    def induce(self, embeddings: Any, k: int = 5) -> dict[Pair, float]:
        """Compute and keep the tolerances of the model's own representation: a diagnostic on the card.

        Samples of weight 0 are in no prototype (:func:`induced_tolerances`).

        Args:
            embeddings: One array [n, D] for all tasks, or task → array, aligned with the scores.
            k: Samples of a prototype.
        """
        pools = self._held("induced tolerances")
        rows = over_tasks(embeddings, self.ruler.score_map.rules, {}, "embedding")
        self._induced = induced_tolerances(rows, pools, k)
        return self._induced

    def similar_pairs(
        self, embeddings: Any, k: int = 5, *, lipschitz: float | Mapping[str, float]
    ) -> IndividualAudit:
        """Measure whether similar people get similar scores (:func:`similar_pair_audit`).

        Both embeddings and L come from outside the model, or every model would have a ruler of its own.

        Args:
            embeddings: One array [n, D] for all tasks, or task → array.
            k: Neighbours of each sample.
            lipschitz: L, one number or task → number (:func:`lipschitz_limit` on reference validation data).
        """
        pools = self._held("similar pairs")
        rows = over_tasks(embeddings, self.ruler.score_map.rules, {}, "embedding")
        inputs = {t: aligned(rows[t], t, pools.scores, "embeddings") for t in pools.scores if t in rows}
        pairs = similar_pairs(inputs, subjects=pools.codes or None, k=k)
        return similar_pair_audit(pools, pairs, lipschitz)

    def histogram(self, bins: int = BINS) -> HistogramSketch:
        """Return the counts per bin and task, and the sums of weights, that a site sends instead of scores.

        Raises:
            InputError: A number of bins that is no power of two.
        """
        definition, tolerance = self.ruler.score_definition, self.ruler.tolerance
        pools = self._held("a histogram")
        return HistogramSketch.of(pools, bins, score_definition=definition, tolerance=tolerance)

    def influence_sums(self, merged: HistogramSketch) -> InfluenceSums:
        """Return what this site adds to the error, clustered by subject, of the histogram of all sites.

        Raises:
            InputError: An audit without subjects, or as :meth:`HistogramSketch.subject_sums`.
        """
        pools = self._held("influence sums")
        if pools.ids is None:
            raise InputError("influence sums are of subjects; name their column when auditing")
        return merged.subject_sums(pools, None, self.ruler.tolerance)

    def card(
        self,
        *,
        utility: Mapping[str, float] | None = None,
        induced: Mapping[Pair, float] | None = None,
        controller: Mapping[str, Any] | None = None,
    ) -> Card:
        """Return the audit card, dated today; ``save`` writes it as .json, .md or .html.

        Args:
            utility: Name → value, of the same checkpoint.
            induced: Induced tolerances, if not those of :meth:`induce`.
            controller: Settings of the controller.
        """
        return audit_card(
            self.result,
            model=self.name,
            calibration=self.ruler.reference,
            induced=induced if induced is not None else self._induced,
            utility=utility,
            controller=controller,
            level=self.level,
            curve=self.curve(),
            ruler=self.ruler,
            date=datetime.now(UTC).date().isoformat(),
        )

    def to_json(self, *, include_influences: bool = False) -> str:
        """Return result, curve and ruler as JSON: no scores, and one row per subject only on request."""
        content = {
            "schema": SCHEMA,
            "name": self.name,
            "level": self.level,
            "ruler": json.loads(self.ruler.to_json()),
            "result": self.result.as_dict(include_influences=include_influences),
            "induced": None
            if self._induced is None
            else [[*pair, value] for pair, value in self._induced.items()],
            "curve": self.curve().lists(),
        }
        return json.dumps(content, allow_nan=False, ensure_ascii=False, indent=1)

    @classmethod
    def _from(cls, content: dict[str, Any]) -> "Audit":
        found = cls.__new__(cls)
        found.name = rebuilt(str, content["name"], "name")
        found.level = checked_level(content["level"])
        found.ruler = Ruler.from_json(json.dumps(content["ruler"]))
        found.result = result = AuditResult.from_dict(content["result"])
        measured = {result.context.score_definition, *result.tolerances.values()}
        if measured != {found.ruler.score_definition, found.ruler.tolerance}:
            raise ValueError("its result was measured with another score map or tolerance than its ruler's")
        induced = rebuilt(tuple[tuple[str, str, float], ...] | None, content["induced"], "induced")
        pairs = None if induced is None else {(i, j): value for i, j, value in induced}
        found._induced = None if pairs is None else pair_tolerances(pairs, "induced tolerance")
        lists = rebuilt(dict[str, tuple[float, ...]], content["curve"], "curve")
        found._curve = BiasCurve(**{name: np.array(own) for name, own in lists.items()}, per_pair={})
        if len(set(map(len, lists.values()))) != 1 or not all(lists.values()):
            raise ValueError("the lists of its curve are empty or of different lengths")
        found._pools = None
        return found

    def save(self, path: str | Path, *, include_influences: bool = False) -> None:
        """Write :meth:`to_json` to a file, whole or not at all.

        Args:
            path: The file.
            include_influences: Add one row per subject.
        """
        from relif_core.files import write_file

        write_file(Path(path), self.to_json(include_influences=include_influences) + "\n")

    def check(
        self,
        *,
        bias_below: float | None = None,
        rate_below: float | None = None,
        use: Literal["upper", "estimate"] = "upper",
        worst_group: bool = False,
    ) -> tuple[Verdict, list[str]]:
        """Hold the audit against limits.

        With ``use="upper"`` it passes where the interval lies below the limit, fails where it lies above, and
        is undecided where it holds the limit; with "estimate" the estimate alone decides.

        Args:
            bias_below: Limits in [0, 1] of Bias and violation rate; None: none.
            rate_below: Likewise.
            use: "upper" or "estimate".
            worst_group: Ask it of every group as well, at intervals of level 1 − (1 − level)/groups; a group
                that could not be audited leaves it undecided.

        Raises:
            InputError: No limit, a limit outside [0, 1], or no groups to ask.
        """
        asked = zip(KINDS, (bias_below, rate_below), strict=True)
        limits = {kind: limit for kind, limit in asked if limit is not None}
        if not limits or not all(is_number(own) and 0 <= own <= 1 for own in limits.values()):
            raise InputError("a check needs a limit between 0 and 1 for Bias or violation rate")
        if use not in ("upper", "estimate"):
            raise InputError(f"use {use!r} is unknown; use 'upper' or 'estimate'")
        if worst_group and not (self.result.groups or self.result.groups_left_out):
            raise InputError(f"{self.name}: no groups were audited; name their column when auditing")
        parts: list[tuple[str, AuditResult, float]] = [("all", self.result, self.level)]
        if worst_group:
            level = 1 - (1 - self.level) / max(1, len(self.result.groups))
            parts += [(f"group {label}", part, level) for label, part in self.result.groups.items()]
        found: list[tuple[Verdict, str]] = []
        for label, part, level in parts:
            for kind, limit in limits.items():
                value = getattr(part, kind)
                low, high = (value, value) if use == "estimate" else part.interval(kind, level)
                state: Verdict = "pass" if high < limit else "fail" if low >= limit else "undecided"
                title = "Bias" if kind == "bias" else "violation rate"
                ends = interval_text((low, high))
                found.append((state, f"{label}, {title} {value:.4f} ({ends}) against {limit:g}"))
        for label, reason in self.result.groups_left_out.items() if worst_group else ():
            found.append(("undecided", f"group {label} was left out, {reason}"))
        worst = min((state for state, _ in found), key=VERDICTS.index)
        return worst, [f"{state}: {line}" for state, line in found]

    def _same_ruler(self, other: "Audit") -> None:
        if not isinstance(other, Audit):
            raise InputError(f"another audit is needed, not a {type(other).__name__}")
        if self.ruler.sha256 != other.ruler.sha256:
            raise ComparabilityError(
                f"{self.name} and {other.name} were measured with different rulers ({self.ruler.sha256[:12]}"
                f" and {other.ruler.sha256[:12]}); audit both with one"
            )

    def _held(self, what: str) -> Any:
        if self._pools is None:
            raise InputError(f"{what} need the scores, which an audit file does not hold; audit again")
        return self._pools


def holm(p_values: list[float]) -> list[float]:
    """Return p-values adjusted for their number by Holm's step-down rule (1979), in their own order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda k: math.inf if math.isnan(p_values[k]) else p_values[k])
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, k in enumerate(order):
        if not math.isnan(p_values[k]):
            highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[k]))
            adjusted[k] = highest
    return adjusted


def _split(scores: Any, ruler: Ruler) -> tuple[Any, Mapping[str, Any]]:
    """Return the tasks of the ruler's map, in its order, and the columns beside them."""
    rules, frame = ruler.score_map.rules, is_frame(scores)
    if not frame and not isinstance(scores, Mapping):
        raise InputError(f"scores must be a mapping or a data frame, not a {type(scores).__name__}")
    everything = columns(scores) if frame else {**getattr(scores, "rest", {}), **scores}
    if absent := [task for task in rules if task not in everything]:
        raise InputError(
            f"scores lack the ruler's tasks {listed(absent)}; map outputs with ruler.scores first"
        )
    rest = {name: values for name, values in everything.items() if name not in rules}
    if frame:
        return scores[list(rules)], rest
    tasks = MappedScores({task: everything[task] for task in rules})
    tasks.indices = getattr(scores, "indices", {})
    return tasks, rest
