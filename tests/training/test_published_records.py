"""A published record can be made again: same settings, same data, same kind of device, same numbers."""

from pathlib import Path

import numpy as np
import pytest

from relif_core.datasets import prepare
from relif_core.publishing import read_published
from relif_core.reporting import audit_table
from relif_core.study import run_study

ROOT = Path(__file__).resolve().parents[2]
#: Another processor or torch build may round differently, and training carries that on; on the same machine nothing differs.
TOLERANCE = 0.02


def test_a_published_record_is_made_again(data_folder: Path, tmp_path: Path) -> None:
    """ERM, seed 0, on the eICU demo: utility, induced tolerance and fixed-tolerance Bias agree."""
    records, reference, table = read_published(ROOT / "data" / "records" / "eicu_demo_methods")
    before = next(record for record in records if (record.method, record.seed) == ("erm", 0))
    tensors = prepare("eicu", data_folder / "eicu_demo", tmp_path / "tensors")
    (now,) = run_study([before.settings], tensors, tmp_path / "runs").records
    assert now.key == before.key
    for split in ("validation", "test"):
        old, new = before.result["utility"][split], now.result["utility"][split]
        assert [new["worst"], new["macro"]] == pytest.approx([old["worst"], old["macro"]], abs=TOLERANCE)
        assert list(now.induced_tolerances(split).values()) == pytest.approx(
            list(before.induced_tolerances(split).values()), abs=TOLERANCE
        )
    bias = audit_table([now], reference.tolerance).bias[0]
    assert bias == pytest.approx(table.bias[table.keys.index(before.key)], abs=TOLERANCE)
    np.testing.assert_allclose(
        now.arrays["calibration/distances"], before.arrays["calibration/distances"], atol=TOLERANCE
    )
