"""What an audit leaves: numbers with errors, the ruler they were measured with, and their JSON form."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from relif_core.audit.pools import Pair
from relif_core.audit.uncertainty import Influences, unit_interval
from relif_core.errors import InputError, RecordError, listed

SCHEMA = "relif-audit/2"
#: Fields that are NaN, in JSON null, where one unit makes up a pool.
UNKNOWABLE = ("bias_se", "violation_rate_se", "bias_freedom", "violation_rate_freedom")


@dataclass(frozen=True, kw_only=True)
class AuditContext:
    """What numbers alone cannot tell about an audit; None where it is not stated.

    The first three must agree before two results may be compared.

    Attributes:
        dataset: Name and version or fingerprint.
        split: For example "test".
        score_definition: How outputs become audit scores.
        tolerance_source: Which data and rule set the tolerance.
    """

    dataset: str | None = None
    split: str | None = None
    score_definition: str | None = None
    tolerance_source: str | None = None

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
        for name, value in given.items():
            if name not in known:
                raise InputError(f"context has no field {name!r}; it knows {listed(sorted(known))}")
            if value is not None and not isinstance(value, str):
                raise InputError(f"context field {name!r} must be text, got {type(value).__name__}")
        return cls(**given)


class _Estimates:
    """The intervals of what has a Bias and a violation rate, their errors and degrees of freedom."""

    bias: float
    violation_rate: float
    bias_se: float
    violation_rate_se: float
    bias_freedom: float
    violation_rate_freedom: float
    effective_pairs: float

    def bias_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return Bias's confidence interval (:func:`.unit_interval`): of a mean of excesses up to 1 − δ."""
        widest = max(0.0, 1 - self._least_tolerance())
        return unit_interval(self.bias, self.bias_se, level, self.bias_freedom, self.effective_pairs, widest)

    def violation_rate_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the confidence interval of the violation rate (:func:`.unit_interval`)."""
        return unit_interval(
            self.violation_rate,
            self.violation_rate_se,
            level,
            self.violation_rate_freedom,
            self.effective_pairs,
        )

    def _least_tolerance(self) -> float:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class PairAudit(_Estimates):
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
    clusters: int
    effective_pairs: float
    bias: float
    violation_rate: float
    bias_se: float
    violation_rate_se: float
    bias_freedom: float
    violation_rate_freedom: float

    def _least_tolerance(self) -> float:
        return self.tolerance


@dataclass(frozen=True, kw_only=True)
class AuditResult(_Estimates):
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
    clusters: int
    freedom: float
    effective_pairs: float
    bias: float
    violation_rate: float
    bias_se: float
    violation_rate_se: float
    bias_freedom: float
    violation_rate_freedom: float
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

    def _least_tolerance(self) -> float:
        return min(row.tolerance for row in self.per_pair)

    def as_dict(self, *, include_influences: bool = False) -> dict[str, Any]:
        """Return the result as JSON-ready values; NaN standard errors become None.

        Influences hold one row per subject: include them only where person-level output is allowed.
        """
        content: dict[str, Any] = {"schema": SCHEMA}
        for item in fields(self):
            content[item.name] = getattr(self, item.name)
        del content["draws"]
        content["context"] = {item.name: getattr(self.context, item.name) for item in fields(AuditContext)}
        for name in ("tasks", "draw_errors", "notes"):
            content[name] = list(content[name])
        content["per_pair"] = [
            {item.name: _plain(getattr(row, item.name)) for item in fields(PairAudit)}
            for row in self.per_pair
        ]
        content.update({name: _plain(content[name]) for name in UNKNOWABLE})
        content["groups"] = {
            label: result.as_dict(include_influences=include_influences)
            for label, result in self.groups.items()
        }
        content["groups_left_out"] = dict(self.groups_left_out)
        content["influences"] = None
        if include_influences and self.influences is not None:
            content["influences"] = {
                item.name: getattr(self.influences, item.name).tolist() for item in fields(Influences)
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
        values = {name: value for name, value in content.items() if name != "schema"}
        try:
            values["context"] = AuditContext.of(values["context"])
            values["tasks"] = tuple(values["tasks"])
            values["draw_errors"], values["notes"] = tuple(values["draw_errors"]), tuple(values["notes"])
            values["per_pair"] = tuple(_pair_from(row) for row in values["per_pair"])
            values.update(_numbers(values))
            values["groups"] = {label: cls.from_dict(result) for label, result in values["groups"].items()}
            shares = values["influences"]
            if shares is not None:
                values["influences"] = Influences(
                    **{name: np.asarray(array) for name, array in shares.items()}
                )
            return cls(**values)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise RecordError(f"audit result is damaged ({error!r}); audit again") from error

    @classmethod
    def from_json(cls, text: str) -> "AuditResult":
        """Rebuild a result from :meth:`to_json`.

        Raises:
            RecordError: Text that is no JSON, or no audit result of this schema.
        """
        try:
            content = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise RecordError(f"audit result is no JSON ({error}); audit again") from error
        return cls.from_dict(content)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return None if isinstance(value, float) and math.isnan(value) else value


def _pair_from(row: Mapping[str, Any]) -> PairAudit:
    values = dict(row)
    values["tasks"], values["samples"] = tuple(values["tasks"]), tuple(values["samples"])
    return PairAudit(**{**values, **_numbers(values)})


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: math.nan if values[name] is None else float(values[name]) for name in UNKNOWABLE}
