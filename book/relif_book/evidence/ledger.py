"""The ledger of claims: studies that judge them, verdicts at every endpoint, rows, cells and sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from relif_book.evidence.claims import (
    CLAIMS,
    HEADLINE,
    LAST,
    PRIMARY,
    Claim,
    Evidence,
    beside_primary,
    can_decide,
)
from relif_book.evidence.judging import LEVEL, Part, failing, judge, part_power
from relif_book.evidence.result_set import standing
from relif_book.evidence.results import PLANNED, ResultSet, planned, published
from relif_book.figures.tables import MISSING, Table, signed
from relif_core.errors import InputError, RecordError
from relif_core.methods import title_of

if TYPE_CHECKING:
    from relif_book.page import Page

Verdict = Literal["supported", "contradicted", "inconclusive", "not testable here"]
#: The folders that stand in where the plan's studies are not published.
EXPLORATORY_FOLDERS = ("physionet2012_methods", "eicu_demo_methods")
COLUMNS = ("Effect", "95 % interval", "Seeds", "Power", "Seeds for 80 %")


@dataclass(frozen=True)
class Study:
    """Results of one published study; ``name`` is what the plan calls it, or "exploratory"."""

    name: str
    results: ResultSet

    @property
    def planned(self) -> bool:
        """Tell whether the plan names this study."""
        return self.name in {name for name, _ in PLANNED.values()}

    @property
    def data(self) -> str:
        """The data set in two words."""
        return self.results.data

    @property
    def standing(self) -> str:
        """The study's name, and whether this look at it is an interim one."""
        return standing(self.name, self.results)

    @property
    def title(self) -> str:
        """The study for readers."""
        return f"{self.data}, {self.standing}"


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
        details = [self.seeds, self.study.standing] if self.parts else [self.why]
        return f"{self.verdict} ({', '.join(filter(None, details))})"


def judge_claim(claim: Claim, study: Study) -> Judged | None:
    """Return a claim judged on a study at every endpoint of its records; None where it cannot be asked."""
    if not can_decide(claim, study.results):
        return None
    try:
        parts = claim.parts(Evidence(study.results))
    except InputError as error:
        return Judged(claim, study, "not testable here", why=f"{study.title}: {error}")
    if not any(leaf.difference for part in parts for leaf in _leaves(part)):
        why = f"{study.title}: one seed, which shows no spread"
        return Judged(claim, study, "not testable here", why=why)
    beside: dict[str, Verdict] = {}
    for endpoint in claim.endpoints[1:]:
        try:
            beside[endpoint.title] = judge(claim.parts(Evidence(study.results, endpoint)))
        except (InputError, RecordError):
            continue
    return Judged(claim, study, judge(parts), tuple(parts), beside)


def judge_all(studies: Sequence[Study], claims: Sequence[Claim] = CLAIMS) -> list[Judged]:
    """Return every claim on every study where it can be asked."""
    found = [judge_claim(claim, study) for claim in claims for study in studies]
    return [item for item in found if item is not None]


def judge_primary(study: Study) -> list[Judged]:
    """Return the primary contrasts on a study; what Holm over the four does not support is inconclusive.

    The four are corrected together at the selected epoch, and together at the last.
    """
    found = judge_all([study], PRIMARY)
    largest = {item.claim.number: max((part.p_for for part in item.parts), default=1.0) for item in found}
    last: dict[str, float] = {}
    for item in found:
        if LAST.title in item.beside:
            parts = item.claim.parts(Evidence(study.results, LAST))
            last[item.claim.number] = max(part.p_for for part in parts)
    surviving, surviving_last = _holm(largest), _holm(last)

    def corrected(item: Judged) -> Judged:
        at = {HEADLINE.title: item.verdict, **item.beside}
        lost = [
            title
            for title, kept in ((HEADLINE.title, surviving), (LAST.title, surviving_last))
            if at.get(title) == "supported" and item.claim.number not in kept
        ]
        if not lost:
            return item
        at |= dict.fromkeys(lost, "inconclusive")
        why = f"{enumerated(lost)}: supported before Holm over the four"
        return replace(item, verdict=at.pop(HEADLINE.title), beside=at, why=why)

    return [corrected(item) for item in found]


def _holm(values: Mapping[str, float]) -> set[str]:
    """Return the names whose p-values survive Holm over the primary contrasts."""
    surviving: set[str] = set()
    for number, name in enumerate(sorted(values, key=lambda name: values[name])):
        if values[name] * (len(PRIMARY) - number) > LEVEL:
            break
        surviving.add(name)
    return surviving


def primary_rows(study: Study) -> list[dict[str, str]]:
    """Return one row per primary contrast and per row beside them: words, verdicts, and on what."""
    found = {item.claim.number: item for item in judge_primary(study)}
    rows = []
    for claim in PRIMARY:
        item, absent = found.get(claim.number), [m for m in claim.needs if m not in study.results.summaries]
        last = "last epoch"
        missing = f"not run yet ({', '.join(map(title_of, absent))})"
        rows.append(
            {
                "Contrast": f"{claim.number} · {claim.text}",
                "Selected epoch": item.verdict if item else missing,
                "Last epoch": item.beside.get(last, MISSING) if item else MISSING,
                "Evidence": f"{item.seeds}, {study.standing}" if item else MISSING,
            }
        )
    for text, own in beside_primary(study.results).items():
        seeds = Judged(PRIMARY[3], study, judge(own), tuple(own)).seeds
        rows.append(
            {
                "Contrast": f"beside · {text}",
                "Selected epoch": judge(own),
                "Last epoch": MISSING,
                "Evidence": f"{seeds}, {study.standing}",
            }
        )
    return rows


def primary_tables(study: Study) -> list[Table]:
    """Return the primary contrasts as tables: their verdicts, then every part of each."""
    tables = [
        Table(
            primary_rows(study),
            caption=f"{study.results.head}. Supported where it holds uncalibrated and calibrated.",
        )
    ]
    named = [(f"{item.claim.number}. {item.beside_in_words}", item.parts) for item in judge_primary(study)]
    named += [(f"Beside: {text}", tuple(own)) for text, own in beside_primary(study.results).items()]
    return tables + [Table(part_rows(parts), caption=f"{text}.") for text, parts in named if parts]


def published_studies(page: "Page", folders: str = "") -> list[Study]:
    """Return the studies of some folders below ``data/records``, or the plan's and what it cannot decide yet.

    Raises:
        RecordError: A folder is not published.
    """
    if folders:
        names = [name.strip() for name in folders.split(",")]
        return [_study(published(page, f"data/records/{name}")) for name in names]
    taken = [planned(page, name) for name in PLANNED]
    found = [_study(results) for results in taken if results is not None]
    asked = {
        (claim.number, study.data) for claim in CLAIMS for study in found if can_decide(claim, study.results)
    }
    for name in EXPLORATORY_FOLDERS:
        study = _study(published(page, f"data/records/{name}"))
        if any(
            can_decide(claim, study.results) and (claim.number, study.data) not in asked for claim in CLAIMS
        ):
            found.append(study)
    return found


def power_study(page: "Page") -> Study | None:
    """Return the study of the primary contrasts at its largest look; None before the first."""
    results = planned(page, "physionet2012_power")
    return None if results is None else _study(results)


def _study(results: ResultSet) -> Study:
    return Study(results.study, results)


def matrix_rows(judged: Sequence[Judged], claims: Sequence[Claim] = CLAIMS) -> list[dict[str, str]]:
    """Return one row per claim and one column per data set, the paper's own first.

    A cell is the verdict of the claim's planned study, else of another planned one, else exploratory.
    """
    datasets = dict.fromkeys(item.study.data for item in judged)
    columns = [data for data in datasets if data not in {claim.made_on for claim in claims}]
    rows = []
    for claim in claims:
        own = preferred(claim, judged, claim.made_on)
        reason = (
            "credentialed data" if claim.made_on in ("MIMIC-III", "eICU") else "no records of its methods"
        )
        row = {
            "Claim": f"{claim.number} · {claim.short}",
            "The paper's data": own.cell if own else f"not testable here ({claim.made_on}: {reason})",
        }
        for data in columns:
            found = preferred(claim, judged, data)
            row[data] = found.cell if found else MISSING
        rows.append(row)
    return rows


def verdict_counts(
    judged: Sequence[Judged], data: str, claims: Sequence[Claim] = CLAIMS
) -> dict[Verdict, list[str]]:
    """Return the numbers of the claims by their verdict on one data set, where they can be asked of it."""
    found: dict[Verdict, list[str]] = {}
    for claim in claims:
        own = preferred(claim, judged, data)
        if own:
            found.setdefault(own.verdict, []).append(claim.number)
    return found


def preferred(claim: Claim, judged: Sequence[Judged], data: str) -> Judged | None:
    """Return the verdict on a claim that counts on a data set; None where it cannot be asked there.

    It is that of the plan's study for the claim, else of another planned one, else the first.
    """
    mine = [item for item in judged if item.claim is claim and item.study.data == data]
    order = sorted(mine, key=lambda item: (item.study.name != claim.study, not item.study.planned))
    return order[0] if order else None


def enumerated(numbers: Sequence[str]) -> str:
    """Return "1, 2 and 3", or "none"."""
    if not numbers:
        return "none"
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
