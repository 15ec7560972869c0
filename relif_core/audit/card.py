"""The audit card: what must stand beside a fixed-tolerance audit, as JSON, Markdown and HTML."""

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from relif_core import __version__
from relif_core.audit.door import is_number
from relif_core.audit.exact import BiasCurve
from relif_core.audit.plain import picked
from relif_core.audit.pools import Pair, pair_tolerances
from relif_core.audit.result import KINDS, AuditResult, Estimates
from relif_core.audit.ruler import Ruler
from relif_core.errors import InputError, listed

_FILES = resources.files("relif_core.audit")
CARD_SCHEMA: dict[str, Any] = json.loads(_FILES.joinpath("card.schema.json").read_text(encoding="utf-8"))
#: What a reader must know before the numbers.
LIMITS = (
    "Bias and violation rate compare the score distributions of pairs of tasks, drawn independently: handing"
    " a task's scores to other people changes nothing, and a calibrated binary task cannot go below a floor"
    " that its base rate sets. Lower is not fairer by itself."
)


class Card(dict[str, Any]):
    """An audit card: JSON-ready values that satisfy ``CARD_SCHEMA``."""

    def save(self, path: str | Path) -> None:
        """Write the card as .json, .md or .html, whole or not at all.

        Raises:
            InputError: Another ending.
        """
        from relif_core.files import write_file

        write_file(Path(path), rendered(self, path))

    def _repr_html_(self) -> str:
        return _body(self)


def checked_card_path(path: str | Path) -> str:
    """Return the ending of a card's file, or refuse (``InputError``) one that names no form of a card."""
    ending = Path(path).suffix
    if ending not in (".json", ".md", ".html"):
        raise InputError(f"{path}: an audit card is written as .json, .md or .html")
    return ending


def rendered(card: Mapping[str, Any], path: str | Path) -> str:
    """Return a card as the text that the ending of a file name asks for."""
    ending = checked_card_path(path)
    if ending == ".json":
        return json.dumps(card, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    return card_markdown(card) if ending == ".md" else card_html(card)


def audit_card(
    result: AuditResult,
    *,
    model: str,
    calibration: str | None = None,
    induced: Mapping[Pair, float] | None = None,
    utility: Mapping[str, float] | None = None,
    controller: Mapping[str, Any] | None = None,
    level: float = 0.95,
    curve: BiasCurve | None = None,
    ruler: Ruler | None = None,
    date: str | None = None,
) -> Card:
    """Return the audit card of one model as JSON-ready values that satisfy ``CARD_SCHEMA``.

    Args:
        result: The fixed-tolerance audit; its context tells dataset, split, scores and tolerance source.
        model: Which checkpoint was audited.
        calibration: The data and distribution that set the tolerance.
        induced: The model's induced tolerances, a diagnostic only.
        utility: Task scores of the same checkpoint.
        controller: Settings of the controller, None if none steered the training.
        level: Of the intervals.
        curve: Bias and violation rate over the tolerance, drawn on the card.
        ruler: Where the tolerance comes from, with its spread over matchings.
        date: When the audit was made, as YYYY-MM-DD.

    Raises:
        InputError: Arguments of a wrong kind, a level outside (0, 1), or utility and controller values that
            JSON cannot hold.
    """
    if not isinstance(result, AuditResult):
        raise InputError(f"a card shows an audit result, not a {type(result).__name__}")
    if not isinstance(model, str):
        raise InputError(f"model must be text that names the checkpoint, got {model!r}")
    wanted: list[tuple[str, Any, type, str]] = [
        ("curve", curve, BiasCurve, "a BiasCurve"),
        ("ruler", ruler, Ruler, "a Ruler"),
        ("calibration", calibration, str, "text"),
        ("date", date, str, "text"),
        ("induced", induced, Mapping, "a mapping"),
        ("utility", utility, Mapping, "a mapping"),
        ("controller", controller, Mapping, "a mapping"),
    ]
    for name, value, kind, words in wanted:
        if value is not None and not isinstance(value, kind):
            raise InputError(f"{name} must be {words}, not a {type(value).__name__}")
    for name, names in (("utility", utility), ("controller", controller)):
        if names is not None and not all(isinstance(key, str) for key in names):
            raise InputError(f"{name} must have names of text, got {listed(names)}")
    card = Card(
        schema="relif-audit-card/2",
        made={"version": __version__, "date": date},
        model=model,
        **{
            "audited": {
                **picked(result.context, "dataset", "split", "score_definition"),
                **picked(result, "samples", "pool_fingerprint"),
            },
            "tolerance": {
                "source": result.context.tolerance_source,
                "calibration": calibration,
                "values": _pair_rows(result.tolerances),
                "ruler": None if ruler is None else _ruler_row(ruler),
            },
            "protocol": {
                "name": result.protocol,
                **picked(result, "pair_seed", "pool_size", "pairs"),
                **picked(result, "clustered_by", "clusters", "effective_pairs"),
            },
            "results": {
                "level": level,
                **_estimates(result, level),
                "per_pair": [{"tasks": list(row.tasks), **_estimates(row, level)} for row in result.per_pair],
                "groups": {label: _estimates(part, level) for label, part in result.groups.items()},
                **picked(result, "groups_left_out", "notes"),
            },
            "curve": None if curve is None else curve.lists(),
            "induced": None if induced is None else _pair_rows(induced),
            "utility": None if utility is None else _numbers(utility, "utility"),
            "controller": None if controller is None else dict(controller),
        },
    )
    try:
        json.dumps(card, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the card holds a value that JSON cannot: {error}; pass numbers and text only"
        ) from error
    return card


def _pair_rows(tolerances: Mapping[Pair, float]) -> list[dict[str, Any]]:
    checked = pair_tolerances(tolerances, "tolerance")
    return [{"tasks": list(pair), "tolerance": value} for pair, value in checked.items()]


def _ruler_row(ruler: Ruler) -> dict[str, Any]:
    own = picked(ruler, "sha256", "alpha", "pairs", "seed", "matchings", "spread")
    return {**own, "score_map": ruler.score_map.rules}


def _numbers(values: Mapping[str, Any], name: str) -> dict[str, float]:
    for key, value in values.items():
        if not is_number(value):
            raise InputError(f"{name} {key!r} must be a number, got a {type(value).__name__}")
    return {key: float(value) for key, value in values.items()}


def _estimates(result: Estimates, level: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in KINDS:
        error, bounds = getattr(result, f"{kind}_se"), result.interval(kind, level)
        known = math.isfinite(error) and math.isfinite(bounds[0])
        found[kind] = {
            "estimate": getattr(result, kind),
            "standard_error": error if known else None,
            "interval": list(bounds) if known else None,
        }
    return found


def _sections(card: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the card as titled tables of (name, value) text, which every rendering shares."""
    absent = [name for name in CARD_SCHEMA["required"] if not isinstance(card, Mapping) or name not in card]
    if absent:
        raise InputError(f"this is no audit card: {listed(absent)} are missing; make it with audit_card")
    audited, tolerance, protocol, results = (
        card[name] for name in ("audited", "tolerance", "protocol", "results")
    )
    level = f"{100 * results['level']:g} %"
    sections = {
        "What was audited": [
            ("Model", card["model"]),
            ("Made", f"{_text(card['made']['date'])}, relif-core {card['made']['version']}"),
            ("Dataset", _text(audited["dataset"])),
            ("Split", _text(audited["split"])),
            ("Audit scores", _text(audited["score_definition"])),
            ("Samples per task", ", ".join(f"{task}: {size:,}" for task, size in audited["samples"].items())),
            ("Pool fingerprint", audited["pool_fingerprint"]),
        ],
        "Tolerance, held fixed": [
            ("Source", _text(tolerance["source"])),
            ("Calibration data", _text(tolerance["calibration"])),
            *_ruler_text(tolerance["ruler"]),
            *_tolerances_text(tolerance["values"]),
        ],
        "Protocol": [
            ("Pairs", "all pairs, exact" if protocol["name"] == "exact" else _sampling_text(protocol)),
            ("Independent units", f"{protocol['clusters']:,} ({protocol['clustered_by']}s)"),
        ],
        f"Results with {level} intervals": [
            ("Bias", _estimate_text(results["bias"])),
            ("Violation rate", _estimate_text(results["violation_rate"])),
            *((_pair_text(row), _estimates_text(row)) for row in results["per_pair"]),
            *((f"Group {label}", _estimates_text(part)) for label, part in results["groups"].items()),
            *((f"Group {label}", f"left out: {why}") for label, why in results["groups_left_out"].items()),
            *(("Note", note) for note in results["notes"]),
        ],
        "Induced tolerances (diagnostic only)": _tolerances_text(card["induced"] or ()),
        "Utility of the same checkpoint": [
            (name, f"{value:.4f}") for name, value in (card["utility"] or {}).items()
        ],
        "Controller": [(name, str(value)) for name, value in (card["controller"] or {}).items()],
    }
    return [(title, rows or [("", "not stated")]) for title, rows in sections.items()]


def _tolerances_text(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    return [(_pair_text(row), f"{row['tolerance']:.4f}") for row in rows]


def _ruler_text(ruler: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    if ruler is None:
        return []
    spread, pairs = ruler["spread"], f"{ruler['pairs']:,} disjoint pairs, seed {ruler['seed']}"
    return [
        ("Ruler", f"{ruler['sha256'][:16]}, α {ruler['alpha']:g}, {pairs}"),
        ("Spread over matchings", f"{spread['low']:.4f} to {spread['high']:.4f} in {ruler['matchings']:,}"),
        ("Score map", "; ".join(f"{task}: {rule['kind']}" for task, rule in ruler["score_map"].items())),
    ]


def _text(value: str | None) -> str:
    return "not stated" if value is None else value


def _pair_text(row: Mapping[str, Any]) -> str:
    return " – ".join(row["tasks"])


def _sampling_text(protocol: Mapping[str, Any]) -> str:
    size = protocol["pool_size"]
    pools = "whole pools, by weight" if size is None else f"pools of up to {size:,}"
    return f"{protocol['pairs']:,} drawn from {pools}, pair seed {protocol['pair_seed']}"


def _estimate_text(estimate: Mapping[str, Any]) -> str:
    return f"{estimate['estimate']:.4f} ({interval_text(estimate['interval'])})"


def _estimates_text(part: Mapping[str, Any]) -> str:
    return f"Bias {_estimate_text(part['bias'])}, violation rate {_estimate_text(part['violation_rate'])}"


def interval_text(bounds: Sequence[float] | None, form: str = ".4f") -> str:
    """Return an interval as text, each end in a ``form``, or why there is none: its ends are NaN."""
    if bounds is None or math.isnan(bounds[0]):
        return "no interval: a single independent unit"
    return f"{bounds[0]:{form}} to {bounds[1]:{form}}"


def card_markdown(card: Mapping[str, Any]) -> str:
    """Return the card as Markdown, one table per section."""
    lines = ["# Audit card", "", LIMITS]
    for title, rows in _sections(card):
        lines += ["", f"## {title}", "", "| | |", "| --- | --- |"]
        lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(html.escape(text, quote=False).replace("|", "\\|").splitlines())


def card_html(card: Mapping[str, Any]) -> str:
    """Return the card as one HTML page that needs no other file."""
    template = Template(_FILES.joinpath("card.template.html").read_text(encoding="utf-8"))
    return template.substitute(
        model=html.escape(str(card.get("model"))) if isinstance(card, Mapping) else "",
        limits=LIMITS,
        body=_body(card),
    )


def _body(card: Mapping[str, Any]) -> str:
    parts = []
    for title, rows in _sections(card):
        cells = "".join(
            f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>'
            for name, value in rows
        )
        parts.append(f"<h2>{html.escape(title)}</h2>\n<table>{cells}</table>")
        if title.startswith("Results") and card["curve"] is not None:
            held = {row["tolerance"] for row in card["tolerance"]["values"]}
            parts.append(curve_svg(**card["curve"], held=held.pop() if len(held) == 1 else None))
    return "\n".join(parts)


def curve_svg(
    tolerances: Sequence[float],
    bias: Sequence[float],
    violation_rate: Sequence[float],
    held: float | None = None,
) -> str:
    """Return both curves [D], tolerances ascending, as an SVG figure that follows the page's colours.

    A line marks the tolerance that was ``held`` fixed for every pair, where the curves reach it.
    """
    width, height, left, low, top = 460.0, 250.0, 45.0, 210.0, 15.0
    last = max(tolerances[-1], 1e-9)

    def place(x: float, y: float) -> str:
        return f"{left + x / last * (width - left - 80):.1f},{low - y * (low - top):.1f}"

    def line(values: Sequence[float], colour: str, name: str) -> str:
        points = " ".join(place(x, y) for x, y in zip(tolerances, values, strict=True))
        first = low - values[0] * (low - top)
        return (
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/><text'
            f' x="{left + 6}" y="{first - 4 if first > top + 12 else first + 14:.1f}"'
            f' fill="{colour}">{name}</text>'
        )

    text = (
        f"Bias falls from {bias[0]:.3f} at tolerance {tolerances[0]:g}, the violation rate from"
        f" {violation_rate[0]:.3f}."
    )
    marks = ""
    if held is not None and tolerances[0] <= held <= tolerances[-1]:
        x, _ = place(held, 0).split(",")
        marks = (
            f'<line x1="{x}" y1="{top}" x2="{x}" y2="{low}" stroke="currentColor" stroke-dasharray="4 3"/>'
            f'<text x="{float(x) + 4:.1f}" y="{top + 10}" fill="currentColor">δ = {held:.3f}</text>'
        )
        at = min(range(len(tolerances)), key=lambda k: abs(tolerances[k] - held))
        text += (
            f" At {tolerances[at]:.3f}, next to the one held fixed, they are {bias[at]:.3f} and"
            f" {violation_rate[at]:.3f}."
        )
    ends = "".join(
        f'<text x="{left - 6}" y="{low - y * (low - top) + 4:.1f}" text-anchor="end"'
        f' fill="currentColor">{y:g}</text>'
        for y in (0, 0.5, 1)
    ) + "".join(
        f'<text x="{place(x * last, 0).split(",")[0]}" y="{low + 16}" text-anchor="middle"'
        f' fill="currentColor">{x * last:g}</text>'
        for x in (0, 0.5, 1)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {width:g} {height:g}"'
        f' width="{width:g}" '
        f'font-family="sans-serif" font-size="12"><title>{html.escape(text)}</title>'
        f'<path d="M{left},{top}V{low}H{width - 80}" fill="none" stroke="currentColor"/>{ends}{marks}'
        f"{line(violation_rate, '#d55e00', 'violation rate')}{line(bias, '#0072b2', 'Bias')}"
        f'<text x="{(left + width - 80) / 2}" y="{low + 34}" text-anchor="middle"'
        ' fill="currentColor">tolerance δ</text></svg>'
    )
