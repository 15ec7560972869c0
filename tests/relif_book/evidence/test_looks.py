"""The plan's studies are read at their looks: never before the first, over the seeds of the look alone."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from relif_book import Page
from relif_book.evidence import results
from relif_book.evidence.result_set import PLANNED
from relif_book.evidence.results import look_of
from relif_core.errors import RecordError
from relif_core.studies.grid import POWER, STUDIES

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


def test_a_data_set_without_records_is_refused() -> None:
    with pytest.raises(RecordError, match="data/records/mimic3_methods"):
        results.published_sets(Page("table_3_trade_off", dataset="mimic3"), ("erm",))
