"""A study's audit table: every record at one fixed tolerance, in all four views, with covariances.

Aggregates only, so that it may be published where scores may not. Kept as ``audits.json`` (what it is about)
and ``audits.npz`` (numbers; a covariance as the errors and int16 correlations, right to 2e-5); tables made
earlier hold everything in the JSON.
"""

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from relif_book.evidence.contrasts import influences
from relif_book.evidence.packing import read_arrays
from relif_book.evidence.utility_errors import bootstrap_counts, utility_replicates
from relif_core.audit import AuditContext, AuditResult, audit, bias_curve
from relif_core.audit.comparison import Kind
from relif_core.audit.uncertainty import interval, unit_interval
from relif_core.errors import DataError, InputError, RecordError, listed
from relif_core.files import read_json, write_file, write_json
from relif_core.record import VIEWS, Record

AUDITS, NUMBERS = "audits.json", "audits.npz"
#: Where the published curves are evaluated.
CURVE_TOLERANCES = np.linspace(0, 1, 201)
SCORE_DEFINITION = "sigmoid, largest softmax or largest sigmoid; hourly tasks averaged over labelled hours"
#: What every table holds, earlier ones too.
_FIRST = (
    "bias", "violation_rate", "raw_bias", "pair_bias", "bias_covariance", "violation_rate_covariance",
    "curve_tolerances", "bias_curve", "violation_rate_curve",
)  # fmt: skip
_PLAIN = ("tolerance", "split", "keys", "subjects", "pairs")
#: Came with errors for unequal subjects; earlier tables have the degrees of equal ones.
_FREEDOM = ("bias_freedom", "violation_rate_freedom")
#: What every view of a record's pools is audited for.
_ESTIMATES = ("bias", "bias_freedom", "violation_rate", "violation_rate_freedom")
_CORRELATION = 32767
#: Steps of a published influence to either side of 0.
_STEPS = 15


@dataclass(frozen=True, eq=False)
class AuditTable:
    """The audits of R records at one fixed tolerance; every array of ``numbers`` is an attribute.

    ``bias``, ``violation_rate`` and ``raw_bias`` (at each record's own induced tolerances) are [R],
    ``pair_bias`` [R, pairs]. The covariances [R, R] (``<kind>_covariance``) are those of the estimates over
    the draw of subjects, from summed influences; the variance of any combination of records, seeds' means and
    paired differences included, is a quadratic form in them. The degrees of freedom [R] (``<kind>_freedom``)
    and ``effective_pairs`` are those of :class:`AuditResult`. ``bias_curve`` and ``violation_rate_curve`` [R,
    D] hold exact values at ``curve_tolerances``.

    Only records of revision 2 on allow ``calibrated_``, ``last_`` and ``last_calibrated_`` ``bias`` and
    ``violation_rate`` (this without errors); ``calibration_effect``, calibrated minus raw Bias; ``worst``,
    ``macro``, ``last_worst``, ``last_macro``, whose covariance is that of one paired subject bootstrap, NaN
    where a record keeps no logits; ``calibrated_bias_curve`` and ``calibrated_violation_rate_curve``.

    Attributes:
        failed: The runs that were asked for and failed.
        exploratory: Whether sources were modified.
        shares: In memory only: every kind with a covariance to the rows [R, G] whose inner products it is,
            subjects' scaled influences or replicates.
    """

    tolerance: float
    split: str
    keys: list[str]
    subjects: int
    effective_pairs: float
    pairs: list[tuple[str, str]]
    numbers: Mapping[str, np.ndarray] = field(repr=False)
    shares: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    failed: list[dict[str, Any]] = field(default_factory=list)
    exploratory: bool = False

    def __getattr__(self, name: str) -> np.ndarray:
        numbers = self.__dict__.get("numbers", {})
        if name not in numbers:
            raise AttributeError(
                f"this audit table has no {name!r}; its records were made before revision 2 or on tasks"
                " without logits"
            )
        return numbers[name]

    @property
    def kinds(self) -> tuple[str, ...]:
        """The estimates [R] that have a covariance."""
        return tuple(name for name in self.numbers if f"{name}_covariance" in self.numbers)

    def covariance(self, kind: str) -> np.ndarray:
        """Return the covariance [R, R] of an estimate over the draw of subjects.

        Raises:
            RecordError: The table holds no errors of this kind.
        """
        if kind not in self.kinds:
            raise RecordError(
                f"this audit table has no errors of {kind!r}, only of {listed(self.kinds)}; publish newer"
                " records"
            )
        return getattr(self, f"{kind}_covariance")

    def interval(self, weights: np.ndarray, kind: str = "bias", level: float = 0.95) -> tuple[float, float]:
        """Return the interval of Σ w_r · estimate_r over the draw of subjects, for weights [R].

        Its degrees of freedom are the fewest of the records that it weighs. A weighted mean of Bias or
        violation rate, with weights ≥ 0 of sum 1, lies in [0, 1]: :func:`unit_interval`.
        """
        variance = float(weights @ self.covariance(kind) @ weights)
        estimate = float(weights @ getattr(self, kind))
        error = math.sqrt(max(variance, 0.0))
        freedom = float(self._freedom(kind)[weights != 0].min())
        audited = kind.endswith(("bias", "violation_rate"))
        if not audited or (weights < 0).any() or not math.isclose(weights.sum(), 1):
            return interval(estimate, error, level, freedom)
        at_the_tolerance = kind.endswith("bias") and kind != "raw_bias"
        widest = max(0.0, 1 - self.tolerance) if at_the_tolerance else 1.0
        return unit_interval(estimate, error, level, freedom, self.effective_pairs, widest)

    def _freedom(self, kind: str) -> np.ndarray:
        """Return an estimate's degrees of freedom [R]: its audits', else one less than the subjects."""
        return self.numbers.get(f"{kind}_freedom", np.full(len(self.keys), self.subjects - 1.0))

    def save(self, folder: Path) -> None:
        """Write ``audits.npz``, then ``audits.json``."""
        numbers: dict[str, np.ndarray] = {}
        for name, values in self.numbers.items():
            if name.endswith("_covariance"):
                errors = np.sqrt(np.maximum(np.diag(values), 0))
                numbers[f"{name}/errors"] = errors
                numbers[f"{name}/correlations"] = _packed(values, errors)
            else:
                numbers[name] = values.astype(np.float32) if name.endswith("curve") else values
        stream = io.BytesIO()
        np.savez_compressed(stream, allow_pickle=False, **numbers)
        write_file(Path(folder) / NUMBERS, stream.getvalue())
        plain = {name: getattr(self, name) for name in (*_PLAIN, "effective_pairs", "failed", "exploratory")}
        write_json(Path(folder) / AUDITS, plain)

    @classmethod
    def load(cls, folder: Path) -> "AuditTable":
        """Read the table of a published folder; ``RecordError`` names what is missing or damaged."""
        path = Path(folder) / AUDITS
        try:
            content = read_json(path)
            if set(_FIRST) <= set(content):
                numbers = {name: np.array(content.pop(name)) for name in _FIRST}
                freedom = [content["subjects"] - 1] * len(content["keys"])
                numbers |= {name: np.array(content.pop(name, freedom), dtype=float) for name in _FREEDOM}
                content.setdefault("effective_pairs", content["subjects"] / 2)
            else:
                numbers = _unpacked(read_arrays(Path(folder) / NUMBERS))
        except FileNotFoundError as error:
            raise RecordError(f"{error.filename} is missing; publish the records again") from error
        except (DataError, ValueError, KeyError, OSError) as error:
            raise RecordError(f"{path} cannot be read ({error}); publish the records again") from error
        missing = [name for name in (*_PLAIN, *_FIRST, *_FREEDOM) if name not in {*content, *numbers}]
        if missing:
            raise RecordError(f"{path}: an audit table needs {listed(missing)}; publish the records again")
        if numbers["bias"].shape != (len(content["keys"]),):
            raise RecordError(
                f"{path} lists {len(content['keys'])} runs, the numbers beside it are of"
                f" {numbers['bias'].size}; publish all runs of the study to another folder"
            )
        content["pairs"] = [tuple(pair) for pair in content["pairs"]]
        return cls(**content, numbers=numbers)


def _packed(covariance: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Return the correlations above the diagonal in int16; the lowest number stands for undefined."""
    upper = np.triu_indices(len(covariance), 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlations = (covariance / np.outer(errors, errors))[upper]
    defined = np.isfinite(correlations)
    scaled = np.rint(np.clip(np.where(defined, correlations, 0), -1, 1) * _CORRELATION)
    return np.where(defined, scaled, -_CORRELATION - 1).astype(np.int16)


def _unpacked(numbers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {}
    for name, values in numbers.items():
        name, _, part = name.partition("/")
        if part == "correlations":
            errors = numbers[f"{name}/errors"]
            matrix = np.eye(len(errors))
            upper = np.triu_indices(len(errors), 1)
            correlations = np.where(values == -_CORRELATION - 1, np.nan, values / _CORRELATION)
            # No correlation is defined with an estimate that does not vary: its covariances are 0.
            still = (errors[upper[0]] == 0) | (errors[upper[1]] == 0)
            matrix[upper] = matrix.T[upper] = np.where(still, 0, correlations)
            found[name] = matrix * np.outer(errors, errors)
        elif not part:
            found[name] = values
    return found


def audit_record(
    record: Record, tolerance: float | Mapping[tuple[str, str], float], split: str = "test", view: str = ""
) -> AuditResult:
    """Audit a record's pools in one view: exact, subject-clustered, in a context made for comparison."""
    context = AuditContext(
        dataset=f"{record.content['dataset']['dataset']} {record.content['dataset']['fingerprint'][:12]}",
        split=split,
        score_definition=SCORE_DEFINITION + (f"; {view.replace('_', ', ')}" if view else ""),
    )
    return audit(record.scores(split, view), tolerance, subjects=record.subjects(split), context=context)


def audit_table(records: Sequence[Record], tolerance: float, split: str = "test") -> AuditTable:
    """Audit a data set's records at one fixed tolerance and gather what tables and figures need.

    Raises:
        InputError: There is no record, or they are of different data.
    """
    if not records:
        raise InputError("no record to audit; run the study first")
    if len({record.content["dataset"]["fingerprint"] for record in records}) > 1:
        raise InputError("records of different data cannot share a table; keep one data set per folder")
    audits = [audit_record(record, tolerance, split) for record in records]
    raw = [audit_record(record, record.induced_tolerances(split), split) for record in records]
    numbers, shares = estimates(audits)
    numbers["raw_bias"] = np.array([result.bias for result in raw])
    shares["raw_bias"] = influences(raw, "bias")
    numbers |= {"curve_tolerances": CURVE_TOLERANCES, **_curves(records, split)}
    for view in VIEWS:
        if view and all(record.has(view, split) for record in records):
            seen = [audit_record(record, tolerance, split, view) for record in records]
            own, of = estimates(seen)
            numbers |= {f"{view}_{name}": own[name] for name in _ESTIMATES}
            shares[f"{view}_bias"] = of["bias"]
            if view == "calibrated":
                numbers["calibration_effect"] = own["bias"] - numbers["bias"]
                numbers |= _curves(records, split, view)
    if "calibrated_bias" in shares:
        shares["calibration_effect"] = shares["calibrated_bias"] - shares["bias"]
    if all("last" in record.result for record in records):
        own, of = _utilities(records, split)
        numbers, shares = numbers | own, shares | of
    return AuditTable(
        tolerance=float(tolerance),
        split=split,
        keys=[record.key for record in records],
        subjects=audits[0].clusters,
        effective_pairs=audits[0].effective_pairs,
        pairs=[row.tasks for row in audits[0].per_pair],
        numbers=numbers | covariances(shares),
        shares=shares,
    )


def estimates(audits: Sequence[AuditResult]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return a table's numbers and shares of Bias and violation rate, from one audit per record."""
    numbers = {name: np.array([getattr(result, name) for result in audits]) for name in _ESTIMATES}
    numbers["pair_bias"] = np.array([[row.bias for row in result.per_pair] for result in audits])
    kinds: tuple[Kind, ...] = ("bias", "violation_rate")
    return numbers, {kind: influences(audits, kind) for kind in kinds}


def covariances(shares: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return ``<kind>_covariance`` [R, R] of every kind of ``shares``."""
    return {f"{kind}_covariance": rows @ rows.T for kind, rows in shares.items()}


def _curves(records: Sequence[Record], split: str, view: str = "") -> dict[str, np.ndarray]:
    curves = [bias_curve(record.scores(split, view), CURVE_TOLERANCES) for record in records]
    return {
        f"{view}_{kind}_curve".lstrip("_"): np.array([getattr(curve, kind) for curve in curves])
        for kind in ("bias", "violation_rate")
    }


def _utilities(records: Sequence[Record], split: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return Worst and Macro at the selected and last epoch, and their replicates in one bootstrap."""
    found: dict[str, np.ndarray] = {}
    shares: dict[str, np.ndarray] = {}
    drawn = next((record.subjects(split) for record in records if record.logits(split)), None)
    counts = None if drawn is None else bootstrap_counts(drawn)
    for prefix in ("", "last_"):
        for kind in ("worst", "macro"):
            own = [record.result["last"] if prefix else record.result for record in records]
            values = [item["utility"][split][kind] for item in own]
            found[prefix + kind] = np.array([np.nan if value is None else value for value in values])
        if counts is None:
            continue
        replicates = [utility_replicates(record, counts, split, last=bool(prefix)) for record in records]
        for kind, of in (("worst", np.min), ("macro", np.mean)):
            rows = np.array([of(each, axis=1) for each in replicates])
            # A replicate that leaves some task undefined says nothing of Worst and Macro over all tasks.
            whole = ~np.isnan(rows).all(0)
            centred = rows - rows[:, whole].mean(1, keepdims=True)
            shares[prefix + kind] = np.where(whole, centred, 0) / np.sqrt(whole.sum() - 1)
    return found, shares


def joined(table: AuditTable, records: Sequence[Record], later: AuditTable) -> AuditTable:
    """Return a table of a study's published records and of later ones together.

    Args:
        table: The published table of ``records``.
        records: Its records, which keep their shares (:func:`packed_shares`).
        later: The table of further runs, as :func:`audit_table` returns it.

    Raises:
        RecordError: The tables are not of one tolerance, split and set of subjects, or a published record
            keeps no shares.
    """
    for name in ("tolerance", "split", "subjects", "pairs"):
        if getattr(table, name) != getattr(later, name):
            raise RecordError(
                f"the published audits and the later ones differ in {name}; publish all runs again"
            )
    by_key = {record.key: record for record in records}
    kinds = [kind for kind in later.shares if kind in table.kinds]
    try:
        own = {kind: np.stack([_unpacked_shares(by_key[key], kind) for key in table.keys]) for kind in kinds}
    except KeyError as error:
        raise RecordError(
            f"a published record is missing or keeps no influences ({error}); publish all runs of the study"
            " again"
        ) from error
    numbers: dict[str, np.ndarray] = {}
    for name in [name for name in later.numbers if name in table.numbers]:
        before, after = table.numbers[name], later.numbers[name]
        kind = name.removesuffix("_covariance")
        if name == "curve_tolerances":
            numbers[name] = after
        elif kind != name:
            across = own[kind] @ later.shares[kind].T
            numbers[name] = np.block([[before, across], [across.T, after]])
        else:
            numbers[name] = np.concatenate([before, after])
    shares = {kind: np.concatenate([own[kind], later.shares[kind]]) for kind in kinds}
    return replace(later, keys=[*table.keys, *later.keys], numbers=numbers, shares=shares)


def packed_shares(table: AuditTable, key: str) -> dict[str, np.ndarray]:
    """Return what a published record keeps of its shares for later comparisons: 5 bits and a scale.

    Rounding adds less than a hundredth to a variance. Calibration's effect is a difference of two.
    """
    row = table.keys.index(key)
    packed = {}
    for kind, rows in table.shares.items():
        if kind != "calibration_effect":
            scale = float(np.abs(rows[row]).max()) / _STEPS
            steps = np.rint(rows[row] / scale) if scale > 0 else np.zeros_like(rows[row])
            packed[f"influence/{kind}"] = np.nan_to_num(steps).astype(np.int8)
            packed[f"influence_scale/{kind}"] = np.array(scale)
    return packed


def _unpacked_shares(record: Record, kind: str) -> np.ndarray:
    if kind == "calibration_effect":
        return _unpacked_shares(record, "calibrated_bias") - _unpacked_shares(record, "bias")
    return record.arrays[f"influence/{kind}"] * record.arrays[f"influence_scale/{kind}"]
