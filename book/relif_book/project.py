"""Where things lie: the checkout that holds the pages, and the fingerprints of its files."""

import hashlib
import os
from pathlib import Path

from relif_core.errors import InputError


def project_root() -> Path:
    """Return the checkout that the current folder belongs to: the nearest folder upwards with ``_config.yml`` and ``notebooks/``.

    The environment variable ``RELIF_PROJECT`` names another one; the folder above the package is the last resort, so that
    a page run from anywhere finds its records when the package is installed in editable mode.

    Raises
    ------
    InputError
        No such folder was found.
    """
    named = os.environ.get("RELIF_PROJECT")
    here = Path.cwd()
    candidates = [Path(named)] if named else [here, *here.parents, Path(__file__).resolve().parents[2]]
    for folder in candidates:
        if (folder / "_config.yml").is_file() and (folder / "notebooks").is_dir():
            return folder.resolve()
    raise InputError(
        "no checkout of the project found from the current folder upwards; "
        "run inside one or set RELIF_PROJECT to the folder that holds _config.yml and notebooks/"
    )


def fingerprint_of_text(text: str) -> str:
    """Return the sha256 of a text, as hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's file names and contents in sorted order."""
    path = Path(path)
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for member in sorted(path.rglob("*")):
        if member.is_file() and "__pycache__" not in member.parts:
            digest.update(member.relative_to(path).as_posix().encode())
            digest.update(hashlib.sha256(member.read_bytes()).digest())
    return digest.hexdigest()
