"""Provenance of a page: its parameters, the data, records and code it used, and the footer that says so."""

import atexit
import html
import os
import platform
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from relif_book.parameters import assigned, check_parameters, declared_parameters
from relif_book.project import ABSENT, fingerprint, fingerprint_of_text, project_root
from relif_core import __version__
from relif_core.errors import InputError, RecordError
from relif_core.files import read_json

PROVENANCE_MIME = "application/vnd.relif.provenance+json"
"""The output type under which a page's footer hands its dependencies to the executor."""

_GLUE_PREFIX = "application/papermill.record/"
#: The packages of this distribution, on whose sources a page depends.
PACKAGES = ("relif_core", "relif_data", "relif_book")
#: Suffixes of what modules read: tables, registries, templates.
TABLES = (".csv", ".json", ".toml", ".html")
_Choice = TypeVar("_Choice")


class Page:
    """One execution of one page: what it was asked for, what it used, and how long it took.

    The parameters are the names of the cell tagged ``parameters`` in ``notebooks/<name>.md``, with the values
    that they have where the page is made. ``device`` is where it computes, "cpu" until the page sets it.

    Args:
        name: File name of the page without its ending.
        parameters: Values instead of the caller's.

    Raises:
        InputError: A parameter is unknown (papermill itself only logs that, and the page would run with its
            defaults) or outside its domain (:mod:`relif_book.parameters`).
    """

    def __init__(self, name: str, **parameters: Any) -> None:
        declared, around = declared_parameters(name), sys._getframe(1).f_globals
        values = {key: around.get(key, value) for key, value in declared.items()} | parameters
        check_parameters(name, {**dict.fromkeys(_injected_names()), **values}, declared)
        self.name = name
        self.parameters = values
        self.profile: str = values.get("profile", "quick")
        self.device = "cpu"
        self._started = time.perf_counter()
        self._data: dict[str, None] = {}
        self._files: dict[str, str] = {}
        self._records: dict[str, None] = {}

    def choose(self, *, quick: _Choice, full: _Choice) -> _Choice:
        """Return the value that belongs to the page's profile."""
        return quick if self.profile == "quick" else full

    def uses_data(
        self, title: str | Mapping[str, Any], *, licence: str = "", synthetic: bool = False
    ) -> None:
        """Name a data set in the footer, with its licence; say whether it is simulated.

        A manifest, or what a record says of its data set, tells all three.
        """
        if isinstance(title, Mapping):
            source = title
        else:
            source = {"title": title, "licence": licence, "synthetic": synthetic}
        made = "synthetic; " if source.get("synthetic") else ""
        self._data[f"{source['title']} ({made}licence {source['licence']})"] = None

    def simulates(self, title: str) -> None:
        """Name a data set in the footer that the page makes up itself."""
        self.uses_data(title, licence="Apache-2.0 (generated)", synthetic=True)

    def tensors(self, simulated: str, **options: Any) -> Path:
        """Return the tensor folder that the parameter ``data`` names, else a simulated one, made here.

        Args:
            simulated: Name of a simulated data set of ``relif_data``.
            **options: Of its making.

        Raises:
            InputError: As :meth:`checked`.
        """
        from relif_data import prepare

        given = self.parameters["data"]
        if given:
            return self.checked(given, simulated)
        return prepare(simulated, None, self.scratch() / simulated, **options)

    def checked(self, data: str, simulated: str) -> Path:
        """Return a tensor folder that a reader named, which must hold data of the kind of ``simulated``.

        Raises:
            InputError: It holds data of another kind.
        """
        from relif_core.problems import kind_of
        from relif_data import REGISTRY

        needed, found = REGISTRY[simulated].kind, kind_of(data).name
        if found != needed:
            raise InputError(
                f"page {self.name!r}: data is {data!r}, {found} data; this page needs {needed} data"
            )
        return Path(data)

    def scratch(self) -> Path:
        """Return a new temporary folder, which goes with the process."""
        folder = Path(tempfile.mkdtemp(prefix="relif-page-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def file(self, path: str | Path) -> Path:
        """Return the path of a committed file or folder; a change of it makes the page stale.

        Args:
            path: Relative to the top of the checkout.

        Raises:
            RecordError: Nothing is there.
        """
        relative = Path(path)
        found = project_root() / relative
        if not found.exists():
            raise RecordError(
                f"page '{self.name}': {relative} is missing from the checkout; restore it from version"
                " control"
            )
        self._files[relative.as_posix()] = fingerprint(found)
        return found

    def awaits(self, path: str | Path) -> bool:
        """Tell whether a path of the checkout is there; if not, the page is stale once it is."""
        there = (project_root() / path).exists()
        if not there:
            self._files[Path(path).as_posix()] = ABSENT
        return there

    def record(self, path: str | Path) -> Path:
        """As :meth:`file`, for a record of a finished run; the footer lists it among the records used."""
        self._records[Path(path).as_posix()] = None
        return self.file(path)

    def read(self, path: str | Path) -> Any:
        """Return the content of a :meth:`record` that is one JSON file."""
        return read_json(self.record(path), "publish it again")

    def glue(self, name: str, value: float | int | str, spec: str = "") -> None:
        """Give the text ``value``, formatted by ``spec`` (as :func:`format`), as ``{glue:text}`name```.

        The formatted text is stored and compared: choose a precision that holds on another processor.
        """
        show_glued(name, {"text/plain": format(value, spec)})

    def footer(self) -> None:
        """Display where this page comes from: every page's last cell, tagged ``nbval-ignore-output``."""
        from IPython.display import display

        sources = _package_sources()
        seconds = time.perf_counter() - self._started
        rows = self._footer_rows(sources, seconds)
        cells = "".join(f"<dt>{html.escape(label)}</dt><dd>{html.escape(text)}</dd>" for label, text in rows)
        again = f"python -m papermill notebooks/{self.name}.ipynb {self.name}.ipynb {self._options()}"
        label = "Make this page again"
        display(
            {
                "text/html": (
                    f'<dl class="relif-provenance" aria-label="Provenance of this page">{cells}'
                    f"<dt>{label}</dt><dd><code>{html.escape(again)}</code></dd></dl>"
                ),
                "text/plain": "\n".join(f"{label}: {text}" for label, text in [*rows, (label, again)]),
                PROVENANCE_MIME: {
                    "page": self.name,
                    "profile": self.profile,
                    "device": device_name(self.device),
                    "seconds": round(seconds, 1),
                    "depends_on": {**sources, **dict(sorted(self._files.items()))},
                },
            },
            raw=True,
        )

    def _footer_rows(self, sources: Mapping[str, str], seconds: float) -> list[tuple[str, str]]:
        seeds = [f"{key} = {value!r}" for key, value in self.parameters.items() if "seed" in key]
        code = fingerprint_of_text("".join(sources.values()))[:12]
        libraries = [
            f"{name} {sys.modules[name].__version__}"
            for name in ("numpy", "torch", "polars")
            if name in sys.modules
        ]
        versions = ", ".join([f"Python {platform.python_version()}", *libraries])
        return [
            ("Data", "; ".join(self._data) or "none: everything is computed from the parameters"),
            ("Records used", "; ".join(self._records) or "none"),
            ("Seeds reproduce", "bit for bit on the same kind of processor, else in distribution"),
            ("Profile", self.profile),
            ("Seeds", ", ".join(seeds) or "none"),
            ("Device", device_name(self.device)),
            ("Run time", f"{seconds:.1f} s"),
            ("Code", f"relif_core {__version__}, source fingerprint {code}; {versions}"),
        ]

    def _options(self) -> str:
        return " ".join(
            f"-p {key} {shlex.quote(str(value))}"
            for key, value in self.parameters.items()
            if isinstance(value, str | int | float)
        )


def show_glued(name: str, content: Mapping[str, str]) -> None:
    """Display ``content``, by its type, as what a text shows as ``{glue}`name```."""
    from IPython.display import display

    display(
        {_GLUE_PREFIX + kind: value for kind, value in content.items()},
        metadata={"scrapbook": {"name": name, "mime_prefix": _GLUE_PREFIX}},
        raw=True,
    )


def device_name(device: str = "cpu") -> str:
    """Return the device in words: the number of usable processor cores, or the GPU's own name."""
    if device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"CPU, {cores} cores ({platform.machine()})"


def _injected_names() -> set[str]:
    """Names that papermill's injected cell assigns, read from the running kernel's input history."""
    shell = sys.modules.get("IPython")
    kernel = shell.get_ipython() if shell else None
    history = kernel.user_ns.get("In", []) if kernel else []
    return {name for cell in history if cell.startswith("# Parameters\n") for name in assigned(cell)}


def _package_sources() -> dict[str, str]:
    """Return the loaded package files and what they read beside them, by path, with fingerprints."""
    home = Path(__file__).resolve().parents[2]
    paths: set[Path] = set()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in PACKAGES and getattr(module, "__file__", None):
            path = Path(str(module.__file__)).resolve()
            beside = [*path.parent.glob("*.*"), *path.parent.glob("tables/*.*")]
            paths |= {path, *(item for item in beside if item.suffix in TABLES)}
    return {path.relative_to(home).as_posix(): fingerprint(path) for path in sorted(paths)}
