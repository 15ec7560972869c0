"""The results page, re-executed as a researcher would: other parameters, own data, and a mistake."""

from pathlib import Path

import pytest

from relif_book import Page
from relif_book.build.execute import execute_page
from relif_book.evidence.results import published_sets
from relif_book.project import project_root
from relif_core.errors import RecordError, ReliFError
from relif_data import prepare

PAGE = "physionet2012_erm_relif"


def test_own_data_and_other_settings(tmp_path: Path) -> None:
    tensors = prepare("synthetic_icu", None, tmp_path / "mine", stays=150, seed=3)
    runs = tmp_path / "runs"
    parameters = {"data": str(tensors), "runs": str(runs), "seeds": 1, "epochs": 1}
    notebook = execute_page(PAGE, tmp_path / "out.ipynb", root=project_root(), parameters=parameters)
    assert len(list(runs.glob("records/*/record.json"))) == 2
    text = "".join(
        output.get("text", "") or "".join(output.get("data", {}).get("text/plain", ""))
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert "2 runs on Simulated" in text
    assert "This run: ReLiF against ERM" in text
    assert "Kept runs · PhysioNet 2012" in text
    assert "Published" not in text


def test_an_unknown_parameter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReliFError, match="seed_count"):
        execute_page(PAGE, tmp_path / "out.ipynb", root=project_root(), parameters={"seed_count": 1})
    assert not (tmp_path / "out.ipynb").exists()


def test_data_sets_are_called_by_name_and_an_unpublished_one_says_how_to_publish_it() -> None:
    page = Page("table_3_trade_off", dataset="synthetic")
    (found,) = published_sets(page, ("erm", "relif"))
    assert found.dataset["synthetic"]
    assert list(found.runs) == ["erm", "relif"]
    with pytest.raises(RecordError, match=r"'mimic3'.*eicu_demo, physionet2012.*data/records/mimic3_methods"):
        published_sets(Page("table_3_trade_off", dataset="physionet2012,mimic3"), ("erm",))
