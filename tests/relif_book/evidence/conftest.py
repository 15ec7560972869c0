"""Finished runs that tests of this room share."""

from pathlib import Path

import pytest

from relif_core.record import Record
from relif_core.studies.grid import grid, run_study


@pytest.fixture(scope="session")
def small_runs(icu_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Record]:
    """ERM and ReLiF with seeds 0 and 1 on simulated stays, by method and seed."""
    runs = grid(
        ["erm", "relif"], [0, 1], model={"hidden": 12, "head_width": 8},
        training={"epochs": 3, "batch_size": 32, "learning_rate": 3e-3},
    )  # fmt: skip
    made = run_study(runs, icu_folder, tmp_path_factory.mktemp("runs")).records
    return sorted(made, key=lambda record: (record.method, record.seed))
