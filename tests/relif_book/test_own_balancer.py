"""A balancer that no table of ours names goes through every results page: looks, rows, figures."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from relif_book.chapters import dense_figures
from relif_book.evidence import dense_results
from relif_book.evidence import results as clinical
from relif_book.evidence.ledger import judge_all, matrix_rows
from relif_book.evidence.results import ResultSet, result_set
from relif_book.figures import method_plots
from relif_book.figures.style import new_figure
from relif_book.parameters import declared_parameters
from relif_core import methods
from relif_core.methods import METHODS, add_balancer
from relif_core.settings import dense_changes
from relif_core.studies.grid import grid, run_study
from relif_data import prepare

OWN = '''
from relif_core.balancers.base import Balancer


class LossShare(Balancer):
    """Weights in proportion to the losses."""

    title = "Loss share"

    def _weights_from_losses(self, losses, present):
        return losses * self.tasks / losses.sum()
'''
#: Pages that compare the paper's seven methods, and pages whose methods are a parameter.
SEVEN = (
    "table_2_induced_tolerances",
    "table_3_trade_off",
    "table_6_five_tolerances",
    "figure_2_worst_against_bias",
    "balancers_as_published_and_released",
    "claims",
)
WITHOUT_ROWS = ("balancers_as_published_and_released", "claims")  # this run's tables: versions, claims
CHOSEN = ("table_1_nyuv2", "table_7_nyuv2_violation_rate")


@pytest.fixture(scope="module", autouse=True)
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Add the balancer for this module and take it out again."""
    before, place = dict(METHODS), os.environ.get(methods.ENVIRONMENT)
    path = tmp_path_factory.mktemp("own") / "own.py"
    path.write_text(OWN, encoding="utf-8")
    yield add_balancer(f"{path}:LossShare").key
    METHODS.clear()
    METHODS.update(before)
    os.environ.pop(methods.ENVIRONMENT, None)
    if place is not None:
        os.environ[methods.ENVIRONMENT] = place


@pytest.fixture(scope="module")
def stays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare("synthetic_icu", None, tmp_path_factory.mktemp("clinical") / "stays", stays=100, seed=2)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    size = {"frames": 24, "height": 32, "width": 32, "views": 1, "seed": 2}
    return prepare("synthetic_rooms", None, tmp_path_factory.mktemp("dense") / "rooms", **size)


@pytest.fixture(scope="module")
def compared(own: str, stays: Path) -> ResultSet:
    summary = run_study(
        grid(("erm", "relif", "upgrad", own, f"{own}+relif"), [0, 1], model={"hidden": 8, "head_width": 8},
             training={"epochs": 2, "batch_size": 16, "learning_rate": 3e-3}),
        stays, stays.parent / "records",
    )  # fmt: skip
    assert not summary.failed
    return result_set("own", summary.records)


@pytest.fixture(scope="module")
def dense(own: str, rooms: Path) -> ResultSet:
    changes = dense_changes(
        model={"encoder": "resnet18"}, training={"epochs": 1, "batch_size": 6, "learning_rate": 1e-3}
    )
    runs = grid(("erm", "relif", "upgrad", own), [0], **changes)
    summary = run_study(runs, rooms, rooms.parent / "records")
    assert not summary.failed
    return result_set("own", summary.records)


@pytest.fixture(scope="module")
def small(own: str, stays: Path, rooms: Path) -> dict[str, dict[str, Any]]:
    """Parameters by page: one run of each method, an epoch long, beside the smallest kept study."""
    few = {"seeds": 1, "epochs": 1, "runs": str(stays.parent / "runs")}
    seven = few | {"data": str(stays), "dataset": "synthetic", "studies": "synthetic_methods"}
    chosen = few | {"data": str(rooms), "methods": f"erm,relif,upgrad,{own}"}
    return dict.fromkeys(SEVEN, seven) | dict.fromkeys(CHOSEN, chosen)


def test_clinical_rows_and_figures(compared: ResultSet) -> None:
    rows = clinical.method_rows(compared, "worst", "bias", "ranks")
    assert [row["Method"] for row in rows] == [
        "ERM", "ReLiF", "UPGrad", "Loss share", "Loss share + ReLiF",
    ]  # fmt: skip
    assert len(clinical.tolerance_rows(compared, (0.1, 0.275))) == len(rows)
    matrix_rows(judge_all([compared]))
    figure, axes = new_figure(columns=3)
    method_plots.draw_worst_against_bias(axes[0], compared)
    method_plots.draw_mean_curves(axes[1], compared)
    method_plots.draw_curves(axes[2], compared)
    figure.draw_without_rendering()
    assert "Loss share" in {text.get_text().strip() for text in axes[0].texts}


def test_dense_rows_and_figures(dense: ResultSet) -> None:
    """The case of the issue: Table 1 with UPGrad trained everything and then died for want of a colour."""
    first, second = dense_results.two_tolerances(dense_results.in_table_order(dense))
    titles = [row["Method"] for row in dense_results.table_1_rows(first, second)]
    assert titles == ["ERM", "ReLiF", "UPGrad", "Loss share"]
    assert [row["Method"] for row in dense_results.further_metric_rows(first)] == titles
    figure, axes = new_figure(columns=4)
    dense_figures.draw_progress(axes[0], first)
    dense_figures.draw_score_ranges(axes[1:], first)
    figure.draw_without_rendering()
    assert [label.get_text() for label in axes[1].get_yticklabels()] == titles


@pytest.mark.parametrize("page", [*SEVEN, *CHOSEN])
def test_whole_pages(page: str, own: str, small: dict[str, dict[str, Any]], run_cells: Any) -> None:
    """Every cell of the page, on the smallest data and beside the smallest kept study."""
    parameters = {name: value for name, value in small[page].items() if name in declared_parameters(page)}
    shown = "Loss share" in run_cells(page, **parameters)
    assert shown == (page not in WITHOUT_ROWS)
    kind = "dense_records" if page in CHOSEN else "records"
    assert any(Path(parameters["runs"], kind).glob(f"{own}-seed0-*"))
