"""Shared fixtures: where optional real data lies, a small simulated data set, settings that train fast."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relif_core.cli import main
from relif_core.problems.clinical import ClinicalProblem
from relif_core.settings import RunSettings, method_settings
from relif_core.tensors.clinical import ClinicalTensors
from relif_data import prepare

SMALL: dict[str, Any] = {
    "model": {"hidden": 12, "head_width": 8},
    "training": {"epochs": 3, "batch_size": 32, "learning_rate": 3e-3},
    "controller": {"warmup": 4, "step_size": 0.05},
}


def pytest_report_header() -> str:
    """Say which commit chose the pages that are run away from their defaults."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"pages away from their defaults: those of commit {done.stdout.strip() or '(none)'}"


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Return the folder named by ``RELIF_DATA``, or skip the test."""
    folder = os.environ.get("RELIF_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real data are absent: set RELIF_DATA to the folder that holds them")
    return Path(folder)


@pytest.fixture(scope="session")
def icu_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(
        "synthetic_icu", None, tmp_path_factory.mktemp("icu") / "tensors", stays=150, hours=60, seed=1
    )


@pytest.fixture(scope="session")
def icu(icu_folder: Path) -> ClinicalProblem:
    return ClinicalProblem(ClinicalTensors.open(icu_folder))


@pytest.fixture
def small() -> Any:
    """Return a function from a method's name and changes to quick settings."""

    def settings(method: str = "relif", **changes: Any) -> RunSettings:
        return method_settings(method, **{**SMALL, **changes})

    return settings


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that runs the command here and returns both streams; ``code`` is its exit status."""

    def call(*arguments: object, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["relif", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        streams = capsys.readouterr()
        assert (ended.value.code or 0) == code, streams.out + streams.err
        assert "Traceback" not in streams.err
        return streams.out + streams.err

    return call
