"""The base installation at its lower bounds: the command answers, an audit runs, tables are read."""

import os
import subprocess
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Audits a table, and reads tables of both clinical sources as their files come: compressed.
ROAD = """
import gzip, sys
from pathlib import Path
from relif_data import prepare
from relif_data.simulated_tables import write_raw
from relif_data.synthetic_icu import simulate
cohort = simulate(60, 60)
for name in ("eicu", "mimic3"):
    write_raw(cohort, Path(name), name)
    assert any(path.name.endswith(".csv.gz") for path in Path(name).rglob("*"))
    prepare(name, name, name + "-tensors")
Path("scores[1].csv").write_text("a,b\\n0.1,0.4\\n0.9,0.3\\n")
sys.argv = ["relif", "audit", "scores[1].csv", "--tolerance", "0.1"]
from relif_core.cli import main
main()
"""


@pytest.mark.slow
def test_the_base_installation_works_at_its_lower_bounds(tmp_path: Path) -> None:
    bounds = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    venv.create(tmp_path / "environment", with_pip=True)
    python = tmp_path / "environment" / "bin" / "python"
    lowest = [bound.replace(">=", "==") for bound in bounds]
    installed = subprocess.run(
        [python, "-m", "pip", "install", "-q", *lowest], capture_output=True, text=True, check=False
    )
    if "Failed to establish a new connection" in installed.stderr:
        pytest.skip("the packages cannot be downloaded: there is no network")
    assert installed.returncode == 0, installed.stderr
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "data", ROOT / "book"))),
    }
    for arguments in (["-m", "relif_core.cli", "--help"], ["-c", ROAD]):
        done = subprocess.run(
            [python, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "Bias" in done.stdout
