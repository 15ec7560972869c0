"""The ruler of an audit: a score map and a tolerance, fitted on a reference model, shared by all models."""

import fnmatch
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from relif_core.audit.door import columns, given, is_frame
from relif_core.audit.plain import Stored, picked, rebuilt
from relif_core.audit.pools import checked_fraction, checked_integer, checked_tolerance, in_order
from relif_core.audit.tolerance import (
    conformal_tolerance,
    matched_distances,
    refuse_weights,
    subject_ids,
    unit_rows,
)
from relif_core.errors import InputError, RecordError, listed

SCHEMA = "relif-ruler/1"
KINDS = ("identity", "sigmoid", "max_sigmoid", "max_softmax", "quantile")


class MappedScores(dict[str, np.ndarray]):
    """Audit scores by task, ``rest`` the columns that are no outputs, ``indices`` the tasks' pandas indices.

    NaN is masked: no label. ``rows`` is the length of the frame that they come from, 0 of a mapping.
    """

    rest: dict[str, Any]
    indices: dict[str, Any]
    rows: int = 0


class ScoreMap:
    """How model outputs become audit scores in [0, 1]: one rule per task, the same for every model.

    Rules: "identity" (a score already), "sigmoid" of a logit [n], "max_sigmoid" and (K ≥ 2) "max_softmax" of
    logits [n, K], and ("quantile", low, high): clip((x − q_low) / (q_high − q_low), 0, 1) with quantiles of
    the *reference* model's outputs. Fitting them on the audited model would give every model a ruler of its
    own. In a data frame a task is the column of its name; logits [n, K] are the columns that match a pattern:
    ("max_softmax", "los_*").

    >>> reference = ScoreMap(depth=("quantile", 0.0, 1.0)).fit({"depth": [2.0, 4.0]})
    >>> reference.scores({"depth": [1.0, 3.5]})["depth"].tolist()
    [0.0, 0.75]
    """

    def __init__(self, /, **tasks: Any) -> None:
        """Take one rule per task: its name, or a tuple of its name and its arguments.

        Raises:
            InputError: A rule that is unknown or whose arguments do not fit.
        """
        self.rules = {task: _rule(task, rule) for task, rule in tasks.items()}

    def fit(self, reference: Any) -> "ScoreMap":
        """Return the map with its quantiles taken from a reference model's outputs (mapping or frame).

        Raises:
            InputError: A task without outputs, or quantiles that coincide.
        """
        outputs = columns(reference) if is_frame(reference) else reference
        fitted = ScoreMap()
        for task, rule in self.rules.items():
            fitted.rules[task] = dict(rule)
            if rule["kind"] == "quantile":
                raw, _ = _outputs(outputs, task, rule)
                raw = raw[np.isfinite(raw)]
                if not len(raw):
                    raise InputError(f"task {task!r}: the reference outputs hold no finite number")
                low, high = np.quantile(raw, [rule["low"], rule["high"]]).tolist()
                if not low < high:
                    raise InputError(
                        f"task {task!r}: the quantiles of the reference outputs coincide at {low:g}"
                    )
                fitted.rules[task]["range"] = [low, high]
        return fitted

    def scores(self, outputs: Any) -> MappedScores:
        """Return the audit scores of a model's outputs (a mapping or a data frame).

        Raises:
            InputError: A task without outputs, outputs of a wrong shape, or a quantile rule not fitted.
        """
        found = columns(outputs) if is_frame(outputs) else outputs
        scores = MappedScores()
        scores.indices, scores.rows = {}, len(outputs) if is_frame(outputs) else 0
        used: set[str] = set()
        for task, rule in self.rules.items():
            used.update(_names(found, task, rule))
            raw, scores.indices[task] = _outputs(found, task, rule)
            mapped = _mapped(task, rule, raw)
            absent = np.isnan(mapped)
            scores[task] = np.ma.array(mapped, mask=absent) if absent.any() else mapped
        scores.rest = {name: values for name, values in found.items() if name not in used}
        return scores

    @property
    def digest(self) -> str:
        """Return the sha256 of the rules."""
        return _digest(self.rules)


def _rule(task: str, given_rule: Any) -> dict[str, Any]:
    kind, *arguments = (given_rule or [None]) if isinstance(given_rule, tuple | list) else (given_rule,)
    if kind not in KINDS:
        raise InputError(f"task {task!r}: score rule {kind!r} is unknown; use {', '.join(KINDS)}")
    if kind == "quantile":
        try:
            low, high = map(float, arguments)
        except (TypeError, ValueError):
            raise InputError(
                f"task {task!r}: quantile takes two numbers, as in ('quantile', 0.1, 0.9)"
            ) from None
        if not 0 <= low < high <= 1:
            raise InputError(f"task {task!r}: quantiles must rise within [0, 1], got {low:g} and {high:g}")
        return {"kind": kind, "low": low, "high": high, "range": None}
    wide = kind.startswith("max_")
    if len(arguments) > wide or not all(isinstance(pattern, str) for pattern in arguments):
        raise InputError(
            f"task {task!r}: {kind} takes {'one pattern of column names' if wide else 'no argument'}"
        )
    return {"kind": kind, "columns": arguments[0] if arguments else None}


def _map_from(rules: Any) -> ScoreMap:
    """Return the score map of rules as JSON holds them, or refuse (``ValueError``) what is no rule."""
    found = ScoreMap()
    for task, rule in rules.items():
        quantile = rule["kind"] == "quantile"
        arguments = (rule["low"], rule["high"]) if quantile else filter(None, [rule["columns"]])
        wanted = _rule(task, (rule["kind"], *arguments))
        if quantile and rule["range"] is not None:
            low, high = rebuilt(tuple[float, float], rule["range"], "range")
            wanted["range"] = [low, high] if low < high else None
        if wanted != rule:
            raise ValueError(f"the score rule of {task!r} is none")
        found.rules[task] = rule
    return found


def _names(outputs: Any, task: str, rule: Mapping[str, Any]) -> list[str]:
    if not isinstance(outputs, Mapping):
        raise InputError(
            f"outputs must map task names to arrays, or be a data frame, not a {type(outputs).__name__}"
        )
    pattern = rule.get("columns")
    names = [name for name in outputs if fnmatch.fnmatchcase(str(name), pattern)] if pattern else [task]
    if not names or names[0] not in outputs:
        raise InputError(f"task {task!r}: outputs have no {pattern or task!r}; they have {listed(outputs)}")
    return names


def _outputs(outputs: Any, task: str, rule: Mapping[str, Any]) -> tuple[np.ndarray, Any]:
    """Return a task's outputs, and the pandas index that their first column has."""
    parts: list[np.ndarray] = []
    index = None
    for name in _names(outputs, task, rule):
        found = given(outputs[name], f"outputs of {name!r}")
        index = index if parts else found.index
        found = in_order(found, index, f"outputs of {name!r}", "those before them", f"task {task!r}: ")
        if parts and found.values.shape != parts[0].shape:
            raise InputError(
                f"task {task!r}: outputs of {name!r} have shape {found.values.shape}, those before them"
                f" {parts[0].shape}; give every class as many"
            )
        if found.values.dtype.kind not in "fiub":
            raise InputError(f"outputs of {name!r} must be numbers, got an array of {found.values.dtype}")
        values = found.values.astype(np.float64)
        for absent in (found.missing, found.masked):
            if absent is not None:
                values[absent] = np.nan
        parts.append(values)
    array = np.column_stack(parts) if rule.get("columns") else parts[0]
    wanted, least = 2 if rule["kind"].startswith("max_") else 1, 2 if rule["kind"] == "max_softmax" else 1
    if array.ndim != wanted or len(array) == 0 or array.shape[-1] < least:
        shape = "[n]" if wanted == 1 else "[n, K], K at least 2" if least == 2 else "[n, K]"
        raise InputError(f"outputs of {task!r} have shape {array.shape}, {rule['kind']} needs {shape}")
    return array, index


def _fitted(task: str, rule: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the rule, or refuse (``InputError``) quantiles that no reference model has set."""
    if rule["kind"] == "quantile" and rule["range"] is None:
        raise InputError(
            f"task {task!r}: the score map is not fitted; call fit with the reference model's outputs"
        )
    return rule


def _mapped(task: str, rule: Mapping[str, Any], raw: np.ndarray) -> np.ndarray:
    if rule["kind"] == "identity":
        return raw
    if rule["kind"] == "quantile":
        low, high = _fitted(task, rule)["range"]
        return np.clip((raw - low) / (high - low), 0, 1)
    if rule["kind"] == "max_softmax":
        top = raw.max(axis=1, keepdims=True)
        below = np.subtract(raw, top, out=np.zeros_like(raw), where=raw != top)  # infinite logits too
        return 1 / np.exp(below).sum(axis=1)
    return 0.5 * (1 + np.tanh((raw.max(axis=1) if raw.ndim == 2 else raw) / 2))


@dataclass(frozen=True)
class Ruler(Stored):
    """A calibrated tolerance and the score map that it belongs to.

    Attributes:
        tolerance: Conformal quantile (theorem B.3) of disjoint pairs of subjects.
        alpha: Its level.
        pairs: Number of the pairs.
        seed: Of their matching, chosen before looking.
        matchings: Number of matchings of ``spread``.
        spread: Least, median and greatest tolerance over the matchings, and their standard deviation.
        reference: Which model and data were measured.
    """

    tolerance: float
    alpha: float
    pairs: int
    seed: int
    matchings: int
    spread: dict[str, float]
    score_map: ScoreMap
    reference: str | None = None

    _schemas = (SCHEMA,)
    _damage = "this is no ruler", "make one with `relif audit calibrate`"

    def scores(self, outputs: Any) -> MappedScores:
        """Return the audit scores of a model's outputs under this ruler's map (:meth:`ScoreMap.scores`)."""
        return self.score_map.scores(outputs)

    @property
    def sha256(self) -> str:
        """Return the digest that tells rulers apart."""
        return _digest(self._content())

    @property
    def score_definition(self) -> str:
        """Return what identifies the score map in audits and histograms."""
        return f"score map {self.score_map.digest[:16]}"

    def describe(self) -> str:
        """Return where the tolerance comes from, in one sentence."""
        return (
            f"conformal quantile at α = {self.alpha:g} of {self.pairs:,} disjoint reference pairs (theorem"
            f" B.3); over {self.matchings:,} matchings {self.spread['low']:.4f} to {self.spread['high']:.4f};"
            f" ruler {self.sha256[:12]}"
        )

    def _content(self) -> dict[str, Any]:
        own = picked(self, "tolerance", "alpha", "pairs", "seed", "matchings", "spread", "reference")
        return {"schema": SCHEMA, **own, "score_map": self.score_map.rules}

    def to_json(self) -> str:
        """Return the ruler as JSON text with its digest; :meth:`from_json` reads it back."""
        return json.dumps({**self._content(), "sha256": self.sha256}, indent=1, ensure_ascii=False)

    @classmethod
    def _from(cls, content: dict[str, Any]) -> "Ruler":
        values = {name: value for name, value in content.items() if name not in ("schema", "sha256")}
        ruler: Ruler = rebuilt(cls, {**values, "score_map": _map_from(values["score_map"])}, "ruler")
        checked_tolerance(ruler.tolerance, "tolerance")
        checked_fraction(ruler.alpha, "alpha")
        if not ruler.spread.keys() >= {"low", "median", "high", "deviation"}:
            raise ValueError("the spread over matchings is incomplete")
        if ruler.sha256 != content["sha256"]:
            raise RecordError(
                "this ruler was changed after it was made: its digest does not fit; calibrate again"
            )
        return ruler


def calibrate(
    embeddings: Any,
    scores: ScoreMap,
    *,
    subject: Any = None,
    alpha: float = 0.1,
    matchings: int = 200,
    seed: int = 0,
    reference: str | None = None,
    weight: None = None,
) -> Ruler:
    """Return the ruler that a reference model's representation gives.

    Args:
        embeddings: [n, D] of the reference model on calibration data.
        scores: The fitted score map, which travels with the tolerance.
        subject: [n] ids; without, every row is a subject.
        alpha: Chance that the distance of a new pair exceeds δ, in (0, 1).
        matchings: Random matchings whose tolerances show how much δ depends on the draw.
        seed: Of the matching that sets δ; the others follow it.
        reference: Which model and data.
        weight: Refused: theorem B.3 is for exchangeable pairs. Calibrate on data drawn as the audited data
            will be, or resample to that first.

    Returns:
        The ruler; δ = 1 where there are fewer than 1/α − 1 pairs, which no gap exceeds.

    Raises:
        InputError: Embeddings, ids or settings that cannot be used, a score map that is not fitted, weights.
    """
    refuse_weights(weight)
    if not isinstance(scores, ScoreMap):
        raise InputError(f"scores must be a fitted ScoreMap, not a {type(scores).__name__}")
    for task, rule in scores.rules.items():
        _fitted(task, rule)
    if reference is not None and not isinstance(reference, str):
        raise InputError(f"reference must be text that names model and data, got {reference!r}")
    checked_fraction(alpha, "alpha")
    checked_integer(matchings, "matchings", 1)
    checked_integer(seed, "seed", 0)
    units = unit_rows(embeddings)
    ids = subject_ids(np.arange(len(units)) if subject is None else subject, embeddings)
    distances = [matched_distances(units, ids, seed + k) for k in range(matchings)]
    found = np.array([conformal_tolerance(one, alpha) for one in distances])
    return Ruler(
        tolerance=float(found[0]),
        alpha=float(alpha),
        pairs=len(distances[0]),
        seed=int(seed),
        matchings=int(matchings),
        spread={
            "low": float(found.min()),
            "median": float(np.median(found)),
            "high": float(found.max()),
            "deviation": float(found.std(ddof=1)) if matchings > 1 else 0.0,
        },
        score_map=scores,
        reference=reference,
    )


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
