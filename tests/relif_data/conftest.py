"""Fixtures shared by the tests of data sources."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def pack() -> Callable[[Path, dict[str, bytes]], Path]:
    """Return a function that packs files (name to content) by the suffix of a path; none gives a folder."""

    def build(path: Path, files: dict[str, bytes]) -> Path:
        """Pack ``files`` as the suffix of ``path`` says; a path without suffix becomes a folder."""
        if path.name.endswith(".zip"):
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content in files.items():
                    archive.writestr(name, content)
        elif path.name.endswith((".tar.xz", ".tar.gz")):
            with tarfile.open(path, "w:xz" if path.name.endswith("xz") else "w:gz") as archive:
                for name, content in files.items():
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        else:
            for name, content in files.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(content)
        return path

    return build


@pytest.fixture(scope="session")
def golden_folder(data_folder: Path) -> Path:
    """Return the folder of reference outputs beside the real data, or skip the test."""
    folder = data_folder.parent / "golden"
    if not folder.is_dir():
        pytest.skip("reference outputs are absent: they lie in a folder `golden` beside RELIF_DATA")
    return folder
