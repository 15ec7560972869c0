"""The records of one study on one data set: numbers by method and seed, and words for captions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from relif_book.evidence.audit_table import AuditTable, audit_table
from relif_book.evidence.frame import epoch_frame, final_frame, wide_frame
from relif_book.evidence.reporting import ReferenceTolerance, choose_reference_tolerance, seed_interval
from relif_book.project import project_root
from relif_core.audit import RankingCertificate, ranking_certificate
from relif_core.errors import InputError, RecordError, listed
from relif_core.files import read_json
from relif_core.problems import kind_of_settings
from relif_core.record import Record
from relif_core.studies.grid import STUDIES
from relif_data.sources import REGISTRY

#: Fewer deaths than this among the test stays leave the order of methods open.
FEW = 50
#: Data sets in two words.
SHORT_NAMES = {name: source.short for name, source in REGISTRY.items()}
#: The analysis plan's studies by folder below ``data/records``: name, and the seeds of its looks.
PLANNED: Mapping[str, tuple[str, tuple[range, ...]]] = {
    folder: (name, study.looks) for name, study in STUDIES.items() for folder in study.folders if study.looks
} | {"nyuv2": ("nyuv2", ())}
EXPLORATORY = "exploratory"
#: The folders that stand in where the plan's studies are not published.
EXPLORATORY_FOLDERS = STUDIES["methods"].folders


@dataclass(frozen=True)
class ResultSet:
    """The records of one study on one data set, audited at one fixed tolerance that validation data chose.

    Attributes:
        runs: Each method's records, in the order of their seeds.
        table: The audit table that holds all of them.
        study: The plan's name of it, or "exploratory", or what made them.
        planned_seeds: How many seeds the plan gives its first methods, where it names the study.
        interim: Whether runs of the plan's study are still to come.
    """

    label: str
    reference: ReferenceTolerance
    runs: Mapping[str, tuple[Record, ...]] = field(repr=False)
    table: AuditTable = field(repr=False)
    study: str = ""
    planned_seeds: int = 0
    interim: bool = False

    def narrowed(self, methods: Sequence[str]) -> "ResultSet":
        """Return the results of some methods, in the order given; those without a record are left out.

        Raises:
            RecordError: None has a record.
        """
        kept = {method: self.runs[method] for method in methods if method in self.runs}
        if not kept:
            raise RecordError(f"{self.label}: no record of {listed(methods)}; there are {listed(self.runs)}")
        return replace(self, runs=kept)

    def of_seeds(self, seeds: Sequence[int]) -> "ResultSet":
        """Return the results over some seeds, failed runs too; a method with none of them is left out."""
        kept = {
            method: tuple(record for record in own if record.seed in seeds)
            for method, own in self.runs.items()
        }
        failed = [item for item in self.table.failed if item["seed"] in seeds]
        table = replace(self.table, failed=failed)
        return replace(self, runs={method: own for method, own in kept.items() if own}, table=table)

    def seeds(self, *methods: str) -> list[int]:
        """Return the seeds that some methods (none named: all) have in common."""
        own = [[record.seed for record in self.runs[method]] for method in methods or self.runs]
        return [seed for seed in own[0] if all(seed in other for other in own)]

    @cached_property
    def records(self) -> list[Record]:
        """The records, method by method."""
        return [record for own in self.runs.values() for record in own]

    @cached_property
    def shared(self) -> "ResultSet":
        """The results over the seeds that all methods have, for comparisons; all if none is shared."""
        seeds = self.seeds()
        return self.of_seeds(seeds) if seeds else self

    @cached_property
    def wide(self) -> pd.DataFrame:
        """One row per (method, seed), one column per quantity."""
        frame = wide_frame(final_frame(self.records, self.table))
        return frame.reindex(list(self.runs), level="method")

    def by_epoch(
        self, quantity: str, split: str = "validation", tolerance: float | None = None
    ) -> pd.DataFrame:
        """Return a quantity of :func:`.epoch_frame`: one row per (method, seed), one column per epoch.

        An audited one is read at the tolerance of the records' grid that lies nearest to ``tolerance``.

        Raises:
            InputError: The grid holds no such tolerance.
        """
        frame = epoch_frame(self.records, (quantity,))
        frame = frame[frame["split"] == split]
        if tolerance is not None and len(frame):
            known = frame["tolerance"].unique()
            nearest = known[nearest_column(known, tolerance)]
            frame = frame[frame["tolerance"] == nearest]
        wide = frame.set_index(["method", "seed", "epoch"])["value"].unstack()
        return wide.reindex(list(self.runs), level="method")

    def values(self, method: str, quantity: str) -> list[float]:
        """Return a quantity of a method, seed by seed; empty where the records do not have it."""
        if quantity not in self.wide or method not in self.runs:
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

    def differences(self, method: str, base: str, quantity: str = "bias") -> list[float]:
        """Return a method's quantity minus that of ``base``, over the seeds that both have."""
        return (self.wide.loc[method][quantity] - self.wide.loc[base][quantity]).dropna().tolist()

    def interval(self, method: str, kind: str = "bias", base: str = "") -> tuple[float, float]:
        """Return the 95 % interval over the draw of test subjects of a method's mean, the seeds held.

        With ``base``: of its mean minus that of ``base``, over the seeds that both have.

        Raises:
            InputError: They have no seed in common.
        """
        seeds = self.seeds(method, base or method)
        if not seeds:
            raise InputError(f"{base} and {method} have no seed in common")
        weights = self._weights(method, seeds)
        return self.table.interval(weights - self._weights(base, seeds) if base else weights, kind)

    def rows(self, method: str, seeds: Sequence[int] | None = None) -> list[int]:
        """Return the places in the audit table of a method's records, all or those of some seeds."""
        own = [record for record in self.runs[method] if seeds is None or record.seed in seeds]
        return [self.table.keys.index(record.key) for record in own]

    def _weights(self, method: str, seeds: Sequence[int]) -> np.ndarray:
        """Return the weights [R] that average a method's seeds in the audit table."""
        weights, rows = np.zeros(len(self.table.keys)), self.rows(method, seeds)
        weights[rows] = 1 / len(rows)
        return weights

    def certificate(self, a: str, b: str) -> RankingCertificate:
        """Return the certificate of theorem B.2 for two methods, from their means over common seeds."""
        seeds = self.seeds(a, b)
        values = [self.wide.loc[method][kind] for kind in ("bias", "drift_budget") for method in (a, b)]
        return ranking_certificate(*(float(np.mean(own.loc[seeds].to_numpy())) for own in values))

    def curves(self, method: str, kind: str = "bias") -> np.ndarray:
        """Return the exact curves [seeds, D] of a method's runs at ``curve_tolerances``."""
        return getattr(self.table, f"{kind}_curve")[self.rows(method)]

    @property
    def curve_tolerances(self) -> np.ndarray:
        """The tolerances [D] of the exact curves."""
        return self.table.curve_tolerances

    def means(self, quantity: str) -> "pd.Series[float]":
        """Return each method's mean over the seeds that all methods have."""
        return self.shared.wide[quantity].groupby("method").mean()

    def ranks(self, quantity: str) -> dict[str, int]:
        """Return each method's rank in :meth:`means`; 1 is the lowest value."""
        return {method: int(rank) for method, rank in self.means(quantity).rank(method="first").items()}

    def lowest(self, quantity: str) -> str:
        """Return the method with the lowest of :meth:`means`."""
        return str(self.means(quantity).idxmin())

    def highest(self, quantity: str) -> str:
        """Return the method with the highest of :meth:`means`."""
        return str(self.means(quantity).idxmax())

    @property
    def kind(self) -> str:
        """The kind of data, "clinical" or "dense"."""
        return kind_of_settings(self.records[0].settings).name

    @property
    def seed_counts(self) -> tuple[int, int]:
        """The smallest and the largest number of seeds of a method."""
        counts = [len(own) for own in self.runs.values()]
        return min(counts), max(counts)

    @property
    def planned(self) -> bool:
        """Tell whether the plan names this study."""
        return self.study in {name for name, _ in PLANNED.values()}

    @property
    def seeds_in_words(self) -> str:
        """How many seeds a method has; of an interim look that gives none all of them, of how many."""
        fewest, most = self.seed_counts
        counted = f"{fewest}" if fewest == most else f"{fewest}–{most}"
        if self.interim and most < self.planned_seeds:
            return f"{counted} of {self.planned_seeds} seeds"
        return f"{counted} seed{'s' if most > 1 else ''}"

    @property
    def standing(self) -> str:
        """What evidence these runs are: the plan's study, interim where it is not whole, or exploratory.

        A study that is called as its data is the "planned" one.
        """
        name = "planned" if self.study.lower() == self.data.lower() else self.study
        return f"{name}, interim" if self.interim else name

    @property
    def title(self) -> str:
        """The study for readers."""
        return f"{self.data}, {self.standing}"

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
    def few_deaths(self) -> str:
        """How few test stays end in death, for captions; empty where they are enough or nothing tells."""
        for task in self.label_counts or ():
            count = task["splits"]["test"]["counts"][1]
            if task["name"] == "mortality" and (count is None or count < FEW):
                return f"{'hidden' if count is None else count} deaths: too few to decide"
        return ""

    @property
    def head(self) -> str:
        """How captions begin: whose runs, on what, how many, and what evidence they are."""
        unit = kind_of_settings(self.records[0].settings).subjects
        subjects = ", ".join(filter(None, [f"{self.table.subjects:,} {unit}", self.few_deaths]))
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
        between = " to ".join(dict.fromkeys(dates[:: len(dates) - 1 or 1]))
        return "; ".join(
            [", ".join(sorted({item["device"] for item in made})), ", ".join(precision), between]
        )

    @property
    def core_hours(self) -> float:
        """Training time of all records, one thread each."""
        return sum(record.content["made"].get("training_seconds", 0.0) for record in self.records) / 3600


def nearest_column(tolerances: np.ndarray, wanted: float, apart: float = 1e-3) -> int:
    """Return the place of the tolerance on a grid that lies nearest to the one ``wanted``.

    Raises:
        InputError: It is more than ``apart`` away.
    """
    place = int(np.argmin(np.abs(tolerances - wanted)))
    if abs(float(tolerances[place]) - wanted) > apart:
        raise InputError(
            f"δ = {wanted:g} is not on the grid of these curves (the nearest is {tolerances[place]:g}; whole"
            " curves hold multiples of 0.005); publish them with it"
        )
    return place


def result_set(
    label: str,
    records: Sequence[Record],
    reference: ReferenceTolerance | None = None,
    table: AuditTable | None = None,
    study: str = "",
) -> ResultSet:
    """Gather records at a reference tolerance, by method in the order of first appearance.

    Args:
        label: For readers.
        records: Of one data set.
        reference: The tolerance; None: what the first ERM run's validation chooses.
        table: Their audits; None: made from the records' own pools.
        study: As of ``ResultSet``.

    Raises:
        RecordError: There is no record, or no ERM run where the tolerance has to come from one; a record has
            no audit, or a method two records of one seed.
    """
    if not records:
        raise RecordError(f"{label}: no finished record; run the study first")
    if reference is None:
        first = next((record for record in records if record.method == "erm"), None)
        if first is None:
            raise RecordError(f"{label}: the tolerance comes from an ERM run, and there is none")
        reference = choose_reference_tolerance(first)
    table = table or audit_table(records, reference.tolerance)
    missing = [record.key[:12] for record in records if record.key not in table.keys]
    if missing:
        raise RecordError(f"the audit table lacks records {listed(missing)}; publish the records again")
    twice = [name for name, count in Counter((r.method, r.seed) for r in records).items() if count > 1]
    if twice:
        raise RecordError(
            f"{twice[0][0]} has two records of seed {twice[0][1]}, which a mean would mix; keep records of"
            " different settings in folders of their own"
        )
    runs: dict[str, tuple[Record, ...]] = {}
    for record in records:
        runs[record.method] = (*runs.get(record.method, ()), record)
    return ResultSet(label, reference, runs, table, study or label)
