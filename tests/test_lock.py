"""The lock: every package of the environment by version and content, within the ranges that are promised."""

import itertools
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
#: Every package's part of the lock, by its name: the pin, then one line per hash.
ENTRIES = {canonicalize_name(part.partition("==")[0]): part for part in re.split(r"\n(?=\S)", LOCK.strip())}
PINS = [
    Requirement(line)
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def locked(name: str) -> str:
    """Return the version that the lock holds of a package."""
    return ENTRIES[canonicalize_name(name)].partition("==")[2].split()[0]


def needed() -> set[str]:
    """Names of the packages that the pinned ones bring along on this machine, themselves included."""
    found: set[str] = set()
    waiting = [(pin, "") for pin in PINS]
    while waiting:
        requirement, extra = waiting.pop()
        name = canonicalize_name(requirement.name)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        if wanted and (extra or name not in found):
            found.add(name)
            below = [Requirement(text) for text in requires(name) or []]
            waiting += [(one, extra) for one in below for extra in ("", *requirement.extras)]
    return found


def test_every_locked_package_carries_hashes_and_no_host_is_named() -> None:
    for name, entry in ENTRIES.items():
        pin, *hashes = (line.rstrip(" \\") for line in entry.splitlines())
        assert re.fullmatch(r"\S+==[^\s=*]+( ; .+)?", pin), name
        assert hashes, name
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}", line) for line in hashes), name
    for text in (LOCK, (ROOT / "requirements.txt").read_text(encoding="utf-8")):
        assert "://" not in text
        assert "-index" not in text


def test_the_lock_holds_the_pins_and_keeps_to_the_ranges_of_the_metadata() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    ranges = itertools.chain(project["dependencies"], *project["optional-dependencies"].values())
    for requirement in [*PINS, *map(Requirement, ranges)]:
        assert requirement.specifier.contains(locked(requirement.name), prereleases=True), str(requirement)


def test_the_environment_is_the_locked_one(tmp_path: Path) -> None:
    names = needed()
    assert names <= ENTRIES.keys()
    (tmp_path / "part.lock").write_text("\n".join(ENTRIES[name] for name in sorted(names)) + "\n")
    command = [sys.executable, "-m", "pip", "--isolated", "install", "--dry-run", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*command, "--require-hashes", "-r", tmp_path / "part.lock"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("already satisfied") == len(names)
