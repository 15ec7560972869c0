"""A small study and its records, made without interruption in one process."""

from pathlib import Path

import pytest

from relif_core.record import load_records
from relif_core.settings import RunSettings
from relif_core.studies.grid import grid, run_study


def small_grid() -> list[RunSettings]:
    return grid(
        ["erm", "relif"], [0, 1], model={"hidden": 12, "head_width": 8},
        training={"epochs": 3, "batch_size": 32, "learning_rate": 3e-3},
    )  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    return {record.key: record.digest() for record in load_records(folder)}


@pytest.fixture(scope="session")
def reference(icu_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of the small study."""
    target = tmp_path_factory.mktemp("reference")
    summary = run_study(small_grid(), icu_folder, target)
    assert (summary.made, summary.found, summary.failed) == (4, 0, {})
    return digests(target)
