"""The registry of data sources, read from ``sources.toml``."""

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

OutputPolicy = Literal["person", "aggregate"]


@dataclass(frozen=True)
class Source:
    """One data source.

    Attributes:
        name: Key of the source.
        title: Its name for readers.
        short: The same in two words.
        licence: In words.
        official_page: Where to get it; empty for simulated data.
        access: Who may.
        expected: The size of the whole source, in words.
        output_policy: "person" where per-person model output may be published, else "aggregate".
        citation: What to cite.
        kind: Of problem that its tensors are.
        guarded: Whether counts that few people make are hidden, even those of an open demo.
        simulated: Of simulated data, the options of a small set; empty for data of patients and cameras.
    """

    name: str
    title: str
    short: str
    licence: str
    official_page: str
    access: str
    expected: str
    output_policy: OutputPolicy
    citation: str
    kind: Literal["clinical", "dense"] = "clinical"
    guarded: bool = False
    simulated: Mapping[str, Any] = field(default_factory=dict)

    @property
    def synthetic(self) -> bool:
        """Whether the data are simulated."""
        return bool(self.simulated)

    @property
    def terms(self) -> dict[str, Any]:
        """What tensors made of the source state of it."""
        names = ("title", "licence", "output_policy", "synthetic")
        return {"dataset": self.name, **{name: getattr(self, name) for name in names}}

    @property
    def module(self) -> str:
        """The module whose ``prepare`` turns the source into tensors."""
        return f"relif_data.{self.name}"


def own_text(name: str) -> str:
    """Return the content of one of this package's own files, named from the package's folder."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def own_table(name: str) -> list[dict[str, str]]:
    """Return the rows of one of this package's own CSV files, named from the package's folder."""
    return list(csv.DictReader(own_text(name).splitlines()))


REGISTRY: Mapping[str, Source] = {
    name: Source(name, **entry) for name, entry in tomllib.loads(own_text("sources.toml")).items()
}
"""What may be said of a source in public, by name."""
