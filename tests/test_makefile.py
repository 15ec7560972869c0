"""`make` makes its environment once, again where it was moved or left half-made; nothing comes unasked."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: A Python that notes what it is asked for; its virtual environments hold itself.
PYTHON = """#!/bin/bash
echo "$*" >>"$ASKED"
if [ "$2" = venv ]; then
    rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; echo "#!$PWD/$4/bin/python" >"$4/bin/pip"
fi
"""
MADE = ["-m venv", "-m pip install", "-m pip install"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("Makefile", "requirements.txt", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def make(folder: Path, *arguments: str, **environment: str) -> tuple[list[str], str]:
    """Run make in a checkout; return what its tools were asked for, in order, and what it said."""
    asked = folder.parent / "asked"
    asked.write_text("")
    done = subprocess.run(
        [str(shutil.which("make")), "-j4", *arguments],
        cwd=folder,
        env={**os.environ, "ASKED": str(asked), "CI": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return asked.read_text().splitlines(), done.stderr


def test_the_environment_is_made_once_and_again_where_it_is_not_whole(checkout: Path) -> None:
    python = executable(checkout.parent / "python", PYTHON)

    def made(folder: Path = checkout) -> list[str]:
        lines, _ = make(folder, "environment", f"PYTHON={python}")
        return [one for line in lines for one in MADE[:2] if line.startswith(one)]

    assert made() == MADE
    assert made() == []
    for name in ("requirements.txt", "pyproject.toml"):
        os.utime(checkout / name, (0, 0))
    newer = (checkout / "requirements.lock").stat().st_mtime  # Alone, and whatever the clock does meanwhile.
    os.utime(checkout / ".venv" / ".installed", (newer - 1, newer - 1))
    assert made() == MADE[1:]
    (checkout / ".venv" / ".installed").unlink()  # Interrupted while it was installing.
    assert made() == MADE[1:]
    for name in ("bin/pip", ".installed"):  # Interrupted before it held pip.
        (checkout / ".venv" / name).unlink()
    assert made() == MADE
    moved = checkout.rename(checkout.with_name("elsewhere"))
    assert made(moved) == MADE
    assert made(moved) == []


def test_every_locked_version_is_a_constraint(checkout: Path) -> None:
    make(checkout, "environment", f"PYTHON={executable(checkout.parent / 'python', PYTHON)}")
    constraints = (checkout / ".venv" / "constraints.txt").read_text().splitlines()
    lock = (checkout / "requirements.lock").read_text()
    assert len(constraints) == lock.count("==") - lock.count(" == ")
    assert not any("--hash" in line or line.endswith("\\") for line in constraints)


def test_without_chromium_the_package_is_named_and_only_a_ci_machine_installs_it(checkout: Path) -> None:
    tools = checkout.parent / "tools"
    tools.mkdir()
    executable(tools / "apt-get", '#!/bin/bash\necho "$*" >>"$ASKED"\n')
    executable(tools / "id", "#!/bin/bash\necho 0\n")
    asked, said = make(checkout, "chromium", PATH=str(tools))
    assert asked == []
    assert "the browser tests are skipped; to run them install the package 'chromium'" in said
    asked, _ = make(checkout, "chromium", PATH=str(tools), CI="true")
    assert [line.split()[0] for line in asked] == ["update", "install"]
    assert "chromium" in asked[1].split()
    executable(tools / "chromium", "#!/bin/bash\n")
    assert make(checkout, "chromium", PATH=str(tools), CI="true")[0] == []
