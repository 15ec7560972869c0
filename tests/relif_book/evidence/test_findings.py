"""What a results page says first is re-derived from the published table, by other means than the page's."""

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from relif_book.build.notebook import read_source
from relif_book.evidence.audit_table import AuditTable
from relif_book.evidence.packing import load_packed
from relif_core.audit import audit
from relif_core.record import Record
from relif_core.studies.grid import SEVEN_METHODS

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "data" / "records" / "physionet2012_methods"


@pytest.fixture(scope="module")
def bias() -> dict[str, dict[int, float]]:
    """Bias by method and seed, straight from the table."""
    table = AuditTable.load(FOLDER)
    found: dict[str, dict[int, float]] = {}
    for record in load_packed(FOLDER):
        value = float(table.bias[table.keys.index(record.key)])
        found.setdefault(record.method, {})[record.seed] = value
    return found


def glued(page: str, monkeypatch: pytest.MonkeyPatch, **parameters: Any) -> dict[str, str]:
    """Return what the cells of a page before its first figure hand to its text."""
    texts: dict[str, str] = {}
    monkeypatch.setattr(
        "relif_book.page.Page.glue",
        lambda _, name, value, spec="": texts.update({name: format(value, spec)}),
    )
    space: dict[str, Any] = {"__name__": "page"}
    for cell in read_source(ROOT / "notebooks" / f"{page}.md").cells:
        if "show(" in cell.source or "show_live(" in cell.source:
            break
        if cell.cell_type == "code":
            exec(compile(cell.source, page, "exec"), space)
        if "parameters" in cell.metadata.get("tags", []):
            space |= parameters
    return texts


def test_table_3(bias: dict[str, dict[int, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    texts = glued("table_3_trade_off", monkeypatch, published_records="data/records/physionet2012_methods")
    means = {method: np.mean(list(bias[method].values())) for method in SEVEN_METHODS}
    lowest = min(means, key=lambda method: means[method])
    assert lowest == "cats_as_released"
    assert texts["t3-lowest"] == f"CATS ({means[lowest]:.4f})"
    difference = [bias["relif"][seed] - bias["erm"][seed] for seed in sorted(bias["relif"])]
    assert texts["t3-relif"].startswith(f"{np.mean(difference):+.4f}".replace("-", "−"))
    # The seeds' own t interval lies within that of the plan's rule, which adds the draw of test subjects.
    low, high = stats.t.interval(0.95, 4, np.mean(difference), stats.sem(difference))
    shown = [float(end) for end in texts["t3-relif"].split("[")[1].rstrip("]").replace("−", "-").split(", ")]
    assert shown == pytest.approx([low, high], abs=5e-4)
    assert texts["t3-raw"] == f"{means['erm']:.4f}"


def test_table_4(bias: dict[str, dict[int, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    texts = glued("table_4_components", monkeypatch, published_records="data/records/physionet2012_methods")
    for name, method in (
        ("erm", "erm"), ("align", "relif_no_alignment"), ("static", "relif_static_1"),
    ):  # fmt: skip
        seeds = bias[method].keys() & bias["relif"].keys()
        mean = np.mean([bias[method][seed] - bias["relif"][seed] for seed in seeds])
        assert texts[f"t4-{name}"].startswith(f"{mean:+.4f}".replace("-", "−"))


def test_the_landing_page(bias: dict[str, dict[int, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The two orders of the seven methods, counted pair by pair, of the runs that the figure shows today."""
    for module in ("results", "ledger"):
        monkeypatch.setattr(f"relif_book.evidence.{module}.planned", lambda *_: None)
    texts = glued("in_three_minutes", monkeypatch)
    table, records = AuditTable.load(FOLDER), load_packed(FOLDER)
    raw = {
        method: np.mean([table.raw_bias[table.keys.index(r.key)] for r in records if r.method == method])
        for method in SEVEN_METHODS
    }
    fixed = {method: np.mean(list(bias[method].values())) for method in SEVEN_METHODS}
    turned = sum(
        (fixed[a] - fixed[b]) * (raw[a] - raw[b]) < 0
        for place, a in enumerate(SEVEN_METHODS)
        for b in SEVEN_METHODS[place + 1 :]
    )
    assert f"{turned} of 21 pairs" in texts["three-ruler"]
    assert "cannot be told from plain training" in texts["three-relif"]


def dense(folder: str) -> tuple[float, dict[str, list[Record]]]:
    """Return the tolerance and every method's runs of a folder of dense records, straight from the files."""
    place = ROOT / "data" / "records" / folder
    tolerance = json.loads((place / "reference.json").read_text(encoding="utf-8"))["tolerance"]
    runs: dict[str, list[Record]] = {}
    for record in map(Record.load, sorted(place.glob("*-seed*"))):
        runs.setdefault(record.method, []).append(record)
    return tolerance, runs


def excesses(scores: Mapping[str, np.ndarray], tolerance: float) -> np.ndarray:
    """Return Bias and violation rate [2] from every pair of scores, one by one."""
    parts = []
    for a, b in itertools.combinations(scores.values(), 2):
        gaps = np.abs(np.subtract.outer(a.astype(float), b.astype(float)))
        parts.append([np.maximum(gaps - tolerance, 0).mean(), (gaps > tolerance).mean()])
    return np.mean(parts, axis=0)


def own_bias(run: Record, tolerance: float) -> float:
    """Return Bias with depth and normals scaled by the run's own validation quantiles."""
    scores = dict(run.scores())
    for task in ("depth", "normals"):
        low, high = np.quantile(run.arrays[f"raw/validation/{task}"], [0.1, 0.9])
        scores[task] = np.clip((run.arrays[f"raw/test/{task}"] - low) / (high - low), 0, 1)
    return float(excesses(scores, tolerance)[0])


def test_table_1_and_7(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = glued("table_1_nyuv2", monkeypatch) | glued("table_7_nyuv2_violation_rate", monkeypatch)
    landing = glued("in_three_minutes", monkeypatch)
    for folder, name in (("nyuv2", "-held-out"), ("nyuv2_as_released", "-released")):
        tolerance, runs = dense(folder)
        erm, relif = (
            next(excesses(run.scores(), tolerance)[0] for run in runs[method] if run.seed == 400)
            for method in ("erm", "relif")
        )
        assert texts[f"nyu-lead{name}"] == f"{relif / erm:.2f}"
    tolerance, runs = dense("nyuv2")
    bias_of = {
        "": lambda run: excesses(run.scores(), tolerance)[0],
        "-own": lambda run: own_bias(run, tolerance),
    }
    for end, reading in bias_of.items():
        bias = {method: np.mean([reading(run) for run in own]) for method, own in runs.items()}
        assert texts[f"nyu-relif{end}"] == f"{bias.pop('relif'):.3f}"
        assert texts[f"nyu-others{end}"] == f"{min(bias.values()):.3f} to {max(bias.values()):.3f}"
        assert landing[f"three-nyu{end}"] == f"{texts[f'nyu-relif{end}']} against {texts[f'nyu-others{end}']}"
    leads = [
        np.mean([reading(a) - reading(b) for a, b in zip(runs["erm"], runs["relif"], strict=True)])
        for reading in bias_of.values()
    ]
    assert texts["nyu-gap"].startswith(f"−{leads[0]:.3f} [−")
    assert texts["nyu-gap"] == landing["three-nyu-gap"]
    assert texts["nyu-lost"] == landing["three-nyu-lost"] == f"{100 * (1 - leads[1] / leads[0]):.0f}"
    assert float(texts["nyu-lost"]) > 50  # "of the lead … is shift and scale of two feature maps"
    for at, delta in (("", tolerance), ("-half", tolerance / 2)):
        rates = {m: np.mean([excesses(run.scores(), delta)[1] for run in own]) for m, own in runs.items()}
        assert texts[f"vr-relif{at}"] == f"{rates.pop('relif'):.3f}"
        assert texts[f"vr-others{at}"] == f"{min(rates.values()):.3f} to {max(rates.values()):.3f}"
    floors = json.loads((ROOT / "data/records/nyuv2_data/constants.json").read_text(encoding="utf-8"))
    floor = {task: found["score"] for task, found in floors[0]["rows"][0]["tasks"].items()}
    for run in itertools.chain(*runs.values()):
        reached = run.result["utility"]["test"]["tasks"]
        assert all(reached[task]["score"] > floor[task] for task in floor)
    assert texts["nyu-constant"] == texts["vr-constant"] == "no method in any task"


def test_the_runs_on_a_gpu() -> None:
    """What Table 1 and the page on status say of them in words."""
    tolerance, runs = dense("nyuv2_gpu")
    assert set(SEVEN_METHODS) - set(runs) == {"uncertainty", "cats_as_released"}
    assert sum(map(len, runs.values())) == 6
    bias = {m: np.mean([excesses(run.scores(), tolerance)[0] for run in own]) for m, own in runs.items()}
    assert min(bias, key=lambda method: bias[method]) == "relif"


def test_later_hours_move_runs_to_the_right_at_similar_bias() -> None:
    """The words of the figure of label readings about PhysioNet 2012."""
    path = ROOT / "data" / "records" / "label_leakage" / "physionet2012.json"
    later = [item for item in json.loads(path.read_text())["contrasts"] if item["reading"] == "later_hours"]
    assert min(min(item["worst"]) for item in later) > 0
    assert max(abs(value) for item in later for value in item["bias"]) < 0.01


def test_theorem_t5(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps scaled to nothing, without bound, and by the factors of the page's grid."""
    texts = glued("theorem_t5_scores_decoders_can_move", monkeypatch)
    tolerance, found = dense("nyuv2")
    runs = {method: min(own, key=lambda run: run.seed) for method, own in found.items()}
    kept = {method: excesses(run.scores(), tolerance)[0] for method, run in runs.items()}
    best = min(kept, key=lambda method: kept[method])
    assert (best, texts["t5-best"]) == ("relif", "ReLiF")
    assert texts["t5-best-bias"] == f"{kept[best]:.3f}"
    assert texts["t5-erm"] == f"{kept['erm']:.3f}"
    reach = {}
    for method, run in runs.items():
        scores = {"segmentation": run.scores()["segmentation"]}
        scaled = []
        for task, (low, high) in run.result["score_calibration"]["quantiles"].items():
            factors = np.array([0, *np.exp(np.linspace(-2, 2, 17)), 1e6])[:, None]
            scaled.append(np.clip((factors * run.arrays[f"raw/test/{task}"] - low) / (high - low), 0, 1))
        found = {
            audit(scores | {"a": a, "b": b}, tolerance).bias: (a, b) for a, b in itertools.product(*scaled)
        }
        least = min(found)
        assert least == pytest.approx(
            excesses(scores | dict(zip("ab", found[least], strict=True)), tolerance)[0], abs=1e-6
        )
        reach[method] = min(least, kept[method]), max(*found, kept[method])
    assert texts["t5-erm-low"] == f"{reach['erm'][0]:.3f}"
    common = max(low for low, _ in reach.values()), min(high for _, high in reach.values())
    assert texts["t5-common"] == f"{common[0]:.3f} to {common[1]:.3f}"
