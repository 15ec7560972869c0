"""The parameters of pages: what a name takes on every page that declares it, checked before a page runs."""

import ast
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relif_book.project import project_root
from relif_core.errors import InputError, listed
from relif_core.methods import method_of

_CELL = re.compile(
    r"^```\{code-cell\}[^\n]*\n:tags: \[parameters\b[^\]]*\]\n(.*?)^```$", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Domain:
    """What a parameter takes: in words, as a test, and three or more ``others`` at which its pages are tried.

    ``holds`` may refuse (``InputError``) in words of its own. Text may be empty where the page's value is.
    """

    must: str
    holds: Callable[[Any], bool]
    others: tuple[Any, ...] = ()


def _is_number(value: Any, kinds: Any) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _whole(least: int, most: int, *others: int) -> Domain:
    return Domain(
        f"be a whole number from {least} to {most}",
        lambda value: _is_number(value, int) and least <= value <= most,
        others,
    )


def _number(low: float, high: float, *others: float) -> Domain:
    return Domain(
        f"be a number from {low:g} to {high:g}",
        lambda value: _is_number(value, int | float) and low <= value <= high,
        others,
    )


def _text(must: str, each: Callable[[str], object], *others: str, several: bool = False) -> Domain:
    def holds(value: Any) -> bool:
        if not isinstance(value, str) or "\0" in value:
            return False
        parts = value.split(",") if several else [value]
        return all(map(each, parts)) and len(set(parts)) == len(parts)

    return Domain(
        must + (", or several separated by commas without blanks, each once" if several else ""),
        holds,
        others,
    )


def _device(value: str) -> bool:
    if re.fullmatch(r"cuda(:\d{1,3})?", value):
        import torch

        count = torch.cuda.device_count()
        if int(value[5:] or 0) >= count:
            raise InputError(f"this machine has {count} CUDA devices; choose cpu")
        return True
    return value == "cpu"


def _of_checkout(value: str) -> bool:
    root, path = project_root(), Path(os.path.normpath(project_root() / value))
    return bool(value) and os.path.isdir(path) and root in (*path.parents, path, *path.resolve().parents)


def _is_word(value: str) -> bool:
    return re.fullmatch(r"\w+", value) is not None


SEED = _whole(0, 2**32 - 1, 4, 7, 1000)
SHARE = _number(0, 1, 0.05, 0.5, 1.0, 0.0)
RECORDS = _text("be a folder of the checkout", _of_checkout)
#: Every parameter of the book, by its name; a page's own meaning of a name stands as "page.name".
PARAMETERS: Mapping[str, Domain] = {
    "profile": Domain("be 'quick' or 'full'", lambda value: value in ("quick", "full")),
    "seed": SEED,
    "pair_seed": SEED,
    "seeds": _whole(1, 1000, 1, 2, 3, 4),
    "epochs": _whole(0, 100_000, 1, 2, 4),
    "workers": _whole(1, 1024, 2, 3, 4),
    "device": _text("be cpu, cuda or cuda:N", _device),
    "tolerance": SHARE,
    "exact_audit.tolerance": _number(0, 0.6, 0.05, 0.1, 0.5, 0.0),
    "theorem_b2_ranking_under_drift.tolerance": _number(0.05, 0.5, 0.05, 0.1, 0.5),
    "theorem_t6_histograms.tolerance": _number(0, 0.5, 0.05, 0.5, 0.0),
    "alpha": Domain(
        "be a number between 0 and 1", lambda value: _is_number(value, int | float) and 0 < value < 1,
        (0.01, 0.5, 0.9),
    ),
    "hinge_width": _number(1e-4, 1, 0.01, 0.5, 1.0),
    "huber_width": _number(1e-4, 1, 0.01, 0.5, 1.0),
    "step_size": _number(0, 1, 0.001, 0.5, 1.0),
    "steps_per_epoch": _whole(1, 10_000_000, 1, 40, 5000),
    "neighbours": _whole(1, 100, 1, 10, 20),
    "hour": _whole(1, 47, 6, 12, 36),
    "method": _text("be a method", method_of, "gradnorm", "pcgrad+relif", "relif_static"),
    "methods": _text("be a method", method_of, "erm", "erm,gradnorm", "erm,relif,pcgrad", several=True),
    "dataset": _text("be a data set", _is_word, "eicu_demo", "synthetic", "eicu_demo,synthetic",
                     "physionet2012", several=True),
    "studies": _text(
        "be a folder below data/records",
        lambda value: _is_word(value) and _of_checkout(f"data/records/{value}"),
        "physionet2012_methods", "eicu_demo_methods", "synthetic_methods", several=True,
    ),
    "theorem_b2_ranking_under_drift.published_records": _text(RECORDS.must, _of_checkout, several=True),
    **dict.fromkeys(
        ("published_records", "released_records", "gpu_records", "planned_records", "dense_records",
         "class_records"), RECORDS,
    ),
    "data": _text("be a folder that exists", os.path.isdir),
    "clinical_data.data": _text("be a folder that exists", os.path.isdir, several=True),
    "weights": _text("be a file that exists", os.path.isfile),
    "runs": _text("be a folder, or a name for a new one", lambda value: not os.path.isfile(value)),
}  # fmt: skip
#: Parameters that are paths of the caller's, not of the checkout.
PATHS = {"data", "weights", "runs"}


def declared_parameters(page: str, root: Path | None = None) -> dict[str, Any]:
    """Return the names and values of the cell tagged ``parameters`` in ``notebooks/<page>.md``.

    Args:
        page: Its name.
        root: The checkout, if not that of the current folder.

    Raises:
        InputError: There is no such page, or it has no such cell of plain assignments.
    """
    source = (root or project_root()) / "notebooks" / f"{page}.md"
    if not source.is_file():
        raise InputError(f"page source {source.name} does not exist beside the other pages in notebooks/")
    cell = _CELL.search(source.read_text(encoding="utf-8"))
    if cell is None:
        raise InputError(f"{source.name}: the first code cell must carry the tag 'parameters'")
    return assigned(cell[1])


def assigned(source: str) -> dict[str, Any]:
    """Return what a cell of plain assignments sets; a value that is no literal is None."""
    found: dict[str, Any] = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            try:
                value = ast.literal_eval(statement.value) if statement.value else None
            except ValueError:
                value = None
            found |= {target.id: value for target in targets if isinstance(target, ast.Name)}
    return found


def check_parameters(page: str, given: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    """Check the parameters ``given`` to a page that has the ``declared`` ones.

    Raises:
        InputError: A name that the page does not declare, or a value outside the name's domain.
    """
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise InputError(
            f"page '{page}': unknown parameter {listed(unknown)}; it takes {', '.join(sorted(declared))}"
        )
    for name, value in given.items():
        domain = PARAMETERS.get(f"{page}.{name}") or PARAMETERS.get(name)
        if domain is None or (value == "" and declared[name] == ""):
            continue
        place = f"page '{page}': {name} is {_shown(value)}"
        try:
            holds = domain.holds(value)
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        if not holds:
            raise InputError(f"{place}; it must {domain.must}")


def _shown(value: Any) -> str:
    text = "out of range" if isinstance(value, int) and abs(value) > 10**18 else repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"
