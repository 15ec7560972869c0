"""Records as one tidy frame: a row is one unformatted number, for pages to filter, group and plot.

:func:`wide_frame` has one row per run.

Columns: ``method``, ``seed``, ``split`` ("train", "validation", "test"), ``task`` (a task, a pair "a – b", or
missing for what belongs to no task), ``epoch`` (missing for the whole run), ``tolerance`` (missing where none
is part of it), ``quantity``, ``value``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from relif_book.evidence.audit_table import AuditTable
from relif_core.audit import drift_budget
from relif_core.record import Record

COLUMNS = ("method", "seed", "split", "task", "epoch", "tolerance", "quantity", "value")


def final_frame(records: Sequence[Record], table: AuditTable | None = None) -> pd.DataFrame:
    """Return what runs reached: utilities, induced tolerances, temperatures, and the audits of ``table``.

    ``worst``, ``macro`` and ``score`` (per task) stand at the selected epoch and, where the record has it, at
    the last one (``last_worst`` …). Audits have the names of the table's kinds; ``pair_bias`` is per pair.
    Runs with a penalty have where λ and the smoothed violation rate ended (``weight_end``, ``rate_end``), and
    the shares of the steps after the warm-up that λ was at its bounds (``at_minimum``, ``at_maximum``).
    """
    rows: list[dict[str, Any]] = []
    for record in records:
        result = record.result
        base = {"method": record.method, "seed": record.seed}
        last = result.get("last", {})
        for prefix, epoch, utility in (
            ("", result.get("best_epoch"), result["utility"]),
            ("last_", last.get("epoch"), last.get("utility", {})),
        ):
            for split, found in utility.items():
                at = {**base, "split": split, "epoch": epoch}
                rows += [
                    {**at, "quantity": prefix + name, "value": found[name]} for name in ("worst", "macro")
                ]
                rows += [
                    {**at, "task": task, "quantity": f"{prefix}score", "value": item["score"]}
                    for task, item in found["tasks"].items()
                ]
        for split, pairs in result["induced_tolerances"].items():
            at = {**base, "split": split, "epoch": result.get("best_epoch"), "quantity": "induced_tolerance"}
            rows += [{**at, "task": " – ".join(pair["tasks"]), "value": pair["tolerance"]} for pair in pairs]
            if table is not None:
                budget = drift_budget(table.tolerance, record.induced_tolerances(split))
                rows.append({**at, "quantity": "drift_budget", "value": budget})
        for task, temperature in result.get("temperatures", {}).items():
            at = {**base, "split": "validation", "epoch": result.get("best_epoch"), "quantity": "temperature"}
            rows.append({**at, "task": task, "value": temperature})
        if table is not None:
            rows += [{**base, **row} for row in _audits(record, table)]
        if record.settings.penalty:
            rows += [
                {**base, "split": "train", "quantity": name, "value": value}
                for name, value in _controller(record).items()
            ]
    return _framed(rows)


def wide_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per (method, seed), one column per quantity of the test split.

    Beside these: ``score/<task>`` on test, ``induced/<split>`` (mean over pairs), what the controller did.
    """
    whole = frame[frame["task"].isna() & frame["split"].isin(("test", "train"))]
    scores = frame[(frame["quantity"] == "score") & (frame["split"] == "test")]
    induced = frame[frame["quantity"] == "induced_tolerance"]
    named = pd.concat(
        [
            whole,
            scores.assign(quantity="score/" + scores["task"].astype(str)),
            induced.assign(quantity="induced/" + induced["split"]),
        ]
    )
    order = frame["method"].drop_duplicates()
    wide = named.pivot_table("value", ["method", "seed"], "quantity", dropna=False, observed=True)
    return wide.reindex(order, level="method").dropna(how="all")


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


def _audits(record: Record, table: AuditTable) -> list[dict[str, Any]]:
    place = table.keys.index(record.key)
    rows = []
    for kind in dict.fromkeys(("bias", "violation_rate", "raw_bias", *table.kinds)):
        if not kind.endswith(("worst", "macro")):
            last = kind.startswith("last")
            rows.append(
                {
                    "split": table.split,
                    "epoch": record.result["last"]["epoch"] if last else record.result.get("best_epoch"),
                    "tolerance": None if kind == "raw_bias" else table.tolerance,
                    "quantity": kind,
                    "value": getattr(table, kind)[place],
                }
            )
    for pair, value in zip(table.pairs, table.pair_bias[place], strict=True):
        at = {"split": table.split, "epoch": record.result.get("best_epoch"), "tolerance": table.tolerance}
        rows.append({**at, "task": " – ".join(pair), "quantity": "pair_bias", "value": value})
    return rows


def _framed(rows: Any) -> pd.DataFrame:
    """Return a frame with all columns, in order and of their types; a value that is missing is NaN."""
    frame = pd.DataFrame(rows)
    frame = frame.reindex(columns=list(COLUMNS))
    kinds = {"seed": "Int64", "epoch": "Int64", "tolerance": float, "value": float, "task": object}
    return frame.astype(kinds)
