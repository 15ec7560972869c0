"""The comparison of label readings: what is undefined in one run is left out of its difference."""

from types import SimpleNamespace
from typing import Any

import pytest

from relif_book.chapters import leakage


def test_a_seed_without_worst_is_left_out_of_its_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two seeds the first has no Worst under later hours: one class alone has no AUROC."""
    worst = {("causal", 0): 0.5, ("later_hours", 0): None, ("causal", 1): 0.5, ("later_hours", 1): 0.75}
    records: dict[Any, Any] = {
        (reading, "erm", seed): SimpleNamespace(
            result={"utility": {"test": {"worst": value, "macro": 0.5 + seed}}}
        )
        for (reading, seed), value in worst.items()
    }
    monkeypatch.setattr(leakage, "seed_contrast", lambda *_: ([0.1, 0.2], (0.0, 0.3)))
    found = leakage._contrast("erm", "later_hours", (0, 1), records, dict.fromkeys(records))  # type: ignore[arg-type]
    assert found["worst"] == [0.25]
    assert found["macro"] == [0.0, 0.0]
