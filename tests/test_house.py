"""What importing a part loads, and what no source may do; who may import whom stands in pyproject.toml."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

from relif_core import errors

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {"relif_core": ROOT, "relif_data": ROOT / "data", "relif_book": ROOT / "book"}
#: Modules of commands: their descriptions are the help.
COMMANDS = ("relif_core.cli", "relif_core.cli.audit", "relif_data.commands", "relif_book.commands")
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
    blocked = (
        f"import sys; absent = {absent - {'h5py'}!r}\n"
        "class Door:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in absent:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Door())\n"
    )
    modules = (
        "training.loop studies.grid studies.jobs studies.processes problems.clinical problems.dense"
        " models.clinical models.vision tensors.clinical tensors.dense balancers.torchjd"
    )
    imports = "import " + ", ".join(f"relif_core.{name}" for name in modules.split())
    assert not loaded_by(blocked + imports) & absent


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
        if not name.startswith("relif_core.") or name in COMMANDS:
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


def test_public_functions_say_what_they_raise() -> None:
    """One that raises an error of ours itself names it, in its own description or its class's."""
    wrong = []
    for name, path in modules().items():
        if name in COMMANDS:
            continue
        for node in ast.parse(path.read_text()).body:
            owner = node if isinstance(node, ast.ClassDef) else None
            for function in [
                item for item in (owner.body if owner else [node]) if isinstance(item, ast.FunctionDef)
            ]:
                named = function.name in ("__init__", "__post_init__") or not function.name.startswith("_")
                if not named or (owner and owner.name.startswith("_")):
                    continue
                text = (ast.get_docstring(function) or "") + ((owner and ast.get_docstring(owner)) or "")
                raised = {
                    item.exc.func.id
                    for item in ast.walk(function)
                    if isinstance(item, ast.Raise)
                    and isinstance(item.exc, ast.Call)
                    and isinstance(item.exc.func, ast.Name)
                }
                own = {
                    error for error in raised if issubclass(getattr(errors, error, int), errors.ReliFError)
                }
                wrong += [f"{name}.{function.name}: {error}" for error in own if error not in text]
    assert wrong == []


#: What a message may list whole, since its reader has to choose from it: registries of our own names.
OWN_NAMES = {
    "KINDS": "kinds of files, score rules",
    "STUDIES": "studies",
    "ENGINES": "engines of a study",
    "ENCODERS": "encoders",
    "TASKS": "tasks of dense data and of eICU's hourly files",
    "TABLES": "eICU's tables",
    "balancer_keys()": "balancers",
    "METHODS.items()": "methods",
    "FIGURES": "live figures",
    "failures": "what each page of this book failed with",
    "sorted(REGISTRY)": "data sources",
    "sorted(known)": "settings of one kind",
    "sorted(hints)": "options of a command",
    "sorted(declared)": "parameters of a page",
    "FOLDERS.values()": "task folders of the benchmark",
    "ARCHIVE_SUFFIXES": "kinds of archives",
    "REPAIRS": "repairs",
    "READINGS": "readings of labels",
}


def test_lists_in_errors_are_bounded() -> None:
    """``errors.listed`` names five items at most; what else a message lists is ours (``OWN_NAMES``)."""
    found = []
    for name, path in modules().items():
        for function in ast.walk(ast.parse(path.read_text())):
            if not isinstance(function, ast.FunctionDef):
                continue
            raised = [node.exc for node in ast.walk(function) if isinstance(node, ast.Raise) and node.exc]
            told = {node.id for error in raised for node in ast.walk(error) if isinstance(node, ast.Name)}
            assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
            parts = [*raised, *(node.value for node in assigned if ast.unparse(node.targets[0]) in told)]
            for node in (item for part in parts for item in ast.walk(part)):
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "join":
                    if isinstance(node.func.value, ast.Constant):  # type: ignore[attr-defined]
                        items = node.args[0]
                        while isinstance(items, ast.GeneratorExp):
                            items = items.generators[0].iter
                        if ast.unparse(items) not in OWN_NAMES:
                            found.append(f"{name}:{node.lineno}: {ast.unparse(node)}")
                elif isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.Call):
                    text = ast.unparse(node.value)
                    collects = text.startswith(("list(", "sorted(", "set(", "dict(")) or ".tolist()" in text
                    if collects and ".shape" not in text:
                        found.append(f"{name}:{node.lineno}: {text}")
    assert found == []


#: Who joins names with commas beside ``errors.listed``, in notes, logs and cards as well as in errors.
WHOLE_LISTS = {
    "relif_core.audit.card": "a card shows every task of its audit",
    "relif_core.methods": "an environment variable",
    "relif_core.options": "values that an option takes",
    "relif_data.eicu.channels": "ranges of our channels",
    "relif_data.eicu.events": "counts of one table",
    "relif_data.eicu.raw_tables": "our channels and tables",
    "relif_data.mimic3.benchmark_folders": "task folders of the benchmark",
    "relif_data.physionet2012": "variables, sets and tasks of the challenge",
    "relif_data.summary": "rules of one cohort step; classes of a task, up to a bound",
    "relif_data.tables": "columns of a block that is read",
}


def test_lists_outside_errors_are_bounded_too() -> None:
    joining = set()
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())) if not name.startswith("relif_book") else ():
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "join" and node.args:
                separator, items = node.func.value, node.args[0]  # type: ignore[attr-defined]
                while isinstance(items, ast.GeneratorExp):
                    items = items.generators[0].iter
                plain = re.fullmatch(r"'([,;] ?| and )'", ast.unparse(separator))
                if plain and ast.unparse(items) not in OWN_NAMES and name != "relif_core.errors":
                    joining.add(name)
    assert joining == set(WHOLE_LISTS)


#: Who opens files besides ``relif_core.files``, and why what it opens has been checked or is our own.
DOORS = {
    "relif_core.files": "the door",
    "relif_core.audit.card": "the package's own schema and template",
    "relif_core.methods": "a balancer's Python file, which is run anyway",
    "relif_core.models.vision": "encoder weights: tensors alone, every name and shape checked",
    "relif_core.provenance": "/proc/cpuinfo and the package's own stamp",
    "relif_core.record": "arrays of a record, after their checksum",
    "relif_core.cli.score_tables": "score tables, by their ending",
    "relif_core.audit.streaming": "score tables that do not fit into memory, by their ending",
    "relif_core.tensors.dense": "frames being written, in a scratch folder, with their space reserved",
    "relif_core.tensors.folder": "arrays of a tensor folder, inside it, against its manifest",
    "relif_core.training.loop": "a run's lock and checkpoint in its own folder",
    "relif_data.archives": "members of archives, which stay inside and count while they are unpacked",
    "relif_data.dense_summary": "three named images of NYUv2's own layout",
    "relif_data.eicu.hourly": "parquet files of the hourly layout, by their names",
    "relif_data.mimic3.benchmark_folders": "lists and series of the benchmark, by their names",
    "relif_data.mimic3.events": "events that this preparation wrote",
    "relif_data.simulated_tables": "simulated tables, which the package wrote",
    "relif_data.mimic3.preparation": "events that this preparation wrote",
    "relif_data.nyuv2": "images and .mat files of NYUv2, by their names; the package's own table of classes",
    "relif_data.resume": "arrays of an interrupted preparation, in its work folder",
    "relif_data.sources": "the package's own files",
    "relif_data.tables": "the one reader of raw tables",
    "relif_book.build.book": "sources and pages of this book",
    "relif_book.build.notebook": "sources of this book",
    "relif_book.build.records": "packed records that were published",
    "relif_book.build.rendering": "sources and pages of this book",
    "relif_book.parameters": "sources of this book",
    "relif_book.project": "sources of this book",
    "relif_book.evidence.audit_table": "numbers beside published records",
    "relif_book.evidence.claims": "the package's own words of the claims",
    "relif_book.evidence.live": "the lock of the runs of pages",
    "relif_book.evidence.packing": "packed records that were published",
    "relif_book.evidence.publishing": "labels and inputs beside published records",
    "relif_book.chapters.dense_panels": "pictures and weights beside published records",
    "relif_book.chapters.varying_tolerances": "weights beside a run's record",
}
OPENS = re.compile(
    r"open|(\w*[Pp]ath|path\(.*\))\.open|.*\.(read_text|read_bytes|write_text|write_bytes|unpack_archive)"
    r"|(np|numpy|torch)\.(load|save|savez\w*|loadtxt|savetxt|genfromtxt|fromfile|memmap)|.*open_memmap"
    r"|(os|io|gzip|lzma|bz2|tarfile|Image)\.open|h5py\.File|zipfile\.ZipFile|gzip\.GzipFile|.*loadmat"
    r"|csv\.(reader|DictReader)|(pd|pandas|pl|polars)\.(read|scan)_\w+"
    r"|(.*\.)?(safe_open|load_file|save_file)"
)


def test_files_are_opened_by_few() -> None:
    """A path that somebody names meets the door's rules; what lies in memory (``io.BytesIO``) is no path."""
    opening = set()
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            opens = isinstance(node, ast.Call) and OPENS.fullmatch(ast.unparse(node.func))
            if opens and not any("BytesIO" in ast.unparse(item) for item in node.args):
                opening.add(name)
    assert opening == set(DOORS)


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
