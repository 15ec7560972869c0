"""The audit card: what must stand beside a fixed-tolerance audit, as JSON with a schema, Markdown and HTML."""

import html
import json
import math
import numbers
from collections.abc import Mapping
from typing import Any

from relif_core.audit.pools import Pair, checked_tolerance
from relif_core.audit.result import AuditResult
from relif_core.errors import InputError

CARD_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "ReLiF audit card",
    "type": "object",
    "required": [
        "schema",
        "model",
        "audited",
        "tolerance",
        "protocol",
        "results",
        "induced",
        "utility",
        "controller",
    ],
    "additionalProperties": False,
    "properties": {
        "schema": {"const": "relif-audit-card/1"},
        "model": {"type": "string"},
        "audited": {
            "type": "object",
            "required": ["dataset", "split", "score_definition", "samples", "pool_fingerprint"],
            "additionalProperties": False,
            "properties": {
                "dataset": {"type": ["string", "null"]},
                "split": {"type": ["string", "null"]},
                "score_definition": {"type": ["string", "null"]},
                "samples": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}},
                "pool_fingerprint": {"type": "string"},
            },
        },
        "tolerance": {
            "type": "object",
            "required": ["source", "calibration", "values"],
            "additionalProperties": False,
            "properties": {
                "source": {"type": ["string", "null"]},
                "calibration": {"type": ["string", "null"]},
                "values": {"$ref": "#/$defs/per_pair"},
            },
        },
        "protocol": {
            "type": "object",
            "required": ["name", "pair_seed", "pool_size", "pairs", "clustered_by", "clusters"],
            "additionalProperties": False,
            "properties": {
                "name": {"enum": ["exact", "sampled"]},
                "pair_seed": {"type": ["integer", "null"]},
                "pool_size": {"type": ["integer", "null"]},
                "pairs": {"type": ["integer", "null"]},
                "clustered_by": {"enum": ["subject", "sample"]},
                "clusters": {"type": "integer"},
            },
        },
        "results": {
            "type": "object",
            "required": ["level", "bias", "violation_rate", "per_pair", "groups"],
            "additionalProperties": False,
            "properties": {
                "level": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
                "bias": {"$ref": "#/$defs/estimate"},
                "violation_rate": {"$ref": "#/$defs/estimate"},
                "per_pair": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["tasks", "bias", "violation_rate"],
                        "additionalProperties": False,
                        "properties": {
                            "tasks": {
                                "type": "array",
                                "items": {"type": "string"},
                                "minItems": 2,
                                "maxItems": 2,
                            },
                            "bias": {"type": "number"},
                            "violation_rate": {"type": "number"},
                        },
                    },
                },
                "groups": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "required": ["bias", "violation_rate"],
                        "additionalProperties": False,
                        "properties": {
                            "bias": {"$ref": "#/$defs/estimate"},
                            "violation_rate": {"$ref": "#/$defs/estimate"},
                        },
                    },
                },
            },
        },
        "induced": {"anyOf": [{"$ref": "#/$defs/per_pair"}, {"type": "null"}]},
        "utility": {
            "anyOf": [{"type": "object", "additionalProperties": {"type": "number"}}, {"type": "null"}]
        },
        "controller": {"type": ["object", "null"]},
    },
    "$defs": {
        "per_pair": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["tasks", "tolerance"],
                "additionalProperties": False,
                "properties": {
                    "tasks": {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2},
                    "tolerance": {"type": "number", "minimum": 0},
                },
            },
        },
        "estimate": {
            "type": "object",
            "required": ["estimate", "standard_error", "interval"],
            "additionalProperties": False,
            "properties": {
                "estimate": {"type": "number", "minimum": 0, "maximum": 1},
                "standard_error": {"type": ["number", "null"]},
                "interval": {
                    "anyOf": [
                        {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
                        {"type": "null"},
                    ]
                },
            },
        },
    },
}


def audit_card(
    result: AuditResult,
    *,
    model: str,
    calibration: str | None = None,
    induced: Mapping[Pair, float] | None = None,
    utility: Mapping[str, float] | None = None,
    controller: Mapping[str, Any] | None = None,
    level: float = 0.95,
) -> dict[str, Any]:
    """Return the audit card of one model as JSON-ready values that satisfy ``CARD_SCHEMA``.

    Args:
        result: the fixed-tolerance audit; its context tells dataset, split, score definition and tolerance source.
        model: which checkpoint was audited.
        calibration: the data and distribution that set the tolerance.
        induced: the model's induced tolerances, a diagnostic only.
        utility: task scores of the same checkpoint.
        controller: settings of the controller, None if none steered the training.
        level: of the intervals.

    Raises:
        InputError: a level outside (0, 1), or utility and controller values that JSON cannot hold.
    """
    if not isinstance(result, AuditResult):
        raise InputError(f"a card shows an audit result, not a {type(result).__name__}")
    if not isinstance(model, str):
        raise InputError(f"model must be text that names the checkpoint, got {model!r}")
    for name, value in (("induced", induced), ("utility", utility), ("controller", controller)):
        if value is not None and not isinstance(value, Mapping):
            raise InputError(f"{name} must be a mapping, not a {type(value).__name__}")
    card = {
        "schema": "relif-audit-card/1",
        "model": model,
        "audited": {
            "dataset": result.context.dataset,
            "split": result.context.split,
            "score_definition": result.context.score_definition,
            "samples": dict(result.samples),
            "pool_fingerprint": result.pool_fingerprint,
        },
        "tolerance": {
            "source": result.context.tolerance_source,
            "calibration": calibration,
            "values": _pair_rows(result.tolerances),
        },
        "protocol": {
            "name": result.protocol,
            "pair_seed": result.pair_seed,
            "pool_size": result.pool_size,
            "pairs": result.pairs,
            "clustered_by": result.clustered_by,
            "clusters": result.clusters,
        },
        "results": {
            "level": level,
            **_estimates(result, level),
            "per_pair": [
                {"tasks": list(row.tasks), "bias": row.bias, "violation_rate": row.violation_rate}
                for row in result.per_pair
            ],
            "groups": {label: _estimates(part, level) for label, part in result.groups.items()},
        },
        "induced": None if induced is None else _pair_rows(induced),
        "utility": None if utility is None else _numbers(utility, "utility"),
        "controller": None if controller is None else dict(controller),
    }
    try:
        json.dumps(card, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the card holds a value that JSON cannot: {error}; pass numbers and text only"
        ) from error
    return card


def _pair_rows(tolerances: Mapping[Pair, float]) -> list[dict[str, Any]]:
    for pair in tolerances:
        if not (isinstance(pair, tuple) and len(pair) == 2):
            raise InputError(f"tolerances map task pairs to numbers, and {pair!r} is no pair")
    return [
        {"tasks": list(pair), "tolerance": checked_tolerance(value, f"tolerance of pair {pair}")}
        for pair, value in tolerances.items()
    ]


def _numbers(values: Mapping[str, Any], name: str) -> dict[str, float]:
    for key, value in values.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise InputError(f"{name} {key!r} must be a number, got a {type(value).__name__}")
    return {key: float(value) for key, value in values.items()}


def _estimates(result: AuditResult, level: float) -> dict[str, Any]:
    return {
        "bias": _estimate(result.bias, result.bias_se, result.bias_interval(level)),
        "violation_rate": _estimate(
            result.violation_rate, result.violation_rate_se, result.violation_rate_interval(level)
        ),
    }


def _estimate(value: float, error: float, bounds: tuple[float, float]) -> dict[str, Any]:
    known = math.isfinite(error) and math.isfinite(bounds[0])
    return {
        "estimate": value,
        "standard_error": error if known else None,
        "interval": list(bounds) if known else None,
    }


def _sections(card: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the card as titled tables of (name, value) text, which every rendering shares."""
    absent = [name for name in CARD_SCHEMA["required"] if not isinstance(card, Mapping) or name not in card]
    if absent:
        raise InputError(
            f"this is no audit card: {', '.join(absent[:5])} are missing; make it with audit_card"
        )
    audited, tolerance, protocol, results = (
        card[name] for name in ("audited", "tolerance", "protocol", "results")
    )
    level = f"{100 * results['level']:g} %"
    sections = [
        (
            "What was audited",
            [
                ("Model", card["model"]),
                ("Dataset", _text(audited["dataset"])),
                ("Split", _text(audited["split"])),
                ("Audit scores", _text(audited["score_definition"])),
                (
                    "Samples per task",
                    ", ".join(f"{task}: {size:,}" for task, size in audited["samples"].items()),
                ),
                ("Pool fingerprint", audited["pool_fingerprint"]),
            ],
        ),
        (
            "Tolerance, held fixed",
            [
                ("Source", _text(tolerance["source"])),
                ("Calibration data", _text(tolerance["calibration"])),
                *((_pair_text(row), f"{row['tolerance']:.4f}") for row in tolerance["values"]),
            ],
        ),
        (
            "Protocol",
            [
                ("Pairs", "all pairs, exact" if protocol["name"] == "exact" else _sampling_text(protocol)),
                ("Independent units", f"{protocol['clusters']:,} ({protocol['clustered_by']}s)"),
            ],
        ),
        (
            f"Results with {level} intervals",
            [
                ("Bias", _estimate_text(results["bias"])),
                ("Violation rate", _estimate_text(results["violation_rate"])),
                *(
                    (_pair_text(row), f"Bias {row['bias']:.4f}, violation rate {row['violation_rate']:.4f}")
                    for row in results["per_pair"]
                ),
                *(
                    (
                        f"Group {label}",
                        f"Bias {_estimate_text(part['bias'])}, violation rate {_estimate_text(part['violation_rate'])}",
                    )
                    for label, part in results["groups"].items()
                ),
            ],
        ),
        (
            "Induced tolerances (diagnostic only)",
            [(_pair_text(row), f"{row['tolerance']:.4f}") for row in card["induced"] or ()],
        ),
        (
            "Utility of the same checkpoint",
            [(name, f"{value:.4f}") for name, value in (card["utility"] or {}).items()],
        ),
        ("Controller", [(name, str(value)) for name, value in (card["controller"] or {}).items()]),
    ]
    return [(title, rows or [("", "not stated")]) for title, rows in sections]


def _text(value: str | None) -> str:
    return "not stated" if value is None else value


def _pair_text(row: Mapping[str, Any]) -> str:
    return " – ".join(row["tasks"])


def _sampling_text(protocol: Mapping[str, Any]) -> str:
    return f"{protocol['pairs']:,} drawn from pools of up to {protocol['pool_size']:,}, pair seed {protocol['pair_seed']}"


def _estimate_text(estimate: Mapping[str, Any]) -> str:
    if estimate["interval"] is None:
        return f"{estimate['estimate']:.4f} (no interval: a single independent unit)"
    low, high = estimate["interval"]
    return f"{estimate['estimate']:.4f} ({low:.4f} to {high:.4f})"


def card_markdown(card: Mapping[str, Any]) -> str:
    """Return the card as Markdown, one table per section."""
    lines = ["# Audit card"]
    for title, rows in _sections(card):
        lines += ["", f"## {title}", "", "| | |", "| --- | --- |"]
        lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color-scheme: light dark }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8886; overflow-wrap: anywhere }
th { font-weight: 600; width: 35% }
"""


def card_html(card: Mapping[str, Any]) -> str:
    """Return the card as one HTML page that needs no other file."""
    body = []
    for title, rows in _sections(card):
        cells = "".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>'
            for name, value in rows
        )
        body.append(f"<h2>{html.escape(title)}</h2>\n<table>{cells}</table>")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Audit card: {html.escape(str(card['model']))}</title><style>{_STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><h1>Audit card</h1>\n' + "\n".join(
        [*body, "</body></html>\n"]
    )
