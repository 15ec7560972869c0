"""What the results pages share: published records beside the page's own runs, as tables and figures."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from relif_book.evidence.audit_table import AUDITS, AuditTable, audit_table
from relif_book.evidence.publishing import read_published
from relif_book.evidence.reporting import (
    MethodSummary,
    ReferenceTolerance,
    choose_reference_tolerance,
    common_seeds,
    compare_methods,
    seed_interval,
    summarise,
)
from relif_book.figures.style import colour_of, marker_of
from relif_book.figures.tables import MISSING, mean_sd
from relif_book.project import project_root
from relif_core.errors import InputError, RecordError
from relif_core.methods import title_of
from relif_core.record import Record
from relif_core.settings import ModelSettings, TrainingSettings, as_json, method_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from relif_book import Page


@dataclass(frozen=True)
class ResultSet:
    """The records of one study on one data set, audited at one fixed tolerance that validation data chose."""

    label: str
    records: list[Record] = field(repr=False)
    reference: ReferenceTolerance
    summaries: dict[str, MethodSummary] = field(repr=False)

    def narrowed(self, methods: Sequence[str]) -> "ResultSet":
        """Return the results of some methods, in the order given; those without a record are left out."""
        present = [method for method in methods if method in self.summaries]
        return replace(
            self,
            records=[record for method in present for record in self.records if record.method == method],
            summaries={method: self.summaries[method] for method in present},
        )

    @property
    def shared(self) -> "ResultSet":
        """The results over the seeds that all methods have, for comparisons; all if none is shared."""
        seeds = common_seeds(*self.summaries.values())
        if not seeds:
            return self
        return replace(
            self,
            records=[record for record in self.records if record.seed in seeds],
            summaries={method: summary.of_seeds(seeds) for method, summary in self.summaries.items()},
        )

    @property
    def seed_counts(self) -> tuple[int, int]:
        """The smallest and the largest number of seeds of a method."""
        counts = [len(summary.seeds) for summary in self.summaries.values()]
        return min(counts), max(counts)

    @property
    def spread(self) -> str:
        """What a table's ± is, for captions: the number of seeds, and what is ranked if rows differ."""
        fewest, most = self.seed_counts
        if most == 1:
            return "one seed, so no spread between seeds is known"
        if fewest == most:
            return f"mean ± standard deviation over {most} seeds"
        return (
            f"mean ± standard deviation over each row's {fewest} to {most} seeds; ranks over the seeds that"
            " all rows have"
        )

    @property
    def curve_tolerances(self) -> np.ndarray:
        """The tolerances [D] of the exact curves."""
        return next(iter(self.summaries.values())).table.curve_tolerances

    @property
    def dataset(self) -> Mapping[str, Any]:
        """What the records say of their data set."""
        return self.records[0].content["dataset"]

    @property
    def task_titles(self) -> dict[str, str]:
        """Task name → title, in the audit's order."""
        return {task["name"]: task["title"] for task in self.dataset["tasks"]}

    @property
    def made_on(self) -> str:
        """Device, dates and precision of the records, for readers."""
        made = [record.content["made"] for record in self.records]
        devices = ", ".join(sorted({item["device"] for item in made}))
        dates = sorted({item["began"][:10] for item in made})
        when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
        precision = ", ".join(sorted({record.settings.training.precision for record in self.records}))
        return f"{devices}; {precision}; {when}"

    @property
    def setting(self) -> str:
        """Size, length and number of the runs, and where and when they were made, for readers."""
        settings = self.records[0].settings
        model, epochs = settings.model, settings.training.epochs
        short = epochs < TrainingSettings.epochs or (
            isinstance(model, ModelSettings) and model.hidden < ModelSettings.hidden
        )
        size = f"hidden {model.hidden}" if isinstance(model, ModelSettings) else model.encoder
        return (
            f"{'reduced: ' if short else ''}{size}, {epochs} epochs, {self._seeds_in_words()}; {self.made_on}"
        )

    @property
    def reduced(self) -> str:
        """Width and length of the clinical runs against the settings of Table 5, for readers."""
        settings = self.records[0].settings
        model, epochs = settings.model, settings.training.epochs
        parts = []
        if isinstance(model, ModelSettings) and model.hidden != ModelSettings.hidden:
            parts.append(f"a width of {model.hidden} instead of {ModelSettings.hidden}")
        if epochs != TrainingSettings.epochs:
            parts.append(f"{epochs} instead of {TrainingSettings.epochs} epochs")
        return " and ".join(parts) or "the same width and length"

    def _seeds_in_words(self) -> str:
        fewest, most = self.seed_counts
        seeds = sorted({record.seed for record in self.records})
        if fewest != most:
            return f"{fewest} to {most} seeds per method"
        if most == 1:
            return f"one seed ({', '.join(map(str, seeds))})"
        whole = seeds == list(range(seeds[0], seeds[-1] + 1))
        return f"seeds {seeds[0]} to {seeds[-1]}" if whole else f"seeds {', '.join(map(str, seeds))}"


def result_set(
    label: str,
    records: Sequence[Record],
    reference: ReferenceTolerance | None = None,
    table: AuditTable | None = None,
) -> ResultSet:
    """Gather records at a reference tolerance: that given, or what the first ERM run's validation chooses.

    The audits come from ``table`` where one is given, else from the records' own pools.
    """
    if not records:
        raise RecordError(f"{label}: no finished record; run the study first")
    if reference is None:
        first = next((record for record in records if record.method == "erm"), None)
        if first is None:
            raise RecordError(f"{label}: the tolerance comes from an ERM run, and there is none")
        reference = choose_reference_tolerance(first)
    table = table or audit_table(records, reference.tolerance)
    return ResultSet(label, list(records), reference, summarise(records, table))


def published(page: "Page", folder: str) -> ResultSet:
    """Return the published records of a folder of the checkout, at the tolerance written down beside them."""
    return result_set("published", *read_published(page.record(folder)))


def published_sets(
    page: "Page",
    dataset: str,
    published_records: str,
    methods: Sequence[str],
    study: str = "",
    needs: Sequence[str] | None = None,
) -> list[ResultSet]:
    """Return the published studies of data sets (names separated by commas), narrowed to ``methods``.

    ``study`` names one of the analysis plan; the older ``<dataset>_methods`` stands in until that is
    published with the methods ``needs`` (all ``methods`` if None). ``published_records`` names another folder
    of the checkout to read instead.

    Raises:
        RecordError: Nothing of a data set is published.
    """
    if published_records:
        found = [published(page, published_records)]
    else:
        asked = set(methods if needs is None else needs)
        found = [_study_of(page, name.strip(), study, asked) for name in dataset.split(",")]
    for results in found:
        page.uses_data(results.dataset["title"], licence=results.dataset["licence"])
    return [results.narrowed(methods) for results in found]


def _study_of(page: "Page", dataset: str, study: str, needs: set[str]) -> ResultSet:
    """Return the planned study of a data set, or its methods where that is not published or lacks some."""
    planned = f"data/records/{dataset}_{study}"
    if study and (project_root() / planned / AUDITS).is_file():
        results = published(page, planned)
        if needs <= set(results.summaries):
            return results
    return published(page, f"data/records/{_published_name(dataset)}_methods")


def _published_name(dataset: str) -> str:
    """Return the name if records of its methods are published, else say which are and how to add them."""
    records = project_root() / "data" / "records"
    known = sorted(path.name.removesuffix("_methods") for path in records.glob("*_methods"))
    if dataset not in known:
        raise RecordError(
            f"dataset {dataset!r}: no methods study of it is published here; there are {', '.join(known)}."
            " Make one with `relif study clinical` on its tensors and `relif publish RUNS"
            f" data/records/{dataset}_methods`"
        )
    return dataset


def utility_rows(results: ResultSet) -> list[dict[str, str | int]]:
    """Worst, Macro and every task's score per method: mean ± standard deviation over seeds."""
    return [
        {
            "Method": title_of(method),
            "Seeds": len(summary.seeds),
            "Worst": mean_sd(summary.worst),
            "Macro": mean_sd(summary.macro),
            **{
                results.task_titles[task]: _mean_sd_of_defined(scores)
                for task, scores in summary.task_scores.items()
            },
        }
        for method, summary in results.summaries.items()
    ]


def audit_rows(results: ResultSet) -> list[dict[str, str | int]]:
    """Fixed-tolerance Bias and violation rate with subject intervals, and Bias at own tolerances."""
    return [
        {
            **_head(results, method),
            "Bias": mean_sd(summary.bias, 4),
            "95 % interval of Bias": _bracket(summary.interval(), 4),
            "Violation rate": mean_sd(summary.violation_rate, 3),
            "95 % interval of violation rate": _bracket(summary.interval("violation_rate"), 3),
            "Raw Bias (own tolerance)": mean_sd(summary.raw_bias, 4),
        }
        for method, summary in results.summaries.items()
    ]


def induced_rows(results: ResultSet, compared_with: str = "relif") -> list[dict[str, str | int]]:
    """Mean validation-induced tolerance per method, its difference and ratio to one over common seeds.

    That of the test split and the drift budget there, which bears on the test audit, stand beside it.
    """
    name = title_of(compared_with)
    return [
        {
            **_head(results, method),
            "Validation": mean_sd(summary.induced_validation),
            f"Difference to {name}": _induced_difference(results, method, compared_with),
            f"Ratio to {name}": _induced_ratio(results, method, compared_with),
            "Test": mean_sd(summary.induced),
            "Drift budget, test": mean_sd(summary.budget),
        }
        for method, summary in results.summaries.items()
    ]


def induced_comparison_rows(results: ResultSet, compared_with: str = "relif") -> list[dict[str, str]]:
    """Each method's validation-induced tolerance minus one's, paired by seed: spread, t interval, ratio."""
    rows = []
    for _, method in comparable_pairs(results, [(compared_with, name) for name in results.summaries]):
        found = compare_methods(results.summaries[compared_with], results.summaries[method])
        ends = seed_interval(found.induced_differences)
        rows.append(
            {
                "Comparison": f"{title_of(method)} − {title_of(compared_with)}",
                "Difference in induced tolerance": _difference(found.induced_differences, 3),
                "95 % interval over seeds": _bracket(ends, 3) if ends else MISSING,
                "Larger in": (
                    f"{sum(value > 0 for value in found.induced_differences)} of {len(found.seeds)} seeds"
                ),
                f"Ratio to {title_of(compared_with)}": _induced_ratio(results, method, compared_with),
            }
        )
    return rows or [{"Comparison": "no other method has a seed in common"}]


def ruler_rows(results: ResultSet, compared_with: str = "relif") -> list[dict[str, str]]:
    """Each comparison with one method in Bias at fixed and at own tolerances, and its certificate (B.2)."""
    rows = []
    for _, method in comparable_pairs(results, [(compared_with, name) for name in results.summaries]):
        found = compare_methods(results.summaries[compared_with], results.summaries[method])
        certificate = found.certificate
        kept = float(np.mean(found.differences)) * float(np.mean(found.raw_differences)) > 0
        rows.append(
            {
                "Comparison": f"{title_of(method)} − {title_of(compared_with)}",
                "Bias, fixed δ": _difference(found.differences, 4),
                "95 % interval": _bracket(found.interval, 4),
                "Bias, own δ": _difference(found.raw_differences, 4),
                "Order": "kept" if kept else "turned round",
                "Gap | budgets": f"{certificate.margin:.4f} | {certificate.budget:.4f}",
                "Certified": "yes" if certificate.certified else "no",
            }
        )
    return rows or [{"Comparison": "no other method has a seed in common"}]


def candidate_rows(reference: ReferenceTolerance) -> list[dict[str, str]]:
    """The levels offered to the reference tolerance, with the reference run's validation audit at each."""
    return [
        {
            "α": f"{item['alpha']:.2f}",
            "Tolerance": f"{item['tolerance']:.3f}",
            "Validation Bias": f"{item['bias']:.4f}",
            "Validation violation rate": f"{item['violation_rate']:.3f}",
            "Chosen": "yes" if item["alpha"] == reference.alpha else "",
        }
        for item in reference.candidates
    ]


def comparable_pairs(results: ResultSet, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the pairs of two different methods that both have records, with a seed in common."""
    found = results.summaries
    return [
        (a, b) for a, b in pairs if a != b and a in found and b in found and common_seeds(found[a], found[b])
    ]


def comparison_rows(results: ResultSet, pairs: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Method b minus a over common seeds: seed spread, paired interval over test subjects, certificate.

    Pairs of which one has no record, or that share no seed, are left out.
    """
    rows = []
    for a, b in comparable_pairs(results, pairs):
        found = compare_methods(results.summaries[a], results.summaries[b])
        certificate = found.certificate
        rows.append(
            {
                "Comparison": f"{title_of(b)} − {title_of(a)}",
                "Bias difference": _difference(found.differences, 4),
                "95 % interval over subjects": _bracket(found.interval, 4),
                "Seeds with lower Bias": (
                    f"{sum(value < 0 for value in found.differences)} of {len(found.seeds)}"
                ),
                "Worst difference": _difference(found.worst_differences, 4),
                "Fixed gap | drift budgets": f"{certificate.margin:.4f} | {certificate.budget:.4f}",
                "Order certified": "yes" if certificate.certified else "no",
            }
        )
    return rows or [{"Comparison": "none of these pairs has records with a seed in common"}]


def trade_off_rows(results: ResultSet) -> list[dict[str, str | int]]:
    """Worst, Macro, fixed-tolerance Bias, ranks in Bias at own (raw) and fixed tolerance; 1 is lowest."""
    raw, fixed = ranks(results, "raw_bias"), ranks(results, "bias")
    return [
        {
            "Method": title_of(method),
            "Seeds": len(summary.seeds),
            "Worst": mean_sd(summary.worst),
            "Macro": mean_sd(summary.macro),
            "Bias": mean_sd(summary.bias, 4),
            "95 % interval": _bracket(summary.interval(), 4),
            "Raw Bias": mean_sd(summary.raw_bias, 4),
            "Raw rank": raw[method],
            "Fixed rank": fixed[method],
            "Shift": f"{fixed[method] - raw[method]:+d}".replace("-", "−").replace("+0", "0"),
        }
        for method, summary in results.summaries.items()
    ]


def tolerance_rows(results: ResultSet, tolerances: Sequence[float]) -> list[dict[str, str | int]]:
    """Bias per method at several tolerances of the exact curves, with its rank there (1 is lowest).

    Ranks are over the seeds that all methods have.
    """
    columns = [int(np.argmin(np.abs(results.curve_tolerances - delta))) for delta in tolerances]
    for delta, column in zip(tolerances, columns, strict=True):
        if abs(results.curve_tolerances[column] - delta) > 1e-9:
            raise InputError(f"the curves hold no tolerance {delta}; choose multiples of 0.005")

    def biases(summary: MethodSummary) -> np.ndarray:
        return summary.table.bias_curve[summary.rows][:, columns]

    means = np.array([biases(summary).mean(axis=0) for summary in results.shared.summaries.values()])
    order = means.argsort(axis=0).argsort(axis=0) + 1
    return [
        {
            **_head(results, method),
            **{
                f"δ = {delta:g}": f"{mean_sd(biases(summary)[:, place], 4)} ({order[row, place]})"
                for place, delta in enumerate(tolerances)
            },
        }
        for row, (method, summary) in enumerate(results.summaries.items())
    ]


def sweep_rows(results: ResultSet) -> list[dict[str, str | int]]:
    """Utility and Bias per controller setting, where λ and the rate ended, and how often λ met a bound."""
    rows: list[dict[str, str | int]] = []
    for method, summary in results.summaries.items():
        records = [record for record in results.records if record.method == method]
        settings = records[0].settings.controller
        steps = np.concatenate([record.trace("weight")[settings.warmup :] for record in records])
        rows.append(
            {
                "η": f"{settings.step_size:g}",
                "ρ*": f"{settings.target:g}",
                **_seed_cell(results, method),
                "Worst": mean_sd(summary.worst),
                "Bias": mean_sd(summary.bias, 4),
                "95 % interval": _bracket(summary.interval(), 4),
                "Last λ": mean_sd([record.trace("weight")[-1] for record in records]),
                "Last r̄": mean_sd([record.trace("smoothed_rate")[-1] for record in records]),
                "At λ_min": f"{np.mean(steps <= settings.minimum * (1 + 1e-9)):.0%}",
                "At λ_max": f"{np.mean(steps >= settings.maximum * (1 - 1e-9)):.0%}",
            }
        )
    return rows


def noise_sentence(results: ResultSet) -> str:
    """Say how far Bias varies between seeds, between methods and over the draw of test subjects."""
    summaries = results.summaries.values()
    between = float(np.std([np.mean(summary.bias) for summary in summaries], ddof=1))
    spreads = [np.std(summary.bias, ddof=1) for summary in summaries if len(summary.seeds) > 1]
    seeds = f"{np.median(spreads):.4f} between seeds of one method" if spreads else "unknown between seeds"
    half = np.median([np.ptp(summary.interval()) for summary in summaries]) / 2
    return (
        f"on {results.dataset['title']} the standard deviation of Bias is {seeds} and {between:.4f} between"
        f" the methods' means, and the interval over subjects reaches {half:.4f} to either side (medians over"
        " the methods)"
    )


def weight_sentence(results: ResultSet, method: str = "relif") -> str:
    """Say how far the penalty weight of a method moved."""
    records = [record for record in results.records if record.method == method]
    if not records:
        return f"is not known, for {title_of(method)} has no record"
    traces = [record.trace("weight") for record in records]
    ends = sorted(f"{trace[-1]:.3f}" for trace in traces)
    reached = ends[0] if ends[0] == ends[-1] else f"{ends[0]} to {ends[-1]}"
    start = records[0].settings.controller.initial
    return f"starts at {start:g} and stands at {reached} after {max(map(len, traces)):,} steps"


def ranks(results: ResultSet, kind: str) -> dict[str, int]:
    """Return each method's rank in the mean of ``kind`` over the common seeds; 1 is the lowest value."""
    means = {
        method: float(np.mean(getattr(summary, kind))) for method, summary in results.shared.summaries.items()
    }
    return {
        method: number for number, method in enumerate(sorted(means, key=lambda name: means[name]), start=1)
    }


def certified_pairs(results: ResultSet) -> tuple[int, int]:
    """Return how many method pairs with a common seed have a certified order, and how many there are."""
    pairs = comparable_pairs(results, list(itertools.combinations(results.summaries, 2)))
    found = [
        compare_methods(results.summaries[a], results.summaries[b]).certificate.certified for a, b in pairs
    ]
    return sum(found), len(found)


def draw_curves(axes: "Axes", results: ResultSet, kind: str = "bias") -> None:
    """Draw every run's exact Bias (or "violation_rate") curve by method, and mark the fixed tolerance."""
    for method, summary in results.summaries.items():
        name = title_of(method)
        for index, row in enumerate(summary.rows):
            axes.plot(
                summary.table.curve_tolerances,
                getattr(summary.table, f"{kind}_curve")[row],
                color=colour_of(method),
                alpha=0.8,
                linewidth=1.2,
                marker=marker_of(method),
                markevery=(index * 7, 40),
                markersize=5,
                label=name if index == 0 else None,
            )
    axes.axvline(results.reference.tolerance, color="black", linewidth=0.8, linestyle="--")
    axes.annotate(
        f"δ = {results.reference.tolerance:.3f}",
        (results.reference.tolerance, 0.93),
        xycoords=("data", "axes fraction"),
        xytext=(4, 0),
        textcoords="offset points",
    )
    axes.set(xlabel="tolerance δ", ylabel="Bias" if kind == "bias" else "violation rate", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def draw_traces(weight_axes: "Axes", rate_axes: "Axes", results: ResultSet, method: str = "relif") -> None:
    """Draw λ and the smoothed violation rate of a method's seeds over its steps, with target and bounds."""
    records = [record for record in results.records if record.method == method]
    for number, record in enumerate(records):
        style = ("-", "--", ":", "-.")[number % 4]
        for axes, trace in ((weight_axes, "weight"), (rate_axes, "smoothed_rate")):
            values = record.trace(trace)
            axes.plot(
                np.arange(1, len(values) + 1),
                values,
                style,
                color=colour_of(method),
                linewidth=1.2,
                label=f"seed {record.seed}",
            )
    settings = records[0].settings.controller
    rate_axes.axhline(settings.target, color="black", linewidth=0.8, linestyle="--")
    rate_axes.annotate(
        f"target ρ* = {settings.target:g}", (0.98, settings.target), xycoords=("axes fraction", "data"),
        ha="right", va="bottom",
    )  # fmt: skip
    weight_axes.set(xlabel="step", ylabel="penalty weight λ")
    rate_axes.set(xlabel="step", ylabel="smoothed violation rate", ylim=(0, 1))
    weight_axes.legend(frameon=False)


def changed_settings_rows(results: ResultSet) -> list[dict[str, str]]:
    """The settings in which the records differ from their method's defaults (Table 5), seeds aside."""
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
        flat.update(
            _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
        )
    return flat


def _head(results: ResultSet, method: str) -> dict[str, str | int]:
    """First cells of a method's row: its name, and its number of seeds where rows differ in it."""
    return {"Method": title_of(method), **_seed_cell(results, method)}


def _seed_cell(results: ResultSet, method: str) -> dict[str, str | int]:
    fewest, most = results.seed_counts
    return {"Seeds": len(results.summaries[method].seeds)} if fewest != most else {}


def _difference(values: Sequence[float], digits: int) -> str:
    """Mean ± standard deviation of differences over seeds; a single seed is named, for it shows no spread."""
    text = mean_sd(values, digits).replace("-", "−")
    return text if len(values) > 1 else f"{text} (one seed)"


def _induced_difference(results: ResultSet, method: str, compared_with: str) -> str:
    if not comparable_pairs(results, [(compared_with, method)]):
        return MISSING
    found = compare_methods(results.summaries[compared_with], results.summaries[method])
    return f"{np.mean(found.induced_differences):+z.3f}".replace("-", "−")


def _induced_ratio(results: ResultSet, method: str, compared_with: str) -> str:
    """Mean induced tolerance of a method over that of another, over common seeds."""
    if not comparable_pairs(results, [(compared_with, method)]):
        return MISSING
    a, b = results.summaries[compared_with], results.summaries[method]
    seeds = common_seeds(a, b)
    base = float(np.mean(a.of_seeds(seeds).induced_validation))
    return f"{np.mean(b.of_seeds(seeds).induced_validation) / base:.2f}" if base > 0 else MISSING


def _mean_sd_of_defined(scores: Sequence[float | None]) -> str:
    defined = [score for score in scores if score is not None]
    if not defined:
        return "undefined"
    text = mean_sd(defined)
    return text if len(defined) == len(scores) else f"{text} (defined in {len(defined)} of {len(scores)})"


def _bracket(ends: tuple[float, float], digits: int) -> str:
    return f"[{ends[0]:z.{digits}f}, {ends[1]:z.{digits}f}]".replace("-", "−")
