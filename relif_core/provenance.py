"""Which code, on which processor, by which command: what a record says of its making."""

import contextlib
import functools
import json
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from relif_core.files import package_digest

PACKAGE = Path(__file__).parent
#: Beside the sources where there is no git (a copied tree): their commit, and their digest then.
STAMP = "source_stamp.json"
#: Instruction sets that decide how a CPU rounds, in the names of /proc/cpuinfo.
_FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


@functools.cache
def sources() -> dict[str, Any]:
    """Return the imported package's ``commit``, ``modified`` and ``source``, its Python files' digest.

    Without git they come from :data:`STAMP`; without both, commit and modified are None. Asked once per
    process, since a checkout may change while one runs.
    """
    digest = package_digest()
    commit, modified = _from_git() or _from_stamp(digest) or (None, None)
    return {"commit": commit, "modified": modified, "source": digest}


def command(arguments: list[str] | None = None) -> str | None:
    """Return program and arguments, absolute paths reduced to their names; None in a Ray worker.

    >>> command(["/home/me/bin/relif", "run", "/data/icu", "--target=/tmp/a=b/out", "--seed", "3"])
    'relif run icu --target=out --seed 3'
    """
    given = sys.argv if arguments is None else arguments
    if not given or Path(given[0]).name == "default_worker.py":
        return None
    program = "relif" if Path(given[0]).parts[-2:] == ("cli", "__main__.py") else given[0]
    return " ".join(map(_without_path, (program, *given[1:])))


def processor_name() -> str:
    """Return the model name of the CPU."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def processor_instructions() -> str:
    """Return the instruction sets of the CPU that decide how it rounds."""
    flags = set((_cpuinfo().get("flags") or _cpuinfo().get("Features", "")).split())
    return " ".join(flag for flag in _FLAGS if flag in flags) or platform.machine()


def has_bfloat16() -> bool:
    """Tell whether the CPU multiplies bfloat16 numbers itself."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(processor_instructions().split()))


@functools.cache
def _cpuinfo() -> dict[str, str]:
    found: dict[str, str] = {}
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as stream:
        for line in stream:
            name, colon, value = line.partition(":")
            if colon:
                found.setdefault(name.strip(), value.strip())
    return found


def _without_path(item: str) -> str:
    return re.sub(r"(^|=)[/~].*", lambda found: found[1] + Path(found[0]).name, item, flags=re.DOTALL)


def _from_git() -> tuple[str, bool] | None:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
        return done.stdout.strip()

    try:
        # An installed copy inside somebody's repository is not tracked by it.
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no", "--", "."))
    except (OSError, subprocess.SubprocessError):
        return None


def _from_stamp(digest: str) -> tuple[str | None, bool] | None:
    try:
        stamp = json.loads((PACKAGE / STAMP).read_text(encoding="utf-8"))
        return stamp["commit"], bool(stamp["modified"]) or stamp["source"] != digest
    except (OSError, ValueError, KeyError, TypeError):
        return None
