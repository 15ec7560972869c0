"""The rooms of the house: what may import what, and what importing a part loads."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"relif_core": ROOT, "relif_data": ROOT / "data", "relif_book": ROOT / "book"}
"""Every package of the distribution and the folder it lies in."""

FLOORS = [
    {"errors"},
    {"files", "audit", "methods", "stopping", "options"},
    {
        "surrogate",
        "penalties",
        "controller",
        "device_controller",
        "balancers",
        "settings",
        "tensors",
        "score_tables",
        "calibration",
        "provenance",
    },
    {"models", "record"},
    {"problems"},
    {"epochs", "outcome", "training"},
    {"studies", "audit_commands"},
    {"cli"},
    {"relif_data"},
    {"relif_book"},
]
"""From the ground up: a part imports from its own floor or from below, never from above."""

KNOWS_ONLY = {
    "audit": {"errors", "files"},
    "surrogate": {"errors"},
    "controller": {"errors"},
}
"""Parts that must stay usable alone: everything of the package that they may import."""


def part_of(module: str) -> str:
    """The room that a module belongs to: a part of ``relif_core``, or another package as a whole."""
    package, *parts = module.split(".")
    if package != "relif_core":
        return package
    return parts[0] if parts and not parts[0].startswith("__") else ""


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted((folder / package).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, *, lazy: bool) -> Iterator[str]:
    """Names of the project's modules that a file imports, at its top or (``lazy``) anywhere."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if lazy else _top_level(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in PACKAGES)


def _top_level(tree: ast.Module) -> Iterator[ast.AST]:
    """Statements that run on import; what only a type checker sees does not."""
    for node in tree.body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.If | ast.Try):
            yield from ast.walk(node)
        else:
            yield node


def resolve(name: str, known: dict[str, Path]) -> str:
    """``relif_core.files.atomic_file`` names the module ``relif_core.files``."""
    while name not in known:
        name = name.rpartition(".")[0]
    return name


def test_every_part_has_a_floor() -> None:
    parts = {part_of(module) for module in modules()} - {""}
    assert parts <= set().union(*FLOORS), "give the new part a floor in this file"


def test_imports_point_downwards() -> None:
    floor = {part: number for number, parts in enumerate(FLOORS) for part in parts}
    known = modules()
    upwards = [
        f"{module} imports {name}"
        for module, path in known.items()
        if part_of(module)
        for name in imported(path, lazy=True)
        if (target := part_of(name)) and floor[target] > floor[part_of(module)]
    ]
    assert upwards == []


@pytest.mark.parametrize("part", KNOWS_ONLY)
def test_parts_that_stand_alone_know_nothing_above_them(part: str) -> None:
    foreign = [
        f"{module} imports {name}"
        for module, path in modules().items()
        if part_of(module) == part
        for name in imported(path, lazy=True)
        if part_of(name) not in KNOWS_ONLY[part] | {part, ""}
    ]
    assert foreign == []


def test_no_import_cycle() -> None:
    known = modules()
    edges = {
        module: {resolve(name, known) for name in imported(path, lazy=False)} - {module}
        for module, path in known.items()
    }
    finished: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in finished:
            for target in edges[module]:
                visit(target, (*trail, module))
            finished.add(module)

    for module in known:
        visit(module, ())


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in memory after a statement, in a fresh interpreter."""
    script = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


def test_the_audit_loads_numpy_alone() -> None:
    heavy = {
        "torch",
        "matplotlib",
        "seaborn",
        "pandas",
        "polars",
        "scipy",
        "sklearn",
        "pydantic",
        "typer",
        "rich",
    }
    assert not loaded_by("import relif_core.audit") & heavy


def test_the_training_path_loads_nothing_a_bare_gpu_machine_lacks() -> None:
    absent = {
        "matplotlib",
        "seaborn",
        "polars",
        "pyarrow",
        "pydantic",
        "rich",
        "typer",
        "pooch",
        "h5py",
        "pandas",
        "jupytext",
    }
    statement = (
        "import relif_core.training, relif_core.studies.grid, relif_core.tensors.clinical, relif_core.models,"
        " relif_core.balancers"
    )
    assert not loaded_by(statement) & absent


def test_the_shell_answers_before_it_loads_torch() -> None:
    assert not loaded_by("import relif_core.cli") & {"torch", "matplotlib", "polars"}


def test_nothing_loads_code_from_data() -> None:
    """No pickle and no unrestricted checkpoint: records and tensors come from strangers."""
    forbidden = ("import pickle", "allow_pickle=True", "weights_only=False", "yaml.load(", "eval(", "exec(")
    sources = modules().values()
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in sources
        for word in forbidden
        for line in path.read_text().splitlines()
        if word in line.replace(".eval(", "").replace("literal_eval(", "")
    ]
    assert found == []


def test_no_reader_takes_a_name_for_a_pattern() -> None:
    """Polars reads ``scores[1].csv`` as a pattern unless told not to; what lies in memory is no path."""
    patterned = {
        "read_csv",
        "scan_csv",
        "read_parquet",
        "scan_parquet",
        "scan_ndjson",
        "read_ipc",
        "scan_ipc",
    }
    found = []
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            told = any(
                item.arg == "glob" and isinstance(item.value, ast.Constant) and item.value.value is False
                for item in node.keywords
            )
            if node.func.attr in patterned and not told and "BytesIO" not in ast.unparse(node):
                found.append(f"{name}:{node.lineno}")
    assert found == []
