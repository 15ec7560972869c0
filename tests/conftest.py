"""Shared fixtures: where the optional real data lies."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder named by ``RELIF_DATA``, or skip the test."""
    folder = os.environ.get("RELIF_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real data are absent: set RELIF_DATA to the folder that holds them")
    return Path(folder)
