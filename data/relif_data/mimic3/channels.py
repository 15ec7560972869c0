"""The 17 channels, the source items that feed them and the 25 phenotypes, as packaged tables."""

import functools
import json
from dataclasses import dataclass
from typing import Any

import polars as pl

from relif_core.tensors.clinical import Channel
from relif_data.sources import own_table, own_text

FIO2_SET_ITEM = 190
"""Carevue's "FiO2 Set", which the benchmark's map leaves out."""


@dataclass(frozen=True)
class ChannelInfo:
    """A channel: unit, category texts with scores (none for a number), normal value, unit texts, limits."""

    name: str
    unit: str
    categories: tuple[str, ...]
    scores: tuple[int, ...]
    normal: float | str
    known_units: tuple[str, ...] | None
    limits: tuple[float, float] | None

    @property
    def codes(self) -> range:
        """The positions of the categories."""
        return range(len(self.categories))

    @property
    def normal_number(self) -> float:
        """The normal value as a number; for a categorical channel the position of its category."""
        return float(self.categories.index(str(self.normal)) if self.categories else self.normal)


@functools.cache
def channels() -> tuple[ChannelInfo, ...]:
    """Return the 17 channels in tensor order."""

    def frozen(cell: Any) -> Any:
        return tuple(cell) if isinstance(cell, list) else cell

    found = json.loads(own_text("mimic3/tables/channels.json"))
    return tuple(ChannelInfo(**{key: frozen(cell) for key, cell in item.items()}) for item in found)


def channel_codes(*names: str) -> tuple[int, ...]:
    """Return the positions of channels by name."""
    order = [channel.name for channel in channels()]
    return tuple(order.index(name) for name in names)


@functools.cache
def items() -> pl.DataFrame:
    """Return ``itemid``, ``channel`` (position), lower-case ``label``, ``body_fluid`` (no blood specimen)."""
    order = {channel.name: position for position, channel in enumerate(channels())}
    rows = own_table("mimic3/tables/items.csv")
    rows.append({"itemid": str(FIO2_SET_ITEM), "channel": "Fraction inspired oxygen", "label": "FiO2 Set"})
    return pl.DataFrame(
        {
            "itemid": [int(row["itemid"]) for row in rows],
            "channel": [order[row["channel"]] for row in rows],
            "label": [row["label"].lower() for row in rows],
            "body_fluid": [row.get("fluid") not in (None, "", "Blood") for row in rows],
        },
        schema={"itemid": pl.Int32, "channel": pl.UInt8, "label": pl.String, "body_fluid": pl.Boolean},
    )


@functools.cache
def phenotypes() -> tuple[tuple[str, ...], pl.DataFrame]:
    """Return the 25 phenotypes in published order and the frame ``icd9_code``, ``phenotype`` (position)."""
    rows = own_table("mimic3/tables/phenotypes.csv")
    pairs = [(code, position) for position, row in enumerate(rows) for code in row["icd9_codes"].split(";")]
    codes = pl.DataFrame(pairs, schema={"icd9_code": pl.String, "phenotype": pl.Int32}, orient="row")
    return tuple(row["name"] for row in rows), codes


def tensor_channels() -> tuple[Channel, ...]:
    """Return the channels as the tensor schema names them: categories become one column each."""
    return tuple(
        Channel(
            channel.name,
            channel.unit,
            tuple(f"{channel.name}->{category}" for category in channel.categories) or (channel.name,),
            channel.normal,
        )
        for channel in channels()
    )
