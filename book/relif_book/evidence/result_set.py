"""The records of one study on one data set: numbers by method and seed, and words for captions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from relif_book.evidence.audit_table import AuditTable, audit_table
from relif_book.evidence.frame import final_frame, wide_frame
from relif_book.evidence.reporting import (
    MethodSummary,
    ReferenceTolerance,
    choose_reference_tolerance,
    common_seeds,
    seed_interval,
    summarise,
)
from relif_book.project import project_root
from relif_core.errors import RecordError
from relif_core.files import read_json
from relif_core.problems import kind_of_settings
from relif_core.record import Record
from relif_data.sources import REGISTRY

#: Fewer deaths than this among the test stays leave the order of methods open.
FEW = 50
#: Data sets in two words.
SHORT_NAMES = {name: source.short for name, source in REGISTRY.items()}


@dataclass(frozen=True)
class ResultSet:
    """The records of one study on one data set, audited at one fixed tolerance that validation data chose.

    Attributes:
        study: The plan's name of it, or "exploratory", or what made them.
        planned_seeds: How many seeds the plan gives its methods, where it names the study.
    """

    label: str
    reference: ReferenceTolerance
    summaries: dict[str, MethodSummary] = field(repr=False)
    study: str = ""
    planned_seeds: int = 0

    def narrowed(self, methods: Sequence[str]) -> "ResultSet":
        """Return the results of some methods, in the order given; those without a record are left out."""
        present = [method for method in methods if method in self.summaries]
        return replace(self, summaries={method: self.summaries[method] for method in present})

    def of_seeds(self, seeds: Sequence[int]) -> "ResultSet":
        """Return the results over some seeds; a method with none of them is left out."""
        own = {
            method: [seed for seed in summary.seeds if seed in seeds]
            for method, summary in self.summaries.items()
        }
        return replace(
            self,
            summaries={method: self.summaries[method].of_seeds(kept) for method, kept in own.items() if kept},
        )

    @cached_property
    def records(self) -> list[Record]:
        """The records, method by method."""
        return [record for summary in self.summaries.values() for record in summary.records]

    @cached_property
    def shared(self) -> "ResultSet":
        """The results over the seeds that all methods have, for comparisons; all if none is shared."""
        seeds = common_seeds(*self.summaries.values())
        return self.of_seeds(seeds) if seeds else self

    @cached_property
    def wide(self) -> pd.DataFrame:
        """One row per (method, seed), one column per quantity."""
        frame = wide_frame(final_frame(self.records, self.table))
        return frame.reindex(list(self.summaries), level="method")

    @property
    def table(self) -> AuditTable:
        """The audit table that all methods share."""
        return next(iter(self.summaries.values())).table

    def values(self, method: str, quantity: str) -> list[float]:
        """Return a quantity of a method, seed by seed; empty where the records do not have it."""
        if quantity not in self.wide or method not in self.summaries:
            return []
        return self.wide.loc[method][quantity].dropna().tolist()

    def mean(self, method: str, quantity: str) -> float:
        """Return the mean of a quantity over a method's seeds; NaN where the records do not have it."""
        found = self.values(method, quantity)
        return float(np.mean(found)) if found else float("nan")

    def seed_interval(self, method: str, quantity: str) -> tuple[float, float]:
        """Return the 95 % t interval of a method's mean over the draw of seeds; one seed has no width."""
        found = self.values(method, quantity)
        return seed_interval(found) or (found[0], found[0])

    def lowest(self, quantity: str) -> str:
        """Return the method with the lowest mean over the seeds that all methods have."""
        return str(self.shared.wide[quantity].groupby("method").mean().idxmin())

    def highest(self, quantity: str) -> str:
        """Return the method with the highest mean over the seeds that all methods have."""
        return str(self.shared.wide[quantity].groupby("method").mean().idxmax())

    @property
    def seed_counts(self) -> tuple[int, int]:
        """The smallest and the largest number of seeds of a method."""
        counts = [len(summary.seeds) for summary in self.summaries.values()]
        return min(counts), max(counts)

    @property
    def interim(self) -> bool:
        """Tell whether the plan gives these methods more seeds than they have."""
        return self.seed_counts[0] < self.planned_seeds

    @property
    def seeds_in_words(self) -> str:
        """How many seeds a method has; of an interim look, of how many."""
        fewest, most = self.seed_counts
        counted = f"{fewest}" if fewest == most else f"{fewest}–{most}"
        if self.interim:
            return f"{counted} of {self.planned_seeds} seeds"
        return f"{counted} seed{'s' if most > 1 else ''}"

    @property
    def standing(self) -> str:
        """What evidence these runs are: the plan's study, interim where it is not whole, or exploratory."""
        return standing(self.study, self)

    @property
    def data(self) -> str:
        """The data set in two words."""
        demo = " demo" if "demo" in self.dataset["title"].lower() else ""
        return SHORT_NAMES.get(self.dataset["dataset"], self.dataset["title"]) + demo

    @cached_property
    def label_counts(self) -> list[dict[str, Any]] | None:
        """The published label counts of the data set, in the order of its tasks; None without."""
        for path in sorted((project_root() / "data" / "records" / "clinical_data").glob("*.json")):
            summary = read_json(path)
            if summary["fingerprint"] == self.dataset["fingerprint"]:
                known = {task["name"]: task for task in summary["tasks"]}
                return [known[name] for name in self.task_titles]
        return None

    @property
    def deaths(self) -> int | None:
        """How many test stays end in death; None where nothing published tells."""
        for task in self.label_counts or ():
            if task["name"] == "mortality":
                return int(task["splits"]["test"]["counts"][1])
        return None

    @property
    def head(self) -> str:
        """How captions begin: whose runs, on what, how many, and what evidence they are."""
        deaths = f", {self.deaths} deaths: too few to decide" if (self.deaths or FEW) < FEW else ""
        dense = kind_of_settings(self.records[0].settings).name == "dense"
        unit = "rooms of test images" if dense else "test subjects"
        subjects = f"{self.table.subjects:,} {unit}{deaths}"
        parts = [self.label, self.data, subjects, self.seeds_in_words]
        return " · ".join(filter(None, [*parts, "" if self.study == self.label else self.standing]))

    @property
    def spread(self) -> str:
        """What the ± of a table is, for captions."""
        fewest, most = self.seed_counts
        if most == 1:
            return "one seed, so no spread between seeds is known"
        over = f"{most} seeds" if fewest == most else f"each row's {fewest} to {most} seeds"
        return f"mean ± standard deviation over {over}"

    @property
    def curve_tolerances(self) -> np.ndarray:
        """The tolerances [D] of the exact curves."""
        return self.table.curve_tolerances

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
        dates = sorted({item["began"][:10] for item in made})
        precision = sorted({record.settings.training.precision for record in self.records})
        devices = sorted({item["device"] for item in made})
        return "; ".join(
            [
                ", ".join(devices),
                ", ".join(precision),
                " to ".join(dict.fromkeys(dates[:: len(dates) - 1 or 1])),
            ]
        )

    @property
    def core_hours(self) -> float:
        """Training time of all records, one thread each."""
        return sum(record.content["made"].get("training_seconds", 0.0) for record in self.records) / 3600


def result_set(
    label: str,
    records: Sequence[Record],
    reference: ReferenceTolerance | None = None,
    table: AuditTable | None = None,
    study: str = "",
) -> ResultSet:
    """Gather records at a reference tolerance.

    Args:
        label: For readers.
        records: Of one data set.
        reference: The tolerance; None: what the first ERM run's validation chooses.
        table: Their audits; None: made from the records' own pools.
        study: As of ``ResultSet``.

    Raises:
        RecordError: There is no record, or no ERM run where the tolerance has to come from one.
    """
    if not records:
        raise RecordError(f"{label}: no finished record; run the study first")
    if reference is None:
        first = next((record for record in records if record.method == "erm"), None)
        if first is None:
            raise RecordError(f"{label}: the tolerance comes from an ERM run, and there is none")
        reference = choose_reference_tolerance(first)
    table = table or audit_table(records, reference.tolerance)
    return ResultSet(label, reference, summarise(records, table), study or label)


def standing(study: str, results: ResultSet) -> str:
    """Return a study in words: interim where it is not whole, "planned" where it is called as its data."""
    name = "planned" if study.lower() == results.data.lower() else study
    return f"{name}, interim" if results.interim else name
