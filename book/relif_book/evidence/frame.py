"""Records as one tidy frame: a row is one unformatted number, for pages to filter, group and plot.

Columns: ``method``, ``seed``, ``split`` ("train", "validation", "test"), ``task`` (a task, a pair "a – b", or
missing for what belongs to no task), ``epoch`` (missing for the whole run), ``tolerance`` (missing where none
is part of it), ``quantity``, ``value``. :func:`wide_frame` has one row per run.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from relif_book.evidence.audit_table import AuditTable
from relif_core.audit import drift_budget
from relif_core.record import Record

COLUMNS = ("method", "seed", "split", "task", "epoch", "tolerance", "quantity", "value")
#: What a record's history holds of every epoch, and the split that it tells of.
_HISTORY = {
    "worst": "validation", "macro": "validation", "scores": "validation",
    "losses": "train", "penalty": "train", "weight": "train", "smoothed_rate": "train",
}  # fmt: skip
#: A row of the frame: split, task, epoch, tolerance, quantity.
_Place = tuple[str, str | None, int | None, float | None, str]


def tidy_frame(records: Sequence[Record], table: AuditTable | None = None) -> pd.DataFrame:
    """Return all numbers of runs: what they reached (:func:`final_frame`) and how (:func:`epoch_frame`)."""
    return pd.concat([final_frame(records, table), epoch_frame(records)], ignore_index=True)


def final_frame(records: Sequence[Record], table: AuditTable | None = None) -> pd.DataFrame:
    """Return what runs reached: utilities, induced tolerances, temperatures, and the audits of ``table``.

    ``worst``, ``macro``, and per task ``score`` and the raw metrics stand at the selected epoch and, where
    the record has it, at the last one (``last_worst`` …). Audits have the names of the table's kinds;
    ``pair_bias`` is per pair. Runs with a penalty have where λ and the smoothed violation rate ended
    (``weight_end``, ``rate_end``), and the shares of the steps after the warm-up that λ was at its bounds
    (``at_minimum``, ``at_maximum``).
    """
    return _framed(
        [
            (record.method, record.seed, *place, value)
            for record in records
            for place, value in _reached(record, table).items()
        ]
    )


def epoch_frame(records: Sequence[Record], quantities: Sequence[str] = ()) -> pd.DataFrame:
    """Return what runs showed epoch by epoch, all of it or some quantities.

    Quantities begin with "epoch": ``epoch_worst``, ``epoch_macro`` and ``epoch_scores`` (per task) on
    validation, ``epoch_losses`` (per task), ``epoch_penalty``, ``epoch_weight`` and ``epoch_smoothed_rate``
    on training data, and where records hold audits by epoch, these on the splits and at the tolerances that
    they were made at: ``epoch_bias``, ``epoch_calibrated_bias`` … and scores' ``epoch_mean`` and
    ``epoch_spread``.
    """
    parts = []
    for record in records:
        history = record.result.get("history", {})
        found = {
            (split, name): (np.arange(1, len(history[name]) + 1), np.array(history[name], dtype=float))
            for name, split in _HISTORY.items()
            if name in history
        }
        for name, values in record.arrays.items():
            start, split, quantity = (*name.split("/"), "", "")[:3]
            if start == "epoch" and quantity not in ("", "epoch", "raw"):
                found.setdefault((split, quantity), (record.arrays[f"epoch/{split}/epoch"], values))
        for (split, quantity), (epochs, values) in found.items():
            if not quantities or f"epoch_{quantity}" in quantities:
                parts.append(_by_epoch(record, split, quantity, epochs, values))
    return pd.concat(parts, ignore_index=True) if parts else _framed([])


def _by_epoch(
    record: Record, split: str, quantity: str, epochs: np.ndarray, values: np.ndarray
) -> pd.DataFrame:
    """Return values [epochs], [epochs, tasks] or, of audits, [epochs, tolerances] as rows."""
    audited = quantity.endswith(("bias", "violation_rate"))
    width = values.size // max(len(epochs), 1)
    rows = {
        "method": record.method,
        "seed": record.seed,
        "split": split,
        "task": None if audited or values.ndim == 1 else np.tile(record.tasks, len(epochs)),
        "epoch": np.repeat(epochs, width),
        "tolerance": np.tile(record.arrays["epoch/tolerances"], len(epochs)) if audited else np.nan,
        "quantity": f"epoch_{quantity}",
        "value": values.ravel(),
    }
    return _framed(pd.DataFrame(rows))


def wide_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per (method, seed), one column per quantity of the test split.

    A quantity per task or pair of tasks is a column ``score/<task>``, ``miou/<task>``, ``pair_bias/<pair>``
    …; beside these ``induced/<split>`` (mean over pairs), what the controller did, and ``best_epoch``.
    """
    whole = frame[frame["task"].isna() & frame["split"].isin(("test", "train"))]
    induced = frame[frame["quantity"] == "induced_tolerance"]
    tasks = frame[(frame["split"] == "test") & frame["task"].notna()].drop(induced.index, errors="ignore")
    named = pd.concat(
        [
            whole,
            tasks.assign(quantity=tasks["quantity"] + "/" + tasks["task"].astype(str)),
            induced.assign(quantity="induced/" + induced["split"]),
        ]
    )
    order = frame["method"].drop_duplicates()
    wide = named.pivot_table("value", ["method", "seed"], "quantity", dropna=False, observed=True)
    return wide.reindex(order, level="method").dropna(how="all")


def _reached(record: Record, table: AuditTable | None) -> dict[_Place, Any]:
    """Return the numbers of one run by their place."""
    result = record.result
    best, last = result.get("best_epoch"), result.get("last", {})
    found: dict[_Place, Any] = {("train", None, None, None, "best_epoch"): best}
    for prefix, epoch, utility in (
        ("", best, result["utility"]),
        ("last_", last.get("epoch"), last.get("utility", {})),
    ):
        for split, own in utility.items():
            for name in ("worst", "macro"):
                found[split, None, epoch, None, prefix + name] = own[name]
            for task, item in own["tasks"].items():
                for name, value in {"score": item["score"], **item.get("metrics", {})}.items():
                    found[split, task, epoch, None, prefix + name] = value
    for split, pairs in result.get("induced_tolerances", {}).items():
        for pair in pairs:
            found[split, " – ".join(pair["tasks"]), best, None, "induced_tolerance"] = pair["tolerance"]
    for task, temperature in result.get("temperatures", {}).items():
        found["validation", task, best, None, "temperature"] = temperature
    if record.settings.penalty:
        found |= {("train", None, None, None, name): value for name, value in _controller(record).items()}
    return found if table is None else found | _audits(record, table)


def _controller(record: Record) -> dict[str, float]:
    settings = record.settings.controller
    weight = record.trace("weight")
    steered = weight[settings.warmup :]
    return {
        "weight_end": float(weight[-1]),
        "rate_end": float(record.trace("smoothed_rate")[-1]),
        "at_minimum": float(np.mean(steered <= settings.minimum * (1 + 1e-9))) if len(steered) else np.nan,
        "at_maximum": float(np.mean(steered >= settings.maximum * (1 - 1e-9))) if len(steered) else np.nan,
    }


def _audits(record: Record, table: AuditTable) -> dict[_Place, Any]:
    """Return a run's audits in the table; each split's drift budget is against the table's tolerance."""
    place, delta, best = table.keys.index(record.key), table.tolerance, record.result.get("best_epoch")
    found: dict[_Place, Any] = {}
    for split in record.result["induced_tolerances"]:
        budget = drift_budget(delta, record.induced_tolerances(split))
        found[split, None, best, None, "drift_budget"] = budget
    for kind in dict.fromkeys(("bias", "violation_rate", "raw_bias", *table.kinds)):
        if not kind.endswith(("worst", "macro")):
            epoch = record.result["last"]["epoch"] if kind.startswith("last") else best
            own = None if kind == "raw_bias" else delta
            found[table.split, None, epoch, own, kind] = getattr(table, kind)[place]
    for pair, value in zip(table.pairs, table.pair_bias[place], strict=True):
        found[table.split, " – ".join(pair), best, delta, "pair_bias"] = value
    return found


def _framed(rows: Any) -> pd.DataFrame:
    """Return a frame with all columns, in order and of their types; a value that is missing is NaN."""
    kinds = {"seed": "Int64", "epoch": "Int64", "tolerance": float, "value": float, "task": object}
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(kinds)
