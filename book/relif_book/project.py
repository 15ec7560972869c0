"""Where things lie: the checkout that holds the pages, and the fingerprints of its files."""

import ast
import functools
import hashlib
import io
import os
import tokenize
from pathlib import Path

from relif_core.errors import InputError

#: What stands for the fingerprint of a file that is not there yet.
ABSENT = "absent"


def project_root() -> Path:
    """Return the checkout of the current folder: the nearest upwards with ``_config.yml`` and ``notebooks/``.

    The environment variable ``RELIF_PROJECT`` names another one; the folder above the package is the last
    resort, so that a page run from anywhere finds its records when the package is installed in editable mode.

    Raises:
        InputError: No such folder was found.
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


def page_names(root: Path) -> list[str]:
    """Names of all pages, in alphabetical order: one per ``notebooks/<name>.md``."""
    return sorted(path.stem for path in (root / "notebooks").glob("*.md"))


def fingerprint_of_text(text: str) -> str:
    """Return the sha256 of a text, as hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(path: Path) -> str:
    """Return the sha256 of a file, or of a folder's file names and contents in sorted order.

    Of a Python module only the code counts: a changed comment or docstring leaves its fingerprint alone.
    """
    path = Path(path)
    if path.is_file():
        content = path.read_bytes()
        return hashlib.sha256(_code_alone(content) if path.suffix == ".py" else content).hexdigest()
    digest = hashlib.sha256()
    for member in sorted(path.rglob("*")):
        if member.is_file() and "__pycache__" not in member.parts:
            digest.update(member.relative_to(path).as_posix().encode())
            digest.update(hashlib.sha256(member.read_bytes()).digest())
    return digest.hexdigest()


@functools.cache
def _code_alone(source: bytes) -> bytes:
    """Return a module without comments, docstrings and blank lines; as it is where it does not parse."""
    try:
        tree = ast.parse(source)
        texts = source.splitlines()
        lines = [bytearray(line) for line in texts]
        for token in tokenize.tokenize(io.BytesIO(source).readline):
            if token.type == tokenize.COMMENT:
                line = texts[token.start[0] - 1].decode()
                del lines[token.start[0] - 1][len(line[: token.start[1]].encode()) :]
    except (SyntaxError, tokenize.TokenError, UnicodeDecodeError):
        return source
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first, *rest = node.body
            alone = not rest or rest[0].lineno > (first.end_lineno or first.lineno)
            if alone and isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                for number in range(first.lineno - 1, first.end_lineno or first.lineno):
                    lines[number].clear()
    return b"\n".join(bytes(line.rstrip()) for line in lines if line.strip())
