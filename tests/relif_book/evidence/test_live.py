"""The runs that pages make: what they share is of one state of the sources."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from relif_book import Page
from relif_book.evidence import live
from relif_data import prepare


def test_tensors_of_another_simulator_are_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def simulate(name: str, _: None, target: Path, **options: Any) -> Path:
        made.append(target)
        return prepare(name, None, target, **{**options, "stays": 30})

    monkeypatch.setattr(live, "prepare", simulate)
    monkeypatch.setattr(live, "make_runs", lambda *_, **__: SimpleNamespace(records=[]))
    page = Page("table_3_trade_off", runs=str(tmp_path))
    first = [live.live_runs(page, ["erm"]).tensors for _ in range(2)]
    assert made == first[:1] == first[1:]
    monkeypatch.setattr(live, "package_digest", lambda *_: "0" * 64)
    assert live.live_runs(page, ["erm"]).tensors == made[1] != made[0]
