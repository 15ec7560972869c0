"""The ledger of claims: studies that judge them, verdicts at every endpoint, rows, cells and sentences."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
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
from relif_book.evidence.judging import Part, failing, holm, judge, part_power
from relif_book.evidence.result_set import EXPLORATORY_FOLDERS, PLANNED, ResultSet
from relif_book.evidence.results import planned, published
from relif_book.figures.tables import MISSING, Table, show_folded, signed
from relif_core.errors import InputError, RecordError
from relif_core.methods import title_of

if TYPE_CHECKING:
    from relif_book.page import Page

Verdict = Literal["supported", "contradicted", "inconclusive", "not testable here"]
#: The folder of the study of the primary contrasts.
POWER = "physionet2012_power"
COLUMNS = ("Effect", "95 % interval", "Seeds", "Power", "Seeds for 80 %")


@dataclass(frozen=True)
class Judged:
    """A claim on one study.

    Attributes:
        at: Its parts at every endpoint where they can be read, the headline first; none: not testable here.
        why: Why not more.
        lost: The endpoints whose support a correction over several claims took.
    """

    claim: Claim
    study: ResultSet
    at: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    why: str = ""
    lost: tuple[str, ...] = ()

    @cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict at every endpoint, the headline first."""
        found: dict[str, Verdict] = {
            title: "inconclusive" if title in self.lost else judge(parts) for title, parts in self.at.items()
        }
        return found or {HEADLINE.title: "not testable here"}

    @property
    def verdict(self) -> Verdict:
        """The verdict at the headline."""
        return self.verdicts[HEADLINE.title]

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts at the headline."""
        return self.at.get(HEADLINE.title, ())

    @property
    def seeds(self) -> str:
        """The smallest and the largest number of seeds of a part."""
        leaves = [leaf for part in self.parts for leaf in part.leaves]
        counts = sorted(leaf.difference.seeds for leaf in leaves if leaf.difference)
        if not counts:
            return ""
        return f"{counts[0]} seeds" if counts[0] == counts[-1] else f"{counts[0]}–{counts[-1]} seeds"

    @property
    def beside_in_words(self) -> str:
        """The verdicts at every endpoint."""
        words = "; ".join(f"{title}: {verdict}" for title, verdict in self.verdicts.items())
        lost = f"{enumerated(self.lost)}: supported before Holm over the four" if self.lost else ""
        return f"{words} ({self.why or lost})" if self.why or lost else words

    @property
    def cell(self) -> str:
        """The verdict for the matrix, with seeds and kind of study."""
        details = [self.seeds, self.study.standing] if self.parts else [self.why]
        return f"{self.verdict} ({', '.join(filter(None, details))})"


def judge_claim(claim: Claim, study: ResultSet) -> Judged | None:
    """Return a claim judged on a study at every endpoint of its records; None where it cannot be asked."""
    if not can_decide(claim, study):
        return None
    try:
        parts = claim.parts(Evidence(study))
    except InputError as error:
        return Judged(claim, study, why=f"{study.title}: {error}")
    if not any(leaf.difference for part in parts for leaf in part.leaves):
        return Judged(claim, study, why=f"{study.title}: one seed, which shows no spread")
    at = {HEADLINE.title: tuple(parts)}
    for endpoint in claim.endpoints[1:]:
        with suppress(InputError, RecordError):
            at[endpoint.title] = tuple(claim.parts(Evidence(study, endpoint)))
    return Judged(claim, study, at)


def judge_all(studies: Sequence[ResultSet], claims: Sequence[Claim] = CLAIMS) -> list[Judged]:
    """Return every claim on every study where it can be asked."""
    found = [judge_claim(claim, study) for claim in claims for study in studies]
    return [item for item in found if item is not None]


def judge_primary(study: ResultSet) -> list[Judged]:
    """Return the primary contrasts on a study; what Holm over the four does not support is inconclusive.

    The four are corrected together at the selected epoch, and together at the last.
    """
    found = judge_all([study], PRIMARY)
    for title in (HEADLINE.title, LAST.title):
        asked = [place for place, item in enumerate(found) if title in item.at]
        values = [max(part.p_for for part in found[place].at[title]) for place in asked]
        for place in set(asked) - {asked[rank] for rank in holm(values, len(PRIMARY))}:
            if found[place].verdicts[title] == "supported":
                found[place] = replace(found[place], lost=(*found[place].lost, title))
    return found


def _primary_and_beside(study: ResultSet) -> list[tuple[str, Judged]]:
    """Return the primary contrasts and the rows beside them, which no correction counts, with their words."""
    found = {item.claim.number: item for item in judge_primary(study)}
    rows = []
    for claim in PRIMARY:
        absent = ", ".join(title_of(method) for method in claim.needs if method not in study.runs)
        item = found.get(claim.number, Judged(claim, study, why=f"not run yet ({absent})"))
        rows.append((f"{claim.number} · {claim.text}", item))
    for text, parts in beside_primary(study).items():
        rows.append((f"beside · {text}", Judged(PRIMARY[3], study, {HEADLINE.title: tuple(parts)})))
    return rows


def primary_tables(study: ResultSet) -> list[Table]:
    """Return the primary contrasts as tables: one row for each, then every part of each."""
    named = _primary_and_beside(study)
    rows = [
        {
            "Contrast": text,
            "Selected epoch": item.verdict if item.at else item.why,
            "Last epoch": item.verdicts.get(LAST.title, MISSING),
            "Evidence": f"{item.seeds}, {study.standing}" if item.at else MISSING,
        }
        for text, item in named
    ]
    tables = [Table(rows, caption=f"{study.head}. Supported where it holds uncalibrated and calibrated.")]
    for text, item in named:
        beside, _, words = text.partition(" · ")
        caption = f"Beside: {words}" if beside == "beside" else f"{beside}. {item.beside_in_words}"
        if item.at:
            tables.append(Table(part_rows(item.parts), caption=f"{caption}."))
    return tables


def published_studies(page: "Page", folders: str = "") -> list[ResultSet]:
    """Return the studies of some folders below ``data/records``, or the plan's and what it cannot decide yet.

    Raises:
        RecordError: A folder is not published.
    """
    if folders:
        return [published(page, f"data/records/{name.strip()}") for name in folders.split(",")]
    found = [results for name in PLANNED if (results := planned(page, name)) is not None]
    asked = {(claim.number, study.data) for claim in CLAIMS for study in found if can_decide(claim, study)}
    for name in EXPLORATORY_FOLDERS:
        study = published(page, f"data/records/{name}")
        if any(can_decide(claim, study) and (claim.number, study.data) not in asked for claim in CLAIMS):
            found.append(study)
    return found


def show_primary(page: "Page") -> None:
    """Show the primary contrasts, folded, at the largest look of their study; nothing before the first."""
    if (study := planned(page, POWER)) is not None:
        show_folded("The primary contrasts", primary_tables(study))


def verdicts_on(number: str, studies: Sequence[ResultSet]) -> str:
    """Return the verdicts on a claim, study by study, in words; "open" where none can be asked."""
    judged = judge_all(studies, [claim for claim in CLAIMS if claim.number == number])
    return "; ".join(f"{item.verdict} on {item.study.title}" for item in judged) or "open"


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
    order = sorted(mine, key=lambda item: (item.study.study != claim.study, not item.study.planned))
    return order[0] if order else None


def enumerated(numbers: Sequence[str]) -> str:
    """Return "1, 2 and 3", or "none"."""
    if not numbers:
        return "none"
    return f"{', '.join(numbers[:-1])} and {numbers[-1]}" if len(numbers) > 1 else numbers[0]


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
