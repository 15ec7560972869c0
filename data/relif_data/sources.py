"""The registry of data sources, read from ``sources.toml``."""

import csv
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

OutputPolicy = Literal["person", "aggregate"]


@dataclass(frozen=True)
class Source:
    """One data source.

    Attributes:
        name: Key of the source.
        title: Its name for readers.
        licence: In words.
        official_page: Where to get it; empty for simulated data.
        access: Who may.
        expected: The size of the whole source, in words.
        output_policy: "person" where per-person model output may be published, else "aggregate".
        citation: What to cite.
        synthetic: Whether the data are simulated.
    """

    name: str
    title: str
    licence: str
    official_page: str
    access: str
    expected: str
    output_policy: OutputPolicy
    citation: str
    synthetic: bool = False

    @property
    def module(self) -> str:
        """The module whose ``prepare`` turns the source into tensors."""
        return f"relif_data.{self.name}"


def own_table(name: str) -> list[dict[str, str]]:
    """Return the rows of one of this package's own CSV files, named from the package's folder."""
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


REGISTRY: Mapping[str, Source] = {
    name: Source(name, **entry)
    for name, entry in tomllib.loads(
        (Path(__file__).parent / "sources.toml").read_text(encoding="utf-8")
    ).items()
}
"""What may be said of a source in public, by name."""
