"""Rows of the page on varying tolerances: orders counted by hand, and theorem B.2 on the published runs."""

import json
from pathlib import Path
from typing import Any

from relif_book.chapters.varying import (
    LevelOrders,
    contrast_rows,
    group_rows,
    hour_rows,
    level_orders,
    size_rows,
)

PUBLISHED = Path(__file__).resolve().parents[3] / "data/records/physionet2012_groups/tolerances.json"


def study(levels: list[tuple[float, float, float]]) -> dict[str, Any]:
    """One run, one group; per level Bias at the fixed tolerance, Bias at its own, and drift budget."""
    rows = [
        {"group": "sex", "level": f"{k}", "method": "erm", "seed": 0, "bias": a, "own_bias": b, "budget": d}
        for k, (a, b, d) in enumerate(levels)
    ]
    return {"runs": [{"method": "erm", "seed": 0}], "groups": [{"name": "sex"}], "group_audits": rows}


def test_orders_by_hand() -> None:
    # 0.10 < 0.20 turns round; 0.10 and 0.20 are each 0.3 and 0.2 below 0.40, against budgets of 0.1.
    found = level_orders(study([(0.10, 0.15, 0.05), (0.20, 0.14, 0.06), (0.40, 0.38, 0.02)]))
    assert found == LevelOrders(pairs=3, flipped=1, certified=2)
    assert level_orders(study([(0.1, 0.1, 0.0)])) == LevelOrders()


def test_published_orders_obey_theorem_b2() -> None:
    content = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    total = level_orders(content)
    assert total.flipped + total.certified <= total.pairs
    assert total.pairs == 6 * (1 + 6 + 6)


def test_published_rows_name_every_level_and_hour() -> None:
    content = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    kept = [level for group in content["groups"] for level in group["levels"] if not level["left_out"]]
    assert len(group_rows(content, "relif")) == len(kept) == 10
    unknown = next(row for row in size_rows(content) if row["Level"] == "unknown")
    assert unknown["Own tolerance"].startswith("none: 0 validation pairs")
    assert [(row["Hour"], row["Method"]) for row in hour_rows(content)] == [
        (hour, method) for hour in content["hours"] for method in ("ERM", "ReLiF")
    ]
    assert [row["Hour"] for row in contrast_rows(content)] == content["hours"]
