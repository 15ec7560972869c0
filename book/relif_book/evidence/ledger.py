"""The ledger of claims: studies that judge them, verdicts at every endpoint, rows, cells and sentences."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from relif_book.evidence.audit_table import AUDITS
from relif_book.evidence.claims import CLAIMS, PRIMARY, Claim, Evidence, can_decide
from relif_book.evidence.judging import LEVEL, Part, failing, judge, part_power
from relif_book.evidence.results import ResultSet, published
from relif_book.figures.tables import MISSING, signed
from relif_book.project import project_root
from relif_core.errors import InputError

if TYPE_CHECKING:
    from relif_book.page import Page

Verdict = Literal["supported", "contradicted", "inconclusive", "not testable here"]
#: The folders of the plan's studies and their names there; the older, exploratory ones stand in until those
#: are published.
PLANNED_FOLDERS = {
    "physionet2012_table3": "table3",
    "physionet2012_power": "power",
    "physionet2012_b3": "b3",
    "nyuv2": "nyuv2",
}
EXPLORATORY_FOLDERS = ("physionet2012_methods", "eicu_demo_methods", "nyuv2_small")
#: Data sets for the head of a column.
SHORT_NAMES = {
    "physionet2012": "PhysioNet 2012",
    "eicu": "eICU",
    "mimic3": "MIMIC-III",
    "nyuv2": "NYUv2",
    "synthetic_icu": "simulated stays",
}
COLUMNS = ("Effect", "95 % interval", "Seeds", "Power", "Seeds for 80 %")


@dataclass(frozen=True)
class Study:
    """Results of one published study; ``name`` is what the plan calls it, or "exploratory"."""

    name: str
    results: ResultSet

    @property
    def planned(self) -> bool:
        """Tell whether the plan names this study."""
        return self.name in PLANNED_FOLDERS.values()

    @property
    def data(self) -> str:
        """The data set in two words."""
        dataset = self.results.dataset
        demo = " demo" if "demo" in dataset["title"].lower() else ""
        return SHORT_NAMES.get(dataset["dataset"], dataset["title"]) + demo

    @property
    def title(self) -> str:
        """The study for readers."""
        return f"{self.data}, {self.name}"

    @property
    def deviations(self) -> str:
        """What differs from the paper's runs, for readers."""
        return f"{self.title}: {self.results.setting}"


@dataclass(frozen=True)
class Judged:
    """A claim on one study: its verdict and parts at the headline, its other verdicts, and why not more."""

    claim: Claim
    study: Study
    verdict: Verdict
    parts: tuple[Part, ...] = ()
    beside: Mapping[str, Verdict] = field(default_factory=dict)
    why: str = ""

    @property
    def seeds(self) -> str:
        """The smallest and the largest number of seeds of a part."""
        leaves = [leaf for part in self.parts for leaf in _leaves(part)]
        counts = sorted(leaf.difference.seeds for leaf in leaves if leaf.difference)
        if not counts:
            return ""
        return f"{counts[0]} seeds" if counts[0] == counts[-1] else f"{counts[0]}–{counts[-1]} seeds"

    @property
    def beside_in_words(self) -> str:
        """The verdicts at every endpoint."""
        own = {self.claim.endpoints[0].title: self.verdict, **self.beside}
        words = "; ".join(f"{title}: {verdict}" for title, verdict in own.items())
        return f"{words}{f' ({self.why})' if self.why else ''}"

    @property
    def cell(self) -> str:
        """The verdict for the matrix, with seeds and kind of study."""
        details = [self.seeds, self.study.name] if self.parts else [self.why]
        return f"{self.verdict} ({', '.join(filter(None, details))})"


def judge_claim(claim: Claim, study: Study) -> Judged | None:
    """Return a claim judged on a study at every endpoint of its records; None where it cannot be asked."""
    if not can_decide(claim, study.results):
        return None
    try:
        parts = claim.parts(Evidence(study.results))
    except InputError as error:
        fewest = min(len(study.results.summaries[method].seeds) for method in claim.needs)
        why = "one seed, which shows no spread" if fewest == 1 else str(error)
        return Judged(claim, study, "not testable here", why=f"{study.title}: {why}")
    beside: dict[str, Verdict] = {}
    for endpoint in claim.endpoints[1:]:
        try:
            beside[endpoint.title] = judge(claim.parts(Evidence(study.results, endpoint)))
        except InputError:
            continue
    return Judged(claim, study, judge(parts), tuple(parts), beside)


def judge_all(studies: Sequence[Study], claims: Sequence[Claim] = CLAIMS) -> list[Judged]:
    """Return every claim on every study where it can be asked."""
    found = [judge_claim(claim, study) for claim in claims for study in studies]
    return [item for item in found if item is not None]


def judge_primary(study: Study) -> list[Judged]:
    """Return the primary contrasts on a study; what Holm over the four does not support is inconclusive."""
    found = judge_all([study], PRIMARY)
    largest = {item.claim.number: max((part.p_for for part in item.parts), default=1.0) for item in found}
    surviving: set[str] = set()
    for number, name in enumerate(sorted(largest, key=lambda name: largest[name])):
        if largest[name] * (len(PRIMARY) - number) > LEVEL:
            break
        surviving.add(name)
    return [
        item
        if item.verdict != "supported" or item.claim.number in surviving
        else Judged(
            item.claim, study, "inconclusive", item.parts, item.beside, "does not survive Holm over the four"
        )
        for item in found
    ]


def published_studies(page: "Page", folders: str = "") -> list[Study]:
    """Return the studies of some folders below ``data/records``, or the plan's and what it cannot decide yet.

    Raises:
        RecordError: A folder is not published.
    """
    if folders:
        return [_published_study(page, name.strip()) for name in folders.split(",")]
    records = project_root() / "data" / "records"
    planned = [name for name in PLANNED_FOLDERS if (records / name / AUDITS).is_file()]
    found = [_published_study(page, name) for name in planned]
    asked = {
        (claim.number, study.data) for claim in CLAIMS for study in found if can_decide(claim, study.results)
    }
    for name in EXPLORATORY_FOLDERS:
        study = _published_study(page, name)
        if any(
            can_decide(claim, study.results) and (claim.number, study.data) not in asked for claim in CLAIMS
        ):
            found.append(study)
    return found


def _published_study(page: "Page", folder: str) -> Study:
    results = published(page, f"data/records/{folder}")
    page.uses_data(results.dataset["title"], licence=results.dataset["licence"])
    return Study(PLANNED_FOLDERS.get(folder, "exploratory"), results)


def finding(judged: Sequence[Judged]) -> tuple[str, str]:
    """Return two sentences: the verdicts on the data set with the most of them, and what evidence that is."""
    data = Counter(item.study.data for item in judged if item.parts).most_common(1)[0][0]
    counts = verdict_counts(judged, data)
    shown = [
        f"{verdict}: {_enumerated(counts[verdict])}"
        for verdict in ("supported", "contradicted", "inconclusive")
        if verdict in counts
    ]
    testable = sum(len(numbers) for verdict, numbers in counts.items() if verdict != "not testable here")
    first = f"Of the paper's eight claims {testable} can be asked of {data}; {'; '.join(shown)}."
    chosen = [
        _preferred(claim, [i for i in judged if i.claim is claim and i.study.data == data])
        for claim in CLAIMS
    ]
    planned = [item.claim.number for item in chosen if item and item.study.planned]
    if not planned:
        return (
            first,
            "All of it is exploratory: none of the plan's studies is published yet, so nothing is decided.",
        )
    rest = [item.claim.number for item in chosen if item and not item.study.planned]
    return first, f"Planned runs judge {_enumerated(planned)}" + (
        f"; {_enumerated(rest)} still rest on exploratory ones." if rest else "."
    )


def summary_rows(claims: Sequence[Claim], judged: Sequence[Judged]) -> list[dict[str, str]]:
    """Return one row per claim: its words and the verdict of the study that the plan names for it."""
    rows = []
    for claim in claims:
        found = _preferred(claim, [item for item in judged if item.claim is claim])
        cell = found.cell if found else "not testable here (no records of its methods)"
        rows.append({"Contrast": f"{claim.number} · {claim.text}", "Verdict": cell})
    return rows


def matrix_rows(judged: Sequence[Judged], claims: Sequence[Claim] = CLAIMS) -> list[dict[str, str]]:
    """Return one row per claim and one column per data set, the paper's own first.

    A cell is the verdict of the plan's study for the claim, else of another planned one, else of an
    exploratory one.
    """
    datasets = dict.fromkeys(item.study.data for item in judged)
    columns = [data for data in datasets if data not in {claim.made_on for claim in claims}]
    rows = []
    for claim in claims:
        mine = [item for item in judged if item.claim is claim]
        own = _preferred(claim, [item for item in mine if item.study.data == claim.made_on])
        reason = (
            "credentialed data" if claim.made_on in ("MIMIC-III", "eICU") else "no records of its methods"
        )
        row = {
            "Claim": f"{claim.number} · {claim.short}",
            "The paper's data": own.cell if own else f"not testable here ({claim.made_on}: {reason})",
        }
        for data in columns:
            found = _preferred(claim, [item for item in mine if item.study.data == data])
            row[data] = found.cell if found else MISSING
        rows.append(row)
    return rows


def verdict_counts(
    judged: Sequence[Judged], data: str, claims: Sequence[Claim] = CLAIMS
) -> dict[Verdict, list[str]]:
    """Return the numbers of the claims by their verdict on one data set, where they can be asked of it."""
    found: dict[Verdict, list[str]] = {}
    for claim in claims:
        own = _preferred(claim, [item for item in judged if item.claim is claim and item.study.data == data])
        if own:
            found.setdefault(own.verdict, []).append(claim.number)
    return found


def _preferred(claim: Claim, judged: Sequence[Judged]) -> Judged | None:
    """The verdict of the plan's study for this claim, else of another planned one, else the first."""
    order = sorted(judged, key=lambda item: (item.study.name != claim.study, not item.study.planned))
    return order[0] if order else None


def _enumerated(numbers: Sequence[str]) -> str:
    return f"{', '.join(numbers[:-1])} and {numbers[-1]}" if len(numbers) > 1 else numbers[0]


def _leaves(part: Part) -> list[Part]:
    return [leaf for child in part.parts for leaf in _leaves(child)] if part.parts else [part]


def part_rows(parts: Sequence[Part]) -> list[dict[str, str | int]]:
    """Return one row per part, with those of a compound part beneath it."""
    wrong = {id(part) for part in failing(parts)}
    rows: list[dict[str, str | int]] = []
    for part in parts:
        state = part.state
        if state == "contradicted" and id(part) not in wrong:
            state = "inconclusive"
        rows.append(_row(part, "", state))
        rows += [_row(child, "· ", child.state) for child in part.parts if not child.parts]
        rows += [_row(leaf, "· · ", leaf.state) for child in part.parts for leaf in child.parts]
    return rows


def _row(part: Part, indent: str, state: str) -> dict[str, str | int]:
    found = part.difference
    head: dict[str, str | int] = {"Part": indent + part.text}
    cells: dict[str, str | int] = dict.fromkeys(COLUMNS, MISSING)
    if found is not None:
        cells |= {"Effect": signed(found.estimate), "Seeds": found.seeds}
        if found.known:
            power, needed = part_power(part)
            cells |= {
                "95 % interval": "[{}, {}]".format(*map(signed, found.interval())),
                "Power": f"{power:.2f}",
                "Seeds for 80 %": "not reachable on this test set" if needed is None else needed,
            }
    return {**head, **cells, "Verdict": state}
