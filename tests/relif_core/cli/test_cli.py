"""The command line, as a user meets it: results, exit status, messages without tracebacks."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from relif_core.cli import EXTRAS

Shell = Callable[..., str]
SMALL = ["--set", "model.hidden=8", "--set", "model.head_width=8", "--set", "training.epochs=2"]


def test_data_are_made_checked_and_listed(shell: Shell, tmp_path: Path) -> None:
    tensors = tmp_path / "tensors"
    assert "is ready" in shell("data", "synthetic_icu", "-", tensors, "-o", "stays=120")
    assert "120 samples, whole" in shell("data", "check", tensors)
    assert "physionet2012" in shell("data", "list")
    assert "unknown option stay" in shell(
        "data", "synthetic_icu", "-", tmp_path / "x", "-o", "stay=1", code=2
    )
    assert "no data source is called 'mimic4'" in shell("data", "mimic4", "-", tmp_path / "x", code=2)
    assert "relif data synthetic_icu - TARGET" in shell("data", "synthetic_icu", "made", code=2)
    assert "write name=value" in shell("data", "synthetic_icu", "-", tmp_path / "x", "-o", "stays", code=2)
    for name in ("name", "source_path", "target", "progress", "options"):
        words = ["data", "synthetic_icu", "-", tmp_path / "x", "-o", f"{name}=1"]
        assert f"unknown option {name}" in shell(*words, code=2)
    # What would be left unread is refused.
    for words in (["list", "x"], ["list", "-o", "a=1"]):
        assert "list takes no folder and no options" in shell("data", *words, code=2)
    assert "check takes one folder and no options" in shell("data", "check", tensors, tmp_path / "x", code=2)
    assert "is simulated and reads no" in shell("data", "synthetic_icu", tensors, tmp_path / "x", code=2)
    assert not (tmp_path / "x").exists()


def test_the_road_from_a_study_to_a_card(shell: Shell, icu_folder: Path, tmp_path: Path) -> None:
    output = shell(
        "study", "erm,relif", "--data", icu_folder, "--target", tmp_path / "runs", "--seeds", 1, *SMALL
    )
    assert "2 of 2 records (0 found, 2 made)" in output
    again = shell(
        "study", "erm,relif", "--data", icu_folder, "--target", tmp_path / "runs", "--seeds", 1, *SMALL
    )
    assert "2 of 2 records (2 found, 0 made)" in again
    assert "2 records, tolerance" in shell(
        "publish", tmp_path / "runs", tmp_path / "published", "--exploratory"
    )
    assert sorted(path.name for path in (tmp_path / "published").iterdir()) == [
        "audits.json", "audits.npz", "erm-seed0", "reference.json", "relif-seed0",
    ]  # fmt: skip
    # Records are found at any depth, and so are the runs that count as failed.
    shutil.copytree(tmp_path / "runs", tmp_path / "all" / "one")
    note = {"method": "relif", "seed": 9, "error": "NaN"}
    (tmp_path / "all" / "one" / "relif-seed9").mkdir()
    (tmp_path / "all" / "one" / "relif-seed9" / "failed.json").write_text(json.dumps(note))
    shell("publish", tmp_path / "all", tmp_path / "deep", "--exploratory")
    assert json.loads((tmp_path / "deep" / "audits.json").read_text())["failed"] == [note]
    card = tmp_path / "card.json"
    shell(
        "card",
        tmp_path / "published" / "relif-seed0",
        "--reference",
        tmp_path / "published",
        "--output",
        card,
    )
    record = tmp_path / "published" / "relif-seed0"
    for output in (record / "record.json", tmp_path / "published" / "reference.json"):
        words = ["--reference", tmp_path / "published", "--output", output]
        assert "would be overwritten" in shell("card", record, *words, code=2)
    publish = ["publish", tmp_path / "runs", tmp_path / "kept", "--exploratory"]
    for words, message in (
        (["--keep", "study", "--logit-methods", "relief"], "no method is called 'relief'"),
        (["--keep", "study", "--logit-seeds", -1], "--logit-seeds"),
        (["--logit-methods", "relif"], "need --keep study"),
        (["--logit-seeds", 2], "need --keep study"),
    ):
        assert message in shell(*publish, *words, code=2)
    for inside in (tmp_path / "runs", tmp_path / "runs" / "published"):
        assert "would be there twice" in shell("publish", tmp_path / "runs", inside, code=2)
    (tmp_path / "empty").mkdir()
    assert "empty holds no finished run" in shell("publish", tmp_path / "empty", tmp_path / "kept", code=2)
    assert not (tmp_path / "kept").exists()
    content = json.loads(card.read_text())
    reference = json.loads((tmp_path / "published" / "reference.json").read_text())
    assert content["tolerance"]["values"][0]["tolerance"] == reference["tolerance"]
    assert content["controller"]["target"] == 0.16


def test_run_leaves_a_record_and_names_mistakes(shell: Shell, icu_folder: Path, tmp_path: Path) -> None:
    assert "test Worst" in shell(
        "run", "--data", icu_folder, "--target", tmp_path / "run", "--method", "fairgrad", *SMALL
    )
    assert (tmp_path / "run" / "record.json").is_file()
    assert "no setting 'epoch'" in shell(
        "run", "--data", icu_folder, "--target", tmp_path / "x", "--set", "training.epoch=3", code=2
    )
    for pair, message in (
        ("seed=100", "--seeds"),
        ("method=erm", "argument"),
        ("balancer=gradnorm", "argument"),
        ("penalty=no", "argument"),
        ("training.epochs=x", "whole number"),
    ):
        assert message in shell(
            "run", "--data", icu_folder, "--target", tmp_path / "x", "--set", pair, code=2
        )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "model.safetensors").write_text("of another")
    for option, value, message in (
        ("--target", tmp_path / "mine", "holds something else; name a new folder"),
        ("--target", tmp_path / "mine" / "model.safetensors", "holds something else"),
        ("--method", "", "no method is called ''"),
        ("--device", "meta", "none that trains"),
        ("--device", "", "none that trains"),
        ("--device", "cuda:99", "no such CUDA device"),
        ("--threads", 0, "--threads"),
        ("--target", "x" * 300, "name another path"),
        ("--data", "x" * 10_000, "name another path"),
    ):
        found = shell("run", "--data", icu_folder, "--target", tmp_path / "x", option, value, *SMALL, code=2)
        assert message in found
        assert len(found) < 2000
    assert "no method is called 'adam'" in shell(
        "run", "--data", icu_folder, "--target", tmp_path / "x", "--method", "adam", code=2
    )
    assert "no manifest.json" in shell("run", "--data", tmp_path / "run", "--target", tmp_path / "x", code=2)
    for name in ("name", "seeds", "block", "methods", "changes"):
        words = ["study", "erm", "--data", icu_folder, "--target", tmp_path / "x", "--set", f"{name}=1"]
        assert f"--set {name}: there is no such setting" in shell(*words, code=2)
    study = ["study", "erm", "--data", icu_folder, "--target", tmp_path / "x", "--address", "head:6379"]
    for engine in ([], ["--engine", "processes"]):
        assert "add --engine ray" in shell(*study, *engine, code=2)


def test_scores_of_any_model_are_audited(shell: Shell, tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    table.write_text("patient,ward,mortality,los\n1,a,0.1,0.4\n2,a,0.9,0.3\n3,b,0.3,\n4,b,0.2,0.8\n")
    # Gaps of (0.1, 0.9, 0.3, 0.2) with (0.4, 0.3, 0.8), less 0.25: .05 0 .45 .25 .35 0 0 0 .25 0 0 .35 over
    # 12 pairs.
    card = tmp_path / "card.html"
    output = shell(
        "audit",
        table,
        "--tolerance",
        0.25,
        "--subject",
        "patient",
        "--group",
        "ward",
        "--versus",
        table,
        "--card",
        card,
    )
    assert "Bias           0.1417" in output
    assert "Violation rate 0.5000" in output
    assert "group b" in output
    # A table equals itself: 3 subjects in the smaller pool leave (1 - 0.05^(2/3)) * (1 - 0.25) unseen.
    assert "+0.0000 (-0.6482 to +0.6482; paired by subject)" in output
    assert "<table" in card.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tolerance", 0.2], "column 'ward' is String, not a score"),
        (["--tolerance", 0.2, "--subject", "id"], "has no column 'id'"),
        (["--tolerance", 0.2, "--task", "mortality"], "needs at least two, got 1"),
        (["--tolerance", -1, "--task", "mortality", "--task", "los"], "tolerance"),
        (
            ["--tolerance", 0.2, "--task", "mortality", "--task", "los", "--card", "x.pdf"],
            "written as .json, .md or .html",
        ),
    ],
)
def test_mistakes_in_an_audit_are_named(
    shell: Shell, tmp_path: Path, arguments: list[object], message: str
) -> None:
    table = tmp_path / "scores.csv"
    table.write_text("ward,mortality,los\na,0.1,0.4\nb,0.9,0.3\n")
    assert message in shell("audit", table, *arguments, code=2)


def test_an_audit_needs_no_torch(tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    table.write_text("a,b\n0.1,0.4\n0.9,0.3\n")
    script = (
        "import sys; sys.modules['torch'] = None; sys.modules['matplotlib'] = None; sys.argv = ['relif',"
        f" 'audit', {str(table)!r}, '--tolerance', '0.1']; from relif_core.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Bias" in done.stdout


def test_a_missing_library_names_the_extra(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None; "
        "sys.argv = ['relif', 'run', '--data', 'x', '--target', 'y']; from relif_core.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'relif-core[train]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "verb", ["", "audit", "audit run", "run", "study", "data", "card", "publish", "book", "pages"]
)
def test_every_command_explains_itself(shell: Shell, verb: str) -> None:
    assert shell(*verb.split(), "-h") == shell(*verb.split(), "--help")


def test_the_shell_completes_commands_methods_sources_and_pages() -> None:
    def completed(line: str) -> list[str]:
        environment = {
            **os.environ,
            "_RELIF_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(line.count(" ")),
        }
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "import sys; sys.argv = ['relif']; from relif_core.cli import main; main()",
            ],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.split()

    assert {"audit", "run", "study", "data", "book", "pages"} <= set(completed("relif "))
    assert completed("relif run --method fairg") == ["fairgrad", "fairgrad_as_released"]
    assert "physionet2012" in completed("relif data phy")
    assert completed("relif pages execute table_5") == ["table_5_settings"]


def test_a_full_disk_behind_the_output_is_named() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "relif_core.cli", "data", "list"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert "relif: the output: No space left on device" in done.stderr


@pytest.mark.parametrize("words", [["data", "list"], ["-h"], ["run", "-h"]])
def test_a_reader_that_leaves_is_no_verdict(words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "relif_core.cli", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_every_library_that_a_bare_installation_lacks_names_its_extra() -> None:
    root = Path(__file__).resolve().parents[3]
    places = [path for name in ("relif_core", "data", "book") for path in (root / name).rglob("*.py")]
    nodes = [node for path in places for node in ast.walk(ast.parse(path.read_text()))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    own = {"relif_core", "relif_data", "relif_book", "numpy", "polars", "rich", "typer"}
    # Those that say themselves what they need, or that nothing imports unless it is there.
    own |= {"numba", "ray", "torchmetrics", "nbval"}
    assert {name.partition(".")[0] for name in names} <= own | sys.stdlib_module_names | set(EXTRAS)
