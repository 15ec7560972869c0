"""The seventeen channels of the benchmark tasks, and where the eICU tables hold them.

Channels, units and the values assumed before any measurement follow Harutyunyan et al., *Multitask learning
and benchmarking with clinical time series data*, Scientific Data 6:96, 2019, its spelling of the coma scale
included. Coma scales and capillary refill are one numeric column each (the score; 0 normal, 1 delayed),
because eICU charts scores and not the category texts of MIMIC-III.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, cast

from relif_core.tensors.clinical import Channel
from relif_data.sources import own_table

STAY = "patientunitstayid"
Conversion = Literal["number", "fahrenheit", "percent", "pounds", "score", "refill"]


@dataclass(frozen=True)
class Measured:
    """A channel and the closed range outside which, or between whole numbers, a value is an artefact."""

    name: str
    unit: str
    normal: float
    low: float
    high: float
    whole: bool = False

    def channel(self) -> Channel:
        """Return the channel of the tensor format, with one value column."""
        return Channel(self.name, self.unit, (self.name,), self.normal)


CHANNELS: tuple[Measured, ...] = (
    Measured("Capillary refill rate", "0 = normal, 1 = delayed", 0.0, 0, 1, whole=True),
    Measured("Diastolic blood pressure", "mmHg", 59.0, 1, 300),
    Measured("Fraction inspired oxygen", "fraction", 0.21, 0.21, 1),
    Measured("Glascow coma scale eye opening", "points 1-4", 4.0, 1, 4, whole=True),
    Measured("Glascow coma scale motor response", "points 1-6", 6.0, 1, 6, whole=True),
    Measured("Glascow coma scale total", "points 3-15", 15.0, 3, 15, whole=True),
    Measured("Glascow coma scale verbal response", "points 1-5", 5.0, 1, 5, whole=True),
    Measured("Glucose", "mg/dL", 128.0, 1, 2500),
    Measured("Heart Rate", "/min", 86.0, 1, 350),
    Measured("Height", "cm", 170.0, 50, 250),
    Measured("Mean blood pressure", "mmHg", 77.0, 1, 350),
    Measured("Oxygen saturation", "%", 98.0, 20, 100),
    Measured("Respiratory rate", "/min", 19.0, 1, 120),
    Measured("Systolic blood pressure", "mmHg", 118.0, 1, 350),
    Measured("Temperature", "degrees Celsius", 36.6, 25, 45),
    Measured("Weight", "kg", 81.0, 20, 500),
    Measured("pH", "pH", 7.4, 6.3, 8.5),
)
INDEX = {channel.name: index for index, channel in enumerate(CHANNELS)}


@dataclass(frozen=True)
class Item:
    """A column or label of a table: its channel, how its number is read, unit texts with their factors.

    ``units`` None means that the table states no unit or that the quantity has none.
    """

    channel: str
    conversion: Conversion = "number"
    units: dict[str, float] | None = None


@dataclass(frozen=True)
class EventTable:
    """A table of measurements: wide with one column per item, or long.

    Attributes:
        time: Column of minutes since admission to the unit.
        labels: Long: columns whose stripped, lower-case texts name the item.
        value: Long: the column of values; None: wide.
    """

    name: str
    time: str
    items: dict[tuple[str, ...], Item]
    labels: tuple[str, ...] = ()
    value: str | None = None
    unit: str | None = None
    ignored: frozenset[str] = field(default_factory=frozenset)

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
_ITEMS = own_table("tables/eicu_items.csv")


def _table(name: str, time: str, **columns: Any) -> EventTable:
    """Return a table with its items, by label (and second label, or part, where the table has both)."""
    items = {
        (row["label"], *([row["part"]] if row["part"] else [])): Item(
            row["channel"], cast(Conversion, row["conversion"]), UNITS[row["units"]]
        )
        for row in _ITEMS
        if row["table"] == name
    }
    return EventTable(name, time, items, **columns)


# In order of trust: where two tables give a channel's value at the same minute, the later table wins.
TABLES: tuple[EventTable, ...] = (
    _table("vitalPeriodic", "observationoffset"),
    _table("vitalAperiodic", "observationoffset"),
    _table("physicalExam", "physicalexamoffset", labels=("physicalexampath",), value="physicalexamvalue"),
    _table("intakeOutput", "intakeoutputoffset", labels=("celllabel",), value="cellvaluenumeric"),
    _table(
        "nurseAssessment",
        "nurseassessoffset",
        labels=("celllabel", "cellattribute"),
        value="cellattributevalue",
        # The same cell also says on which limb the refill was judged.
        ignored=frozenset({"hands", "feet"}),
    ),
    _table("respiratoryCharting", "respchartoffset", labels=("respchartvaluelabel",), value="respchartvalue"),
    _table("lab", "labresultoffset", labels=("labname",), value="labresult", unit="labmeasurenamesystem"),
    _table(
        "nurseCharting",
        "nursingchartoffset",
        labels=("nursingchartcelltypevallabel", "nursingchartcelltypevalname"),
        value="nursingchartvalue",
    ),
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
