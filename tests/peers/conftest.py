"""Reference values of the authors' released implementation (see release/README.md)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RELEASE = Path(__file__).parent / "release"


@pytest.fixture(scope="session")
def reference_arrays() -> dict[str, np.ndarray]:
    """Return the inputs and outputs of the released implementation, keyed ``group/name``."""
    with np.load(RELEASE / "reference.npz") as archive:
        return {key: archive[key] for key in archive.files}


@pytest.fixture(scope="session")
def reference_values() -> dict[str, Any]:
    """Return the audit and metric results of the released implementation, keyed by group."""
    return json.loads((RELEASE / "reference.json").read_text())
