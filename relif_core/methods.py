"""The one table of methods: key → title, colour, marker and what a run of it changes.

Everything that names methods reads it: settings, studies, the command, figures and tables. A new balancer is
one file with a subclass of :class:`~relif_core.balancers.base.Balancer` and one entry in ``_BALANCERS``; from
outside the package it is the file alone (:func:`add_balancer`, ``--balancer path/to/file.py:Class``, or the
environment variable ``RELIF_BALANCERS``, which worker processes and notebook kernels inherit; several are
separated by ``;``).

This module imports the standard library alone; balancer classes are loaded where they are used.
"""

import ast
import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from relif_core.errors import InputError, listed

ENVIRONMENT = "RELIF_BALANCERS"
#: Looks of methods without their own: neither ReLiF's and ERM's colours nor a mark of the paper's balancers.
#: The two lengths share no divisor, so the first 40 such methods look different.
COLOURS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("X", "h", "<", ">", "p", "d", "8", "H")


@dataclass(frozen=True)
class Method:
    """One method.

    Attributes:
        balancer: Key of the balancer that a run of it uses.
        changes: Settings that differ from ``RunSettings``.
        of_data: Names among them whose value belongs to one data set: another one does not make the run
            another method.
        source: Where it *is* a balancer: "module:Class" in relif_core.balancers, or "path/to/file.py:Class".
        hollow: Figures draw a hollow mark: another version of the method whose colour it has.
        dense: A method of dense prediction only.
    """

    key: str
    title: str
    colour: str = ""
    marker: str = ""
    balancer: str = "erm"
    penalty: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)
    of_data: tuple[str, ...] = ()
    source: str = ""
    hollow: bool = False
    dense: bool = False


#: Key, title, class and, for methods of the paper, their look: as published, as released, extra rows.
_BALANCERS = (
    ("erm", "ERM", "erm:ERM", "#555555", "o"),
    ("uncertainty", "Uncertainty", "uncertainty:Uncertainty", "#56B4E9", "s"),
    ("gradnorm", "GradNorm", "gradnorm:GradNorm", "#E69F00", "^"),
    ("pcgrad", "PCGrad", "pcgrad:PCGrad", "#009E73", "v"),
    ("fairgrad", "FairGrad", "fairgrad:FairGrad", "#CC79A7", "D"),
    ("uncertainty_as_released", "Uncertainty (as released)", "uncertainty:UncertaintyAsReleased"),
    ("gradnorm_as_released", "GradNorm (as released)", "gradnorm:GradNormAsReleased"),
    ("pcgrad_as_released", "PCGrad (as released)", "pcgrad:PCGradAsReleased"),
    ("fairgrad_as_released", "FairGrad (as released)", "fairgrad:FairGradAsReleased"),
    ("cats_as_released", "CATS", "cats:CATSAsReleased", "#8C6D1F", "P"),
    ("nash_mtl", "Nash-MTL", "fairgrad:NashMTL"),
    ("cagrad", "CAGrad", "cagrad:CAGrad"),
    ("upgrad", "UPGrad", "torchjd:UPGrad"),
    ("mgda", "MGDA", "torchjd:MGDA"),
    ("imtl_g", "IMTL-G", "torchjd:IMTLG"),
    ("aligned_mtl", "Aligned-MTL", "torchjd:AlignedMTL"),
    ("dual_proj", "DualProj", "torchjd:DualProj"),
)

#: The tasks of dense prediction, in their order.
DENSE_TASKS = ("segmentation", "depth", "normals")
#: Static penalty weights beside the default λ₀ = 0.1, which is ``relif_static``. The grid is this project's.
STATIC_WEIGHTS = (0.01, 0.03, 0.3, 1.0)
#: Step sizes η beside the default 0.001, which is ``relif``. The grid is this project's.
STEP_SIZES = (0.01, 0.1, 0.3, 1.0)
#: Target violation rates ρ* beside the default 0.16. The grid is this project's.
TARGETS = (0.05, 0.1, 0.3, 0.5)
#: The step size of the target sweep: at the default 0.001 the weight hardly moves in a short run.
TARGET_STEP_SIZE = 0.1
#: δ* of PhysioNet 2012 (data/records/physionet2012/reference.json), and the target of its violation rate:
#: half of an exploratory ERM run's on validation (data/analysis_plan.md). Elsewhere set
#: ``surrogate.tolerance`` and ``controller.target``.
AUDIT_PENALTY = {
    "surrogate": {"kind": "audit", "tolerance": 0.6271688831030655},
    "controller": {"target": 0.14},
}
#: L: about the median |Δp| ÷ d over the neighbours of an exploratory ERM run on PhysioNet 2012, validation
#: (0.17 after 12 epochs, 0.19 after 16).
SIMILAR_PAIRS = {"surrogate": {"kind": "similar_pairs", "slope": 0.2}}
_OF_DATA = {"audit_penalty": ("tolerance", "target"), "similar_pairs_penalty": ("slope",)}


def _steered(**controller: Any) -> dict[str, Any]:
    return {"controller": controller}


#: Key, title and changed settings of the variants of ReLiF and of the other penalties.
_PENALTIES: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("relif", "ReLiF", {}),
    ("relif_no_alignment", "ReLiF, no alignment", {"surrogate": {"align": False}}),
    ("relif_single_prototype", "ReLiF, single prototype", {"surrogate": {"prototypes": 1}}),
    ("relif_static", "ReLiF, static λ = 0.1", _steered(kind="constant")),
    ("relif_proportional_integral", "ReLiF, PI control", _steered(kind="proportional_integral")),
    *(
        (f"relif_static_{w:g}", f"ReLiF, static λ = {w:g}", _steered(kind="constant", initial=w))
        for w in STATIC_WEIGHTS
    ),
    *((f"relif_step_size_{step:g}", f"ReLiF, η = {step:g}", _steered(step_size=step)) for step in STEP_SIZES),
    *(
        (f"relif_target_{t:g}", f"ReLiF, ρ* = {t:g}", _steered(target=t, step_size=TARGET_STEP_SIZE))
        for t in TARGETS
    ),
    # A step size at which λ does move within a study's length, at the released target and at one below it.
    ("relif_step_size_0.05", "ReLiF, η = 0.05", _steered(step_size=0.05)),
    ("relif_step_size_0.05_target_0.09", "ReLiF, η = 0.05, ρ* = 0.09", _steered(step_size=0.05, target=0.09)),
    ("audit_penalty", "ERM + audit penalty", AUDIT_PENALTY),
    ("similar_pairs_penalty", "ERM + similar pairs", SIMILAR_PAIRS),
)


def _table() -> Iterable[Method]:
    looks = {key: look for key, _, _, *look in _BALANCERS}
    for key, title, source, *look in _BALANCERS:
        # Another version of a method has its look, hollow.
        colour, marker = look or looks.get(key.removesuffix("_as_released")) or ("", "")
        hollow = bool(colour and not look)
        yield Method(key, title, colour, marker, balancer=key, source=source, hollow=hollow)
    for key, title, changes in _PENALTIES:
        colour, marker = ("#0072B2", "*") if key == "relif" else ("", "")
        of_data = _OF_DATA.get(key, ())
        yield Method(key, title, colour, marker, penalty=True, changes=changes, of_data=of_data)
    for task in DENSE_TASKS:
        # No method, but what Δm compares methods with.
        yield Method(f"single_{task}", f"single {task}", changes={"model": {"task": task}}, dense=True)


#: Every method by key; ``<balancer>+relif`` needs no entry.
METHODS: dict[str, Method] = {}


def _add(entry: Method) -> Method:
    """Put an entry into the table, with the next free look where it has none."""
    if not entry.colour:
        place = sum(method.marker in MARKERS for method in METHODS.values())
        entry = replace(entry, colour=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)])
    METHODS[entry.key] = entry
    return entry


def method_of(key: str) -> Method:
    """Return the entry of a method, or of ``<balancer>+relif``, a hybrid.

    >>> method_of("pcgrad+relif").title, method_of("relif_static_1").changes
    ('PCGrad + ReLiF', {'controller': {'kind': 'constant', 'initial': 1.0}})

    Raises:
        InputError: There is no such method.
    """
    balancer, plus, penalty = key.partition("+")
    if key in METHODS:
        return METHODS[key]
    if plus and penalty != "relif":
        raise InputError(f"method {listed([repr(key)])}: only '+relif' can follow a balancer's name")
    if plus and balancer in METHODS and METHODS[balancer].source:
        own = METHODS[balancer]
        return replace(own, key=key, title=f"{own.title} + ReLiF", penalty=True, source="", hollow=True)
    others = ", ".join(name for name, method in METHODS.items() if not method.source)
    raise InputError(
        f"no method is called {listed([repr(key)])}; there are the balancers {', '.join(balancer_keys())}"
        f" (each also with +relif), {others}; add your own with --balancer path/to/file.py:Class"
    )


def look_of(key: str) -> Method:
    """Return a method's entry for readers: as :func:`method_of`, or a plain one for an unknown method.

    Records may be of a balancer that somebody added; their pages are read without its file.
    """
    try:
        return method_of(key)
    except InputError:
        place = zlib.crc32(key.encode())
        title = key.partition("+")[0].replace("_", " ") + (" + ReLiF" if "+" in key else "")
        return Method(key, title, COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)])


def title_of(key: str) -> str:
    """Return a method's name for readers.

    >>> title_of("pcgrad+relif"), title_of("uncertainty_as_released")
    ('PCGrad + ReLiF', 'Uncertainty (as released)')
    """
    return look_of(key).title


def balancer_keys() -> list[str]:
    """Return the keys of all balancers."""
    return [key for key, method in METHODS.items() if method.source]


def added_balancers() -> list[str]:
    """Return the keys of the balancers from outside the package."""
    return [key for key, method in METHODS.items() if method.source.rpartition(":")[0].endswith(".py")]


def add_balancer(reference: str) -> Method:
    """Add a balancer from a file outside the package, here and in every process that is started from now on.

    Its key is the class's name in small letters with underscores, its title the class attribute ``title``
    (else the class's name). Records name the balancer with the first digits of its file's sha256, so another
    version of the file is another run.

    Args:
        reference: "path/to/file.py:Class", a subclass of ``relif_core.balancers.base.Balancer``.

    Returns:
        The new entry.

    Raises:
        InputError: There is no such file or class, or the key is another method's.
    """
    place, _, name = reference.rpartition(":")
    path = Path(place).absolute()
    if not path.is_file() or path.suffix != ".py":
        fault = "is no .py file" if path.is_file() else "no such file"
        raise InputError(f"{reference}: {fault}; name a balancer as path/to/file.py:Class")
    if ";" in str(path):
        raise InputError(
            f"{path}: a balancer's path holds ';', which separates two of them; rename the folder"
        )
    content = path.read_bytes()
    try:
        classes = {node.name: node for node in ast.parse(content).body if isinstance(node, ast.ClassDef)}
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path}: is no Python file ({error})") from error
    if name not in classes:
        raise InputError(f"{path} has no class {name!r}; it has {listed(classes) or 'none'}")
    key = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
    source = f"{path}:{name}"
    if key in METHODS and METHODS[key].source != source:
        raise InputError(f"{reference}: a method is already called {key!r}; give the class another name")
    balancer = f"{key}@{hashlib.sha256(content).hexdigest()[:12]}"
    look = METHODS.pop(key, Method(key, ""))
    entry = _add(replace(look, title=_title(classes[name]), balancer=balancer, source=source))
    known = [item for item in os.environ.get(ENVIRONMENT, "").split(";") if item]
    os.environ[ENVIRONMENT] = ";".join(dict.fromkeys([*known, source]))
    return entry


def _title(node: ast.ClassDef) -> str:
    found = [
        item.value.value
        for item in node.body
        if isinstance(item, ast.Assign | ast.AnnAssign)
        and isinstance(item.value, ast.Constant)
        and "title" in map(ast.unparse, item.targets if isinstance(item, ast.Assign) else [item.target])
    ]
    return str(found[0]) if found else node.name


for _entry in _table():
    _add(_entry)
for _reference in os.environ.get(ENVIRONMENT, "").split(";"):
    if _reference:
        add_balancer(_reference)
