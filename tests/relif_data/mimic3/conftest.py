"""Hand-made MIMIC-III tables for the tests of the reader."""

from collections.abc import Callable

import pytest

from tests.relif_data.handmade import RawTables


@pytest.fixture
def raw_tables() -> Callable[[], RawTables]:
    """Return the maker of empty raw tables."""
    return RawTables


@pytest.fixture
def two_stays() -> RawTables:
    """Tables with a survivor (stay 1, 60 hours) and a patient who dies at hour 50 of 54 (stay 2)."""
    tables = RawTables()
    tables.stay(1)
    tables.stay(2, hours=54.0, died_at=50.0)
    return tables
