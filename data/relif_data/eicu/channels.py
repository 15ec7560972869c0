"""The seventeen channels of the benchmark tasks, and where the eICU tables hold them.

Channels, units and the values assumed before any measurement follow Harutyunyan et al., *Multitask learning
and benchmarking with clinical time series data*, Scientific Data 6:96, 2019, its spelling of the coma scale
included. Coma scales and capillary refill are one numeric column each (the score; 0 normal, 1 delayed),
because eICU charts scores and not the category texts of MIMIC-III.
"""

from dataclasses import dataclass

from relif_data.sources import own_table

STAY = "patientunitstayid"


@dataclass(frozen=True)
class Measured:
    """A channel and the closed range outside which, or between whole numbers, a value is an artefact."""

    name: str
    unit: str
    normal: float
    low: float
    high: float
    whole: bool


CHANNELS: tuple[Measured, ...] = tuple(
    Measured(name, unit, float(normal), float(low), float(high), whole == "yes")
    for name, unit, normal, low, high, whole in map(dict.values, own_table("tables/eicu_channels.csv"))
)
INDEX = {channel.name: index for index, channel in enumerate(CHANNELS)}


@dataclass(frozen=True)
class Item:
    """A column or label of a table: its channel, how its number is read, unit texts with their factors.

    ``conversion`` is number, fahrenheit, percent, pounds, score or refill. ``units`` None means that the
    table states no unit or that the quantity has none.
    """

    channel: str
    conversion: str = "number"
    units: dict[str, float] | None = None


@dataclass(frozen=True)
class EventTable:
    """A table of measurements: wide with one column per item, or long.

    Attributes:
        time: Column of minutes since admission to the unit.
        labels: Long: columns whose stripped, lower-case texts name the item.
        value: Long: the column of values; empty: wide.
        unit: Long: the column of units; empty: none.
        ignored: Texts that stand among the values and say something else, such as the limb that was judged.
    """

    name: str
    time: str
    labels: tuple[str, ...]
    value: str
    unit: str
    ignored: tuple[str, ...]
    items: dict[tuple[str, ...], Item]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        values = (*self.labels, self.value) if self.value else tuple(label for (label,) in self.items)
        return (STAY, self.time, *values, *([self.unit] if self.unit else []))

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that this table feeds, in channel order."""
        return tuple(sorted({item.channel for item in self.items.values()}, key=INDEX.__getitem__))


#: Unit texts with their factors, by the name of a set of them.
UNITS: dict[str, dict[str, float] | None] = {
    "": None,
    "percent": {"%": 1.0, "": 1.0},
    "glucose": {"mg/dl": 1.0, "": 1.0, "mmol/l": 18.0156},
}


def _items(table: str) -> dict[tuple[str, ...], Item]:
    """Return a table's items by label (and second label, or part, where the table has both)."""
    return {
        (row["label"], *([row["part"]] if row["part"] else [])): Item(
            row["channel"], row["conversion"], UNITS[row["units"]]
        )
        for row in own_table("tables/eicu_items.csv")
        if row["table"] == table
    }


# In order of trust: where two tables give a channel's value at the same minute, the later table wins.
TABLES: tuple[EventTable, ...] = tuple(
    EventTable(name, time, tuple(labels.split()), value, unit, tuple(ignored.split()), _items(name))
    for name, time, labels, value, unit, ignored in map(dict.values, own_table("tables/eicu_tables.csv"))
)

# Columns of `patient`, taken as measured on admission; they never depend on the discharge.
ADMISSION_COLUMNS = {"admissionheight": "Height", "admissionweight": "Weight"}


def rules_of_reading() -> tuple[str, ...]:
    """Return, for the manifest, how numbers are read and which are left out."""
    plain = ("mmHg", "mg/dL", "/min", "cm", "%", "degrees Celsius", "kg")
    ranges = "; ".join(
        f"{channel.name} {channel.low:g} to {channel.high:g}"
        + (f" {channel.unit}" if channel.unit in plain else "")
        for channel in CHANNELS
    )
    return (
        (
            "Temperatures of 79 and above are Fahrenheit and are converted. Inspired oxygen above 1 is a"
            " percentage. Body weights labelled lb are converted. A trailing % is dropped."
        ),
        f"Values outside these ranges are artefacts and left out: {ranges}.",
        (
            "The last value of an hour counts; at one minute the more trusted table does (in ascending"
            f" order: {', '.join(table.name for table in TABLES)}), then the greatest value."
        ),
        (
            "Blood pressure mixes invasive and non-invasive readings; oxygen saturation mixes pulse oximetry"
            " and blood gases; glucose mixes laboratory and bedside values."
        ),
    )
