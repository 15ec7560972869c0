"""What results pages share: kept runs beside the page's own, and rows whose cells are numbers until shown."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from relif_book.evidence.audit_table import AUDITS
from relif_book.evidence.publishing import read_published
from relif_book.evidence.reporting import ReferenceTolerance, seed_interval
from relif_book.evidence.result_set import EXPLORATORY, PLANNED, ResultSet, nearest_column, result_set
from relif_book.figures.style import colour_of
from relif_book.figures.tables import (
    MISSING,
    QUANTITIES,
    Cell,
    Interval,
    Seeds,
    Table,
    decimals,
    show_folded,
    show_table,
    shown,
)
from relif_book.project import project_root
from relif_core.errors import RecordError, listed
from relif_core.methods import title_of
from relif_core.problems import kind_of_settings
from relif_core.settings import as_json, method_settings
from relif_core.studies.grid import SEVEN_METHODS, STUDIES, named_study

if TYPE_CHECKING:
    from relif_book import Page

Rows = list[dict[str, Cell]]


def published(page: "Page", folder: str) -> ResultSet:
    """Return the kept records of a folder of the checkout, at the tolerance written down beside them.

    A study of the plan is read at its largest look; before its first one, as far as it has come.
    """
    path = page.record(folder)
    name, looks = PLANNED.get(path.name, (EXPLORATORY, ()))
    found = result_set("Kept runs", *read_published(path), study=name)
    page.uses_data(found.dataset)
    if not looks:
        return found
    study = STUDIES[name]
    open_runs = {(run.method, run.seed) for run in named_study(name)} - _ended(found)
    found = replace(found, planned_seeds=len(looks[-1]), interim=bool(open_runs)).narrowed(study.methods)
    seeds = look_of(found, name, looks)
    return found if seeds is None else found.of_seeds(seeds)


def seven(page: "Page", folder: str) -> ResultSet:
    """Return the kept records of a folder, of the paper's seven methods alone (:func:`published`)."""
    return published(page, folder).narrowed(SEVEN_METHODS)


def planned(page: "Page", folder: str) -> ResultSet | None:
    """Return a study of the plan at its largest look; None before the first one."""
    path, (name, looks) = f"data/records/{folder}", PLANNED[folder]
    if not page.awaits(f"{path}/{AUDITS}"):
        return None
    results = published(page, path)
    return None if looks and look_of(results, name, looks) is None else results


def look_of(results: ResultSet, study: str, looks: Sequence[range]) -> range | None:
    """Return the seeds of the largest look for which the study's first block is whole; failed runs count."""
    ended = _ended(results)
    whole = [seeds for seeds in looks if {*itertools.product(STUDIES[study].blocks[0], seeds)} <= ended]
    return whole[-1] if whole else None


def _ended(results: ResultSet) -> set[tuple[str, int]]:
    """Return method and seed of the runs that finished or failed."""
    failed = {(item["method"], item["seed"]) for item in results.table.failed}
    return {(record.method, record.seed) for record in results.records} | failed


def and_the_others(values: Mapping[str, float], method: str = "relif") -> tuple[str, str]:
    """Return a method's value (NaN where it is missing) and the range of all others', with three digits."""
    others = [value for name, value in values.items() if name != method]
    return f"{values.get(method, math.nan):.3f}", f"{min(others):.3f} to {max(others):.3f}"


def published_sets(
    page: "Page", methods: Sequence[str], studies: Sequence[str] = (), needs: Sequence[str] = ()
) -> list[ResultSet]:
    """Return the kept studies of the data sets that a page's parameter ``dataset`` names, the plan's first.

    The page's parameter ``published_records`` names another folder to read instead.

    Args:
        page: The page.
        methods: To which exploratory studies are narrowed.
        studies: Of the plan, read whole; where a data set is itself a study of the plan, that one.
        needs: Methods (empty: all) of which one study must hold all, else the older, exploratory
            ``<dataset>_methods`` follows.

    Raises:
        RecordError: Nothing of a data set is published.
    """
    if folder := page.parameters["published_records"]:
        return [published(page, folder).narrowed(methods)]
    found: list[ResultSet] = []
    for name in map(str.strip, page.parameters["dataset"].split(",")):
        folders = [folder for folder in (name, *(f"{name}_{one}" for one in studies)) if folder in PLANNED]
        kept = [results for folder in folders if (results := planned(page, folder)) is not None]
        asked = set() if name in PLANNED else set(needs or methods)
        if not any(asked <= set(results.runs) for results in kept):
            older = published(page, f"data/records/{_published_name(name)}_methods")
            kept.append(older.narrowed(methods))
        found += kept
    return found


def _published_name(dataset: str) -> str:
    """Return the name if records of its methods are published, else say which are and how to add them."""
    records = project_root() / "data" / "records"
    known = sorted(path.name.removesuffix("_methods") for path in records.glob("*_methods"))
    if dataset not in known:
        raise RecordError(
            f"dataset {dataset!r}: no methods study of it is published here; there are {listed(known)}."
            " Make one with `relif study clinical` on its tensors and `relif publish RUNS"
            f" data/records/{dataset}_methods`"
        )
    return dataset


def show_sets(
    found: Sequence[ResultSet], rows: Callable[[ResultSet], Rows], caption: str, *, number: str = ""
) -> None:
    """Show a table of the first results, under its ``number`` in the paper; fold the others beneath it."""
    show_table(_captioned(found[0], rows, caption, number))
    for results in found[1:]:
        show_folded(f"{results.title}: the same table", [_captioned(results, rows, caption)])


def fold_sets(
    title: str, found: Sequence[ResultSet], rows: Callable[[ResultSet], Rows], caption: str
) -> None:
    """Fold a table per results under one title."""
    show_folded(title, [_captioned(results, rows, caption) for results in found])


def _captioned(
    results: ResultSet, rows: Callable[[ResultSet], Rows], caption: str, number: str = ""
) -> Table:
    """Return a table whose caption says its number in the paper, its runs, and what its ± is."""
    shown = rows(results)
    spread = any(isinstance(cell, Seeds) for row in shown for cell in row.values())
    parts = [results.head, f"δ = {results.reference.tolerance:.3f}", results.spread if spread else ""]
    head = f"{number} · " if number else ""
    return Table(shown, caption=f"{head}{'; '.join(filter(None, parts))}. {caption}")


def method_rows(results: ResultSet, *columns: str) -> Rows:
    """Return one row per method: its seeds where they differ between rows, then the columns.

    A column is a quantity of the frame, a task's "score/…" among them, an "interval" or "rate_interval" over
    the draw of test subjects, or "ranks" in Bias: at own tolerances → at the fixed one. Quantities that no
    record has are left out.
    """
    fewest, most = results.seed_counts
    rows: Rows = []
    for method in results.runs:
        row: dict[str, Cell] = {"Method": title_of(method)}
        if fewest != most:
            row["Seeds"] = len(results.seeds(method))
        for column in columns:
            if column == "interval":
                row["95 % interval"] = Interval(*results.interval(method))
            elif column == "rate_interval":
                ends = results.interval(method, "violation_rate")
                row["95 % interval of the rate"] = Interval(*ends, decimals("violation_rate"))
            elif column == "ranks":
                before, after = (results.ranks(kind)[method] for kind in ("raw_bias", "bias"))
                row["Rank, own → fixed δ"] = f"{before} → {after}"
            elif column in results.wide:
                row |= _cell(results, column, results.values(method, column))
        rows.append(row)
    return rows


def _cell(
    results: ResultSet, column: str, values: Sequence[float], *, signed: bool = False
) -> dict[str, Cell]:
    """Return a quantity over seeds under its title."""
    quantity, _, task = column.partition("/")
    title = results.task_titles[task] if quantity == "score" else QUANTITIES[column][0]
    return {title: Seeds(tuple(values), decimals(column), signed=signed)}


def difference_rows(results: ResultSet, pairs: Sequence[tuple[str, str]], *columns: str) -> Rows:
    """Return one row per pair (a, b) with a seed in common: b minus a over their common seeds.

    A column is a quantity of the frame, or "interval" (of the difference in Bias over the draw of subjects,
    paired by subject), "lower" (seeds with lower Bias), "seed_interval" and "ratio" (of the validation's
    induced tolerance), "order" (of the means, from the fixed to own tolerances) or "certificate" (theorem
    B.2: the fixed gap and both drift budgets, and whether the order is certain).
    """
    rows: Rows = []
    for a, b in comparable_pairs(results, pairs):
        row: dict[str, Cell] = {"Comparison": f"{title_of(b)} − {title_of(a)}"}
        for column in columns:
            if column in results.wide:
                row |= _cell(results, column, results.differences(b, a, column), signed=True)
            elif column in _OF_PAIRS:
                row |= _OF_PAIRS[column](results, a, b)
        rows.append(row)
    return rows or [{"Comparison": "none of these pairs has records with a seed in common"}]


def _lower(results: ResultSet, a: str, b: str) -> dict[str, Cell]:
    differences = results.differences(b, a)
    return {"Seeds lower": f"{sum(value < 0 for value in differences)} of {len(differences)}"}


def _order(results: ResultSet, a: str, b: str) -> dict[str, Cell]:
    fixed, own = (np.mean(results.differences(b, a, kind)) for kind in ("bias", "raw_bias"))
    return {"Order": "kept" if fixed * own > 0 else "turned round"}


def _over_seeds(results: ResultSet, a: str, b: str) -> dict[str, Cell]:
    ends = seed_interval(results.differences(b, a, "induced/validation"))
    return {"95 % interval over seeds": Interval(*ends, decimals("induced")) if ends else MISSING}


def _ratio(results: ResultSet, a: str, b: str) -> dict[str, Cell]:
    shared = results.narrowed((a, b)).shared
    base, own = (shared.mean(method, "induced/validation") for method in (a, b))
    return {"Ratio": f"{own / base:.2f}" if base > 0 else MISSING}


def _certificate(results: ResultSet, a: str, b: str) -> dict[str, Cell]:
    certificate = results.certificate(a, b)
    return {
        "Gap | budgets": f"{shown('bias', certificate.margin)} | {shown('bias', certificate.budget)}",
        "Certified": "yes" if certificate.certified else "no",
    }


_OF_PAIRS: Mapping[str, Callable[[ResultSet, str, str], dict[str, Cell]]] = {
    "interval": lambda results, a, b: {"95 % interval": Interval(*results.interval(b, base=a))},
    "lower": _lower,
    "order": _order,
    "seed_interval": _over_seeds,
    "ratio": _ratio,
    "certificate": _certificate,
}


def against(results: ResultSet, method: str = "relif") -> list[tuple[str, str]]:
    """Return the pairs of one method with every other."""
    return [(method, other) for other in results.runs if other != method]


def comparison_rows(results: ResultSet, pairs: Sequence[tuple[str, str]]) -> Rows:
    """Return method b minus method a: Bias with its interval over subjects, Worst, and theorem B.2."""
    return difference_rows(results, pairs, "bias", "interval", "lower", "worst", "certificate")


def candidate_rows(reference: ReferenceTolerance) -> Rows:
    """Return the levels that the reference tolerance was chosen from, and the validation audit at each."""
    return [
        {
            "α": f"{item['alpha']:.2f}",
            "Tolerance": item["tolerance"],
            "Validation Bias": shown("bias", item["bias"]),
            "Validation violation rate": item["violation_rate"],
            "Chosen": "yes" if item["alpha"] == reference.alpha else "",
        }
        for item in reference.candidates
    ]


def tolerance_rows(results: ResultSet, tolerances: Sequence[float]) -> Rows:
    """Return Bias per method at tolerances of the exact curves, its rank over common seeds in brackets.

    Raises:
        InputError: The curves do not hold a tolerance.
    """
    columns = [nearest_column(results.curve_tolerances, delta, 1e-9) for delta in tolerances]
    found = results.shared.runs
    means = np.array([results.shared.curves(method)[:, columns].mean(axis=0) for method in found])
    order = means.argsort(axis=0).argsort(axis=0) + 1
    rows = method_rows(results)
    for place, (row, method) in enumerate(zip(rows, results.runs, strict=True)):
        for at, delta in enumerate(tolerances):
            shown = Seeds(tuple(results.curves(method)[:, columns[at]]), decimals("bias"))
            row[f"δ = {delta:g}"] = f"{shown} ({order[place, at]})"
    return rows


def kept_rows(found: Sequence[ResultSet]) -> Rows:
    """Return what kept runs are and what they cost, a row per study."""
    rows: Rows = []
    for results in found:
        settings = results.records[0].settings
        commands = {record.content["made"].get("command", MISSING) for record in results.records}
        rows.append(
            {
                "Study": results.title,
                "Runs": len(results.records),
                "Seeds": results.seeds_in_words,
                "Width": str(getattr(settings.model, kind_of_settings(settings).size)),
                "Epochs": settings.training.epochs,
                "Made on": results.made_on,
                "Core-hours": f"{results.core_hours:.1f}",
                "Command": "; ".join(sorted(text.replace("cli.py", "relif") for text in commands)[:2]),
            }
        )
    return rows


def changed_settings_rows(results: ResultSet) -> Rows:
    """Return the settings in which the records differ from their method's defaults (Table 5), seeds aside."""
    found: dict[tuple[str, str], set[str]] = {}
    for record in results.records:
        used, usual = _flat(as_json(record.settings)), _flat(as_json(method_settings(record.method)))
        for name, value in used.items():
            if name != "seed" and value != usual.get(name):
                found.setdefault((name, str(usual.get(name))), set()).add(str(value))
    return [
        {"Setting": name, "Table 5": usual, "These records": ", ".join(sorted(values))}
        for (name, usual), values in sorted(found.items())
    ]


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def noise(results: ResultSet) -> dict[str, float]:
    """Return how far Bias varies between seeds, between methods and over the draw of test subjects.

    The standard deviation between a method's seeds (median), that of the methods' means, and half the
    interval over subjects (median); NaN where one seed or one method shows nothing.
    """
    bias = results.wide["bias"].groupby("method")
    half = [np.ptp(results.interval(method)) / 2 for method in results.runs]
    return {
        "seeds": float(bias.std().median()),
        "methods": float(bias.mean().std()),
        "subjects": float(np.median(half)),
    }


def comparable_pairs(results: ResultSet, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the pairs of two different methods that both have records, with a seed in common."""
    return [(a, b) for a, b in pairs if a != b and {a, b} <= set(results.runs) and results.seeds(a, b)]


def certified_pairs(results: ResultSet) -> tuple[int, int]:
    """Return how many pairs of methods with a common seed have a certified order, and how many there are."""
    pairs = comparable_pairs(results, list(itertools.combinations(results.runs, 2)))
    return sum(results.certificate(a, b).certified for a, b in pairs), len(pairs)


def methods_data(results: ResultSet) -> dict[str, Any]:
    """Return what the figure "methods" draws: means over seeds, curves, and Bias at own tolerances."""
    methods = [
        {
            "title": title_of(method),
            "colour": colour_of(method),
            "worst": results.mean(method, "worst"),
            "bias": results.curves(method).mean(0),
            "violation_rate": results.curves(method, "violation_rate").mean(0),
            "own_tolerance": results.mean(method, "induced/test"),
            "own_bias": results.mean(method, "raw_bias"),
        }
        for method in results.runs
    ]
    tolerance = results.reference.tolerance
    return {"tolerances": results.curve_tolerances, "tolerance": tolerance, "methods": methods}


def show_kept(found: Sequence[ResultSet]) -> None:
    """Show what kept runs are and what they cost, folded, a row per study."""
    show_folded("Kept runs: size, cost and command", [Table(kept_rows(found), caption="Kept runs.")])
