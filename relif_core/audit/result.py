"""What an audit leaves: numbers with errors, the ruler they were measured with, and their JSON form."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

import numpy as np

from relif_core.audit.plain import damaged, plain, rebuilt
from relif_core.audit.pools import Pair, checked_tolerance, task_pairs
from relif_core.audit.uncertainty import Influences, unit_interval
from relif_core.errors import InputError, RecordError, listed

SCHEMA = "relif-audit/2"
#: Fields that are NaN, in JSON null, where one unit makes up a pool.
UNKNOWABLE = ("bias_se", "violation_rate_se", "bias_freedom", "violation_rate_freedom")
_ONE = 1 + 1e-9  # and rounding

Kind = Literal["bias", "violation_rate"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, kw_only=True)
class AuditContext:
    """What numbers alone cannot tell about an audit; None where it is not stated.

    The first three must agree before two results may be compared.

    Attributes:
        dataset: Name and version or fingerprint.
        split: For example "test".
        score_definition: How outputs become audit scores.
        tolerance_source: Which data and rule set the tolerance.

    Raises:
        InputError: A field that is no text.
    """

    dataset: str | None = None
    split: str | None = None
    score_definition: str | None = None
    tolerance_source: str | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not isinstance(value, str):
                raise InputError(f"context field {name!r} must be text, got {type(value).__name__}")

    @classmethod
    def of(cls, given: "AuditContext | Mapping[str, Any] | None") -> "AuditContext":
        """Return ``given`` as a context; ``InputError`` for a field that this class does not have."""
        if given is None:
            return cls()
        if isinstance(given, AuditContext):
            return given
        if not isinstance(given, Mapping):
            raise InputError(f"context must be an AuditContext or a mapping, got {type(given).__name__}")
        known = {item.name for item in fields(cls)}
        for name in given:
            if name not in known:
                raise InputError(f"context has no field {name!r}; it knows {listed(sorted(known))}")
        return cls(**given)


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """Bias and violation rate with their errors, degrees of freedom and intervals."""

    clusters: int
    bias: float
    violation_rate: float
    bias_se: float
    violation_rate_se: float
    bias_freedom: float
    violation_rate_freedom: float
    effective_pairs: float

    def bias_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return Bias's confidence interval (:func:`.unit_interval`): of a mean of excesses up to 1 − δ."""
        return self.interval("bias", level)

    def violation_rate_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the confidence interval of the violation rate (:func:`.unit_interval`)."""
        return self.interval("violation_rate", level)

    def interval(self, kind: Kind, level: float) -> tuple[float, float]:
        """Return the confidence interval of Bias or of the violation rate at a level in (0, 1)."""
        error, freedom = getattr(self, f"{kind}_se"), getattr(self, f"{kind}_freedom")
        ends = [
            unit_interval(end, error, level, freedom, self.effective_pairs, self.widest(kind))
            for end in self._ends(kind)
        ]
        return ends[0][0], ends[-1][1]

    def _ends(self, kind: str) -> tuple[float, ...]:
        """Return what the interval is about: an estimate, or both ends of its proven range."""
        return (getattr(self, kind),)

    def widest(self, kind: Kind) -> float:
        """Return the largest possible violation rate, or Bias: 1 less the least tolerance."""
        rows: Any = getattr(self, "per_pair", (self,))
        return max(0.0, 1 - min(row.tolerance for row in rows)) if kind == "bias" else 1.0


@dataclass(frozen=True, kw_only=True)
class PairAudit(Estimates):
    """Bias and violation rate of one task pair.

    Standard errors are NaN where one unit makes up a pool and leaves no spread to measure.

    Attributes:
        samples: Sizes of both pools.
        clusters: Number of independent units: subjects where their ids were given, else samples.
        effective_pairs: How many independent pairs they make.
    """

    tasks: Pair
    tolerance: float
    samples: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class AuditResult(Estimates):
    """Fixed-tolerance Bias and violation rate of one model, averaged over task pairs with equal weight.

    Attributes:
        protocol: "exact" or "sampled"; ``pair_seed``, ``pool_size`` and ``pairs`` are None for the exact one,
            and ``pool_size`` where samples are weighted: those pools are whole.
        samples: Task → size of its pool.
        pool_fingerprint: Identifies which subjects the pools hold.
        clustered_by: "subject" or "sample"; ``clusters`` is their number.
        freedom: Degrees of freedom that it allows: effective subjects less 1, or samples less one per task.
        effective_pairs: Number of independent pairs.
        bias_freedom: Degrees of freedom of Bias's interval.
        violation_rate_freedom: Those of the violation rate's.
        draw_errors: Part of both standard errors that stems from drawing pairs, (0, 0) if exact.
        influences: One row per subject if subjects were given; left out of JSON unless asked for.
        draws: [task pairs, 2, pairs]: violation, and whether there is one, of each drawn pair.
        groups: One result per subgroup.
        groups_left_out: Why a subgroup has none.
        notes: What was put right in the input and what a reader has to know of it.
    """

    context: AuditContext
    tasks: tuple[str, ...]
    protocol: str
    pair_seed: int | None
    pool_size: int | None
    pairs: int | None
    samples: dict[str, int]
    pool_fingerprint: str
    clustered_by: str
    freedom: float
    draw_errors: tuple[float, float]
    per_pair: tuple[PairAudit, ...]
    influences: Influences | None = field(default=None, compare=False, repr=False)
    draws: np.ndarray | None = field(default=None, compare=False, repr=False)
    groups: dict[str, "AuditResult"] = field(default_factory=dict)
    groups_left_out: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def tolerances(self) -> dict[Pair, float]:
        """Return the tolerance of every task pair."""
        return {row.tasks: row.tolerance for row in self.per_pair}

    def as_dict(self, *, include_influences: bool = False) -> dict[str, Any]:
        """Return the result as JSON-ready values; NaN standard errors become None.

        Influences hold one row per subject: include them only where person-level output is allowed.
        """
        kept = self.influences if include_influences else None
        content = {"schema": SCHEMA, **plain(replace(self, influences=kept, draws=None, groups={}))}
        del content["draws"]
        content["groups"] = {
            label: result.as_dict(include_influences=include_influences)
            for label, result in self.groups.items()
        }
        return content

    def to_json(self, *, include_influences: bool = False) -> str:
        """Return the result as JSON text (see :meth:`as_dict`); :meth:`from_json` reads it back exactly."""
        return json.dumps(
            self.as_dict(include_influences=include_influences), allow_nan=False, ensure_ascii=False, indent=1
        )

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "AuditResult":
        """Rebuild a result from :meth:`as_dict`.

        Raises:
            RecordError: Another schema, or fields that are missing, unknown or of a wrong kind.
        """
        if not isinstance(content, Mapping) or content.get("schema") != SCHEMA:
            found = content.get("schema") if isinstance(content, Mapping) else type(content).__name__
            raise RecordError(
                f"audit result has schema {found!r}, this version reads {SCHEMA!r}; audit again"
            )
        with damaged("audit result is damaged", "audit again"):
            values = {name: value for name, value in content.items() if name != "schema"}
            values["context"] = AuditContext.of(values["context"])
            values["groups"] = {label: cls.from_dict(part) for label, part in values["groups"].items()}
            if values["influences"] is not None:
                values["influences"] = _influences_from(values["influences"], values["clusters"])
            if "draws" in values:
                raise ValueError("'draws' is unknown")
            result = rebuilt(cls, values, "result", UNKNOWABLE)
            _require_whole(result)
        return result

    @classmethod
    def from_json(cls, text: str) -> "AuditResult":
        """Rebuild a result from :meth:`to_json`.

        Raises:
            RecordError: Text that is no JSON, or no audit result of this schema.
        """
        with damaged("audit result is no JSON", "audit again"):
            content = json.loads(text)
        return cls.from_dict(content)


def _influences_from(arrays: Mapping[str, Any], subjects: Any) -> Influences:
    """Return the influences of so many subjects, or refuse (``ValueError``) arrays that are none."""
    found = Influences(**{name: np.asarray(own) for name, own in arrays.items()})
    for item in fields(found):
        own, kinds = getattr(found, item.name), "iuU" if item.name == "subjects" else "fiu"
        finite = own.dtype.kind != "f" or np.isfinite(own).all()
        if own.shape != (subjects,) or own.dtype.kind not in kinds or not finite:
            raise ValueError(f"influences: {item.name} are not one per subject")
    return found


def _require_whole(result: AuditResult) -> None:
    """Refuse (``ValueError``) a result that no audit leaves: its parts do not fit, or its numbers."""
    pairs = [row.tasks for row in result.per_pair]
    if not pairs or pairs != task_pairs(result.tasks) or set(result.samples) != set(result.tasks):
        raise ValueError("its tasks, their samples and task pairs do not fit together")
    for row in (result, *result.per_pair):
        held = 0 <= row.bias <= _ONE and 0 <= row.violation_rate <= _ONE and row.effective_pairs > 0
        if not held or row.clusters < 1 or row.bias_se < 0 or row.violation_rate_se < 0:
            raise ValueError("it holds numbers that no audit gives")
    for row in result.per_pair:
        checked_tolerance(row.tolerance, f"tolerance of pair {row.tasks}")
