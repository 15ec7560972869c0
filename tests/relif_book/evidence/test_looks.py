"""The plan's studies are read at their looks: never before the first, over the seeds of the look alone."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relif_book import Page
from relif_book.evidence import results
from relif_book.evidence.dense_results import two_tolerances
from relif_book.evidence.publishing import publish
from relif_book.evidence.result_set import PLANNED
from relif_book.evidence.results import look_of
from relif_core.errors import RecordError
from relif_core.record import Record
from relif_core.studies.grid import POWER, STUDIES, Study

NAME, LOOKS = PLANNED["physionet2012_power"]


def study(seeds: range, *further: tuple[str, int], failed: tuple[str, int] | None = None) -> Any:
    """What a look asks of results: the six rows at ``seeds``, further runs, and one that failed."""
    keys = [key for key in (*itertools.product(POWER, seeds), *further) if key != failed]
    records = [SimpleNamespace(method=method, seed=seed) for method, seed in keys]
    lost = [{"method": failed[0], "seed": failed[1]}] if failed else []
    return SimpleNamespace(records=records, table=SimpleNamespace(failed=lost))


@pytest.mark.parametrize(
    ("found", "look"),
    [
        (study(range(100, 114)), None),
        (study(range(101, 120)), None),
        (study(range(100, 115)), range(100, 115)),
        (study(range(100, 129)), range(100, 115)),
        (study(range(100, 130)), range(100, 130)),
        (study(range(100, 114), ("erm", 114)), None),
        (study(range(100, 115), failed=("erm", 103)), range(100, 115)),
    ],
)
def test_a_look_is_the_largest_block_that_is_whole(found: Any, look: range | None) -> None:
    assert look_of(found, NAME, LOOKS) == look


def test_looks_are_those_of_the_plan() -> None:
    """The last look of a study has the seeds of its first block; the first is at 15 seeds of six rows."""
    assert [len(seeds) for seeds in LOOKS] == [15, 30]
    for name, seeds in PLANNED.values():
        if seeds:
            assert seeds[-1] == STUDIES[name].seeds[0]


def test_what_has_not_come_to_its_first_look_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five seeds in the place of the planned study: pages that await it leave it alone."""
    monkeypatch.setitem(PLANNED, "physionet2012_methods", PLANNED["physionet2012_power"])
    page = Page("table_3_trade_off", dataset="physionet2012")
    assert results.planned(page, "physionet2012_methods") is None
    found = results.published(page, "data/records/physionet2012_methods")
    assert found.standing == "power, interim"
    assert list(found.runs)[:2] == ["erm", "relif"]


@pytest.mark.parametrize(
    ("lacking", "failed", "standing", "words"),
    [
        ((), (), "power", "1–2 seeds"),
        ((("relif", 0),), (), "power, interim", "2 seeds"),
        ((("relif", 0),), (("relif", 0),), "power", "2 seeds"),
        ((("erm", 1),), (), "power, interim", "1 of 2 seeds"),
    ],
)
def test_a_study_is_interim_until_every_block_has_its_seeds(
    small_runs: list[Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lacking: tuple[tuple[str, int], ...],
    failed: tuple[tuple[str, int], ...],
    standing: str,
    words: str,
) -> None:
    """ERM with two seeds, then ReLiF with one: the further block never has as many as the first."""
    asked = Study((("erm",), ("relif",)), (range(2), range(1)), {"training": {}}, interim=(range(1),))
    monkeypatch.setitem(results.STUDIES, "power", asked)
    monkeypatch.setitem(PLANNED, "physionet2012_power", ("power", asked.looks))
    kept = [r for r in small_runs if (r.method, r.seed) not in {*lacking, ("relif", 1)}]
    lost = [{"method": method, "seed": seed, "error": "NaN"} for method, seed in failed]
    publish(kept, tmp_path / "physionet2012_power", failed=lost, exploratory=True)
    page: Any = SimpleNamespace(record=Path, uses_data=lambda _: None)
    found = results.published(page, str(tmp_path / "physionet2012_power"))
    assert (found.standing, found.seeds_in_words) == (standing, words)
    assert two_tolerances(found)[1].standing == standing


def test_a_data_set_without_records_is_refused() -> None:
    with pytest.raises(RecordError, match="data/records/mimic3_methods"):
        results.published_sets(Page("table_3_trade_off", dataset="mimic3"), ("erm",))
