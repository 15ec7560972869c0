"""What importing a part loads, and what no source may do; who may import whom stands in pyproject.toml."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"relif_core": ROOT, "relif_data": ROOT / "data", "relif_book": ROOT / "book"}
"""Every package of the distribution and the folder it lies in."""


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in sorted((folder / package).rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


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


def arguments_named(docstring: str) -> list[str]:
    """The names under Args, in order."""
    section = re.search(r"^( *)Args:\n((?:\1 {4}.*\n?)+)", docstring, re.MULTILINE)
    return re.findall(rf"^{section[1]} {{4}}(\*{{0,2}}\w+): ", section[2], re.MULTILINE) if section else []


def test_public_functions_of_the_core_describe_their_arguments() -> None:
    """With two or more they list every one, in order; the methods of a problem are described once."""
    shared = set(vars(importlib.import_module("relif_core.problems.base").Problem))
    exported = set(importlib.import_module("relif_core.audit").__all__)
    wrong = []
    for name, path in modules().items():
        if not name.startswith("relif_core.") or name.endswith((".cli", "_commands")):
            continue
        for node in ast.parse(path.read_text()).body:
            inside = node.body if isinstance(node, ast.ClassDef) else [node]
            for function in [item for item in inside if isinstance(item, ast.FunctionDef)]:
                takes = function.args
                given = [item.arg for item in (*takes.posonlyargs, *takes.args)]
                given += [f"*{takes.vararg.arg}"] if takes.vararg else []
                given += [item.arg for item in takes.kwonlyargs]
                given += [f"**{takes.kwarg.arg}"] if takes.kwarg else []
                given = [item for item in given if item not in ("self", "cls")]
                owner = getattr(node, "name", "")
                internal = name.startswith("relif_core.audit.") and owner not in exported
                again = owner.endswith("Problem") and owner != "Problem" and function.name in shared
                hidden = function.name.startswith("_") or owner.startswith("_") or internal or again
                if len(given) > 1 and not hidden:
                    found = arguments_named(ast.get_docstring(function, clean=False) or "")
                    wrong += [f"{name}.{owner}.{function.name}: {found}"] if found != given else []
    assert wrong == []


def test_json_files_have_one_reader() -> None:
    """What others may have written is read by ``files.read_json``; the package's own tables are its own."""
    own = ("__file__", "TABLES", "PACKAGE", "_FILES")
    found = [
        f"{name}:{node.lineno}"
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("json.loads", "json.load")
        if "read_text" in ast.unparse(node) or ast.unparse(node.func) == "json.load"
        if not any(word in ast.unparse(node) for word in own)
    ]
    assert found == []
